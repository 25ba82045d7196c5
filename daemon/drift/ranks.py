"""Conformal p-values: where each value stands among all that came before it.

While values are exchangeable, the p-values are uniform and independent of each other, exactly and from the first one
on: no reference window of fixed size whose chance would count for ever (Vovk, Gammerman & Shafer 2005, "Algorithmic
Learning in a Random World", section 8.2; for ranks of independent values, Rényi 1962).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from daemon.drift.detector import Values

#: Values are counted in bins, and ties within a bin are broken at random: p-values stay exact, and memory bounded,
#: whatever the bins. Of usual values one in a hundred lies above some tenth of these, so tails stay sharp.
BINS = 1_024

#: Values ranked at a time: work grows with its square, overhead with its inverse.
BLOCK = 128


class Ranks:
    """Ranks values of several components side by side.

    `centre` and `spread` `[components]` say where usual values lie; they are to be chosen without a look at the values
    that are ranked, and only set how fine the ranks are.
    """

    def __init__(self, centre: npt.ArrayLike, spread: npt.ArrayLike, seed: int, bins: int = BINS) -> None:
        self._centre = np.asarray(centre, dtype=np.float64)
        self._spread = np.asarray(spread, dtype=np.float64)
        self._seed = seed
        self._bin_count = bins
        self.counts = np.zeros((len(self._centre), bins), dtype=np.int64)
        self._drawn = 0
        self._random = np.random.Generator(np.random.PCG64(seed))

    def add(self, values: Values) -> None:
        """Count `[n, components]` as having come before, unranked; NaN is no value."""
        self.counts += self._count(values)

    def p_values(self, values: Values) -> Values:
        """The share of all values so far that are as large as each of `[n, components]`: small is unusually large.

        NaN where the value is.
        """
        p_values = np.empty(values.shape)
        for start in range(0, len(values), BLOCK):
            p_values[start : start + BLOCK] = self._block(values[start : start + BLOCK])
        return p_values

    def take_back(self, values: Values) -> None:
        """Be as before the latest `[n, components]` were ranked."""
        self.counts -= self._count(values)
        self._drawn -= values.size
        self._wind()

    def standing(self, values: Values) -> Values:
        """The share of all values so far that are as large as each of `[n, components]`, of which none is taken."""
        bins = self._bins(values)
        upwards = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]
        shares = np.take_along_axis(upwards, np.maximum(bins, 0).T, axis=1).T / np.maximum(upwards[:, 0], 1)
        return np.where(bins < 0, np.nan, shares)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        return {"counts": self.counts.astype(np.uint32), "drawn": np.array([self._drawn])}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on exactly as the ranks that gave `state`. Raises ValueError when it is of other components."""
        counts = np.asarray(state["counts"], dtype=np.int64)
        if counts.shape != self.counts.shape:
            raise ValueError(f"ranks of shape {list(counts.shape)} saved, {list(self.counts.shape)} expected")
        self.counts = counts
        self._drawn = int(np.asarray(state["drawn"]).item())
        self._wind()

    def _wind(self) -> None:
        generator = np.random.PCG64(self._seed)
        generator.advance(self._drawn)
        self._random = np.random.Generator(generator)

    def _bins(self, values: Values) -> npt.NDArray[np.int64]:
        """The bin of each value, -1 of NaN: a logistic curve, which no value falls off."""
        # Beyond 40 spreads the curve is flat in float64.
        standard = np.clip((values - self._centre) / self._spread, -40, 40)
        places = self._bin_count / (1 + np.exp(-standard))
        return np.where(np.isnan(values), -1, np.minimum(places, self._bin_count - 1)).astype(np.int64)

    def _count(self, values: Values) -> npt.NDArray[np.int64]:
        """How many values fall into each bin: `[components, bins]`."""
        columns = self._bins(values).T
        counted = [np.bincount(column[column >= 0], minlength=self._bin_count) for column in columns]
        return np.array(counted, dtype=np.int64)

    def _block(self, values: Values) -> Values:
        bins = self._bins(values)
        drawn = self._random.random(values.shape)
        self._drawn += values.size
        earlier = np.tri(len(values), k=-1, dtype=bool)
        p_values = np.full(values.shape, np.nan)
        for component, column in enumerate(bins.T):
            known = column >= 0
            counts = self.counts[component]
            upwards = np.cumsum(counts[::-1])[::-1]
            here = column[known]
            before = earlier[np.ix_(known, known)]
            larger = upwards[here] - counts[here] + ((here[None, :] > here[:, None]) & before).sum(1)
            ties = counts[here] + ((here[None, :] == here[:, None]) & before).sum(1)
            total = upwards[0] + np.arange(len(here))
            p_values[known, component] = (larger + drawn[known, component] * (ties + 1)) / (total + 1)
            self.counts[component] += np.bincount(here, minlength=self._bin_count)
        return p_values
