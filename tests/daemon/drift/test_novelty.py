import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.drift.novelty import Reference, Sketches


def sketches(count: int, centre: float = 0.0, seed: int = 3) -> Sketches:
    return np.random.default_rng(seed).normal(centre, 1, (count, 8)).astype(np.float32)


def test_a_score_is_the_mean_distance_to_the_nearest_neighbours() -> None:
    window = sketches(30)
    text = sketches(1, seed=4)[0]

    distances = np.sort([np.linalg.norm(text.astype(float) - neighbour) for neighbour in window[::3].astype(float)])

    assert Reference(window, neighbours=4).score(text[None]) == pytest.approx([distances[:4].mean()])


def test_texts_of_another_kind_are_more_novel_than_the_reference_windows_own() -> None:
    reference = Reference(sketches(300), neighbours=5)

    alike, unlike = reference.score(sketches(200, seed=4)), reference.score(sketches(200, centre=2, seed=5))

    assert alike.mean() == pytest.approx(reference.usual, rel=0.05)
    assert unlike.mean() > 1.5 * reference.usual


def test_the_calibration_scores_are_those_of_texts_held_out_of_the_neighbours() -> None:
    window = sketches(100)
    reference = Reference(window, neighbours=5)

    held_out = window[np.arange(100) % 3 != 0]
    assert np.array_equal(reference.calibration, reference.score(held_out))
    assert reference.calibration.min() > 0


def test_a_new_texts_rank_among_the_calibration_scores_is_even_while_nothing_drifts() -> None:
    ranks = []
    for seed in range(20):
        drawn = sketches(350, seed=seed)
        reference = Reference(drawn[:300], neighbours=5)
        ranks.append(
            np.searchsorted(np.sort(reference.calibration), reference.score(drawn[300:])) / len(reference.calibration)
        )

    assert np.mean(ranks) == pytest.approx(0.5, abs=0.03)
    assert np.mean(np.concatenate(ranks) < 0.1) == pytest.approx(0.1, abs=0.03)


@given(cut=st.integers(0, 20))
def test_a_score_does_not_depend_on_the_batch_it_came_in(cut: int) -> None:
    reference, texts = Reference(sketches(50), neighbours=5), sketches(20, seed=9)

    parts = np.concatenate([reference.score(texts[:cut]), reference.score(texts[cut:])])

    assert np.array_equal(parts, reference.score(texts))


def test_a_reference_made_of_anothers_sketches_is_the_same() -> None:
    reference = Reference(sketches(50), neighbours=5)
    again = Reference(reference.sketches, neighbours=5)

    assert np.array_equal(reference.score(sketches(9, seed=5)), again.score(sketches(9, seed=5)))


def test_a_window_smaller_than_the_neighbours_asked_for_still_scores() -> None:
    assert np.isfinite(Reference(sketches(2), neighbours=50).score(sketches(3, seed=5))).all()


def test_a_window_of_one_repeated_text_sets_no_scale() -> None:
    assert Reference(np.ones((9, 8), np.float32), neighbours=2).usual == 1


def test_too_small_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 sketches, not 1"):
        Reference(sketches(1), neighbours=5)


def test_a_sketch_that_is_not_finite_is_refused() -> None:
    broken = sketches(5)
    broken[3, 2] = np.nan

    with pytest.raises(ValueError, match="sketch 3 of 5"):
        Reference(sketches(9), neighbours=5).score(broken)


def test_sketches_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[texts, dimensions\], not \[8\]"):
        Reference(sketches(9), neighbours=5).score(sketches(1)[0])
