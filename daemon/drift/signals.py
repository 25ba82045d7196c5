"""What of a text is compared with the champion's reference window: values that are high where a text is unlike it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from daemon.drift import bets
from daemon.drift.bets import GENERAL, Bets
from daemon.drift.detector import Values
from daemon.drift.novelty import Neighbours, Sketches
from daemon.drift.wording import Wording

#: The components that every text has, in order; those of the label mix follow, one for each label.
INPUTS = ("meaning", "wording", "novelty", "length", "uncertainty")

#: The signal that the probabilities of all labels are components of.
MIX = "mix"

#: What is left of a probability's distance to 0 or 1 in float32 arithmetic.
SMALLEST = 1e-6


class Texts(NamedTuple):
    """Texts as they were scored: `sketches` `[n, dimensions]` float32, `probabilities` `[n, labels]`.

    A row of NaN is a text without a sketch, or one whose probabilities say nothing (the champion has learned it).
    """

    texts: Sequence[str]
    sketches: Sketches
    probabilities: Values

    def part(self, of: slice | npt.NDArray[np.int64]) -> "Texts":
        at = np.arange(len(self.texts))[of]
        return Texts([self.texts[one] for one in at], self.sketches[at], self.probabilities[at])


@dataclass(frozen=True)
class Signals:
    """Compares with some texts of the reference window, its neighbours.

    `centre` and `spread` `[components]` are of the neighbours' own values, each text compared with the others. They
    set a scale and nothing else.
    """

    neighbours: Neighbours
    wording: Wording
    centre: Values
    spread: Values
    bets: Sequence[Bets]

    @classmethod
    def of(cls, reference: Texts, nearest: int) -> Self:
        """`reference` are the neighbours, two at least; `nearest`: how many of them meaning is the distance to."""
        sketched = _whole(reference.sketches)
        neighbours = Neighbours(reference.sketches[sketched], nearest)
        meaning = np.full(len(sketched), np.nan)
        meaning[sketched] = neighbours.among()
        # Half is compared with the other half's grams: a text's own would be no surprise to it.
        wording = np.full(len(sketched), np.nan)
        wording[1::2] = Wording.of(reference.texts[::2]).score(reference.texts[1::2])
        scales = np.array([_spread(meaning), _spread(wording)])
        whole = Wording.of(reference.texts)
        values = _values(reference, meaning, wording, scales)
        centre = np.array([_mean(column) for column in values.T])
        spread = np.array([_spread(column) for column in values.T])
        known = reference.probabilities[_whole(reference.probabilities)]
        mix = [bets.on_mix(column) if len(column) else GENERAL for column in known.T]
        return cls(neighbours, whole, centre, spread, [GENERAL] * len(INPUTS) + mix)

    @property
    def groups(self) -> list[str]:
        return [*INPUTS, *[MIX] * (len(self.bets) - len(INPUTS))]

    def values(self, texts: Texts) -> Values:
        """`[n, components]`, NaN where a text has none. A text's values do not depend on the others."""
        meaning = np.full(len(texts.texts), np.nan)
        sketched = _whole(texts.sketches)
        if len(self.neighbours.sketches) and sketched.any():
            meaning[sketched] = self.neighbours.distance(texts.sketches[sketched])
        return _values(texts, meaning, self.wording.score(texts.texts), self.spread[:2])

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """All that `restored` needs: arrays and nothing that runs."""
        return {
            "neighbours": self.neighbours.sketches,
            "nearest": np.array([self.neighbours.nearest]),
            "wording": self.wording.counts,
            "scale": np.stack([self.centre, self.spread]),
            **{f"bets.{name}": table for name, table in bets.saved(self.bets).items()},
        }

    @classmethod
    def restored(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        sketches = np.asarray(state["neighbours"], dtype=np.float32)
        neighbours = Neighbours(sketches, int(np.asarray(state["nearest"]).item()))
        wording = Wording(np.asarray(state["wording"], dtype=np.uint32))
        centre, spread = np.asarray(state["scale"], dtype=np.float64)
        tables = {name.removeprefix("bets."): array for name, array in state.items() if name.startswith("bets.")}
        return cls(neighbours, wording, centre, spread, bets.restored(tables, len(centre)))


def _whole(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which rows have no NaN."""
    whole: npt.NDArray[np.bool_] = np.isfinite(rows).all(axis=1)
    return whole


def _values(texts: Texts, meaning: Values, wording: Values, scales: Values) -> Values:
    chances = texts.probabilities.astype(np.float64)
    length = np.log1p([float(len(text)) for text in texts.texts])
    uncertainty = np.log(np.maximum(1 - chances.max(axis=1), SMALLEST))
    novelty = meaning / scales[0] + wording / scales[1]
    mix = logit(np.clip(chances, SMALLEST, 1 - SMALLEST))
    return np.column_stack([meaning, wording, novelty, length, uncertainty, mix])


def _mean(values: Values) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _spread(values: Values) -> float:
    known = values[np.isfinite(values)]
    return max(float(known.std()), SMALLEST) if len(known) else 1.0
