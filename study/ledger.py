"""The ledger: where results live, each exactly once. The only file that knows SQLAlchemy and Alembic.

A result belongs to the whole ledger and is unique per (key, seed); a study owns memberships, so two studies share a
result and each lists it. Workers only accept results (the first wins); everything else is written by the study's
controller, whose writes carry the epoch of its lease and are refused once a newer one exists.
"""

import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Boolean, Column, Float, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from study.errors import BadInput
from study.redact import redact
from study.trial import Curves, Result, Trial

LEASE_SECONDS = 15.0
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x10A5C09E  # any number that nobody else locks in the same database

metadata = MetaData()

studies = Table(
    "studies",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("spec", Text, nullable=False),  # resolved, as JSON
    Column("columns", Text, nullable=False),  # which knob owns which column of the design, as JSON
    Column("state", String(20), nullable=False),  # running | stopped | done | failed
    Column("created", Float, nullable=False),  # seconds since 1970, by the database's clock
    Column("finished", Float),
    Column("wall_seconds", Float, nullable=False, default=0.0),  # of all launches together
    Column("epoch", Integer, nullable=False, default=0),
    Column("place", String(500), nullable=False, default=""),  # where it is mirrored, password redacted
    Column("holder", Text, nullable=False, default=""),
    Column("expires", Float, nullable=False, default=0.0),
)
settings = Table(
    "settings",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("document", Text, nullable=False),  # all that determines the number but the seed, as JSON
)
results = Table(
    "results",
    metadata,
    Column("key", String(32), sa.ForeignKey("settings.key"), primary_key=True),
    Column("seed", Integer, primary_key=True),
    Column("state", String(20), nullable=False),
    Column("val_loss", Float, nullable=False),
    Column("val_score", Float, nullable=False),
    Column("test_score", Float),
    Column("loss0", Float, nullable=False),
    Column("score0", Float, nullable=False),
    Column("diverged", Boolean, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("cpu_seconds", Float, nullable=False),
    Column("wall_seconds", Float, nullable=False),
    Column("peak_memory", sa.BigInteger, nullable=False),
    Column("trainable", Integer, nullable=False),
    Column("curves", Text, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("accepted", Float, nullable=False),
    Column("test_correct", sa.LargeBinary),
)
memberships = Table(
    "memberships",
    metadata,
    Column("study", String(200), sa.ForeignKey("studies.name"), primary_key=True),
    Column("phase", String(20), primary_key=True),
    Column("key", String(32), sa.ForeignKey("settings.key"), primary_key=True),
    Column("seed", Integer, primary_key=True),
    Column("position", Integer, nullable=False),  # the order in which the study asked for them
    Column("task", String(200), nullable=False),
    Column("variant", String(200), nullable=False),
    Column("knobs", Text, nullable=False),  # every knob's value, as JSON
)
failures = Table(
    "failures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", String(200), nullable=False),
    Column("key", String(32), nullable=False),
    Column("seed", Integer, nullable=False),
    Column("reason", Text, nullable=False),
)
starts = Table(
    "starts",
    metadata,
    Column("task", String(32), primary_key=True),  # digest of the task's part of a key
    Column("seed", Integer, primary_key=True),
    Column("loss0", Float, nullable=False),
    Column("score0", Float, nullable=False),
)
mirrors = Table(
    "mirrors",
    metadata,
    Column("study", String(200), primary_key=True),
    Column("key", String(32), primary_key=True),
    Column("seed", Integer, primary_key=True),
    Column("place", String(500), primary_key=True),  # the tracker's address, password redacted
    Column("run_id", String(100), nullable=False),
)


class Superseded(Exception):
    """Another controller has taken this study over; nothing was written."""


@dataclass(frozen=True)
class StudyRow:
    """A study as the ledger has it."""

    name: str
    spec: dict[str, Any]
    columns: list[str]
    state: str
    created: float
    finished: float | None
    wall_seconds: float
    epoch: int
    place: str
    holder: str
    expires: float


class Ledger:
    """One database. Safe to open in many processes; only a controller migrates it."""

    def __init__(self, url: str, migrate: bool = False) -> None:
        """Raises BadInput where the database cannot be opened."""
        self.url = url
        try:
            self.engine = sa.create_engine(url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                sa.event.listen(self.engine, "connect", _configure_sqlite)
            if migrate:
                _migrate(self.engine)
            with self.engine.connect():
                pass
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            shown = redact(url) if "://" in url else "it"  # without a scheme nobody can tell where its password stands
            problem = f"cannot open {shown}: {redact(str(error).splitlines()[0])}"
            raise BadInput("storage", problem, "an SQLAlchemy URL of SQLite or PostgreSQL") from None

    # Studies and their lease

    def study(self, name: str) -> StudyRow | None:
        """The study of that name, None where there is none."""
        return next(iter(self.studies(name)), None)

    def studies(self, name: str | None = None) -> list[StudyRow]:
        """All studies, oldest first, or those called `name`."""
        query = sa.select(studies).order_by(studies.c.created)
        if name is not None:
            query = query.where(studies.c.name == name)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            StudyRow(**(dict(row) | {"spec": json.loads(row["spec"]), "columns": json.loads(row["columns"])}))
            for row in rows
        ]

    def create_study(self, name: str, spec: Mapping[str, Any], columns: Sequence[str]) -> None:
        """A new study, nobody's yet; one that exists stays as it is."""
        with self.engine.begin() as connection:
            row = {
                "name": name,
                "spec": json.dumps(spec),
                "columns": json.dumps(columns),
                "state": "stopped",
                "created": self._now(connection),
            }
            connection.execute(self._insert(studies).values(row).on_conflict_do_nothing())

    def take(self, name: str) -> int | None:
        """The lease of a study that is free or expired: its new epoch, None while somebody holds it."""
        with self.engine.begin() as connection:
            now = self._now(connection)
            free = sa.and_(studies.c.name == name, studies.c.expires < now)
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            taken = connection.execute(
                sa.update(studies)
                .where(free)
                .values(epoch=studies.c.epoch + 1, holder=holder, expires=now + LEASE_SECONDS, state="running")
            )
            if not taken.rowcount:
                return None
            return connection.execute(sa.select(studies.c.epoch).where(studies.c.name == name)).scalar_one()

    def lease_left(self, name: str) -> float:
        """Seconds until the study's lease runs out, by the database's clock; negative where it has."""
        with self.engine.connect() as connection:
            expires = connection.execute(sa.select(studies.c.expires).where(studies.c.name == name)).scalar_one()
            return expires - self._now(connection)

    # What workers write

    def accept(self, result: Result) -> bool:
        """Record a result unless its (key, seed) has one: True where this one is it."""
        row = {name: value for name, value in asdict(result).items() if name in results.c}
        row |= {
            "diverged": result.diverged,
            "curves": json.dumps(result.curves),
            "provenance": json.dumps(dict(result.provenance)),
        }
        with self.engine.begin() as connection:
            row["accepted"] = self._now(connection)
            insert = self._insert(results).values(row).on_conflict_do_nothing().returning(results.c.key)
            return connection.execute(insert).first() is not None  # a row count is not to be had from psycopg

    def start(self, task: str, seed: int) -> tuple[float, float] | None:
        """(loss0, score0) of a task with that seed's head, None where nobody has measured it."""
        query = sa.select(starts.c.loss0, starts.c.score0).where(starts.c.task == task, starts.c.seed == seed)
        with self.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row.loss0, row.score0)

    def put_start(self, task: str, seed: int, loss0: float, score0: float) -> None:
        """Record a start unless there is one."""
        row = {"task": task, "seed": seed, "loss0": loss0, "score0": score0}
        with self.engine.begin() as connection:
            connection.execute(self._insert(starts).values(row).on_conflict_do_nothing())

    # What anybody reads

    def trials(self, study: str, phase: str | None = None) -> list[Trial]:
        """The study's memberships, in the order it asked for them."""
        query = sa.select(memberships).where(memberships.c.study == study).order_by(memberships.c.position)
        if phase is not None:
            query = query.where(memberships.c.phase == phase)
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        return [Trial(study, r.task, r.variant, r.phase, r.key, r.seed, json.loads(r.knobs)) for r in rows]

    def results(self, study: str) -> dict[tuple[str, int], Result]:
        """The accepted results of a study's memberships, without curves, by (key, seed)."""
        columns = [column for column in results.c if column.name != "curves"]
        joined = sa.and_(memberships.c.key == results.c.key, memberships.c.seed == results.c.seed)
        query = sa.select(*columns).distinct().join(memberships, joined).where(memberships.c.study == study)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return {(row["key"], row["seed"]): _result(dict(row)) for row in rows}

    def curves(self, key: str, seed: int) -> Curves:
        """The curves of one result, by name: (step, value) pairs."""
        query = sa.select(results.c.curves).where(results.c.key == key, results.c.seed == seed)
        with self.engine.connect() as connection:
            return json.loads(connection.execute(query).scalar_one())

    def failed(self, study: str) -> dict[tuple[str, int], str]:
        """Trials of the study that failed and have no result, with the last reason."""
        query = sa.select(failures).where(failures.c.study == study).order_by(failures.c.id)
        with self.engine.connect() as connection:
            reasons = {(row.key, row.seed): row.reason for row in connection.execute(query)}
        done = self.results(study)
        return {trial: reason for trial, reason in reasons.items() if trial not in done}

    def run_ids(self, study: str, place: str) -> dict[tuple[str, int], str]:
        """Which trials of the study the mirror at `place` surely holds, and under which run."""
        query = sa.select(mirrors).where(mirrors.c.study == study, mirrors.c.place == place)
        with self.engine.connect() as connection:
            return {(row.key, row.seed): row.run_id for row in connection.execute(query)}

    def document(self, key: str) -> dict[str, Any]:
        """What the key stands for."""
        with self.engine.connect() as connection:
            return json.loads(
                connection.execute(sa.select(settings.c.document).where(settings.c.key == key)).scalar_one()
            )

    @contextmanager
    def controlling(self, name: str, epoch: int) -> Iterator["Writer"]:
        """One transaction of the study's controller. Raises Superseded where `epoch` is no longer the study's."""
        with self.engine.begin() as connection:
            mine = sa.and_(studies.c.name == name, studies.c.epoch == epoch)
            if not connection.execute(sa.update(studies).where(mine).values(epoch=epoch)).rowcount:
                raise Superseded(f"study {name} has been taken over by another controller")
            yield Writer(self, connection, name)

    def _insert(self, table: Table) -> Any:
        return (postgresql if self.engine.dialect.name == "postgresql" else sqlite).insert(table)

    def _now(self, connection: sa.Connection) -> float:
        if self.engine.dialect.name == "postgresql":
            return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
        return float(connection.execute(sa.text("select (julianday('now') - 2440587.5) * 86400.0")).scalar_one())


class Writer:
    """The controller's writes in one transaction."""

    def __init__(self, ledger: Ledger, connection: sa.Connection, study: str) -> None:
        self._ledger, self._connection, self._study = ledger, connection, study

    def renew(self) -> None:
        """The lease counts anew from now."""
        self._update(expires=self._ledger._now(self._connection) + LEASE_SECONDS)

    def release(self, state: str, wall_seconds: float) -> None:
        """The study is nobody's again, in this state, after this much more work."""
        now = self._ledger._now(self._connection)
        self._update(state=state, expires=0.0, finished=now, wall_seconds=studies.c.wall_seconds + wall_seconds)

    def widen(self, spec: Mapping[str, Any], columns: Sequence[str], place: str) -> None:
        """The study asks for more than before, and is mirrored here."""
        self._update(spec=json.dumps(spec), columns=json.dumps(columns), place=place)

    def enroll(self, trials: Iterable[tuple[Trial, Mapping[str, Any]]]) -> None:
        """Memberships and the documents their keys stand for; those that exist stay."""
        insert, connection = self._ledger._insert, self._connection
        count = sa.select(sa.func.count()).select_from(memberships).where(memberships.c.study == self._study)
        for position, (trial, document) in enumerate(trials, connection.execute(count).scalar_one()):
            known = {"key": trial.key, "document": json.dumps(document, sort_keys=True)}
            connection.execute(insert(settings).values(known).on_conflict_do_nothing())
            row = {
                "study": self._study,
                "phase": trial.phase,
                "key": trial.key,
                "seed": trial.seed,
                "position": position,
            }
            row |= {"task": trial.task, "variant": trial.variant, "knobs": json.dumps(dict(trial.values))}
            connection.execute(insert(memberships).values(row).on_conflict_do_nothing())

    def fail(self, trial: Trial, reason: str) -> None:
        """The trial has no result, and why."""
        self._connection.execute(
            sa.insert(failures).values(study=self._study, key=trial.key, seed=trial.seed, reason=reason)
        )

    def forgive(self) -> None:
        """Failures of earlier launches are forgotten: those trials are tried again."""
        self._connection.execute(sa.delete(failures).where(failures.c.study == self._study))

    def mirrored(self, trial: Trial, place: str, run_id: str) -> None:
        """The mirror at `place` holds this trial's end."""
        row = {"study": self._study, "key": trial.key, "seed": trial.seed, "place": place, "run_id": run_id}
        self._connection.execute(self._ledger._insert(mirrors).values(row).on_conflict_do_nothing())

    def _update(self, **values: Any) -> None:
        self._connection.execute(sa.update(studies).where(studies.c.name == self._study).values(values))


_RESULT_FIELDS = frozenset(c.name for c in results.c) - {"curves", "provenance", "accepted", "diverged"}


def _result(row: Mapping[str, Any]) -> Result:
    fields = {name: row[name] for name in _RESULT_FIELDS}
    return Result(**fields, provenance=json.loads(row["provenance"]))


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("busy_timeout=30000", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:  # busy: another process is switching this new file just now
            raise
    cursor.close()


def _migrate(engine: sa.Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # Of many who open a database at once, one makes its tables while the others wait.
    lock = (
        f"select pg_advisory_xact_lock({MIGRATION_LOCK})" if engine.dialect.name == "postgresql" else "begin immediate"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(lock)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
