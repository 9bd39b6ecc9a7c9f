"""The command line, and the composition root: the one place where study, trackers and dashboards meet.

Heavy packages are imported inside the functions, so that `lorascope --help` answers at once.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from study.errors import BadInput, instead

if TYPE_CHECKING:
    from dashboards.report import Format
    from study.analysis.finding import Estimate, Finding
    from study.controller import Controller, Lease
    from study.foreign.source import Source
    from study.home import Home
    from study.ledger import Ledger, StudyRow
    from study.spec import StudySpec
    from study.trial import Trial
    from trackers.mirror import Mirror

REMOTE_DRAIN_SECONDS = 60.0  # what a launch waits for a remote mirror; a local one gets all the time it needs
STOP_DRAIN_SECONDS = 10.0  # what Ctrl-C waits for either

ALL_FORMATS = "html,md,csv"
DIRECTIONS: Mapping[bool, Literal["maximize", "minimize"]] = {True: "maximize", False: "minimize"}

WIDTH = 110  # columns of a table that is not printed to a terminal

app = typer.Typer(
    help="Which hyperparameters matter, how much, for which LoRA variant, and how sure are we?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # in its own markup the square brackets around a default would be left out
    context_settings={"help_option_names": ["-h", "--help"]},
)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Databases, cache and reports [LORASCOPE_HOME, else ./.lorascope]."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="URL", help="Ledger: SQLAlchemy URL or @FILE [LORASCOPE_STORAGE, else in the home]."
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="MLflow: URI or @FILE [LORASCOPE_TRACKING_URI, else in the home]."
    ),
]
WorkersOption = Annotated[int | None, typer.Option("--workers", metavar="N", help="Worker processes [one per core].")]
PackOption = Annotated[int | None, typer.Option("--pack-size", metavar="K", help="Trials trained as one batch.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", metavar="TYPE", help="fp32, bf16 or fp64 [bf16 where the processor multiplies it natively]."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="html,md,csv", help="What is written; findings.json always is.")
]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study in the home.")]
SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file that describes a study.")]


@app.command()
def launch(
    spec: SpecArgument,
    home: HomeOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    workers: WorkersOption = None,
    pack_size: PackOption = None,
    dtype: DtypeOption = None,
    as_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Run it as a study of another name.")
    ] = None,
) -> None:
    """Run a study, or every one that the file describes: train what has no result yet, rank the knobs, report."""
    from study import spec as specs

    described = specs.load(spec)
    if as_name is not None and len(described) > 1:
        raise BadInput("--as", f"{spec} describes {len(described)} studies", "a file that describes one")
    asked = [
        specs.overridden(each, str(spec), name=as_name, workers=workers, pack_size=pack_size, dtype=dtype)
        for each in described
    ]
    for each in asked:
        _run(each, str(spec), _home(home), storage, tracking_uri)


@app.command()
def resume(
    study: StudyArgument,
    home: HomeOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    workers: WorkersOption = None,
    pack_size: PackOption = None,
) -> None:
    """Go on with a study that was stopped or cut off; what has a result is not trained again."""
    from study import spec as specs

    place = _home(home)
    known = specs.parse(_row(_ledger(place, storage), study).spec, f"study {study}")
    asked = specs.overridden(known, f"study {study}", name=None, workers=workers, pack_size=pack_size, dtype=None)
    _run(asked, f"study {study}", place, storage, tracking_uri)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="One study [all of them].")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """How far the studies of a home are, by task, variant and phase."""
    from study import table

    ledger = _ledger(_home(home), storage)
    found = [table.progress(ledger, row) for row in ([_row(ledger, study)] if study else ledger.studies())]
    if as_json:
        _print_json(found[0] if study else found)
        return
    if not found:
        _say("no studies yet; `lorascope launch SPEC` begins one")
        return
    _print_table("studies", found, ("study", "state", *table.COUNTS))
    if study:
        _print_table(study, found[0]["cells"], ("task", "variant", "phase", *table.COUNTS))


@app.command()
def trials(
    study: StudyArgument,
    form: Annotated[Literal["csv", "json", "parquet"], typer.Option("--format", help="How rows are written.")] = "csv",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to [stdout]; parquet needs a file.")
    ] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """Export a study's accepted results, a row each."""
    from study import table

    ledger = _ledger(_home(home), storage)
    _row(ledger, study)
    rows = table.trials(ledger, study)
    if form == "parquet":
        if out is None:
            raise BadInput("--out", "is missing", "parquet is written to a file")
        _write(out, lambda: rows.to_parquet(out, index=False))
        return
    text = rows.to_csv(index=False) if form == "csv" else rows.to_json(orient="records", indent=1) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        _write(out, lambda: out.write_text(text))


@app.command()
def report(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write [reports/STUDY in the home].")
    ] = None,
    formats: FormatOption = ALL_FORMATS,
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """Analyze a study's results so far and write its report."""
    place = _home(home)
    asked, ledger = _formats(formats), _ledger(place, storage)
    _report(ledger, _row(ledger, study), out or place.report(study), place, asked)


@app.command()
def curvature(study: StudyArgument, home: HomeOption = None, storage: StorageOption = None) -> None:
    """Measure how sharply the loss bends at each variant's start, and write the report again with it."""
    import pandas

    from study import curvature as measured
    from study import spec as specs

    place = _home(home)
    ledger = _ledger(place, storage)
    row = _row(ledger, study)
    rows = pandas.DataFrame(measured.measure(specs.parse(row.spec, f"study {study}"), place.cache))
    file = place.curvature(study)
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, lambda: rows.to_json(file, orient="records"))
    tops = rows.groupby(["task", "variant"], sort=False)["top"].agg(["median", "min", "max"]).reset_index()
    shown = [{"layers": len(rows["site"].unique()), **line} for line in tops.to_dict("records")]
    table = [{name: f"{v:.3g}" if isinstance(v, float) else v for name, v in line.items()} for line in shown]
    _print_table("largest Hessian eigenvalue", table, ("task", "variant", "layers", "median", "min", "max"))
    _report(ledger, row, place.report(study), place)


@app.command()
def analyze(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="CSV, parquet, JSON or JSONL; optuna:URL#STUDY; an Optuna storage or MLflow URI."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")],
    knobs: Annotated[
        str | None,
        typer.Option(
            "--knobs",
            metavar="NAMES",
            help="NAME or NAME:KIND, with commas; KIND is linear, log or categorical [an Optuna study's own].",
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", metavar="COLUMN", help="How good a trial is [an Optuna study's own].")
    ] = None,
    maximize: Annotated[
        bool | None, typer.Option("--maximize/--minimize", help="Which scores are good [as an Optuna study says].")
    ] = None,
    group: Annotated[
        str, typer.Option("--group", metavar="COLUMN,...", help="What tells variants apart [all trials are one].")
    ] = "",
    seed_column: Annotated[
        str | None, typer.Option("--seed-column", metavar="COLUMN", help="What tells repeats apart [seed, if there].")
    ] = None,
    loss0: Annotated[
        float | None, typer.Option("--loss0", metavar="X", help="Score of the untouched model; no run counts as worse.")
    ] = None,
    focus: Annotated[
        str | None,
        typer.Option("--focus", metavar="KNOB", help="The knob to draw [learning_rate, else the first log]."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", metavar="X", help="Scores closer than this count as the same.")
    ] = None,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="TABLE is an Optuna storage.")] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="TABLE is an MLflow tracking URI.")
    ] = None,
    formats: FormatOption = ALL_FORMATS,
) -> None:
    """Analyze anybody's trials: the same findings and the same report, from a table, Optuna or MLflow."""
    from dashboards.foreign import compose
    from dashboards.report import write
    from study.foreign.source import Request
    from study.foreign.trials import prepared

    asked, direction = _formats(formats), None if maximize is None else DIRECTIONS[maximize]
    groups = tuple(name.strip() for name in group.split(",") if name.strip())
    request = Request(knobs, score, direction, groups, seed_column, loss0, focus, margin)
    found = prepared(_source(table, study, experiment), request)
    for note in found.notes:
        _say(f"note: {note}")
    composed = compose(found, table, [shlex.join(["lorascope", *sys.argv[1:]])])
    _write(out, lambda: write(composed, out, asked))
    _print_ranking(composed.findings)
    _say(f"report: {out}")


@app.command()
def export(
    study: StudyArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write, new or empty.")],
    trial: Annotated[str | None, typer.Option("--trial", metavar="KEY", help="The trial of this key.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="And of this seed.")] = None,
    best: Annotated[
        str | None, typer.Option("--best", metavar="VARIANT", help="Instead: the best of a variant's selected setting.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="On this task [the only one].")] = None,
    form: Annotated[
        Literal["peft", "merged"], typer.Option("--format", help="An adapter for HF peft, or a whole model in float32.")
    ] = "peft",
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """Write a kept adapter, head included, for HF peft, or merged into its model for HF transformers."""
    from study.interchange import choice
    from study.interchange.export import export as written

    place = _home(home)
    ledger = _ledger(place, storage)
    row = _row(ledger, study)
    if (trial is None) == (best is None):
        raise BadInput("--trial", "either this or --best", "one trial, or the best of a variant")
    found = choice.exact(ledger, study, trial, seed) if trial else choice.best(ledger, row, str(best), task)
    written(choice.kept(place, found), form, place.cache, out)
    _say(f"{found.variant} on {found.task}, trial {found.key}, seed {found.seed}: {out}")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A peft folder that `export` wrote.")],
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """Keep an exported adapter in this home: the inverse of `export --format peft`."""
    from study import adapters
    from study.interchange.folder import read

    place, one = _home(home), read(folder)
    if adapters.load(place.adapters, one.key, one.seed) is None:
        adapters.save(place.adapters, one)
    _say(f"kept: {one.method.name}, trial {one.key}, seed {one.seed}")


@app.command()
def validate(spec: SpecArgument, home: HomeOption = None, storage: StorageOption = None) -> None:
    """Check a spec, its models and its data, and print the studies it stands for: cells, trials, packs, time."""
    from study import spec as specs

    for described in specs.load(spec):
        _estimate(described, str(spec), _home(home), storage)


def _estimate(described: "StudySpec", where: str, place: "Home", storage: str | None) -> None:
    """Print one study with every default in it, and what it will cost."""
    from study import session
    from study import spec as specs
    from study.planner import shown

    ledger = _ledger(place, storage)
    asked = session.admit(ledger, described, where)
    prepared = session.prepared(asked, place.cache, where)
    models = session.check_ranks(asked, prepared, where)
    cells = session.estimate(asked, ledger.study(asked.name), models, prepared)
    sys.stdout.write(specs.dump(specs.resolved(asked)))
    rows = [vars(cell) | {"memory": shown(cell.memory), "minutes": f"{cell.seconds / 60:.1f}"} for cell in cells]
    _print_table("cells", rows, ("task", "variant", "settings", "trials", "packs", "pack", "memory", "minutes"))
    minutes = (sum(cell.seconds for cell in cells) + session.START_SECONDS) / 60
    _say(f"{len(cells)} cells, {sum(c.trials for c in cells)} trials, {sum(c.packs for c in cells)} packs;")
    where = f"{session.workers(asked)} workers on {asked.compute.device} in {asked.compute.dtype}"
    _say(f"about {minutes:.0f} min with {where}, if no result exists yet")


@app.command()
def variants(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One variant [all].")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """The LoRA variants that can be studied, by what they change, wherever the home is."""
    from study.variants import VARIANTS, taxonomy, variant

    chosen = [variant(name)] if name else list(VARIANTS.values())
    if as_json:
        _print_json([taxonomy.entry(one)._asdict() for one in chosen])
        return
    for axis, rows in taxonomy.by_axis(chosen).items():
        _print_table(axis, [row.shown() for row in rows], taxonomy.COLUMNS)
    typer.echo(f"every variant also has {', '.join(taxonomy.EVERY)}")


@app.command()
def tasks(as_json: JsonOption = False, home: HomeOption = None, storage: StorageOption = None) -> None:
    """The tasks that come with lorascope, wherever the home is."""
    from study.tasks import TASKS

    shown = ("name", "family", "metric", "direction", "model", "data", "licence", "origin", "summary")
    rows = [{name: vars(task)[name] for name in shown} for task in TASKS.values()]
    if as_json:
        _print_json(rows)
    else:
        _print_table("tasks", rows, ("name", "family", "metric", "model", "data", "summary"))


@app.command()
def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on this machine.")] = 5000,
    home: HomeOption = None,
    storage: StorageOption = None,
) -> None:
    """Browse the home's runs: starts an MLflow server on them and prints its address."""
    place = _home(home)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise BadInput("--port", f"{port} is taken", "a free one")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", place.tracking, "--artifacts-destination", str(place.artifacts)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    _say(f"in a few seconds: http://127.0.0.1:{port} (choose 'Model training' at its top left; Ctrl-C ends it)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(command, env=os.environ | quiet) as server:
        try:
            raise typer.Exit(1 if server.wait() else 0)
        except KeyboardInterrupt:
            server.terminate()


def main() -> None:
    """The `lorascope` command. Exit codes: 0 done, 1 failed, 2 bad input."""
    try:
        app()
    except BadInput as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


# How a study runs


def _run(asked: "StudySpec", where: str, home: "Home", storage: str | None, tracking_uri: str | None) -> None:
    """Train what is missing, drain the mirror, rank and report. Raises typer.Exit(1) where something failed."""
    from study import session
    from study import spec as specs
    from study.controller import Controller, Lease
    from study.engines.local import Local
    from study.hardware import provenance
    from study.ledger import Superseded
    from study.progress import Progress
    from study.worker import Setup

    ledger = _ledger(home, storage)
    asked = session.admit(ledger, asked, where)
    uri = _tracking(tracking_uri, ledger.study(asked.name), home)
    prepared = session.prepared(asked, home.cache, where)
    plans = session.plans(asked, session.check_ranks(asked, prepared, where), prepared)
    ledger.create_study(asked.name, specs.resolved(asked), [])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops as cleanly as Ctrl-C
    progress = Progress(asked.tasks)
    with Lease(ledger, asked.name, _waiting) as lease, _mirroring(ledger, lease, uri, home) as mirror:
        kept = None if asked.keep == "none" else home.adapters
        setup = Setup(ledger.url, home.cache, mirror.writer, provenance(), kept)
        try:
            with Local(setup, session.workers(asked)) as engine, progress:
                told = (mirror.tracker, mirror.place, progress)
                dropped = home.adapters if asked.keep == "best" else None
                controller = Controller(asked, ledger, lease, engine, *told, prepared, plans, dropped)
                controller.run()
            _drain(mirror, controller)
        except KeyboardInterrupt:
            mirror.drain(STOP_DRAIN_SECONDS)
            _say(f"stopped; go on with: lorascope resume {asked.name}{_where(home, storage)}")
            raise typer.Exit(1) from None
        except Superseded as error:
            _say(str(error))
            raise typer.Exit(1) from None
        lease.state = "failed" if ledger.failed(asked.name) else "done"
    if not progress.trained_in_all:
        _say("0 training steps: every trial of this study has a result")
    folder = home.report(asked.name)
    _report(ledger, _row(ledger, asked.name), folder, home, runs=mirror.runs_page())
    refused = mirror.keep_report(folder)
    if refused:
        _say(f"the report is not in {mirror.place}: {refused}")
    _require_all(ledger, asked.name)


@contextmanager
def _mirroring(ledger: "Ledger", lease: "Lease", uri: str, home: "Home") -> Iterator["Mirror"]:
    """The study's mirror; its runs end KILLED where the study does not come to its end."""
    from study.ledger import Superseded
    from study.trial import digest
    from trackers.mirror import Mirror

    def held(trial: "Trial", run_id: str) -> None:
        with suppress(Superseded), ledger.controlling(lease.name, lease.epoch) as writer:
            writer.mirrored(trial, mirror.place, run_id)

    spool = home.spool(lease.name) / digest({"uri": uri})[:8]
    mirror = Mirror(uri, spool, lease.name, _row(ledger, lease.name).created, held)
    try:
        yield mirror
    finally:
        if not lease.lost:  # else the runs are another controller's to end
            mirror.close("stopped" if lease.state == "stopped" else "finished")


def _drain(mirror: "Mirror", controller: "Controller") -> None:
    """Wait for the upload, then send what a killed worker could not; name the backlog of a mirror that is behind."""
    patience = REMOTE_DRAIN_SECONDS if mirror.remote else None
    left = mirror.drain(patience)
    if not left:
        controller.mirror()
        left = mirror.drain(patience)
    if left:
        study = controller.spec.name
        _say(f"{left} calls still wait for {mirror.place} ({mirror.last_error}); `lorascope resume {study}` sends them")


def _require_all(ledger: "Ledger", study: str) -> None:
    """Raises typer.Exit(1) where a trial failed."""
    failed = ledger.failed(study)
    if failed:
        (key, seed), reason = next(iter(failed.items()))
        _say(f"{len(failed)} trials failed, the first (key {key}, seed {seed}): {reason}")
        raise typer.Exit(1)


def _report(
    ledger: "Ledger",
    row: "StudyRow",
    folder: Path,
    home: "Home",
    formats: "Sequence[Format] | None" = None,
    runs: str = "",
) -> None:
    """Analyze a study, write its report in the formats given or in all, print its ranking."""
    import pandas

    from dashboards.compose import compose
    from dashboards.report import FORMATS, write

    file = home.curvature(row.name)
    composed = compose(ledger, row, pandas.read_json(file, orient="records") if file.exists() else None, runs)
    _write(folder, lambda: write(composed, folder, formats or FORMATS))
    _print_ranking(composed.findings)
    _say(f"report: {folder / 'report.html' if 'html' in (formats or FORMATS) else folder}")


def _print_ranking(findings: "Sequence[Finding]") -> None:
    """Which knob matters how much, or why that cannot be said."""
    from study.analysis import POOLED, ranking

    ranks = [
        {
            "task": rank.task,
            "knob": rank.knob,
            "share of variance": _interval(rank.first),
            "with combinations": _interval(rank.total) if rank.total else "",
            "noise floor": f"{rank.floor:.2f}",
            "of an SD of": f"{rank.deviation:.3g}",
        }
        for rank in ranking(findings)
    ]
    if ranks:
        columns = [name for name in ranks[0] if any(rank[name] for rank in ranks)]
        _print_table("ranking, all variants pooled", ranks, columns)
    told = ("response", "sensitivity") if ranks else ("variance", "response", "sensitivity")
    for finding in findings:
        if finding.subject == POOLED and finding.question in told:
            typer.echo(finding.sentence)


def _interval(estimate: "Estimate") -> str:
    low, high = estimate.low, estimate.high
    return f"{estimate.value:.2f}" if low is None or high is None else f"{estimate.value:.2f} ({low:.2f} to {high:.2f})"


def _waiting(holder: str, seconds: float) -> None:
    _say(f"waiting for the lease of {holder}: it runs out in {max(seconds, 0):.0f} s")


# What options stand for


def _formats(asked: str) -> "Sequence[Format]":
    """`html,csv` as a list."""
    from dashboards.report import FORMATS

    named = [name.strip() for name in asked.split(",") if name.strip()]
    wrong = next((name for name in named if name not in FORMATS), None)
    if wrong or not named:
        raise BadInput("--format", repr(wrong or asked), f"some of {', '.join(FORMATS)}, with commas between")
    return [form for form in FORMATS if form in named]


def _source(table: str, study: str | None, experiment: str | None) -> "Source":
    """Whose trials are analyzed, from a file, an Optuna storage or an MLflow store."""
    from study.redact import secret

    if study and experiment:
        raise BadInput("--study", "not both this and --experiment", "Optuna has studies, MLflow has experiments")
    if experiment:
        from trackers import runs

        return runs.trials(secret(table), experiment)
    if not study and not table.startswith("optuna:"):
        from trackers import tables

        return tables.trials(Path(table))
    from trackers import optuna

    storage, _, name = table.removeprefix("optuna:").partition("#")
    if not (study or name):
        raise BadInput("--study", "is missing", "optuna:URL#STUDY, or --study NAME")
    return optuna.trials(secret(storage), study or name)


def _home(given: Path | None) -> "Home":
    from study.home import home

    return home(given)


def _ledger(home: "Home", storage: str | None) -> "Ledger":
    from study.ledger import Ledger
    from study.redact import secret

    url = storage or os.environ.get("LORASCOPE_STORAGE")
    return Ledger(secret(url) if url else home.storage, migrate=True)


def _tracking(given: str | None, row: "StudyRow | None", home: "Home") -> str:
    """Where to mirror: as asked, else where the study was mirrored before, else the home's own store."""
    from study.redact import redact, secret

    asked = given or os.environ.get("LORASCOPE_TRACKING_URI")
    uri = secret(asked) if asked else (row.place if row and row.place else home.tracking)
    if "***" in uri:
        raise BadInput("--tracking-uri", "is missing", f"this study is mirrored to {uri}, whose password is not kept")
    if not uri.startswith(("http://", "https://", "sqlite:///", "postgresql")):
        raise BadInput("--tracking-uri", repr(redact(uri)), "http://..., https://..., sqlite:///..., postgresql://...")
    return uri


def _row(ledger: "Ledger", study: str) -> "StudyRow":
    row = ledger.study(study)
    if row is None:
        known = [row.name for row in ledger.studies()]
        raise BadInput(f"study {study}", "does not exist in this home", instead(study, known))
    return row


def _where(home: "Home", storage: str | None) -> str:
    """The options that find this home and ledger again."""
    here = "" if home.path == Path(".lorascope").absolute() else f" --home {home.path}"
    return here + (f" --storage {storage}" if storage and storage.startswith("@") else "")


# Output


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        number = all(isinstance(row[column], int | float) for row in rows)
        name = column == columns[0]  # a name is copied from here: it stays whole
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=name)
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _write(path: Path, write: Callable[[], object]) -> None:
    """Write to a path the user gave. Raises BadInput where that cannot be."""
    try:
        write()
    except OSError as error:
        raise BadInput(
            str(path), f"cannot be written: {error.strerror or error}", "a path of yours with room"
        ) from None
