"""Files of JSON rows, plain or gzipped: training data, recorded streams, holdouts."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.errors import RelearndError
from daemon.memory import Labelled
from daemon.records import Name


class RowsError(RelearndError):
    """A file cannot be used; the message names the file, the line and what is wrong."""


class TrainingRow(BaseModel):
    """A labelled text of `fit --data`; a row without an id gets its line number for one."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    text: str = Field(min_length=1)
    label: Name
    id: Name | None = None
    source: Name | None = None
    key: Name | None = None


class HoldoutRow(BaseModel):
    """A labelled text of `backtest --holdout`."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    text: str = Field(min_length=1)
    label: Name
    domain: Name = "all"


Row = TypeVar("Row", TrainingRow, HoldoutRow)


def lines(path: Path) -> Iterator[bytes]:
    """The file's lines that are not empty, without their ends.

    Raises:
        RowsError: it is not there, or not what its name says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise RowsError(f"{path}: {error}; expected a .jsonl or .jsonl.gz file") from error


def count(path: Path) -> int:
    """How many lines there are to go through."""
    return sum(1 for _ in lines(path))


def read(path: Path, kind: type[Row]) -> list[Row]:
    """All rows of `path`.

    Raises:
        RowsError: a row is not a `kind`, or there is none.
    """
    rows = []
    for number, line in enumerate(lines(path), start=1):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "row"
            raise RowsError(f"{path}, row {number}: {where}: {first['msg']}") from error
    if not rows:
        raise RowsError(f"{path}: no rows")
    return rows


def labelled(path: Path) -> list[Labelled]:
    """The training rows of `path` as examples.

    Raises:
        RowsError: as `read`; or fewer than two different labels.
    """
    rows = read(path, TrainingRow)
    if len({row.label for row in rows}) < 2:
        raise RowsError(f"{path}: all rows have the label {rows[0].label!r}; a model needs at least two labels")
    return [
        Labelled(row.id or f"{path.name}:{number}", row.text, row.label, row.source, row.key, 0.0)
        for number, row in enumerate(rows, start=1)
    ]


def dump(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
