"""Where the JSONL connector's lines come from: a file, a compressed file, standard input.

Each source gives non-blank lines with the byte offset where they start, counted in what is read (for a compressed
file: once decompressed), and never blocks. It keeps no place of its own unless it must: the reader passes one in.
"""

import gzip
import io
import os
import select
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from connectors.topic import ConnectorError

#: Bytes read from the disk at once: a few hundred short lines, so that small polls do not read much in vain.
BUFFER_BYTES = 1 << 16


class Line(NamedTuple):
    """`value` without its newline; `offset` is where it starts and `after` where the next one does, in bytes."""

    offset: int
    value: bytes
    after: int


class Source(Protocol):
    def read(self, position: int, max_lines: int) -> tuple[list[Line], int]:
        """At most `max_lines` lines from `position` on, and the position after them and the blank ones between."""

    def require(self, position: int) -> None:
        """Raise ConnectorError unless reading can go on from `position`."""

    def end(self) -> int:
        """Bytes there are so far."""

    def finished(self, position: int) -> bool:
        """Whether nothing is expected after `position`."""

    def timestamp(self) -> float:
        """When it was last written to, in seconds since the epoch; 0 when that is not known."""

    def close(self) -> None: ...


class PlainFile:
    """A file that may grow, and need not exist yet.

    Args:
        path: The file.
        follow: Wait for the rest of a last line without a newline, rather than take it as it is.
        committed: The size up to which the file may be read, given the size it has.
    """

    def __init__(self, path: Path, follow: bool, committed: Callable[[int], int]) -> None:
        self._path = path
        self._follow = follow
        self._committed = committed

    def read(self, position: int, max_lines: int) -> tuple[list[Line], int]:
        end = self.end()
        if position > end:
            raise ConnectorError(_cut(self._path, position, end))
        if position == end:
            return [], position
        with self._path.open("rb", BUFFER_BYTES) as file:
            file.seek(position)
            return _lines(_until(file, position, end, whole=self._follow), position, max_lines)

    def require(self, position: int) -> None:
        end = self.end()
        if position > end:
            raise ConnectorError(_cut(self._path, position, end))
        if 0 < position < end:
            with self._path.open("rb") as file:
                _require_line_start(self._path, file, position)

    def end(self) -> int:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return 0
        return self._committed(size)

    def finished(self, position: int) -> bool:
        return not self._follow and position >= self.end()

    def timestamp(self) -> float:
        return self._path.stat().st_mtime

    def close(self) -> None:
        pass


class CompressedFile:
    """A gzip file, which is complete. Going back in it starts over: decompression has no shortcuts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = io.BufferedReader(gzip.GzipFile(path, "rb"), BUFFER_BYTES)
        self._end: int | None = None

    def read(self, position: int, max_lines: int) -> tuple[list[Line], int]:
        with _whole_gzip(self._path):
            self._file.seek(position)
            return _lines(self._file, position, max_lines)

    def require(self, position: int) -> None:
        end = self.end()
        if position > end:
            raise ConnectorError(_cut(self._path, position, end))
        if 0 < position < end:
            _require_line_start(self._path, self._file, position)

    def end(self) -> int:
        """Decompresses the whole file, once."""
        if self._end is None:
            with _whole_gzip(self._path), gzip.open(self._path, "rb") as file:
                self._end = sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))
        return self._end

    def finished(self, position: int) -> bool:
        return position >= self.end()

    def timestamp(self) -> float:
        return self._path.stat().st_mtime

    def close(self) -> None:
        self._file.close()


class StandardInput:
    """What comes down a pipe: read once, forwards. Its offsets count from where this process began to read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[Line] = deque()
        self._partial = b""
        self._received = 0
        self._given = 0
        self._ended = False

    def read(self, position: int, max_lines: int) -> tuple[list[Line], int]:
        self._receive(max_lines)
        lines: list[Line] = []
        while self._waiting and len(lines) < max_lines:
            line = self._waiting.popleft()
            self._given = line.after
            if line.offset >= position and line.value.strip():
                lines.append(line)
        return lines, max(position, self._given)

    def require(self, position: int) -> None:
        if position < self._given:
            raise ConnectorError(
                f"cannot go back to byte {position} of standard input, which has been read up to byte {self._given}; "
                "feed it again from a file"
            )

    def end(self) -> int:
        return self._received

    def finished(self, position: int) -> bool:  # noqa: ARG002 (what was given is what counts here)
        return self._ended and not self._waiting

    def timestamp(self) -> float:
        return 0.0

    def close(self) -> None:
        pass

    def _receive(self, max_lines: int) -> None:
        while not self._ended and len(self._waiting) < max_lines and select.select([self._descriptor], [], [], 0)[0]:
            block = os.read(self._descriptor, BUFFER_BYTES)
            self._ended = not block
            offset = self._received - len(self._partial)
            *whole, rest = (self._partial + block).split(b"\n")
            for value in whole:
                self._waiting.append(Line(offset, value, offset + len(value) + 1))
                offset += len(value) + 1
            if self._ended and rest:
                self._waiting.append(Line(offset, rest, offset + len(rest)))
            self._partial = b"" if self._ended else rest
            self._received += len(block)


@contextmanager
def _whole_gzip(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConnectorError(f"{path} is damaged or not a gzip file: {error}; compress it again") from error


def _lines(raw: Iterable[bytes], position: int, max_lines: int) -> tuple[list[Line], int]:
    lines: list[Line] = []
    for line in islice(raw, max_lines):
        after = position + len(line)
        # What other programs leave blank is no message; what this one writes is never blank.
        if line.strip():
            lines.append(Line(position, line.removesuffix(b"\n"), after))
        position = after
    return lines, position


def _until(file: BinaryIO, position: int, end: int, *, whole: bool) -> Iterable[bytes]:
    """The lines of `file` up to the byte `end`; with `whole`, less a last one that has no newline yet."""
    for line in file:
        position += len(line)
        if position > end or (whole and not line.endswith(b"\n")):
            return
        yield line


def _require_line_start(path: Path, file: BinaryIO, position: int) -> None:
    file.seek(position - 1)
    if file.read(1) != b"\n":
        raise ConnectorError(f"no line of {path} starts at byte {position}; seek to an offset that was read")


def _cut(path: Path, position: int, end: int) -> str:
    return (
        f"{path} has {end} bytes, less than the {position} that were read: it was cut or replaced; "
        "restore it, or seek to 0 to read it from its start"
    )
