"""What the parent says of rows, to be kept by the candidate: for `lwf` and `der`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from learners.data import Row
from learners.device import Compute
from learners.model import LoadedModel
from learners.scoring import batches_by_length, pad

#: Padded tokens in a forward pass: no gradients are kept, so as many as scoring takes on a CPU.
TOKEN_BUDGET = 2048


@dataclass(frozen=True)
class Teacher:
    """`logits` `[rows, known]` float32 of the parent, for the labels at the positions `known` `[known]` int64.

    Both are on the training device. Labels that the parent has never heard of are none of its business.
    """

    logits: torch.Tensor
    known: torch.Tensor


def ask(parent: LoadedModel, rows: Sequence[Row], labels: Sequence[str], compute: Compute) -> Teacher:
    """The logits of `parent` on `rows`, without dropout, for those of `labels` that it knows."""
    known = [position for position, label in enumerate(labels) if label in parent.labels]
    columns = [parent.labels.index(labels[position]) for position in known]
    logits = torch.empty((len(rows), len(known)), device=compute.device)
    parent.classifier.eval()
    with torch.inference_mode(), compute.autocast():
        for batch in batches_by_length([len(row.ids) for row in rows], TOKEN_BUDGET):
            ids = compute.put(pad([rows[at].ids for at in batch], parent.pad_id))
            output = parent.classifier(ids, (ids != parent.pad_id).long())
            logits[torch.from_numpy(batch.astype(np.int64))] = output.logits[:, columns]
    return Teacher(logits, torch.tensor(known, device=compute.device))
