"""A study as `lorascope launch` wires it, with a tracker of our choice and no report: for what a tracker costs.

    python -m benchmarks.launch SPEC HOME TRACKER

TRACKER is `null`, which does nothing, or an MLflow URI. Prints as JSON the seconds the study took, what the mirror is
still owed left out, and the CPU seconds of this process and its workers.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from study import session, spec
from study.controller import Controller, Lease
from study.engines.local import Local
from study.hardware import provenance
from study.home import home
from study.ledger import Ledger
from study.progress import Progress
from study.tracking import Tracker
from study.worker import Setup
from trackers.mirror import Mirror
from trackers.null import Null


@contextmanager
def tracking(uri: str, spool: Path, study: str) -> Iterator[tuple[Callable[[], Tracker], Tracker]]:
    """What workers open, and the controller's own."""
    if uri == "null":
        yield Null, Null()
        return
    mirror = Mirror(uri, spool, study, time.time(), lambda trial, run: None)
    yield mirror.writer, mirror.tracker
    mirror.close("finished")


def run(file: Path, folder: Path, uri: str) -> None:
    """The whole study."""
    place, where = home(folder), str(file)
    ledger = Ledger(place.storage, migrate=True)
    asked = session.admit(ledger, spec.load(file)[0], where)
    prepared = session.prepared(asked, place.cache, where)
    plans = session.plans(asked, session.check_ranks(asked, prepared, where), prepared)
    ledger.create_study(asked.name, spec.resolved(asked), [])
    with Lease(ledger, asked.name, lambda holder, seconds: None) as lease:
        with tracking(uri, place.spool(asked.name), asked.name) as (writer, tracker):
            setup = Setup(ledger.url, place.cache, writer, provenance())
            with Local(setup, session.workers(asked)) as engine:
                progress = Progress(asked.tasks)
                Controller(asked, ledger, lease, engine, tracker, uri, progress, prepared, plans).run()
        lease.state = "done"


def main() -> None:
    file, folder, uri = sys.argv[1:]
    began = time.perf_counter()
    run(Path(file), Path(folder), uri)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(json.dumps({"wall": time.perf_counter() - began, "cpu": cpu}))


if __name__ == "__main__":
    main()
