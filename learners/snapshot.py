"""What a job starts from: its files, read and found good. Imports no torch, so a bad job is refused at once."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from learners.errors import LearnerError
from learners.job import Example, Job, Recent, Row, read_rows
from learners.methods.names import UNLEARNING

#: Only there in a job that asks for it.
UNLABELLED = "unlabelled.jsonl"

#: Nothing is learned or decided from it, so a job can do without.
AUDIT = "audit.jsonl"


class JobError(LearnerError):
    """The job's files do not make a job."""


class Snapshot(NamedTuple):
    """The job's rows, read and found good. `unlabelled` has no text of the others: what is held out stays so."""

    new: list[Example]
    replay: list[Example]
    gate: list[Example]
    unlabelled: list[Recent]


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
    new, replay, gate = (_rows(directory / f"{name}.jsonl", Example) for name in ("new", "replay", "gate"))
    labelled = {example.text for example in (*new, *replay, *gate)}
    unlabelled = _rows(directory / UNLABELLED, Recent) if (directory / UNLABELLED).exists() else []
    snapshot = Snapshot(new, replay, gate, [row for row in unlabelled if row.text not in labelled])
    for name, examples in (("new", snapshot.new), ("replay", snapshot.replay), ("gate", snapshot.gate)):
        _require_known(name, examples, job)
    if not snapshot.new and job.method not in UNLEARNING:
        raise JobError("new.jsonl is empty", "start a job only when there are labelled examples to learn")
    if not snapshot.gate:
        raise JobError("gate.jsonl is empty", "hold out labelled examples, or there is no telling what was learned")
    return snapshot


def read_audit(directory: Path, job: Job) -> list[Example]:
    """audit.jsonl of `directory`; empty when it is not there.

    Raises:
        JobError: a row does not validate, or has a label outside the job's.
    """
    path = directory / AUDIT
    examples = _rows(path, Example) if path.exists() else []
    _require_known("audit", examples, job)
    return examples


def read_recent(directory: Path) -> list[Recent]:
    """recent.jsonl of `directory`, as it is now.

    Raises:
        JobError: it is missing, or a row does not validate.
    """
    return _rows(directory / "recent.jsonl", Recent)


def _require_known(name: str, examples: list[Example], job: Job) -> None:
    known = set(job.labels)
    for number, example in enumerate(examples, 1):
        if example.label not in known:
            raise JobError(
                f"{name}.jsonl line {number} (id {example.id!r}) has the label {example.label!r}",
                f"use one of {', '.join(job.labels)}, or add it to the job's labels",
            )


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
    """One hash over the bytes of new.jsonl, replay.jsonl and gate.jsonl, and of unlabelled.jsonl where it is there."""
    whole = hashlib.sha256()
    names = ["new.jsonl", "replay.jsonl", "gate.jsonl"]
    for name in [*names, UNLABELLED] if (directory / UNLABELLED).exists() else names:
        whole.update(hashlib.sha256((directory / name).read_bytes()).digest())
    return whole.hexdigest()
