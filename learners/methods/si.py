"""Synaptic intelligence: a weight is worth what its moves have taken off the loss.

Zenke, Poole & Ganguli 2017, "Continual Learning Through Synaptic Intelligence". The path integral of gradient times
movement is taken along training, so there is no pass over the data at its end. Kept as a decayed sum like `ewc`'s, and
on the same scale, where the paper's grows with every task.
"""

from typing import Any

import torch

from learners.checkpoint import Tensors
from learners.methods.anchor import UNIT, Anchor, Importance
from learners.strategy import trained

#: Keeps weights that hardly moved from dividing by nothing: ξ of the paper, which has 1e-3 for networks trained from
#: scratch. Fine-tuning moves weights by about `UNIT`.
DAMPING = UNIT**2


class SynapticIntelligence(Anchor):
    """Importance is the fall of the loss along each weight's path, over the square of how far it got."""

    FILE = "si.safetensors"

    def __init__(self, *, strength: float, decay: float, importance: Importance | None) -> None:
        super().__init__(strength=strength, decay=decay, importance=importance)
        self._start: Importance = {}
        self._gained: Importance = {}
        self._before: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        super().before_training_exp(strategy)
        weights = trained(strategy.model)
        self._start = {name: weight.detach().clone() for name, weight in weights}
        self._gained = {name: torch.zeros_like(weight) for name, weight in weights}

    @torch.no_grad()
    def before_update(self, strategy: Any, **_: Any) -> None:
        """Note the gradient of what is learned, before the penalty's own is added."""
        self._before = {
            name: (weight.grad.clone(), weight.detach().clone())
            for name, weight in trained(strategy.model)
            if weight.grad is not None
        }
        super().before_update(strategy)

    @torch.no_grad()
    def after_update(self, strategy: Any, **_: Any) -> None:
        """Credit each weight with what its move was worth, to first order."""
        weights = dict(trained(strategy.model))
        for name, (gradient, was) in self._before.items():
            self._gained[name].addcmul_(gradient, was.sub_(weights[name]))
        self._before = {}

    def state(self) -> Tensors:
        """What moves were worth so far; where they began is where the job begins."""
        return self._gained

    def restore(self, state: Tensors) -> None:
        self._gained = {name: one.to(self._gained[name].device) for name, one in state.items()}

    @torch.no_grad()
    def measure(self, strategy: Any) -> Importance:
        worth = {
            name: self._gained[name].clamp(min=0) / ((weight - self._start[name]).square() + DAMPING)
            for name, weight in trained(strategy.model)
        }
        self._start, self._gained = {}, {}
        return worth
