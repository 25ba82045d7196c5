"""What is watched under one champion: conformal evidence on everything, and other detectors beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from daemon.config import DetectorName, DriftConfig, SignalName
from daemon.drift.build import build
from daemon.drift.conformal import BLOCK, ERROR, TRUTH, Conformal, Finding, Labels, Place
from daemon.drift.detector import Detector, Values
from daemon.drift.kinds import CONFORMAL, EVERYTHING, Kind
from daemon.drift.novelty import check_sketches
from daemon.drift.signals import MIX, Signals, Texts

#: Of what `DriftMonitor.changes` gives; raise it when its meaning changes.
STATE_FORMAT = 3

#: One text in so many of a full reference window is a neighbour that texts are compared with; the others say how usual
#: a distance is. While the window is small, as many as that.
STRIDE, SMALL_STRIDE = 3, 2


class Scores(NamedTuple):
    """Texts that the champion has just scored, oldest first; see `Texts` and `Place`. `labels` names the columns."""

    texts: Texts
    place: Place
    labels: Sequence[str]

    def after(self, taken: int) -> "Scores":
        rest = slice(taken, None)
        return Scores(self.texts.part(rest), self.place.part(rest), self.labels)


class Truths(NamedTuple):
    """Labels of texts that the champion scored, in the order they came; `place` is the texts'."""

    labels: Labels
    place: Place
    names: Sequence[str]

    def after(self, taken: int) -> "Truths":
        rest = slice(taken, None)
        return Truths(self.labels.part(rest), self.place.part(rest), self.names)


@dataclass(frozen=True)
class Alarm:
    """Something has changed: found at the text, or label, `index` of those given.

    `evidence` is the detector's own, at its threshold or above. `before` and `after` are a configured detector's means
    of its signal. Conformal evidence says instead in which `slice` of the stream most of it is ("" for all of it),
    which `signals` hold what share of it, and when the change began: `ago` texts before the alarm (labels, when it is
    `by_labels`: they told it, even if a text brought the last of the evidence), at a text written at `moment`.
    """

    detector: str
    signal: str
    kind: Kind
    index: int
    evidence: float
    rose: bool
    before: float | None = None
    after: float | None = None
    slice: str = ""
    signals: Mapping[str, float] = field(default_factory=dict)
    ago: int | None = None
    moment: float | None = None
    by_labels: bool = False

    @property
    def direction(self) -> Literal["rose", "fell"]:
        """Every signal but a label's share is one of harm: what fell is no reason to learn."""
        return "rose" if self.rose else "fell"

    @property
    def calls_for_reference(self) -> bool:
        """The texts that are usual from here on are others."""
        return self.detector == CONFORMAL and not self.by_labels

    def __str__(self) -> str:
        where = f" in {self.slice}" if self.slice else ""
        means = "" if self.before is None else f" from {self.before:.2f} to {self.after:.2f}"
        return f"{self.signal} {self.direction}{where}{means} ({self.detector})"


class DriftMonitor:
    """Watches a champion's inputs and, as labels come, its errors.

    The reference window is the caller's to give: after each call `wanted` says of how many of the latest texts it is
    to be made (`refer`). What comes before there is one is not compared with anything; labels are watched all along.
    """

    def __init__(self, config: DriftConfig, seed: int) -> None:
        """Raises ValueError: a detector's options are wrong, or two detectors have the same kind and signal."""
        self._config = config
        self._detectors: dict[tuple[DetectorName, SignalName], Detector] = {}
        for detector in config.detectors:
            name = (detector.kind, detector.signal)
            if name in self._detectors:
                raise ValueError(f"drift.detectors: {detector.kind} watches {detector.signal} twice; remove one")
            self._detectors[name] = build(detector, seed)
        self._conformal = Conformal(config.false_alarm_every or math.inf, seed)
        #: The latest texts that are of one kind: since the champion went live, or inputs moved. And of how many of
        #: them the reference was made.
        self._fresh = 0
        self._referred = 0
        self._moved = False

    @property
    def wanted(self) -> int:
        """Of how many of the latest texts a reference window is to be made now; 0 for none."""
        full = self._config.reference
        ready = self._fresh >= self._target
        return min(self._fresh, full) if ready and self._referred < full else 0

    @property
    def _target(self) -> int:
        """Texts of one kind that the next reference window takes: a part of one is better than none."""
        full = self._config.reference
        return next((size for size in (full // 20, full // STRIDE) if size > max(1, self._referred)), full)

    @property
    def harmed(self) -> bool:
        """Errors have risen at texts that came after inputs moved, beyond chance."""
        return self._conformal.harmed

    def statistics(self) -> dict[tuple[str, str], float]:
        """How far each detector is from no evidence (0) to an alarm (1)."""
        own: dict[tuple[str, str], float] = {(CONFORMAL, EVERYTHING): self._conformal.statistic}
        return own | {name: detector.statistic for name, detector in self._detectors.items()}

    def observe_scores(self, scores: Scores) -> tuple[int, list[Alarm]]:
        """Take the first of these texts: how many, and the alarms at the last of them.

        It stops at an alarm, and where a reference window can be made. Go on with the rest, `Scores.after`.

        Raises:
            ValueError: sketches that are not finite (NaN rows are no sketches), or of another model's dimensions.
        """
        texts = scores.texts
        sketched = np.flatnonzero(~np.isnan(texts.sketches).all(axis=1))
        check_sketches(texts.sketches[sketched])
        # Neither past the place where a reference can be made, nor past an alarm.
        most = min(BLOCK, self._target - self._fresh) if self._fresh < self._target else BLOCK
        part = slice(0, most)
        taken, finding = self._conformal.take_texts(texts.part(part), scores.place.part(part))
        self._fresh += taken
        found = [self._told(finding, scores.labels)] if finding else []
        asked = self._ask(texts.part(slice(0, taken)), sketched[sketched < taken])
        found += [replace(alarm, moment=float(scores.place.moments[alarm.index])) for alarm in asked]
        self._follow(found)
        return taken, found

    def observe_labels(self, truths: Truths) -> tuple[int, list[Alarm]]:
        """The same for labels."""
        taken, finding = self._conformal.take_labels(truths.labels, truths.place)
        wrong = truths.labels.probabilities[:taken].argmax(axis=1) != truths.labels.truth[:taken]
        found = [self._told(finding, truths.names)] if finding else []
        found += self._update("error", wrong.astype(np.float64), np.arange(taken))
        self._follow(found)
        return taken, found

    def unusual(self, texts: Texts) -> Values:
        """How usual each text's novelty is under the reference, `[n]`: see `Conformal.unusual`."""
        return self._conformal.unusual(texts)

    def renew(self, ago: int) -> None:
        """Inputs have moved: the texts since, `ago` of them, are the beginning of another reference window."""
        self._fresh, self._referred = ago, 0
        self._conformal.lose_reference()
        self._conformal.stop_evidence()

    def refer(self, window: Texts) -> None:
        """Compare with these, the latest texts, oldest first: as many as are `wanted`, or as there are."""
        self._referred = max(1, min(self._fresh, self._config.reference))
        stride = STRIDE if self._referred >= self._config.reference else SMALL_STRIDE
        at = np.arange(len(window.texts))
        if len(at) < 2 * stride:
            return
        signals = Signals.of(window.part(at[at % stride == 0]), self._config.neighbours)
        usual = window.part(at[at % stride != 0])
        self._conformal.refer(signals, usual, young=self._referred < self._config.reference)
        self._begin_novelty(signals, usual)

    def rebase(self, window: Texts | None = None, *, drifting: bool = False) -> None:
        """Start again under a new champion, on `window`, the latest texts as it scores them; without, on what comes.

        `drifting`: inputs have moved and the champion has not learned it. Whether that does harm is still told by the
        errors that there were before, which are its predecessor's.
        """
        for detector in self._detectors.values():
            detector.reset()
        if not drifting:
            self._moved = False
            self._conformal.start_labels()
            self._conformal.watch_harm(None)
        self.renew(0 if window is None else len(window.texts))
        if window is not None and self.wanted:
            self.refer(window.part(slice(-self.wanted, None)))

    def changes(self) -> dict[str, bytes | None]:
        """What is to be stored since the last call, by name, as safetensors; None for what is to be deleted."""
        arrays = {
            "format": np.array([STATE_FORMAT]),
            "window": np.array([self._config.reference, self._config.neighbours]),
            "fresh": np.array([self._fresh, self._referred, self._moved]),
        }
        for (kind, signal), detector in self._detectors.items():
            arrays |= {f"detectors.{kind}.{signal}.{name}": array for name, array in detector.state().items()}
        changed = {name: None if state is None else _bytes(state) for name, state in self._conformal.changes().items()}
        return {"monitor": _bytes(arrays), **changed}

    def restore(self, stored: Mapping[str, bytes]) -> None:
        """Go on exactly as the monitor that gave `stored`, the latest of each name.

        What has been configured anew since starts anew: detectors that it did not have, and all that compares with the
        reference window when that is another.

        Raises:
            ValueError: these bytes are not a monitor's state, or are that of another relearnd.
        """
        try:
            arrays = load(stored["monitor"])
            if arrays["format"].tolist() != [STATE_FORMAT]:
                raise ValueError(
                    f"the drift monitor's state is not of format {STATE_FORMAT}: another version of relearnd wrote it"
                )
            states = {name: load(state) for name, state in stored.items() if name != "monitor"}
            self._conformal.restore(states)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"the drift monitor's state cannot be read: {error!r}") from error
        self._fresh, self._referred, moved = arrays["fresh"].tolist()
        self._moved = bool(moved)
        same_window = arrays["window"].tolist() == [self._config.reference, self._config.neighbours]
        for (kind, signal), detector in self._detectors.items():
            prefix = f"detectors.{kind}.{signal}."
            saved = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            if saved and (same_window or signal != "novelty"):
                detector.restore(saved)
        if not same_window:
            self.renew(self._fresh)

    def _follow(self, found: Sequence[Alarm]) -> None:
        if any(alarm.by_labels and alarm.detector == CONFORMAL for alarm in found):
            # What errors are now is what they are compared with from here on.
            self._conformal.start_labels()
            self._conformal.stop_evidence()
        moved = [alarm for alarm in found if not alarm.by_labels]
        if moved:
            self._conformal.watch_harm(moved[0].moment)

    def _told(self, finding: Finding, labels: Sequence[str]) -> Alarm:
        if finding.signal in (MIX, TRUTH):
            kind: Kind = "label mix"
        else:
            # Where inputs have been the same for long, errors that rise now did not rise with them.
            settled = not self._moved or self._fresh >= 2 * self._config.reference
            kind = "concept" if finding.signal == ERROR and settled else "input"
        self._moved = self._moved or (kind == "input" and finding.side == "texts")
        signal = finding.signal if finding.label is None else f"share of {labels[finding.label]}"
        return Alarm(
            CONFORMAL,
            signal,
            kind,
            finding.index,
            finding.evidence,
            finding.rose,
            slice=finding.slice,
            signals={signal if name == finding.signal else name: share for name, share in finding.signals.items()},
            ago=finding.ago,
            moment=finding.moment,
            by_labels=finding.side == "labels",
        )

    def _ask(self, texts: Texts, sketched: npt.NDArray[np.intp]) -> list[Alarm]:
        """What the configured detectors say of the inputs."""
        sketches = texts.sketches[sketched]
        found = self._update("sketch", sketches.astype(np.float64), sketched) if len(sketched) else []
        signals = self._conformal.signals
        if signals is not None and len(sketched) and self._watched("novelty"):
            distance = signals.neighbours.distance(sketches) / signals.centre[0]
            found += self._update("novelty", distance, sketched)
        uncertain = 1 - texts.probabilities.max(axis=1).astype(np.float64)
        known = np.flatnonzero(np.isfinite(uncertain))
        found += self._update("uncertainty", uncertain[known], known)
        return sorted(found, key=lambda alarm: alarm.index)

    def _watched(self, signal: SignalName) -> bool:
        return any(watched == signal for _, watched in self._detectors)

    def _update(self, signal: SignalName, values: Values, at: npt.NDArray[np.integer]) -> list[Alarm]:
        kind: Kind = "concept" if signal == "error" and not self._moved else "input"
        return [
            Alarm(
                name,
                signal,
                kind,
                int(at[change.index]),
                change.evidence,
                change.after > change.before,
                change.before,
                change.after,
                by_labels=signal == "error",
            )
            for (name, watched), detector in self._detectors.items()
            if watched == signal
            for change in detector.update(values)
        ]

    def _begin_novelty(self, signals: Signals, usual: Texts) -> None:
        """What watches novelty begins with the window's own.

        A detector that begins with nothing takes the first texts it sees for usual, and would never find a change that
        comes together with a new champion.
        """
        sketched = usual.sketches[np.isfinite(usual.sketches).all(axis=1)]
        for (_, watched), detector in self._detectors.items():
            if watched == "novelty" and len(sketched) and len(signals.neighbours.sketches):
                detector.reset()
                detector.update(signals.neighbours.distance(sketched) / signals.centre[0])


def _bytes(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
