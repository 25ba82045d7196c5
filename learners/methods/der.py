"""Dark experience replay (DER++): on the replayed examples, the candidate keeps the parent's logits and the labels.

Buzzega et al. 2020, "Dark Experience for General Continual Learning: a Strong, Simple Baseline". The paper stores with
each example the logits of the moment; here they are the parent's, from when the job starts, so that nothing but texts
and labels has to be remembered.
"""

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from learners.methods.teacher import Teacher


class DarkExperienceReplay(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Adds `strength * mean squared difference of logits` to the loss of each row that `teacher` has: those from
    `first` on. Their cross-entropy is in the loss already.
    """

    supports_distributed = True

    def __init__(self, *, strength: float, teacher: Teacher, first: int) -> None:
        super().__init__()
        self._strength = strength
        self._teacher = teacher
        self._first = first

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Add the mean over the batch."""
        at = strategy.mbatch[3] - self._first
        said = self._teacher.logits[at.clamp(min=0)]
        difference = (strategy.mb_output[:, self._teacher.known] - said).square().mean(-1)
        strategy.loss = strategy.loss + self._strength * torch.where(at >= 0, difference, 0.0).mean()
