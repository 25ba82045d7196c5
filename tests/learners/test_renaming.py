import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.known_names import COMPANIES, FIRST_NAMES, PEOPLE, TICKERS
from learners.renaming import renamed


@pytest.mark.parametrize(
    ("text", "kept", "names"),
    [
        ("$TSLA is going to the moon", "${} is going to the moon", TICKERS),
        ("$BRK.B, the cheap ones", "${}, the cheap ones", TICKERS),
        ("sold all my $F, bought more", "sold all my ${}, bought more", TICKERS),
        ("Ford Motor (NYSE: F) fell", "Ford Motor (NYSE: {}) fell", TICKERS),
        ("Nokia's profit fell", "{}'s profit fell", COMPANIES),
        ("shares of Deutsche Bank rose", "shares of {} rose", COMPANIES),
        ("Componenta Oyj cuts jobs", "{} Oyj cuts jobs", COMPANIES),
        ("Acme Rocket Works, Inc. is sued", "{}, Inc. is sued", COMPANIES),
        ("Mr. Smith resigns", "Mr. {} resigns", PEOPLE),
        ("says CEO Mary Barra today", "says CEO {} today", PEOPLE),
        ("Dr. Anna Berg resigns", "Dr. {} resigns", PEOPLE),
        ("The Componenta Group cuts jobs", "The {} Group cuts jobs", COMPANIES),
        ("Elon Musk tweets", "{} tweets", PEOPLE),
    ],
)
def test_a_name_is_swapped_for_another_of_its_kind_and_nothing_else_is(text, kept, names):
    swapped = renamed(text, seed=0)

    assert swapped in {kept.format(name) for name in names}
    assert swapped != text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "profit rose by $5 to $10M",
        "shares of the company rose",
        "The target price is an apple a day",
        "$tsla lower case is no ticker",
        "Profit rose in the fourth quarter of 2008",
        "Group sales fell, says the Group",
        "The Company said that its Group will cut jobs",
        "CEO Resigns As Profit Falls At Acme Corp",
        "it lost $US 5 million",
    ],
)
def test_a_text_without_names_stays_as_it_is(text):
    assert renamed(text, seed=0) == text


def test_the_same_name_is_the_same_other_throughout_and_two_names_stay_two():
    text = "Nokia sues Ericsson; Ericsson says Nokia is wrong"

    first, second = renamed(text, seed=0).split(" sues ")[0], renamed(text, seed=0).split(" sues ")[1].split(";")[0]

    assert first != second
    assert renamed(text, seed=0) == f"{first} sues {second}; {second} says {first} is wrong"


def test_the_seed_decides_which_other():
    texts = {renamed("Nokia cuts jobs", seed=seed) for seed in range(20)}

    assert len(texts) > 5
    assert renamed("Nokia cuts jobs", seed=3) == renamed("Nokia cuts jobs", seed=3)


def test_names_are_known_once_and_people_are_recognised_by_their_own_first_names():
    for names in (COMPANIES, TICKERS, PEOPLE, FIRST_NAMES):
        assert len(set(names)) == len(names)
    assert {person.split()[0] for person in PEOPLE} <= set(FIRST_NAMES)


@given(st.text(), st.integers(0, 9))
def test_whatever_is_written_is_renamed_without_fail(text, seed):
    assert renamed(text, seed) == renamed(text, seed)


@given(st.lists(st.sampled_from(["Nokia", "$TSLA", "Mr Smith", "rose", "and", "Oyj", "CEO", "(NYSE: F)", "."])))
def test_as_many_words_are_left_but_for_people_and_companies_of_two(words):
    assert len(renamed(" ".join(words), 0).split()) >= len([word for word in words if word in ("rose", "and", ".")])
