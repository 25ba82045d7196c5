"""The signals of one champion, each watched by its detectors."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from daemon.config import DetectorName, DriftConfig, SignalName
from daemon.drift import river
from daemon.drift.detector import Detector, Values, finite
from daemon.drift.novelty import Reference, Sketches, check_sketches

#: Of the bytes that `DriftMonitor.state` gives; raise it when their meaning changes.
STATE_FORMAT = 1


@dataclass(frozen=True)
class Alarm:
    """A detector found that its signal has changed. `index` is the text, within the batch observed, at which it did.

    `evidence` is the detector's own, at least 1; `before` and `after` are the signal's means.
    """

    detector: DetectorName
    signal: SignalName
    index: int
    evidence: float
    before: float
    after: float

    @property
    def direction(self) -> Literal["rose", "fell"]:
        """Every signal is one of harm: only what `rose` is a reason to learn."""
        return "rose" if self.after > self.before else "fell"

    def __str__(self) -> str:
        return f"{self.signal} {self.direction} from {self.before:.2f} to {self.after:.2f} ({self.detector})"


class DriftMonitor:
    """Watches a champion's uncertainty, its texts' novelty and its errors.

    Novelty is a text's distance to the reference window (see `Reference`) over the distance that is usual there:
    1 is as novel as the window's own texts, whatever the model's scale. A window that no swap has given is collected
    from the first texts that carry a sketch; until it is full there is no novelty to watch.
    """

    def __init__(self, config: DriftConfig, seed: int) -> None:
        """Raises ValueError: a detector's options are wrong, or two detectors have the same kind and signal."""
        self._config = config
        self._detectors: dict[tuple[DetectorName, SignalName], Detector] = {}
        for detector in config.detectors:
            name = (detector.kind, detector.signal)
            if name in self._detectors:
                raise ValueError(f"drift.detectors: {detector.kind} watches {detector.signal} twice; remove one")
            self._detectors[name] = river.build(detector, seed)
        self._reference: Reference | None = None
        self._collected: Sketches = np.empty((0, 0), dtype=np.float32)

    def observe_scores(
        self,
        uncertainty: npt.NDArray[np.floating],
        sketches: Sketches | None = None,
        sketched: npt.NDArray[np.integer] | None = None,
    ) -> list[Alarm]:
        """Take a batch of scored texts, oldest first; the alarms, by text.

        `uncertainty` is `[n]`, 1 less the top probability; `sketches` `[m, dimensions]` are those of the texts
        `sketched` `[m]`, as indices within the batch.

        Raises:
            ValueError: values that are not finite or do not fit together; nothing was taken.
        """
        uncertain = finite(uncertainty, "uncertainty")
        alarms: list[Alarm] = []
        if sketches is not None and len(sketches):
            if sketched is None or len(sketched) != len(sketches):
                raise ValueError(f"{len(sketches)} sketches need as many indices of the texts they belong to")
            self._check(sketches)
            novelty = self._novelty(sketches)
            alarms += self._update("novelty", novelty, sketched[len(sketches) - len(novelty) :])
        alarms += self._update("uncertainty", uncertain, np.arange(len(uncertain)))
        return sorted(alarms, key=lambda alarm: alarm.index)

    def observe_labels(self, errors: npt.NDArray[np.floating] | npt.NDArray[np.bool_]) -> list[Alarm]:
        """Take a batch of judged texts, oldest label first: `[k]`, 1 where the score was wrong, else 0.

        Raises:
            ValueError: a value is not finite; nothing was taken.
        """
        return self._update("error", finite(errors, "errors"), np.arange(len(errors)))

    def rebase(self, sketches: Sketches | None = None) -> None:
        """Start again under a new champion, on the newest `drift.reference` of its `sketches` `[n, dimensions]`.

        When there are fewer, the coming texts fill the window up.
        """
        for detector in self._detectors.values():
            detector.reset()
        self._collect(np.empty((0, 0), dtype=np.float32) if sketches is None else sketches)

    def statistics(self) -> dict[tuple[DetectorName, SignalName], float]:
        """How far each detector is from no evidence (0) to an alarm (1)."""
        return {name: detector.statistic for name, detector in self._detectors.items()}

    def state(self) -> bytes:
        """All that `restore` needs, as safetensors: arrays and nothing that runs."""
        arrays = {
            "format": np.array([STATE_FORMAT]),
            "window": np.array([self._config.reference, self._config.neighbours]),
            "sketches": self._collected if self._reference is None else self._reference.sketches,
        }
        for (kind, signal), detector in self._detectors.items():
            arrays |= {f"detectors.{kind}.{signal}.{name}": array for name, array in detector.state().items()}
        return save(arrays)

    def restore(self, state: bytes) -> None:
        """Go on exactly as the monitor that gave `state`.

        What has been configured anew since starts anew: detectors that it did not have, and all that watch novelty
        when the reference window is another.

        Raises:
            ValueError: these bytes are not a monitor's state, or are that of another relearnd.
        """
        try:
            arrays = load(state)
        except SafetensorError as error:
            raise ValueError(f"the drift monitor's state cannot be read: {error}") from error
        if "format" not in arrays or arrays["format"].tolist() != [STATE_FORMAT]:
            raise ValueError(
                f"the drift monitor's state is not of format {STATE_FORMAT}: another version of relearnd wrote it"
            )
        same_window = arrays["window"].tolist() == [self._config.reference, self._config.neighbours]
        self.rebase(arrays["sketches"])
        for (kind, signal), detector in self._detectors.items():
            prefix = f"detectors.{kind}.{signal}."
            saved = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            if saved and (same_window or signal != "novelty"):
                detector.restore(saved)

    def _update(self, signal: SignalName, values: Values, texts: npt.NDArray[np.integer]) -> list[Alarm]:
        return [
            Alarm(kind, signal, int(texts[change.index]), change.evidence, change.before, change.after)
            for (kind, watched), detector in self._detectors.items()
            if watched == signal
            for change in detector.update(values)
        ]

    def _check(self, sketches: Sketches) -> None:
        check_sketches(sketches)
        window = self._collected if self._reference is None else self._reference.sketches
        if len(window) and window.shape[1] != sketches.shape[1]:
            raise ValueError(
                f"sketches have {sketches.shape[1]} dimensions and the reference window {window.shape[1]}: "
                "they come from different models; rebase on sketches of the model that scores now"
            )

    def _novelty(self, sketches: Sketches) -> Values:
        """The novelty of the last of `sketches`: those that are not needed to fill the reference window up."""
        if self._reference is None:
            missing = self._config.reference - len(self._collected)
            begun = [self._collected] if len(self._collected) else []
            self._collect(np.concatenate([*begun, sketches[:missing]]))
            sketches = sketches[missing:]
        if self._reference is None or not len(sketches):
            return np.empty(0)
        return self._reference.score(sketches) / self._reference.usual

    def _collect(self, sketches: Sketches) -> None:
        """Take these as the reference window, or as its beginning when they are too few.

        What watches novelty begins with the window's own: a detector that begins with nothing takes the first texts
        it sees for usual, and would never find a change that comes together with a new champion. A change inside the
        window was the last champion's to find.
        """
        check_sketches(sketches)
        newest = sketches[-self._config.reference :]
        full = len(newest) == self._config.reference
        self._reference = Reference(newest, self._config.neighbours) if full else None
        self._collected = newest[:0] if full else np.array(newest, dtype=np.float32)
        if self._reference is not None:
            for (_, signal), detector in self._detectors.items():
                if signal == "novelty":
                    detector.update(self._reference.calibration / self._reference.usual)
