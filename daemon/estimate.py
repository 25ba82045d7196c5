"""How good the live scores probably are, before anybody has said so: accuracy read off the model's own confidence.

A text scored with a top probability of 0.8 is right 8 times in 10, if confidence means what it says; so the mean top
probability is the accuracy (confidence-based performance estimation, CBPE, as in NannyML). Where the stream has moved
away from what the model knows, confidence means something else, and only labels tell what: as they come, late, they
recalibrate it. Until they do, a concept that changed under the same words stays unseen here.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.optimize import minimize
from scipy.special import expit, logit

#: Texts without which nothing is estimated: the sampling error of fewer is above 14 points.
LEAST = 50

#: Labels that confidence is recalibrated from, at most. On streams that moved seven times, longer windows speak of what
#: was before: 2,000 triple the error of 300. Where nothing moves, 300 cost less than a point against 2,000.
LABELS = 300

#: Confidence is logit(p); how often it is right, a + b * logit(p) (Platt 1999), with a ~ N(0, 1) and b ~ N(1, 0.25²)
#: before any label. So a handful of labels changes little, and three hundred are believed even where the model is right
#: on 14 % and says 70 %. Two numbers, because a curve with more (isotonic regression) needs several times the labels.
SPREAD = np.array([1.0, 0.25])
PLAIN = np.array([0.0, 1.0])

#: What is more sure than this counts as this sure: one certain mistake says little of how sure the rest may be.
SUREST = 0.999

#: Standard errors to either side that hold 95 %.
Z95 = 1.96

Floats = npt.NDArray[np.float64]


class Estimated(NamedTuple):
    """Accuracy of the window's texts, and the interval that holds the true one 19 times in 20. All are 0 to 1.

    The interval has the chance in which texts are in the window, and in which labels came. It takes for granted that
    the latest labels still speak of the latest texts.
    """

    accuracy: float
    lower: float
    upper: float


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    confidences: list[float]
    outcomes: list[tuple[float, bool]]


class Estimate:
    """Accuracy over the last `window` scored texts of the current version, of which the last `labels` known outcomes
    say what its confidence means.

    How the stream is cut into batches changes nothing.
    """

    def __init__(self, version: str, *, window: int, labels: int = LABELS) -> None:
        """`version` is the champion."""
        self._window = window
        self._labels = labels
        self._estimated: Estimated | None = None
        self._begin(version)

    def scored(self, confidences: Iterable[float]) -> None:
        """The top probabilities of the next texts that the current version has scored, oldest first.

        Raises:
            ValueError: one of them is no probability; none was taken.
        """
        self._confidences.extend(_checked(confidences))
        self._estimated = None

    def labelled(self, confidences: Iterable[float], right: Iterable[bool]) -> None:
        """Labels that came: the top probability that the current version gave each text, and whether it was right.

        Raises:
            ValueError: one of them is no probability, or there are more of one than of the other; none was taken.
        """
        self._outcomes.extend(list(zip(_checked(confidences), map(bool, right), strict=True)))
        self._estimated = None

    def swap(self, version: str) -> None:
        """`version` is champion from here on: another model's confidence means something else."""
        self._begin(version)

    @property
    def texts(self) -> int:
        """Texts in the window."""
        return len(self._confidences)

    @property
    def labels(self) -> int:
        """Outcomes that recalibrate; without any, the model's confidence is taken at its word."""
        return len(self._outcomes)

    @property
    def estimated(self) -> Estimated | None:
        """None before the window has `LEAST` texts, or is full."""
        if self._estimated is None and len(self._confidences) >= min(LEAST, self._window):
            known = np.array(self._outcomes, dtype=np.float64).reshape(-1, 2)
            self._estimated = estimate(np.array(self._confidences), known[:, 0], known[:, 1])
        return self._estimated

    @property
    def accuracy(self) -> float | None:
        return self.estimated.accuracy if self.estimated else None

    @property
    def lower(self) -> float | None:
        return self.estimated.lower if self.estimated else None

    @property
    def upper(self) -> float | None:
        return self.estimated.upper if self.estimated else None

    def state(self) -> dict[str, object]:
        """Plain lists, texts and numbers that JSON can hold: all that `restored` needs."""
        state = _State(version=self.version, confidences=list(self._confidences), outcomes=list(self._outcomes))
        return state.model_dump(mode="json")

    @classmethod
    def restored(cls, state: object, *, window: int, labels: int = LABELS) -> Self:
        """Goes on exactly as the one that gave `state`. Smaller bounds than it had forget the oldest.

        Raises:
            pydantic.ValidationError: this is not what `state` gives.
        """
        saved = _State.model_validate(state)
        self = cls(saved.version, window=window, labels=labels)
        self._confidences.extend(saved.confidences)
        self._outcomes.extend(saved.outcomes)
        return self

    def _begin(self, version: str) -> None:
        self.version = version
        self._confidences: deque[float] = deque(maxlen=self._window)
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=self._labels)
        self._estimated = None


def estimate(confidences: Floats, known: Floats, right: Floats) -> Estimated:
    """The accuracy of texts scored with `confidences` `[texts]`, given `known` ones `[labels]` that were `right` or not
    (1 or 0).
    """
    fitted, covariance = recalibration(known, right)
    inputs = _inputs(confidences)
    chances = expit(inputs @ fitted)
    variances = chances * (1 - chances)
    # By the delta method: how the mean of the chances moves with what was fitted.
    slope = variances @ inputs / len(inputs)
    error = float(np.sqrt(variances.sum() / len(inputs) ** 2 + slope @ covariance @ slope))
    accuracy = float(chances.mean())
    return Estimated(accuracy, max(0.0, accuracy - Z95 * error), min(1.0, accuracy + Z95 * error))


def recalibration(known: Floats, right: Floats) -> tuple[Floats, Floats]:
    """The likeliest a and b `[2]` given the prior, and the covariance `[2, 2]` that chance in the labels gives them.

    Without labels it is none: there is nothing that chance could have moved.
    """
    inputs = _inputs(known)
    precision = np.diag(SPREAD**-2)

    def cost(fit: Floats) -> float:
        scores = inputs @ fit
        return float(np.sum(np.logaddexp(0, scores) - right * scores) + np.sum(((fit - PLAIN) / SPREAD) ** 2) / 2)

    def gradient(fit: Floats) -> Floats:
        slope: Floats = (expit(inputs @ fit) - right) @ inputs + precision @ (fit - PLAIN)
        return slope

    def information(fit: Floats) -> Floats:
        chances = expit(inputs @ fit)
        fisher: Floats = (inputs.T * (chances * (1 - chances))) @ inputs
        return fisher

    # Strictly convex, so there is one best and it is found.
    found = minimize(cost, PLAIN, method="trust-exact", jac=gradient, hess=lambda fit: information(fit) + precision).x
    of_labels = information(found)
    inverse = np.linalg.inv(of_labels + precision)
    # The sandwich: the prior pulls, but it is not chance.
    return found, inverse @ of_labels @ inverse


def _inputs(confidences: Floats) -> Floats:
    """`[n, 2]`: what a and b are multiplied by."""
    bounded = np.clip(confidences, 1 - SUREST, SUREST)
    return np.stack([np.ones(len(bounded)), logit(bounded)], axis=1)


def _checked(confidences: Iterable[float]) -> list[float]:
    values = np.array(list(confidences), dtype=np.float64)
    if bad := np.flatnonzero(~((values >= 0) & (values <= 1))).tolist():
        raise ValueError(f"confidence {bad[0]} of {len(values)} is {values[bad[0]]}, and a probability is 0 to 1")
    return list(map(float, values))
