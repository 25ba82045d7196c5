"""How far a text's sketch is from those of the reference window."""

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from daemon.drift.detector import Values

Sketches = npt.NDArray[np.float32]


class Neighbours:
    """Reference sketches `[n, dimensions]` that texts are compared with."""

    def __init__(self, sketches: Sketches, nearest: int) -> None:
        """`nearest`: how many of the nearest a distance is the mean to.

        Raises:
            ValueError: values that are not finite.
        """
        check_sketches(sketches)
        self.sketches: Sketches = np.array(sketches, dtype=np.float32)
        self.nearest = nearest
        self._wide = self.sketches.astype(np.float64)

    def distance(self, sketches: Sketches) -> Values:
        """The mean Euclidean distance of each of `[m, dimensions]` to its nearest: `[m]`.

        A sketch's distance does not depend on the others in the batch, not even in the last bit (a matrix product's
        would), so the same stream gives the same alarms however it is cut.

        Raises:
            ValueError: values that are not finite, or other dimensions than the reference's.
        """
        check_sketches(sketches)
        if sketches.shape[1] != self.sketches.shape[1]:
            raise ValueError(
                f"sketches have {sketches.shape[1]} dimensions and the reference window {self.sketches.shape[1]}: "
                "they come from different models"
            )
        return self._nearest_of(cdist(sketches.astype(np.float64), self._wide))

    def among(self) -> Values:
        """The distance of each reference sketch to its nearest others: `[n]`; zeros when there is no other."""
        if len(self._wide) < 2:
            return np.zeros(len(self._wide))
        between = cdist(self._wide, self._wide)
        np.fill_diagonal(between, np.inf)
        return self._nearest_of(between)

    def _nearest_of(self, distances: Values) -> Values:
        # Its own distance to itself is infinite, and no neighbour.
        count = min(self.nearest, int(np.isfinite(distances[0]).sum())) if len(distances) else 1
        nearest: Values = np.partition(distances, count - 1, axis=1)[:, :count].mean(axis=1)
        return nearest


def check_sketches(sketches: Sketches) -> None:
    """Raises ValueError when `sketches` are not finite, or not of shape `[n, dimensions]`."""
    if sketches.ndim != 2:
        raise ValueError(f"sketches must be of shape [texts, dimensions], not {list(sketches.shape)}")
    bad = np.flatnonzero(~np.isfinite(sketches).all(axis=1))
    if bad.size:
        raise ValueError(f"sketch {bad[0]} of {len(sketches)} has a value that is not finite: the model is broken")
