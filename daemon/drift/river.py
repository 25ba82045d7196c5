"""River's ADWIN, KSWIN and Page-Hinkley as detectors."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from river import drift
from scipy import stats

from daemon.drift.detector import Change, Values, finite
from daemon.drift.options import Options

#: River's objects cannot be saved without pickle, so a detector's state is the values it has seen since it was reset,
#: and restoring feeds them again. This bounds the state (40 kB) and the restart (0.1 s at most).
MAX_VALUES = 5_000

#: The fewest values on either side of where a change may be placed: a mean of fewer says little.
MIN_SIDE = 5


class AdwinOptions(Options):
    delta: float = Field(0.002, gt=0, lt=1)
    clock: int = Field(32, ge=1)
    max_buckets: int = Field(5, ge=2)
    min_window_length: int = Field(5, ge=1)
    grace_period: int = Field(10, ge=0)


class KswinOptions(Options):
    alpha: float = Field(0.005, gt=0, lt=1)
    window_size: int = Field(100, ge=4)
    stat_size: int = Field(30, ge=2)

    @model_validator(mode="after")
    def _has_an_older_part(self) -> "KswinOptions":
        if self.window_size < 2 * self.stat_size:
            raise ValueError("window_size must be at least twice stat_size, which is drawn from its older part")
        return self


class PageHinkleyOptions(Options):
    min_instances: int = Field(30, ge=1)
    delta: float = Field(0.005, ge=0)
    threshold: float = Field(50.0, gt=0)
    alpha: float = Field(1 - 0.0001, gt=0, le=1)


class RiverDetector(ABC):
    """A River detector that is a function of `_fed`: the values since the last reset, at most `MAX_VALUES`.

    When they are full, the detector is made anew from their newer half. What River alarms at while it is fed values
    again was not an alarm in life, so nothing is made of it: River resets itself at the next value.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.reset()

    @property
    def statistic(self) -> float:
        return min(1.0, self._evidence()) if self._fed else 0.0

    def update(self, values: Values) -> list[Change]:
        changes: list[Change] = []
        for index, value in enumerate(self._checked(values).tolist()):
            if len(self._fed) == MAX_VALUES:
                self._feed_again(self._fed[MAX_VALUES // 2 :])
            self._fed.append(value)
            self._river.update(value)
            if self._river.drift_detected:
                before, after = self._means()
                changes.append(Change(index, max(1.0, self._evidence()), before, after))
                self.reset()
        return changes

    def reset(self) -> None:
        self._fed: list[float] = []
        self._river: Any = self._make()

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        return {"values": np.array(self._fed, dtype=np.float64)}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        values = finite(state["values"], f"{self._name}, saved values")
        if values.size > MAX_VALUES:
            raise ValueError(f"{self._name}: {values.size} saved values; a detector keeps {MAX_VALUES} at most")
        self._feed_again(values.tolist())

    def _checked(self, values: npt.ArrayLike) -> Values:
        """`values` as `[n]`. Raises ValueError: the detector cannot judge one of them."""
        return finite(values, self._name)

    def _feed_again(self, values: list[float]) -> None:
        self._fed = values
        self._river = self._make()
        for value in values:
            self._river.update(value)

    @abstractmethod
    def _make(self) -> Any:
        """A new River detector."""

    @abstractmethod
    def _evidence(self) -> float:
        """How far it is from no evidence (0) to an alarm (1); there are values."""

    @abstractmethod
    def _means(self) -> tuple[float, float]:
        """The signal before and after the change just found."""


class Adwin(RiverDetector):
    """Adaptive windowing: alarms when some cut of its window leaves two means too far apart (two-sided).

    Bifet & Gavaldà 2007, "Learning from Time-Changing Data with Adaptive Windowing". The bound is for values within
    0 to 1, or of about that size.
    """

    def __init__(self, name: str, options: AdwinOptions) -> None:
        self._options = options
        super().__init__(name)

    def _make(self) -> Any:
        return drift.ADWIN(**self._options.model_dump())  # type: ignore[no-untyped-call]  # River's

    def _evidence(self) -> float:
        """The largest distance between the means of a cut, over the distance that ADWIN's bound allows it.

        ADWIN cuts between buckets that grow exponentially with age; so do these cuts, at their own places.
        """
        values = np.array(self._fed)
        total, least = len(values), self._options.min_window_length
        recent = np.unique(np.geomspace(1, max(1, total - 1), 64).astype(np.intp))
        recent = recent[(recent >= least) & (total - recent >= least)]
        if recent.size == 0 or total <= self._options.grace_period:
            return 0.0
        old = total - recent
        tail = np.cumsum(values[::-1])[recent - 1]
        gap = np.abs(tail / recent - (values.sum() - tail) / old)
        scale = 1 / (recent - least + 1) + 1 / (old - least + 1)
        surprise = math.log(2 * math.log(total) / self._options.delta)
        bound = np.sqrt(2 * scale * values.var() * surprise) + 2 / 3 * scale * surprise
        return float(np.max(gap / bound))

    def _means(self) -> tuple[float, float]:
        return two_means(np.array(self._fed))


class PageHinkley(RiverDetector):
    """Page's cumulative sum of deviations from the running mean, for rises alone.

    Page 1954, "Continuous Inspection Schemes", Biometrika 41.
    """

    def __init__(self, name: str, options: PageHinkleyOptions) -> None:
        self._options = options
        super().__init__(name)

    def _make(self) -> Any:
        return drift.PageHinkley(**self._options.model_dump(), mode="up")

    def _evidence(self) -> float:
        # River keeps the sums to itself.
        if len(self._fed) < self._options.min_instances:
            return 0.0
        return float(self._river._sum_increase - self._river._min_increase) / self._options.threshold

    def _means(self) -> tuple[float, float]:
        return two_means(np.array(self._fed), only_rises=True)


class Kswin(RiverDetector):
    """Compares the newest values with a sample of older ones by a Kolmogorov-Smirnov test (two-sided).

    Raab, Heusinger & Schleif 2020, "Reactive Soft Prototype Computing for Concept Drift Streams", Neurocomputing.
    It tests at every value, so `alpha` must be far below the false alarms one wants per value.
    """

    def __init__(self, name: str, options: KswinOptions, seed: int) -> None:
        self._options = options
        self._seed = seed
        super().__init__(name)

    def _make(self) -> Any:
        return _TabledKSWIN(**self._options.model_dump(), seed=self._seed)

    def _evidence(self) -> float:
        """The logarithm of the p-value over that of `alpha`."""
        if len(self._river.window) < self._options.window_size:
            return 0.0
        # A p-value may underflow; the smallest normal float keeps its logarithm finite.
        p_value = max(self._river.p_value, np.finfo(np.float64).tiny)
        return max(0.0, math.log(p_value) / math.log(self._options.alpha))

    def _means(self) -> tuple[float, float]:
        return two_means(np.array(self._fed[-self._options.window_size :]))


class _TabledKSWIN(drift.KSWIN):
    """River's KSWIN with the same alarms, several times as fast.

    With equal sample sizes the p-value depends on the statistic alone, which takes `stat_size` + 1 values: River has
    SciPy compute it for every value of the stream, here it is computed once.
    """

    def update(self, x: float) -> None:
        if self.drift_detected:
            self._reset()  # type: ignore[no-untyped-call]  # River's
        self.n += 1
        self.window.append(x)
        if len(self.window) < self.window_size:
            return
        size, older = self.stat_size, self.window_size - self.stat_size
        window = list(self.window)
        sample = np.sort([window[at] for at in self._rng.sample(range(older), size)])
        newest = np.sort(window[older:])
        both = np.concatenate([sample, newest])
        counts = np.searchsorted(sample, both, side="right") - np.searchsorted(newest, both, side="right")
        distance = int(np.abs(counts).max())
        self.p_value = _p_value(distance, size)  # type: ignore[assignment]  # River starts it as an int
        self._drift_detected = self.p_value <= self.alpha and distance > 0.1 * size


@cache
def _p_value(distance: int, size: int) -> float:
    """Of two samples of `size` whose empirical distributions differ by `distance` / `size` at most."""
    sample = np.arange(size)
    with warnings.catch_warnings():
        # Where rounding takes an exact p-value past 1, SciPy takes the asymptotic one instead and warns of it.
        warnings.simplefilter("ignore", category=RuntimeWarning)
        return float(stats.ks_2samp(sample, sample + distance).pvalue)


def two_means(values: Values, *, only_rises: bool = False) -> tuple[float, float]:
    """The means on either side of the likeliest change: the cut with the largest cumulative-sum statistic."""
    total = values.size
    side = min(MIN_SIDE, total // 2)
    if side == 0:
        return float(values.mean()), float(values.mean())
    old = np.arange(side, total - side + 1)
    head = np.cumsum(values)[old - 1]
    before, after = head / old, (values.sum() - head) / (total - old)
    gain = (after - before) * np.sqrt(old * (total - old) / total)
    best = np.argmax(gain if only_rises else np.abs(gain))
    return float(before[best]), float(after[best])
