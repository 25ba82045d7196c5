"""Curves of training where people look at them: TensorBoard, and Weights & Biases where the user has set it up."""

import logging
import warnings
from pathlib import Path
from typing import Any, Protocol

from learners.errors import LearnerError
from learners.job import Job, Progress

#: Folder of a job's directory; `tensorboard --logdir HOME/jobs` shows all runs beside each other.
TENSORBOARD = "tensorboard"

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Somebody who is told how training goes."""

    def follow(self, row: Progress) -> None: ...

    def close(self) -> None: ...


def trackers(directory: Path, job: Job) -> list[Tracker]:
    """Those that the job asks for.

    Raises:
        LearnerError: Weights & Biases is asked for and not installed.
    """
    wanted: list[Tracker] = [TensorBoard(directory)] if job.tensorboard else []
    if job.wandb_project:
        tracker = weights_and_biases(directory, job)
        wanted += [tracker] if tracker else []
    return wanted


def scalars(row: Progress) -> dict[str, float]:
    """What is drawn, by name."""
    return {f"{row.phase}/{name}": getattr(row, name) for name in ("loss", "penalty", "learning_rate", "seconds")}


class TensorBoard:
    """Writes event files into the folder `tensorboard` of the job's directory."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            from torch.utils.tensorboard import SummaryWriter
        self._writer: Any = SummaryWriter(str(directory / TENSORBOARD))

    def follow(self, row: Progress) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row.step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Tells a run of Weights & Biases, whose account, server and mode are the user's (`wandb login`, WANDB_MODE)."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def follow(self, row: Progress) -> None:
        self._run.log({**scalars(row), "step": row.step})

    def close(self) -> None:
        self._run.finish(quiet=True)


def weights_and_biases(directory: Path, job: Job) -> WeightsAndBiases | None:
    """A run named after the job; None, with a warning, when it cannot be reached: a chart is not worth a model.

    Raises:
        LearnerError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise LearnerError(
            f"learning.wandb_project is {job.wandb_project!r} and wandb is not installed ({error})",
            "install wandb, or leave learning.wandb_project out",
        ) from error
    try:
        run = wandb.init(project=job.wandb_project, name=job.id, dir=str(directory), config=job.model_dump(mode="json"))
    except wandb.errors.Error as error:
        log.warning("Weights & Biases cannot be told of this run (%s); training goes on without", error)
        return None
    return WeightsAndBiases(run)
