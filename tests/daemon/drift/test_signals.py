from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from daemon.drift.bets import GENERAL
from daemon.drift.detector import Values
from daemon.drift.novelty import Neighbours
from daemon.drift.signals import INPUTS, MIX, SMALLEST, Signals, Texts
from daemon.drift.wording import Wording
from tests.sentences import sentence

DIMENSIONS, LABELS = 6, 3


def texts(count: int, seed: int = 1, *, slang: bool = False, centre: float = 0.0, sure: float = 1.0) -> Texts:
    """Sentences with sketches around `centre`; the more `sure`, the further are probabilities from even."""
    rng = np.random.default_rng(seed)
    said = [sentence(int(number), slang=slang)[0] for number in rng.integers(0, 500, count)]
    sketches = rng.normal(centre, 1, (count, DIMENSIONS)).astype(np.float32)
    return Texts(said, sketches, rng.dirichlet([1 / sure] * LABELS, count))


def without(given: Texts, *, sketch: int | None = None, probabilities: int | None = None) -> Texts:
    """The same, of which every so many have none."""
    sketches, chances = given.sketches.copy(), given.probabilities.copy()
    if sketch:
        sketches[::sketch] = np.nan
    if probabilities:
        chances[::probabilities] = np.nan
    return Texts(given.texts, sketches, chances)


SIGNALS = Signals.of(texts(120), nearest=4)


def of(signals: Signals, name: str, given: Texts) -> Values:
    """One component of the values; of the label mix, the first label's."""
    return signals.values(given)[:, signals.groups.index(name)]


def test_each_signal_is_one_component_and_the_label_mix_one_for_each_label() -> None:
    assert SIGNALS.groups == [*INPUTS, MIX, MIX, MIX]
    assert SIGNALS.values(texts(7)).shape == (7, len(INPUTS) + LABELS)
    assert [one is GENERAL for one in SIGNALS.bets] == [True] * len(INPUTS) + [False] * LABELS


def test_the_values_are_what_their_names_say() -> None:
    reference, given = texts(50), texts(9, seed=2)
    signals = Signals.of(reference, nearest=4)
    meaning = Neighbours(reference.sketches, 4).distance(given.sketches)
    wording = Wording.of(reference.texts).score(given.texts)

    assert np.array_equal(of(signals, "meaning", given), meaning)
    assert np.array_equal(of(signals, "wording", given), wording)
    assert of(signals, "novelty", given) == pytest.approx(meaning / signals.spread[0] + wording / signals.spread[1])
    assert np.exp(of(signals, "length", given)) - 1 == pytest.approx([len(text) for text in given.texts])
    assert np.exp(of(signals, "uncertainty", given)) == pytest.approx(1 - given.probabilities.max(axis=1))
    assert signals.values(given)[:, -LABELS:] == pytest.approx(logit(given.probabilities))


@pytest.mark.parametrize(
    ("signal", "unlike"),
    [
        ("meaning", texts(90, seed=2, centre=2.0)),
        ("wording", texts(90, seed=2, slang=True)),
        ("novelty", texts(90, seed=2, centre=1.0, slang=True)),
        ("length", Texts([text * 3 for text in texts(90, seed=2).texts], *texts(90, seed=2)[1:])),
        ("uncertainty", texts(90, seed=2, sure=0.1)),
    ],
)
def test_texts_unlike_the_reference_have_high_values(signal: str, unlike: Texts) -> None:
    usual = of(SIGNALS, signal, texts(90, seed=3))

    assert np.median(of(SIGNALS, signal, unlike)) > np.quantile(usual, 0.75)


@settings(deadline=None)
@given(cut=st.integers(0, 20))
def test_a_texts_values_do_not_depend_on_the_others(cut: int) -> None:
    given = without(texts(20, seed=4), sketch=3, probabilities=4)

    parts = [SIGNALS.values(given.part(slice(0, cut))), SIGNALS.values(given.part(slice(cut, None)))]

    assert np.array_equal(np.concatenate(parts), SIGNALS.values(given), equal_nan=True)


def test_a_text_without_a_sketch_has_no_meaning_and_no_novelty() -> None:
    values = SIGNALS.values(without(texts(9, seed=2), sketch=2))

    missing = np.isnan(values)
    assert missing[::2].tolist() == [[True, False, True, False, False, *[False] * LABELS]] * 5
    assert not missing[1::2].any()


def test_a_text_whose_probabilities_say_nothing_has_no_uncertainty_and_no_mix() -> None:
    missing = np.isnan(SIGNALS.values(without(texts(9, seed=2), probabilities=2)))

    assert missing[::2].tolist() == [[False, False, False, False, True, *[True] * LABELS]] * 5
    assert not missing[1::2].any()


def test_a_reference_without_sketches_compares_no_meanings() -> None:
    bare = texts(40)
    signals = Signals.of(without(bare, sketch=1), nearest=4)

    values = signals.values(texts(9, seed=2))

    assert np.isnan(values[:, :1]).all()
    assert np.isnan(of(signals, "novelty", texts(9))).all()
    assert np.isfinite(of(signals, "wording", texts(9))).all()


def test_a_reference_of_which_nothing_is_known_bets_on_the_mix_as_on_anything() -> None:
    signals = Signals.of(without(texts(40), probabilities=1), nearest=4)

    assert [one is GENERAL for one in signals.bets] == [True] * len(signals.bets)
    assert np.isfinite(signals.values(texts(9, seed=2))).all()


def test_certain_probabilities_have_values_that_can_be_ranked() -> None:
    given = texts(2)._replace(probabilities=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))

    assert np.isfinite(SIGNALS.values(given)).all()
    assert of(SIGNALS, "uncertainty", given) == pytest.approx(np.log([SMALLEST] * 2))


@pytest.mark.parametrize("count", [2, 3])
def test_a_reference_of_a_few_copies_still_sets_a_scale(count: int) -> None:
    one = texts(1)
    copies = Texts(
        one.texts * count, np.repeat(one.sketches, count, axis=0), np.repeat(one.probabilities, count, axis=0)
    )

    signals = Signals.of(copies, nearest=5)

    assert (signals.spread > 0).all()
    assert np.isfinite(signals.values(texts(9, seed=2))).all()


def test_the_scale_is_where_usual_values_lie() -> None:
    usual = SIGNALS.values(texts(400, seed=5))

    # Ranks are fine within a few spreads of the centre: at 4, a bin is a fifteenth as fine as there.
    assert (np.quantile(np.abs(usual - SIGNALS.centre), 0.9, axis=0) < 4 * SIGNALS.spread).all()


@pytest.mark.parametrize(
    "reference",
    [texts(60), without(texts(60), sketch=2, probabilities=3), without(texts(60), sketch=1, probabilities=1)],
    ids=["whole", "with gaps", "of texts alone"],
)
def test_restored_signals_give_the_same_values_and_bets(reference: Texts) -> None:
    signals = Signals.of(reference, nearest=4)
    state: Mapping[str, npt.NDArray[np.generic]] = signals.state()
    again, given = Signals.restored(state), texts(30, seed=2)

    assert np.array_equal(again.values(given), signals.values(given), equal_nan=True)
    assert again.groups == signals.groups
    assert np.array_equal(again.centre, signals.centre)
    assert np.array_equal(again.spread, signals.spread)
    p_values = np.linspace(0, 1, 99)
    for one, other in zip(again.bets, signals.bets, strict=True):
        assert np.array_equal(one.pay(p_values), other.pay(p_values))


def test_no_texts_have_no_values() -> None:
    assert SIGNALS.values(texts(9).part(slice(0, 0))).shape == (0, len(INPUTS) + LABELS)


def test_a_part_of_texts_keeps_what_belongs_together() -> None:
    given = texts(9)
    part = given.part(np.array([2, 5]))

    assert part.texts == [given.texts[2], given.texts[5]]
    assert np.array_equal(part.sketches, given.sketches[[2, 5]])
    assert np.array_equal(part.probabilities, given.probabilities[[2, 5]])
