"""The gate beside a model that follows the label mix: what it knows is judged apart from the mix that it expects."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import GateConfig
from daemon.gate.audit import audit
from daemon.gate.mix import factors
from daemon.gate.verdict import Verdict, judge
from learners.job import Judged, Swapped

LABELS = ["negative", "neutral", "positive"]
CONFIG = GateConfig()

#: What the odds of each label are multiplied by, where nearly all has become negative.
MOVED = (2.4, 0.4, 0.2)

Floats = np.typing.NDArray[np.float64]


def told(said: Floats, odds: Sequence[float]) -> Floats:
    moved: Floats = said * odds
    return moved / moved.sum(axis=1, keepdims=True)


def sayings(truth: np.typing.NDArray[np.int64], *, knows: float, seed: int = 0) -> Floats:
    """Calibrated probabilities of a model that tells the labels apart by `knows` standard deviations of its noise."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), 3)) * knows
    logits[np.arange(len(truth)), truth] += knows**2
    return told(np.exp(logits - logits.max(axis=1, keepdims=True)), (1, 1, 1))


def rows(
    truth: np.typing.NDArray[np.int64],
    parent: Floats,
    candidate: Floats,
    *,
    group: Literal["fresh", "old"] = "old",
    source: str = "wire",
) -> list[Judged]:
    return [
        Judged(
            id=f"{group} {source} {n}",
            label=LABELS[truth[n]],
            source=source,
            key=None,
            group=group,
            parent=parent[n].tolist(),
            candidate=candidate[n].tolist(),
        )
        for n in range(len(truth))
    ]


#: And of a champion that has moved as far as it says so of next to every text.
FAR = (100.0, 0.5, 0.1)

#: Labels of the past, all as common, and of today.
PAST = np.arange(600) % 3
TODAY = np.repeat([0, 1, 2], [320, 50, 30])


def verdict(judged: Sequence[Judged], *, apart_from_mix: bool = True) -> Verdict:
    return judge(judged, LABELS, slowdown=1.0, config=CONFIG, seed=0, apart_from_mix=apart_from_mix)


def follower() -> list[Judged]:
    """A champion that expects all labels alike, and the same model once it was told that most are negative."""
    past, today = sayings(PAST, knows=1.5), sayings(TODAY, knows=1.5, seed=1)
    return [*rows(PAST, past, told(past, MOVED)), *rows(TODAY, today, told(today, MOVED), group="fresh")]


def learned(knows: float, *, of_past: float) -> list[Judged]:
    """A champion that follows the mix, and what learned from it and knows so much; of the past, so much."""
    past, today = told(sayings(PAST, knows=1.5), FAR), told(sayings(TODAY, knows=1.5, seed=1), FAR)
    return [
        *rows(PAST, past, told(sayings(PAST, knows=of_past, seed=2), (2, 1, 0.5))),
        *rows(TODAY, today, told(sayings(TODAY, knows=knows, seed=3), MOVED), group="fresh"),
    ]


def test_a_model_that_follows_the_mix_has_forgotten_nothing() -> None:
    seems_to_forget = verdict(follower(), apart_from_mix=False)
    assert not seems_to_forget.promoted
    assert seems_to_forget.because.startswith("forgets ")
    decided = verdict(follower())
    assert decided.promoted, decided.because
    assert decided.apart_from_mix
    assert [one.change for one in decided.slices if not one.fresh] == [0.0] * 5


def test_the_audit_says_so_too() -> None:
    assert "label positive" in audit(follower(), LABELS, CONFIG, seed=0).fell
    checked = audit(follower(), LABELS, CONFIG, seed=0, apart_from_mix=True)
    assert checked.fell == []
    assert {"everything fresh", "fresh source wire"} <= {one.name for one in checked.slices}


def test_a_source_whose_mix_did_not_move_keeps_its_labels() -> None:
    # The mix moved on the wire, which most texts come from; the blog writes of everything as before.
    of_blog = np.arange(120) % 3
    blog = sayings(of_blog, knows=1.5, seed=4)
    worse = rows(of_blog, blog, told(blog, MOVED), group="fresh", source="blog")
    decided = verdict([*follower(), *worse])
    assert not decided.promoted
    assert decided.because.startswith("is worse on fresh source blog: ")


def test_beside_a_champion_that_follows_the_mix_what_was_forgotten_shows() -> None:
    better = learned(3.0, of_past=0.8)
    # That champion is right about so little of the past that next to it anything is.
    assert verdict(better, apart_from_mix=False).promoted
    decided = verdict(better)
    assert not decided.promoted
    assert decided.because.startswith("forgets ")


def test_beside_it_what_knows_as_much_as_before_goes_live() -> None:
    decided = verdict(learned(3.0, of_past=1.5))
    assert decided.promoted, decided.because


def named(judged: list[Judged], *, moved: float) -> list[Judged]:
    """The same, with names swapped: both models are shaken a little, and the candidate of so many of another."""
    draws = np.random.default_rng(5)
    rows = []
    for one in judged:
        assert one.parent is not None
        parent, candidate = (
            told(np.array([said]) * np.exp(draws.normal(scale=1.5, size=3)), (1, 1, 1))[0].tolist()
            for said in (one.parent, one.candidate)
        )
        if draws.random() < moved:
            candidate = [*candidate[1:], candidate[0]]
        rows.append(one.model_copy(update={"swapped": Swapped(parent=parent, candidate=candidate)}))
    return rows


def test_beside_a_champion_that_says_one_label_no_candidate_hangs_on_names_for_saying_others() -> None:
    candidate = learned(3.0, of_past=1.5)
    seems_to = verdict(named(candidate, moved=0.0), apart_from_mix=False).invariance
    assert seems_to is not None
    assert not seems_to.passed
    decided = verdict(named(candidate, moved=0.0))
    assert decided.promoted, decided.because


def test_one_that_does_hang_on_names_stays_out() -> None:
    decided = verdict(named(learned(3.0, of_past=1.5), moved=0.3))
    assert not decided.promoted
    assert decided.because.startswith("judges names: ")


def test_its_confidence_is_judged_by_today_s_mix_on_today_s_labels() -> None:
    calibration = verdict(follower()).calibration
    assert calibration is not None
    assert calibration.passed
    # Told the mix of the past on all of them the two would be as wrong, and by its own on the past it would be worse.
    assert calibration.candidate < calibration.parent - 0.001
    assert calibration.examples == len(PAST) + len(TODAY)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_candidate_without_numbers_never_passes(broken: float) -> None:
    judged = [one.model_copy(update={"candidate": [broken, 0.5, 0.5]}) for one in follower()]
    decided = verdict(judged)
    assert not decided.promoted
    assert decided.because.startswith("its probabilities are not numbers")


def test_without_a_past_there_is_nothing_to_judge_apart_from() -> None:
    fresh = [one for one in follower() if one.group == "fresh"]
    together, apart = verdict(fresh, apart_from_mix=False), verdict(fresh)
    assert apart.promoted is together.promoted is True
    assert (apart.calibration, apart.invariance) == (together.calibration, together.invariance)


def test_a_label_that_a_model_does_not_know_keeps_its_odds() -> None:
    said, truth = np.array([[0.5, 0.5, 0.0]] * 4), np.array([0, 0, 1, 2])
    found = factors(said, truth)
    assert found[2] == 1.0
    assert found[0] / found[1] == pytest.approx(2.0, rel=0.01)


examples: Any = st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.floats(0.01, 1)] * 3)), min_size=1, max_size=60)


@given(examples)
def test_labels_that_are_there_become_as_common_as_they_are(
    given: list[tuple[int, tuple[float, float, float]]],
) -> None:
    truth = np.array([label for label, _ in given])
    said = told(np.array([weights for _, weights in given]), (1, 1, 1))
    found = factors(said, truth)
    there = np.unique(truth)
    assert all(found[label] == 1.0 for label in range(3) if label not in there)
    expected = told(said[:, there], found[there]).sum(axis=0)
    assert expected == pytest.approx(np.bincount(truth, minlength=3)[there], abs=0.01 * len(truth))


@given(examples, st.tuples(*[st.floats(0.1, 10)] * 3))
def test_what_a_model_was_told_makes_no_difference(
    given: list[tuple[int, tuple[float, float, float]]], odds: tuple[float, float, float]
) -> None:
    truth = np.array([label for label, _ in given])
    said = told(np.array([weights for _, weights in given]), (1, 1, 1))
    there = np.unique(truth)
    plain, moved = (told(one[:, there], factors(one, truth)[there]) for one in (said, told(said, odds)))
    assert moved == pytest.approx(plain, abs=0.02)
