"""What is usual for a key: its counts by bucket of time, and the chance of a window under them."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import betaln, gammaln

#: Correlation of two texts of one window where a key's past does not say, since stories come in clusters. Daily
#: windows of public finance tweets by ticker have 0.02 to 0.08.
PRIOR_CORRELATION = 0.03
#: What that prior is worth, in busy windows.
PRIOR_WINDOWS = 6.0
#: Tails are summed over this many texts at most; larger windows are scaled down to it, which only makes them tamer.
MAX_TAIL = 4000


class Counts:
    """Texts and watched texts by bucket of time, with their sums."""

    __slots__ = ("buckets", "texts", "watched")

    def __init__(self, rows: Iterable[tuple[int, int, int]] = ()) -> None:
        self.buckets: dict[int, list[int]] = {}
        self.texts = 0
        self.watched = 0
        for bucket, texts, watched in rows:
            self.add(bucket, texts, watched)

    def add(self, bucket: int, texts: int, watched: int) -> None:
        counts = self.buckets.get(bucket)
        if counts is None:
            self.buckets[bucket] = [texts, watched]
        else:
            counts[0] += texts
            counts[1] += watched
        self.texts += texts
        self.watched += watched

    def take_before(self, bucket: int) -> list[tuple[int, int, int]]:
        """Remove the buckets before `bucket` and return them."""
        taken = [(b, n, k) for b, (n, k) in self.buckets.items() if b < bucket]
        for b, n, k in taken:
            del self.buckets[b]
            self.texts -= n
            self.watched -= k
        return taken

    def rows(self) -> list[tuple[int, int, int]]:
        return [(bucket, texts, watched) for bucket, (texts, watched) in self.buckets.items()]


def correlation(rows: Sequence[tuple[int, int, int]], share: float) -> float:
    """How alike texts of one bucket are: the intra-class correlation of a beta-binomial, at least 0.

    `rows` are (bucket, texts, watched). The moment estimate (Kleinman 1973), (z² - 1) / (n - 1) of each bucket,
    weighted by its precision and shrunk towards `PRIOR_CORRELATION`, which counts as `PRIOR_WINDOWS` busy buckets.
    """
    weights = PRIOR_WINDOWS / PRIOR_CORRELATION**2
    total = weights * PRIOR_CORRELATION
    variance = max(share * (1 - share), 1e-6)
    for _, texts, watched in rows:
        if texts > 1:
            pairs = texts - 1
            # Of an estimate whose own spread is about (1 + pairs · correlation) / pairs.
            weight = (pairs / (1 + pairs * PRIOR_CORRELATION)) ** 2
            total += weight * ((watched - texts * share) ** 2 / (texts * variance) - 1) / pairs
            weights += weight
    return min(max(total / weights, 0.0), 0.5)


def tail(watched: int, texts: int, a: float, b: float) -> float:
    """P(K >= watched) of K ~ BetaBinomial(texts, a, b)."""
    if texts > MAX_TAIL:
        watched, texts = watched * MAX_TAIL // texts, MAX_TAIL
    k = np.arange(watched, texts + 1)
    choose = gammaln(texts + 1) - gammaln(k + 1) - gammaln(texts - k + 1)
    return min(1.0, float(np.exp(choose + betaln(k + a, texts - k + b) - betaln(a, b)).sum()))
