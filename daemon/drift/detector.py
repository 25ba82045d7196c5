"""What a drift detector is: values of one signal in, changes out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A detector's alarm.

    `index` is the value, within the batch given to `update`, at which it alarmed; the change itself began earlier.
    `evidence` is on the scale of `Detector.statistic`, at least 1. `before` and `after` are the signal's mean on
    either side of where the detector believes the change to be; of sketches, whose mean says nothing, they are the
    detector's measure of how far apart the two sides are: what it is without a change, and what it was found to be.
    """

    index: int
    evidence: float
    before: float
    after: float


class Detector(Protocol):
    """Watches one signal.

    How a stream is cut into batches changes nothing: a detector depends on the values and their order alone.
    Given the same construction, `restore(state())` continues exactly as if nothing had happened.
    """

    @property
    def statistic(self) -> float:
        """Evidence of change so far, to plot: 0 is none, and it alarms at 1."""

    def update(self, values: Values) -> list[Change]:
        """Take the next `[n]` values, oldest first; the changes found, in order. It resets itself after each.

        The values of the signal `sketch` are `[n, dimensions]`, with the same dimensions until the next reset.

        Raises:
            ValueError: a value is not finite, or not one that the detector can judge; none of the batch was taken.
        """

    def reset(self) -> None:
        """Forget everything, as after construction."""

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """All that `restore` needs, bounded in size."""

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Be as the detector that gave `state` was."""


def finite(values: npt.ArrayLike, what: str, *, axes: int = 1) -> Values:
    """`values` as float64: `[n]`, or `[n, dimensions]` with 2 `axes`.

    Raises ValueError, naming `what` and the place, when one is NaN or infinite.
    """
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != axes:
        expected = "a flat array" if axes == 1 else "of shape [n, dimensions]"
        raise ValueError(f"{what}: values must be {expected}, not of shape {list(checked.shape)}")
    bad = np.argwhere(~np.isfinite(checked))
    if len(bad):
        first = tuple(bad[0])
        raise ValueError(
            f"{what}: value {first[0]} of {len(checked)} is {checked[first]}; "
            "leave out what has no value, a detector cannot judge it"
        )
    return checked
