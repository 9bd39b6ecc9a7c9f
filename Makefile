# Everything there is to do here; `make` lists it. Nothing needs root: what is installed goes to .venv.
# Variables: PIP_ARGS goes to `pip install` (an index, --upgrade), PYTHON is tried before the usual names,
# SPEC is what `make study` launches, NAME what `make new-variant` begins, JOBS is how many test processes run at once.
SPEC ?= studies/quickstart.yaml
JOBS ?= 2
PIP_ARGS ?=
PYTHON ?=

# One thread a process: two that share two cores with OpenMP are slower than one each.
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) --dist loadgroup

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help study test test-all lint bench bench-full calibrate docs new-variant ui

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

study: .venv/installed ## launch studies/quickstart.yaml: a real study with its report (about 10 minutes on 2 cores)
	.venv/bin/lorascope launch $(SPEC)

test: .venv/installed-test ## run the test suite (under 8 minutes on 2 cores)
	$(PYTEST)

test-all: .venv/installed-test ## run the slow tests too
	$(PYTEST) -m ""

lint: .venv/installed-lint ## check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/installed-test ## measure lorascope beside Optuna with HF peft (about 40 minutes on 2 idle cores)
	.venv/bin/python -m benchmarks

bench-full: .venv/installed-test calibrate ## the same with every cell, and calibrate (hours)
	.venv/bin/python -m benchmarks --full

calibrate: .venv/installed-test ## count how often 95 % intervals hold the truth, for docs/calibration.md (about 20 minutes on 2 cores)
	.venv/bin/python -m benchmarks.calibrate --jobs $(JOBS) --markdown docs/calibration.md

docs: .venv/installed ## write docs/variants.md from the registry
	.venv/bin/python -m study.variants.page > docs/variants.md

new-variant: .venv/installed ## start study/variants/NAME.py, LoRA with one function to change, and register it
	.venv/bin/python -m study.variants.new $(NAME)

ui: .venv/installed ## browse the runs in MLflow
	.venv/bin/lorascope ui

# A stamp per set of packages, so that a second call installs nothing and a changed pyproject.toml installs again.
.venv/installed: EXTRA =
.venv/installed-test: EXTRA = [test]
.venv/installed-lint: EXTRA = [lint]
.venv/installed .venv/installed-test .venv/installed-lint: pyproject.toml | .venv/bin/python
	@echo "installing lorascope$(EXTRA) into .venv: 2 minutes where torch is the CPU build (0.2 GB), longer where it is the CUDA build (3 GB)"
	@start=$$(date +%s) && \
	.venv/bin/python -m pip install --quiet --progress-bar off --disable-pip-version-check $(PIP_ARGS) --editable '.$(EXTRA)' && \
	echo "installed in $$(($$(date +%s) - start)) s" && touch $@

.venv/bin/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null || continue; \
	  echo "creating .venv with $$($$python --version)"; exec $$python -m venv .venv; \
	done; \
	echo "no Python >= 3.11.4 with venv and ensurepip found (on Debian: apt-get install python3-venv); PYTHON=... names one" >&2; exit 1
