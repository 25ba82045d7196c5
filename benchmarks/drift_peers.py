"""Detectors of frouros and alibi-detect, judged in the environment that they are installed in.

    python -m benchmarks.drift_peers FOLDER TARGET NAME [NAME ...]

`benchmarks.drift` makes that environment and runs this in it. FOLDER holds the streams; what is found of each NAME
becomes FOLDER/NAME.json. Not here, for they are River's algorithms over again: Page-Hinkley, DDM, EDDM, HDDM and KSWIN
of frouros; nor its BOCD, whose time for a text grows with the stream (3 ms after 500).
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.drift_matching import Contender, Statistic, judge
from benchmarks.drift_streams import View, read

#: Texts of the window that is compared with the reference.
WINDOW = 50

SMALLEST = 1e-300


@dataclass(frozen=True)
class Chart(Statistic):
    """frouros' CUSUM and geometric moving average, of values in standard deviations; the statistic is their sum."""

    make: Callable[[], Any]

    def path(self, view: View) -> Iterator[float]:
        detector = self.make()
        warm, values = view.warm[self.signal], view.values[self.signal]
        centre, spread = float(warm.mean()), max(float(warm.std()), 1e-6)
        for value in ((warm - centre) / spread).tolist():
            detector.update(value=value)
        for value in ((values - centre) / spread).tolist():
            detector.update(value=value)
            yield float(detector.sum_)


class KolmogorovSmirnov(Statistic):
    """frouros' IncrementalKSTest of the newest values; the statistic is minus the logarithm of its p-value."""

    def path(self, view: View) -> Iterator[float]:
        from frouros.detectors.data_drift import IncrementalKSTest

        detector = IncrementalKSTest(window_size=WINDOW)
        detector.fit(X=view.warm[self.signal].astype(np.float64))
        for value in view.warm[self.signal][-WINDOW:].tolist():
            result, _ = detector.update(value=value)
        for value in view.values[self.signal].tolist():
            result, _ = detector.update(value=value)
            p_value = float(result.p_value)
            yield -math.log10(max(p_value, SMALLEST)) if math.isfinite(p_value) else 0.0


class StreamingMmd(Statistic):
    """frouros' MMDStreaming of sketches, its kernel as wide as the median distance.

    Compared with one reference text in three, as our distances are: with all of them a text takes 2 ms.
    """

    def path(self, view: View) -> Iterator[float]:
        from frouros.detectors.data_drift import MMDStreaming
        from frouros.utils.kernels import rbf_kernel
        from scipy.spatial.distance import pdist

        warm = view.warm["sketch"].astype(np.float64)
        width = float(np.median(pdist(warm[::3])))
        detector = MMDStreaming(window_size=WINDOW, kernel=partial(rbf_kernel, sigma=width))
        detector.fit(X=warm[::3])
        for value in warm[-WINDOW + 1 :]:
            detector.update(value=value)
        for value in view.values["sketch"].astype(np.float64):
            result, _ = detector.update(value=value)
            yield float(result.distance)


@dataclass(frozen=True)
class OnlineMmd(Statistic):
    """alibi-detect's MMDDriftOnline of sketches.

    Its threshold is a quantile over resamples of the reference, which for a run time of 10,000 would take 100,000 of
    them: minutes for each window. Here the rate measured sets it, for all windows alike: the kernel is as wide as the
    median distance of each. Of its own it gets as few as it runs with.
    """

    _made: dict[str, Any] = field(default_factory=dict)

    def path(self, view: View) -> Iterator[float]:
        detector = self._detector(view.stream.window, view.warm["sketch"])
        for value in view.values["sketch"].astype(np.float32):
            yield detector.predict(value)["data"]["test_stat"]

    def _detector(self, window: str, reference: npt.NDArray[np.floating]) -> Any:
        import torch
        from alibi_detect.cd import MMDDriftOnline

        if window not in self._made:
            torch.manual_seed(0)
            self._made.clear()
            self._made[window] = MMDDriftOnline(
                reference.astype(np.float32),
                ert=40,
                window_size=WINDOW,
                backend="pytorch",
                n_bootstraps=300,
                verbose=False,
                device="cpu",
            )
        self._made[window].reset_state()
        return self._made[window]


@dataclass(frozen=True)
class Frouros(Contender):
    """A detector of frouros' that knows its threshold; `make` takes its main parameter."""

    make: Callable[[float], Any]
    right: bool = False

    def first(self, parameter: float, view: View) -> int | None:
        detector = self.make(parameter)
        warm, values = view.warm[self.signal], view.values[self.signal]
        if self.right:
            warm, values = 1 - warm, 1 - values
        for value in warm.tolist():
            detector.update(value=value)
            if detector.drift:
                detector.reset()
        for at, value in enumerate(values.tolist()):
            detector.update(value=value)
            if detector.drift:
                return at
        return None


def _cusum() -> Any:
    from frouros.detectors.concept_drift import CUSUM, CUSUMConfig

    return CUSUM(CUSUMConfig(delta=0.25, lambda_=1e12))


def _moving_average() -> Any:
    from frouros.detectors.concept_drift import GeometricMovingAverage, GeometricMovingAverageConfig

    return GeometricMovingAverage(GeometricMovingAverageConfig(lambda_=1e12))


def _adwin(delta: float) -> Any:
    from frouros.detectors.concept_drift import ADWIN, ADWINConfig

    return ADWIN(ADWINConfig(delta=delta))


def _rddm(level: float) -> Any:
    from frouros.detectors.concept_drift import RDDM, RDDMConfig

    return RDDM(RDDMConfig(drift_level=level, warning_level=0.8 * level))


def _stepd(alpha: float) -> Any:
    from frouros.detectors.concept_drift import STEPD, STEPDConfig

    return STEPD(STEPDConfig(alpha_d=alpha, alpha_w=min(0.99, 2 * alpha)))


def peers() -> dict[str, Contender]:
    """All of them by a name for files, slowest first."""
    frouros = partial(Frouros, every=5, seeds=1, most=2_500)
    smirnov = partial(KolmogorovSmirnov, "frouros KS", loose=0.3, strict=100.0, every=5, seeds=1, most=2_500)
    chart = partial(Chart, loose=1e-2, strict=1e3, every=5, most=2_500)
    return {
        "frouros-mmd": StreamingMmd("frouros MMD", "sketch", 1e-5, 1.0, every=5, seeds=1, most=1_000),
        "alibi-mmd": OnlineMmd("alibi-detect MMD online", "sketch", 1e-4, 1.0, every=5, seeds=1, most=2_000),
        "frouros-stepd": frouros("frouros STEPD", "error", 0.3, 1e-12, _stepd, right=True),
        "frouros-ks-novelty": smirnov("novelty"),
        "frouros-ks-sentiment": smirnov("sentiment"),
        "frouros-ks-uncertainty": smirnov("uncertainty"),
        "frouros-adwin-novelty": frouros("frouros ADWIN", "novelty", 0.9, 1e-12, _adwin),
        "frouros-adwin-error": frouros("frouros ADWIN", "error", 0.9, 1e-12, _adwin),
        "frouros-rddm": frouros("frouros RDDM", "error", 0.5, 20, _rddm),
        "frouros-cusum-novelty": chart("frouros CUSUM", "novelty", make=_cusum),
        "frouros-cusum-error": chart("frouros CUSUM", "error", make=_cusum),
        "frouros-gma-novelty": chart("frouros GMA", "novelty", make=_moving_average),
        "frouros-gma-error": chart("frouros GMA", "error", make=_moving_average),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=float)
    parser.add_argument("names", nargs="+", choices=list(peers()))
    arguments = parser.parse_args()
    # The libraries' own deprecations are not what is judged here.
    warnings.simplefilter("ignore")
    views = read(arguments.folder)
    for name in arguments.names:
        judged = judge(peers()[name], views, arguments.target)
        judged.write(arguments.folder / f"{name}.json")
        print(f"{judged.title}: {judged.rate} at {judged.parameter:.3g}, {judged.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
