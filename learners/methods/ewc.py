"""Online elastic weight consolidation: a weight is worth what the predictions of the past depend on it.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", as made online by Schwarz et al.
2018, "Progress & Compress": one quadratic penalty, anchored at the latest weights, under a decayed sum of Fisher
information matrices (their diagonals), each brought to the same scale first.

Avalanche's own plugin squares the gradient of a whole batch's loss at its true labels, which is close to nothing
once a model fits; keeps copies of weights that do not train; and cannot be saved. This one can be passed to any
Avalanche strategy over `learners.strategy.Logits` in its place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from learners.data import Row
from learners.methods.anchor import Anchor, Importance
from learners.scoring import pad
from learners.strategy import Logits, trained

#: Examples in one backward pass of the Fisher estimate. Fewer give a less noisy estimate from as many examples.
BATCH = 4


def fisher_diagonal(model: Logits, rows: Sequence[Row], samples: int, seed: int) -> Importance:
    """The diagonal of the Fisher information at up to `samples` of `rows`, by name of each weight that trains.

    Labels are drawn from the model's own predictions, so this is the true Fisher and not the empirical one (Kunstner
    et al. 2019 on why it matters). Drawn labels also make the gradients of a batch's examples independent with mean
    zero, so the square of their sum is, on average, the sum of their squares: per-example gradients at the price of a
    batch's (the Gauss-Newton-Bartlett estimator of Liu et al. 2023, "Sophia").
    """
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(rows), size=min(samples, len(rows)), replace=False)
    chosen = chosen[np.argsort([len(rows[at].ids) for at in chosen], kind="stable")]
    weights = dict(trained(model))
    fisher = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    learning = model.training
    model.eval()
    device = next(iter(weights.values())).device
    for start in range(0, len(chosen), BATCH):
        logits = model(pad([rows[at].ids for at in chosen[start : start + BATCH]], model.pad_id).to(device))
        below = logits.detach().softmax(-1).cumsum(-1).cpu().numpy() < generator.random((len(logits), 1))
        drawn = torch.from_numpy(below[:, :-1].sum(1)).to(device)
        loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for information, gradient in zip(fisher.values(), gradients, strict=True):
            if gradient is not None:
                information.addcmul_(gradient, gradient)
    model.train(learning)
    return {name: information / len(chosen) for name, information in fisher.items()}


class OnlineEWC(Anchor):
    """Importance is the Fisher information at `samples` of `rows`."""

    FILE = "ewc.safetensors"

    def __init__(
        self,
        *,
        strength: float,
        decay: float,
        samples: int,
        seed: int,
        rows: Sequence[Row],
        importance: Importance | None,
    ) -> None:
        super().__init__(strength=strength, decay=decay, importance=importance)
        self._samples = samples
        self._seed = seed
        self.rows = rows

    def measure(self, strategy: Any) -> Importance:
        return fisher_diagonal(strategy.model, self.rows, self._samples, self._seed)
