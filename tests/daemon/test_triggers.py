from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import AccuracyDropConfig, TriggersConfig
from daemon.drift.kinds import Kind
from daemon.triggers import DAY, Firing, Schedule, Situation, consequence, decide, rehearsal_due, rehearsing

CONFIG = TriggersConfig(
    labels=1_000,
    drift_labels=250,
    accuracy=AccuracyDropConfig(drop=0.08),
    schedule="0 3 * * *",
    min_labels=100,
    cooldown=1_800.0,
    daily_budget=4,
)

#: Nothing calls for a run, and nothing would hold one.
QUIET = Situation(
    now=10 * DAY,
    running=False,
    new_labels=500,
    drift=None,
    labels_since_drift=0,
    accuracy=None,
    best_accuracy=None,
    started=(),
    learned=(),
    schedule_due=False,
    manual=None,
)

MANUAL = replace(QUIET, manual="Ada")
SCHEDULE = replace(QUIET, schedule_due=True)
DRIFT = replace(QUIET, drift="kswin on novelty rose", labels_since_drift=250)
ACCURACY = replace(QUIET, best_accuracy=0.9, accuracy=0.8)
LABELS = replace(QUIET, new_labels=1_000)
MIX = replace(QUIET, mix="share of negative rose", judging_mix=30, needed_judging=30)

CALLS = {"manual": MANUAL, "schedule": SCHEDULE, "drift": DRIFT, "accuracy": ACCURACY, "labels": LABELS}


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> float:
    return datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()


def firing(situation: Situation, config: TriggersConfig = CONFIG) -> Firing:
    decided = decide(situation, config)
    assert decided is not None
    return decided


def test_when_nothing_calls_for_a_run_there_is_none() -> None:
    assert decide(QUIET, CONFIG) is None


@pytest.mark.parametrize(
    ("trigger", "reason"),
    [
        ("manual", "asked for by Ada"),
        ("schedule", "triggers.schedule '0 3 * * *' came round"),
        ("drift", "kswin on novelty rose"),
        ("accuracy", "live accuracy fell from 0.900 to 0.800"),
        ("labels", "1000 new labels"),
    ],
)
def test_each_trigger_fires_with_its_reason(trigger: str, reason: str) -> None:
    fired = firing(CALLS[trigger])

    assert (fired.trigger, fired.outcome, fired.reason, fired.held_by) == (trigger, "fired", reason, "")


@pytest.mark.parametrize("trigger", CALLS)
def test_once_half_of_what_is_remembered_is_new_a_run_that_may_take_its_time_goes_over_everything(trigger: str) -> None:
    fired = firing(CALLS[trigger])
    assert not fired.rehearses
    assert rehearsing(fired, 4_000, 1_999, CONFIG).rehearses == (trigger == "schedule")
    half = rehearsing(fired, 4_000, 2_000, CONFIG)
    assert half.rehearses == (trigger in ("manual", "schedule", "labels"))
    said = "all 4000 remembered are gone over, of which 2000 are new since the last time"
    assert half.reason == (f"{fired.reason}; {said}" if half.rehearses else fired.reason)
    assert rehearsing(fired, 4_000, 4_000, CONFIG.model_copy(update={"rehearse": 0.0})) == fired


@pytest.mark.parametrize("bound", [5_000, 10**9])
def test_to_go_over_everything_costs_a_few_times_what_has_come(bound: int) -> None:
    came = remembered = unrehearsed = 1_000
    gone_over = 0
    for _ in range(100):
        came += 1_000
        remembered, unrehearsed = min(came, bound), unrehearsed + 1_000
        if rehearsal_due(remembered, unrehearsed, CONFIG):
            gone_over, unrehearsed = gone_over + remembered, 0
    assert came / 2 < gone_over <= 2 * came


@pytest.mark.parametrize("trigger", CALLS)
@pytest.mark.parametrize(
    ("changes", "held_by"),
    [
        ({"running": True}, "running"),
        ({"new_labels": 0}, "no_labels"),
        ({"new_labels": 99}, "labels"),
        ({"learned": (10 * DAY - 1_799.0,)}, "cooldown"),
        ({"learned": (9.01 * DAY, 9.2 * DAY, 9.4 * DAY, 9.6 * DAY)}, "budget"),
    ],
    ids=str,
)
def test_what_holds_a_run_back_holds_every_trigger_but_a_person(
    trigger: str, changes: dict[str, Any], held_by: str
) -> None:
    situation = replace(CALLS[trigger], **changes)
    config = CONFIG.model_copy(update={"labels": 1}) if trigger == "labels" else CONFIG
    decided = decide(situation, config)

    if trigger == "manual" and held_by not in {"running", "no_labels"}:
        assert decided is not None
        assert decided.outcome == "fired"
    elif trigger == "labels" and held_by == "no_labels":
        assert decided is None
    else:
        assert decided is not None
        assert (decided.trigger, decided.outcome, decided.held_by) == (trigger, "held", held_by)
        assert "; held: " in decided.reason


def test_the_reasons_for_holding_name_the_numbers() -> None:
    held: dict[str, dict[str, Any]] = {
        "a run is under way": {"running": True},
        "there is nothing new to learn": {"new_labels": 0},
        "99 of 100 new labels": {"new_labels": 99},
        "249 of 250 labels from after the drift": {"labels_since_drift": 249},
        "the last run began 60 s ago; the cooldown is 1800 s": {"learned": (10 * DAY - 60,)},
        "4 runs in 24 hours; the budget is 4": {"learned": tuple(9.5 * DAY + n for n in range(4))},
    }
    for why, changes in held.items():
        situation = replace(DRIFT, **changes)
        assert firing(situation).reason == f"kswin on novelty rose; held: {why}"


def test_following_the_label_mix_learns_nothing_and_waits_for_no_labels_to_learn() -> None:
    assert firing(replace(MIX, new_labels=0, rejections=3)) == Firing("mix", "fired", "share of negative rose")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"running": True}, "a run is under way"),
        ({"judging_mix": 29}, "29 of 30 labels from after the move to judge it by"),
        ({"started": (10 * DAY - 60,)}, "the last run began 60 s ago; the cooldown is 1800 s"),
        ({"started": tuple(9.5 * DAY + n for n in range(4))}, "4 runs in 24 hours; the budget is 4"),
    ],
    ids=str,
)
def test_following_the_label_mix_waits_for_what_judges_it(changes: dict[str, Any], why: str) -> None:
    held = firing(replace(MIX, **changes))

    assert (held.trigger, held.outcome) == ("mix", "held")
    assert held.reason == f"share of negative rose; held: {why}"


def test_a_mix_that_was_not_followed_is_tried_again_with_twice_the_labels_that_judge_it() -> None:
    once = replace(MIX, mix_tries=1)

    assert firing(replace(once, judging_mix=59)).reason.endswith("59 of 60 labels from after the move to judge it by")
    assert firing(replace(once, judging_mix=60)).outcome == "fired"


def test_a_run_that_follows_the_mix_does_not_hold_up_one_that_learns() -> None:
    followed = (DRIFT.now - 60,)

    assert firing(replace(DRIFT, started=followed)).outcome == "fired"
    assert firing(replace(MIX, started=followed)).held_by == "cooldown"


def test_drift_that_did_harm_is_learned_before_the_mix_is_followed() -> None:
    assert firing(replace(MIX, drift="errors rose", labels_since_drift=250)).trigger == "drift"


@pytest.mark.parametrize(
    ("kind", "by_labels", "rose", "does"),
    [
        ("concept", True, True, "learns, once 250 labels"),
        ("concept", True, False, "none: errors became fewer"),
        ("input", True, True, "learns, once 250 labels"),
        ("input", False, True, "learns only if accuracy, measured or estimated, suffers"),
        ("label mix", True, False, "follows the mix"),
    ],
)
def test_each_kind_of_drift_has_its_consequence(kind: Kind, by_labels: bool, rose: bool, does: str) -> None:
    assert does in consequence(kind, CONFIG, by_labels=by_labels, rose=rose, before=100)


def test_a_mix_that_nothing_is_known_of_is_not_followed() -> None:
    done = consequence("label mix", CONFIG, by_labels=False, rose=True, before=99)
    assert done == "none: 99 texts from before say what the mix was, and it takes 100"


def test_a_candidate_that_was_not_proved_is_judged_again_each_time_with_twice_the_labels() -> None:
    unproved = replace(QUIET, unproved="v7", labels_since_unproved=199, looks=1)
    assert decide(unproved, CONFIG) is None
    assert firing(replace(unproved, looks=0)).trigger == "proof"
    told = firing(replace(unproved, labels_since_unproved=200))
    assert (told.outcome, told.reason) == ("fired", "200 labels since v7 learned may prove it better")


def test_judging_again_learns_nothing_waits_for_no_pace_and_comes_before_learning_on() -> None:
    unproved = replace(LABELS, unproved="v7", labels_since_unproved=1_000, learned=(QUIET.now,) * 4)
    assert firing(unproved).trigger == "proof"
    assert firing(replace(unproved, new_labels=0)).outcome == "fired"
    assert firing(replace(unproved, manual="Ada")).trigger == "manual"
    assert firing(replace(unproved, running=True)).held_by == "running"


def test_the_cooldown_ends_on_the_second() -> None:
    assert firing(replace(LABELS, learned=(LABELS.now - 1_800.0,))).outcome == "fired"
    assert firing(replace(LABELS, learned=(LABELS.now - 1_799.9,))).held_by == "cooldown"


def test_the_budget_is_over_any_24_hours_and_not_over_a_date() -> None:
    spent = tuple(QUIET.now - hours * 3_600.0 for hours in (24, 18, 12, 6))

    assert firing(replace(LABELS, learned=spent)).outcome == "fired"
    assert firing(replace(LABELS, learned=spent, now=LABELS.now - 1)).held_by == "budget"


@pytest.mark.parametrize(("rejections", "needed"), [(0, 100), (1, 200), (3, 800), (4, 800), (20, 800)])
def test_after_each_rejection_twice_as_many_labels_are_waited_for_up_to_eight_times(
    rejections: int, needed: int
) -> None:
    tried = replace(DRIFT, rejections=rejections)

    assert firing(replace(tried, new_labels=needed)).outcome == "fired"
    held = firing(replace(tried, new_labels=needed - 1))
    assert held.reason.endswith(f"held: {needed - 1} of {needed} new labels")


def test_a_drift_that_is_held_does_not_stand_before_enough_labels() -> None:
    waiting = replace(DRIFT, labels_since_drift=10)

    assert firing(waiting).held_by == "labels"
    fired = firing(replace(waiting, new_labels=1_000))
    assert (fired.trigger, fired.outcome) == ("labels", "fired")


def test_of_several_that_are_held_the_most_pressing_is_told() -> None:
    everything = replace(DRIFT, running=True, new_labels=5_000, schedule_due=True, manual="Ada")

    assert firing(everything).trigger == "manual"
    assert firing(replace(everything, manual=None)).trigger == "schedule"


def test_a_person_is_heard_first() -> None:
    assert firing(replace(LABELS, manual="Ada", schedule_due=True)).trigger == "manual"


def test_an_accuracy_that_is_not_known_yet_or_fell_too_little_calls_for_nothing() -> None:
    assert decide(replace(QUIET, best_accuracy=0.9), CONFIG) is None
    assert decide(replace(QUIET, accuracy=0.1), CONFIG) is None
    assert decide(replace(QUIET, best_accuracy=0.9, accuracy=0.83), CONFIG) is None
    assert decide(replace(QUIET, best_accuracy=0.5, accuracy=0.9), CONFIG) is None


def test_zero_labels_turns_that_trigger_off() -> None:
    assert decide(replace(QUIET, new_labels=10**6), CONFIG.model_copy(update={"labels": 0})) is None


situations = st.builds(
    Situation,
    now=st.just(10 * DAY),
    running=st.booleans(),
    new_labels=st.integers(0, 2_000),
    drift=st.none() | st.just("drift"),
    labels_since_drift=st.integers(0, 500),
    accuracy=st.none() | st.floats(0, 1),
    best_accuracy=st.none() | st.floats(0, 1),
    started=st.just(()),
    learned=st.lists(st.floats(8 * DAY, 10 * DAY), max_size=6).map(lambda moments: tuple(sorted(moments))),
    schedule_due=st.booleans(),
    manual=st.none() | st.just("Ada"),
)


@given(situation=situations)
def test_no_run_ever_starts_beside_another_or_over_the_budget_unless_a_person_asks(situation: Situation) -> None:
    decided = decide(situation, CONFIG)

    if decided is not None and decided.outcome == "fired":
        assert not situation.running
        assert situation.new_labels > 0
        if decided.trigger != "manual":
            assert situation.new_labels >= CONFIG.min_labels
            assert not situation.learned or situation.now - situation.learned[-1] >= CONFIG.cooldown
            assert sum(situation.now - moment < DAY for moment in situation.learned) < CONFIG.daily_budget
    if decided is not None and decided.outcome == "held":
        assert decided.held_by


def test_a_schedule_goes_by_utc() -> None:
    schedule = Schedule("0 3 * * *")

    assert schedule.next_after(at(2025, 3, 30, 2, 59)) == at(2025, 3, 30, 3)
    assert schedule.next_after(at(2025, 3, 29, 12)) == at(2025, 3, 30, 3)


def test_a_moment_that_is_a_fire_time_has_passed_and_the_instant_before_it_has_not() -> None:
    schedule = Schedule("0 3 * * *")
    three = at(2025, 1, 1, 3)

    assert schedule.next_after(three) == three + DAY
    for before in (1.0, 0.5, 1e-3, 1e-4, 1e-6):
        assert schedule.next_after(three - before) == three
    assert schedule.next_after(three + 1e-6) == three + DAY


@given(moment=st.floats(0, 4e9))
def test_every_quarter_of_an_hour_comes_round_once(moment: float) -> None:
    following = Schedule("*/15 * * * *").next_after(moment)

    assert following is not None
    assert following % 900 == 0
    assert 0 < following - moment <= 900


@pytest.mark.parametrize(
    ("weekdays", "days"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1", "Mon"),
        ("6", "Sat"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Fri Sat Sun"),
        ("0-2", "Sun Mon Tue"),
        ("0,3", "Sun Wed"),
        ("*/2", "Sun Tue Thu Sat"),
        ("1-5/2", "Mon Wed Fri"),
        ("4/2", "Thu Sat"),
        ("sun", "Sun"),
        ("mon-fri", "Mon Tue Wed Thu Fri"),
        ("SAT,0", "Sat Sun"),
        ("*", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_weekdays_are_numbered_as_cron_numbers_them(weekdays: str, days: str) -> None:
    schedule = Schedule(f"30 12 * * {weekdays}")
    found, moment = set(), at(2025, 1, 1)
    for _ in range(7):
        following = schedule.next_after(moment)
        assert following is not None
        moment = following
        found.add(f"{datetime.fromtimestamp(moment, UTC):%a}")

    assert found == set(days.split())


def test_no_expression_and_a_date_that_is_none_never_come_round() -> None:
    assert Schedule("").next_after(0.0) is None
    assert Schedule("0 0 31 2 *").next_after(at(2025, 1, 1)) is None


@pytest.mark.parametrize(
    "expression",
    [
        "nightly",
        " ",
        "* * *",
        "* * * * * *",
        "61 * * * *",
        "0 3 * * 8",
        "0 3 * * 5-1",
        "0 3 * * */0",
        "a b c d e",
    ],
)
def test_what_is_no_cron_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError):
        Schedule(expression)
