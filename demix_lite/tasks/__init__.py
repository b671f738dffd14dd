"""The registry of tasks."""

from demix_lite.errors import refuse_unknown
from demix_lite.tasks.alignment import ALIGNMENT
from demix_lite.tasks.base import Rule, Splits, Task
from demix_lite.tasks.recommenders import RECOMMENDERS
from demix_lite.tasks.tables import TABLES

TASKS: dict[str, Task] = {task.name: task for task in (*TABLES, *RECOMMENDERS, *ALIGNMENT)}

__all__ = ["TASKS", "Rule", "Splits", "Task", "get_task"]


def get_task(name: str) -> Task:
    """Return the task with this name, or raise a :class:`~demix_lite.errors.DemixError`.

    Examples
    --------
    >>> get_task("adult").metric_name
    'accuracy'
    """
    refuse_unknown("task", [name], TASKS)
    return TASKS[name]
