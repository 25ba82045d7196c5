"""Detectors held to the same rate of false alarms: the rate measured, thresholds tuned to it, delays taken at it.

Needs NumPy alone, so that detectors of other environments are judged by this code too.
"""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.drift_streams import STILL, View

#: Halvings of a bracket of thresholds, taken on a logarithmic scale, and how near to the rate asked for is near enough.
HALVINGS, NEAR = 14, 0.03

#: How far back a detector that is slow begins before a change: its window is full by then.
LEAD = 120


@dataclass(frozen=True)
class Rate:
    """False alarms over still texts.

    A stream ends with its first alarm or, censored, with its last text. Where alarms come at a constant rate, the
    texts of all streams over their alarms is its maximum-likelihood estimate; whatever the rate does, a detector whose
    expected evidence is at most the texts seen, and is at the threshold at an alarm, keeps this ratio above it.
    """

    texts: int
    alarms: int
    runs: int

    @classmethod
    def of(cls, firsts: Sequence[int | None], lengths: Sequence[int]) -> "Rate":
        """`firsts`: the place of each stream's first alarm; `lengths`: their texts."""
        seen = sum(long if first is None else first + 1 for first, long in zip(firsts, lengths, strict=True))
        return cls(seen, sum(first is not None for first in firsts), len(lengths))

    @classmethod
    def sum(cls, rates: Sequence["Rate"]) -> "Rate":
        return cls(
            *(sum(numbers) for numbers in zip(*((one.texts, one.alarms, one.runs) for one in rates), strict=True))
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Rate":
        return cls(**json.loads(path.read_text()))

    @property
    def mean(self) -> float:
        """Texts to a false alarm; infinite where there was none."""
        return self.texts / self.alarms if self.alarms else math.inf

    @property
    def error(self) -> float:
        """One standard error of the mean: alarms are rare and independent, so their count is Poisson."""
        return self.mean / math.sqrt(self.alarms) if self.alarms else math.inf

    def holds(self, nominal: float) -> bool:
        """Whether so many alarms or more would come by chance, once in 40 times at least, at the nominal rate."""
        expected = self.texts / nominal
        fewer = sum(math.exp(-expected + at * math.log(expected) - math.lgamma(at + 1)) for at in range(self.alarms))
        return 1 - fewer >= 0.025

    def __str__(self) -> str:
        return f"{self.mean:,.0f} ± {self.error:,.0f}" if self.alarms else f"over {self.texts:,}"


@dataclass(frozen=True)
class Contender(ABC):
    """A detector on one signal; `loose` and `strict` bracket its main parameter, from many alarms to few.

    It is tuned on one still stream in `every`, of at most `most` texts, and judged on the first `seeds` seeds: all, or
    as few as its speed allows.
    """

    name: str
    signal: str
    loose: float
    strict: float
    every: int = field(default=1, kw_only=True)
    most: int = field(default=10**9, kw_only=True)
    seeds: int = field(default=10**9, kw_only=True)

    @abstractmethod
    def first(self, parameter: float, view: View) -> int | None:
        """The place of its first alarm, the warm part fed to it before without a look at its alarms."""


class Statistic(Contender):
    """A contender that alarms when a statistic, which does not know the threshold, reaches it."""

    @abstractmethod
    def path(self, view: View) -> Iterable[float]:
        """The statistic after each text."""

    def first(self, parameter: float, view: View) -> int | None:
        return next((at for at, value in enumerate(self.path(view)) if value >= parameter), None)


@dataclass(frozen=True)
class Judged:
    """`found[key]`: texts from a stream's change to the alarm, 1 for an alarm at its first text; None for none."""

    name: str
    signal: str
    parameter: float
    target: float
    rate: Rate
    found: dict[str, int | None]
    seconds: float

    @property
    def title(self) -> str:
        return f"{self.name}, {self.signal}" if self.signal else self.name

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Judged":
        row = json.loads(path.read_text())
        return cls(**{**row, "rate": Rate(**row["rate"])})


def judge(contender: Contender, views: Sequence[View], target: float, parameter: float | None = None) -> Judged:
    """Tune it to a false alarm in `target` still texts, then let it find the changes; `parameter` is taken as it is."""
    started = time.monotonic()
    quiet = [view for view in views if view.stream.kind == STILL][:: contender.every]
    quiet = [_cut(view, contender.most) for view in quiet]
    lengths = [len(view) for view in quiet]
    firsts = _firsts(contender, quiet)
    if parameter is None:
        parameter, rate = tune(firsts, lengths, target, contender.loose, contender.strict)
    else:
        rate = Rate.of(firsts(parameter), lengths)
    found = {}
    for view in views:
        if view.stream.kind != STILL and view.stream.seed < contender.seeds:
            late = 0 if contender.every == 1 else max(0, view.stream.change - LEAD)
            found[view.stream.key] = delay(contender, parameter, view.after(late))
    return Judged(contender.name, contender.signal, parameter, target, rate, found, time.monotonic() - started)


def tune(
    firsts: Callable[[float], Sequence[int | None]],
    lengths: Sequence[int],
    target: float,
    loose: float,
    strict: float,
) -> tuple[float, Rate]:
    """The parameter between `loose` and `strict` whose measured mean time to an alarm is nearest `target`.

    The mean time must rise from the one to the other. Nearest is by ratio; of equals, the one tried last, which is
    the loosest of those that never alarm.
    """
    tried: list[tuple[float, float, Rate]] = []

    def miss(parameter: float) -> float:
        rate = Rate.of(firsts(parameter), lengths)
        # No alarm at all says of the rate that it is low: it counts as half a one, and as too strict.
        off = math.log(rate.mean / target) if rate.alarms else max(2 * NEAR, math.log(2 * rate.texts / target))
        tried.append((abs(off), parameter, rate))
        return off

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        off = miss(loose * (strict / loose) ** middle)
        if abs(off) < NEAR:
            break
        low, high = (middle, high) if off < 0 else (low, middle)
    _, parameter, rate = min(reversed(tried), key=lambda one: one[0])
    return parameter, rate


def delay(contender: Contender, parameter: float, view: View) -> int | None:
    """Texts from the change to the first alarm after it; a detector that alarms before the change starts again."""
    change, start = view.stream.change - view.start, 0
    while (first := contender.first(parameter, view.after(start))) is not None:
        if start + first >= change:
            return start + first - change + 1
        start += first + 1
    return None


def median(found: Sequence[int | None], horizon: int) -> float:
    """The median delay, where what was not found within `horizon` counts as `horizon`."""
    return float(np.median([horizon if one is None else min(one, horizon) for one in found]))


def _firsts(contender: Contender, quiet: Sequence[View]) -> Callable[[float], list[int | None]]:
    if not isinstance(contender, Statistic):
        return lambda parameter: [contender.first(parameter, view) for view in quiet]
    # The statistic does not know its threshold: one path tells of all.
    records = [_records(np.fromiter(contender.path(view), dtype=np.float64)) for view in quiet]
    return lambda parameter: [_reached(*record, parameter) for record in records]


def _records(path: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Where the path was higher than ever before, and how high."""
    highest = np.maximum.accumulate(path)
    places = np.flatnonzero(np.r_[True, highest[1:] > highest[:-1]])
    return places, highest[places]


def _reached(places: npt.NDArray[np.int64], heights: npt.NDArray[np.float64], threshold: float) -> int | None:
    at = int(np.searchsorted(heights, threshold))
    return int(places[at]) if at < len(places) else None


def _cut(view: View, most: int) -> View:
    if len(view) <= most:
        return view
    values = {name: array[:most] for name, array in view.values.items()}
    stream = replace(view.stream, texts=view.stream.texts[:most], flipped=view.stream.flipped[:most], change=most)
    return replace(view, stream=stream, values=values)
