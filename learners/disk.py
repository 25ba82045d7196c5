"""Files that are on the disk before anybody is told of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Write to the path that this yields: `path` has the old content or all of the new, whatever fails in between."""
    draft = path.with_suffix(".draft")
    yield draft
    fsync(draft)
    draft.replace(path)
    fsync(path.parent)


def write_atomically(path: Path, row: BaseModel) -> None:
    """Write `row` so that `path` is either not there or whole."""
    with replaced(path) as draft:
        draft.write_text(row.model_dump_json(indent=2) + "\n", encoding="utf-8")


def sync(directory: Path) -> None:
    """Have everything in `directory` on the disk before the report says that it is there."""
    for path in sorted(directory.rglob("*")):
        fsync(path)


def fsync(path: Path) -> None:
    """What the operating system has of a file or folder goes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
