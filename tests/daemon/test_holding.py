import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemon.holding import MAX_SOURCES, Begun, Ended, Holding, Told


def told(number: int, *, wrong: bool, annotator: str = "", source: str | None = "wire", confident: bool = True) -> Told:
    return Told(f"t{number}", source, annotator, confident, wrong)


def prove(holding: Holding, source: str | None = "wire", labels: int = 100) -> None:
    for number in range(labels):
        # Every twentieth is wrong: an ordinary model.
        assert holding.observe(told(-1 - number, wrong=number % 20 == 7, source=source), 0.0) is None


def feed(holding: Holding, wrongs: list[bool], **fields: object) -> list[Begun | Ended]:
    told_ = [told(number, wrong=wrong, **fields) for number, wrong in enumerate(wrongs)]  # type: ignore[arg-type]
    return [change for one in told_ if (change := holding.observe(one, 5.0)) is not None]


def test_a_run_of_contradictions_begins_where_it_began_and_ends_when_they_agree():
    holding = Holding()
    prove(holding)
    (begun,) = feed(holding, [True] * 10)
    assert isinstance(begun, Begun)
    assert begun.ids[0] == "t0"
    assert len(begun.ids) <= 9
    assert begun.share == 1.0
    assert begun.usual < 0.1
    assert holding.holds("wire", "anybody")
    assert not holding.holds("another", "anybody")

    (ended,) = feed(holding, [False] * 30)
    assert isinstance(ended, Ended)
    assert ended.ids[0] == "t0"
    assert not holding.holds("wire", "anybody")


def test_half_of_the_labels_turned_is_a_run_too():
    holding = Holding()
    prove(holding)
    assert len(feed(holding, [True, False] * 40)) == 1


def test_where_the_model_was_never_right_a_contradiction_says_nothing():
    holding = Holding()
    assert feed(holding, [True] * 200) == []
    assert feed(holding, [True, False] * 200) == []


def test_what_the_model_was_unsure_of_is_no_evidence_but_goes_with_the_run():
    holding = Holding()
    prove(holding)
    assert feed(holding, [True] * 100, confident=False) == []
    holding.observe(told(500, wrong=True), 5.0)
    holding.observe(told(501, wrong=True, confident=False), 5.0)
    (begun,) = feed(holding, [True] * 8)
    assert begun.ids[:3] == ["t500", "t501", "t0"]


def test_one_annotator_who_stands_out_is_held_alone():
    holding = Holding()
    prove(holding)
    changes = []
    for number in range(60):
        mallory = number % 2 == 0
        one = told(number, wrong=mallory, annotator="mallory" if mallory else "ada")
        changes += [change for change in [holding.observe(one, 5.0)] if change]
    (begun,) = changes
    assert begun.annotator == "mallory"
    assert all(int(id[1:]) % 2 == 0 for id in begun.ids)
    assert holding.holds("wire", "mallory")
    assert not holding.holds("wire", "ada")


@given(seed=st.integers(0, 2**32 - 1))
def test_usual_errors_hold_nothing(seed):
    holding = Holding()
    wrongs = np.random.default_rng(seed).random(400) < 0.12
    assert feed(holding, [bool(wrong) for wrong in wrongs]) == []


@given(wrongs=st.lists(st.booleans(), max_size=60), cut=st.integers(0, 60))
def test_it_goes_on_exactly_from_its_state(wrongs, cut):
    whole, part = Holding(), Holding()
    prove(whole, None)
    prove(part, None)
    changes = feed(whole, wrongs, source=None)
    first = feed(part, wrongs[:cut], source=None)
    again = Holding(json.loads(json.dumps(part.state())))
    rest = [
        change
        for number, wrong in list(enumerate(wrongs))[cut:]
        if (change := again.observe(told(number, wrong=wrong, source=None), 5.0)) is not None
    ]
    assert first + rest == changes
    assert again.state() == whole.state()


def test_sources_are_bounded_and_one_that_holds_stays():
    holding = Holding()
    prove(holding)
    feed(holding, [True] * 10)
    for number in range(MAX_SOURCES + 50):
        holding.observe(told(number, wrong=False, source=f"s{number}"), 5.0)
    assert len(holding.state()) <= MAX_SOURCES
    assert holding.holds("wire", "")
