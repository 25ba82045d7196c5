"""metrics.jsonl, as training goes."""

import math
from collections.abc import Callable
from typing import Any, Literal, TextIO

from avalanche.training.plugins import SupervisedPlugin

from learners.job import Progress
from learners.strategy import TrainingError

#: Seconds between two lines, at least: a person can follow it and a GPU need not wait for it.
EVERY = 0.5


class ProgressPlugin(SupervisedPlugin):  # type: ignore[misc] # Avalanche ships no types
    """Writes a line every half second and at the last step, and stops training whose loss is no number."""

    def __init__(
        self,
        file: TextIO,
        clock: Callable[[], float],
        phase: Literal["pretraining", "learning"] = "learning",
    ) -> None:
        super().__init__()
        self._phase: Literal["pretraining", "learning"] = phase
        self._file = file
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
        row = Progress(
            step=strategy.step,
            steps=strategy.steps,
            loss=loss,
            penalty=strategy.penalty,
            learning_rate=strategy.learning_rate,
            seconds=now - self._started,
            phase=self._phase,
        )
        self._file.write(row.model_dump_json() + "\n")
        self._file.flush()
