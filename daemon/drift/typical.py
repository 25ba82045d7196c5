"""The words that set some texts apart from others."""

import html
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

#: Most that are listed: more than a reader takes in at a glance is noise.
MOST = 8

#: The least z-score of what is listed. Thousands of words are compared at once; the prior holds the rare ones down, and
#: of texts of one domain, parted at random (500 and 40 to 200 of them), nine lists in ten stay empty at this score.
LEAST_Z = 2.5

#: The least odds ratio of what is listed: words like "the" differ by less than this between any two writers.
LEAST_ODDS = 2.0

#: The least number of texts with a word: an odd one and its copy list nothing.
LEAST_TEXTS = 3

#: Weight of the prior, in texts: until about as many say otherwise, a word is taken to be as common before as after.
#: With fewer, words seen once or twice come out; with more, hardly any.
PRIOR_TEXTS = 100

#: Characters of a text that are read; what it is about shows long before.
READ = 1_000

#: Chinese characters and Japanese syllables, which have no space between words. Two neighbours stand for a word: in
#: Chinese, most words are two.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

#: Of links, markup and numbers one is like the next, and the name of the kind stands for it.
_TOKEN = re.compile(
    rf"""(?P<link>(?:https?://|www\.)\S+)
    |(?P<markup></?[a-z][^<>]{{0,80}}>)
    |(?P<number>[$€£¥₹]?\d[\d.,:/]*+(?:%|[a-z]{{1,2}}\b|(?![a-z])))
    |(?P<character>[{_UNSPACED}])
    |(?P<word>[#$@]?(?:(?![{_UNSPACED}])\w)+(?:[.&'’](?:(?![{_UNSPACED}])\w)+)*)
    |(?P<symbol>[\u2600-\u27bf\U0001f300-\U0001faff])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Word:
    """A word or two-word phrase, and the share of the texts before and after that contain it."""

    text: str
    before: float
    after: float


def typical(before: Sequence[Set[str]], after: Sequence[Set[str]]) -> list[Word]:
    """What is typical of the texts `after` against those `before`, by their `terms`, the most telling first.

    Log-odds ratios with an informative Dirichlet prior, by their z-scores (Monroe, Colaresi & Quinn 2008, "Fightin'
    Words"), counted in texts that contain a word, not in words: one text that repeats a word a hundred times says
    little. A phrase is listed instead of its words where it stands for most of their use.
    """
    if not before or not after:
        return []
    old, new = (Counter(term for terms_of_one in texts for term in terms_of_one) for texts in (before, after))
    listed = _apart(_scores(old, new, len(before), len(after)), new)
    return [Word(term, old[term] / len(before), new[term] / len(after)) for term in listed[:MOST]]


def terms(text: str) -> set[str]:
    """The words in a text's first `READ` characters, lower case, and the pairs with at most a space between them."""
    found: set[str] = set()
    read = html.unescape(text[:READ]).lower()
    end, last, last_kind = 0, "", ""
    for match in _TOKEN.finditer(read):
        kind = str(match.lastgroup)
        word = match[0] if kind in {"word", "character", "symbol"} else f"({kind})"
        if kind != "character":
            found.add(word)
        characters = (kind == "character") + (last_kind == "character")
        if last and word != last and characters != 1 and read[end : match.start()] in {"", " ", "-"}:
            found.add(last + word if characters else f"{last} {word}")
        end, last, last_kind = match.end(), word, kind
    return found


def _scores(old: Counter[str], new: Counter[str], texts_before: int, texts_after: int) -> dict[str, float]:
    """The z-scores of the terms that are more frequent after than chance would have it."""
    candidates = [term for term, count in new.items() if count >= LEAST_TEXTS]
    with_old, with_new = (np.array([side[term] for term in candidates], dtype=np.float64) for side in (old, new))
    prior = PRIOR_TEXTS * (with_old + with_new) / (texts_before + texts_after)
    log_odds, variance, plain = np.zeros((3, len(candidates)))
    for sign, count, texts in ((1, with_new, texts_after), (-1, with_old, texts_before)):
        having = count + prior
        # Half a text beyond those there are: a term in every text has finite odds.
        lacking = texts + PRIOR_TEXTS - having + 0.5
        log_odds += sign * np.log(having / lacking)
        variance += 1 / having + 1 / lacking
        plain += sign * np.log((count + 0.5) / (texts - count + 0.5))
    scores = np.where(plain >= np.log(LEAST_ODDS), log_odds / np.sqrt(variance), 0.0).tolist()
    return {term: score for term, score in zip(candidates, scores, strict=True) if score >= LEAST_Z}


def _apart(scores: dict[str, float], count: Counter[str]) -> list[str]:
    """Those that say something of their own, the highest score first."""
    ranked = sorted(scores, key=lambda term: (-scores[term], term))
    listed: list[str] = []
    said: set[str] = set()
    for term in ranked:
        typical_parts = [part for part in _parts(term) if part in scores]
        # Where one part alone is typical, the other is a word like "the".
        telling = len(typical_parts) != 1 and all(2 * count[term] > count[part] for part in typical_parts)
        if len(_parts(term)) == 2 and telling and said.isdisjoint(_parts(term)):
            listed.append(term)
            said.update(_parts(term))
    listed += [term for term in ranked if len(_parts(term)) == 1 and term not in said]
    return sorted(listed, key=ranked.index)


def _parts(term: str) -> list[str]:
    """The one or two words of a term; of a word of unspaced characters, those."""
    return list(term) if re.fullmatch(f"[{_UNSPACED}]{{2}}", term) else term.split(" ")
