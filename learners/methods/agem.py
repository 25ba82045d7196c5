"""Averaged gradient episodic memory: a step that would harm the replayed examples is bent until it does not.

Chaudhry et al. 2019, "Efficient Lifelong Learning with A-GEM". Avalanche's own keeps one buffer an experience and draws
`sample_size // experiences` rows from each, which is none after some; this one draws from the job's replayed rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import nn

from learners.checkpoint import Tensors
from learners.data import LengthGroupedBatches, Row
from learners.scoring import pad
from learners.strategy import trained


class AveragedGEM(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Projects each gradient off that of `samples` replayed rows wherever the two disagree (eq. 11 of the paper)."""

    supports_distributed = True

    def __init__(self, rows: Sequence[Row], samples: int, seed: int) -> None:
        super().__init__()
        self._rows = rows
        self._samples = samples
        self._seed = seed
        self._batches = self._endless(samples, seed)
        self._drawn = 0

    def _endless(self, samples: int, seed: int) -> Iterator[list[int]]:
        batches = LengthGroupedBatches([len(row.ids) for row in self._rows], samples, seed)
        while True:
            yield from batches

    def state(self) -> Tensors:
        """How many batches have been drawn: the seed says which."""
        return {"drawn": torch.tensor(self._drawn)}

    def restore(self, state: Tensors) -> None:
        self._batches, self._drawn = self._endless(self._samples, self._seed), 0
        for _ in range(int(state["drawn"])):
            self._draw()

    def _draw(self) -> list[int]:
        self._drawn += 1
        return next(self._batches)

    def before_update(self, strategy: Any, **_: Any) -> None:
        """Bend the gradient, penalties of other methods included."""
        weights = [weight for name, weight in trained(strategy.model) if weight.grad is not None]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        loss = self._loss(strategy, [self._rows[at] for at in self._draw()])
        kept = torch.autograd.grad(loss, weights, materialize_grads=True)
        agreement = torch.zeros((), device=strategy.device)
        length = torch.zeros((), device=strategy.device)
        for gradient, reference in zip(gradients, kept, strict=True):
            agreement += torch.dot(gradient.view(-1), reference.view(-1))
            length += torch.dot(reference.view(-1), reference.view(-1))
        # Without asking which way it is: the answer would keep a GPU waiting.
        off = agreement.clamp(max=0) / length.clamp(min=torch.finfo(torch.float32).tiny)
        for gradient, reference in zip(gradients, kept, strict=True):
            gradient.sub_(reference * off)

    def _loss(self, strategy: Any, rows: Sequence[Row]) -> torch.Tensor:
        ids = pad([row.ids for row in rows], strategy.model.pad_id).to(strategy.device)
        labels = torch.tensor([row.label for row in rows], device=strategy.device)
        weights = torch.tensor([row.weight for row in rows], device=strategy.device)
        losses = nn.functional.cross_entropy(strategy.model(ids), labels, reduction="none")
        return (losses * weights).mean()
