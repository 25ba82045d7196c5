"""The past drawn in another label mix."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.gate.mix import in_mix
from learners.job import Example

LABELS = ("negative", "neutral", "positive")


def of(labels: list[str]) -> list[Example]:
    return [Example(id=f"e{n}", text=f"text {n}", label=label, group="old") for n, label in enumerate(labels)]


def counts(examples: list[Example]) -> list[int]:
    return [sum(one.label == label for one in examples) for label in LABELS]


def test_it_keeps_as_many_as_there_can_be_of_the_mix() -> None:
    past = of(["negative"] * 50 + ["neutral"] * 300 + ["positive"] * 100)
    assert counts(in_mix(past, ["negative"] * 8 + ["neutral"] * 2)) == [50, 12, 0]
    assert counts(in_mix(past, ["neutral"] * 60 + ["positive"] * 20)) == [0, 300, 100]


def test_a_label_that_the_past_never_saw_does_not_empty_it() -> None:
    past = of(["neutral"] * 20 + ["positive"] * 20)
    assert counts(in_mix(past, ["negative"] * 90 + ["neutral"] * 5 + ["positive"] * 10)) == [0, 10, 20]


def test_nothing_is_kept_of_what_is_not_there_today() -> None:
    assert in_mix(of(["neutral"] * 20), ["negative"]) == in_mix(of(["neutral"]), []) == in_mix([], ["neutral"]) == []


@given(st.lists(st.sampled_from(LABELS), max_size=80), st.lists(st.sampled_from(LABELS), min_size=1, max_size=40))
def test_it_draws_each_once_in_their_order_and_never_far_from_the_mix(past: list[str], today: list[str]) -> None:
    examples = of(past)
    kept = in_mix(examples, today)
    places = [examples.index(one) for one in kept]
    assert places == sorted(set(places))
    shared = [label for label in LABELS if label in past and label in today]
    told = sum(today.count(label) for label in shared)
    for label in shared:
        share = sum(one.label == label for one in kept)
        assert abs(share - len(kept) * today.count(label) / told) <= len(LABELS) / 2
    if shared:
        assert any(sum(one.label == label for one in kept) == past.count(label) for label in shared)
