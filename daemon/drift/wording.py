"""How unlike the reference texts a text is worded."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from daemon.drift.detector import Values

#: Characters of a gram. Between six domains of short texts 4 told a new one best of 1 to 5, and lower case better than
#: case as it is.
GRAM = 4

#: Grams are counted by a hash of 15 bits: some 500 short texts fill a third of the slots, and eight times as many
#: slots told domains apart no better.
BITS = 15
SLOTS = 1 << BITS

#: Added to each slot's count (Lidstone smoothing): a gram never seen is unlikely and not impossible.
SMOOTHING = 0.5

#: Characters of a text that are looked at; no text takes longer than this one.
MAX_CHARS = 2_000

_ODD = np.uint64(0x9E3779B97F4A7C15)


class Wording:
    """How often each gram occurs in reference texts: `counts` `[SLOTS]`."""

    def __init__(self, counts: npt.NDArray[np.integer]) -> None:
        self.counts = counts.astype(np.uint32)
        self._surprisal = -np.log((self.counts + SMOOTHING) / (self.counts.sum() + SMOOTHING * SLOTS))

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        grams, _ = _grams(texts)
        return cls(np.bincount(grams, minlength=SLOTS))

    def score(self, texts: Sequence[str]) -> Values:
        """The mean surprisal of each text's grams, in nats: `[n]`. A text's score does not depend on the others."""
        grams, lengths = _grams(texts)
        if not len(texts):
            return np.empty(0)
        return np.add.reduceat(self._surprisal[grams], np.cumsum(lengths) - lengths) / lengths


def _grams(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The slots of all grams, text after text, and how many each text has: at least one."""
    lowered = [text[:MAX_CHARS].lower().ljust(GRAM) for text in texts]
    lengths = np.array([len(text) for text in lowered], dtype=np.int64)
    characters = np.frombuffer("".join(lowered).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    if not len(characters):
        return np.empty(0, dtype=np.int64), lengths
    places = len(characters) - GRAM + 1
    hashed = np.zeros(places, dtype=np.uint64)
    for offset in range(GRAM):
        hashed = hashed * _ODD ^ (characters[offset : offset + places].astype(np.uint64) + np.uint64(1))
    slots = (hashed * _ODD >> np.uint64(64 - BITS)).astype(np.int64)
    ends = np.cumsum(lengths)
    # The last places of a text begin grams that reach into the next one.
    whole = np.ones(places, dtype=bool)
    for back in range(1, GRAM):
        reaching = ends - back
        whole[reaching[reaching < places]] = False
    return slots[whole], lengths - GRAM + 1
