"""Evidence that a part of the stream is no longer exchangeable with its own past, and since when.

On each component of the values several bets are made (`daemon.drift.bets`), and for each bet a Shiryaev-Roberts sum is
kept: what a unit staked at every text so far would have become. While nothing changes a sum grows by one a text on
average, whatever the bet; so does any weighted mean of them, and the expected time until one has reached N is at least
N (Shin, Ramdas & Rinaldo 2023, "E-detectors: a nonparametric framework for sequential change detection").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daemon.drift.bets import Bets
from daemon.drift.detector import Values
from daemon.drift.ranks import Ranks

#: No sum grows beyond this: what goes on changing would overflow, with the evidence turned off or in one long update.
MOST = 1e100


class _Taken(NamedTuple):
    """An update of which nobody has said yet how much counts."""

    values: Values
    factors: Values
    sums: Values
    moments: Values


_NOTHING = _Taken(np.empty((0, 0)), np.empty((0, 0)), np.empty((0, 0)), np.empty(0))


@dataclass(frozen=True)
class Leader:
    """The bet that holds the most evidence: its component, whether values rose, and when its winnings began.

    `since` counts the values of this part from 0; `moment` is what was given with that value.
    """

    component: int
    rose: bool
    since: int
    moment: float


class Evidence:
    """Takes `[n, components]` values. `groups` `[components]` names the signal of each.

    Signals weigh alike, unless `weights` say otherwise.
    """

    def __init__(
        self,
        groups: Sequence[str],
        bets: Sequence[Bets],
        ranks: Ranks,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._bets = list(bets)
        self.ranks = ranks
        self.groups = list(groups)
        sizes = [len(one.rising) for one in bets]
        self._component = np.repeat(np.arange(len(sizes)), sizes)
        self._rising = np.concatenate([one.rising for one in bets])
        whole = sum(weights.get(group, 1.0) for group in set(groups))
        shares = [weights.get(group, 1.0) / whole / self.groups.count(group) for group in groups]
        self._weights = np.repeat([share / size for share, size in zip(shares, sizes, strict=True)], sizes)
        self._seen = 0
        self._sums: Values = np.zeros(0)
        self._pending = _NOTHING
        self.reset()

    @property
    def value(self) -> float:
        """The weighted mean of the sums: N is worth one false alarm in N values."""
        return float(self._weights @ self._sums)

    def update(self, values: Values, moments: Values) -> Values:
        """Take the next `[n, components]` (NaN is no value) with a moment each; `value` after each of them, `[n]`.

        `keep` must follow: it says how many of them count.
        """
        factors = self._pay(self.ranks.p_values(values))
        grown = np.isfinite(values)[:, self._component].astype(np.float64)
        sums = np.empty_like(factors)
        running = self._sums.copy()
        for at in range(len(factors)):
            running += grown[at]
            running *= factors[at]
            np.minimum(running, MOST, out=running)
            sums[at] = running
        self._pending = _Taken(values, factors, sums, np.asarray(moments, dtype=np.float64))
        course: Values = sums @ self._weights
        return course

    @property
    def paid(self) -> Values:
        """What each bet paid at each value of the last update: `[n, bets]`, those of the first component first."""
        return self._pending.factors

    def keep(self, count: int) -> None:
        """Let the first `count` of the last update's values count, and forget the others."""
        taken = self._pending
        if count < len(taken.values):
            self.ranks.take_back(taken.values[count:])
        if count:
            self._sums = taken.sums[count - 1]
            self._date(np.log(taken.factors[:count]), taken.moments[:count])
            self._seen += count
        self._pending = _NOTHING

    def reset(self) -> None:
        """No evidence so far, against the same past."""
        bets = len(self._weights)
        self._sums = np.zeros(bets)
        # A bet's winnings began where its capital was at its lowest: Page's test, and the likeliest change point.
        self._path, self._low = np.zeros(bets), np.zeros(bets)
        self._since = np.full(bets, self._seen, dtype=np.int64)
        self._moment = np.full(bets, np.nan)
        self._pending = _NOTHING

    def leader(self) -> Leader:
        best = int(np.argmax(self._weights * self._sums))
        return Leader(
            int(self._component[best]), bool(self._rising[best]), int(self._since[best]), float(self._moment[best])
        )

    @property
    def seen(self) -> int:
        """How many values it has taken."""
        return self._seen

    def by_component(self) -> Values:
        """What each component adds to `value`: `[components]`."""
        amounts = np.bincount(self._component, self._weights * self._sums, minlength=len(self._bets))
        return amounts.astype(np.float64)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        sums = np.stack([self._sums, self._path, self._low, self._moment])
        return {"sums": sums, "since": self._since, "seen": np.array([self._seen]), **self.ranks.state()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on exactly as the evidence that gave `state`. Raises ValueError when it is of other bets."""
        sums = np.asarray(state["sums"], dtype=np.float64)
        if sums.shape != (4, len(self._weights)):
            raise ValueError(f"sums of shape {list(sums.shape)} saved, {[4, len(self._weights)]} expected")
        self._sums, self._path, self._low, self._moment = sums.copy()
        self._since = np.array(state["since"], dtype=np.int64)
        self._seen = int(np.asarray(state["seen"]).item())
        self.ranks.restore(state)

    def _pay(self, p_values: Values) -> Values:
        return np.concatenate([one.pay(p_values[:, at]) for at, one in enumerate(self._bets)], axis=1)

    def _date(self, winnings: Values, moments: Values) -> None:
        """Move each bet's lowest point on; the value after it is the first of its winnings."""
        count = len(winnings)
        # Added up in the order they came, so that it does not matter how the stream is cut.
        path = np.add.accumulate(np.concatenate([self._path[None], winnings]), axis=0)
        self._moment = np.where(np.isnan(self._moment), moments[0], self._moment)
        newest = count - np.argmin(path[1:][::-1], axis=0)
        lowest = path[newest, np.arange(path.shape[1])]
        lower = lowest <= self._low
        self._since = np.where(lower, self._seen + newest, self._since)
        # The next value's moment is not known yet where the lowest point is the last one.
        following = np.append(moments[1:], np.nan)[newest - 1]
        self._moment = np.where(lower, following, self._moment)
        self._low = np.where(lower, lowest, self._low)
        self._path = path[-1]
