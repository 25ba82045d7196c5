"""The same text about somebody else: companies, tickers and people swapped for others of their kind.

What a model makes of a text should rest on the news, not on whom it is about. Names are recognised by their form (a
cashtag, a company's legal form, a title before a person) and from short lists, so that it needs no model and no
network; a name that is not recognised stays.
"""

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b

from learners.known_names import COMPANIES, FIRST_NAMES, PEOPLE, TICKERS

#: Legal forms that end a company's name. They stay where they are.
FORMS = (
    r"Inc|Incorporated|Corp|Corporation|Co|Company|Ltd|Limited|LLC|LP|plc|PLC|Plc|AG|SE|SA|S\.A|NV|N\.V|AB|ASA|AS|A/S|"
    r"Oyj|Oy|SpA|S\.p\.A|GmbH|KGaA|KK|Bhd|Group|Holdings?|Bancorp"
)

#: Titles before a person's name, which stay where they are. No offices: in "CEO Resigns" nobody is named.
TITLES = r"Mr|Mrs|Ms|Dr|Sir|Lady|Lord|Prof"

#: A capitalised word, as it stands in a name.
WORD = r"[A-Z][\w&'’-]*\w"

#: Capitalised words that no name begins with, as in "The Company" and "At Nokia Group".
OPENERS = r"A|After|An|And|As|At|Before|But|By|For|From|If|In|Its|Of|On|Our|Since|That|The|This|To|When|While|With"

#: Currencies that look like tickers.
MONEY = r"AU|AUD|CA|CAD|HK|HKD|NZ|NZD|SG|SGD|US|USD"


def _any(names: Iterable[str]) -> str:
    # The longest first, or "Deutsche" would take "Deutsche Bank" apart.
    return "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))


NAMES = re.compile(
    rf"\$(?!(?:{MONEY})\b)(?P<cashtag>[A-Z]{{1,5}}(?:\.[A-Z])?)(?![\w$])"
    rf"|\b(?:NYSE|NASDAQ|Nasdaq|LSE|HEL)\s?:\s?(?P<listed>[A-Z]{{1,5}})\b"
    rf"|\b(?!(?:{OPENERS})\b)(?P<formed>{WORD}(?:\s{WORD}){{0,2}}?)(?=,?\s(?:{FORMS})\b)"
    rf"|\b(?:{TITLES})\.?\s(?P<titled>(?:(?:{_any(FIRST_NAMES)})\s)?{WORD})"
    rf"|\b(?P<person>(?:{_any(FIRST_NAMES)})\s{WORD})"
    rf"|\b(?P<company>{_any(COMPANIES)})\b"
)

#: What a name of each kind is swapped for.
KINDS = {
    "cashtag": TICKERS,
    "listed": TICKERS,
    "formed": COMPANIES,
    "company": COMPANIES,
    "titled": PEOPLE,
    "person": PEOPLE,
}


def renamed(text: str, seed: int) -> str:
    """`text` with every name in it swapped, the same one always for the same other; as it is when it has none."""
    given: dict[str, str] = {}

    def swap(found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        name = found[kind]
        if kind == "formed" and _is_headline(text[: found.start()] + text[found.end() :]):
            return found[0]
        if name not in given:
            given[name] = _another(name, KINDS[kind], given.values(), seed)
        start = found.start(kind) - found.start()
        return found[0][:start] + given[name] + found[0][start + len(name) :]

    return NAMES.sub(swap, text)


def _is_headline(rest: str) -> bool:
    """Whether most long words are capitalised, names or not: there is no telling where a name begins."""
    words = re.findall(r"[^\W\d_]{4,}", rest)
    capitalised = [word for word in words if word[:1].isupper()]
    return len(capitalised) > len(words) / 2


def _another(name: str, names: tuple[str, ...], taken: Iterable[str], seed: int) -> str:
    """A name that is neither `name` nor, while there are any left, one of `taken`: by a hash, so it stays the same."""
    others = [other for other in names if other != name]
    free = [other for other in others if other not in set(taken)] or others
    return min(free, key=_order(name, seed))


def _order(name: str, seed: int) -> Callable[[str], bytes]:
    return lambda other: blake2b(f"{seed}:{name}:{other}".encode(), digest_size=8).digest()
