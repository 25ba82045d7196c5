"""The daemon's own drift monitor among the contenders, and its evidence by itself."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from benchmarks.drift_matching import Contender
from benchmarks.drift_scores import texts
from benchmarks.drift_streams import HOME, REFERENCE, Ints, Pool, View, true_labels
from daemon.config import DriftConfig
from daemon.drift.conformal import Conformal, Labels, Place
from daemon.drift.evidence import Evidence
from daemon.drift.monitor import STRIDE, Alarm, DriftMonitor, Scores, Truths
from daemon.drift.ranks import Ranks
from daemon.drift.signals import Signals

#: The name it has in tables.
OURS = "relearnd"

#: Texts that labels are held back for: a block is scored, then judged.
BLOCK = 25


@dataclass(frozen=True)
class Ours(Contender):
    """The drift monitor at `false_alarm_every`, with the label of every text, right after it, if `labelled`."""

    pool: Pool
    labelled: bool

    @classmethod
    def of(cls, pool: Pool, labelled: bool) -> Self:
        return cls(OURS, "with labels" if labelled else "without labels", 1.0, 1e6, pool, labelled)

    def first(self, parameter: float, view: View) -> int | None:
        found = self.alarm(round(parameter), view)
        return None if found is None else found[0]

    def alarm(self, false_alarm_every: int, view: View) -> tuple[int, Alarm] | None:
        """The first alarm, and its place."""
        watch = Watch(self.pool, false_alarm_every, view.stream.number)
        watch.begin(view.stream.reference, labelled=self.labelled)
        places, flipped = view.stream.texts[view.start :], view.stream.flipped[view.start :]
        size = BLOCK if self.labelled else max(1, len(places))
        for start in range(0, len(places), size):
            part = slice(start, start + size)
            found = watch.score(places[part])
            if self.labelled:
                found += watch.judge(places[part], flipped[part])
            if found:
                at, alarm = min(found, key=lambda one: one[0])
                return start + at, alarm
        return None


class Watch:
    """A monitor fed with texts of a pool, and given its reference windows as the daemon gives them."""

    def __init__(self, pool: Pool, false_alarm_every: int, seed: int) -> None:
        self._pool = pool
        self._monitor = DriftMonitor(DriftConfig(false_alarm_every=false_alarm_every, reference=REFERENCE), seed)
        self._seen: list[int] = []

    def begin(self, reference: Ints, *, labelled: bool) -> None:
        """Start on this reference window, whose errors are known if `labelled`, without evidence of anything."""
        self._seen = reference.tolist()
        self._monitor.rebase(texts(self._pool, reference))
        if labelled:
            self.judge(reference)
            self._monitor._conformal.stop_evidence()

    def score(self, places: Ints, *, renew: bool = False) -> list[tuple[int, Alarm]]:
        """Alarms, each with its place among `places`; all of them with new references if `renew`, else the first."""
        found: list[tuple[int, Alarm]] = []
        scores = Scores(texts(self._pool, places), self._place(places), self._pool.labels)
        done = 0
        while done < len(places):
            taken, alarms = self._monitor.observe_scores(scores)
            scores = scores.after(taken)
            self._seen += places[done : done + taken].tolist()
            done += taken
            found += [(done - 1, alarm) for alarm in alarms]
            if alarms and not renew:
                break
            for alarm in alarms:
                self._monitor.renew(alarm.ago or 0)
            if self._monitor.wanted:
                latest = np.array(self._seen[-self._monitor.wanted :])
                self._monitor.refer(texts(self._pool, latest))
        return found

    def judge(self, places: Ints, flipped: npt.NDArray[np.bool_] | None = None) -> list[tuple[int, Alarm]]:
        """The same for the labels of these texts, up to the first alarm."""
        labels = Labels(true_labels(self._pool, places, flipped), self._pool.probabilities[places].astype(np.float64))
        truths = Truths(labels, self._place(places), self._pool.labels)
        done = 0
        while done < len(places):
            taken, alarms = self._monitor.observe_labels(truths)
            truths = truths.after(taken)
            done += taken
            if alarms:
                return [(done - 1, alarms[0])]
        return []

    def _place(self, places: Ints) -> Place:
        # One source for all, before and after: that another source's name turns up is no evidence here.
        return Place(["stream"] * len(places), [None] * len(places), self._pool.moments[places])


def recorded(pool: Pool, source: str, false_alarm_every: int) -> list[tuple[int, float, Alarm]]:
    """The alarms on a recorded stream: text, moment and alarm; after each one the reference window is made anew."""
    places = pool.of(source)
    alarms = Watch(pool, false_alarm_every, seed=0).score(places, renew=True)
    return [(at, float(pool.moments[places[at]]), alarm) for at, alarm in alarms]


class _Given(Ranks):
    """Takes the values for p-values."""

    def p_values(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return values


def simulated(pool: Pool, threshold: float, count: int, seed: int) -> tuple[int, int]:
    """Texts and alarms of the evidence alone, on `count` uniform p-values of each component; it starts again at each.

    Texts after the last alarm are at risk as well.
    """
    random = np.random.default_rng(seed)
    evidence = alone(pool)
    alarms, block = 0, 2_000
    waiting = np.empty((0, len(evidence.groups)))
    done = 0
    while done < count:
        if not len(waiting):
            waiting = random.random((block, len(evidence.groups)))
        over = np.flatnonzero(evidence.update(waiting, np.zeros(len(waiting))) >= threshold)
        taken = int(over[0]) + 1 if over.size else len(waiting)
        evidence.keep(taken)
        if over.size:
            alarms += 1
            evidence.reset()
        waiting = waiting[taken:]
        done += taken
    return done, alarms


def alone(pool: Pool) -> Evidence:
    """The evidence of all components against a window of `HOME`, to be fed with p-values."""
    signals = _signals(pool)
    return Evidence(signals.groups, signals.bets, _Given(signals.centre, signals.spread, seed=0))


def _signals(pool: Pool) -> Signals:
    window = pool.of(HOME)[:REFERENCE]
    return Signals.of(texts(pool, window[::STRIDE]), DriftConfig().neighbours)


def speeds(pool: Pool) -> list[tuple[str, float]]:
    """Updates a second on one core, in batches: what is updated, and how many."""
    count, batch = 20_000, 1_000
    random = np.random.default_rng(0)
    evidence = alone(pool)
    uniform = random.random((count, len(evidence.groups)))
    moments = np.zeros(count)

    def bet() -> None:
        for start in range(0, count, batch):
            evidence.update(uniform[start : start + batch], moments[start : start + batch])
            evidence.keep(batch)

    places = random.choice(pool.of(HOME)[REFERENCE:], count)
    signals = _signals(pool)
    usual = texts(pool, pool.of(HOME)[:REFERENCE][np.arange(REFERENCE) % STRIDE != 0])
    ranks = Ranks(signals.centre, signals.spread, seed=0)
    values = np.concatenate([signals.values(texts(pool, places[at : at + batch])) for at in range(0, count, batch)])

    def rank_and_bet() -> None:
        for start in range(0, count, batch):
            evidence.update(ranks.p_values(values[start : start + batch]), moments[start : start + batch])
            evidence.keep(batch)

    def compare() -> None:
        for start in range(0, count, batch):
            signals.values(texts(pool, places[start : start + batch]))

    def everything() -> None:
        conformal = Conformal(np.inf, 0)
        conformal.refer(signals, usual)
        for start in range(0, count, batch):
            part = texts(pool, places[start : start + batch])
            place = Place(["stream"] * batch, [None] * batch, moments[start : start + batch])
            done = 0
            while done < batch:
                rest = slice(done, None)
                done += conformal.take_texts(part.part(rest), place.part(rest))[0]

    return [
        (f"bets and sums, {len(evidence.groups)} components of a text", _speed(bet, count)),
        ("the same with ranks", _speed(rank_and_bet, count)),
        ("distances and wording of a text", _speed(compare, count)),
        ("all of it, with one source", _speed(everything, count)),
    ]


def _speed(work: Callable[[], None], count: int) -> float:
    work()
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def soon(pool: Pool, sources: Sequence[str], false_alarm_every: int, before: int, after: int) -> list[int | None]:
    """Delays where a stream changes after `before` texts and begins without a reference window, as after an alarm.

    Of every ordered pair of sources; None for what is not found within `after` texts.
    """
    found: list[int | None] = []
    for number, (old, new) in enumerate(itertools.permutations(sources, 2)):
        random = np.random.default_rng(number)
        places = np.concatenate([random.permutation(pool.of(old))[:before], random.permutation(pool.of(new))[:after]])
        watch, start, delay = Watch(pool, false_alarm_every, number), 0, None
        # An alarm before the change is no answer.
        while delay is None and start < len(places) and (alarms := watch.score(places[start:])):
            start += alarms[0][0] + 1
            delay = start - before if start > before else None
        found.append(delay)
    return found


def kinds(pool: Pool, views: Sequence[View], false_alarm_every: int) -> dict[str, dict[str, int]]:
    """What the first alarm takes each kind of change for, with labels: kind of change, kind of alarm, how many."""
    ours = Ours.of(pool, labelled=True)
    told: dict[str, dict[str, int]] = {}
    for view in views:
        left = view
        # An alarm before the change is no answer.
        while (found := ours.alarm(false_alarm_every, left)) and left.start + found[0] < view.stream.change:
            left = left.after(found[0] + 1)
        said = found[1].kind if found else "nothing"
        counts = told.setdefault(view.stream.kind, {})
        counts[said] = counts.get(said, 0) + 1
    return told
