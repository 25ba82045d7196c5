"""Topics as files of lines, for backtests, pipes and looking at with other tools.

A topic is `DIRECTORY/TOPIC.jsonl`, or `TOPIC.jsonl.gz`, which can only be read. A message is a line: its value is the
line without its newline and its offset is the byte where the line starts, so offsets grow but are not dense. A line
has no place for the rest: keys read as None, headers as {}, both are lost in writing, and a timestamp is when the
file was last written to (0 for standard input). Blank lines are skipped.

**Exactly once.** `DIRECTORY/.positions.json` holds the groups' positions. A write first notes there how long the
files are, appends, and then replaces the note by the new positions. Whoever finds a note left behind knows that the
write before it was cut short, and shortens the files again; readers never read past a note. So nothing is lost or
doubled by a crash, lines appended to a topic by other programs included, unless they append in the middle of a write.

Standard output cannot be taken back: what a write cut short has sent there is sent again.
"""

import os
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import BinaryIO, Literal, Self

from connectors.lines import CompressedFile, PlainFile, Source, StandardInput
from connectors.positions import PositionsFile, Record, sync_directory
from connectors.topic import ConnectorError, FencedError, Message, Outgoing, Partition, Positions, Reader

#: Seconds between two looks for new lines. A look is a `stat` and a small file read a topic: about 1 % of a core.
WATCH_INTERVAL = 0.02

#: A topic's file, or standard input and output.
File = Path | Literal["-"]

_NO_HEADERS = MappingProxyType[str, str]({})


class JsonlConnector:
    """Readers and writers of the topics in `directory`, which is made when first written to.

    Any number of processes may use the same directory; their writes wait for each other.

    Args:
        directory: Where the files are.
        follow: Wait for the rest of a last line without a newline, and never call a file exhausted.
        files: Files of topics that lie elsewhere or are called otherwise; `"-"` reads standard input and writes
            standard output. Positions on standard input are not kept: it cannot be read again.
    """

    def __init__(self, directory: Path, *, follow: bool = False, files: Mapping[str, File] | None = None) -> None:
        self._directory = directory
        self._follow = follow
        self._files = dict(files or {})
        self._state = PositionsFile(directory)
        self._opened: weakref.WeakSet[JsonlReader] = weakref.WeakSet()

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        shared: bool = False,  # noqa: ARG002 (one reader has the whole group here)
    ) -> "JsonlReader":
        if not topics:
            raise ConnectorError("a reader needs at least one topic")
        sources = {Partition(topic): self._source(topic) for topic in topics}
        reader = JsonlReader(sources, group, self._state)
        self._opened.add(reader)
        return reader

    def writer(self) -> "JsonlWriter":
        return JsonlWriter(self._state, self._file)

    def committed(self, group: str) -> dict[Partition, int]:
        with _naming(self._directory, "read"):
            return self._state.load().group(group).positions

    def close(self) -> None:
        """Close every reader that this connector opened."""
        for opened in list(self._opened):
            opened.close()

    def _source(self, topic: str) -> Source:
        path = self._file(topic)
        if path == "-":
            return StandardInput(sys.stdin.fileno())
        if path.suffix != ".gz":
            return PlainFile(path, self._follow, lambda size: self._state.committed_size(path, size))
        with _naming(path, "read"):
            return CompressedFile(path)

    def _file(self, topic: str) -> File:
        if topic in self._files:
            return self._files[topic]
        if not topic or topic.startswith(".") or "/" in topic or "\0" in topic:
            raise ConnectorError(f"topic {topic!r} cannot be the name of a file in {self._directory}; rename it")
        plain, compressed = self._directory / f"{topic}.jsonl", self._directory / f"{topic}.jsonl.gz"
        if not compressed.exists():
            return plain
        if plain.exists():
            raise ConnectorError(f"topic {topic!r} has two files, {plain} and {compressed.name}; move one away")
        return compressed


class JsonlReader:
    """Reads topics line by line; see `connectors.topic.Reader`.

    Any thread may close it: a `poll` that waits returns empty. A `poll` after that raises ConnectorError.
    """

    def __init__(self, sources: Mapping[Partition, Source], group: str | None, state: PositionsFile) -> None:
        self.group = group
        self.generation = 0
        self.state = state
        self._sources = sources
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._turn = 0
        committed: Mapping[Partition, int] = {}
        if group is not None:
            with _naming(state.directory, "write to"), state.changing() as record:
                committed = record.group(group).positions
                record.group(group).generation += 1
                self.generation = record.group(group).generation
                state.save(record)
        self._positions = dict.fromkeys(sources, 0) | self.lasting({p: committed[p] for p in sources if p in committed})

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
            messages = self._read(max_messages)
            left = deadline - time.monotonic()
            if messages or left <= 0 or self._closed.wait(min(left, WATCH_INTERVAL)):
                return messages

    def seek(self, positions: Positions) -> None:
        with self._reading():
            for partition, position in positions.items():
                if partition not in self._sources:
                    raise ConnectorError(f"cannot seek in {partition}: this reader does not read it")
                with _naming(repr(partition.topic), "read"):
                    self._sources[partition].require(position)
            self._positions.update(positions)

    def positions(self) -> dict[Partition, int]:
        return dict(self._positions)

    def end(self) -> dict[Partition, int]:
        """Sizes in bytes; for standard input, the bytes received so far."""
        with self._reading(), _naming(self.state.directory, "read"):
            return {partition: source.end() for partition, source in self._sources.items()}

    def lasting(self, positions: Positions) -> dict[Partition, int]:
        """`positions` less those on standard input, which the next process to read it has no use for."""
        return {p: at for p, at in positions.items() if not isinstance(self._sources.get(p), StandardInput)}

    def exhausted(self) -> bool:
        """Whether every topic has been read to an end after which nothing is expected; never when following."""
        with self._reading(), _naming(self.state.directory, "read"):
            return all(source.finished(self._positions[p]) for p, source in self._sources.items())

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for source in self._sources.values():
                source.close()

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
        with self._lock:
            if self._closed.is_set():
                return []
            for partition in order:
                with _naming(repr(partition.topic), "read"):
                    most = max_messages - len(messages)
                    batch, positions[partition] = self._read_one(partition, positions[partition], most)
                    messages += batch
            self._turn = (self._turn + 1) % len(positions)
            self._positions = positions
        return messages

    def _read_one(self, partition: Partition, position: int, max_messages: int) -> tuple[list[Message], int]:
        source = self._sources[partition]
        lines, after = source.read(position, max_messages)
        # Blank lines alone are no messages, but there may be some after them.
        while not lines and after > position:
            position = after
            lines, after = source.read(position, max_messages)
        if not lines:
            return [], after
        topic, number = partition
        now = source.timestamp()
        return [Message(topic, number, line.offset, now, None, line.value, _NO_HEADERS) for line in lines], after

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            if self._closed.is_set():
                raise self._closed_error()
            yield

    def _closed_error(self) -> ConnectorError:
        return ConnectorError(f"this reader of {', '.join(repr(p.topic) for p in self._sources)} is closed")


class JsonlWriter:
    """Appends lines to topics; see `connectors.topic.Writer`. Threads may share it.

    Raises:
        ConnectorError: also for a value that cannot be a line: one with a newline in it, or a blank one.
    """

    def __init__(self, state: PositionsFile, file_of: Callable[[str], File]) -> None:
        self._state = state
        self._file_of = file_of

    def write(
        self,
        messages: Sequence[Outgoing],
        *,
        reader: Reader | None = None,
        positions: Positions | None = None,
        claim: int | None = None,  # noqa: ARG002 (never dealt anew here)
    ) -> None:
        owner = self._owner(reader, positions)
        appended, printed = self._lines(messages)
        with _naming(self._state.directory, "write to"), self._state.changing() as record:
            if owner is not None:
                self._refuse_if_fenced(owner, record)
            try:
                self._append(appended, record)
                _print(printed)
                if owner is not None and owner.group is not None:
                    record.group(owner.group).positions.update(owner.lasting(positions or {}))
                if record.pending or positions:
                    record.pending = {}
                    self._state.save(record)
            except BaseException:
                self._state.undo()
                raise

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _owner(self, reader: Reader | None, positions: Positions | None) -> JsonlReader | None:
        if reader is not None and not (isinstance(reader, JsonlReader) and self._shares_state(reader)):
            raise ConnectorError(f"positions can only be committed for a reader of {self._state.directory}")
        if positions and (reader is None or reader.group is None):
            raise ConnectorError("positions can only be committed for a reader that was opened with a group")
        return reader if reader is not None and reader.group is not None else None

    def _shares_state(self, reader: JsonlReader) -> bool:
        return reader.state.directory == self._state.directory

    def _refuse_if_fenced(self, reader: JsonlReader, record: Record) -> None:
        if reader.group is not None and record.group(reader.group).generation != reader.generation:
            raise FencedError(
                f"another reader has taken over group {reader.group!r} in {self._state.directory}; nothing was "
                "written. Stop this process, or give it a group of its own"
            )

    def _lines(self, messages: Sequence[Outgoing]) -> tuple[dict[Path, bytes], bytes]:
        """What to append to each file, and to standard output."""
        values: defaultdict[str, list[bytes]] = defaultdict(list)
        for message in messages:
            if b"\n" in message.value or not message.value.strip():
                what = "has a newline in it" if message.value.strip() else "is blank"
                raise ConnectorError(f"a message for {message.topic!r} {what}, so it cannot be a line; write JSON")
            values[message.topic].append(message.value)
        lines: defaultdict[File, bytes] = defaultdict(bytes)
        for topic, batch in values.items():
            lines[self._file_of(topic)] += b"\n".join(batch) + b"\n"
        files = {path: block for path, block in lines.items() if path != "-"}
        if compressed := [path for path in files if path.suffix == ".gz"]:
            raise ConnectorError(f"cannot append to {compressed[0]}: compressed topics can only be read; decompress it")
        return files, lines["-"]

    def _append(self, blocks: Mapping[Path, bytes], record: Record) -> None:
        if not blocks:
            return
        record.pending = {self._state.name(path): path.stat().st_size if path.exists() else 0 for path in blocks}
        self._state.save(record)
        for path, block in blocks.items():
            with _naming(path, "write to"), path.open("a+b") as file:
                file.write(_missing_newline(file) + block)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(path.parent)


def _missing_newline(file: BinaryIO) -> bytes:
    """What ends a last line that another program left open."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _print(block: bytes) -> None:
    if block:
        with _naming("standard output", "write to"):
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()


@contextmanager
def _naming(what: object, deed: str) -> Iterator[None]:
    """Errors of the system as errors a person can act on."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ConnectorError(f"cannot {deed} {what}: {error.strerror or error}{where}") from error
