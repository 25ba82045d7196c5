from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.drift.wording import GRAM, MAX_CHARS, SLOTS, Wording
from tests.sentences import sentence

FORMAL = [sentence(number)[0] for number in range(200)]
QUESTIONS = [
    f"{ask} my {thing} {what}?"
    for ask in ("why was", "when is", "who told you that", "how come")
    for thing in ("card", "new card", "payment", "transfer", "account", "refund")
    for what in ("declined", "late again", "charged twice", "still pending", "blocked")
]
CHINESE = ["上半年净利润同比增长", "公司发布业绩预告", "央行宣布下调存款准备金率", "沪指收盘下跌"] * 20
EMOJI = ["🚀🚀🚀 to the moon 🌕", "💎🙌 holding", "📉😭 rekt again", "🐻🐻🐻🐻🐻"] * 20

REFERENCE = Wording.of(FORMAL)

#: Any text at all, half of a surrogate pair among it.
anything = st.text(st.characters(codec=None), max_size=60)


def one_by_one(wording: Wording, texts: Sequence[str]) -> list[float]:
    return [float(wording.score([text])[0]) for text in texts]


@settings(deadline=None)
@given(texts=st.lists(anything, max_size=8))
def test_a_texts_score_does_not_depend_on_the_others(texts: list[str]) -> None:
    assert REFERENCE.score(texts).tolist() == one_by_one(REFERENCE, texts)


@settings(deadline=None)
@given(texts=st.lists(anything, max_size=6))
def test_reference_texts_are_counted_one_by_one(texts: list[str]) -> None:
    alone = sum((Wording.of([text]).counts.astype(np.int64) for text in texts), np.zeros(SLOTS, np.int64))

    assert np.array_equal(Wording.of(texts).counts, alone)


@settings(deadline=None)
@given(text=anything)
def test_every_text_has_a_score_that_can_be_ranked(text: str) -> None:
    (score,) = REFERENCE.score([text])

    # No gram is less likely than one that was never seen.
    assert 0 < score <= -np.log(0.5 / (REFERENCE.counts.sum() + 0.5 * SLOTS)) + 1e-9


@pytest.mark.parametrize(
    ("text", "grams"),
    [
        ("", 1),
        ("a", 1),
        ("abcd", 1),
        ("abcde", 2),
        ("🚀", 1),
        ("涨停板了吗", 2),
        ("\ud83d", 1),
        ("x" * 20_000, MAX_CHARS - 3),
    ],
)
def test_a_text_has_as_many_grams_as_places_where_one_begins(text: str, grams: int) -> None:
    assert Wording.of([text]).counts.sum() == grams


def test_of_a_long_text_the_beginning_is_looked_at() -> None:
    long = "profits rose again this year " * 700
    assert len(long) > 20_000

    assert one_by_one(REFERENCE, [long]) == one_by_one(REFERENCE, [long[:MAX_CHARS]])


def test_a_text_like_the_reference_is_less_surprising_than_one_that_is_not() -> None:
    reference, others = Wording.of(QUESTIONS[::2]), QUESTIONS[1::2]

    alike, unlike = reference.score(others), reference.score(FORMAL)

    assert alike.mean() + 0.5 < unlike.mean()
    assert np.quantile(alike, 0.9) < np.quantile(unlike, 0.1)


@pytest.mark.parametrize(("usual", "other"), [(CHINESE, FORMAL), (FORMAL, CHINESE), (EMOJI, FORMAL), (FORMAL, EMOJI)])
def test_any_writing_can_be_what_is_usual(usual: list[str], other: list[str]) -> None:
    wording = Wording.of(usual)

    assert wording.score(usual).max() < wording.score(other).min()


def test_capitals_are_no_surprise() -> None:
    assert one_by_one(REFERENCE, ["ACME PROFIT AGAIN"]) == one_by_one(REFERENCE, ["acme profit again"])


def test_no_gram_reaches_from_one_text_into_the_next() -> None:
    together, apart = Wording.of(["abcd", "efgh"]), Wording.of(["abcdefgh"])

    assert together.counts.sum() == 2
    assert apart.counts.sum() == 2 + GRAM - 1


def test_a_wording_made_of_anothers_counts_is_the_same() -> None:
    again = Wording(REFERENCE.counts)

    assert np.array_equal(again.score(CHINESE + FORMAL), REFERENCE.score(CHINESE + FORMAL))


def test_without_a_reference_text_all_are_as_surprising() -> None:
    scores = Wording.of([]).score(["one text", "and another that is longer"])

    assert scores == pytest.approx([np.log(SLOTS)] * 2)


def test_no_text_has_no_score() -> None:
    assert REFERENCE.score([]).shape == (0,)
