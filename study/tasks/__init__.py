"""The tasks by name. Adding one: a `Task` in its family's file, and the file here."""

from study.assets import unknown
from study.tasks import images, text
from study.tasks.base import SPLITS, Examples, Prepared, Source, Task

__all__ = ["SPLITS", "TASKS", "Examples", "Prepared", "Source", "Task", "task"]

TASKS: dict[str, Task] = {each.name: each for each in (*text.TASKS, *images.TASKS)}


def task(name: str) -> Task:
    """The task of that name; raises BadInput with the nearest spelling."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
