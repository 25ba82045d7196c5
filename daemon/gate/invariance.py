"""Whether the candidate judges the news or the name: the same texts with other companies, tickers and people."""

from collections.abc import Sequence

from daemon.config import GateConfig
from daemon.gate.answers import Answers, mean, probabilities
from daemon.gate.chance import p_more_often
from daemon.gate.slices import HAIR, Comparison
from learners.job import Judged


def judge_invariance(rows: Sequence[Judged], labels: Sequence[str], config: GateConfig) -> Comparison | None:
    """Shares of texts whose label moves when the names in them are swapped; None with too few to judge.

    It fails when the candidate's is higher by more than the tolerance, and that beyond chance (McNemar). Only texts
    that the parent answers rightly tell: a model that knows nothing of a domain says the same of everybody there, and
    whatever learns it would be turned away for knowing more.
    """
    known = Answers.of(rows, labels).right()[0]
    swapped = [
        (row, row.swapped)
        for row, right in zip(rows, known, strict=True)
        if row.swapped is not None and row.parent is not None and right
    ]
    if len(swapped) < config.slice_min:
        return None
    moved, count = [], len(labels)
    for before, after in (
        ([row.parent for row, _ in swapped], [other.parent for _, other in swapped]),
        ([row.candidate for row, _ in swapped], [other.candidate for _, other in swapped]),
    ):
        moved.append(probabilities(before, count).argmax(axis=1) != probabilities(after, count).argmax(axis=1))
    parent, candidate = moved
    p_worse = p_more_often(candidate, parent)
    rise = mean(candidate) - mean(parent)
    passed = rise <= config.invariance_tolerance + HAIR or p_worse > config.alpha
    return Comparison("moved by names", len(swapped), mean(parent), mean(candidate), p_worse, passed)
