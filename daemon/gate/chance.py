"""What chance alone can do: paired tests of two models on the same examples, and many of them at once."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from daemon.gate.answers import Bools, Floats

#: Sign flips of the permutation tests: at p = 0.05 their error is 0.003, and 3,000 examples still fit in 100 MB.
FLIPS = 4_000


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


def p_more_often(first: Bools, second: Bools) -> float:
    """One-sided p-value that `first` is true no more often than `second` on the same examples: McNemar's exact test."""
    only_first = int(np.count_nonzero(first & ~second))
    differ = only_first + int(np.count_nonzero(second & ~first))
    return float(binom.sf(only_first - 1, differ, 0.5)) if differ else 1.0


def p_swapped(
    parent: Floats, candidate: Floats, measure: Callable[[Floats], npt.NDArray[np.float64]], seed: int
) -> tuple[float, float, float]:
    """`measure` of both models, and the chance that the candidate's is so much lower by luck.

    Yeh 2000, "More accurate tests for the statistical significance of result differences": the two models' answers
    are swapped at random (approximate randomisation), for measures that are no mean over examples.

    Args:
        parent: what the measure counts of each example, `[examples, counts]`.
        candidate: the same of the candidate.
        measure: from sums over the examples, `[..., counts]`, to the figure `[...]`.
        seed: of the swaps.
    """
    before, after = parent.sum(axis=0), candidate.sum(axis=0)
    moved = (parent - candidate)[(parent != candidate).any(axis=1)]
    fall = float(measure(before) - measure(after))
    swap = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(moved)), dtype=np.int8)
    shift = swap @ moved
    falls = measure(before - shift) - measure(after + shift)
    p = float((1 + np.count_nonzero(falls >= fall - 1e-12)) / (1 + FLIPS))
    return float(measure(before)), float(measure(after)), p


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values as they count when all are looked at (Holm 1979): each below alpha is beyond chance at alpha.

    The chance of even one false finding among them stays below alpha, whatever their dependence.
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, at in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted
