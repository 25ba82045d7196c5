import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.asking import DAY, SAVED, Budget, choose, margin
from daemon.records import LabelRequest, encode_sketch
from learners.model import SKETCH_DIMENSIONS
from tests.daemon.streams import START, label_row, settings
from tests.daemon.test_controller import Crash, Desk, score_row

NOW = START.timestamp() + 86_400
RANDOM = np.random.default_rng(0)
NONE = np.empty((0, 8), dtype=np.float32)


def cloud(count: int, centre: float, spread: float = 1.0) -> np.ndarray:
    return (centre + spread * RANDOM.standard_normal((count, 8))).astype(np.float32)


def drawn(unsure: np.ndarray, *of: object, generator: np.random.Generator = RANDOM) -> list[int]:
    return [pick.index for pick in choose(unsure, *of, draws=generator.random(len(unsure)))]


def sketched(number: int, **fields: object) -> dict[str, object]:
    sketch = np.random.default_rng(number).standard_normal(SKETCH_DIMENSIONS).astype(np.float32)
    return score_row(number, sketch=encode_sketch(sketch), **fields)


def test_what_the_model_is_sure_of_is_not_asked_for():
    recent = cloud(300, 0.0)
    unsure = np.full(50, 0.1)
    unsure[17] = 0.9
    unsure[np.arange(50) != 17] = 0.0
    assert drawn(unsure, recent[:50], recent, NONE, 5) == [17]


def test_one_of_a_kind_waits_for_what_is_typical():
    typical = cloud(200, 0.0, 0.1)
    odd = cloud(1, 50.0)
    both = np.vstack([typical, odd])
    # At equal draws the better reason decides.
    (first,) = choose(np.full(201, 0.5), both, both, NONE, 1, draws=np.full(201, 0.5))
    assert first.index != 200
    assert first.density > 1 / 201


def test_what_is_like_something_labelled_gives_way_to_what_is_not():
    known, new = cloud(100, 0.0), cloud(100, 20.0)
    both = np.vstack([known, new])
    picks = drawn(np.full(200, 0.5), both, both, known, 10)
    assert len(picks) == 10
    assert all(pick >= 100 for pick in picks)


def test_the_same_story_is_asked_about_once():
    stories = cloud(5, 0.0)
    copies = np.repeat(stories, 40, axis=0)
    recent = np.vstack([copies, cloud(100, 0.0)])
    picks = drawn(np.full(200, 0.5), copies, recent, NONE, 50)
    assert len({pick // 40 for pick in picks}) == len(picks) <= 5
    assert drawn(np.full(200, 0.5), copies, recent, stories, 50) == []


def test_a_text_is_drawn_as_often_as_the_model_is_unsure_of_it():
    # One of each story, far from the others, so that only doubt tells them apart.
    stories = np.eye(8, dtype=np.float32) * 100
    unsure = np.array([0.4, 0.2, 0.2, 0.1, 0.1, 0.0, 0.0, 0.0])
    generator = np.random.default_rng(0)
    first = [drawn(unsure, stories, stories, NONE, 1, generator=generator)[0] for _ in range(4_000)]
    # Three standard deviations of a share among so many are 0.024.
    assert np.bincount(first, minlength=8) / 4_000 == pytest.approx(unsure, abs=0.024)


def test_nothing_is_chosen_of_nothing():
    assert drawn(np.empty(0), NONE, NONE, NONE, 5) == []
    assert drawn(np.ones(1), cloud(1, 0.0), cloud(1, 0.0), NONE, 5) == []


def test_a_tie_is_as_unsure_as_it_gets():
    assert margin([0.4, 0.4, 0.2]) == 1.0
    assert margin([1.0, 0.0]) == pytest.approx(0.0)
    assert margin([1.0]) == 0.0


@given(
    daily=st.integers(1, 200),
    steps=st.lists(st.floats(0, DAY), max_size=60),
    back=st.floats(0, DAY),
)
def test_no_24_hours_see_more_than_the_budget_nor_any_moment_more_than_its_quarter(daily, steps, back):
    budget, asked, now = Budget(daily), [], 1e9
    for step in steps:
        now += step
        allowed = budget.allowed(now, sum(1 for at in asked if at > now - DAY))
        assert allowed <= max(1, SAVED * daily)
        budget.spend(allowed)
        asked += [now] * allowed
        assert sum(1 for at in asked if at > now - DAY) <= daily
        budget = Budget(daily, **budget.state())
    # A clock that jumps back earns nothing.
    assert budget.allowed(now - back, 0) <= max(1, SAVED * daily)


@pytest.fixture
def asking(config):
    return config.model_copy(update={"asking": config.asking.model_copy(update={"daily_budget": 40, "every": 20})})


def requests(desk: Desk) -> list[LabelRequest]:
    return [LabelRequest.model_validate_json(value) for value in desk.said("label-requests")]


def test_nothing_is_asked_unless_somebody_wants_to_answer(config):
    desk = Desk(config)
    desk.step([sketched(n) for n in range(200)])
    assert requests(desk) == []
    desk.close()


def test_requests_come_in_rounds_with_their_reason_and_each_text_is_asked_about_once(asking):
    desk = Desk(asking)
    desk.step([sketched(n) for n in range(19)], now=NOW)
    assert requests(desk) == []
    for start in range(19, 119, 20):
        desk.step([sketched(n) for n in range(start, start + 20)], [label_row(3)], now=NOW)
    asked = requests(desk)
    assert len(asked) == SAVED * 40
    assert len({one.id for one in asked}) == len(asked)
    assert "t3" not in {one.id for one in asked[5:]}
    assert asked[0].reason.startswith("unsure (0.80 neutral, 0.10 ")
    assert "% of recent texts, " in asked[0].reason
    assert asked[0].reason.endswith("labelled lately")
    assert desk.value("label_requests_total") == len(asked)
    desk.close()


def test_what_was_asked_survives_a_restart_and_a_broken_step_asks_nothing(asking):
    desk = Desk(asking)
    scores = [sketched(n) for n in range(60)]
    with pytest.raises(OSError, match="the machine is gone"):
        desk.controller.step(desk.messages(scores[:30], []), Crash(), NOW)
    desk.close()

    again = Desk(asking)
    assert requests(again) == []
    again.step(scores[:30], now=NOW)
    first = requests(again)
    assert len(first) == 10
    again.close()

    later = Desk(asking)
    later.step(scores[30:], now=NOW + DAY / 8)
    asked = requests(later)
    # An eighth of a day has earned as many as an eighth of the budget.
    assert len(asked) == len(first) + 5
    assert len({one.id for one in asked}) == len(asked)
    later.close()


def test_a_budget_without_sketches_is_refused(tmp_path, encoder):
    with pytest.raises(ValueError, match=r"asking\.daily_budget needs sketches"):
        settings(tmp_path, encoder, asking={"daily_budget": 5}, scorer={"sketch_share": 0.0})
