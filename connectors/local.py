"""Topics in one SQLite file: nothing to install, safe between processes and threads, exactly once.

Every topic is an append-only log with one partition (number 0) and dense offsets from 0. Messages and committed
positions change in one transaction, so "read, process, write" happens exactly once.

**Retention.** A message older than `retention` is deleted once every group that ever committed on its topic has
read past it. A topic that no group ever committed on is kept whole: it may be waiting for its first reader. So a
group that is abandoned keeps what it has not read.
"""

import json
import sqlite3
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from connectors.logfile import connect, naming, open_connection, prepare, transaction
from connectors.topic import ConnectorError, FencedError, Message, Outgoing, Partition, Positions, Reader

#: A message's rowid is `topic << OFFSET_BITS | offset`: one B-tree in reading order, without a second index. 2^40
#: offsets a topic last 34 years at 1000 messages a second, and leave 2^23 topics.
OFFSET_BITS = 40

#: Seconds between two looks for what another process wrote: a message waits half of this on average. A look costs
#: under 0.1 ms, so an idle reader takes well under 1 % of a core. Writers of this connector wake its readers at once.
WATCH_INTERVAL = 0.015

#: Old messages are looked for whenever a topic's offset passes a multiple of this. Every writer sees those, however
#: short it lives, and the search is spread over many messages.
PRUNE_EVERY = 1000

_NO_HEADERS = MappingProxyType[str, str]({})


class LocalConnector:
    """Readers and writers of the topics in the SQLite file `path`, which is made when missing.

    Any number of processes may open the same file, on a local disk: SQLite's write-ahead log needs shared memory.

    Args:
        path: The file; its directory is made when missing.
        retention: Seconds that messages are kept at least (see the module); 0 or less keeps all.
        keep: Topics whose messages are never deleted.
        clock: Seconds since the epoch; stamps messages and tells their age.

    Raises:
        ConnectorError: the file cannot be made or is not such a log.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention: float = 7 * 86400,
        keep: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._retention = retention
        self._keep = keep
        self._clock = clock
        self._bell = _Bell()
        self._opened: weakref.WeakSet[LocalReader | LocalWriter] = weakref.WeakSet()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConnectorError(f"cannot make the directory of {path}: {error.strerror}") from error
        with open_connection(path) as connection:
            prepare(path, connection)

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        shared: bool = False,  # noqa: ARG002 (one reader has the whole group here)
    ) -> "LocalReader":
        if not topics:
            raise ConnectorError("a reader needs at least one topic")
        reader = LocalReader(self._path, topics, group, self._bell)
        self._opened.add(reader)
        return reader

    def writer(self) -> "LocalWriter":
        writer = LocalWriter(self._path, self._retention, self._keep, self._clock, self._bell)
        self._opened.add(writer)
        return writer

    def committed(self, group: str) -> dict[Partition, int]:
        with open_connection(self._path) as connection:
            return _committed(connection, group)

    def close(self) -> None:
        """Close every reader and writer that this connector opened."""
        for opened in list(self._opened):
            opened.close()


class LocalReader:
    """Reads topics of a local log; see `connectors.topic.Reader`.

    Any thread may close it: a `poll` that waits returns empty. A `poll` after that raises ConnectorError, as does one
    at a position whose messages have been deleted.
    """

    def __init__(self, path: Path, topics: Sequence[str], group: str | None, bell: "_Bell") -> None:
        self.path = path
        self.group = group
        self.generation = 0
        self._bell = bell
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._version = -1
        self._turn = 0
        with naming(path, "open"):
            self._connection = connect(path)
        try:
            with (
                naming(path, "join a group in"),
                transaction(self._connection, "BEGIN" if group is None else "BEGIN IMMEDIATE"),
            ):
                if group is not None:
                    self.generation = _join(self._connection, group)
                committed = {} if group is None else _committed(self._connection, group)
                logs = _logs(self._connection)
        except BaseException:
            self._connection.close()
            raise
        partitions = [Partition(topic) for topic in dict.fromkeys(topics)]
        self._positions = {p: committed.get(p, logs[p.topic].oldest) for p in partitions}

    @property
    def claim(self) -> int:
        return 0

    @property
    def lost(self) -> dict[Partition, int]:
        return {}

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        if self._closed.is_set():
            raise self._closed_error()
        deadline = time.monotonic() + timeout
        while True:
            rung = self._bell.rung
            messages = self._read(max_messages)
            if messages or not self._wait_for_a_write(rung, deadline):
                return messages

    def seek(self, positions: Positions) -> None:
        with self._reading() as connection:
            logs = _logs(connection)
        for partition, position in positions.items():
            if partition not in self._positions:
                raise ConnectorError(f"cannot seek in {partition}: this reader reads {_names(self._positions)}")
            self._require(partition.topic, position, logs[partition.topic])
        self._positions.update(positions)

    def positions(self) -> dict[Partition, int]:
        return dict(self._positions)

    def end(self) -> dict[Partition, int]:
        with self._reading() as connection:
            logs = _logs(connection)
        return {partition: logs[partition.topic].next for partition in self._positions}

    def close(self) -> None:
        self._closed.set()
        self._bell.ring()
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, max_messages: int) -> list[Message]:
        messages: list[Message] = []
        # Moved only when the whole read succeeds, or messages of one topic would be lost to an error in another.
        positions = dict(self._positions)
        # Each read starts with another topic, so that a backlog in one does not starve the rest.
        order = list(positions)[self._turn :] + list(positions)[: self._turn]
        with self._lock, naming(self.path, "read"):
            if self._closed.is_set():
                return []
            connection = self._connection
            # Before the snapshot: a write between the two costs one look too many, never one too few.
            self._version = _data_version(connection)
            with transaction(connection, "BEGIN"):
                logs = _logs(connection)
                for partition in order:
                    log = logs[partition.topic]
                    self._require(partition.topic, positions[partition], log)
                    batch = log.read(connection, positions[partition], max_messages - len(messages))
                    messages += batch
                    positions[partition] += len(batch)
        self._turn = (self._turn + 1) % len(positions)
        self._positions = positions
        return messages

    def _wait_for_a_write(self, rung: int, deadline: float) -> bool:
        while not self._closed.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._bell.wait(rung, min(left, WATCH_INTERVAL)):
                return not self._closed.is_set()
            with self._lock:
                if not self._closed.is_set() and _data_version(self._connection) != self._version:
                    return True
        return False

    def _require(self, topic: str, position: int, log: "_Log") -> None:
        if position < log.oldest:
            raise ConnectorError(
                f"{self.path}: the {log.oldest - position} messages of {topic!r} from offset {position} on have been "
                f"deleted, being older than connector.local.retention; seek to {log.oldest} to go on without them"
            )
        if position > log.next:
            raise ConnectorError(
                f"{self.path}: {topic!r} ends at offset {log.next}, before position {position}: this is not the file "
                f"that was read before; restore that one, or seek to {log.next} to go on with what comes"
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, naming(self.path, "read"):
            if self._closed.is_set():
                raise self._closed_error()
            yield self._connection

    def _closed_error(self) -> ConnectorError:
        return ConnectorError(f"this reader of {_names(self._positions)} in {self.path} is closed")


class LocalWriter:
    """Writes to a local log; see `connectors.topic.Writer`. Threads may share it.

    A write that returned survives a power cut.
    """

    def __init__(
        self, path: Path, retention: float, keep: frozenset[str], clock: Callable[[], float], bell: "_Bell"
    ) -> None:
        self._path = path
        self._retention = retention
        self._keep = keep
        self._clock = clock
        self._bell = bell
        self._lock = threading.Lock()
        with naming(path, "open"):
            self._connection = connect(path)

    def write(
        self,
        messages: Sequence[Outgoing],
        *,
        reader: Reader | None = None,
        positions: Positions | None = None,
        claim: int | None = None,  # noqa: ARG002 (never dealt anew here)
    ) -> None:
        owner = self._owner(reader, positions)
        by_topic: defaultdict[str, list[Outgoing]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic].append(message)
        with (
            self._lock,
            naming(self._path, "write to"),
            transaction(self._connection, "BEGIN IMMEDIATE"),
        ):
            if owner is not None:
                self._refuse_if_fenced(owner)
                self._commit(owner, positions or {})
            now = self._clock()
            for topic, batch in by_topic.items():
                self._append(topic, batch, now)
        self._bell.ring()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _owner(self, reader: Reader | None, positions: Positions | None) -> "LocalReader | None":
        if reader is not None and not (isinstance(reader, LocalReader) and reader.path == self._path):
            raise ConnectorError(f"positions can only be committed for a reader of the same log, {self._path}")
        if positions and (reader is None or reader.group is None):
            raise ConnectorError("positions can only be committed for a reader that was opened with a group")
        return reader if reader is not None and reader.group is not None else None

    def _refuse_if_fenced(self, reader: LocalReader) -> None:
        newest = self._connection.execute("SELECT generation FROM groups WHERE name = ?", (reader.group,)).fetchone()
        if newest != (reader.generation,):
            raise FencedError(
                f"another reader has taken over group {reader.group!r} in {self._path}; nothing was written. "
                "Stop this process, or give it a group of its own"
            )

    def _commit(self, reader: LocalReader, positions: Positions) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO positions (topic, partition, consumer, position) VALUES (?, ?, ?, ?)",
            [(p.topic, p.number, reader.group, position) for p, position in positions.items()],
        )

    def _append(self, topic: str, batch: list[Outgoing], now: float) -> None:
        connection = self._connection
        connection.execute("INSERT OR IGNORE INTO topics (name, oldest, next) VALUES (?, 0, 0)", (topic,))
        log = _logs(connection)[topic]
        connection.executemany(
            "INSERT INTO messages (id, timestamp, key, value, headers) VALUES (?, ?, ?, ?, ?)",
            (
                (row, now, message.key, message.value, json.dumps(dict(message.headers)) if message.headers else None)
                for row, message in enumerate(batch, log.row(log.next))
            ),
        )
        end = log.next + len(batch)
        connection.execute("UPDATE topics SET next = ? WHERE id = ?", (end, log.id))
        if log.next // PRUNE_EVERY != end // PRUNE_EVERY and self._retention > 0 and topic not in self._keep:
            # Twice what came in since the last time, so that a backlog shrinks while no write waits long for it.
            self._prune(topic, log, now, most=2 * (PRUNE_EVERY + len(batch)))

    def _prune(self, topic: str, log: "_Log", now: float, most: int) -> None:
        query = "SELECT min(position) FROM positions WHERE topic = ? AND partition = 0"
        (read,) = self._connection.execute(query, (topic,)).fetchone()
        if read is None:
            return
        bound = min(read, log.next, log.oldest + most)
        first_kept = self._connection.execute(
            "SELECT id FROM messages WHERE id >= ? AND id < ? AND timestamp >= ? ORDER BY id LIMIT 1",
            (log.row(log.oldest), log.row(bound), now - self._retention),
        ).fetchone()
        oldest = bound if first_kept is None else log.offset(first_kept[0])
        if oldest > log.oldest:
            rows = (log.row(log.oldest), log.row(oldest))
            self._connection.execute("DELETE FROM messages WHERE id >= ? AND id < ?", rows)
            self._connection.execute("UPDATE topics SET oldest = ? WHERE id = ?", (oldest, log.id))


class _Log(NamedTuple):
    """Where one topic's messages are: offsets `oldest` to `next` less one. A topic never written to has id 0."""

    topic: str
    id: int
    oldest: int
    next: int

    def row(self, offset: int) -> int:
        return self.id << OFFSET_BITS | offset

    def offset(self, row: int) -> int:
        return row - (self.id << OFFSET_BITS)

    def read(self, connection: sqlite3.Connection, position: int, max_messages: int) -> list[Message]:
        if position >= self.next or max_messages <= 0:
            return []
        topic, base = self.topic, self.row(0)
        rows = connection.execute(
            "SELECT id, timestamp, key, value, headers FROM messages WHERE id >= ? AND id < ? ORDER BY id",
            (self.row(position), self.row(min(self.next, position + max_messages))),
        )
        return [
            Message(topic, 0, row - base, timestamp, key, value, json.loads(headers) if headers else _NO_HEADERS)
            for row, timestamp, key, value, headers in rows
        ]


class _Logs(dict[str, _Log]):
    def __missing__(self, topic: str) -> _Log:
        return _Log(topic, 0, 0, 0)


class _Bell:
    """Wakes this process's readers when one of its writers has written. `rung` counts how often."""

    def __init__(self) -> None:
        self.rung = 0
        self._condition = threading.Condition()

    def ring(self) -> None:
        with self._condition:
            self.rung += 1
            self._condition.notify_all()

    def wait(self, rung: int, seconds: float) -> bool:
        """Whether it rings, or has rung since `rung` was read, within `seconds`."""
        with self._condition:
            return self._condition.wait_for(lambda: self.rung != rung, seconds)


def _join(connection: sqlite3.Connection, group: str) -> int:
    """Make the caller the newest reader of `group`; returns its generation."""
    connection.execute("INSERT OR IGNORE INTO groups (name, generation) VALUES (?, 0)", (group,))
    connection.execute("UPDATE groups SET generation = generation + 1 WHERE name = ?", (group,))
    (generation,) = connection.execute("SELECT generation FROM groups WHERE name = ?", (group,)).fetchone()
    return int(generation)


def _committed(connection: sqlite3.Connection, group: str) -> dict[Partition, int]:
    rows = connection.execute("SELECT topic, partition, position FROM positions WHERE consumer = ?", (group,))
    return {Partition(topic, number): position for topic, number, position in rows}


def _logs(connection: sqlite3.Connection) -> _Logs:
    rows = connection.execute("SELECT name, id, oldest, next FROM topics")
    return _Logs((row[0], _Log._make(row)) for row in rows)


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes whenever another connection has committed."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _names(positions: Positions) -> str:
    return ", ".join(repr(partition.topic) for partition in positions)
