"""Telling a sudden run of contradicting labels from the usual errors.

Somebody who floods `labels` with wrong ones, and an annotation tool with two buttons swapped, look alike: on a source
where the model's confident scores used to be right, labels begin to contradict them. The evidence is Page's cumulative
sum (1954, "Continuous inspection schemes"): the log likelihood of "half of them contradict" over "as many as usual",
started anew at 0 whenever it falls below. Its last zero says when the run began.

A true change of what the labels mean looks the same, and only a person can tell the two apart.
"""

import math
from collections import OrderedDict
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

#: A score with at least this probability is confident.
CONFIDENT = 0.9

#: Confident scores of a source that must have been labelled before a run can be seen there, and how many of them may
#: have been wrong: where the model errs more, a contradiction says little.
PROVEN = 30
MAX_WRONG = 0.25

#: Contradictions are never taken to be rarer than this, so that a lucky streak does not make three of them a run.
MIN_WRONG = 0.05

#: What a run is taken to look like: every second label contradicts. Runs from a third up are found, only later.
RUN = 0.5

#: Evidence that makes a run, in nats: 7 contradictions in a row where 5 % are usual. Chance alone reaches it less than
#: once in e^16, nine million labels, if errors were independent; they are not, and in 8,000 real ones of six drifting
#: domains with their sources named it was never reached, nor was 11.
BEGIN = 16.0

#: Evidence that it is over, in nats: some twenty labels in a row that agree.
END = 12.0

#: Confident labels that a source's usual errors are taken over, by exponential forgetting.
MEMORY = 200.0

#: Sources that are watched; the longest silent one gives way.
MAX_SOURCES = 1_000

#: Labels of a run that are remembered, to be taken back.
MAX_RUN = 1_000


class Told(NamedTuple):
    """A label that has found its score."""

    id: str
    source: str | None
    annotator: str
    confident: bool
    wrong: bool


class Begun(NamedTuple):
    """A run: the labels `ids` that came since it began, and the shares that contradict, in it and before.

    `annotator` is the one whose labels they are; None when it is not one alone.
    """

    source: str | None
    annotator: str | None
    ids: list[str]
    share: float
    usual: float


class Ended(NamedTuple):
    """A run is over, and `ids` are the labels since then. `since` is when it was noticed."""

    source: str | None
    ids: list[str]
    since: float
    usual: float


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid")

    confident: float = 0.0
    wrong: float = 0.0
    evidence: float = 0.0
    #: The labels since the evidence was last zero: id, annotator, confident, wrong.
    run: list[tuple[str, str, bool, bool]] = []
    #: While labels are held: since when, whose (None: anybody's), the evidence that it is over, and labels since it was
    #: last zero.
    since: float | None = None
    annotator: str | None = None
    over: float = 0.0
    back: list[str] = []

    @property
    def usual(self) -> float:
        return max(MIN_WRONG, self.wrong / self.confident) if self.confident else MIN_WRONG

    @property
    def proven(self) -> bool:
        return self.confident >= PROVEN and self.wrong / self.confident <= MAX_WRONG

    def holds(self, annotator: str) -> bool:
        return self.since is not None and (self.annotator is None or self.annotator == annotator)

    def count(self, wrong: bool) -> None:
        kept = 1 - 1 / MEMORY
        self.confident = self.confident * kept + 1
        self.wrong = self.wrong * kept + wrong


class Holding:
    """Watches each source by itself; texts without one are a source too."""

    def __init__(self, state: Any = None) -> None:
        rows = [(name, _Source.model_validate(row)) for name, row in state or []]
        self._sources: OrderedDict[str | None, _Source] = OrderedDict(rows)

    def state(self) -> list[Any]:
        """Plain values that JSON can hold: all that `Holding(state)` needs."""
        return [[name, source.model_dump(mode="json")] for name, source in self._sources.items()]

    def holds(self, source: str | None, annotator: str) -> bool:
        """Whether a label of `annotator` on a text of `source` is to be held."""
        found = self._sources.get(source)
        return found is not None and found.holds(annotator)

    def observe(self, told: Told, now: float) -> Begun | Ended | None:
        """Take a label; whether a run begins or ends with it."""
        source = self._source(told.source)
        if source.holds(told.annotator):
            return self._look_for_the_end(source, told)
        if not told.confident:
            if source.evidence:
                _remember(source, told)
            return None
        if not source.proven:
            source.count(told.wrong)
            return None
        if not source.evidence:
            # Only here: a run must not become what is usual while it is being noticed.
            usual, source.run = source.usual, []
            source.count(told.wrong)
        else:
            usual = source.usual
        source.evidence = max(0.0, source.evidence + _gain(told.wrong, usual))
        _remember(source, told)
        return self._begin(source, told.source, now) if source.evidence >= BEGIN else None

    def start_anew(self) -> None:
        """Forget every source whose labels are not held."""
        for name in [name for name, one in self._sources.items() if one.since is None]:
            del self._sources[name]

    def forget(self, source: str | None) -> None:
        """What was usual of `source` says nothing any more: it must be shown anew, and nothing of it is held."""
        self._sources.pop(source, None)

    def held(self) -> dict[str | None, float]:
        """The sources whose labels are held, and since when."""
        return {name: one.since for name, one in self._sources.items() if one.since is not None}

    def _source(self, name: str | None) -> _Source:
        found = self._sources.setdefault(name, _Source())
        self._sources.move_to_end(name)
        silent = [name for name, one in self._sources.items() if one.since is None]
        for gone in silent[: max(0, len(self._sources) - MAX_SOURCES)]:
            del self._sources[gone]
        return found

    def _begin(self, source: _Source, name: str | None, now: float) -> Begun:
        sure = [wrong for _, _, confident, wrong in source.run if confident]
        source.annotator = _alone(source)
        ids = [id for id, annotator, _, _ in source.run if source.annotator in (None, annotator)]
        source.since = now if source.since is None else source.since
        source.evidence, source.over, source.run, source.back = 0.0, 0.0, [], []
        return Begun(name, source.annotator, ids, sum(sure) / len(sure), source.wrong / source.confident)

    def _look_for_the_end(self, source: _Source, told: Told) -> Ended | None:
        if told.confident:
            source.over = max(0.0, source.over - _gain(told.wrong, source.usual))
        source.back = [*source.back, told.id][-MAX_RUN:] if source.over else []
        if source.over < END or source.since is None:
            return None
        ended = Ended(told.source, source.back, source.since, source.wrong / source.confident)
        source.since, source.annotator, source.over, source.back = None, None, 0.0, []
        return ended


def _remember(source: _Source, told: Told) -> None:
    source.run = [*source.run, (told.id, told.annotator, told.confident, told.wrong)][-MAX_RUN:]


def _gain(wrong: bool, usual: float) -> float:
    return math.log(RUN / usual) if wrong else math.log((1 - RUN) / (1 - usual))


def _alone(source: _Source) -> str | None:
    """The annotator who alone makes the run: the others agree with the model as usual, as far as one can tell."""
    sure = [(annotator, wrong) for _, annotator, confident, wrong in source.run if confident]
    against = [annotator for annotator, wrong in sure if wrong]
    most = max(sorted(set(against)), key=against.count)
    others = [wrong for annotator, wrong in sure if annotator != most]
    if most and others and sum(others) / len(others) <= max(MAX_WRONG, source.usual):
        return most
    return None
