# One image for every service of docker-compose.yml: the command line `lorascope`, and `mlflow`, which comes with it.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

# Passed to pip, for an index of your own or a CPU build of torch.
ARG PIP_ARGS=
ENV PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true

WORKDIR /opt/lorascope

# What we depend on changes seldom and weighs gigabytes: a layer of its own, kept until pyproject.toml changes.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore ${PIP_ARGS} --requirement requirements.txt

COPY README.md LICENSE ./
COPY study study
COPY trackers trackers
COPY dashboards dashboards
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore ${PIP_ARGS} --no-deps .
COPY studies studies

# A volume mounted over one of these folders starts with its owner.
RUN useradd --uid 10001 --create-home lorascope && install -d -o lorascope -g lorascope /var/lib/lorascope /var/lib/mlflow
USER lorascope
ENV LORASCOPE_HOME=/var/lib/lorascope
VOLUME /var/lib/lorascope

ENTRYPOINT ["lorascope"]
CMD ["--help"]
