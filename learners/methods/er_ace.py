"""Asymmetric cross-entropy: new examples are told from each other, and not from the classes of the past.

Caccia et al. 2022, "New Insights on Reducing Abrupt Representation Change in Online Continual Learning" (ER-ACE): over
all classes, new examples would push down those that are missing among them. Replayed ones, which have all, are learned
over all. The paper takes the classes of each incoming batch; a job has all of its new rows at once, and takes theirs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from learners.data import Row


class AsymmetricCrossEntropy(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Takes back from the loss of the new rows, the first ones, what it asks of classes missing in all of them.

    Cross-entropy over some classes is that over all less `logsumexp` over all plus `logsumexp` over those: so this is
    a term like any other method's, and goes with them.
    """

    supports_distributed = True

    def __init__(self, new: Sequence[Row], labels: int) -> None:
        super().__init__()
        self._new = len(new)
        self._missing = torch.ones(labels, dtype=torch.bool)
        self._missing[[row.label for row in new]] = False

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        self._missing = self._missing.to(strategy.device)

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Take it back, each example times its weight."""
        _, _, weights, at, *_ = strategy.mbatch
        logits = strategy.mb_output
        asked = logits.logsumexp(-1) - logits.masked_fill(self._missing, float("-inf")).logsumexp(-1)
        strategy.loss = strategy.loss - (asked * weights * (at < self._new)).mean()
