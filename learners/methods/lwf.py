"""Learning without forgetting: on the new examples, the candidate also answers as the parent did.

Li & Hoiem 2017, "Learning without Forgetting": distillation (Hinton et al. 2015) from the model before the update, on
the new task's inputs; nothing of the past is needed but its model.
"""

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch.nn.functional import kl_div, log_softmax, softmax

from learners.methods.teacher import Teacher


class LearningWithoutForgetting(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Adds `strength * temperature² * KL(teacher, candidate)` to the loss of each row that `teacher` has: the first.

    The temperature divides both sides' logits; its square keeps the gradient's size (Hinton et al.).
    """

    supports_distributed = True

    def __init__(self, *, strength: float, temperature: float, teacher: Teacher) -> None:
        super().__init__()
        self._strength = strength
        self._temperature = temperature
        self._teacher = teacher

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Add the mean over the batch."""
        at = strategy.mbatch[3]
        taught = at < len(self._teacher.logits)
        said = self._teacher.logits[torch.where(taught, at, 0)]
        says = strategy.mb_output[:, self._teacher.known]
        distance = kl_div(
            log_softmax(says / self._temperature, -1), softmax(said / self._temperature, -1), reduction="none"
        ).sum(-1)
        strategy.loss = strategy.loss + self._strength * self._temperature**2 * (distance * taught).mean()
