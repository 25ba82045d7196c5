"""Files that are on the disk before anybody is told of them."""

import os
from pathlib import Path

from pydantic import BaseModel


def write_atomically(path: Path, row: BaseModel) -> None:
    """Write `row` so that `path` is either not there or whole, whatever fails in between."""
    draft = path.with_suffix(".draft")
    draft.write_text(row.model_dump_json(indent=2) + "\n", encoding="utf-8")
    fsync(draft)
    draft.replace(path)
    fsync(path.parent)


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
