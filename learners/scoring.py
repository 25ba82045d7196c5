"""Running a model over many texts.

The learner and the daemon score through the same `forward_batches`, so a text's score at the gate is its score in
production, to rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from learners.device import Compute
from learners.model import LoadedModel, Tokens

Floats = npt.NDArray[np.float32]


class Scored(NamedTuple):
    """`probabilities` `[texts, labels]`, rows summing to 1, and `sketches` `[texts, 64]`, float32."""

    probabilities: Floats
    sketches: Floats


def batches_by_length(lengths: Sequence[int], token_budget: int) -> list[npt.NDArray[np.int64]]:
    """Positions of `lengths` in batches of at most `token_budget` padded tokens, longest texts first.

    A text longer than the budget is a batch of its own. Every position is in exactly one batch.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(1, token_budget // max(1, lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def pad(tokens: Sequence[Tokens], pad_id: int) -> torch.Tensor:
    """`[batch, longest]` int64, padded on the right."""
    padded = np.full((len(tokens), max(len(ids) for ids in tokens)), pad_id, dtype=np.int64)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)


def forward_batches(model: LoadedModel, token_lists: Sequence[Tokens], token_budget: int, compute: Compute) -> Scored:
    """Score tokenised texts, in their order, in length-sorted batches of at most `token_budget` padded tokens."""
    if not token_lists:
        empty = np.zeros((0, len(model.labels)), np.float32), np.zeros((0, model.projection.shape[1]), np.float32)
        return Scored(*empty)
    batches = batches_by_length([len(ids) for ids in token_lists], token_budget)
    probabilities, sketches = [], []
    with torch.inference_mode(), compute.autocast():
        for batch in batches:
            ids = compute.put(pad([token_lists[at] for at in batch], model.pad_id))
            output = model.classifier(ids, (ids != model.pad_id).long())
            probabilities.append((output.logits / model.description.temperature).softmax(-1))
            sketches.append(sketch(output.shallow, model.projection))
    # One copy back for all batches: a GPU never waits for the host between two of them.
    back = np.empty(len(token_lists), dtype=np.int64)
    back[np.concatenate(batches)] = np.arange(len(token_lists))
    return Scored(torch.cat(probabilities).cpu().numpy()[back], torch.cat(sketches).cpu().numpy()[back])


def sketch(shallow: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """`[batch, 64]` float32: the unit-length embedding under the random projection, which keeps distances."""
    with torch.autocast(shallow.device.type, enabled=False):
        return nn.functional.normalize(shallow, dim=-1) @ projection
