import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.augmentation import TURNING, augmented, some_augmented
from tests.sentences import examples

HEADLINE = "Acme shares fell 12 % today because the company did not pay $ACME bondholders, analysts said"


def many(text: str, count: int = 300) -> list[str]:
    generator = np.random.default_rng(0)
    return [augmented(text, generator) for _ in range(count)]


def test_a_text_is_written_a_little_differently():
    changed = many(HEADLINE)
    assert HEADLINE not in changed
    assert len(set(changed)) > 100
    words = HEADLINE.split()
    kept = [len(set(words) & set(text.split())) / len(words) for text in changed]
    assert np.mean(kept) > 0.8


@pytest.mark.parametrize(
    "seen", ["Acme stock fell", "shares dropped", "the firm did", "pay ACME bond", "SHARES", "Acme fell", "sahres"]
)
def test_each_way_of_writing_differently_comes_up(seen):
    assert any(seen in text for text in many(HEADLINE, 2_000))


def test_what_turns_a_sentence_around_stays():
    assert all(" not " in text for text in many(HEADLINE))
    assert all("don’t" in text for text in many("we don’t say so"))
    assert all("不" in text for text in many("这家餐厅的菜不好吃"))


def test_a_script_without_spaces_loses_characters_and_not_everything():
    text = "送餐很快味道也好"
    lengths = [len(changed) for changed in many(text)]
    assert max(lengths) == len(text) - 1
    assert np.mean(lengths) > 0.75 * len(text)


def test_numbers_are_left_out_or_left_alone():
    assert set(many("12345 6789")) == {"12345", "6789"}


@pytest.mark.parametrize("text", ["", " ", "...", "not", "!?", "不"])
def test_a_text_with_nothing_to_change_stays_as_it_is(text):
    assert augmented(text, np.random.default_rng(0)) == text


@given(st.text(), st.integers(0, 2**32))
def test_whatever_the_text_some_of_it_is_left(text, seed):
    changed = augmented(text, np.random.default_rng(seed))
    assert changed == augmented(text, np.random.default_rng(seed))
    assert bool(changed.strip()) == bool(text.strip())


def test_the_asked_share_of_examples_is_augmented_and_the_same_one_for_a_seed():
    rows = examples(1_000)
    once = some_augmented(rows, 0.3, seed=7)
    assert once == some_augmented(rows, 0.3, seed=7)
    assert once != some_augmented(rows, 0.3, seed=8)
    changed = [after for before, after in zip(rows, once, strict=True) if before != after]
    assert 250 < len(changed) < 350
    assert [(row.id, row.label) for row in once] == [(row.id, row.label) for row in rows]
    assert some_augmented(rows, 0.0, seed=7) == rows


def test_words_that_turn_a_sentence_are_spelt_as_they_are_compared():
    assert all(word == word.lower() for word in TURNING)
