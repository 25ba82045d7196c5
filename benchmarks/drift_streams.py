"""Streams made of a pool of scored texts: still ones, and ones that change at a known text.

A stream begins with its reference window, which every detector is given. The rest of a domain is used up before any
text of it comes again, then once more in another order; a still stream ends where it would have to repeat itself, so
that it stays exchangeable to its last text.
"""

import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Texts of a reference window, and of a stream before and after its change.
REFERENCE, BEFORE, HORIZON = 1_500, 250, 1_500

#: Texts that a gradual change takes from nothing to all.
RAMP = 500

#: How much of the stream a change of the label mix takes from one label and gives to another.
MOVED = 0.2

#: The domain that version 1 was trained on; it knows what it says there.
HOME = "phrasebank"

#: The kind of streams without a change, and what they are of when all domains are in them.
STILL, MIXED = "still", "all six"


@dataclass(frozen=True)
class Pool:
    """Texts `[n]` as version 1 sees them: `sketches` `[n, 64]`, `probabilities` and `truth` by the place in `labels`.

    `source` is a text's domain; `truth` is -1 where a text has no label; `moments` are POSIX seconds.
    """

    texts: Sequence[str]
    source: npt.NDArray[np.str_]
    labels: Sequence[str]
    truth: Ints
    probabilities: npt.NDArray[np.float32]
    sketches: npt.NDArray[np.float32]
    moments: Floats

    def of(self, source: str) -> Ints:
        return np.flatnonzero(self.source == source)


@dataclass(frozen=True)
class Stream:
    """Places in a pool: `reference` `[r]`, then `texts` `[n]`, which change from `change` on; `n` if they do not.

    `flipped` `[n]`: negative and positive change places in the label of these. Streams of one `window` have the same
    reference.
    """

    kind: str
    name: str
    seed: int
    window: str
    reference: Ints
    texts: Ints
    change: int
    flipped: npt.NDArray[np.bool_]

    @property
    def key(self) -> str:
        return f"{self.kind} | {self.name} | {self.seed}"

    @property
    def number(self) -> int:
        """A seed for detectors that draw: two streams share no luck."""
        return zlib.crc32(self.key.encode())


def still(pool: Pool, domains: Sequence[str], runs: int, mixed: int) -> list[Stream]:
    """`runs` permutations of each domain, the domains taking turns, then `mixed` permutations of all of them."""
    streams = []
    for seed in range(runs):
        streams += [_still(domain, seed, pool.of(domain)) for domain in domains]
    everything = np.flatnonzero(np.isin(pool.source, domains))
    return streams + [_still(MIXED, seed, everything) for seed in range(mixed)]


def _still(name: str, seed: int, places: Ints) -> Stream:
    order = np.random.default_rng([seed, *name.encode()]).permutation(places)
    texts = order[REFERENCE:]
    window = f"{STILL} {name} {seed}"
    nothing = np.zeros(len(texts), dtype=bool)
    return Stream(STILL, name, seed, window, order[:REFERENCE], texts, len(texts), nothing)


def cycled(places: Ints, count: int, random: np.random.Generator) -> Ints:
    """`count` of `places`, none of which comes again before all have come."""
    rounds = -(-count // len(places))
    return np.concatenate([random.permutation(places) for _ in range(rounds)])[:count]


@dataclass
class Domain:
    """A domain's texts, cut at random into a reference window and the rest; the same for a domain and a seed."""

    pool: Pool
    name: str
    seed: int
    window: Ints = field(init=False)
    rest: Ints = field(init=False)

    def __post_init__(self) -> None:
        order = self._random("window").permutation(self.pool.of(self.name))
        self.window, self.rest = order[:REFERENCE], order[REFERENCE:]

    def becomes(self, other: str, share: Floats, kind: str) -> Stream:
        """The stream whose texts come from `other` with the probability `share` `[HORIZON]`, after the change."""
        random = self._random(f"{kind} {other}")
        mine = cycled(self.rest, BEFORE + HORIZON, random)
        theirs = cycled(self.pool.of(other), HORIZON, random)
        after = np.where(random.random(HORIZON) < share, theirs, mine[BEFORE:])
        return self._stream(kind, f"{self.name} > {other}", np.concatenate([mine[:BEFORE], after]))

    def label_mixes(self) -> Iterator[Stream]:
        """For every two labels with room: `MOVED` of the texts are of the one and not of the other any more."""
        labels = len(self.pool.labels)
        usual = np.bincount(self.pool.truth[self.pool.of(self.name)], minlength=labels) / len(self.pool.of(self.name))
        for source, target in itertools.permutations(range(labels), 2):
            if usual[source] < MOVED or usual[target] == 0:
                continue
            moved = usual.copy()
            moved[source] -= MOVED
            moved[target] += MOVED
            kind = f"label mix, {self._whose}"
            name = f"{self.name}: {self.pool.labels[source]} > {self.pool.labels[target]}"
            random = self._random(name)
            rest = random.permutation(self.rest)
            drawn = random.choice(labels, HORIZON, p=moved)
            after = np.empty(HORIZON, dtype=np.int64)
            for label in range(labels):
                chosen = np.flatnonzero(drawn == label)
                if len(chosen):
                    of_label = rest[BEFORE:][self.pool.truth[rest[BEFORE:]] == label]
                    after[chosen] = cycled(of_label, len(chosen), random)
            yield self._stream(kind, name, np.concatenate([rest[:BEFORE], after]))

    def flips(self) -> Stream:
        """The same texts, whose labels turn round."""
        texts = cycled(self.rest, BEFORE + HORIZON, self._random("flips"))
        stream = self._stream(f"flipped labels, {self._whose}", self.name, texts)
        return replace(stream, flipped=np.arange(len(texts)) >= BEFORE)

    @property
    def _whose(self) -> str:
        return HOME if self.name == HOME else "other domains"

    def _stream(self, kind: str, name: str, texts: Ints) -> Stream:
        window = f"{self.name} {self.seed}"
        return Stream(kind, name, self.seed, window, self.window, texts, BEFORE, np.zeros(len(texts), dtype=bool))

    def _random(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *f"{self.name} {what}".encode()])


#: What an abrupt, a mixed and a gradual change of domain takes of the stream, text by text after the change.
SHARES = {
    "abrupt": np.ones(HORIZON),
    "30 % mixture": np.full(HORIZON, 0.3),
    "10 % mixture": np.full(HORIZON, 0.1),
    f"gradual over {RAMP}": np.minimum(np.arange(1, HORIZON + 1) / RAMP, 1),
}


def changes(pool: Pool, domains: Sequence[str], seeds: int) -> list[Stream]:
    """Every ordered pair of domains in all `SHARES`, every label mix, and flipped labels, each from `seeds` seeds.

    Label mixes and flips, of which there are few, come from twice as many.
    """
    streams = []
    for seed in range(2 * seeds):
        for name in domains:
            domain = Domain(pool, name, seed)
            if seed < seeds:
                streams += [
                    domain.becomes(other, share, kind)
                    for other in domains
                    if other != name
                    for kind, share in SHARES.items()
                ]
            streams += domain.label_mixes()
            streams.append(domain.flips())
    return streams


def turns(pool: Pool, source: str, moments: Sequence[tuple[str, float]]) -> list[Stream]:
    """The recorded stream `source` from each of `moments` (name, POSIX seconds) to the next.

    The reference is the `REFERENCE` texts before the moment, or as many as there are.
    """
    places = pool.of(source)
    at = [*np.searchsorted(pool.moments[places], [moment for _, moment in moments]), len(places)]
    streams = []
    for (name, _), (start, end) in zip(moments, itertools.pairwise(at), strict=True):
        reference, texts = places[max(0, start - REFERENCE) : start], places[start:end]
        kind = f"{source}, {name}"
        streams.append(Stream(kind, source, 0, kind, reference, texts, 0, np.zeros(len(texts), dtype=bool)))
    return streams


def wrong(pool: Pool, places: Ints, flipped: npt.NDArray[np.bool_] | None = None) -> Floats:
    """1 where version 1 says another label than the true one, else 0: `[n]`."""
    said: Ints = pool.probabilities[places].argmax(1)
    differs: npt.NDArray[np.bool_] = said != true_labels(pool, places, flipped)
    return differs.astype(np.float64)


def true_labels(pool: Pool, places: Ints, flipped: npt.NDArray[np.bool_] | None = None) -> Ints:
    truth: Ints = pool.truth[places]
    if flipped is None:
        return truth
    turned = np.arange(len(pool.labels))
    negative, positive = pool.labels.index("negative"), pool.labels.index("positive")
    turned[[negative, positive]] = positive, negative
    return np.where(flipped, turned[truth], truth).astype(np.int64)


@dataclass(frozen=True)
class View:
    """What a detector gets to see of a stream: each signal's values in the reference window, and in the stream.

    `start` is the first text of the stream that it sees: it is made anew there, after an alarm.
    """

    stream: Stream
    warm: dict[str, npt.NDArray[np.floating]]
    values: dict[str, npt.NDArray[np.floating]]
    start: int = 0

    def after(self, start: int) -> "View":
        values = {name: array[start:] for name, array in self.values.items()}
        return replace(self, values=values, start=self.start + start)

    def __len__(self) -> int:
        return len(self.stream.texts) - self.start


def save(views: Sequence[View], sketches: npt.NDArray[np.float32], folder: Path) -> None:
    """Arrays and JSON, which any interpreter can read."""
    arrays: dict[str, Any] = {"sketches": sketches}
    for name in views[0].warm:
        if name != "sketch":
            arrays[f"warm {name}"] = np.concatenate([view.warm[name] for view in views]).astype(np.float32)
            arrays[f"values {name}"] = np.concatenate([view.values[name] for view in views]).astype(np.float32)
    streams = [view.stream for view in views]
    for name in ("reference", "texts", "flipped"):
        arrays[name] = np.concatenate([getattr(stream, name) for stream in streams])
    np.savez(folder / "streams.npz", **arrays)
    rows = [
        {"kind": one.kind, "name": one.name, "seed": one.seed, "window": one.window, "change": one.change}
        | {"reference": len(one.reference), "texts": len(one.texts), "warm": _lengths(view.warm)}
        for one, view in zip(streams, views, strict=True)
    ]
    (folder / "streams.json").write_text(json.dumps(rows))


def read(folder: Path) -> list[View]:
    """What `save` wrote."""
    with np.load(folder / "streams.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    at = dict.fromkeys(arrays, 0)

    def take(name: str, count: int) -> Any:
        at[name] += count
        return arrays[name][at[name] - count : at[name]]

    views = []
    windows: dict[str, npt.NDArray[np.float32]] = {}
    for row in json.loads((folder / "streams.json").read_text()):
        count = row["texts"]
        parts = take("reference", row["reference"]), take("texts", count), row["change"], take("flipped", count)
        stream = Stream(row["kind"], row["name"], row["seed"], row["window"], *parts)
        warm = {name: take(f"warm {name}", long) for name, long in row["warm"].items() if name != "sketch"}
        values = {name: take(f"values {name}", count) for name in warm}
        warm["sketch"] = windows.setdefault(stream.window, arrays["sketches"][stream.reference])
        values["sketch"] = arrays["sketches"][stream.texts]
        views.append(View(stream, warm, values))
    return views


def _lengths(warm: dict[str, npt.NDArray[np.floating]]) -> dict[str, int]:
    return {name: len(values) for name, values in warm.items()}
