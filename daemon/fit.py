"""Version 1: a first model from labelled rows, and the memory that later versions learn with."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.config import Config
from daemon.errors import RelearndError
from daemon.learning import Learner, Snapshot, job_settings, make_job, outcome
from daemon.memory import Labelled, Memory, share_of
from daemon.registry import Manifest, Registry
from daemon.state import transaction
from learners.job import CANDIDATE, Example, Failure, Progress

#: How often the learner's progress is looked at while a person waits, in seconds.
LOOK = 0.3


class FitError(RelearndError):
    """No model came of it; the message says why."""


def fit(
    rows: Sequence[Labelled],
    db: sqlite3.Connection,
    config: Config,
    *,
    show: Callable[[Progress], None],
) -> Manifest:
    """Train version 1 on the learn share of `rows` and remember all of them in the state `db`.

    The gate share is held out: it gives the figures of the manifest, and later candidates are judged on it.

    Raises:
        FitError: the learner failed, or there is a model already.
    """
    registry = Registry(config.home / "models")
    if existing := registry.manifests():
        raise FitError(
            f"{registry.directory} has {existing[-1].version} already; use another home, or `relearnd learn`"
        )
    shares: dict[str, list[Example]] = {"learn": [], "gate": [], "audit": []}
    for row in rows:
        shares[share_of(row.id, config.memory)].append(row.example("fresh"))
    labels = sorted({row.label for row in rows})
    # A handful of rows may leave nothing held out; then the figures are those of the rows learned from.
    held_out = shares["gate"] or shares["learn"]
    job = job_settings(config, id="fit", labels=labels, parent=None, seed=config.seed)
    directory = config.home / "jobs" / "fit"
    make_job(job, Snapshot(shares["learn"], [], held_out, []), directory)
    learner = Learner(directory, niceness=0, timeout=config.learning.timeout)
    try:
        while learner.running():
            learner.wait(LOOK)
            if (progress := learner.progress()) is not None:
                show(progress)
    finally:
        learner.stop()
    report = outcome(directory)
    if isinstance(report, Failure):
        raise FitError(f"{report.error}: {report.detail}")
    decision: dict[str, Any] = {"because": "the first model", "report": report.model_dump()}
    with transaction(db):
        Memory(db, config.memory).add(rows)
    return registry.add(
        directory / CANDIDATE,
        version="v1",
        parent=None,
        created_at=datetime.now(UTC),
        job="fit",
        trigger="manual",
        method=report.method,
        labels=labels,
        data_sha256=report.data_sha256,
        seed=report.seed,
        decision=decision,
    )
