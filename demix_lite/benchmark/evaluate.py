"""Evaluate a model on clean test rows, on average and in its worst group."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from demix_lite.models.training import predict
from demix_lite.tasks.base import Encoder, Rule, Task

SMALLEST_GROUP = 10


@dataclass(frozen=True)
class Evaluation:
    """The task metric on clean test rows.

    Attributes
    ----------
    metric : float
        Over all test rows.
    worst_group : float
        In the worst of the four groups (condition met or not) × (target or not) of the spurious
        rule; groups with fewer than ten test rows are left out.
    groups : dict
        Group name to metric.
    """

    metric: float
    worst_group: float
    groups: dict[str, float]


def evaluate(
    task: Task, model: nn.Module, encoder: Encoder, test: pd.DataFrame, rule: Rule
) -> Evaluation:
    """Evaluate a model on the clean, untouched test rows.

    Parameters
    ----------
    task, model, encoder
        The task, and the model and encoder fitted on its training rows.
    test : DataFrame
        Clean rows, features and label.
    rule : Rule
        The shortcut that divides them into four groups. Groups with fewer than ``SMALLEST_GROUP``
        rows are left out.

    Returns
    -------
    Evaluation
        The metric over all rows, in the worst group and in each group.
    """
    inputs, targets = encoder.transform(test, task.target)
    outputs = predict(model, inputs)
    number = task.groups(test, rule)
    names = ("neither", "target only", "condition only", "both")
    groups = {
        name: task.label.group_metric(outputs[rows], targets[rows])
        for code, name in enumerate(names)
        if len(rows := torch.from_numpy(np.flatnonzero(number == code))) >= SMALLEST_GROUP
    }
    overall = task.metric(outputs, targets)
    worst = min if task.label.larger_is_better else max
    return Evaluation(overall, worst(groups.values(), default=overall), groups)
