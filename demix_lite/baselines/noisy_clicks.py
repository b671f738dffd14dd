"""Noise-robust learning from clicks: the model is trained behind a channel that flips clicks."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.retraining import run_seed
from demix_lite.detector.runs import Run
from demix_lite.models.training import fit, predict
from demix_lite.tasks.base import seeded_model
from demix_lite.tasks.labels import Clicks


class NoisyClicks(Baseline):
    """Probability that a click, or its absence, was recorded wrongly, under a noise model.

    A click is recorded with probability (1 − a) p + b (1 − p), where p is the model's probability
    that the user takes the item, a the rate of lost clicks and b that of false clicks. The model
    is trained by maximum likelihood; Bayes' rule then gives, for every sample, the probability that
    its label is wrong. Both rates start at ``rate`` and are trained along, but hardly move in the
    few epochs of a click model: the setting decides.
    """

    name = "noisy_clicks"
    claims = ("label",)
    space: ClassVar = {"rate": (0.25, 0.1)}
    reference = (
        "Yu & Qin (2020), Sampler Design for Implicit Feedback Data by Noisy-label Robust "
        "Learning, SIGIR (NBPO), pointwise, on the task's own model"
    )
    judges = Clicks

    def scores(self, run: Run) -> np.ndarray:
        """Return the posterior probability of a wrong label, shape ``(N,)``."""
        seed, (inputs, targets) = run_seed(run, self.name), run.samples
        model = seeded_model(run.task, run.architecture, run.encoder, seed)
        noisy = Noisy(model, self.settings["rate"])
        options = {**run.task.training, "seed": seed, "device": run.sources[0].device}
        trained = fit(noisy, run.task.loss, inputs, targets, **options).model
        assert isinstance(trained, Noisy)
        taken = predict(trained.model, inputs)
        return trained.cpu().wrong(taken, targets.cpu()).numpy()


class Noisy(nn.Module):
    """A click model behind a noisy channel that loses some clicks and adds false ones.

    ``model`` returns the log-odds that the item is taken, shape ``(n, 1)``; ``rate``, in (0, 1/2),
    is the initial rate of lost and of false clicks.

    Examples
    --------
    A click that the model considers impossible was recorded wrongly.

    >>> noisy = Noisy(nn.Identity(), 0.2)
    >>> noisy.wrong(torch.tensor([[-9.0], [9.0]]), torch.tensor([1, 1])).round(decimals=2)
    tensor([1., 0.])
    """

    def __init__(self, model: nn.Module, rate: float):
        super().__init__()
        self.model = model
        # Rates stay below one half, where labels would carry no information.
        self.rates = nn.Parameter(torch.logit(torch.full((2,), 2 * rate)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the log-odds that a click is recorded, shape ``(n, 1)``."""
        taken = self.model(inputs)
        yes, no = self._recorded(taken, 1), self._recorded(taken, 0)
        return torch.logsumexp(yes, 0) - torch.logsumexp(no, 0)

    def _recorded(self, taken: Tensor, label: int) -> Tensor:
        """Joint log-probability of the item being taken (row 0) or not (row 1), and this label."""
        lost, false = (self.rates.sigmoid() / 2).unbind()
        kept, made_up = (1 - lost, false) if label else (lost, 1 - false)
        return torch.stack([F.logsigmoid(taken) + kept.log(), F.logsigmoid(-taken) + made_up.log()])

    @torch.no_grad()
    def wrong(self, taken: Tensor, targets: Tensor) -> Tensor:
        """Return the probability that each label is wrong, given the model's log-odds."""
        yes, no = (self._recorded(taken[:, 0], label).softmax(0) for label in (1, 0))
        return torch.where(targets == 1, yes[1], no[0])
