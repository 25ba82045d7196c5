from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.drift.typical import MOST, Word, terms, typical


def found(before: Sequence[str], after: Sequence[str]) -> list[Word]:
    return typical([terms(text) for text in before], [terms(text) for text in after])


def said(before: Sequence[str], after: Sequence[str]) -> list[str]:
    return [word.text for word in found(before, after)]


COMPANIES = [f"{name} profit {verb} again" for name in ("acme", "globex", "initech") for verb in ("rose", "fell")] * 20


def test_a_word_that_came_up_is_listed_with_its_rates() -> None:
    after = ["oil profit fell again", *COMPANIES[:3]] * 20

    assert found(COMPANIES, after) == [Word("oil", 0.0, 0.25)]


def test_texts_of_one_kind_have_no_typical_words() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{rank}" for rank in range(3000)]
    frequency = 1 / np.arange(1, 3001)
    texts = [" ".join(rng.choice(vocabulary, 12, p=frequency / frequency.sum())) for _ in range(700)]

    assert said(texts[:500], texts[500:]) == []


def test_a_phrase_stands_for_its_words_and_not_beside_them() -> None:
    after = [*COMPANIES[:60], *["wall street gains", "why wall street worries", "quiet day on wall street"] * 20]

    listed = said(COMPANIES, after)

    assert listed[0] == "wall street"
    assert not {"wall", "street"} & set(listed)


def test_a_word_is_listed_alone_where_its_neighbours_change() -> None:
    after = [f"gold {what} again" for what in ("rose", "fell", "mine", "bars", "coins", "dust")] * 20

    assert said(COMPANIES, after)[0] == "gold"


def test_one_text_that_repeats_a_word_does_not_list_it() -> None:
    assert said(COMPANIES, [*COMPANIES, "buy " * 300]) == []


def test_links_numbers_and_markup_are_each_one_word() -> None:
    assert terms("up 3.5% at $1,200.50 <br> https://t.co/Xy1?a=b WWW.EXAMPLE.ORG") == {
        "up", "(number)", "at", "(markup)", "(link)", "up (number)", "(number) at", "at (number)",
        "(number) (markup)", "(markup) (link)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Don't buy AT&amp;T", {"don't", "at&t"}),
        ("$TSLA to the moon 🚀 #yolo @elon", {"$tsla", "🚀", "#yolo", "@elon"}),
        ("Q3 of 2020 in the 2nd half", {"q3", "(number)"}),
        ("送餐太慢", {"送餐", "餐太", "太慢"}),
        ("Ärger über Börse", {"ärger", "börse"}),
    ],
)
def test_words_are_what_people_read_as_words(text: str, kept: set[str]) -> None:
    assert kept <= terms(text)


def test_phrases_end_at_punctuation() -> None:
    assert terms("shares rally. Gold") == {"shares", "rally", "gold", "shares rally"}


def test_nothing_is_typical_against_nothing() -> None:
    assert said([], COMPANIES) == said(COMPANIES, []) == []


@given(st.text(max_size=3000))
def test_any_text_has_terms_of_two_words_at_most(text: str) -> None:
    for term in terms(text):
        assert term
        assert len(term.split(" ")) <= 2


@given(
    st.lists(st.sampled_from(["a", "b", "cd", "a_b", "送餐", "送", "x.y", "7", "http://x"]), min_size=1, max_size=12),
    st.data(),
)
def test_what_is_listed_is_apart_bounded_and_more_frequent_after(pool: list[str], data: st.DataObject) -> None:
    texts = st.lists(st.lists(st.sampled_from(pool), max_size=6).map(" ".join), min_size=1, max_size=60)
    before, after = data.draw(texts), data.draw(texts)

    words = found(before, after)

    assert len(words) <= MOST
    for word in words:
        assert 0 <= word.before < word.after <= 1
    phrases = [set(word.text.split(" ")) for word in words if " " in word.text]
    for word in words:
        assert " " in word.text or not any(word.text in phrase for phrase in phrases)
