"""Drift as the controller hears of it: what has changed, since when, in which words, and whether it does harm."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daemon.champion import Champion
from daemon.config import Config
from daemon.drift.conformal import Labels, Place
from daemon.drift.explanation import MOST_TEXTS, Explanation, explain
from daemon.drift.monitor import Alarm, DriftMonitor, Scores, Truths
from daemon.drift.signals import Texts
from daemon.estimate import Estimate
from daemon.records import Score, decode_sketch, utc
from daemon.state import Blobs
from daemon.waiting import Joined, Scored, Waiting
from learners.job import Rescored
from learners.model import SKETCH_DIMENSIONS

#: What the monitor's parts are stored under.
PREFIX = "drift/"


@dataclass(frozen=True)
class Drift:
    """An alarm, told at the text `text_index` (counted from 1) of `text_at`; the change `began` at such another.

    Times are in seconds since the epoch. What cannot be known is None.
    """

    alarm: Alarm
    text_at: float
    text_index: int
    began_at: float | None
    began_index: int | None
    explanation: Explanation | None

    @property
    def moment(self) -> float:
        """From when on texts are of the new kind."""
        return self.text_at if self.began_at is None else self.began_at

    def __str__(self) -> str:
        since = "" if self.began_at is None else f", since {utc(self.began_at):%Y-%m-%d %H:%M}"
        because = f"{self.alarm.kind} drift: {self.alarm}{since}"
        if self.explanation is None:
            return because
        if self.alarm.kind == "concept":
            return f"{because}; of the texts that were wrong: {self.explanation.gist}"
        return f"{because}; {self.explanation}"

    def details(self) -> dict[str, Any]:
        """As in a decision and in `report.json`."""
        alarm = self.alarm
        return {
            "detector": alarm.detector if alarm.signals else f"{alarm.detector} on {alarm.signal}",
            "signal": alarm.signal,
            "kind_of_drift": alarm.kind,
            "slice": alarm.slice,
            "direction": alarm.direction,
            "evidence": alarm.evidence,
            "signals": dict(alarm.signals),
            "text_at": self.text_at,
            "text_index": self.text_index,
            "began_at": self.began_at,
            "began_index": self.began_index,
            "explanation": self.explanation.as_json() if self.explanation else None,
        }


class DriftWatch:
    """Owns the monitor of the champion and the estimate of its accuracy; their state is stored with the step."""

    def __init__(self, db: sqlite3.Connection, config: Config, waiting: Waiting) -> None:
        self._config = config
        self._waiting = waiting
        self._blobs = Blobs(db)
        self._version = ""
        self._labels: Sequence[str] = ()
        self.monitor = DriftMonitor(config.drift, config.seed)
        self._window = config.triggers.accuracy.window
        self.estimate = Estimate("", window=self._window)
        #: The estimate when inputs last moved, and how many texts have been scored since.
        self._before: float | None = None
        self._since = 0
        self._restore()

    @property
    def harm(self) -> str | None:
        """What says that the champion does worse since inputs moved; None when nothing does."""
        if self.monitor.harmed:
            return "labels say that errors rose"
        now, before = self.estimate.estimated, self._before
        if before is None or now is None or self._since < self._window:
            return None
        if before - now.upper >= self._config.triggers.accuracy.drop:
            return f"accuracy is estimated to have fallen from {before:.3f} to {now.accuracy:.3f}"
        return None

    def scores(self, live: Sequence[Score], champion: Champion) -> list[Drift]:
        """Texts that the champion scored, oldest first; they are waiting for their labels already."""
        self._know(champion)
        scores = Scores(
            Texts(
                [one.text for one in live],
                _sketches(live),
                _in_columns([one.probabilities for one in live], champion.labels),
            ),
            _place(
                [one.source for one in live], [one.key for one in live], [one.timestamp.timestamp() for one in live]
            ),
            champion.labels,
        )
        self._since += len(live)
        found: list[Drift] = []
        done = 0
        while done < len(live):
            taken, alarms = self.monitor.observe_scores(scores)
            self.estimate.scored(scores.texts.probabilities[:taken].max(axis=1).tolist())
            scores, done = scores.after(taken), done + taken
            behind = len(live) - done
            for alarm in alarms:
                place = done - taken + alarm.index
                text_index = self._waiting.seen() - (len(live) - 1 - place)
                found.append(self._hear(alarm, live[place].timestamp.timestamp(), text_index, behind))
            self._refer(behind)
        return found

    def labels(self, live: Sequence[Joined], champion: Champion) -> list[Drift]:
        """True labels of texts that the champion scored, in the order they came."""
        self._know(champion)
        known = [one for one in live if one.scored.probabilities and one.truth in champion.labels]
        chances = _in_columns([json.loads(one.scored.probabilities or "") for one in known], champion.labels)
        truth = np.array([champion.labels.index(one.truth) for one in known], dtype=np.int64)
        moments = [one.scored.timestamp for one in known]
        place = _place([one.scored.source for one in known], [one.scored.key for one in known], moments)
        truths = Truths(Labels(truth, chances), place, champion.labels)
        self.estimate.labelled(chances.max(axis=1).tolist() if known else [], chances.argmax(axis=1) == truth)
        found: list[Drift] = []
        done = 0
        while done < len(known):
            taken, alarms = self.monitor.observe_labels(truths)
            for alarm in alarms:
                text_at = moments[done + alarm.index] if alarm.by_labels else self._latest(1, 0)[-1].timestamp
                found.append(self._hear(alarm, text_at, self._waiting.seen(), 0))
            self._refer(0)
            truths, done = truths.after(taken), done + taken
        return found

    def rebase(
        self,
        champion: Champion,
        rescored: Sequence[Rescored],
        texts: Mapping[str, str],
        learned: frozenset[str],
        *,
        drifting: bool = False,
    ) -> None:
        """Start again under a new champion, on the latest texts as it scored them again, whose `texts` are at hand.

        How sure it is of those that it has `learned` says nothing of how sure it will be.
        """
        rows = [row for row in rescored if row.id in texts]
        window = None
        if rows:
            chances = np.array([row.probabilities for row in rows])
            chances[[row.id in learned for row in rows]] = np.nan
            sketches = np.array([row.sketch for row in rows], dtype=np.float32)
            window = Texts([texts[row.id] for row in rows], sketches, chances)
        self._know(champion)
        self.monitor.rebase(window, drifting=drifting)
        self.estimate.swap(champion.version)
        if window is not None:
            sure = window.probabilities.max(axis=1)
            self.estimate.scored(sure[np.isfinite(sure)].tolist())
        self._before = None

    def save(self) -> None:
        for name, value in self.monitor.changes().items():
            if value is None:
                self._blobs.delete(PREFIX + name)
            else:
                self._blobs.put(PREFIX + name, value)
        own = {"before": self._before, "since": self._since, "estimate": self.estimate.state()}
        self._blobs.put_json("watch", own)

    def _restore(self) -> None:
        saved = self._blobs.get_json("watch", None)
        if saved is None:
            return
        self.monitor.restore(self._blobs.under(PREFIX))
        self._before, self._since = saved["before"], saved["since"]
        self.estimate = Estimate.restored(saved["estimate"], window=self._window)

    def _hear(self, alarm: Alarm, text_at: float, text_index: int, behind: int) -> Drift:
        """Tell an alarm. Where inputs moved, the texts since are what is usual from here on."""
        if alarm.by_labels:
            return self._of_labels(alarm, text_at)
        drift = self._of_texts(alarm, text_at, text_index, behind)
        # The best of several moves: accuracy may fall in steps that are none of them large.
        known = [one for one in (self._before, self.estimate.accuracy) if one is not None]
        self._before, self._since = max(known, default=None), behind
        if alarm.calls_for_reference:
            self.monitor.renew(text_index - (drift.began_index or text_index) + 1)
        return drift

    def _refer(self, behind: int) -> None:
        if wanted := self.monitor.wanted:
            self.monitor.refer(self._texts(self._latest(wanted, behind)))

    def _of_texts(self, alarm: Alarm, text_at: float, text_index: int, behind: int) -> Drift:
        if alarm.ago is None:
            return Drift(alarm, text_at, text_index, None, None, None)
        began_index = text_index - alarm.ago + 1
        if alarm.slice and alarm.moment is not None:
            # The part counts its own texts, and others came between them.
            began_index = min(began_index, self._waiting.place_of(alarm.moment))
        since = text_index - began_index + 1
        latest = self._latest(since + MOST_TEXTS, behind)
        explanation = self._explain(latest[:-since], latest[-since:])
        return Drift(alarm, text_at, text_index, alarm.moment, began_index, explanation)

    def _of_labels(self, alarm: Alarm, text_at: float) -> Drift:
        """Errors are explained by the texts that were wrong since, against those that were right."""
        index = self._waiting.place_of(text_at)
        if alarm.moment is None:
            return Drift(alarm, text_at, index, None, None, None)
        # Labels come in another order than their texts: the last of them may be an older one's.
        began_at = min(alarm.moment, text_at)
        judged = self._waiting.judged(2 * MOST_TEXTS)
        wrong = [one for one, truth in judged if one.label != truth and one.timestamp >= began_at]
        right = [one for one, truth in judged if one.label == truth]
        began_index = self._waiting.place_of(began_at)
        return Drift(alarm, text_at, index, began_at, began_index, self._explain(right, wrong))

    def _explain(self, before: Sequence[Scored], after: Sequence[Scored]) -> Explanation:
        """By the latest on each side; where some of those after have a sketch, by these, as they can be grouped."""
        texts = self._texts(after[-MOST_TEXTS:])
        sketched = np.flatnonzero(np.isfinite(texts.sketches).all(axis=1))
        texts = texts.part(sketched) if len(sketched) else texts
        return explain(
            [one.text for one in before[-MOST_TEXTS:]],
            texts.texts,
            texts.sketches if len(sketched) else None,
            self.monitor.unusual(texts),
            self._config.seed,
        )

    def _latest(self, count: int, behind: int) -> list[Scored]:
        """The latest `count` texts, oldest first, before the last `behind` ones."""
        rows = self._waiting.recent(count + behind)
        return rows[: len(rows) - behind][-count:]

    def _texts(self, rows: Sequence[Scored]) -> Texts:
        """Sketches and probabilities as far as they are the champion's."""
        sketches = np.full((len(rows), SKETCH_DIMENSIONS), np.nan, dtype=np.float32)
        chances = np.full((len(rows), len(self._labels)), np.nan)
        for at, row in enumerate(rows):
            if row.sketch is not None and row.sketched_by == self._version:
                sketches[at] = row.vector
            if row.model == self._version and row.probabilities:
                chances[at] = _in_columns([json.loads(row.probabilities)], self._labels)[0]
        return Texts([row.text for row in rows], sketches, chances)

    def _know(self, champion: Champion) -> None:
        self._version, self._labels = champion.version, champion.labels


def _sketches(live: Sequence[Score]) -> np.ndarray:
    sketches = np.full((len(live), SKETCH_DIMENSIONS), np.nan, dtype=np.float32)
    for at, score in enumerate(live):
        if score.sketch is not None:
            sketches[at] = decode_sketch(score.sketch)
    return sketches


def _in_columns(given: Sequence[Mapping[str, float]], labels: Sequence[str]) -> np.ndarray:
    """Probabilities by label as `[n, labels]`, in the order of `labels`."""
    rows = np.array([[row.get(label, 0.0) for label in labels] for row in given])
    return rows.reshape(len(given), len(labels))


def _place(sources: Sequence[str | None], keys: Sequence[str | None], moments: Sequence[float]) -> Place:
    return Place(sources, keys, np.array(moments, dtype=np.float64))
