"""The labelled examples that models learn from and are judged on, in the controller's state.

A hash of the id puts each example into one share for good: `learn`, `gate` or `audit`; they never mix. Of the learn
share the newest are the recent part (a sliding window) and the older ones the replay part. The replay part and the
held-out shares are bounded: what is kept is balanced over source and class. Of each such cell the held-out shares keep
a uniform sample of all that it ever saw, and so does the replay part unless `memory.keep` says otherwise.
"""

import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from daemon.config import MemoryConfig
from daemon.diversity import spread
from daemon.hashing import unit_hash
from learners.job import Example

Share = Literal["learn", "gate", "audit"]

#: Evict only when this much over the bound: eviction ranks the whole part, so it is not done for each example.
SLACK = 1.1

#: Past every sequence number.
LAST = 2**62

#: Losses, in nats, that a sample by loss takes an example for: one that was known well may be needed, and one that
#: surprised beyond measure may be wrong. One that was never scored is taken for one that was known halfway.
KNOWN, SURPRISING, NEVER_SCORED = 0.05, 2.0, 0.7


class Labelled(NamedTuple):
    """A text with its true label. `timestamp` is the text's, in seconds since the epoch.

    `loss` is that of its label in nats, for the model that scored it; None if none did.
    """

    id: str
    text: str
    label: str
    source: str | None
    key: str | None
    timestamp: float
    weight: float = 1.0
    loss: float | None = None

    def example(self, group: Literal["fresh", "old"]) -> Example:
        """As a learner reads it."""
        id, text, label, source, key, timestamp, weight, _ = self
        return Example(
            id=id, text=text, label=label, source=source, key=key, timestamp=timestamp, weight=weight, group=group
        )


def priority(example: Labelled, keep: str) -> float:
    """Its place in its cell's queue for room in memory: the lowest are kept.

    A uniform sample goes by hash. One by loss goes by the same hash as if drawn from an exponential distribution whose
    rate is the loss, which keeps each with a chance that grows with it (Efraimidis & Spirakis 2006, "Weighted random
    sampling with a reservoir").
    """
    point = unit_hash("priority", example.id)
    if keep != "loss":
        return point
    loss = NEVER_SCORED if example.loss is None else min(max(example.loss, KNOWN), SURPRISING)
    return -math.log1p(-point) / loss


def share_of(id: str, config: MemoryConfig) -> Share:
    """Which share an id belongs to: a fixed hash, so the same everywhere and always."""
    point = unit_hash("share", id)
    if point < config.audit_share:
        return "audit"
    return "gate" if point < config.audit_share + config.gate_share else "learn"


def quota(sizes: Sequence[int], capacity: int) -> int:
    """The most that any cell may keep, so that cells of these sizes together keep at most `capacity`.

    Small cells keep all they have and leave their room to the large ones.
    """
    left, cells = capacity, sorted(sizes)
    for index, size in enumerate(cells):
        even = left // (len(cells) - index)
        if size > even:
            return even
        left -= size
    return cells[-1] if cells else 0


class Memory:
    def __init__(self, db: sqlite3.Connection, config: MemoryConfig) -> None:
        self._db = db
        self._config = config

    def add(self, examples: Iterable[Labelled]) -> None:
        """Store examples; an id that is there already takes the newer label, in the same share."""
        rows = []
        for one in examples:
            share = share_of(one.id, self._config)
            rows.append((*one[:7], share, priority(one, self._config.keep if share == "learn" else "uniform")))
        self._db.executemany(
            "INSERT INTO examples (id, text, label, source, key, timestamp, weight, share, priority) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET label = excluded.label, weight = excluded.weight",
            rows,
        )

    def take_out(self, ids: Sequence[str]) -> list[Labelled]:
        """Remove the examples of `ids`, and return those that were here."""
        taken = []
        for id in ids:
            row = self._db.execute(
                "DELETE FROM examples WHERE id = ? RETURNING id, text, label, source, key, timestamp, weight", (id,)
            ).fetchone()
            taken.extend([Labelled(*row)] if row else [])
        return taken

    def newest(self) -> int:
        """The sequence number of the latest example; 0 when there is none."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM examples").fetchone()[0])

    def count(self, share: Share, *, since: int = 0, up_to: int | None = None, from_time: float = float("-inf")) -> int:
        """Examples of `share` stored after number `since` and up to number `up_to`, of texts from `from_time` on."""
        row = self._db.execute(
            "SELECT count(*) FROM examples WHERE share = ? AND seq > ? AND seq <= ? AND timestamp >= ?",
            (share, since, LAST if up_to is None else up_to, from_time),
        ).fetchone()
        return int(row[0])

    def ids(self, share: Share, *, since: int, from_time: float) -> list[str]:
        """Of the examples that `count` counts, oldest first."""
        rows = self._db.execute(
            "SELECT id FROM examples WHERE share = ? AND seq > ? AND timestamp >= ? ORDER BY seq",
            (share, since, from_time),
        )
        return [row[0] for row in rows]

    def labels_after(self, number: int) -> dict[str, str]:
        """By id, the labels of the examples stored after `number`, of every share."""
        return dict(self._db.execute("SELECT id, label FROM examples WHERE seq > ?", (number,)).fetchall())

    def evict(self) -> int:
        """Bring every part within its bound; returns how many examples were dropped."""
        boundary = self._recent_boundary()
        dropped = self._evict("learn", self._config.replay, up_to=boundary)
        return dropped + self._evict("gate", self._config.held_out) + self._evict("audit", self._config.held_out)

    def new(self, since: int) -> list[Example]:
        """The recent part's examples after number `since`, oldest first."""
        after = max(since, self._recent_boundary())
        return self._examples("share = 'learn' AND seq > ? ORDER BY seq", (after,), since)

    def everything(self, since: int) -> list[Example]:
        """All examples to learn, oldest first: what came after number `since` is fresh, the rest old."""
        return self._examples("share = 'learn' ORDER BY seq", (), since)

    def replay(self, since: int, count: int, seed: int) -> list[Example]:
        """`count` examples up to number `since`, balanced over source and class, drawn anew for each `seed`."""
        everything = self._examples("share = 'learn' AND seq <= ? ORDER BY seq", (since,), since)
        cells: dict[tuple[str | None, str], list[Example]] = {}
        for example in everything:
            cells.setdefault((example.source, example.label), []).append(example)
        most = quota([len(cell) for cell in cells.values()], count)
        chosen: set[str] = set()
        for cell in cells.values():
            chosen.update(e.id for e in sorted(cell, key=lambda e: unit_hash(f"replay {seed}", e.id))[:most])
        return [example for example in everything if example.id in chosen]

    def held_out(self, since: int) -> list[Example]:
        """The gate share, oldest first: what came after number `since` is fresh, the rest old."""
        return self._examples("share = 'gate' ORDER BY seq", (), since)

    def audit(self, since: int = 0) -> list[Example]:
        """The audit share, as `held_out` gives the gate's: for checking afterwards; no decision may use it."""
        return self._examples("share = 'audit' ORDER BY seq", (), since)

    def parts(self) -> dict[str, int]:
        """How many examples each part holds."""
        learn = self.count("learn")
        recent = self.count("learn", since=self._recent_boundary())
        return {"recent": recent, "replay": learn - recent, "gate": self.count("gate"), "audit": self.count("audit")}

    def _recent_boundary(self) -> int:
        row = self._db.execute(
            "SELECT seq FROM examples WHERE share = 'learn' ORDER BY seq DESC LIMIT 1 OFFSET ?", (self._config.recent,)
        ).fetchone()
        return int(row[0]) if row else 0

    def _evict(self, share: Share, capacity: int, up_to: int | None = None) -> int:
        where, values = "share = ? AND seq <= ?", (share, LAST if up_to is None else up_to)
        sizes = self._db.execute(f"SELECT count(*) FROM examples WHERE {where} GROUP BY source, label", values)
        counts = [int(row[0]) for row in sizes]
        if sum(counts) <= capacity * SLACK:
            return 0
        most = quota(counts, capacity)
        if share == "learn" and self._config.keep == "diversity":
            return self._thin_out(most, values)
        ranked = (
            "SELECT seq, row_number() OVER (PARTITION BY source, label ORDER BY priority) AS place "
            f"FROM examples WHERE {where}"
        )
        cursor = self._db.execute(
            f"DELETE FROM examples WHERE seq IN (SELECT seq FROM ({ranked}) WHERE place > ?)",
            (*values, most),
        )
        return cursor.rowcount

    def _thin_out(self, most: int, values: tuple[str, int]) -> int:
        """Leave each cell of the learn share the `most` examples that are least like each other."""
        cells: dict[tuple[str | None, str], list[tuple[int, str]]] = {}
        rows = self._db.execute(
            "SELECT source, label, seq, text FROM examples WHERE share = ? AND seq <= ? ORDER BY priority", values
        )
        for source, label, seq, text in rows:
            cells.setdefault((source, label), []).append((seq, text))
        dropped: list[tuple[int]] = []
        for cell in cells.values():
            if len(cell) > most:
                kept = spread([text for _, text in cell], most)
                dropped += [(seq,) for at, (seq, _) in enumerate(cell) if at not in kept]
        self._db.executemany("DELETE FROM examples WHERE seq = ?", dropped)
        return len(dropped)

    def _examples(self, where: str, values: tuple[int, ...], since: int) -> list[Example]:
        rows = self._db.execute(
            f"SELECT id, text, label, source, key, timestamp, weight, seq > {int(since)} FROM examples WHERE {where}",
            values,
        )
        return [Labelled(*row[:7]).example("fresh" if row[7] else "old") for row in rows]
