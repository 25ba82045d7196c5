"""`python -m learners JOB_DIR [--parent PID]`: do one job.

With `torchrun --nproc-per-node N -m learners JOB_DIR`, or `processes` in the job, N processes do it together.

Exit codes: 0 done; 1 it cannot be done, and error.json says why; 75 another learner is at work in it; 143 stopped.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

from learners.disk import write_atomically
from learners.errors import LearnerError
from learners.job import Failure, Job
from learners.methods.names import starts_afresh
from learners.process import BusyError, alone, die_with, helped, rank, stop_on_sigterm
from learners.snapshot import read_job, read_snapshot


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m learners", description="Do one training job.")
    parser.add_argument("job", type=Path, help="the job's directory: see learners.job")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="stop when this process is gone")
    arguments = parser.parse_args()
    if not arguments.job.is_dir():
        parser.error(f"{arguments.job} is not a directory")
    stop_on_sigterm()
    die_with(arguments.parent)
    try:
        if rank():
            return _help(arguments.job)
        with alone(arguments.job):
            return _run(arguments.job)
    except BusyError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one thing to say, to whoever started this
        return os.EX_TEMPFAIL


def _run(directory: Path) -> int:
    try:
        job = read_job(directory)
        read_snapshot(directory, job)
        _set_environment(job)
        # Late, for torch and Avalanche take seconds: the lock is held and a bad job refused by then.
        from learners.run import run

        with helped(directory, job.processes):
            run(directory)
    except LearnerError as error:
        failure = Failure(error=error.error, detail=error.advice)
    except Exception as error:  # noqa: BLE001 - the daemon reads error.json, whatever it was
        traceback.print_exc()
        failure = Failure(error=f"{type(error).__name__}: {error}", detail=traceback.format_exc())
    else:
        return 0
    write_atomically(directory / "error.json", failure)
    return 1


def _help(directory: Path) -> int:
    _set_environment(read_job(directory))
    from learners.run import assist

    assist(directory)
    return 0


def _set_environment(job: Job) -> None:
    """What the libraries read from the environment as they are imported: no hub where none is needed, no chatter."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from_parent = job.parent is not None and not starts_afresh(job.method)
    if from_parent or job.encoder == "minilm" or Path(job.encoder).expanduser().is_dir():
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    sys.exit(main())
