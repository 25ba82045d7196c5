"""When a key's share of the watched label is a spike: the deciding part, without clock or disk.

Per key, the watched texts among all texts of a sliding window of event time are compared with what the key's own
past predicts. That prediction is a beta-binomial: its mean is the key's share over the baseline, shrunk towards
everyone's where the key has little past, and its spread is what that past leaves unknown plus how much more than
chance the key's share wanders from window to window. The p-value is the chance of a count at least this large.

A spike fires once, and once more if it grows critical; both alerts, and the one that resolves it, carry the same
`starts_at`. What is counted while a key fires never becomes its baseline, unless it lasts as long as a baseline:
then it is the new normal. Only scores of the champion count, and a swap replaces every count by the recent past as
the new champion scores it, so that two models are never compared with each other.
"""

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

from daemon.baseline import Counts, correlation, tail
from daemon.config import AlertsConfig
from daemon.records import Alert, utc

#: Steps that a window slides in: an old text leaves at most a twelfth of a window late.
STEPS = 12
#: A baseline is kept in buckets of one window, wider ones where there would be more: this bounds a key's memory
#: (7 days of hours are 168).
MAX_BUCKETS = 200
#: A key without a past is expected to have everyone's share, give or take what ten texts would tell. Shares of real
#: tickers differ by about 0.14 (one standard deviation), which is Beta(3, 7)'s.
PRIOR_TEXTS = 10.0
EXAMPLES = 3
EXAMPLE_CHARS = 280
#: Where `dirty` puts what all keys share. The keys' own rows are named `key:KEY`.
SHARED_ROW = "shared"


class Scored(NamedTuple):
    """A score, as far as alerts go.

    `timestamp` is when the text was written, in seconds since the epoch. One that lies after the scoring should be
    cut to it: a text from tomorrow would push today's out of its key's window. Texts without a key count together
    under the key "".
    """

    key: str | None
    label: str
    timestamp: float
    model: str
    text: str


@dataclass(slots=True)
class _Firing:
    name: str
    since: float
    step: int
    severity: Literal["warning", "critical"]
    calm: bool = False


@dataclass(slots=True)
class _Key:
    """One key. `step` is the newest step of its window; `held` is what left the window while it fired."""

    step: int
    window: Counts = field(default_factory=Counts)
    past: Counts = field(default_factory=Counts)
    held: Counts = field(default_factory=Counts)
    examples: list[str] = field(default_factory=list)
    firing: _Firing | None = None

    def remember(self, text: str) -> None:
        text = text[:EXAMPLE_CHARS]
        if text not in self.examples:
            self.examples = [*self.examples[1 - EXAMPLES :], text]

    def emptied(self, rescale: float) -> "_Key":
        """The same alert without its counts, on steps of another length."""
        firing = replace(self.firing, step=int(self.firing.step * rescale)) if self.firing else None
        return _Key(int(self.step * rescale), examples=self.examples, firing=firing)

    def dump(self) -> dict[str, Any]:
        counts = {name: getattr(self, name).rows() for name in ("window", "past", "held")}
        firing = asdict(self.firing) if self.firing else None
        return {"step": self.step, **counts, "examples": self.examples, "firing": firing}

    @classmethod
    def parse(cls, row: dict[str, Any]) -> "_Key":
        counts = {name: Counts(row[name]) for name in ("window", "past", "held")}
        firing = _Firing(**row["firing"]) if row["firing"] else None
        return cls(row["step"], **counts, examples=row["examples"], firing=firing)


class SpikeWatch:
    """Watches every key for spikes of `config.label` in the scores of `version`.

    The alerts depend only on the order of the scores, not on how they are cut into batches, nor on saving
    (`dirty`) and restoring (`load`) in between.

    `ignored` counts scores of other versions, `too_late` those older than the baseline, `forgotten` keys dropped.
    """

    def __init__(self, config: AlertsConfig, version: str) -> None:
        self.version = version
        self.ignored = self.too_late = self.forgotten = 0
        self._config = config
        self._seconds = config.window / STEPS
        windows = max(1.0, config.baseline / config.window)
        self._bucket = STEPS * math.ceil(windows / MAX_BUCKETS)
        self._baseline = math.ceil(windows * STEPS / self._bucket)
        self._keys: dict[str, _Key] = {}
        self._firing: set[str] = set()
        # Every text of every key, by bucket: what a key without a past is compared with.
        self._all = Counts()
        self._all_bucket = 0
        self._dirty: set[str] = set()
        self._swapped = False

    @property
    def firing(self) -> list[str]:
        """The keys that fire now."""
        return sorted(self._firing)

    def __len__(self) -> int:
        """Keys watched."""
        return len(self._keys)

    def update(self, scored: Sequence[Scored]) -> list[Alert]:
        """Count scores, in the order of their arrival, and say what starts, grows critical or ends."""
        alerts: list[Alert] = []
        config, seconds = self._config, self._seconds
        for score in scored:
            if score.model != self.version:
                self.ignored += 1
                continue
            name, step = score.key or "", int(score.timestamp // seconds)
            key = self._keys.get(name)
            if key is None:
                alerts += self._make_room()
                key = self._keys[name] = _Key(step)
            elif step > key.step:
                alerts += self._move(name, key, step)
            if not self._count(key, step, score):
                continue
            self._dirty.add(name)
            watched = key.window.watched
            # Judged at every watched text; on busy keys, whenever their count has grown by a hundredth.
            if score.label == config.label and watched >= config.min_count and watched % (watched // 100 or 1) == 0:
                alerts += self._judge(name, key, score.timestamp)
        return alerts

    def advance(self, now: float) -> list[Alert]:
        """Resolve what has fallen silent.

        `now` is how far the scores have been read, in seconds of event time: a daemon that catches up passes the
        time of its backlog, not the clock's.
        """
        alerts: list[Alert] = []
        step = int(now // self._seconds)
        for name in self.firing:
            if step > self._keys[name].step:
                self._dirty.add(name)
                alerts += self._move(name, self._keys[name], step)
        return alerts

    def rebase(self, version: str, rescored: Sequence[Scored]) -> None:
        """Make `version` the champion, and `rescored` all that is known: the recent past as it scores it.

        What fires goes on and is judged by the new counts. Where none of those lie before its spike, its old
        baseline stays: it can only help to resolve. Keys that are not in `rescored` and do not fire are forgotten.

        Raises:
            ValueError: a score in `rescored` is of another version.
        """
        for score in rescored:
            if score.model != version:
                raise ValueError(f"rebase on {version}: a rescored text was scored by {score.model}")
        before = self._keys
        self._dirty.update(before)
        self._keys = {
            name: _Key(key.step, examples=key.examples, firing=key.firing) for name, key in before.items() if key.firing
        }
        self.version, self._swapped, self._all, self._all_bucket = version, True, Counts(), 0
        for score in sorted(rescored, key=lambda score: score.timestamp):
            name, step = score.key or "", int(score.timestamp // self._seconds)
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = _Key(step)
            elif step > key.step:
                self._slide(key, step)
            self._count(key, step, score)
        for name in self._firing:
            self._keys[name].past = self._keys[name].past if self._keys[name].past.texts else before[name].past
        self._dirty.update(self._keys)

    def dirty(self) -> dict[str, bytes | None]:
        """The rows of state that have changed since the last call, by name; None for one to delete, if it was saved."""
        rows: dict[str, bytes | None] = {}
        for name in sorted(self._dirty):
            key = self._keys.get(name)
            rows[f"key:{name}"] = _json(key.dump()) if key else None
        if self._dirty or self._swapped:
            shared = {"version": self.version, "settings": self._settings(), "all": self._all.rows()}
            rows[SHARED_ROW] = _json({**shared, "all_bucket": self._all_bucket})
        self._dirty, self._swapped = set(), False
        return rows

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Go on from the rows that `dirty` gave. With no rows, nothing changes.

        After a change of label, window or baseline the counts mean nothing any more: what fires then starts from
        an empty window, so that it is resolved in time, and the rest is dropped.
        """
        if SHARED_ROW not in rows:
            return
        shared = json.loads(rows[SHARED_ROW])
        self.version = shared["version"]
        keys = {name[4:]: _Key.parse(json.loads(row)) for name, row in rows.items() if name != SHARED_ROW}
        if shared["settings"] == self._settings():
            self._all, self._all_bucket = Counts(shared["all"]), shared["all_bucket"]
        else:
            rescale = shared["settings"]["seconds"] / self._seconds
            self._dirty.update(keys)
            keys = {name: key.emptied(rescale) for name, key in keys.items() if key.firing}
        self._keys = keys
        self._firing = {name for name, key in keys.items() if key.firing}

    def _settings(self) -> dict[str, Any]:
        return {
            "label": self._config.label,
            "seconds": self._seconds,
            "bucket": self._bucket,
            "baseline": self._baseline,
        }

    def _count(self, key: _Key, step: int, score: Scored) -> bool:
        """Put a text where its time belongs; False when that lies before the baseline."""
        bucket, watched = step // self._bucket, int(score.label == self._config.label)
        if step > key.step - STEPS:
            key.window.add(step, 1, watched)
            if watched:
                key.remember(score.text)
        elif bucket >= self._oldest(key.step):
            self._behind(key, step).add(bucket, 1, watched)
        else:
            self.too_late += 1
            return False
        self._all.add(bucket, 1, watched)
        if bucket > self._all_bucket:
            self._all_bucket = bucket
            self._all.take_before(bucket - self._baseline)
        return True

    def _behind(self, key: _Key, step: int) -> Counts:
        """Where counts of a step go that has left the window: a spike begins within the window that fired."""
        return key.held if key.firing and step > key.firing.step - STEPS else key.past

    def _oldest(self, step: int) -> int:
        """The first bucket of the baseline of a window that ends with `step`."""
        return (step - STEPS) // self._bucket - self._baseline + 1

    def _slide(self, key: _Key, step: int) -> None:
        """Move the window on to end with `step`. A baseline does not age while its key fires."""
        for old, texts, watched in key.window.take_before(step - STEPS + 1):
            self._behind(key, old).add(old // self._bucket, texts, watched)
        if not key.firing and step // self._bucket > key.step // self._bucket:
            key.past.take_before(self._oldest(step))
        key.step = step

    def _move(self, name: str, key: _Key, step: int) -> list[Alert]:
        """Slide to `step`, and resolve at the end of the first step that was calm from its start to its end."""
        alerts = []
        while (firing := key.firing) and key.step < step:
            calm = self._calm(key)
            settled = key.step - firing.step >= self._baseline * self._bucket
            if settled or (calm and firing.calm):
                alerts.append(self._resolve(name, key, firing, (key.step + 1) * self._seconds, settled=settled))
            else:
                firing.calm = calm
                self._slide(key, key.step + 1)
        self._slide(key, step)
        return alerts

    def _calm(self, key: _Key) -> bool:
        window, expected = key.window, self._expected(key)
        if not window.watched or window.watched / window.texts - expected < self._config.min_rise / 2:
            return True
        return self._p_value(key, expected) > self._config.resolve

    def _judge(self, name: str, key: _Key, at: float) -> list[Alert]:
        config, firing, expected = self._config, key.firing, self._expected(key)
        if firing and firing.severity == "critical":
            return []
        if key.window.watched / key.window.texts - expected < config.min_rise:
            return []
        p = self._p_value(key, expected)
        if p >= (config.critical if firing else config.fire):
            return []
        severity: Literal["warning", "critical"] = "critical" if p < config.critical else "warning"
        if firing:
            firing.severity = severity
        else:
            key.firing = firing = _Firing(f"{config.label}-spike", at, key.step, severity)
            self._firing.add(name)
        return [self._alert(name, key, firing, None)]

    def _resolve(self, name: str, key: _Key, firing: _Firing, at: float, *, settled: bool = False) -> Alert:
        alert = self._alert(name, key, firing, max(at, firing.since))
        key.firing, key.past, key.held = None, key.held if settled else key.past, Counts()
        key.past.take_before(self._oldest(key.step))
        self._firing.discard(name)
        return alert

    def _alert(self, name: str, key: _Key, firing: _Firing, ends_at: float | None) -> Alert:
        return Alert(
            status="firing" if ends_at is None else "resolved",
            name=firing.name,
            key=name,
            severity=firing.severity,
            value=round(key.window.watched / max(1, key.window.texts), 4),
            baseline=round(self._expected(key), 4),
            starts_at=utc(firing.since),
            ends_at=None if ends_at is None else utc(ends_at),
            examples=key.examples,
            model=self.version,
        )

    def _expected(self, key: _Key) -> float:
        """The key's usual share, shrunk towards everyone's."""
        prior = min(PRIOR_TEXTS, self._all.texts)
        everyone = (self._all.watched + 0.5) / (self._all.texts + 1)
        return (key.past.watched + prior * everyone) / (key.past.texts + prior) if self._all.texts else everyone

    def _p_value(self, key: _Key, expected: float) -> float:
        """The chance of as many watched texts in the window as there are, or more."""
        known = key.past.texts + min(PRIOR_TEXTS, self._all.texts)
        # The baseline's own mean is off by as much as one bucket's share is, over the root of their number.
        wander = correlation(key.past.rows(), expected) * (1 + 1 / (1 + len(key.past.buckets)))
        concentration = 1 / min(0.99, 1 / (known + 1) + wander) - 1
        a, b = expected * concentration, (1 - expected) * concentration
        return tail(key.window.watched, key.window.texts, a, b)

    def _make_room(self) -> list[Alert]:
        """Before a new key: forget a hundredth of the keys when there are too many, and say what ends with them."""
        excess = len(self._keys) + 1 - self._config.max_keys
        if excess <= 0:
            return []
        alerts = []
        order = ((key.firing is not None, key.step, name) for name, key in self._keys.items())
        for _, step, name in heapq.nsmallest(max(excess, self._config.max_keys // 100), order):
            key = self._keys[name]
            if key.firing:
                alerts.append(self._resolve(name, key, key.firing, (step + 1) * self._seconds))
            del self._keys[name]
            self._dirty.add(name)
            self.forgotten += 1
        return alerts


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
