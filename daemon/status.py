"""What a person sees of a daemon from outside: read from its state, whether it runs or not."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.config import Config
from daemon.doubts import Doubt, Doubts
from daemon.estimate import Estimate
from daemon.learning import progress_of
from daemon.memory import Memory
from daemon.prequential import Prequential
from daemon.state import Blobs, Decisions, StateError, open_state
from daemon.training import Job, Jobs
from daemon.waiting import Waiting

#: Decisions that `status` shows.
SHOWN = 10


def doubtful(config: Config, cause: str | None) -> list[Doubt]:
    """The labels that are set aside, oldest first.

    Raises:
        StateError: no daemon's state is there.
    """
    path = config.home / "state.db"
    if not path.is_file():
        raise StateError(f"there is no state in {config.home}; is that the daemon's home?")
    # As a controller would: it may be from before there were doubts.
    db = open_state(path)
    try:
        return Doubts(db).open(cause)
    finally:
        db.close()


def judged(config: Config, version: str) -> list[Job]:
    """The jobs that are done and whose candidate was `version`: the one that made it, then those that judged it again.

    Empty where no job of this state has made it.
    """
    path = config.home / "state.db"
    if not path.is_file():
        return []
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return [job for job in Jobs(db).all() if job.version == version and job.state != "running"]
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    finally:
        db.close()


def status(config: Config) -> Mapping[str, Any]:
    """The champion, how well it does, what is being learned, and the latest decisions.

    Raises:
        StateError: there is no state yet, or it cannot be read.
    """
    path = config.home / "state.db"
    if not path.is_file():
        raise StateError(f"there is no state in {config.home}; has `relearnd fit` or `relearnd run` been there?")
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        blobs, job = Blobs(db), Jobs(db).running()
        counts = blobs.get_json("prequential", None)
        window = config.triggers.accuracy.window
        live = Prequential.restored(counts, window=window, max_slices=1) if counts else None
        watched = blobs.get_json("watch", None)
        estimated = Estimate.restored(watched["estimate"], window=window).estimated if watched else None
        progress = progress_of(config.home / "jobs" / job.name) if job else None
        return {
            "champion": blobs.get_json("champion", None),
            "texts": Waiting(db, config.labels).seen(),
            "live": {
                "labels": live.overall.total if live else 0,
                "accuracy": live.overall.accuracy if live else None,
                "macro_f1": live.overall.macro_f1 if live else None,
                "recent_accuracy": live.recent.accuracy if live else None,
                "estimated_accuracy": estimated._asdict() if estimated else None,
            },
            "memory": Memory(db, config.memory).parts(),
            "learning": None
            if job is None
            else {
                "version": job.version,
                "because": job.reason,
                "progress": None if job.trigger == "proof" else progress.step / progress.steps if progress else 0.0,
            },
            "decisions": Decisions(db).latest(SHOWN),
        }
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    finally:
        db.close()


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> StateError:
    return StateError(f"{path}: cannot read the state: {error}; is it ours, and from this version?")
