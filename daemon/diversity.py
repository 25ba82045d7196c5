"""Texts that are least like each other."""

from collections.abc import Sequence

import numpy as np

#: Numbers that a text's words are counted into. Words that share one are mixed up, which a few may be.
DIMENSIONS = 512


def spread(texts: Sequence[str], count: int) -> set[int]:
    """Places of `count` of `texts`, each the furthest from those before it; the first text is the first.

    Farthest-first traversal (Gonzalez 1985): no text is further from its nearest that is kept than twice the least
    that is possible. Texts are compared by their words, not by a model: what is kept must not hang on which model is
    the champion.
    """
    # Imported here: it takes a second, and the daemon starts without it as a rule.
    from sklearn.feature_extraction.text import HashingVectorizer

    if count >= len(texts):
        return set(range(len(texts)))
    words = HashingVectorizer(n_features=DIMENSIONS, alternate_sign=False, dtype=np.float32).transform(texts).toarray()
    chosen: list[int] = []
    nearest = np.full(len(texts), -1.0, dtype=np.float32)
    following = 0
    while len(chosen) < count:
        chosen.append(following)
        nearest = np.maximum(nearest, words @ words[following])
        nearest[following] = np.inf
        following = int(nearest.argmin())
    return set(chosen)
