"""The controller's whole state: one SQLite file, changed in one transaction a step.

Each table has one noun that reads and writes it; this file only says what they are and opens them.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.topic import Partition, Positions
from daemon.errors import RelearndError

#: The format that this release reads and writes: SCHEMA with all of CHANGES.
SCHEMA_VERSION = 4

#: How long a command-line tool waits for the controller's step to end, and the other way round, in milliseconds.
BUSY_TIMEOUT = 30_000

SCHEMA = """
CREATE TABLE positions (topic TEXT, partition INTEGER, offset INTEGER NOT NULL, PRIMARY KEY (topic, partition))
    WITHOUT ROWID;
CREATE TABLE blobs (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE scored (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, source TEXT, key TEXT,
    timestamp REAL NOT NULL, label TEXT NOT NULL, model TEXT NOT NULL, seen_at REAL NOT NULL, truth TEXT);
CREATE INDEX scored_seen ON scored (seen_at);
CREATE TABLE early_labels (
    id TEXT PRIMARY KEY, label TEXT NOT NULL, weight REAL NOT NULL, seen_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX early_labels_seen ON early_labels (seen_at);
CREATE TABLE examples (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, label TEXT NOT NULL,
    source TEXT, key TEXT, timestamp REAL NOT NULL, weight REAL NOT NULL, share TEXT NOT NULL, priority REAL NOT NULL);
CREATE INDEX examples_share ON examples (share, seq);
CREATE TABLE probation (id TEXT PRIMARY KEY, parent TEXT NOT NULL, champion TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, version TEXT NOT NULL, parent TEXT, trigger TEXT NOT NULL,
    reason TEXT NOT NULL, state TEXT NOT NULL, created_at REAL NOT NULL, newest_example INTEGER NOT NULL,
    decision TEXT);
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, because TEXT NOT NULL,
    details TEXT NOT NULL);
CREATE TABLE alert_windows (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key BLOB, value BLOB NOT NULL, headers TEXT NOT NULL);
CREATE TABLE commands (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, name TEXT NOT NULL, arguments TEXT NOT NULL,
    outcome TEXT);
"""

#: What was added to SCHEMA since format 1, by the format that it makes. An older state is brought up to date.
CHANGES = {
    2: """
ALTER TABLE scored ADD COLUMN probabilities TEXT;
ALTER TABLE scored ADD COLUMN sketch BLOB;
ALTER TABLE scored ADD COLUMN sketched_by TEXT;
CREATE TABLE asked (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE votes (
    id TEXT NOT NULL, annotator TEXT NOT NULL, label TEXT NOT NULL, weight REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (id, annotator)) WITHOUT ROWID;
CREATE INDEX votes_at ON votes (at);
CREATE TABLE doubts (
    id TEXT PRIMARY KEY, text TEXT NOT NULL, label TEXT NOT NULL, source TEXT, key TEXT, timestamp REAL NOT NULL,
    weight REAL NOT NULL, reason TEXT NOT NULL, because TEXT NOT NULL, annotator TEXT NOT NULL, at REAL NOT NULL,
    state TEXT NOT NULL) WITHOUT ROWID;
""",
    # Drift is watched otherwise now, and begins anew with what was noticed of it.
    3: "DELETE FROM blobs WHERE name IN ('drift', 'noticed')",
    4: "ALTER TABLE jobs ADD COLUMN challenger TEXT",
}


class StateError(RelearndError):
    """state.db cannot be used; the message says why and what to do."""


def open_state(path: Path) -> sqlite3.Connection:
    """The state at `path`, made when it is not there.

    Raises:
        StateError: not a SQLite file, from another version of relearnd, or not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT / 1000)
        with _one_at_a_time(path.parent):
            db.execute("PRAGMA journal_mode=WAL")
            # Full: a step that was committed is there after a power cut, like the positions it was read from.
            db.execute("PRAGMA synchronous=FULL")
            with transaction(db):
                _create_or_check(db, path)
    except (sqlite3.DatabaseError, OSError) as error:
        raise StateError(
            f"{path}: cannot open the state: {error}; is the folder writable, and the file ours?"
        ) from error
    return db


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Nobody else is in this block for the same directory: SQLite does not wait when two turn to WAL, it fails one."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create_or_check(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in SCHEMA.split(";"):
            db.execute(statement)
        version = 1
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path} was written by another version of relearnd (state {version}, this one reads {SCHEMA_VERSION}); "
            "run that version, or start with a new home"
        )
    for number in range(version + 1, SCHEMA_VERSION + 1):
        for statement in CHANGES[number].split(";"):
            db.execute(statement)
    # Not when it is there already: setting it writes, and a tool that only looks should not.
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block's changes, or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # SQLite has rolled back by itself when the disk is full, and a second time would hide that it was.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


class ReadPositions:
    """How far the controller has read, by topic and partition."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def load(self) -> dict[Partition, int]:
        rows = self._db.execute("SELECT topic, partition, offset FROM positions")
        return {Partition(topic, number): offset for topic, number, offset in rows}

    def save(self, positions: Positions) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
            [(partition.topic, partition.number, offset) for partition, offset in positions.items()],
        )


class Blobs:
    """Named values that are saved whole: the states of detectors, counts and the like."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def get(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM blobs WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, name: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (name, value))

    def delete(self, name: str) -> None:
        self._db.execute("DELETE FROM blobs WHERE name = ?", (name,))

    def under(self, prefix: str) -> dict[str, bytes]:
        """All whose name begins with `prefix`, by the rest of the name."""
        # Names may hold what LIKE and GLOB take for patterns.
        rows = self._db.execute("SELECT name, value FROM blobs WHERE substr(name, 1, ?) = ?", (len(prefix), prefix))
        return {name.removeprefix(prefix): bytes(value) for name, value in rows}

    def get_json(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else json.loads(value)

    def put_json(self, name: str, value: Any) -> None:
        self.put(name, json.dumps(value).encode())


class Decisions:
    """What was decided, when, and why: the record that a person reads and an auditor checks."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, at: float, kind: str, because: str, details: Mapping[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO decisions (at, kind, because, details) VALUES (?, ?, ?, ?)",
            (at, kind, because, json.dumps(details)),
        )

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` decisions, oldest first."""
        rows = self._db.execute("SELECT at, kind, because, details FROM decisions ORDER BY seq DESC LIMIT ?", (limit,))
        found = [
            {"at": at, "kind": kind, "because": because, **json.loads(details)} for at, kind, because, details in rows
        ]
        return found[::-1]


class Commands:
    """What people ask of the controller: kept until its next step, even when it is down."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def ask(self, at: float, name: str, arguments: Mapping[str, str]) -> int:
        cursor = self._db.execute(
            "INSERT INTO commands (at, name, arguments) VALUES (?, ?, ?)", (at, name, json.dumps(arguments))
        )
        return int(cursor.lastrowid or 0)

    def waiting(self) -> list[tuple[int, str, dict[str, str]]]:
        rows = self._db.execute("SELECT seq, name, arguments FROM commands WHERE outcome IS NULL ORDER BY seq")
        return [(seq, name, json.loads(arguments)) for seq, name, arguments in rows]

    def answer(self, seq: int, outcome: str) -> None:
        self._db.execute("UPDATE commands SET outcome = ? WHERE seq = ?", (outcome, seq))

    def outcome(self, seq: int) -> str | None:
        """What became of command `seq`; None while it waits."""
        row = self._db.execute("SELECT outcome FROM commands WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else row[0]
