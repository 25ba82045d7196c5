"""Whether a candidate goes live: better on fresh labels beyond chance, not worse on any slice of the old ones."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from daemon.config import GateConfig
from learners.job import Judged

#: Sign flips of the permutation test: at p = 0.05 its error is 0.003, and 3,000 examples still fit in 100 MB.
FLIPS = 4_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SliceVerdict:
    """Both models on one slice of the old examples.

    `p_worse` is the chance of so large a fall by luck, as it counts among all the slices that are looked at. The
    score of a source or a key is its accuracy. A label's is its F1 among all old examples, not its recall: a model
    that says a label more rarely and more rightly has forgotten nothing.
    """

    name: str
    examples: int
    parent: float
    candidate: float
    p_worse: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """The decision with its numbers. `p_better` is the paired test on the fresh examples."""

    promoted: bool
    because: str
    fresh: int
    parent_accuracy: float
    candidate_accuracy: float
    parent_brier: float
    candidate_brier: float
    p_better: float
    slowdown: float
    slices: list[SliceVerdict]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    judged: Sequence[Judged], labels: Sequence[str], *, slowdown: float, config: GateConfig, seed: int
) -> Verdict:
    """Decide on a candidate from both models' probabilities on the same held-out examples.

    Better means a lower Brier score (a proper score, so a model can't win by shouting) under a one-sided paired
    permutation test, with accuracy within the tolerance; old examples are cut by source, key and class.

    Args:
        judged: every held-out example; `group` tells fresh from old. Those `selected` are not judged on.
        labels: the order of the probabilities.
        slowdown: the candidate's scoring time over the parent's.
        config: thresholds.
        seed: of the permutation test.
    """
    # What a candidate was chosen on flatters it.
    unseen = [row for row in judged if not row.selected]
    fresh = [row for row in unseen if row.group == "fresh"]
    old = [row for row in unseen if row.group == "old"]
    parent_brier, candidate_brier = _brier(fresh, labels)
    parent_right, candidate_right = _correct(fresh, labels)
    p_better = p_greater(parent_brier - candidate_brier, seed)
    slices = _judge_slices(old, labels, config, seed)
    verdict = Verdict(
        promoted=False,
        because="",
        fresh=len(fresh),
        parent_accuracy=_mean(parent_right),
        candidate_accuracy=_mean(candidate_right),
        parent_brier=_mean(parent_brier),
        candidate_brier=_mean(candidate_brier),
        p_better=p_better,
        slowdown=slowdown,
        slices=slices,
    )
    broken = sum(not all(map(math.isfinite, row.candidate)) for row in judged)
    promoted, because = _refuse_broken(broken, len(judged)) or _decide(verdict, config)
    return Verdict(**{**vars(verdict), "promoted": promoted, "because": because})


def _refuse_broken(broken: int, examples: int) -> tuple[bool, str] | None:
    if not broken:
        return None
    return False, f"its probabilities are not numbers on {broken} of {examples} held-out examples"


def _decide(verdict: Verdict, config: GateConfig) -> tuple[bool, str]:
    worst = min(verdict.slices, key=lambda s: s.candidate - s.parent, default=None)
    change = (
        f"accuracy {verdict.parent_accuracy:.3f} → {verdict.candidate_accuracy:.3f} on {verdict.fresh} fresh labels"
    )
    if verdict.fresh < config.min_examples:
        return False, f"only {verdict.fresh} fresh held-out labels; gate.min_examples is {config.min_examples}"
    if not verdict.p_better < config.alpha:
        return False, f"no better beyond chance: {change}, p = {verdict.p_better:.3f}"
    if verdict.parent_accuracy - verdict.candidate_accuracy > config.slice_tolerance:
        return False, f"surer but less accurate: {change}"
    failed = [s for s in verdict.slices if not s.passed]
    if failed:
        bad = min(failed, key=lambda s: s.candidate - s.parent)
        return False, f"forgets {bad.name}: {bad.parent:.3f} → {bad.candidate:.3f} on {bad.examples} examples"
    if not verdict.slowdown <= config.max_slowdown:
        return False, f"{verdict.slowdown:.2f} times as slow; gate.max_slowdown is {config.max_slowdown}"
    kept = f"; worst old slice {worst.name} {worst.candidate - worst.parent:+.3f}" if worst else ""
    return True, f"{change}, p = {verdict.p_better:.4f}{kept}"


def _judge_slices(old: Sequence[Judged], labels: Sequence[str], config: GateConfig, seed: int) -> list[SliceVerdict]:
    parent, candidate = _correct(old, labels)
    scores: list[tuple[str, int, float, float, float]] = [("everything old", *_fall(parent, candidate))]
    for kind in ("source", "key"):
        names = np.array([getattr(row, kind) or "" for row in old], dtype=object)
        # A text need not have a key, and those without one are nothing in common.
        for name in sorted(set(names) - ({""} if kind == "key" else set())):
            among = names == name
            scores.append((f"{kind} {name or 'unnamed'}", *_fall(parent[among], candidate[among])))
    for number, label in enumerate(labels):
        scores.append((f"label {label}", *_f1_fall(old, labels, number, seed)))
    judged = [score for score in scores if score[1] >= config.slice_min]
    # A hair more than the tolerance, because 1 less 0.97 is a hair more than 0.03.
    tolerance = config.slice_tolerance + 1e-9
    return [
        SliceVerdict(name, examples, before, after, p_worse, before - after <= tolerance or p_worse > config.alpha)
        for (name, examples, before, after, _), p_worse in zip(judged, holm([one[4] for one in judged]), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values as they count when all are looked at: each below alpha is beyond chance at alpha.

    The chance of even one false finding among them stays below alpha, whatever their dependence (Holm 1979, "A simple
    sequentially rejective multiple test procedure").
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, at in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def _fall(parent: Floats, candidate: Floats) -> tuple[int, float, float, float]:
    """Examples, both accuracies, and the chance of so large a fall: McNemar's exact test."""
    lost, won = int(np.sum(parent > candidate)), int(np.sum(candidate > parent))
    # Exact, because with many slices the least p-value of random flips would be too coarse to count.
    p_worse = float(binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0
    return len(parent), _mean(parent), _mean(candidate), p_worse


def _f1_fall(rows: Sequence[Judged], labels: Sequence[str], label: int, seed: int) -> tuple[int, float, float, float]:
    """Examples with the label, its F1 under both models, and the chance of so large a fall.

    The test swaps the two models' answers at random (Yeh 2000, "More accurate tests for the statistical significance
    of result differences": approximate randomisation, for measures such as F1 that are no mean over examples).
    """
    truth = _truth(rows, labels) == label
    said = [probabilities.argmax(axis=1) == label for probabilities in _probabilities(rows, len(labels))]
    # Columns: true positives, and all that was said or should have been; F1 = 2 * first / second.
    before, after = (np.stack([one & truth, one.astype(int) + truth], axis=1).astype(np.float64) for one in said)
    differ = (before != after).any(axis=1)
    fall = _f1(before.sum(axis=0)) - _f1(after.sum(axis=0))
    common, moved = before[~differ].sum(axis=0), (before - after)[differ]
    swap = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(moved)), dtype=np.int8)
    shift = swap @ moved
    falls = _f1(common + before[differ].sum(axis=0) - shift) - _f1(common + after[differ].sum(axis=0) + shift)
    p_worse = float((1 + np.count_nonzero(falls >= fall - 1e-12)) / (1 + FLIPS))
    return int(truth.sum()), float(_f1(before.sum(axis=0))), float(_f1(after.sum(axis=0))), p_worse


def _f1(counts: Floats) -> Floats:
    return 2 * counts[..., 0] / np.maximum(counts[..., 1], 1)


def p_greater(differences: Floats, seed: int) -> float:
    """One-sided p-value that paired `differences` have a mean of at most 0: a sign-flip permutation test.

    1.0 when there is nothing to compare.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    signs = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(moved)), dtype=np.int8) * 2 - 1
    # The observed one counts among the flips, which keeps the test exact (Phipson & Smyth 2010).
    return float((1 + np.count_nonzero(signs @ moved >= moved.sum() - 1e-12)) / (1 + FLIPS))


def _probabilities(rows: Sequence[Judged], n: int) -> tuple[Floats, Floats]:
    uniform = [1 / n] * n
    parent = np.array([uniform if row.parent is None else row.parent for row in rows], dtype=np.float64)
    candidate = np.array([row.candidate for row in rows], dtype=np.float64)
    return _finite(parent).reshape(-1, n), _finite(candidate).reshape(-1, n)


def _finite(probabilities: Floats) -> Floats:
    # What is not a number promises nothing; left in, one NaN would turn every comparison with it to False.
    return np.where(np.isfinite(probabilities), probabilities, 0.0)


def _truth(rows: Sequence[Judged], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([labels.index(row.label) for row in rows], dtype=np.int64)


def _brier(rows: Sequence[Judged], labels: Sequence[str]) -> tuple[Floats, Floats]:
    parent, candidate = _probabilities(rows, len(labels))
    truth = np.eye(len(labels))[_truth(rows, labels)]
    return ((parent - truth) ** 2).sum(axis=1), ((candidate - truth) ** 2).sum(axis=1)


def _correct(rows: Sequence[Judged], labels: Sequence[str]) -> tuple[Floats, Floats]:
    parent, candidate = _probabilities(rows, len(labels))
    truth = _truth(rows, labels)
    right_parent = (parent.argmax(axis=1) == truth).astype(np.float64)
    return right_parent, (candidate.argmax(axis=1) == truth).astype(np.float64)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
