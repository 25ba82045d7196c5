"""Holding weights near where they were, each as firmly as the past depends on it: what `ewc`, `si` and `mas` share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from learners.model import ModelError
from learners.strategy import effective

#: Movement of a weight that the penalty's scale is set by: fine-tuning moves most weights by about a thousandth
#: (AdamW at 5e-5 for a few hundred steps).
UNIT = 1e-3

#: What each weight was worth to the past, by name; none below 0.
Importance = dict[str, torch.Tensor]


def normalised(importance: Mapping[str, torch.Tensor]) -> Importance:
    """`importance` scaled so that it sums to 1 / `UNIT`²: moving every weight by `UNIT` costs half the strength.

    Unscaled, a confident model would hardly be held and an unsure one not move; and a strength would mean something
    else in each method.
    """
    total = sum(float(one.double().sum()) for one in importance.values())
    scale = 1 / (UNIT**2 * total) if total > 0 else 0.0
    return {name: one * scale for name, one in importance.items()}


class Anchor(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Adds `strength / 2 * Σ importance * (weight - anchor)²` to the loss; the anchors are the weights at the start.

    The weights are those that will be saved, whatever is learned: an adapter's effect is held, not its numbers.

    So the state to carry from one run to the next is the weights and `importance`, which `save` and `load` keep. With
    no `importance` yet there is no penalty. After an experience, what `measure` says is added to `decay` times what
    was.
    """

    #: The file beside the weights.
    FILE: str

    supports_distributed = True

    def __init__(self, *, strength: float, decay: float, importance: Importance | None) -> None:
        super().__init__()
        self._strength = strength
        self._decay = decay
        self.importance: Importance = importance or {}
        self._anchors: Importance = {}
        self._scratch = torch.empty((2, 0))

    def measure(self, strategy: Any) -> Importance:
        """What each weight that trains was worth in what has just been learned, on any scale."""
        raise NotImplementedError

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Anchor every weight whose importance is known; a head for other labels starts free."""
        weights = effective(strategy)
        self.importance = {
            name: one.to(strategy.device)
            for name, one in self.importance.items()
            if name not in weights or weights[name].shape == one.shape
        }
        self._anchors = {name: weights[name].detach().clone() for name in self.importance if name in weights}
        # Room for the largest weight, kept: fresh memory for each at each step costs more than the arithmetic.
        largest = max((one.numel() for one in self._anchors.values()), default=0)
        self._scratch = torch.empty((2, largest), device=strategy.device)

    @torch.no_grad()
    def before_update(self, strategy: Any, **_: Any) -> None:
        """Add the penalty to the loss and its gradient to the gradients, without a detour through autograd."""
        if not self._anchors or not self._strength:
            return
        with torch.enable_grad():
            weights = effective(strategy)
        penalty = torch.zeros((), device=strategy.device)
        for name, anchor in self._anchors.items():
            weight, one = weights[name], self.importance[name]
            moved = torch.sub(weight, anchor, out=self._scratch[0][: one.numel()].view(one.shape))
            pull = torch.mul(moved, one, out=self._scratch[1][: one.numel()].view(one.shape))
            penalty += torch.dot(pull.view(-1), moved.view(-1))
            if not weight.is_leaf:
                weight.backward(self._strength * pull)  # type: ignore[no-untyped-call]
            elif weight.grad is not None:
                weight.grad.add_(pull, alpha=self._strength)
        strategy.loss = strategy.loss.detach() + self._strength / 2 * penalty

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Consolidate what has been learned."""
        self._anchors, self._scratch = {}, torch.empty((2, 0))
        learned = normalised(self.measure(strategy))
        for name, one in self.importance.items():
            learned[name] = learned[name].add_(one, alpha=self._decay) if name in learned else one * self._decay
        self.importance = learned

    def save(self, directory: Path) -> None:
        """Write the importances into `directory`, beside the weights that they go with."""
        save_file({name: one.contiguous() for name, one in self.importance.items()}, directory / self.FILE)

    @classmethod
    def load(cls, directory: Path | None) -> Importance | None:
        """What `save` left in `directory`, on the CPU; None where nothing has been consolidated yet.

        Raises:
            ModelError: the file is damaged.
        """
        if directory is None or not (directory / cls.FILE).exists():
            return None
        try:
            return load_file(directory / cls.FILE)
        except SafetensorError as error:
            raise ModelError(
                f"{directory / cls.FILE} is damaged ({error})", "restore it, or delete it to start anew"
            ) from error
