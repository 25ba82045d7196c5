"""The SQLite file that the local connector keeps its topics in: its tables, how it is opened, what its errors mean."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.topic import ConnectorError

#: Says in the file's header whose it is ("rlrn"), so that another program's database is not mistaken for a log.
APPLICATION_ID = 0x726C726E
#: Raised when the tables change.
SCHEMA_VERSION = 1

#: Seconds that a write waits for another one. A write holds the lock for milliseconds.
BUSY_TIMEOUT = 30.0

#: Seconds between two tries where SQLite itself does not wait.
_RETRY_INTERVAL = 0.01

_SCHEMA = (
    """
    CREATE TABLE topics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, oldest INTEGER NOT NULL, next INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, timestamp REAL NOT NULL, key BLOB, value BLOB NOT NULL, headers TEXT,
        CONSTRAINT "keys and values are bytes" CHECK (typeof(value) = 'blob' AND typeof(key) IN ('blob', 'null'))
    )
    """,
    "CREATE TABLE groups (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE positions (
        topic TEXT NOT NULL, partition INTEGER NOT NULL, consumer TEXT NOT NULL, position INTEGER NOT NULL,
        PRIMARY KEY (topic, partition, consumer)
    ) WITHOUT ROWID
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_ADVICE = {
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database; move it away or set connector.local.path to another file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it, or move it away to start with empty topics",
    sqlite3.SQLITE_CANTOPEN: "it must be a file in a directory that this user may write",
    sqlite3.SQLITE_READONLY: "the file and its directory must be writable by this user",
    sqlite3.SQLITE_PERM: "the file and its directory must be writable by this user",
    sqlite3.SQLITE_FULL: "free some space; nothing of this write was kept",
    sqlite3.SQLITE_IOERR: "the disk failed or refused; nothing of this write was kept",
    sqlite3.SQLITE_BUSY: f"another process held the file for {BUSY_TIMEOUT:g} s; look for one that hangs",
}


def connect(path: Path) -> sqlite3.Connection:
    """A connection that begins no transaction by itself and that threads may hand to each other."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    # With NORMAL, a power cut may undo the last transactions. Nothing in this file would disagree, but others
    # would: the controller's state.db would hold positions past the end of the log, and a message that `send`
    # has acknowledged would be gone. FULL costs one fsync a write, which a batch shares.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def open_connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for a short job; its errors name the file."""
    with naming(path, "open"):
        connection = connect(path)
        try:
            yield connection
        finally:
            connection.close()


def prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file; refuse a file that is something else, before it is changed."""
    if not _is_empty(connection):
        _refuse_foreign(path, connection)
    _use_write_ahead_log(path, connection)
    with transaction(connection, "BEGIN IMMEDIATE"):
        # Another process may have made them meanwhile.
        if _is_empty(connection):
            for statement in _SCHEMA:
                connection.execute(statement)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _refuse_foreign(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise ConnectorError(f"{path} is another program's database; set connector.local.path to a file of its own")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise ConnectorError(
            f"{path} has format {version}, this relearnd reads {SCHEMA_VERSION}; use the one that wrote it"
        )


def _use_write_ahead_log(path: Path, connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # When two processes make the file at once, SQLite fails one of them here without the busy timeout.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_INTERVAL)
    if mode != ("wal",):
        raise ConnectorError(f"{path} is on a file system without shared memory; put it on a local disk")


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """`begin` now; commit at the end, or undo everything when an exception ends it."""
    try:
        connection.execute(begin)
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def naming(path: Path, deed: str) -> Iterator[None]:
    """Errors of SQLite as errors a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the error; the others say more than a person needs.
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        raise ConnectorError(f"cannot {deed} {path}: {error}" + (f" ({advice})" if advice else "")) from error
