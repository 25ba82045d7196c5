"""The learner as a process: alone in its job, gone with its parent, stopped by a signal."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from learners.errors import LearnerError

#: What a shell reports for a process that SIGTERM ended: 128 + 15.
STOPPED = 128 + signal.SIGTERM

#: Seconds between looks at whether the parent lives.
WATCH = 0.5


class BusyError(LearnerError):
    """Another learner is at work in the job."""


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold `lock` in `directory`; the kernel lets go of it when the process ends, however it ends.

    Raises:
        BusyError: another process holds it.
    """
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another learner is at work in {directory}", "wait for it or stop it") from None
        yield


def stop_on_sigterm() -> None:
    """End with exit code 143 at SIGTERM, through `finally` blocks; the job stays as if it had not been done."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(STOPPED)


def die_with(parent: int) -> None:
    """Send this process SIGTERM once `parent` is no longer its parent, so that no orphan trains on.

    A look every half second rather than Linux's PR_SET_PDEATHSIG: that one fires when the *thread* that started the
    process ends, which in a daemon means little; and it misses a parent that died before it was set.
    """
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    looking = threading.Event()
    while os.getppid() == parent:
        looking.wait(WATCH)
    os.kill(os.getpid(), signal.SIGTERM)
