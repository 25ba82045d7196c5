"""River's detectors of a classifier's errors: DDM, EDDM, HDDM-A and HDDM-W, all for rises alone."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from river.drift import binary

from daemon.drift.detector import Values
from daemon.drift.options import Options
from daemon.drift.river import RiverDetector, two_means


class DdmOptions(Options):
    warm_start: int = Field(30, ge=1)
    drift_threshold: float = Field(3.0, gt=1)


class EddmOptions(Options):
    warm_start: int = Field(30, ge=1)
    beta: float = Field(0.9, gt=0, lt=1)


class HddmAOptions(Options):
    drift_confidence: float = Field(0.001, gt=0, lt=1)


class HddmWOptions(Options):
    drift_confidence: float = Field(0.001, gt=0, lt=1)
    lambda_val: float = Field(0.05, gt=0, lt=1)


class _BinaryDetector(RiverDetector):
    """Watches errors: 1 where the score was wrong, else 0."""

    def _checked(self, values: npt.ArrayLike) -> Values:
        checked = super()._checked(values)
        other = np.flatnonzero((checked != 0) & (checked != 1))
        if other.size:
            raise ValueError(
                f"{self._name}: value {other[0]} of {checked.size} is {checked[other[0]]}; "
                "an error is 1 (the score was wrong) or 0"
            )
        return checked

    def _means(self) -> tuple[float, float]:
        return two_means(np.array(self._fed), only_rises=True)


class Ddm(_BinaryDetector):
    """Alarms when the share of errors since the start is `drift_threshold` deviations above its lowest.

    Gama, Medas, Castillo & Rodrigues 2004, "Learning with Drift Detection". Where no error came before the lowest, the
    first one alarms.
    """

    def __init__(self, name: str, options: DdmOptions) -> None:
        self._options = options
        super().__init__(name)

    def _make(self) -> Any:
        return binary.DDM(**self._options.model_dump())

    def _evidence(self) -> float:
        # River keeps the lowest share, and its deviation, to itself.
        lowest, deviation = self._river._p_min, self._river._s_min
        if lowest is None:
            return 0.0
        share = self._river._p.get()
        above = share + math.sqrt(share * (1 - share) / self._river._p.n) - lowest - deviation
        allowed = (self._options.drift_threshold - 1) * deviation
        return max(0.0, float(above / allowed)) if allowed else float(above > 0)


class Eddm(_BinaryDetector):
    """Alarms when errors follow each other at less than `beta` of the widest spacing so far (mean + 2 deviations).

    Baena-García et al. 2006, "Early Drift Detection Method". After `warm_start` values and errors; false alarms come
    soon after, while the widest is that of few errors. At the defaults a stream that stays the same alarms every
    thousand values or so (measured with a tenth of errors).
    """

    def __init__(self, name: str, options: EddmOptions) -> None:
        self._options = options
        super().__init__(name)

    def _make(self) -> Any:
        # River's alpha is the level of warnings, which nobody reads.
        return binary.EDDM(**self._options.model_dump(), alpha=1.0)

    def _evidence(self) -> float:
        # River keeps the spacings to itself.
        widest = self._river._p2s_prime_max
        if self._river._n_errors <= self._options.warm_start or widest <= 0:
            return 0.0
        spacing = self._river._error_distances
        level = (spacing.mean.get() + 2 * math.sqrt(spacing.get())) / widest
        return max(0.0, float((1 - level) / (1 - self._options.beta)))


class HddmA(_BinaryDetector):
    """Compares the share of errors since the start with its lowest so far by Hoeffding's bound: sudden changes.

    Frías-Blanco et al. 2014, "Online and Non-Parametric Drift Detection Methods Based on Hoeffding's Bounds", IEEE
    Transactions on Knowledge and Data Engineering 27.
    """

    def __init__(self, name: str, options: HddmAOptions) -> None:
        self._options = options
        super().__init__(name)

    def _make(self) -> Any:
        return binary.HDDMA(**self._options.model_dump())  # type: ignore[no-untyped-call]  # River's

    def _evidence(self) -> float:
        # River keeps both means to itself.
        lowest, overall = self._river._x_min, self._river._z
        if lowest.n == overall.n:
            return 0.0
        size = (overall.n - lowest.n) / (lowest.n * overall.n)
        bound = math.sqrt(size / 2 * math.log(2 / self._options.drift_confidence))
        return max(0.0, float(overall.get() - lowest.get()) / bound)


class HddmW(_BinaryDetector):
    """As HDDM-A, with means that forget at the rate `lambda_val`, by McDiarmid's bound: gradual changes.

    Source: see `HddmA`.
    """

    def __init__(self, name: str, options: HddmWOptions) -> None:
        self._options = options
        super().__init__(name)

    def _make(self) -> Any:
        return binary.HDDMW(**self._options.model_dump())  # type: ignore[no-untyped-call]  # River's

    def _evidence(self) -> float:
        # River keeps the means before and since the lowest to itself.
        before, since = self._river._s1_incr, self._river._s2_incr
        if not (before.is_init and since.is_init):
            return 0.0
        bound = math.sqrt((before.ibc + since.ibc) * math.log(1 / self._options.drift_confidence) / 2)
        return max(0.0, float(since.ewma - before.ewma) / bound)
