"""The same text written a little differently: what a label should not depend on.

Words are left out, misspelt, shouted, stripped of their `$` or `#`, or replaced by a word that says the same (Wei & Zou
2019, "EDA"; Xie et al. 2020, "Unsupervised data augmentation", for its use without labels). Words that turn a sentence
around are never touched, nor are numbers misspelt.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from learners.job import Example

#: Share of a text's words that are changed; EDA's choice for small training sets and for large ones alike.
RATE = 0.1

#: Words of equal meaning in news of markets and companies, one way or the other: none says more or less than its kin.
SYNONYMS = (
    ("company", "firm"),
    ("companies", "firms"),
    ("shares", "stock"),
    ("buy", "purchase"),
    ("acquire", "buy"),
    ("said", "stated"),
    ("says", "states"),
    ("about", "around"),
    ("approximately", "roughly"),
    ("expects", "anticipates"),
    ("expected", "anticipated"),
    ("announced", "disclosed"),
    ("announces", "discloses"),
    ("revenue", "sales"),
    ("earnings", "results"),
    ("forecast", "outlook"),
    ("rises", "climbs"),
    ("rose", "climbed"),
    ("falls", "drops"),
    ("fell", "dropped"),
    ("big", "large"),
    ("begin", "start"),
    ("begins", "starts"),
    ("chief", "head"),
    ("unit", "division"),
    ("today", "now"),
    ("because", "since"),
    ("also", "too"),
)

#: Words without which a text may say the opposite, in a few languages; in English also any that ends in n't.
TURNING = frozenset(
    "no not nor never none nothing neither without cannot nicht kein keine nie ohne ne pas jamais sans non nunca sin "  # noqa: SIM905 - as a list it fills a page
    "不 没 沒 无 無 未 非 别 別 莫 勿".split()
)

#: A word with the sign of a ticker, topic or person before it. Scripts that write no spaces count by the character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[$#@]?\w(?:[\w'’]*\w)?")

_SAME: dict[str, list[str]] = {}
for _kin in SYNONYMS:
    for _word in _kin:
        _SAME.setdefault(_word, []).extend(other for other in _kin if other != _word)

#: Shorter words become others when a letter changes.
_SPELLABLE = 4


def augmented(text: str, generator: np.random.Generator, rate: float = RATE) -> str:
    """`text` with each word changed at the chance `rate`, and one at least; as it was if it has none that may be.

    At least one word is left of it.
    """
    words = [word for word in _WORD.finditer(text) if not _turns(word.group())]
    if not words:
        return text
    chosen = generator.random(len(words)) < rate
    chosen[generator.integers(len(words))] = True
    pieces, end, left = [], 0, len(_WORD.findall(text))
    for word, is_chosen in zip(words, chosen, strict=True):
        if not is_chosen:
            continue
        changed = _changed(word.group(), generator, droppable=left > 1)
        left -= not changed
        pieces += [text[end : word.start()], changed]
        end = word.end()
    return re.sub(r"\s{2,}", " ", "".join([*pieces, text[end:]])).strip()


def some_augmented(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """`examples` with about `share` of their texts augmented, drawn from `seed`."""
    generator = np.random.default_rng(seed)
    drawn = generator.random(len(examples)) < share
    return [
        example.model_copy(update={"text": augmented(example.text, generator)}) if is_drawn else example
        for example, is_drawn in zip(examples, drawn, strict=True)
    ]


def _turns(word: str) -> bool:
    return word.lower() in TURNING or word.lower().replace("’", "'").endswith("n't")


def _changed(word: str, generator: np.random.Generator, *, droppable: bool) -> str:
    ways: list[Callable[[str, np.random.Generator], str]] = [_dropped] if droppable else []
    if word.isalpha() and word.isascii() and len(word) >= _SPELLABLE:
        ways.append(_misspelt)
    if word.lower() in _SAME:
        # The best change there is, so as likely as all others together.
        ways += [_synonym] * max(1, len(ways))
    if word[0] in "$#@":
        ways.append(_unmarked)
    if word.lower() != word.upper():
        ways.append(_shouted)
    return ways[generator.integers(len(ways))](word, generator) if ways else word


def _dropped(_word: str, _generator: np.random.Generator) -> str:
    return ""


def _misspelt(word: str, generator: np.random.Generator) -> str:
    """One letter inside is missing, doubled, or swapped with the next; the first and last stay, as in most typos."""
    at = int(generator.integers(1, len(word) - 2))
    before, letter, following, after = word[:at], word[at], word[at + 1], word[at + 2 :]
    return before + (following, letter + letter + following, following + letter)[generator.integers(3)] + after


def _synonym(word: str, generator: np.random.Generator) -> str:
    same = _SAME[word.lower()]
    other = same[generator.integers(len(same))]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def _unmarked(word: str, _generator: np.random.Generator) -> str:
    return word[1:]


def _shouted(word: str, _generator: np.random.Generator) -> str:
    return word.lower() if word.isupper() else word.upper()
