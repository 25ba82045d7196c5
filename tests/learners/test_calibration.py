import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from learners.calibration import calibrated, fit_temperature
from learners.evaluation import accuracy, calibration_error, log_loss
from learners.scoring import forward_batches
from tests.sentences import examples

EVEN = ["fresh"]


def drawn(temperature, count=4_000, seed=0):
    """Log-probabilities that are too sure by `temperature`, and the truth."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, size=(count, 3))
    chances = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    truth = (chances.cumsum(1) > random.random((count, 1))).argmax(1)
    return honest * temperature, truth


def probabilities_at(logits, temperature):
    scaled = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return (scaled / scaled.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_taken_away_is_found(true):
    logits, truth = drawn(true)

    found = fit_temperature(logits, truth, EVEN * len(truth))

    assert found == pytest.approx(true, rel=0.1)
    before, after = probabilities_at(logits, 1), probabilities_at(logits, found)
    assert calibration_error(after, truth) < 0.03
    assert log_loss(after, truth) <= log_loss(before, truth)
    assert accuracy(after, truth) == accuracy(before, truth)


def test_a_handful_that_is_right_by_luck_makes_no_model_certain():
    logits = np.array([[1.0, 0.0, 0.0]] * 5)

    assert 0.4 < fit_temperature(logits, np.zeros(5, np.int64), EVEN * 5) < 1


def test_fresh_and_old_examples_count_alike_however_many_are_old():
    (sure, sure_truth), (honest, honest_truth) = drawn(3.0, 400), drawn(1.0, 4_000, seed=1)
    logits, truth = np.concatenate([sure, honest]), np.concatenate([sure_truth, honest_truth])

    apart = fit_temperature(logits, truth, ["fresh"] * 400 + ["old"] * 4_000)

    assert fit_temperature(logits, truth, EVEN * 4_400) < apart < 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_without_an_example_that_is_a_number_nothing_is_changed(bad):
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64), []) == 1.0
    assert fit_temperature(np.full((4, 3), bad), np.zeros(4, np.int64), EVEN * 4) == 1.0


def test_a_calibrated_model_scores_by_its_temperature_and_keeps_it_on_disk(model, compute, tmp_path):
    choosing = examples(30)
    tokens = model.tokenise([example.text for example in choosing])
    before = forward_batches(model, tokens, 2048, compute).probabilities

    warm = calibrated(model, choosing, compute)
    warm.save(tmp_path / "saved")

    assert warm.description.temperature != 1.0
    after = forward_batches(warm, tokens, 2048, compute).probabilities
    assert np.array_equal(after.argmax(1), before.argmax(1))
    assert not np.allclose(after, before)
    np.testing.assert_allclose(after, probabilities_at(np.log(before), warm.description.temperature), atol=1e-5)
    assert '"temperature"' in (tmp_path / "saved" / "relearnd.json").read_text()


counts = st.shared(st.integers(1, 60), key="n")


@given(
    arrays.arrays(np.float32, st.tuples(counts, st.just(3)), elements=st.floats(0, 1, width=32)),
    arrays.arrays(np.int64, counts, elements=st.integers(0, 2)),
)
def test_the_calibration_error_is_a_share_and_no_less_than_the_mean_gap(probabilities, truth):
    gap = abs(probabilities.max(1).astype(float).mean() - accuracy(probabilities, truth))

    assert gap - 1e-9 <= calibration_error(probabilities, truth) <= 1


def test_a_model_that_is_sure_and_wrong_has_the_whole_error_and_one_that_is_right_has_none():
    certain = np.eye(2, dtype=np.float32)[[0] * 40]

    assert calibration_error(certain, np.ones(40, np.int64)) == 1
    assert calibration_error(certain, np.zeros(40, np.int64)) == 0
