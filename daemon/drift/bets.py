"""Betting against exchangeability: what a unit of stake becomes at each p-value.

A bet is a density on 0 to 1, so while p-values are uniform no bet gains on average. Several are needed, for a change
may make few or all texts new, or more usual than is usual (Vovk et al. 2021, "Retrain or not retrain: conformal test
martingales for change-point detection"; Shafer 2021, "Testing by betting").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daemon.drift.detector import Values

#: Beta densities, by their two parameters. The first two bet on values far above what is usual and a little above it,
#: the third far below, the last two on a shift either way.
SHAPES = ((0.1, 1.0), (0.35, 1.0), (1.0, 0.35), (1.0, 2.0), (2.0, 1.0))
RISING = (True, True, False, True, False)

#: What of the stake goes into a bet; the rest is kept. A mixture with one part in ten of something new is found soonest
#: by about a tenth, a whole change by all of it.
STAKES = (0.1, 0.3, 1.0)

#: P-values nearer to either end than this count as this near: of a thousand values before them nobody can tell them
#: apart. With a thousandth of it, a quarter of the boldest bet would lie where no p-value comes.
EDGE = 5e-4

#: How much of a label's share a change of the mix is bet to move, to it and from it, and into how many steps of the
#: p-value such a bet is cut.
MOVES = (0.1, 0.2, 0.35)
STEPS = 200

#: Of values that are 0 or 1: the shares of ones that may be usual, and by what they are bet to be multiplied. A share
#: in between is bet on by its neighbours, at some tenth less.
SHARES = (0.05, 0.1, 0.2, 0.35)
FACTORS = (0.4, 1.6, 2.4)


@dataclass(frozen=True)
class Bets:
    """Several bets on one component. `rising` `[bets]`: which of them win when its values rise.

    `table` `[STEPS, bets]` holds what each pays by p-value; None for the general ones.
    """

    rising: npt.NDArray[np.bool_]
    table: npt.NDArray[np.float64] | None = None

    def pay(self, p_values: Values) -> Values:
        """`[n, bets]` for `[n]`; 1 where the p-value is NaN."""
        known = np.isfinite(p_values)
        paid = np.ones((len(p_values), len(self.rising)))
        p = np.clip(p_values[known], EDGE, 1 - EDGE)
        paid[known] = _general(p) if self.table is None else self.table[(p * STEPS).astype(np.intp)]
        return paid


GENERAL = Bets(np.repeat(RISING, len(STAKES)))


def on_mix(probability: Values) -> Bets:
    """Bets that more, or fewer, texts are of a label, given its `probability` in reference texts `[n]`.

    If a share of the stream moves to the label from all others alike, a text is as much likelier as its probability
    says: that ratio, by where the probability stands among the reference's, is the best bet there is on the move.
    """
    usual = float(np.clip(probability.mean(), 1e-3, 1 - 1e-3))
    middles = (np.arange(STEPS) + 0.5) / STEPS
    # A small p-value is a high probability.
    falling = np.quantile(probability, 1 - middles)
    toward = falling / usual - (1 - falling) / (1 - usual)
    tables = []
    for move in MOVES:
        for signed in (min(move, 0.9 * (1 - usual)), -min(move, 0.9 * usual)):
            paid = np.maximum(1 + signed * toward, 0.02)
            tables.append(paid / paid.mean())
    return Bets(np.array([True, False] * len(MOVES)), np.stack(tables, axis=1))


def _on_share() -> Bets:
    tables = []
    middles = (np.arange(STEPS) + 0.5) / STEPS
    for usual in SHARES:
        for factor in FACTORS:
            share = usual * factor
            tables.append(np.where(middles < usual, factor, (1 - share) / (1 - usual)))
    return Bets(np.array([factor > 1 for _ in SHARES for factor in FACTORS]), np.stack(tables, axis=1))


#: Bets on values of 0 and 1: where ones are `usual`, their p-values are those below that share.
ON_SHARE = _on_share()


def _general(p: Values) -> Values:
    columns = []
    for first, second in SHAPES:
        # One of the two is 1, so the Beta function is one over the other, and the mass beyond the edge is as simple.
        power, near = (first, p) if second == 1 else (second, 1 - p)
        density = power * near ** (power - 1) / (1 - (1 - power) * EDGE**power)
        columns += [1 + stake * (density - 1) for stake in STAKES]
    return np.stack(columns, axis=1)


def saved(bets: Sequence[Bets]) -> dict[str, npt.NDArray[np.generic]]:
    """The tables of `bets`, by their place; what `restored` needs beside how many there are."""
    return {str(place): one.table for place, one in enumerate(bets) if one.table is not None}


def restored(tables: Mapping[str, npt.NDArray[np.generic]], count: int) -> list[Bets]:
    tabled = np.array([True, False] * len(MOVES))
    return [
        Bets(tabled, np.asarray(tables[str(place)], dtype=np.float64)) if str(place) in tables else GENERAL
        for place in range(count)
    ]
