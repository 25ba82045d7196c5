"""What the tests of sketches find, and how often they are wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from daemon.config import DetectorConfig
from daemon.drift.build import build
from daemon.drift.detector import Detector, Values

RNG_SEED = 5


def detector(kind: str, **options: float) -> Detector:
    return build(DetectorConfig.model_validate({"kind": kind, "signal": "sketch", "options": options}), seed=1)


def sketches(count: int, *, spread: float = 1.0, seed: int = RNG_SEED) -> Values:
    return np.random.default_rng(seed).normal(0, spread, (count, 8))


def mmd(old: Values, new: Values) -> float:
    """Gretton et al. 2012, lemma 6, by its two loops; the kernel's width is the median distance of the old."""

    def mean(one: Values, other: Values, *, apart: bool) -> float:
        kernel = [
            math.exp(-(np.linalg.norm(x - y) ** 2) / (2 * width**2))
            for i, x in enumerate(one)
            for j, y in enumerate(other)
            if not apart or i != j
        ]
        return sum(kernel) / len(kernel)

    width = float(np.median([np.linalg.norm(x - y) for i, x in enumerate(old) for y in old[:i]]))
    return mean(old, old, apart=True) + mean(new, new, apart=True) - 2 * mean(old, new, apart=False)


def test_mmd_is_the_unbiased_estimate_of_the_paper() -> None:
    old, new = sketches(30).astype(np.float32), sketches(20, spread=3, seed=6).astype(np.float32)

    (change,) = detector("mmd", reference=30, window=20, alpha=0.01).update(np.concatenate([old, new]))

    assert change.before == 0
    assert change.after == pytest.approx(mmd(old.astype(np.float64), new.astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize("kind", ["mmd", "classifier"])
def test_a_share_alpha_of_the_tests_of_unchanged_sketches_alarms(kind: str) -> None:
    # One window after another: tests that do not overlap, each with a reference of its own.
    options = {"mmd": {"window": 50, "permutations": 199}, "classifier": {}}[kind]
    alarms = 0
    for seed in range(400):
        alarms += len(detector(kind, reference=50, alpha=0.1, **options).update(sketches(100, seed=seed)))

    assert stats.binomtest(alarms, 400, 0.1, alternative="greater").pvalue > 0.01
    assert alarms >= 10


def test_mmd_sees_sketches_spread_though_their_mean_stays() -> None:
    spread = np.concatenate([sketches(200), sketches(100, spread=2, seed=6)])

    (change,) = detector("mmd", reference=100, window=50, clock=10).update(spread)

    assert 200 <= change.index < 250


def test_the_classifier_tells_how_many_it_judged_right() -> None:
    moved = np.concatenate([sketches(50), sketches(50, seed=6) + 3])

    (change,) = detector("classifier", reference=50).update(moved)

    assert change.before == 0.5
    assert change.after >= 0.95


@pytest.mark.parametrize("kind", ["mmd", "classifier"])
def test_sketches_of_another_model_are_refused_until_a_reset(kind: str) -> None:
    watching = detector(kind)
    watching.update(np.zeros((3, 8)))

    with pytest.raises(ValueError, match="4 dimensions and those before 8"):
        watching.update(np.zeros((3, 4)))

    watching.reset()
    assert watching.update(np.zeros((3, 4))) == []


@pytest.mark.parametrize("kind", ["mmd", "classifier"])
def test_what_was_saved_with_other_sizes_starts_anew(kind: str) -> None:
    before, after = detector(kind, reference=50), detector(kind, reference=60)
    before.update(sketches(40))

    after.restore(before.state())

    assert after.state()["sketches"].size == 0


def test_too_few_permutations_to_ever_alarm_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mmd on sketch: options: .*permutations must be at least 1/alpha - 1"):
        detector("mmd", permutations=99)
