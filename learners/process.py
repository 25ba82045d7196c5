"""The learner as a process: alone in its job, or with helpers; gone with its parent, stopped by a signal."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from learners.disk import write_atomically
from learners.errors import LearnerError
from learners.job import Failure

#: What a shell reports for a process that SIGTERM ended: 128 + 15.
STOPPED = 128 + signal.SIGTERM

#: The environment variable that names the file, in the job's directory, where a learner and its helpers meet.
MEETING = "RELEARND_MEETING"

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


def rank() -> int:
    """The place of this process among those that learn together, as torchrun numbers them; 0 leads, or is alone."""
    return int(os.environ.get("RANK", "0"))


def gpu() -> int:
    """The number of the GPU that is this process's own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def helped(directory: Path, processes: int) -> Iterator[None]:
    """Start the other `processes - 1` that learn the job together with this one; none under torchrun, which has.

    Within, a helper that fails ends this process too, which leaves an error.json that says so: it would wait for ever.
    """
    if processes == 1 or "RANK" in os.environ:
        yield
        return
    for stale in directory.glob("meeting-*"):
        stale.unlink()
    os.environ |= {"WORLD_SIZE": str(processes), "RANK": "0", "LOCAL_RANK": "0", MEETING: f"meeting-{os.getpid()}"}
    helpers: list[subprocess.Popen[bytes]] = []
    for place in range(1, processes):
        environment = os.environ | {"RANK": str(place), "LOCAL_RANK": str(place)}
        helpers.append(subprocess.Popen([sys.executable, "-m", "learners", str(directory)], env=environment))
    over = threading.Event()
    for helper in helpers:
        threading.Thread(target=_fail_with, args=(helper, directory, over), name="helper-watch", daemon=True).start()
    try:
        yield
        for helper in helpers:
            helper.wait()
    finally:
        over.set()
        # Killed, for one that waits for the others in torch does not see a SIGTERM; and it writes nothing.
        for helper in helpers:
            helper.kill()


def _fail_with(helper: subprocess.Popen[bytes], directory: Path, over: threading.Event) -> None:
    code = helper.wait()
    if code and not over.is_set():
        failure = Failure(error=f"a process that helped to learn ended with {code}", detail="see output.log")
        write_atomically(directory / "error.json", failure)
        os._exit(1)


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
