"""What the candidate must not have forgotten: every slice of the old examples, by source, key and label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from daemon.config import GateConfig
from daemon.gate.answers import Answers, Bools, Floats, mean
from daemon.gate.chance import holm, p_more_often, p_swapped

#: A hair more than a tolerance, because 1 less 0.97 is a hair more than 0.03.
HAIR = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Both models on the same examples by one measure, 0 to 1.

    `p_worse` is the chance of the candidate being so much worse by luck; of slices, as it counts among all that are
    looked at together. `unused` and `unused_change` are of those examples that have helped to promote no model, where
    these let a slice pass that seemed to have fallen. `fresh` examples tell nothing of what was known before.
    """

    name: str
    examples: int
    parent: float
    candidate: float
    p_worse: float
    passed: bool
    unused: int = 0
    unused_change: float = 0.0
    fresh: bool = False

    @property
    def change(self) -> float:
        return self.candidate - self.parent


def judge_slices(
    old: Answers,
    labels: Sequence[str],
    config: GateConfig,
    seed: int,
    *,
    fresh: Answers | None = None,
    unused: Answers | None = None,
) -> list[Comparison]:
    """All old examples, then each source, key and label with at least `slice_min` of them; `fresh` but by its labels.

    The score of a source or a key is its accuracy. A label's is its F1 among all the old examples, not its recall: a
    model that says a label more rarely and more rightly has forgotten nothing. A slice fails when it loses more than
    the tolerance, and that beyond chance; the chance of turning away a model that forgets nothing is `alpha` for all
    the slices together (Holm).

    A champion was promoted for being right on examples that were fresh then, some of them by luck, and are old now; the
    next model has no such luck, and seems to forget. (In a stream of seven domains four candidates were .03 to .05
    below a champion on 373 of them, and next to nothing on 350 others of the same kind.) So a slice that would fail is
    let pass when `slice_min` or more of `unused`, the old ones that promoted nobody, show no fall beyond the tolerance.
    """
    compared = [*_compare(old, labels, seed), *(_by_origin(fresh, fresh=True) if fresh else [])]
    judged = [one for one in compared if one.examples >= config.slice_min]
    counted = holm([one.p_worse for one in judged])
    slices = [
        replace(one, p_worse=p, passed=_within(one, config) or p > config.alpha)
        for one, p in zip(judged, counted, strict=True)
    ]
    if not unused or all(one.passed for one in slices):
        return slices
    apart = {one.name: one for one in _compare(unused, labels, seed) if one.examples >= config.slice_min}
    return [
        replace(one, passed=True, unused=apart[one.name].examples, unused_change=apart[one.name].change)
        if not one.passed and one.name in apart and _within(apart[one.name], config)
        else one
        for one in slices
    ]


def _within(one: Comparison, config: GateConfig) -> bool:
    return -one.change <= config.slice_tolerance + HAIR


def worst(slices: Sequence[Comparison]) -> Comparison | None:
    """The slice that lost most, or gained least; None without any."""
    return min(slices, key=lambda one: one.change, default=None)


def _compare(old: Answers, labels: Sequence[str], seed: int) -> Iterator[Comparison]:
    yield from _by_origin(old)
    for number, label in enumerate(labels):
        yield _f1_fall(f"label {label}", old, number, seed)


def _by_origin(answers: Answers, *, fresh: bool = False) -> Iterator[Comparison]:
    """Everything, each source, and each key."""
    parent, candidate = answers.right()
    yield _fall(f"everything {'fresh' if fresh else 'old'}", parent, candidate, fresh)
    prefix = "fresh " if fresh else ""
    for kind, names in (("source", answers.sources), ("key", answers.keys)):
        among = np.array(["" if name is None else name for name in names], dtype=object)
        # A text need not have a key, and those without one are nothing in common.
        for name in sorted(set(among) - ({""} if kind == "key" else set())):
            inside = among == name
            yield _fall(f"{prefix}{kind} {name or 'unnamed'}", parent[inside], candidate[inside], fresh)


def _fall(name: str, parent: Bools, candidate: Bools, fresh: bool) -> Comparison:
    """Accuracies, from whether each model is right on each example; not judged yet."""
    p_worse = p_more_often(parent, candidate)
    return Comparison(name, len(parent), mean(parent), mean(candidate), p_worse, False, fresh=fresh)


def _f1_fall(name: str, old: Answers, label: int, seed: int) -> Comparison:
    truth = old.truth == label
    # Columns: true positives, and all that was said or should have been; F1 = 2 * first / second.
    before, after = (
        np.stack([said & truth, said.astype(int) + truth], axis=1).astype(np.float64)
        for said in (given.argmax(axis=1) == label for given in (old.parent, old.candidate))
    )
    parent, candidate, p_worse = p_swapped(before, after, _f1, seed)
    return Comparison(name, int(truth.sum()), parent, candidate, p_worse, False)


def _f1(counts: Floats) -> Floats:
    return 2 * counts[..., 0] / np.maximum(counts[..., 1], 1)
