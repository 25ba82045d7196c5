"""What a job starts from: its files, read and found good. Imports no torch, so a bad job is refused at once."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from learners.errors import LearnerError
from learners.job import Example, Job, Recent, Row, read_rows


class JobError(LearnerError):
    """The job's files do not make a job."""


class Snapshot(NamedTuple):
    """The job's rows, read and found good."""

    new: list[Example]
    replay: list[Example]
    gate: list[Example]


def read_job(directory: Path) -> Job:
    """job.json of `directory`.

    Raises:
        JobError: it is missing or not a `Job`.
    """
    path = directory / "job.json"
    try:
        return Job.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise JobError(f"{path} is not there", "name a job directory") from None
    except ValidationError as error:
        raise JobError(f"{path} is not a job: {_first(error)}", "see learners.job.Job for its fields") from error


def read_snapshot(directory: Path, job: Job) -> Snapshot:
    """The rows of `job`.

    Raises:
        JobError: a file is missing, a row does not validate or has a label outside the job's, or there is nothing to
            learn or nothing to judge on.
    """
    snapshot = Snapshot(
        new=_rows(directory / "new.jsonl", Example),
        replay=_rows(directory / "replay.jsonl", Example),
        gate=_rows(directory / "gate.jsonl", Example),
    )
    known = set(job.labels)
    for name, examples in (("new", snapshot.new), ("replay", snapshot.replay), ("gate", snapshot.gate)):
        for number, example in enumerate(examples, 1):
            if example.label not in known:
                raise JobError(
                    f"{name}.jsonl line {number} (id {example.id!r}) has the label {example.label!r}",
                    f"use one of {', '.join(job.labels)}, or add it to the job's labels",
                )
    if not snapshot.new:
        raise JobError("new.jsonl is empty", "start a job only when there are labelled examples to learn")
    if not snapshot.gate:
        raise JobError("gate.jsonl is empty", "hold out labelled examples, or there is no telling what was learned")
    return snapshot


def read_recent(directory: Path) -> list[Recent]:
    """recent.jsonl of `directory`, as it is now.

    Raises:
        JobError: it is missing, or a row does not validate.
    """
    return _rows(directory / "recent.jsonl", Recent)


def _rows(path: Path, kind: type[Row]) -> list[Row]:
    rows: list[Row] = []
    try:
        for row in read_rows(path, kind):
            rows.append(row)  # noqa: PERF402 - what has been read tells the line of an error
    except FileNotFoundError:
        raise JobError(f"{path} is not there", "write it, empty if there is nothing in it") from None
    except ValidationError as error:
        raise JobError(f"{path.name} line {len(rows) + 1}: {_first(error)}", "mend or drop the row") from error
    except UnicodeDecodeError as error:
        raise JobError(f"{path.name} line {len(rows) + 1} or later is not UTF-8: {error}", "write UTF-8") from error
    return rows


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the row'}: {first['msg']}"


def data_sha256(directory: Path) -> str:
    """One hash over the bytes of new.jsonl, replay.jsonl and gate.jsonl."""
    whole = hashlib.sha256()
    for name in ("new.jsonl", "replay.jsonl", "gate.jsonl"):
        whole.update(hashlib.sha256((directory / name).read_bytes()).digest())
    return whole.hexdigest()
