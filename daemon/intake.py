"""What the controller learns from what it reads: scores and labels joined, remembered, judged and watched.

Everything here happens inside the controller's step, and every part's state is stored with it.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import structlog

from connectors.topic import Message, Outgoing
from daemon import alerts
from daemon.alerts import SpikeWatch
from daemon.champion import Champion, Probation
from daemon.config import Config
from daemon.memory import Labelled, Memory, share_of
from daemon.metrics import Metrics
from daemon.outbox import Outbox
from daemon.prequential import Prequential
from daemon.records import Alert, DeadLetter, Decoder, Encoder, Label, Reason, Score, decode_sketch, utc
from daemon.review import Review
from daemon.scorer import dead_letter
from daemon.state import Blobs
from daemon.waiting import Joined, Scored, Waiting
from daemon.watch import Drift, DriftWatch
from learners.job import Rescored
from learners.model import SKETCH_DIMENSIONS

log = structlog.get_logger(__name__)

#: Versions, keys and sources whose accuracy is kept apart, each: a market's tickers, in some tens of kilobytes.
MAX_SLICES = 1_000


@dataclass
class News:
    """What a step's messages said that calls for a decision."""

    drifts: list[Drift] = field(default_factory=list)
    against_champion: str | None = None


class Intake:
    def __init__(
        self, db: sqlite3.Connection, config: Config, metrics: Metrics, memory: Memory, waiting: Waiting
    ) -> None:
        self._db = db
        self._config = config
        self._metrics = metrics
        self._memory = memory
        self._waiting = waiting
        self._blobs = Blobs(db)
        self._outbox = Outbox(db)
        self._changed = False
        self._scores = Decoder(Score, config.records)
        self._labels = Decoder(Label, config.records)
        self.alerts = Encoder(Alert, config.topics.alerts, config.records)
        self.probation = Probation(db, config)
        self.watch = DriftWatch(db, config, waiting)
        self.review = Review(db, config, metrics, memory, waiting)
        self.spikes = SpikeWatch(config.alerts, "")
        self.prequential = Prequential("", window=config.triggers.accuracy.window, max_slices=MAX_SLICES)
        self._restore()

    def fetch(self, messages: Sequence[Message], stop: threading.Event, waiting: Callable[[], None]) -> bool:
        """Ask the schema registry, if there is one, for what taking `messages` needs; see `Decoder.fetch`.

        Before the step: its transaction must not wait for a network.
        """
        scores = [message for message in messages if message.topic == self._config.topics.scores]
        labels = [message for message in messages if message.topic != self._config.topics.scores]
        return (
            self.alerts.open(stop, waiting)
            and self._scores.fetch(scores, stop, waiting)
            and self._labels.fetch(labels, stop, waiting)
        )

    def take(self, messages: Sequence[Message], champion: Champion | None, now: float) -> News:
        """Take messages of the scores and labels topics, oldest first."""
        news = News()
        self._changed = self._changed or bool(messages)
        scores: list[Score] = []
        labels: list[tuple[Label, Message]] = []
        for message in messages:
            if message.topic == self._config.topics.scores:
                score = self._decode_score(message, now)
                scores.extend([score] if score else [])
            else:
                label = self._decode_label(message, champion, now)
                labels.extend([(label, message)] if label else [])
        self._join(self._take_scores(scores, champion, news, now), champion, news, now)
        for drift in news.drifts:
            if drift.alarm.kind == "input":
                self.review.moved(drift.moment)
        joined, settled = self._take_labels([label for label, _ in labels], now)
        self._join(joined, champion, news, now, settled)
        return news

    def rebase(
        self,
        champion: Champion,
        rescored: Sequence[Rescored],
        now: float,
        *,
        drifting: bool = False,
        mix_moved: float | None = None,
    ) -> str | None:
        """Start judging a new champion, on the recent past as it scores it; without any, from the coming texts.

        `drifting`: it has not learned the drift that was noticed, whose harm is still to be told. `mix_moved`: when the
        label mix moved, of one that only follows it; under the mix before it is meant to be worse.

        Returns what speaks for rolling it back at once, if labels that came while it learned do.
        """
        self._changed = True
        self.prequential.swap(champion.version)
        self.review.rebase(champion)
        self._waiting.sketch_again(
            champion.version, {row.id: np.array(row.sketch, dtype="<f2").tobytes() for row in rescored}
        )
        texts = {text.id: text for text in self._waiting.recent(self._config.memory.rescored * 2)} if rescored else {}
        best = {row.id: champion.labels[int(np.argmax(row.probabilities))] for row in rescored}
        # What was labelled after the candidate's snapshot is as new to it as what is not labelled yet.
        newer = self._memory.labels_after(champion.newest_example) if best else {}
        late = {id: label for id, label in newer.items() if id in best}
        pending = sorted((self._waiting.without_truth(list(best)) | late.keys()) & texts.keys())
        tried = pending
        if mix_moved is not None:
            # To it all labels are new since its parent learned, also those that told it the mix and judged it.
            tried = [id for id in pending if id not in late and texts[id].timestamp >= mix_moved]
        self.probation.begin({id: (texts[id].label, best[id]) for id in tried})
        against = None
        for id in tried:
            against = (self.probation.count(id, late[id]) if id in late else None) or against
        seen = {id for id in best if share_of(id, self._config.memory) == "learn"} - set(pending)
        self.watch.rebase(
            champion, rescored, {id: text.text for id, text in texts.items()}, frozenset(seen), drifting=drifting
        )
        self.spikes.rebase(
            champion.version,
            [
                alerts.Scored(
                    row.key,
                    best[row.id],
                    min(row.timestamp, now),
                    champion.version,
                    texts[row.id].text if row.id in texts else "",
                )
                for row in rescored
            ],
        )
        return against

    def expire(self, now: float) -> None:
        """Let go of what has waited too long and of what memory has no room for."""
        for alert in self.review.expire(self.prequential.version, now):
            self._changed = True
            self.send(alert)
        expired = self._waiting.expire(now)
        self._metrics.scores_expired.inc(expired.scores)
        self._metrics.labels.labels("expired").inc(expired.labels)
        self._memory.evict()
        for part, count in self._memory.parts().items():
            self._metrics.memory_examples.labels(part).set(count)

    def changed(self) -> None:
        """Something but a message has changed what `save` stores."""
        self._changed = True

    def save(self) -> None:
        """Store the state of every part that has changed, within the step's transaction."""
        if not self._changed:
            return
        self._changed = False
        self.watch.save()
        self._blobs.put_json("prequential", self.prequential.state())
        self.review.save()
        for name, value in self.spikes.dirty().items():
            if value is None:
                self._db.execute("DELETE FROM alert_windows WHERE key = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO alert_windows VALUES (?, ?)", (name, value))
        accuracy = self.prequential.recent.accuracy
        if accuracy is not None:
            self._metrics.live_accuracy.set(accuracy)
        estimated = self.watch.estimate.accuracy
        self._metrics.estimated_accuracy.set(float("nan") if estimated is None else estimated)
        for names, statistic in self.watch.monitor.statistics().items():
            self._metrics.drift_statistic.labels(*names).set(statistic)
        self._metrics.alerts_firing.set(len(self.spikes.firing))

    def _restore(self) -> None:
        counts = self._blobs.get_json("prequential", None)
        if counts is not None:
            window = self._config.triggers.accuracy.window
            self.prequential = Prequential.restored(counts, window=window, max_slices=MAX_SLICES)
        self.spikes.load(dict(self._db.execute("SELECT key, value FROM alert_windows").fetchall()))

    def _decode_score(self, message: Message, now: float) -> Score | None:
        score = self._scores.decode(message, utc(now))
        if isinstance(score, Score) and score.sketch is not None and not _is_sketch(score.sketch):
            detail = f"sketch: not {SKETCH_DIMENSIONS} finite float16 in base64"
            score = self._scores.refuse(message, utc(now), Reason.INVALID, detail)
        if isinstance(score, DeadLetter):
            self._set_aside(score, "scores")
            return None
        return score

    def _decode_label(self, message: Message, champion: Champion | None, now: float) -> Label | None:
        label = self._labels.decode(message, utc(now))
        if isinstance(label, Label) and champion is not None and label.label not in champion.labels:
            self._metrics.labels.labels("unknown").inc()
            detail = f"{label.label!r} is none of {', '.join(champion.labels)}"
            label = self._labels.refuse(message, utc(now), Reason.UNKNOWN_LABEL, detail)
        if isinstance(label, DeadLetter):
            self._set_aside(label, "labels")
            return None
        return label

    def _take_scores(self, scores: Sequence[Score], champion: Champion | None, news: News, now: float) -> list[Joined]:
        """Store and watch the scores whose id is new; returns those whose label was here already."""
        if not scores:
            return []
        kept = {id(score): Scored.of(score, now) for score in scores}
        new, joined = self._waiting.add_scores(list(kept.values()))
        self._metrics.duplicates.labels("scores").inc(len(scores) - len(new))
        stored = {id(one) for one in new}
        first = [score for score in scores if id(kept[id(score)]) in stored]
        self._watch_spikes(first, now)
        live = [score for score in first if champion is not None and score.model == champion.version]
        if live and champion is not None:
            news.drifts += self.watch.scores(live, champion)
        return joined

    def _watch_spikes(self, scores: Sequence[Score], now: float) -> None:
        if not (scores and self._config.alerts.enabled):
            return
        seen = [alerts.Scored(s.key, s.label, min(s.timestamp.timestamp(), now), s.model, s.text) for s in scores]
        for alert in [*self.spikes.update(seen), *self.spikes.advance(max(one.timestamp for one in seen))]:
            self.send(alert)

    def send(self, alert: Alert) -> None:
        """Say it with the step: logged, counted and put into the outbox."""
        self._metrics.alerts.labels(alert.status).inc()
        story = {"key": alert.key, "share": round(alert.value, 3), "usual": round(alert.baseline, 3)}
        log.warning(f"alert {alert.status}", name=alert.name, severity=alert.severity, **story)
        self._outbox.put(Outgoing(self._config.topics.alerts, self.alerts.encode(alert), alert.key.encode()))

    def _take_labels(self, labels: Sequence[Label], now: float) -> tuple[list[Joined], set[str]]:
        """The labels that found their score, and the ids of those that have settled a doubt."""
        joined, settled = [], set()
        for label in labels:
            answer, decided = self.review.cast(label, now)
            settled.update([label.id] if decided else [])
            found = self._waiting.add_label(answer)
            if found is not None:
                joined.append(found)
                continue
            self._metrics.labels.labels("early").inc()
            if label.text is not None:
                # It brings its own text, so it can be learned from before, or without, a score.
                when = label.timestamp.timestamp() if label.timestamp else now
                self.review.learn(Labelled(label.id, label.text, answer.label, None, None, when, answer.weight))
        return joined, settled

    def _join(
        self,
        joined: Sequence[Joined],
        champion: Champion | None,
        news: News,
        now: float,
        settled: AbstractSet[str] = frozenset(),
    ) -> None:
        """Judge the scores whose truth came, and remember them as examples."""
        live: list[Joined] = []
        for one in joined:
            if one.before == one.truth and one.scored.id not in settled:
                self._metrics.labels.labels("duplicate").inc()
                continue
            scored = one.scored
            trusted, said = self.review.hear(one, now)
            for alert in said:
                self.send(alert)
            if not trusted:
                # Nothing may be decided on it either: neither drift nor a rollback.
                self._metrics.labels.labels("held").inc()
                continue
            if one.before is not None:
                # What was counted stays counted: the label changes what is learned, not what is known of the past.
                self._metrics.labels.labels("corrected").inc()
                continue
            self._count(one)
            news.against_champion = self.probation.count(scored.id, one.truth) or news.against_champion
            if champion is not None and scored.model == champion.version:
                live.append(one)
        if live and champion is not None:
            news.drifts += self.watch.labels(live, champion)

    def _count(self, joined: Joined) -> None:
        scored = joined.scored
        self._metrics.labels.labels("joined").inc()
        self.prequential.observe(
            version=scored.model, truth=joined.truth, predicted=scored.label, key=scored.key, source=scored.source
        )

    def _set_aside(self, letter: DeadLetter, topic: str) -> None:
        self._metrics.dead_letters.labels(topic, letter.reason.value).inc()
        self._outbox.put(dead_letter(letter, self._config.topics.dead_letters))


def _is_sketch(sketch: str) -> bool:
    try:
        decoded = decode_sketch(sketch)
    except ValueError:
        return False
    return len(decoded) == SKETCH_DIMENSIONS and bool(np.isfinite(decoded).all())
