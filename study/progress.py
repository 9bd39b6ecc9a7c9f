"""The live view of a study: trials by state per variant, steps per second, time left. Writes to stderr."""

import time
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from study.spec import TaskSpec
from study.trial import Phase, Trial
from study.worker import Ended, Event

LINE_SECONDS = 15.0  # how often a line is printed where no live view can be shown
STATES = ("finished", "running", "diverged", "stopped", "failed")


class Progress:
    """Told of every event of a study; a context that shows them."""

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        """`tasks`: what is trained, for the steps of each trial."""
        self.console = Console(stderr=True)
        self.steps = {task.label: task.budget.steps for task in tasks}
        self.began, self.phase, self.trained_in_all = time.monotonic(), "", 0
        self.trained = self.to_train = self.asked = 0  # trial-steps done and missing, trials, of this phase
        self.variants: dict[str, Counter[str]] = {}
        self._printed = time.monotonic()
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def expect(self, trials: Sequence[Trial], done: Sequence[Trial], phase: Phase) -> None:
        """A phase begins: these trials, some of which have a result already."""
        self.phase, self.began, self.trained = phase, time.monotonic(), 0
        self.asked = len(trials)
        self.to_train = sum(self.steps[trial.task] for trial in trials) - sum(self.steps[trial.task] for trial in done)
        self.variants = {trial.variant: Counter() for trial in trials}
        for trial in done:
            self.variants[trial.variant]["finished"] += 1
        have = f", {len(done)} have a result already" if done else ""
        self.console.print(f"{phase}: {len(trials)} trials{have}", highlight=False)

    def see(self, event: Event | Ended | None) -> None:
        """One event of the engine, or a tick."""
        if isinstance(event, Ended):
            self._ended(event)
        elif event is not None:
            self._event(event)
        if not self.console.is_terminal and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            self.console.print(self._line(), highlight=False)

    def _event(self, event: Event) -> None:
        self.trained += event.steps
        self.trained_in_all += event.steps
        if event.trial is None:
            return
        counts = self.variants[event.trial.variant]
        if event.kind == "begin":
            counts["running"] += 1
        elif event.state is not None:
            counts["running"] -= 1
            counts[event.state] += 1

    def _ended(self, ended: Ended) -> None:
        for trial in ended.job.trials:
            counts = self.variants[trial.variant]
            if ended.error and counts["running"]:  # these will not end any more
                counts["running"] -= 1
                counts["failed"] += 1
        if ended.error:
            self.console.print(f"[red]failed[/red] {ended.job.trials[0].variant}: {ended.error}", highlight=False)

    def _line(self) -> str:
        total = sum(self.variants.values(), Counter())
        counts = ", ".join(f"{total[state]} {state}" for state in STATES if total[state])
        done = f"{self.phase}: {counts or 'workers are starting'} of {self.asked}"
        return f"{done}; {self._rate():.1f} steps/s; {self._left()}"

    def _rate(self) -> float:
        return self.trained / max(time.monotonic() - self.began, 1e-9)

    def _left(self) -> str:
        missing = self.to_train - self.trained
        if missing <= 0 or not self.trained:
            return "time left unknown" if missing > 0 else "finishing"
        minutes, seconds = divmod(int(missing / self._rate()), 60)
        return f"about {minutes}:{seconds:02d} left"

    def _table(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("variant")
        for state in STATES:
            table.add_column(state, justify="right")
        for variant, counts in self.variants.items():
            table.add_row(variant, *(str(counts[state]) for state in STATES))
        return Group(self._line(), table)
