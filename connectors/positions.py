"""The file that makes the JSONL connector's writes atomic: `.positions.json`, replaced as a whole and under a lock."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from connectors.topic import ConnectorError, Partition

#: Raised when the format of the file changes.
FORMAT_VERSION = 1


@dataclass
class Group:
    """A consumer group: how many readers have joined it so far, and its committed positions."""

    generation: int = 0
    positions: dict[Partition, int] = field(default_factory=dict)


@dataclass
class Record:
    """What the file says. `pending` is the note of a write under way: the files' sizes in bytes before it."""

    groups: dict[str, Group] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group())


class PositionsFile:
    """`.positions.json` in `directory`, which is made when something is first changed.

    Raises:
        ConnectorError: the file is damaged. OSError is left to the caller.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / ".positions.json"

    def load(self) -> Record:
        try:
            content = json.loads(self._path.read_bytes())
            if content["version"] != FORMAT_VERSION:
                raise ConnectorError(f"{self._path} has format {content['version']}; use the relearnd that wrote it")
            groups = {
                name: Group(group["generation"], {Partition(topic, n): at for topic, n, at in group["positions"]})
                for name, group in content["groups"].items()
            }
            return Record(groups, content["pending"])
        except FileNotFoundError:
            return Record()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConnectorError(
                f"{self._path} is damaged ({error}); restore it, or remove it to read every topic from its start"
            ) from error

    def save(self, record: Record) -> None:
        """Replace the file; it holds the old content or the new one, also after a power cut."""
        groups = {
            name: {
                "generation": group.generation,
                "positions": [[topic, number, at] for (topic, number), at in group.positions.items()],
            }
            for name, group in record.groups.items()
        }
        content = {"version": FORMAT_VERSION, "groups": groups, "pending": record.pending}
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(json.dumps(content).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        sync_directory(self.directory)

    @contextmanager
    def changing(self) -> Iterator[Record]:
        """The record, for this thread of this process alone to change and `save`, a write cut short undone first."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".positions.lock").open("ab") as lock:
            # Given back when the file is closed, by the kernel if need be: a crash leaves no lock behind.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.undo()
            yield self.load()

    def undo(self) -> None:
        """Shorten files to what they were before a write that did not come to its end. Only while `changing`."""
        record = self.load()
        if not record.pending:
            return
        for name, size in record.pending.items():
            path = self.directory / name
            if path.exists() and path.stat().st_size > size:
                with path.open("r+b") as file:
                    file.truncate(size)
                    os.fsync(file.fileno())
        record.pending = {}
        self.save(record)

    def committed_size(self, path: Path, size: int) -> int:
        """How far a file of `size` bytes may be read: a write under way may yet be undone.

        `size` must be older than this call: if the write ended in between, all of `size` is committed.
        """
        return min(size, self.load().pending.get(self.name(path), size))

    def name(self, path: Path) -> str:
        """`path` as `pending` names it, so that a directory may be moved as a whole."""
        within = path.is_relative_to(self.directory)
        return str(path.relative_to(self.directory) if within else path.absolute())


def sync_directory(directory: Path) -> None:
    """Make new names in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
