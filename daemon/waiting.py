"""Scores waiting for their labels, and labels waiting for their scores, however late either comes.

Both wait `labels.horizon` at most and are counted when they expire. A score stays for as long after its label has
come, so that a second label for the same text is known as a duplicate or a correction.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from daemon.config import LabelsConfig
from daemon.records import Score, decode_sketch


class Scored(NamedTuple):
    """A score as the controller keeps it. `label` is the prediction; `timestamp` and `seen_at` in seconds.

    `probabilities` is a JSON object by label, as `model` gave them; `sketch` is little-endian float16, and the sketch
    of this text by version `sketched_by`: a champion that has scored the text again brings its own.
    """

    id: str
    text: str
    source: str | None
    key: str | None
    timestamp: float
    label: str
    model: str
    seen_at: float
    probabilities: str | None = None
    sketch: bytes | None = None
    sketched_by: str | None = None

    @classmethod
    def of(cls, score: Score, now: float) -> Self:
        """What is kept of `score`, which was read at `now`."""
        sketch = None if score.sketch is None else decode_sketch(score.sketch).astype("<f2").tobytes()
        return cls(
            score.id,
            score.text,
            score.source,
            score.key,
            score.timestamp.timestamp(),
            score.label,
            score.model,
            now,
            json.dumps(score.probabilities),
            sketch,
            None if sketch is None else score.model,
        )

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The sketch, `[dimensions]`; of no dimensions if there is none."""
        return np.frombuffer(self.sketch or b"", dtype="<f2").astype(np.float32)


class Answer(NamedTuple):
    """A label as the controller keeps it."""

    id: str
    label: str
    weight: float
    seen_at: float


class Joined(NamedTuple):
    """A score with its truth. `before` is the truth it had until now: None, unless this one corrects it."""

    scored: Scored
    truth: str
    weight: float
    before: str | None


class Expired(NamedTuple):
    """How many waited in vain."""

    scores: int
    labels: int


_COLUMNS = "id, text, source, key, timestamp, label, model, seen_at, probabilities, sketch, sketched_by"


class Waiting:
    def __init__(self, db: sqlite3.Connection, config: LabelsConfig, keep: int = 0) -> None:
        """The latest `keep` texts stay, however long they have waited: a slow stream's past is made of them."""
        self._db = db
        self._config = config
        self._keep = keep

    def add_scores(self, scores: Sequence[Scored]) -> tuple[list[Scored], list[Joined]]:
        """Store scores; returns those whose id is new, and those whose label was here already.

        A score with an id that was seen before is a duplicate: the first one counts.
        """
        known = self._ids("scored", [score.id for score in scores])
        first: dict[str, Scored] = {}
        for score in scores:
            if score.id not in known:
                first.setdefault(score.id, score)
        new = list(first.values())
        self._db.executemany(
            f"INSERT INTO scored ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            new,
        )
        return new, self._take_early(first)

    def add_label(self, answer: Answer) -> Joined | None:
        """Join a label with its score; None while the score is not here, and then the label waits."""
        row = self._db.execute(
            f"SELECT {_COLUMNS}, truth FROM scored WHERE id = ?",
            (answer.id,),
        ).fetchone()
        if row is None:
            self._db.execute("INSERT OR REPLACE INTO early_labels VALUES (?, ?, ?, ?)", answer)
            return None
        self._set_truth(answer)
        return Joined(Scored(*row[:-1]), answer.label, answer.weight, row[-1])

    def expire(self, now: float) -> Expired:
        """Drop what has waited longer than the horizon, and the oldest scores beyond `labels.max_waiting`."""
        cursor = self._db.execute(
            "DELETE FROM scored WHERE (seen_at < ? AND seq <= ?) OR seq <= "
            "(SELECT seq FROM scored ORDER BY seq DESC LIMIT 1 OFFSET ?) RETURNING truth IS NULL",
            (now - self._config.horizon, self.seen() - self._keep, self._config.max_waiting),
        )
        in_vain = sum(row[0] for row in cursor.fetchall())
        labels = self._db.execute("DELETE FROM early_labels WHERE seen_at < ?", (now - self._config.horizon,)).rowcount
        return Expired(in_vain, labels)

    def seen(self) -> int:
        """How many texts have been scored so far, each counted once."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'scored'").fetchone()
        return int(row[0]) if row else 0

    def recent(self, count: int) -> list[Scored]:
        """The latest `count` scores, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM scored ORDER BY seq DESC LIMIT ?",
            (count,),
        )
        return [Scored(*row) for row in rows][::-1]

    def judged(self, count: int) -> list[tuple[Scored, str]]:
        """The latest `count` scores whose truth has come, with it, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS}, truth FROM scored WHERE truth IS NOT NULL ORDER BY seq DESC LIMIT ?",
            (count,),
        )
        return [(Scored(*row[:-1]), row[-1]) for row in rows][::-1]

    def place_of(self, moment: float) -> int:
        """Which text, counted from 1, was the first here that was written at `moment` or later; the last, if none."""
        row = self._db.execute("SELECT MIN(seq) FROM scored WHERE timestamp >= ?", (moment,)).fetchone()
        return self.seen() if row[0] is None else int(row[0])

    def unlabelled(self, count: int) -> list[Scored]:
        """The latest `count` scores whose truth has not come, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM scored WHERE truth IS NULL ORDER BY seq DESC LIMIT ?",
            (count,),
        )
        return [Scored(*row) for row in rows][::-1]

    def sketched(self, version: str, count: int) -> list[tuple[Scored, bool]]:
        """Those of the latest `count` scores that `version` has sketched, oldest first; whether each is labelled."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS}, truth IS NOT NULL FROM (SELECT * FROM scored ORDER BY seq DESC LIMIT ?) "
            "WHERE sketched_by = ? ORDER BY seq",
            (count, version),
        )
        return [(Scored(*row[:-1]), bool(row[-1])) for row in rows]

    def find(self, ids: Sequence[str]) -> dict[str, Scored]:
        """The scores of `ids`, by id, as far as they are here."""
        found = {}
        for chunk in _chunks(ids):
            marks = ",".join("?" * len(chunk))
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM scored WHERE id IN ({marks})", chunk):
                found[row[0]] = Scored(*row)
        return found

    def sketch_again(self, version: str, sketches: Mapping[str, bytes]) -> None:
        """Replace the sketches of these texts, by id, by those of `version`."""
        self._db.executemany(
            "UPDATE scored SET sketch = ?, sketched_by = ? WHERE id = ?",
            [(sketch, version, id) for id, sketch in sketches.items()],
        )

    def without_truth(self, ids: Sequence[str]) -> set[str]:
        """Which of `ids` are scored but not labelled yet."""
        return self._ids("scored WHERE truth IS NULL", ids)

    def _ids(self, among: str, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for chunk in _chunks(ids):
            marks = ",".join("?" * len(chunk))
            rows = self._db.execute(f"SELECT id FROM (SELECT * FROM {among}) WHERE id IN ({marks})", chunk)
            found.update(row[0] for row in rows)
        return found

    def _take_early(self, new: dict[str, Scored]) -> list[Joined]:
        joined = []
        for id in sorted(self._ids("early_labels", list(new))):
            row = self._db.execute("DELETE FROM early_labels WHERE id = ? RETURNING *", (id,)).fetchone()
            answer = Answer(*row)
            self._set_truth(answer)
            joined.append(Joined(new[id], answer.label, answer.weight, None))
        return joined

    def _set_truth(self, answer: Answer) -> None:
        self._db.execute("UPDATE scored SET truth = ? WHERE id = ?", (answer.label, answer.id))


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    # SQLite's default bound on the number of parameters is 32,766; a tenth is as fast.
    return [list(ids[start : start + 3_000]) for start in range(0, len(ids), 3_000)]
