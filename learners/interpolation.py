"""Between the parent's weights and the trained ones: often better on both old and new than either end.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from learners.device import Compute
from learners.evaluation import log_loss
from learners.job import Example
from learners.judging import TOKEN_BUDGET
from learners.model import LoadedModel
from learners.scoring import forward_batches

#: How far from the parent to the trained weights. Finer steps differ by less than the choosing examples can tell;
#: 0 would be the parent, which is the gate's to keep.
GRID = (1.0, 0.8, 0.6, 0.4, 0.2)

Weights = Mapping[str, torch.Tensor]


def weights_of(model: LoadedModel) -> dict[str, torch.Tensor]:
    """A copy of the model's weights, by name."""
    return {name: weight.detach().clone() for name, weight in model.classifier.named_parameters()}


def interpolate(model: LoadedModel, start: Weights, choosing: Sequence[Example], compute: Compute) -> float:
    """Move `model` back towards `start` as far as is best on `choosing`; returns the share of the way that is left.

    Best is the least log loss, as the mean of fresh and old examples: old ones are many more, and would decide alone.
    """
    trained = weights_of(model)
    tokens = model.tokenise([example.text for example in choosing])
    truth = np.array([model.labels.index(example.label) for example in choosing], dtype=np.int64)
    groups = np.array([example.group for example in choosing])
    model.classifier.eval()
    losses = []
    for share in GRID:
        _put(model, start, trained, share)
        probabilities = forward_batches(model, tokens, TOKEN_BUDGET, compute).probabilities
        losses.append(
            np.mean([log_loss(probabilities[groups == group], truth[groups == group]) for group in np.unique(groups)])
        )
    # The first of equals, which is the nearest to what was trained.
    chosen = GRID[int(np.argmin(losses))]
    _put(model, start, trained, chosen)
    return chosen


@torch.no_grad()
def _put(model: LoadedModel, start: Weights, trained: Weights, share: float) -> None:
    for name, weight in model.classifier.named_parameters():
        weight.copy_(trained[name] if share == 1 else torch.lerp(start[name], trained[name], share))
