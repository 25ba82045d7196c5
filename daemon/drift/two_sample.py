"""Detectors that ask, every so many sketches, whether the newest are like the first."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daemon.drift.detector import Change, Values, finite
from daemon.drift.novelty import Sketches


@dataclass(frozen=True)
class Verdict:
    """Of a test: how likely samples of one kind are as far apart, 0 to 1.

    `before` is how far apart they are expected to be and `after` how far they are, by the test's own measure.
    """

    p_value: float
    before: float
    after: float


#: Compares a window `[window, dimensions]` with the reference that it was made for.
Test = Callable[[Sketches], Verdict]


class TwoSample(ABC):
    """Tests the newest `window` sketches against the first `reference`, every `clock`; alarms at p-values to `alpha`.

    Neighbouring tests share most of their window, and all share the reference: of a stream that stays the same, a
    share `alpha` of the tests alarms, several in a row or none.
    """

    def __init__(self, name: str, *, reference: int, window: int, clock: int, alpha: float) -> None:
        """`alpha` is below one half."""
        self._name = name
        self._sizes = (reference, window, clock)
        self._alpha = alpha
        self.reset()

    @property
    def statistic(self) -> float:
        return min(1.0, self._evidence)

    def update(self, values: Values) -> list[Change]:
        sketches = self._checked(values)
        changes: list[Change] = []
        taken = 0
        while taken < len(sketches):
            coming = sketches[taken : taken + self._missing]
            taken += len(coming)
            self._take(coming)
            if self._missing:
                break
            verdict = self._compare()
            if verdict.p_value <= self._alpha:
                changes.append(Change(taken - 1, max(1.0, self._evidence), verdict.before, verdict.after))
                self.reset()
        return changes

    def reset(self) -> None:
        reference, window, _ = self._sizes
        #: The first `reference` sketches and the newest `window` after them.
        self._kept: Sketches = np.empty((0, 0), dtype=np.float32)
        #: How many sketches are to come until the next test.
        self._missing = reference + window
        self._evidence = 0.0
        self._test: Test | None = None

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        return {
            "sketches": self._kept,
            "sizes": np.array(self._sizes),
            "missing": np.array([self._missing]),
            "evidence": np.array([self._evidence]),
        }

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """As `Detector.restore`; begins anew where other sizes were configured when `state` was saved."""
        self.reset()
        if tuple(state["sizes"].tolist()) == self._sizes:
            self._kept = self._checked(state["sketches"])
            self._missing = int(state["missing"][0])
            self._evidence = float(state["evidence"][0])

    def _checked(self, values: npt.ArrayLike) -> Sketches:
        with np.errstate(over="ignore"):
            sketches = np.asarray(values).astype(np.float32)
        finite(sketches, self._name, axes=2)
        if len(self._kept) and len(sketches) and sketches.shape[1] != self._kept.shape[1]:
            raise ValueError(
                f"{self._name}: sketches have {sketches.shape[1]} dimensions and those before "
                f"{self._kept.shape[1]}: they come from different models; reset the detector first"
            )
        return sketches

    def _take(self, sketches: Sketches) -> None:
        reference, window, _ = self._sizes
        self._missing -= len(sketches)
        kept = np.concatenate([self._kept, sketches]) if len(self._kept) else sketches.copy()
        full = len(kept) > reference + window
        self._kept = np.concatenate([kept[:reference], kept[-window:]]) if full else kept

    def _compare(self) -> Verdict:
        reference, _, clock = self._sizes
        if self._test is None:
            self._test = self._against(self._kept[:reference])
        verdict = self._test(self._kept[reference:])
        self._missing = clock
        # Half of all p-values of a stream that stays the same are above one half: those are no evidence at all.
        p_value = min(0.5, max(verdict.p_value, np.finfo(np.float64).tiny))
        self._evidence = max(0.0, math.log(2 * p_value) / math.log(2 * self._alpha))
        return verdict

    @abstractmethod
    def _against(self, reference: Sketches) -> Test:
        """The test of windows against `reference` `[reference, dimensions]`; a function of nothing else."""
