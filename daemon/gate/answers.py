"""What parent and candidate say of the same examples, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learners.job import Judged

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """`truth` `[examples]` int64, `parent` and `candidate` `[examples, labels]`; sources and keys of the examples."""

    truth: npt.NDArray[np.int64]
    parent: Floats
    candidate: Floats
    sources: Sequence[str | None]
    keys: Sequence[str | None]

    @classmethod
    def of(cls, rows: Sequence[Judged], labels: Sequence[str]) -> "Answers":
        """Of gate examples; `labels` is the order of their probabilities."""
        return cls(
            truth=np.array([labels.index(row.label) for row in rows], dtype=np.int64),
            parent=probabilities([row.parent for row in rows], len(labels)),
            candidate=probabilities([row.candidate for row in rows], len(labels)),
            sources=[row.source for row in rows],
            keys=[row.key for row in rows],
        )

    def right(self) -> tuple[Bools, Bools]:
        """Whether the parent and the candidate are right on each example."""
        return self.parent.argmax(axis=1) == self.truth, self.candidate.argmax(axis=1) == self.truth

    def __len__(self) -> int:
        return len(self.truth)


def probabilities(rows: Sequence[Sequence[float] | None], labels: int) -> Floats:
    """`[rows, labels]`; a model that is not there (None) knows nothing, and what is not a number promises nothing."""
    uniform = [1 / labels] * labels
    given = np.array([uniform if row is None else row for row in rows], dtype=np.float64).reshape(-1, labels)
    # Left in, one NaN would turn every comparison with it to False.
    return np.where(np.isfinite(given), given, 0.0)


def brier(given: Floats, truth: npt.NDArray[np.int64]) -> Floats:
    """Each example's squared error over the labels, 0 to 2: a proper score, so a model can't win by shouting."""
    errors: Floats = ((given - np.eye(given.shape[1])[truth]) ** 2).sum(axis=1)
    return errors


def mean(values: npt.NDArray[np.floating] | Bools) -> float:
    return float(values.mean()) if len(values) else 0.0
