"""Memory aware synapses: a weight is worth what the outputs move when it does, whatever the label.

Aljundi et al. 2018, "Memory Aware Synapses: Learning what (not) to forget": the mean over examples of the absolute
gradient of the output's squared length. Kept as a decayed sum like `ewc`'s, and on the same scale.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from learners.data import Row
from learners.methods.anchor import Anchor, Importance
from learners.scoring import pad
from learners.strategy import Logits, trained


def sensitivity(model: Logits, rows: Sequence[Row], samples: int, seed: int) -> Importance:
    """The mean of |∂ |logits|² / ∂ weight| over up to `samples` of `rows`, by name of each weight that trains.

    One example a backward pass: the gradients of a batch would cancel before their absolute value is taken.
    """
    chosen = np.random.default_rng(seed).choice(len(rows), size=min(samples, len(rows)), replace=False)
    weights = dict(trained(model))
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    learning = model.training
    model.eval()
    device = next(iter(weights.values())).device
    for at in chosen:
        length = model(pad([rows[at].ids], model.pad_id).to(device)).square().sum()
        gradients = torch.autograd.grad(length, list(weights.values()), allow_unused=True)
        for summed, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                summed.add_(gradient.abs_())
    model.train(learning)
    return {name: summed / len(chosen) for name, summed in total.items()}


class MemoryAwareSynapses(Anchor):
    """Importance is the sensitivity of the outputs at `samples` of `rows`."""

    FILE = "mas.safetensors"

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
        self._rows = rows

    def measure(self, strategy: Any) -> Importance:
        return sensitivity(strategy.model, self._rows, self._samples, self._seed)
