"""When a training run starts: pure decisions over what the controller knows, each with its reason."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from apscheduler.triggers.cron import CronTrigger

from daemon.config import TriggersConfig
from daemon.drift.kinds import Kind
from daemon.records import utc
from learners.priors import LEAST_BEFORE

TriggerName = Literal["drift", "mix", "proof", "labels", "accuracy", "schedule", "manual"]

#: Triggers of runs that learn. Of the others one follows the label mix, and one judges a candidate again.
LEARN: tuple[TriggerName, ...] = ("drift", "labels", "accuracy", "schedule", "manual")

#: Of these, those that may take their time.
UNHURRIED: tuple[TriggerName, ...] = ("labels", "schedule", "manual")

DAY = 86_400.0

#: After this many rejections in a row the next try waits no longer: 8 times `triggers.min_labels`; and a label mix is
#: no longer followed.
MAX_DOUBLINGS = 3

#: Cron counts weekdays from Sunday, 0 and again 7; APScheduler from Monday. By these names they agree.
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")

_NUMBERED = re.compile(r"(?:\*|([0-7])(?:-([0-7]))?)(?:/([1-7]))?")


@dataclass(frozen=True)
class Situation:
    """What a decision rests on. Times are in seconds since the epoch.

    Attributes:
        now: the stream's clock.
        running: a run is under way.
        new_labels: examples to learn since the last run began.
        drift: what an alarm since the champion went live says, and the harm it did; None without one that did harm.
        labels_since_drift: examples to learn whose texts came after that alarm.
        mix: what an alarm of the label mix since the champion went live says; None without one.
        mix_tries: runs that have followed that alarm.
        judging_mix: labels of texts that came after that alarm, and that would judge such a run.
        needed_judging: how many of these the gate needs.
        accuracy: the champion's live accuracy over the window; None until the window is full.
        best_accuracy: the best that it has been.
        started: when past runs began, oldest first: those of the last 24 hours, and the last one.
        learned: the same of runs that learn, which those that follow the label mix do not hold up.
        schedule_due: the schedule has come round since it was last looked at.
        manual: who asked for a run; None when nobody did.
        rejections: candidates in a row that the gate has turned away.
        unproved: the candidate that lacked nothing but proof, and that the next run goes on from; None without one.
        labels_since_unproved: labels that have come since it learned, and that the gate may use.
        looks: how often it was judged again.
    """

    now: float
    running: bool
    new_labels: int
    drift: str | None
    labels_since_drift: int
    accuracy: float | None
    best_accuracy: float | None
    started: tuple[float, ...]
    learned: tuple[float, ...]
    schedule_due: bool
    manual: str | None
    rejections: int = 0
    mix: str | None = None
    mix_tries: int = 0
    judging_mix: int = 0
    needed_judging: int = 0
    unproved: str | None = None
    labels_since_unproved: int = 0
    looks: int = 0


@dataclass(frozen=True)
class Firing:
    """A trigger and whether it starts a run (`fired`) or why not (`held`).

    `rehearses`: the run goes over everything that is remembered, instead of what is new and as much of what is not.
    """

    trigger: TriggerName
    outcome: Literal["fired", "held"]
    reason: str
    held_by: str = ""
    rehearses: bool = False


#: Which kind of drift matters more: a concept that changed makes scores wrong, others may or may not.
GRAVITY: dict[Kind, int] = {"input": 0, "concept": 1}


def consequence(kind: Kind, config: TriggersConfig, *, by_labels: bool, rose: bool, before: int) -> str:
    """What is done about an alarm, in a sentence.

    `by_labels`: it is errors that `rose` or fell; `before`: texts of before that say what the label mix was.
    """
    if kind == "label mix" and before < LEAST_BEFORE:
        return f"none: {before} texts from before say what the mix was, and it takes {LEAST_BEFORE}"
    if kind == "label mix":
        return "follows the mix, once enough labels from since then can judge it"
    if by_labels and not rose:
        return "none: errors became fewer"
    if by_labels:
        return f"learns, once {config.drift_labels} labels from since then are there"
    return (
        "the reference window is made anew of the texts since; learns only if accuracy, measured or estimated, suffers"
    )


def decide(situation: Situation, config: TriggersConfig) -> Firing | None:
    """The trigger to act on, else the first one that is held back; None when nothing calls for a run."""
    first_held = None
    for trigger, reason in _calls(situation, config):
        held = _hold(trigger, situation, config)
        if held is None:
            return Firing(trigger, "fired", reason)
        held_by, why = held
        first_held = first_held or Firing(trigger, "held", f"{reason}; held: {why}", held_by)
    return first_held


def rehearsing(fired: Firing, remembered: int, unrehearsed: int, config: TriggersConfig) -> Firing:
    """The same, but over everything if it may take its time and that is due (see `rehearsal_due`).

    Whoever has set a schedule has chosen the hour for it, and it is due whatever has come.
    """
    due = rehearsal_due(remembered, unrehearsed, config) or (config.rehearse > 0 and fired.trigger == "schedule")
    if fired.trigger not in UNHURRIED or not due:
        return fired
    because = f"all {remembered} remembered are gone over, of which {unrehearsed} are new since the last time"
    return replace(fired, reason=f"{fired.reason}; {because}", rehearses=True)


def rehearsal_due(remembered: int, unrehearsed: int, config: TriggersConfig) -> bool:
    """Whether enough of what is remembered has come since all of it was gone over, for a run to do so again.

    While what is remembered grows, each such run is larger and the next one later: all of them together go over an
    example a few times, however long the stream.
    """
    return 0 < config.rehearse * remembered <= unrehearsed


def _calls(situation: Situation, config: TriggersConfig) -> Iterator[tuple[TriggerName, str]]:
    """What calls for a run, most pressing first."""
    if situation.manual is not None:
        yield "manual", f"asked for by {situation.manual}"
    if situation.schedule_due:
        yield "schedule", f"triggers.schedule {config.schedule!r} came round"
    # Each further look takes twice the labels, so that chance is given few chances.
    since = situation.labels_since_unproved
    if situation.unproved is not None and since >= config.min_labels * 2**situation.looks:
        yield "proof", f"{since} labels since {situation.unproved} learned may prove it better"
    if situation.drift is not None:
        yield "drift", situation.drift
    if situation.mix is not None:
        yield "mix", situation.mix
    accuracy, best = situation.accuracy, situation.best_accuracy
    if accuracy is not None and best is not None and best - accuracy >= config.accuracy.drop:
        yield "accuracy", f"live accuracy fell from {best:.3f} to {accuracy:.3f}"
    if config.labels and situation.new_labels >= config.labels:
        yield "labels", f"{situation.new_labels} new labels"


RUNNING = "running", "a run is under way"


def _hold(trigger: TriggerName, situation: Situation, config: TriggersConfig) -> tuple[str, str] | None:
    """What holds the trigger back: a short name for it, and the sentence; None when nothing does."""
    if trigger == "mix":
        return _hold_mix(situation, config)
    if situation.running:
        return RUNNING
    if trigger == "proof":
        return None
    if situation.new_labels == 0:
        return "no_labels", "there is nothing new to learn"
    if trigger == "manual":
        return None
    if trigger == "drift" and situation.labels_since_drift < config.drift_labels:
        return "labels", f"{situation.labels_since_drift} of {config.drift_labels} labels from after the drift"
    # What was turned away was learned from much the same labels: the next try waits for twice as many new ones.
    needed = config.min_labels * 2 ** min(situation.rejections, MAX_DOUBLINGS)
    if situation.new_labels < needed:
        return "labels", f"{situation.new_labels} of {needed} new labels"
    return _hold_pace(situation.learned, situation.now, config)


def _hold_mix(situation: Situation, config: TriggersConfig) -> tuple[str, str] | None:
    """Following the label mix learns nothing: it waits for no labels but those that judge it, more with each try."""
    needed = situation.needed_judging * 2**situation.mix_tries
    if situation.judging_mix < needed:
        told = f"{situation.judging_mix} of {needed}"
        return "labels", f"{told} labels from after the move to judge it by"
    return RUNNING if situation.running else _hold_pace(situation.started, situation.now, config)


def _hold_pace(started: Sequence[float], now: float, config: TriggersConfig) -> tuple[str, str] | None:
    since = now - started[-1] if started else None
    today = sum(now - moment < DAY for moment in started)
    if since is not None and since < config.cooldown:
        return "cooldown", f"the last run began {since:.0f} s ago; the cooldown is {config.cooldown:.0f} s"
    if today >= config.daily_budget:
        return "budget", f"{today} runs in 24 hours; the budget is {config.daily_budget}"
    return None


class Schedule:
    """A cron expression on the stream's own clock, in UTC. An empty expression never comes round.

    Where both a day of the month and a weekday are given, both must match.
    """

    def __init__(self, expression: str) -> None:
        """Raises ValueError when `expression` is not a cron expression of five fields."""
        fields = expression.split()
        named = " ".join([*fields[:4], *map(_name_weekdays, fields[4:])])
        self._cron = CronTrigger.from_crontab(named, timezone="UTC") if expression else None

    def next_after(self, moment: float) -> float | None:
        """When it next comes round after `moment`, in seconds since the epoch; None for never."""
        if self._cron is None:
            return None
        # A fire time equal to `moment` has passed, and they are whole seconds: ask from the next one.
        following: datetime | None = self._cron.get_next_fire_time(None, utc(math.floor(moment) + 1))
        return following.timestamp() if following else None


def _name_weekdays(field: str) -> str:
    """A cron field of weekdays with names for its numbers; what is no number is left to APScheduler."""
    return ",".join(name for part in field.split(",") for name in _weekdays(part))


def _weekdays(part: str) -> list[str]:
    numbered = _NUMBERED.fullmatch(part)
    if numbered is None or part == "*":
        return [part]
    first, last, step = numbered.groups()
    if last is None:
        last = "6" if first is None or step else first
    days = range(int(first or 0), int(last) + 1, int(step or 1))
    return [WEEKDAYS[day] for day in days] or [part]
