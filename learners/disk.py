"""Files that are on the disk before anybody is told of them."""

import os
from pathlib import Path

from pydantic import BaseModel


def write_atomically(path: Path, row: BaseModel) -> None:
    """Write `row` so that `path` is either not there or whole, whatever fails in between."""
    draft = path.with_suffix(".draft")
    draft.write_text(row.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _fsync(draft)
    draft.replace(path)
    _fsync(path.parent)


def sync(directory: Path) -> None:
    """Have everything in `directory` on the disk before the report says that it is there."""
    for path in sorted(directory.rglob("*")):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
