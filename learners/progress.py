"""How training goes: metrics.jsonl, and whoever else is told."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin

from learners.job import Job, Progress
from learners.strategy import TrainingError
from learners.trackers import trackers

METRICS = "metrics.jsonl"

#: Takes a row of progress.
Tell = Callable[[Progress], None]

#: Seconds between two lines, at least: a person can follow it and a GPU need not wait for it.
EVERY = 0.5


@contextmanager
def journal(directory: Path, job: Job) -> Iterator[Tell]:
    """Within, what is told goes to `METRICS` in `directory`, and to the trackers that the job asks for."""
    with ExitStack() as stack:
        file = stack.enter_context((directory / METRICS).open("a", encoding="utf-8"))
        following = [stack.enter_context(closing(tracker)) for tracker in trackers(directory, job)]

        def tell(row: Progress) -> None:
            file.write(row.model_dump_json() + "\n")
            file.flush()
            for tracker in following:
                tracker.follow(row)

        yield tell


def quiet(_: Progress) -> None:
    """Nobody is told."""


class ProgressPlugin(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Tells a row every half second and at the last step, and stops training whose loss is no number."""

    supports_distributed = True

    def __init__(
        self,
        tell: Tell,
        clock: Callable[[], float],
        phase: Literal["pretraining", "learning"] = "learning",
    ) -> None:
        super().__init__()
        self._phase: Literal["pretraining", "learning"] = phase
        self._tell = tell
        self._clock = clock
        self._started = self._latest = clock()

    def after_update(self, strategy: Any, **_: Any) -> None:
        """One step has been taken.

        Raises:
            TrainingError: the loss is infinite or not a number.
        """
        now = self._clock()
        if now - self._latest < EVERY and strategy.step < strategy.steps:
            return
        self._latest = now
        # Reading the loss waits for the device, hence not at every step.
        loss = float(strategy.loss.detach())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {strategy.step} of {strategy.steps}",
                "lower learning_rate or ewc.strength, or set precision: float32",
            )
        self._tell(
            Progress(
                step=strategy.step,
                steps=strategy.steps,
                loss=loss,
                penalty=strategy.penalty,
                learning_rate=strategy.learning_rate,
                seconds=now - self._started,
                phase=self._phase,
            )
        )
