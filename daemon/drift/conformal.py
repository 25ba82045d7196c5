"""One statistic for the whole stream, its sources and its keys, and what has moved when it alarms.

Each part of the stream has evidence of its own (`daemon.drift.evidence`), against its own past. Every text belongs to
one part of each kind, so with fixed weights the parts' sums still grow by one a text on average, however many parts
there are, and the expected number of texts to a false alarm is at least the threshold. That is exact for the evidence
of each bet; it is not for a weighted sum of bets on signals that depend on each other, whose ranks among a finite past
do too: an effect of the order of one over the length of that past, which is measured (`benchmarks/drift.py`).
"""

import json
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from daemon.drift.bets import GENERAL, ON_SHARE
from daemon.drift.detector import Values
from daemon.drift.evidence import Evidence, Leader
from daemon.drift.ranks import BINS, Ranks
from daemon.drift.signals import MIX, Signals, Texts

Side = Literal["texts", "labels"]
State = Mapping[str, npt.NDArray[np.generic]]

#: Texts, or labels, taken at a time; what comes after an alarm among them is ranked for nothing. Slices that have been
#: silent give way after each so many, so that it does not matter how the stream is cut.
BLOCK = 256

#: What each part of the stream stakes on its texts and on its labels. Most on the whole, which most changes move.
STAKES: dict[str, dict[Side, float]] = {
    "": {"texts": 0.45, "labels": 0.2},
    "source": {"texts": 0.15, "labels": 0.025},
    "key": {"texts": 0.15, "labels": 0.025},
}

#: Components of the inputs that a slice is watched for: a part of the stream is moved by what moves any of them.
SLICE_INPUTS = ("novelty", "uncertainty")

#: A slice stands out when its evidence is so many times that of the next of its kind. The whole stream has more, for
#: it is watched for more; if it has so much more, squared, the slice is no matter.
APART = 10.0

#: Slices are ranked in fewer bins, and the longest silent gives way to a new one: a megabyte in all.
SLICE_BINS = BINS // 4
MAX_SLICES = 200

#: Stakes on texts are so many times smaller while the reference window is not full. It knows the stream of the last
#: hours: what comes next is a little unlike it anyway, and a new domain is found a few texts later.
YOUNG = 30.0

#: The signals of labels: how wrong the score was, and which label is true. Errors are bet on as more of them, and as
#: surer ones.
ERROR, TRUTH = "error", "labels"
ERRORS = (0, 1)

#: Signals that weigh more than others: the one that joins what meaning and wording say, and errors beside the mix.
WEIGHTS = {"novelty": 2.0, ERROR: 2.0}

#: An e-process that no error made rise reaches this after one move of the inputs in so many (Ville's inequality). Some
#: fifty labels show a rise of errors from a fifth to two fifths, and a run waits for three times as many anyway.
HARM = 100.0


class Labels(NamedTuple):
    """True labels as they came: `truth` `[n]` their places, `probabilities` `[n, labels]` what each text was scored."""

    truth: npt.NDArray[np.int64]
    probabilities: Values

    def part(self, of: slice) -> "Labels":
        return Labels(self.truth[of], self.probabilities[of])

    @property
    def values(self) -> Values:
        """`[n, 2 + labels]`: how wrong the score was, twice, and 1 for the label that is true, 0 for others.

        All scores that were right are alike: where confidence falls and errors do not, there is no harm. A wrong one
        is between 1 and 2, by how much likelier the wrong label was said to be.
        """
        rows, said = np.arange(len(self.truth)), self.probabilities.argmax(axis=1)
        gap = self.probabilities[rows, said] - self.probabilities[rows, self.truth]
        wrong = np.where(said == self.truth, 0.0, 1.0 + gap)
        which = np.arange(self.probabilities.shape[1]) == self.truth[:, None]
        return np.column_stack([wrong, wrong, which]).astype(np.float64)


class Place(NamedTuple):
    """Of each text or label `[n]`: its source, its key, and when the text was written."""

    sources: Sequence[str | None]
    keys: Sequence[str | None]
    moments: Values

    def part(self, of: slice) -> "Place":
        return Place(self.sources[of], self.keys[of], self.moments[of])


@dataclass(frozen=True)
class Finding:
    """The statistic reached the threshold at `index` of the batch.

    `slice` is "" for the whole stream, else `source NAME` or `key NAME`: where most of the evidence is. `signals` are
    the shares of that evidence by signal; `signal` has the largest, `label` is which label's mix moved, if that is it.
    The winnings began `ago` values of that part before the alarm (1 is at it), at a text of `moment`.
    """

    side: Side
    index: int
    evidence: float
    slice: str
    signal: str
    label: int | None
    rose: bool
    signals: Mapping[str, float]
    ago: int
    moment: float


class Conformal:
    """Watches texts once it has `signals` to compare them by (`refer`), and labels from the first on."""

    def __init__(self, threshold: float, seed: int) -> None:
        """`threshold`: the expected number of texts to a false alarm is at least this; infinity never alarms."""
        self._threshold = threshold
        self._seed = seed
        #: What texts are compared by; None while there is no reference.
        self.signals: Signals | None = None
        self._parts: dict[Side, OrderedDict[str, Evidence]] = {"texts": OrderedDict(), "labels": OrderedDict()}
        self._changed: set[tuple[Side, str]] = set()
        #: What has been heard of so far, as pairs of a side and a kind of part: the others' stakes are not spent.
        self._heard: set[tuple[Side, str]] = set()
        self._referred = True
        self._young = False
        self._harm_since: float | None = None
        self._harm = _no_harm()
        self._harmed = False

    @property
    def statistic(self) -> float:
        """Evidence of change so far: 0 is none, and it alarms at 1."""
        return self._gathered() / self._threshold

    @property
    def harmed(self) -> bool:
        """Errors have risen since the moment given to `watch_harm`."""
        return self._harmed

    def refer(self, signals: Signals, usual: Texts, *, young: bool = False) -> None:
        """Compare by `signals` from here on; `usual` texts count as having come before. What there was is forgotten.

        `young`: they are few, and it takes `YOUNG` times the evidence.
        """
        self.signals, self._young = signals, young
        self._referred = True
        self._forget("texts")
        values = signals.values(usual)
        self._part("texts", "", values.shape[1]).ranks.add(values)
        self._changed.add(("texts", ""))

    def lose_reference(self) -> None:
        """Watch no texts until there is another reference."""
        self.signals = None
        self._referred = True
        self._forget("texts")

    def start_labels(self) -> None:
        """Labels are those of another champion, or errors have found their new level: their past is forgotten."""
        self._forget("labels")

    def stop_evidence(self) -> None:
        """No evidence so far, on either side, against the same past."""
        for side, name, one in self._all():
            one.reset()
            self._changed.add((side, name))

    def watch_harm(self, since: float | None) -> None:
        """Gather evidence that errors rose at texts written from `since` on; None ends it."""
        self._harm_since = since
        self._harmed = False
        self._harm = _no_harm()

    def take_texts(self, texts: Texts, place: Place) -> tuple[int, Finding | None]:
        """Take the first of these texts, up to an alarm: how many, and the alarm at the last of them."""
        if self.signals is None:
            return len(texts.texts), None
        block = self._block("texts")
        return self._take("texts", self.signals.values(texts.part(block)), place.part(block))

    def take_labels(self, labels: Labels, place: Place) -> tuple[int, Finding | None]:
        """The same for labels."""
        block = self._block("labels")
        return self._take("labels", labels.part(block).values, place.part(block))

    def unusual(self, texts: Texts) -> Values:
        """The share of what came before that is as novel as each of these, `[n]`: small is novel. Takes nothing.

        By their wording where they have no sketch; 1 without a reference.
        """
        if self.signals is None:
            return np.ones(len(texts.texts))
        values, ranks = self.signals.values(texts), self._parts["texts"][""].ranks
        shares = ranks.standing(values)
        novelty, wording = (shares[:, self.signals.groups.index(name)] for name in ("novelty", "wording"))
        return np.where(np.isnan(novelty), wording, novelty)

    def changes(self) -> dict[str, State | None]:
        """What has changed since the last call, by name, for `restore`; None for what is no more."""
        changed: dict[str, State | None] = {"conformal": self._core()}
        if self._referred:
            changed["reference"] = None if self.signals is None else self.signals.state()
        for side, name in sorted(self._changed):
            part = self._parts[side].get(name)
            changed[f"{side}/{name}"] = None if part is None else part.state()
        self._changed.clear()
        self._referred = False
        return changed

    def restore(self, states: Mapping[str, State]) -> None:
        """Go on exactly as the one that gave `states`, the latest of each name.

        Raises:
            ValueError, KeyError: these are not its states.
        """
        core = states["conformal"]
        self._harm = np.array(core["harm"], dtype=np.float64)
        since = float(np.asarray(core["harm_since"]).item())
        self._harm_since = None if np.isnan(since) else since
        self._harmed = bool(np.asarray(core["harmed"]).item())
        self._young = bool(np.asarray(core["young"]).item())
        self.signals = Signals.restored(states["reference"]) if "reference" in states else None
        self._heard = {(side, kind) for side, kind in _json(core["heard"])}
        for side in self._parts:
            self._parts[side].clear()
            for name in _json(core[f"{side} in order"]):
                state = states[f"{side}/{name}"]
                self._part(side, name, len(state["counts"])).restore(state)
        self._changed.clear()
        self._referred = False

    def _core(self) -> State:
        orders = {
            f"{side} in order": np.frombuffer(json.dumps(list(parts)).encode(), dtype=np.uint8)
            for side, parts in self._parts.items()
        }
        since = np.nan if self._harm_since is None else self._harm_since
        orders["heard"] = np.frombuffer(json.dumps(sorted(self._heard)).encode(), dtype=np.uint8)
        flags = {"harmed": np.array([self._harmed]), "young": np.array([self._young])}
        return {"harm": self._harm, "harm_since": np.array([since]), **flags, **orders}

    def _block(self, side: Side) -> slice:
        whole = self._parts[side].get("")
        return slice(0, BLOCK - (whole.seen % BLOCK if whole else 0))

    def _take(self, side: Side, values: Values, place: Place) -> tuple[int, Finding | None]:
        count = len(values)
        if not count:
            return 0, None
        if (new := self._first_unheard(side, place)) > 0:
            return self._take(side, values[:new], place.part(slice(0, new)))
        total = np.full(count, self._gathered())
        members = _members(place)
        for name, at in members.items():
            columns = values[at][:, self._slice_columns(side)] if name else values
            part = self._part(side, name, columns.shape[1])
            before = part.value
            course = part.update(columns, place.moments[at])
            change = np.zeros(count)
            change[at] = np.diff(course, prepend=before)
            total += self._stake(side, name) * np.cumsum(change)
        over = np.flatnonzero(total >= self._threshold)
        kept = int(over[0]) + 1 if over.size else count
        if side == "labels" and self._harm_since is not None:
            late = place.moments[:kept] >= self._harm_since
            self._weigh_harm(self._parts[side][""].paid[:kept][late])
        self._keep(side, members, kept)
        return kept, self._finding(kept - 1, float(place.moments[kept - 1])) if over.size else None

    def _keep(self, side: Side, members: Mapping[str, npt.NDArray[np.intp]], kept: int) -> None:
        parts = self._parts[side]
        # In the order in which they were heard of last, the longest silent first.
        for name, at in sorted(members.items(), key=lambda one: (one[1][one[1] < kept].max(initial=-1), one[0])):
            parts[name].keep(int(np.searchsorted(at, kept)))
            if at[0] < kept:
                parts.move_to_end(name)
                self._changed.add((side, name))
            elif not parts[name].seen:
                del parts[name]
        if parts[""].seen % BLOCK == 0:
            self._forget_silent(side)

    def _weigh_harm(self, paid: Values) -> None:
        """What bets on rising errors have won; what has been found is never taken back."""
        for row in paid[:, : len(ON_SHARE.rising)][:, ON_SHARE.rising]:
            if not self._harmed:
                self._harm = self._harm * row
                self._harmed = bool(self._harm.mean() >= HARM)

    def _finding(self, index: int, moment: float) -> Finding:
        evidence = self.statistic
        side, name = self._where()
        part = self._parts[side][name]
        leader: Leader = part.leader()
        amounts = part.by_component()
        shares: dict[str, float] = {}
        for group, amount in zip(part.groups, (amounts / amounts.sum()).tolist(), strict=True):
            shares[group] = shares.get(group, 0.0) + amount
        signal = part.groups[leader.component]
        label = leader.component - part.groups.index(signal) if signal in (MIX, TRUTH) else None
        # Where no value has won anything, the alarm is all there is to date.
        ago, since = max(1, part.seen - leader.since), moment if np.isnan(leader.moment) else leader.moment
        return Finding(side, index, evidence, name, signal, label, leader.rose, shares, ago, since)

    def _where(self) -> tuple[Side, str]:
        """The part that tells what changed: the one with the most evidence, or a slice that stands out of its kind."""
        side, most, _ = max(self._all(), key=lambda one: self._stake(one[0], one[1]) * one[2].value)
        values = {name: part.value for name, part in self._parts[side].items()}
        for kind in ("key", "source"):
            of_kind = sorted((name for name in values if name.startswith(f"{kind} ")), key=values.__getitem__)[-2:]
            if len(of_kind) == 2 and values[of_kind[1]] > max(APART * values[of_kind[0]], values[most] / APART**2):
                return side, of_kind[1]
        return side, most

    def _gathered(self) -> float:
        return sum((self._stake(side, name) * one.value for side, name, one in self._all()), 0.0)

    def _all(self) -> list[tuple[Side, str, Evidence]]:
        return [(side, name, one) for side, parts in self._parts.items() for name, one in parts.items()]

    def _stake(self, side: Side, name: str) -> float:
        """Of what is staked on all that has been heard of, the part of `name`. It shrinks when more is heard of, so no
        evidence gains by it.
        """
        spent = sum(STAKES[kind][of] for of, kind in sorted(self._heard)) or 1.0
        return STAKES[_kind(name)][side] / (spent * YOUNG if side == "texts" and self._young else spent)

    def _first_unheard(self, side: Side, place: Place) -> int:
        """Up to which of these all is of kinds heard of before; 0 when it is all, or when the first one adds a kind."""
        for at, (source, key) in enumerate(zip(place.sources, place.keys, strict=True)):
            kinds = {(side, kind) for kind, name in (("", ""), ("source", source), ("key", key)) if name is not None}
            if not kinds <= self._heard:
                if at == 0:
                    self._heard |= kinds
                    continue
                return at
        return 0

    def _slice_columns(self, side: Side) -> list[int]:
        if side == "labels" or self.signals is None:
            return [0]
        return [self.signals.groups.index(name) for name in SLICE_INPUTS]

    def _part(self, side: Side, name: str, components: int) -> Evidence:
        part = self._parts[side].get(name)
        if part is None:
            part = self._parts[side][name] = self._new_part(side, name, components)
        return part

    def _new_part(self, side: Side, name: str, components: int) -> Evidence:
        seed = zlib.crc32(f"{self._seed} {side} {name}".encode())
        bins = SLICE_BINS if name else BINS
        if side == "labels":
            errors = np.isin(np.arange(components), ERRORS)
            ranks = Ranks(np.where(errors, 1.0, 0.5), np.where(errors, 0.35, 0.1), seed, bins)
            bets = [GENERAL if at == ERRORS[1] else ON_SHARE for at in range(components)]
            groups = [ERROR if error else TRUTH for error in errors]
            return Evidence(groups, bets, ranks, WEIGHTS)
        signals = self.signals
        if signals is None:
            raise RuntimeError("texts are watched against a reference, and there is none yet")
        columns = self._slice_columns(side) if name else list(range(components))
        return Evidence(
            [signals.groups[at] for at in columns],
            [signals.bets[at] for at in columns],
            Ranks(signals.centre[columns], signals.spread[columns], seed, bins),
            WEIGHTS,
        )

    def _forget(self, side: Side) -> None:
        self._changed |= {(side, name) for name in self._parts[side]}
        self._parts[side].clear()

    def _forget_silent(self, side: Side) -> None:
        parts = self._parts[side]
        silent = [name for name in parts if name][: max(0, len(parts) - 1 - MAX_SLICES)]
        for name in silent:
            del parts[name]
        self._changed |= {(side, name) for name in silent}


def _members(place: Place) -> dict[str, npt.NDArray[np.intp]]:
    """The places `[n]` of each part's own, by its name."""
    members: dict[str, list[int]] = {"": list(range(len(place.moments)))}
    for at, (source, key) in enumerate(zip(place.sources, place.keys, strict=True)):
        for kind, name in (("source", source), ("key", key)):
            if name is not None:
                members.setdefault(f"{kind} {name}", []).append(at)
    return {name: np.array(at, dtype=np.intp) for name, at in members.items()}


def _kind(name: str) -> str:
    return name.partition(" ")[0]


def _json(array: npt.NDArray[np.generic]) -> Any:
    return json.loads(np.asarray(array, dtype=np.uint8).tobytes())


def _no_harm() -> Values:
    return np.ones(int(ON_SHARE.rising.sum()))
