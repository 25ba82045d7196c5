"""Examples as Avalanche takes them: a tuple of ids, label, weight and task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset
from torch.utils.data import Dataset, Sampler

from learners.model import Tokens
from learners.scoring import pad

#: Batches whose examples are sorted by length together. Enough to save most of the padding, few enough that an
#: example's neighbours differ from one epoch to the next.
CHUNK = 50


class Row(NamedTuple):
    """One example: ids `[tokens]` int32, the position of its label, its weight."""

    ids: Tokens
    label: int
    weight: float


@dataclass(frozen=True)
class Collate:
    """Rows, each with its task id appended by Avalanche, as one padded batch.

    Avalanche's plugins take the first of a batch for the input, the second for the target and the last for the
    task, so what else there is stands between: ids `[batch, longest]` int64, labels `[batch]` int64, weights `[batch]`
    float32, positions among the rows `[batch]` int64, tasks `[batch]` int64. A dict would break them.
    """

    pad_id: int

    def __call__(self, rows: Sequence[tuple[Tokens, int, float, int, int]]) -> tuple[torch.Tensor, ...]:
        ids, *columns = zip(*rows, strict=True)
        return pad(ids, self.pad_id), *(torch.tensor(column) for column in columns)


class Rows(Dataset[tuple[Tokens, int, float, int]]):
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> tuple[Tokens, int, float, int]:
        row = self._rows[at]
        # A plain tuple: Avalanche appends the task id to it.
        return row.ids, row.label, row.weight, at


def stream(parts: Sequence[Sequence[Row]], pad_id: int) -> Any:
    """An Avalanche stream with one experience for each of `parts`, all of one task."""
    datasets = [_dataset(rows, pad_id) for rows in parts]
    benchmark = with_task_labels(with_classes_timeline(benchmark_from_datasets(train=datasets)))
    return benchmark.train_stream


def _dataset(rows: Sequence[Row], pad_id: int) -> Any:
    targets = DataAttribute([row.label for row in rows], "targets")
    tasks = DataAttribute([0] * len(rows), "targets_task_labels", use_in_getitem=True)
    return TaskAwareSupervisedClassificationDataset(
        [Rows(rows)], data_attributes=[targets, tasks], collate_fn=Collate(pad_id)
    )


class LengthGroupedBatches(Sampler[list[int]]):
    """Positions of `lengths` in shuffled batches of `size` whose examples are about as long as each other.

    Each pass holds every position once, in an order drawn from the seed and the number of the pass.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._size = size
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._generator.permutation(len(self._lengths))
        batches: list[list[int]] = []
        for start in range(0, len(order), CHUNK * self._size):
            chunk = order[start : start + CHUNK * self._size]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches.extend(chunk[at : at + self._size].tolist() for at in range(0, len(chunk), self._size))
        yield from (batches[at] for at in self._generator.permutation(len(batches)))
