"""Environments: runs whose true errors are known because they were injected."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from demix_lite.detector.runs import BLOCK, Run, open_run
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.injection import inject
from demix_lite.seeds import derive_seed, generator
from demix_lite.tasks.base import Splits, Task, fit_model

CLEAN_RATIOS = (0.5, 0.4, 0.5, 0.6, 0.5, 0.7, 0.5, 0.8)
"""Clean ratios of successive training injections: every second one is the standard 0.5."""

SLOW_EVERY = 6
"""One in so many training injections also uses the slow architectures of a task."""


@dataclass(frozen=True)
class Environment:
    """A run with known errors.

    Attributes
    ----------
    injection : str
        Name of the injection; environments of the same injection share their rows.
    architecture : str
        The architecture of the task model.
    run : Run
        The run.
    errors : array
        True errors, boolean, shape ``(N, 3)``.
    practice : bool
        Whether its task was drawn for practice and is not one of the benchmark.
    """

    injection: str
    architecture: str
    run: Run
    errors: np.ndarray
    practice: bool = False
    _samples: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def truth(self) -> pd.DataFrame:
        """The true errors as a table: one line per row of the run, one column per error type."""
        return pd.DataFrame(self.errors, columns=list(ERROR_TYPES), index=self.run.index)

    def sample(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return the vectors (half precision) and the errors of a fixed random sample of rows.

        Environments of the same injection return the same rows.
        """
        if rows not in self._samples:
            drawn = generator("sample", self.injection).permutation(len(self.run))[:rows]
            blocks = torch.from_numpy(drawn).split(BLOCK)
            vectors = torch.cat([self.run.vectors(block).half() for block in blocks])
            self.run.release()  # a detector learns from hundreds of environments
            self._samples[rows] = (vectors, torch.from_numpy(self.errors[drawn]).float())
        return self._samples[rows]


def make_environment(
    task: Task,
    splits: Splits,
    *,
    architecture: str,
    clean_ratio: float,
    seed: object,
    co_occurring: bool = False,
    validation: int = 256,
    device: str | None = None,
) -> Environment:
    """Inject errors, train a model on the dirty rows and open the run.

    Parameters
    ----------
    task, splits
        The task and its clean rows.
    architecture : str
        Name of the task model.
    clean_ratio : float
        Share of rows with neither a label nor a feature error, in (0, 1].
    seed : object
        Seeds the run: rule, errors, weights, validation samples.
    co_occurring : bool
        Whether a row may have a label and a feature error at once.
    validation : int
        Number M of validation samples.
    device : str, optional
        Device for training the model and computing influence; the CPU by default.

    Examples
    --------
    >>> from demix_lite.tasks import get_task
    >>> task = get_task("adult")
    >>> environment = make_environment(
    ...     task, task.load(rows=1000), architecture="mlp2", clean_ratio=0.5, seed="doc"
    ... )
    >>> environment.errors.shape[1]
    3
    """
    injection = inject(task, splits, clean_ratio, seed=seed, co_occurring=co_occurring)
    train, valid = injection.train.frame, injection.valid.frame
    fit_seed = derive_seed(task.name, "fit", architecture, seed)
    trained, encoder = fit_model(task, architecture, train, fit_seed, device=device)
    setting = task, architecture, encoder, trained, train, valid
    run = open_run(*setting, validation=validation, seed=seed, device=device)
    errors = injection.train.errors.to_numpy()
    return Environment(f"{task.name} {seed}", architecture, run, errors)


def injection_environments(
    task: Task,
    splits: Splits,
    number: int,
    *,
    architectures: Sequence[str] | None = None,
    rows: int | None = None,
    practice: bool = False,
    device: str | None = None,
) -> list[Environment]:
    """Make the environments of one training injection, one per architecture.

    The seeds are named ``train 0``, ``train 1``, ...; no benchmark uses these names. Each injection
    draws its own ``rows`` of the training rows; in every fourth injection, errors co-occur. With
    ``practice``, the environments are those of another task drawn from the same rows; the list is
    empty if the task offers none.
    """
    seed = f"{'practice' if practice else 'train'} {number}"
    if practice:
        drawn = task.practice(splits, generator(task.name, "practice", number))
        if drawn is None:
            return []
        task, splits = drawn
    sampled = splits.sample(rows or task.practice_rows, seed=seed)
    slow = number % SLOW_EVERY == 0 and not practice
    made = [
        make_environment(
            task,
            sampled,
            architecture=architecture,
            clean_ratio=CLEAN_RATIOS[number % len(CLEAN_RATIOS)],
            seed=seed,
            co_occurring=number % 4 == 3,
            device=device,
        )
        for architecture in architectures or task.architectures
        if slow or architecture not in task.slow_architectures
    ]
    return [replace(environment, practice=practice) for environment in made]
