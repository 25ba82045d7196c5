"""Labels that are not to be trusted, set aside for a person: neither learned from nor judged by.

Three reasons put one here: annotators disagree (`daemon.votes`), a cross-check finds it hardly likely
(`daemon.label_errors`), or it came in a run of labels that contradict what used to be right (`daemon.holding`).
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from daemon.memory import Labelled

Cause = Literal["disagreement", "likely error", "held"]
CAUSES: tuple[str, ...] = get_args(Cause)

_EXAMPLE = "id, text, label, source, key, timestamp, weight"


class Doubt(NamedTuple):
    """A label set aside, and why; `at` in seconds of the stream's clock."""

    example: Labelled
    cause: str
    because: str
    annotator: str
    at: float

    def as_dict(self) -> dict[str, Any]:
        one = self.example
        shown = {"id": one.id, "label": one.label, "text": one.text, "source": one.source, "annotator": self.annotator}
        return {**shown, "cause": self.cause, "because": self.because, "at": self.at}


class Doubts:
    """The table of doubts. An id is `open` until a person, or a later label, has decided.

    One that was accepted is not doubted again for being unlikely; one that was dropped does not come back with the
    same label.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, example: Labelled, cause: Cause, because: str, annotator: str, now: float) -> None:
        """Set `example` aside; one that is open already takes the newer label and reason."""
        self._db.execute(
            "INSERT OR REPLACE INTO doubts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')",
            (*example[:7], cause, because, annotator, now),
        )

    def withholds(self, example: Labelled) -> bool:
        """Whether `example` must not be learned from. An open doubt takes over what is known of the text by now."""
        row = self._db.execute("SELECT state, label FROM doubts WHERE id = ?", (example.id,)).fetchone()
        if row is None or row[0] == "accepted":
            return False
        if row[0] == "open":
            self._db.execute(
                "UPDATE doubts SET text = ?, label = ?, source = ?, key = ?, timestamp = ? WHERE id = ?",
                (example.text, example.label, example.source, example.key, example.timestamp, example.id),
            )
            return True
        return bool(row[1] == example.label)

    def cause(self, id: str) -> tuple[str, str] | None:
        """Why `id` is set aside, and with which label; None when it is not."""
        row = self._db.execute("SELECT reason, label FROM doubts WHERE id = ? AND state = 'open'", (id,)).fetchone()
        return (row[0], row[1]) if row else None

    def accepted(self, ids: Sequence[str]) -> set[str]:
        """Which of `ids` a person has confirmed."""
        known = {row[0] for row in self._db.execute("SELECT id FROM doubts WHERE state = 'accepted'")}
        return known & set(ids)

    def settle(self, id: str) -> None:
        """A later label has decided: forget the doubt."""
        self._db.execute("DELETE FROM doubts WHERE id = ?", (id,))

    def close(self, doubts: Sequence[Doubt], state: Literal["accepted", "dropped"]) -> None:
        """A person has decided."""
        rows = [(state, doubt.example.id) for doubt in doubts]
        self._db.executemany("UPDATE doubts SET state = ? WHERE id = ? AND state = 'open'", rows)

    def open(self, cause: str | None = None, id: str | None = None) -> list[Doubt]:
        """What waits for a person, oldest first: all of it, or that of one cause or id."""
        rows = self._db.execute(
            f"SELECT {_EXAMPLE}, reason, because, annotator, at FROM doubts WHERE state = 'open' "
            "AND (?1 IS NULL OR reason = ?1) AND (?2 IS NULL OR id = ?2) ORDER BY at, id",
            (cause, id),
        )
        return [Doubt(Labelled(*row[:7]), *row[7:]) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many are open, by cause."""
        rows = self._db.execute("SELECT reason, count(*) FROM doubts WHERE state = 'open' GROUP BY reason")
        return {**dict.fromkeys(CAUSES, 0), **dict(rows)}

    def expire(self, now: float, horizon: float) -> int:
        """Let go of what is older than `horizon` seconds; returns how many were still open."""
        gone = self._db.execute("DELETE FROM doubts WHERE at < ? RETURNING state = 'open'", (now - horizon,))
        return sum(row[0] for row in gone.fetchall())
