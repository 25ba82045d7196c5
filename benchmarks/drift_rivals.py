"""River's detectors, the daemon's own other ones, and two that look at nothing, as contenders."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from river import drift
from river.drift import binary

from benchmarks.drift_matching import Contender, Statistic
from benchmarks.drift_streams import View
from daemon.drift.classifier import Classifier, ClassifierOptions
from daemon.drift.mmd import Mmd, MmdOptions
from daemon.drift.river import _TabledKSWIN
from daemon.drift.two_sample import TwoSample

#: The signals that a detector of single values can watch.
INPUTS = ("novelty", "meaning", "uncertainty", "sentiment")
ALL = (*INPUTS, "error")

#: A p-value this small is as small as any: what is left of one in float64.
SMALLEST = 1e-300


@dataclass(frozen=True)
class River(Contender):
    """A detector of River's; `make` takes its main parameter. It begins with the reference window's values.

    `standard`: values are taken in standard deviations from the mean of the reference window.
    """

    make: Callable[[float], Any]
    standard: bool = False

    def first(self, parameter: float, view: View) -> int | None:
        detector = self.make(parameter)
        warm, values = view.warm[self.signal], view.values[self.signal]
        if self.standard:
            centre, spread = warm.mean(), max(float(warm.std()), 1e-6)
            warm, values = (warm - centre) / spread, (values - centre) / spread
        for value in warm.tolist():
            detector.update(value)
        for at, value in enumerate(values.tolist()):
            detector.update(value)
            if detector.drift_detected:
                return at
        return None


class Kswin(Statistic):
    """River's KSWIN at its default windows; the statistic is minus the logarithm of its p-value."""

    def path(self, view: View) -> Iterator[float]:
        detector = _TabledKSWIN(alpha=SMALLEST, window_size=100, stat_size=30, seed=view.stream.number)
        for value in view.warm[self.signal][-100:].tolist():
            detector.update(value)
        for value in view.values[self.signal].tolist():
            detector.update(value)
            yield -math.log10(max(detector.p_value, SMALLEST))


@dataclass(frozen=True)
class Windows(Statistic):
    """The daemon's test of the newest sketches against the first ones, at its default windows."""

    make: Callable[[int], TwoSample]
    reference: int
    window: int
    clock: int

    def path(self, view: View) -> Iterator[float]:
        detector = self.make(view.stream.number)
        warm, values = view.warm["sketch"], view.values["sketch"]
        detector.update(np.concatenate([warm[: self.reference], warm[-self.window :]]).astype(np.float64))
        for start in range(0, len(values), self.clock):
            part = values[start : start + self.clock].astype(np.float64)
            # It alarms at the least p-value there is, where its statistic is 1.
            alarmed = bool(detector.update(part))
            # A part has its test at its last text.
            yield from [0.0] * (len(part) - 1)
            yield 1.0 if alarmed else detector.statistic


class Interval(Contender):
    """An alarm every so many texts, whatever they are; where the first one comes is drawn."""

    def first(self, parameter: float, view: View) -> int | None:
        every = round(parameter)
        drawn = np.random.default_rng(view.stream.number).random()
        until = -(view.start + int(drawn * every) + 1) % every
        return until if until < len(view) else None


class Never(Contender):
    def first(self, parameter: float, view: View) -> int | None:  # noqa: ARG002
        return None


#: How many of a test's permutations have to be at least as far apart: p-values are no finer than one in so many.
PERMUTATIONS = 1_999


def _mmd(seed: int) -> TwoSample:
    return Mmd("mmd", MmdOptions(permutations=PERMUTATIONS, alpha=1 / (PERMUTATIONS + 1)), seed)


def _classifier(seed: int) -> TwoSample:
    return Classifier("classifier", ClassifierOptions(alpha=1e-12), seed)


def _adwin(delta: float) -> Any:
    return drift.ADWIN(delta=delta)  # type: ignore[no-untyped-call]


def _page_hinkley(threshold: float) -> Any:
    return drift.PageHinkley(threshold=threshold)


def _page_hinkley_standard(threshold: float) -> Any:
    # A quarter of a standard deviation: half the shift that it is to find soonest (Page 1954).
    return drift.PageHinkley(threshold=threshold, delta=0.25)


def _ddm(threshold: float) -> Any:
    return binary.DDM(drift_threshold=threshold)


def _eddm(distance: float) -> Any:
    return binary.EDDM(alpha=1.0, beta=1 - distance)


def _hddm_a(confidence: float) -> Any:
    return binary.HDDMA(drift_confidence=confidence)  # type: ignore[no-untyped-call]


def _hddm_w(confidence: float) -> Any:
    return binary.HDDMW(drift_confidence=confidence)  # type: ignore[no-untyped-call]


def rivals() -> list[Contender]:
    """All of them, slowest first."""
    mmd, tree = MmdOptions(), ClassifierOptions()
    windows = partial(Windows, signal="sketch", loose=1e-3, strict=1.0, every=5, most=2_500, seeds=1)
    return [
        windows("MMD window", make=_mmd, reference=mmd.reference, window=mmd.window, clock=mmd.clock),
        windows(
            "domain classifier", make=_classifier, reference=tree.reference, window=tree.reference, clock=tree.clock
        ),
        *[River("River HDDM-W", signal, 0.5, 1e-12, _hddm_w, every=5) for signal in ("error", "uncertainty")],
        *[River("River HDDM-A", signal, 0.5, 1e-12, _hddm_a, every=5) for signal in ("error", "uncertainty")],
        *[Kswin("River KSWIN", signal, 0.3, 30.0) for signal in ALL],
        River("River EDDM", "error", 0.01, 0.99, _eddm),
        River("River DDM", "error", 1.5, 20, _ddm),
        *[River("River Page-Hinkley", signal, 0.1, 1e3, _page_hinkley) for signal in ALL],
        *[
            River("River Page-Hinkley, δ ¼ sd", signal, 0.5, 500, _page_hinkley_standard, standard=True)
            for signal in ALL
        ],
        *[River("River ADWIN", signal, 0.9, 1e-12, _adwin) for signal in ALL],
        *[River("River ADWIN, in sd", signal, 0.9, 1e-12, _adwin, standard=True) for signal in INPUTS],
        Interval("every so many texts", "", 100.0, 1e6),
        Never("never", "", 1.0, 2.0),
    ]
