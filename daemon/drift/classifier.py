"""A classifier that tries to tell new sketches from old ones."""

from functools import partial

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import stats

from daemon.drift.novelty import Sketches
from daemon.drift.options import Options
from daemon.drift.two_sample import Test, TwoSample, Verdict

#: scikit-learn's C, for features of unit variance: of 0.001, 0.01 and 0.1 it told half a window of another domain from
#: one of the same domain best (200 sketches of 64 dimensions).
INVERSE_PENALTY = 0.01


class ClassifierOptions(Options):
    reference: int = Field(200, ge=4)
    clock: int = Field(25, ge=1)
    alpha: float = Field(0.001, gt=0, lt=0.5)


class Classifier(TwoSample):
    """Alarms when a logistic regression can tell the newest sketches from as many reference ones beyond chance.

    Lopez-Paz & Oquab 2017, "Revisiting Classifier Two-Sample Tests", ICLR: it learns from one half of both, judges the
    other, and the number judged right is held against a fair coin's. Cross-validation would judge all, but its folds
    share their examples: the number right varies 1.3 times as much as a coin's (measured), and an `alpha` of 0.001
    becomes one of 0.01. At the same share of false alarms it finds no more.
    """

    def __init__(self, name: str, options: ClassifierOptions, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(options.reference)
        self._learnt, self._judged = np.split(order, [options.reference // 2])
        super().__init__(
            name,
            reference=options.reference,
            window=options.reference,
            clock=options.clock,
            alpha=options.alpha,
        )

    def _against(self, reference: Sketches) -> Test:
        return partial(_told_apart, reference, learnt=self._learnt, judged=self._judged)


def _told_apart(
    reference: Sketches, window: Sketches, *, learnt: npt.NDArray[np.integer], judged: npt.NDArray[np.integer]
) -> Verdict:
    """`before` is the accuracy of chance, `after` the classifier's on those `judged`; both samples are of one size."""
    # Slow to import, and most run without this detector.
    from sklearn.linear_model import LogisticRegression

    sketches = np.concatenate([reference, window]).astype(np.float64)
    spread = sketches.std(axis=0)
    features = (sketches - sketches.mean(axis=0)) / np.where(spread > 0, spread, 1)
    newer = np.repeat([False, True], len(reference))
    learnt, judged = (np.concatenate([half, half + len(reference)]) for half in (learnt, judged))
    # Features this few are solved fastest without BLAS, whose threads would wait for those of the model.
    classifier = LogisticRegression(C=INVERSE_PENALTY, solver="liblinear", random_state=0)
    classifier.fit(features[learnt], newer[learnt])
    right = int((classifier.predict(features[judged]) == newer[judged]).sum())
    return Verdict(float(stats.binom.sf(right - 1, len(judged), 0.5)), 0.5, right / len(judged))
