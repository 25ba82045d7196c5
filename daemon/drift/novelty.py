"""How unlike the champion's reference window a text is."""

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

#: Every third reference sketch is a neighbour that texts are compared with. The others stay out of the comparison, so
#: that their own scores are scores of texts the neighbours have not seen, as a new text's is: they say what is usual.
NEIGHBOUR_STRIDE = 3

Sketches = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


class Reference:
    """A reference window of sketches `[n, dimensions]`, oldest first, split into neighbours and a calibration part.

    `calibration` holds the calibration part's scores in the order of the window, `[about two thirds of n]`. While
    nothing has drifted, a new text's score is exchangeable with them. `sketches` is all there is to save: another
    reference made of them is the same.
    """

    def __init__(self, sketches: Sketches, neighbours: int) -> None:
        """`neighbours`: how many of the nearest a score is the mean distance to.

        Raises:
            ValueError: fewer than two sketches, or values that are not finite.
        """
        check_sketches(sketches)
        if len(sketches) < 2:
            raise ValueError(f"a reference window needs at least 2 sketches, not {len(sketches)}")
        self.sketches: Sketches = np.array(sketches, dtype=np.float32)
        held_out = np.arange(len(sketches)) % NEIGHBOUR_STRIDE != 0
        self._neighbours = self.sketches[~held_out].astype(np.float64)
        self._nearest = min(neighbours, len(self._neighbours))
        self.calibration: Scores = self.score(self.sketches[held_out])

    def __len__(self) -> int:
        return len(self.sketches)

    @property
    def usual(self) -> float:
        """The mean score of the calibration part; 1 when all reference sketches are the same, which sets no scale."""
        return float(self.calibration.mean()) or 1.0

    def score(self, sketches: Sketches) -> Scores:
        """The mean Euclidean distance of each of `[m, dimensions]` to its nearest neighbours: `[m]`.

        A sketch's score does not depend on the others in the batch, not even in the last bit (a matrix product's
        would), so the same stream gives the same alarms however it is cut.

        Raises:
            ValueError: values that are not finite, or other dimensions than the reference window's.
        """
        check_sketches(sketches)
        distances = cdist(sketches.astype(np.float64), self._neighbours)
        scores: Scores = np.partition(distances, self._nearest - 1, axis=1)[:, : self._nearest].mean(axis=1)
        return scores


def check_sketches(sketches: Sketches) -> None:
    """Raises ValueError when `sketches` are not finite, or not of shape `[n, dimensions]`."""
    if sketches.ndim != 2:
        raise ValueError(f"sketches must be of shape [texts, dimensions], not {list(sketches.shape)}")
    bad = np.flatnonzero(~np.isfinite(sketches).all(axis=1))
    if bad.size:
        raise ValueError(f"sketch {bad[0]} of {len(sketches)} has a value that is not finite: the model is broken")
