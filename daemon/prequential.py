"""How good the live scores are: every labelled text judged by the score it got when it arrived.

Prequential ("test then train") evaluation: Dawid 1984, "Present Position and Potential Developments"; Gama, Sebastião
& Rodrigues 2013, "On evaluating stream learning algorithms".
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict

#: True label, predicted label, texts.
Count = tuple[str, str, int]


class Confusion:
    """How often each label was scored as each."""

    def __init__(self, counts: Iterable[Count] = ()) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        for truth, predicted, texts in counts:
            self.add(truth, predicted, texts)

    def add(self, truth: str, predicted: str, texts: int = 1) -> None:
        """Count `texts` more; a negative number takes them back."""
        pair = (truth, predicted)
        self._counts[pair] += texts
        if not self._counts[pair]:
            del self._counts[pair]

    def counts(self) -> list[Count]:
        """Sorted by label, without zeros."""
        return [(truth, predicted, texts) for (truth, predicted), texts in sorted(self._counts.items())]

    @property
    def total(self) -> int:
        return self._counts.total()

    @property
    def accuracy(self) -> float | None:
        """Share of texts scored as what they were; None before the first."""
        right = sum(texts for (truth, predicted), texts in self._counts.items() if truth == predicted)
        return right / self.total if self.total else None

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 over the labels that occur as truth; None before the first text."""
        was: Counter[str] = Counter()
        scored: Counter[str] = Counter()
        for (truth, predicted), texts in self._counts.items():
            was[truth] += texts
            scored[predicted] += texts
        f1 = [2 * self._counts[label, label] / (was[label] + scored[label]) for label in sorted(was)]
        return sum(f1) / len(f1) if f1 else None


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    overall: list[Count]
    recent: list[tuple[str, str]]
    versions: list[tuple[str, list[Count]]]
    keys: list[tuple[str, list[Count]]]
    sources: list[tuple[str, list[Count]]]


class Slices:
    """A confusion for each of the names heard of last; the longest silent one gives way to a new one."""

    def __init__(self, limit: int, rows: Iterable[tuple[str, list[Count]]] = ()) -> None:
        self._limit = limit
        self._slices = OrderedDict((name, Confusion(counts)) for name, counts in rows)
        self._forget()

    def add(self, name: str, truth: str, predicted: str) -> None:
        self._slices.setdefault(name, Confusion()).add(truth, predicted)
        self._slices.move_to_end(name)
        self._forget()

    def rows(self) -> list[tuple[str, list[Count]]]:
        """From the longest silent to the one heard of last."""
        return [(name, confusion.counts()) for name, confusion in self._slices.items()]

    def _forget(self) -> None:
        while len(self._slices) > self._limit:
            self._slices.popitem(last=False)

    def __getitem__(self, name: str) -> Confusion:
        """An empty confusion for a name that is not kept."""
        return self._slices.get(name) or Confusion()

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


class Prequential:
    """Live quality: overall, by version, key and source, and over the last `window` labels of the current version.

    Each label is to be given once; telling repeats is the caller's part.
    """

    def __init__(self, version: str, *, window: int, max_slices: int) -> None:
        """`version` is the champion; at most `max_slices` versions, keys and sources each are kept."""
        self._window = window
        self.overall = Confusion()
        self.versions = Slices(max_slices)
        self.keys = Slices(max_slices)
        self.sources = Slices(max_slices)
        self._begin(version)

    def observe(
        self, *, version: str, truth: str, predicted: str, key: str | None = None, source: str | None = None
    ) -> None:
        """One labelled text and the label that `version` gave it when it arrived."""
        self.overall.add(truth, predicted)
        self.versions.add(version, truth, predicted)
        if key is not None:
            self.keys.add(key, truth, predicted)
        if source is not None:
            self.sources.add(source, truth, predicted)
        if version == self.version:
            self._slide(truth, predicted)

    def swap(self, version: str) -> None:
        """`version` is champion from here on: its window starts empty. Labels of other versions count elsewhere."""
        self._begin(version)

    def state(self) -> dict[str, object]:
        """Plain lists, texts and numbers that JSON can hold: all that `restored` needs."""
        state = _State(
            version=self.version,
            overall=self.overall.counts(),
            recent=list(self._outcomes),
            versions=self.versions.rows(),
            keys=self.keys.rows(),
            sources=self.sources.rows(),
        )
        return state.model_dump(mode="json")

    @classmethod
    def restored(cls, state: object, *, window: int, max_slices: int) -> Self:
        """Goes on exactly as the one that gave `state`. Smaller bounds than it had forget the oldest.

        Raises:
            pydantic.ValidationError: this is not what `state` gives.
        """
        saved = _State.model_validate(state)
        self = cls(saved.version, window=window, max_slices=max_slices)
        self.overall = Confusion(saved.overall)
        self.versions = Slices(max_slices, saved.versions)
        self.keys = Slices(max_slices, saved.keys)
        self.sources = Slices(max_slices, saved.sources)
        for truth, predicted in saved.recent:
            self._slide(truth, predicted)
        return self

    def _begin(self, version: str) -> None:
        self.version = version
        self.recent = Confusion()
        self._outcomes: deque[tuple[str, str]] = deque()

    def _slide(self, truth: str, predicted: str) -> None:
        self._outcomes.append((truth, predicted))
        self.recent.add(truth, predicted)
        if len(self._outcomes) > self._window:
            self.recent.add(*self._outcomes.popleft(), texts=-1)
