import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import expit, logit

from daemon.estimate import LABELS, LEAST, Estimate, estimate, recalibration

probabilities = st.floats(0, 1)
outcomes = st.tuples(probabilities, st.booleans())


def stream(texts: int, *, bias: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Top probabilities, and whether each was right: as often as they say where `bias`, in logits, is 0."""
    random = np.random.default_rng(seed)
    confidences = random.uniform(0.4, 0.99, texts)
    return confidences, random.random(texts) < expit(logit(confidences) + bias)


def told(confidences: np.ndarray, right: np.ndarray, *, window: int = 500, labels: int = LABELS) -> Estimate:
    estimated = Estimate("v1", window=window, labels=labels)
    estimated.scored(confidences)
    estimated.labelled(confidences, right)
    return estimated


def test_without_labels_the_model_is_taken_at_its_word() -> None:
    confidences, _ = stream(500)
    estimated = Estimate("v1", window=500)
    estimated.scored(confidences)

    assert estimated.accuracy == pytest.approx(confidences.mean())


@pytest.mark.parametrize("bias", [-3.0, -1.0, 0.0, 1.0])
def test_labels_say_what_confidence_means_by_now(bias: float) -> None:
    confidences, right = stream(800, bias=bias)
    estimated = told(confidences[:300], right[:300])
    estimated.scored(confidences[300:])

    assert estimated.accuracy == pytest.approx(right[300:].mean(), abs=0.06)


def test_each_label_moves_it_a_little_further() -> None:
    confidences, _ = stream(300)
    moved = []
    for count in (0, 1, 3, 10, 30, 100, 300):
        estimated = Estimate("v1", window=300)
        estimated.scored(confidences)
        estimated.labelled(confidences[:count], np.zeros(count, bool))
        moved.append(estimated.accuracy)

    steps = -np.diff(np.array(moved, np.float64))
    assert (steps > 0).all()
    assert steps[0] < 0.15
    assert moved[-1] is not None
    assert moved[-1] < 0.05


def test_the_interval_holds_the_true_accuracy_19_times_in_20() -> None:
    held = []
    for seed in range(300):
        confidences, right = stream(600, bias=-0.7, seed=seed)
        estimated = told(confidences[:300], right[:300], window=300)
        estimated.scored(confidences[300:])
        assert estimated.lower is not None
        assert estimated.upper is not None
        held.append(estimated.lower <= right[300:].mean() <= estimated.upper)

    assert np.mean(held) > 0.92


def test_the_interval_narrows_with_the_window_and_stays_within_0_and_1() -> None:
    none = np.zeros(0)
    few, many = (estimate(stream(texts)[0], none, none) for texts in (60, 600))
    sure = estimate(np.ones(60), np.ones(300), np.ones(300))

    assert few.upper - few.lower == pytest.approx(np.sqrt(10) * (many.upper - many.lower), rel=0.1)
    assert sure.upper == 1
    assert sure.lower > 0.98


def test_a_window_that_is_hardly_filled_says_nothing() -> None:
    confidences, _ = stream(LEAST)
    estimated = Estimate("v1", window=500)
    estimated.scored(confidences[:-1])
    assert (estimated.accuracy, estimated.lower, estimated.upper) == (None, None, None)

    estimated.scored(confidences[-1:])
    assert estimated.accuracy is not None

    small = Estimate("v1", window=3)
    small.scored([0.5, 0.7, 0.9])
    assert small.accuracy == pytest.approx(0.7)


def test_only_the_latest_texts_and_labels_count() -> None:
    confidences, right = stream(500)
    late = told(confidences, right, window=100, labels=50)

    assert late.accuracy == told(confidences[-100:], right[-100:], window=100, labels=50).accuracy
    assert (late.texts, late.labels) == (100, 50)


def test_after_a_swap_nothing_of_the_old_version_counts() -> None:
    confidences, right = stream(500, bias=-3)
    estimated = told(confidences, right)
    estimated.swap("v2")
    assert estimated.accuracy is None
    assert estimated.version == "v2"

    estimated.scored(confidences)
    assert estimated.accuracy == pytest.approx(confidences.mean())


@given(
    scored=st.lists(probabilities, max_size=80), known=st.lists(outcomes, max_size=40), cuts=st.sets(st.integers(0, 80))
)
def test_neither_batches_nor_restarts_change_anything(
    scored: list[float], known: list[tuple[float, bool]], cuts: set[int]
) -> None:
    straight, cut = Estimate("v1", window=60, labels=20), Estimate("v1", window=60, labels=20)
    straight.scored(scored)
    straight.labelled(*([one[which] for one in known] for which in (0, 1)))
    edges = [0, *sorted(cuts), 80]
    for start, end in pairwise(edges):
        cut.scored(scored[start:end])
        cut.labelled(*([one[which] for one in known[start:end]] for which in (0, 1)))
        cut = Estimate.restored(json.loads(json.dumps(cut.state())), window=60, labels=20)

    assert cut.state() == straight.state()
    assert cut.estimated == straight.estimated


@given(known=st.lists(outcomes, max_size=40), confidences=st.lists(probabilities, min_size=1, max_size=40))
def test_whatever_comes_it_is_an_accuracy_within_its_interval(
    known: list[tuple[float, bool]], confidences: list[float]
) -> None:
    pairs = np.array(known, np.float64).reshape(-1, 2)
    given_ = estimate(np.array(confidences), pairs[:, 0], pairs[:, 1])

    assert 0 <= given_.lower <= given_.accuracy <= given_.upper <= 1


def test_chance_in_labels_is_none_without_labels_and_falls_with_their_number() -> None:
    spread = []
    for count in (0, 100, 1_000):
        fitted, covariance = recalibration(*(part.astype(np.float64) for part in stream(count)))
        spread.append(float(covariance[0, 0]))
        assert fitted == pytest.approx([0, 1], abs=0.4)

    assert spread[0] == 0
    assert spread[1] > spread[2] > 0


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_what_is_no_probability_is_refused_whole(bad: float) -> None:
    estimated = Estimate("v1", window=500)
    with pytest.raises(ValueError, match="confidence 1 of 2 is"):
        estimated.scored([0.5, bad])
    with pytest.raises(ValueError, match="confidence 0 of 1 is"):
        estimated.labelled([bad], [True])
    with pytest.raises(ValueError, match="shorter"):
        estimated.labelled([0.5, 0.6], [True])
    assert (estimated.texts, estimated.labels) == (0, 0)


def test_smaller_bounds_forget_the_oldest() -> None:
    confidences, right = stream(100)
    restored = Estimate.restored(told(confidences, right).state(), window=10, labels=5)

    assert restored.state() == told(confidences, right, window=10, labels=5).state()


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValidationError):
        Estimate.restored({"version": "v1"}, window=500)
