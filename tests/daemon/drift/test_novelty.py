import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.drift.novelty import Neighbours, Sketches


def sketches(count: int, centre: float = 0.0, seed: int = 3) -> Sketches:
    return np.random.default_rng(seed).normal(centre, 1, (count, 8)).astype(np.float32)


def distances(text: Sketches, others: Sketches) -> list[float]:
    """From one text to all `others`, the nearest first."""
    return sorted(float(np.linalg.norm(text.astype(float) - other)) for other in others.astype(float))


def test_a_distance_is_the_mean_of_those_to_the_nearest() -> None:
    reference, text = sketches(30), sketches(1, seed=4)

    expected = np.mean(distances(text[0], reference)[:4])

    assert Neighbours(reference, nearest=4).distance(text) == pytest.approx([expected])


def test_among_the_reference_each_is_compared_with_the_others() -> None:
    reference = sketches(30)

    expected = [np.mean(distances(one, reference)[1:5]) for one in reference]

    assert Neighbours(reference, nearest=4).among() == pytest.approx(expected)


def test_texts_of_another_kind_are_further_away_than_the_references_own() -> None:
    neighbours = Neighbours(sketches(100), nearest=5)

    alike, unlike = neighbours.distance(sketches(200, seed=4)), neighbours.distance(sketches(200, centre=2, seed=5))

    assert alike.mean() == pytest.approx(neighbours.among().mean(), rel=0.05)
    assert unlike.mean() > 1.5 * alike.mean()


@settings(deadline=None)
@given(cut=st.integers(0, 20))
def test_a_distance_does_not_depend_on_the_batch_it_came_in(cut: int) -> None:
    neighbours, texts = Neighbours(sketches(50), nearest=5), sketches(20, seed=9)

    parts = np.concatenate([neighbours.distance(texts[:cut]), neighbours.distance(texts[cut:])])

    assert np.array_equal(parts, neighbours.distance(texts))


def test_neighbours_made_of_anothers_sketches_are_the_same() -> None:
    neighbours = Neighbours(sketches(50), nearest=5)
    again = Neighbours(neighbours.sketches, nearest=5)

    assert np.array_equal(neighbours.distance(sketches(9, seed=5)), again.distance(sketches(9, seed=5)))


def test_a_reference_that_changes_afterwards_is_not_the_neighbours() -> None:
    reference, texts = sketches(20), sketches(5, seed=4)
    neighbours = Neighbours(reference, nearest=3)
    before = neighbours.distance(texts)

    reference += 100

    assert np.array_equal(neighbours.distance(texts), before)


def test_fewer_sketches_than_the_nearest_asked_for_still_give_a_distance() -> None:
    few, text = sketches(3), sketches(1, seed=5)
    neighbours = Neighbours(few, nearest=50)

    assert neighbours.distance(text) == pytest.approx([np.mean(distances(text[0], few))])
    assert neighbours.among() == pytest.approx([np.mean(distances(one, few)[1:]) for one in few])


def test_a_single_sketch_has_no_other_to_be_far_from() -> None:
    assert Neighbours(sketches(1), nearest=5).among().tolist() == [0.0]
    assert Neighbours(sketches(0), nearest=5).among().tolist() == []


def test_copies_of_one_text_are_no_distance_apart() -> None:
    copies = np.ones((9, 8), np.float32)

    assert Neighbours(copies, nearest=2).among().tolist() == [0.0] * 9
    assert Neighbours(copies, nearest=2).distance(copies).tolist() == [0.0] * 9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sketch_that_is_not_finite_is_refused(bad: float) -> None:
    broken = sketches(5)
    broken[3, 2] = bad

    with pytest.raises(ValueError, match="sketch 3 of 5"):
        Neighbours(sketches(9), nearest=5).distance(broken)
    with pytest.raises(ValueError, match="sketch 3 of 5"):
        Neighbours(broken, nearest=5)


def test_sketches_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[texts, dimensions\], not \[8\]"):
        Neighbours(sketches(9), nearest=5).distance(sketches(1)[0])


def test_sketches_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="6 dimensions and the reference window 8: they come from different models"):
        Neighbours(sketches(9), nearest=5).distance(sketches(9)[:, :6])
