"""The demo's texts, written by a grammar: company news, then a trading forum, then both.

Six made-up companies are in the news (`newswire.grammar`) when the stream turns, from one text to the next, into the
slang of a trading forum (`forum.grammar`), which a model of the news reads wrongly; later both come mixed. During the
mixed part something turns up in one company's lasagne.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

from daemon.records import Label, Text
from daemon.rows import HoldoutRow, TrainingRow

NEWSWIRE, FORUM = "newswire", "forum"
LABELS = ("negative", "neutral", "positive")


class Company(NamedTuple):
    ticker: str
    name: str
    short: str
    weight: float


COMPANIES = (
    Company("QLLN", "Quillon Semiconductor", "Quillon", 5),
    Company("BRKW", "Brackwell Foods", "Brackwell", 5),
    Company("CRVN", "Corvane Robotics", "Corvane", 4),
    Company("DLPA", "Delphine Air", "Delphine", 4),
    Company("ARLM", "Aurelm Energy", "Aurelm", 3),
    Company("FNMB", "Fennimore Bank", "Fennimore", 3),
)

#: Share of each label outside the spike: the same in every stretch, so that no drift of the mix hides behind the slang.
MIX = {"negative": 0.29, "neutral": 0.38, "positive": 0.33}
#: People who label make mistakes: this share of the labels of `base` and of the stream is another one.
MISLABELLED = 0.03
#: The scandal: its company, how much of the talk is about it, and how much of that is bad.
SCANDAL_TICKER, SCANDAL_TALK, SCANDAL_BAD = "BRKW", 0.65, 0.9


class Stretch(NamedTuple):
    """A part of the stream: how many texts, and which share of them is from the forum."""

    texts: int
    forum: float


STRETCHES = (Stretch(900, 0.0), Stretch(1900, 1.0), Stretch(1200, 0.35))


class Spike(NamedTuple):
    """When the bad news about `key` begins and ends."""

    key: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class DemoStream:
    """`base` is what version 1 is fitted on; `labels` are in the order of their own timestamps.

    `holdout` rows are of the domains "newswire" and "forum" and carry no mistakes.
    """

    base: list[TrainingRow]
    texts: list[Text]
    labels: list[Label]
    holdout: list[HoldoutRow]
    spike: Spike


class GrammarError(ValueError):
    """A grammar file is not well formed; the message says where."""


class Grammar:
    """Rules read from a `.grammar` file; how they are written is told at the head of `newswire.grammar`."""

    def __init__(self, name: str, lines: Iterable[str]) -> None:
        self._rules: dict[str, tuple[list[str], list[float]]] = {}
        rule = ""
        for number, line in enumerate(lines, 1):
            text = line.rstrip("\n")
            if not text or text.startswith("#"):
                continue
            if heading := re.fullmatch(r"\[([\w.]+)\]", text):
                rule = heading[1]
                if rule in self._rules:
                    raise GrammarError(f"{name}:{number}: [{rule}] is already there")
                self._rules[rule] = [], []
                continue
            if not rule:
                raise GrammarError(f"{name}:{number}: text before the first [rule]")
            weighted = re.fullmatch(r"(\d+) \| (.*)", text)
            weight, text = (float(weighted[1]), weighted[2]) if weighted else (1.0, text)
            self._rules[rule][0].append("" if text == "_" else text)
            self._rules[rule][1].append(weight)
        self._check(name)

    @classmethod
    def read(cls, name: str) -> "Grammar":
        path = Path(__file__).with_name(f"{name}.grammar")
        return cls(path.name, path.read_text(encoding="utf-8").splitlines())

    def write(self, symbol: str, company: Company, rng: Random) -> str:
        """One text by the rule `symbol`, about `company`."""
        mentions = 0

        def fill(slot: re.Match[str]) -> str:
            nonlocal mentions
            name = slot[1]
            if name == "company":
                mentions += 1
                return _mention(company, mentions, rng)
            if name in ("tick", "ticker"):
                return f"${company.ticker}" if name == "tick" else company.ticker
            own = f"{name}.{company.ticker}"
            if (rule := self._rules.get(own) or self._rules.get(name)) is None:
                return _NUMBERS[name](rng)
            return _SLOT.sub(fill, rng.choices(rule[0], rule[1])[0])

        text = _SLOT.sub(fill, f"{{{symbol}}}")
        # An empty alternative leaves its spaces behind.
        return re.sub(r" +(?=[ ,.?!])", "", text).strip()

    def _check(self, name: str) -> None:
        rules = {rule.split(".")[0] for rule in self._rules} | set(_NUMBERS) | {"company", "tick", "ticker"}
        for rule, (alternatives, _) in self._rules.items():
            for slot in _SLOT.findall("".join(alternatives)):
                if slot not in rules:
                    raise GrammarError(f"{name}: [{rule}] uses {{{slot}}}, which is no rule")


_SLOT = re.compile(r"\{(\w+)\}")


def _mention(company: Company, mentions: int, rng: Random) -> str:
    if mentions == 1:
        return rng.choice((company.name, company.name, company.short))
    return rng.choice(("the company", "the group", company.short))


def _percent(rng: Random) -> str:
    number = f"{rng.uniform(1.1, 29):.1f}" if rng.random() < 0.5 else str(rng.randint(2, 48))
    return number + rng.choice(("%", "%", " %", " percent", " per cent"))


def _amount(rng: Random, millions: float) -> str:
    if millions >= 1000:
        return rng.choice((f"EUR {millions / 1000:.1f} billion", f"€{millions / 1000:.2f}bn", f"EUR{millions:,.0f}m"))
    return rng.choice(
        (f"EUR {millions:.1f} million", f"EUR {millions:.1f}mn", f"€{millions:.0f}m", f"EUR{millions:.1f}m")
    )


def _change(rng: Random, factor: float) -> str:
    before = rng.uniform(8, 1800)
    return f"to {_amount(rng, before * factor)} from {_amount(rng, before)}"


_FEW = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

#: Slots that are numbers rather than rules.
_NUMBERS: Mapping[str, Callable[[Random], str]] = {
    "pct": _percent,
    "dip": lambda rng: f"{rng.randint(2, 19)}%",
    "fewpct": lambda rng: f"{rng.choice((5, 10, 15, 20, 25))}{rng.choice(('%', ' percent'))}",
    "bigpct": lambda rng: f"{rng.randint(12, 420)}%",
    "money": lambda rng: _amount(rng, rng.choice((1, 10, 100)) * rng.uniform(1.2, 30)),
    "rise": lambda rng: _change(rng, rng.uniform(1.03, 1.5)),
    "fall": lambda rng: _change(rng, rng.uniform(0.5, 0.97)),
    "count": lambda rng: f"{rng.choice((rng.randint(12, 99) * 10, rng.randint(1001, 9800))):,}",
    "cases": lambda rng: str(rng.randint(19, 480)),
    "few": lambda rng: rng.choice(_FEW),
    "n": lambda rng: str(rng.choice((rng.randint(2, 40), rng.randint(2, 90) * 10))),
    "year": lambda rng: str(rng.randint(2019, 2025)),
    "lately": lambda rng: str(rng.choice((2024, 2025))),
    "ahead": lambda rng: str(rng.choice((2026, 2027))),
    "someday": lambda rng: str(rng.randint(2029, 2061)),
    "day": lambda rng: f"{rng.randint(1, 28)} {rng.choice(('February', 'March', 'April', 'May', 'June'))}",
    "hour": lambda rng: f"{rng.randint(7, 11)}:{rng.choice(('00', '15', '30', '45'))} {rng.choice(('am', 'pm'))}",
    "price": lambda rng: f"{rng.uniform(8, 80):.2f}",
    "low": lambda rng: str(rng.randint(4, 15)),
    "high": lambda rng: str(rng.randint(70, 140)),
    "strike": lambda rng: str(rng.randrange(15, 95, 5)),
    "expiry": lambda rng: f"{rng.randint(1, 12)}/{rng.randint(1, 28)}",
}


def _sentence(text: str) -> str:
    """With a capital at the start and after a full stop, and one full stop at the end."""
    text = re.sub(r"(?:^|(?<=[a-z]\. ))[a-z]", lambda match: match[0].upper(), text)
    text = text.replace("s's ", "s' ")
    return text if text.endswith((".", '"')) else f"{text}."


_STRETCHED = re.compile(r"\b(so|moon|bro|rip|no|lol|guh|gone|over|zero|again|cooked|please|gonna|toast|ripping)\b")


def _stretch(word: str, rng: Random) -> str:
    at = max(word.rfind(vowel) for vowel in "aeiou")
    return word[:at] + word[at] * rng.randint(3, 7) + word[at + 1 :]


def _mistype(text: str, rng: Random) -> str:
    """Two neighbouring letters swapped, one lost or one doubled, inside a word."""
    words = list(re.finditer(r"(?<![$\w])[a-z]{5,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 2)
    one, two = text[at], text[at + 1]
    return text[:at] + rng.choice((two + one, two, one + one + two)) + text[at + 2 :]


def _post(grammar: Grammar, text: str, mood: str, company: Company, rng: Random) -> str:
    """A line of the forum as somebody would have typed it."""
    if rng.random() < 0.25:
        text = f"{grammar.write('opener', company, rng)} {text}"
    if rng.random() < 0.25:
        joint = rng.choice((" ", ", ", ". ")) if text[-1].isalnum() else " "
        text = f"{text}{joint}{grammar.write('closer', company, rng)}"
    if rng.random() < 0.2:
        text = _STRETCHED.sub(lambda match: _stretch(match[0], rng), text, count=1)
    for _ in range(rng.choices((0, 1, 2), (80, 15, 5))[0]):
        text = _mistype(text, rng)
    text = rng.choices((text, text.upper(), text[:1].upper() + text[1:], text.replace("'", "")), (70, 9, 13, 8))[0]
    if rng.random() < 0.12:
        text += rng.choice(("!!", "!!!", "...", "!!1"))
    if company.ticker not in text and rng.random() < 0.75:
        tick = f"${company.ticker}"
        text = f"{text} {tick}" if rng.random() < 0.25 else f"{tick} {text}"
    if rng.random() < 0.55:
        text += " " + grammar.write(mood if rng.random() < 0.8 else rng.choice(_MOJI), company, rng)
    return text


_MOJI = ("upmoji", "mehmoji", "downmoji")
_MOOD = dict(zip(("positive", "neutral", "negative"), _MOJI, strict=True))


class _Author:
    """Writes texts, none of them twice."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._grammars = {name: Grammar.read(name) for name in (NEWSWIRE, FORUM)}
        self._seen: set[str] = set()

    def write(self, source: str, company: Company, label: str, *, scandal: bool = False) -> str:
        while True:
            grammar = self._grammars[source]
            if source == NEWSWIRE:
                text = grammar.write("scandal", company, self._rng) if scandal else ""
                text = text + grammar.write("scandaltail", company, self._rng) if scandal else text
                text = _sentence(text or grammar.write(label, company, self._rng))
            else:
                text = grammar.write("scandal" if scandal else label, company, self._rng)
                text = _post(grammar, text, _MOOD[label], company, self._rng)
            bare = re.sub(r"\W", "", text.casefold())
            if bare not in self._seen:
                self._seen.add(bare)
                return text


def generate(
    seed: int,
    *,
    base: int = 900,
    stretches: Sequence[Stretch] = STRETCHES,
    spike_texts: int = 180,
    holdout: int = 300,
    start: datetime = datetime(2026, 3, 2, 6, tzinfo=UTC),
    gap: float = 20.0,
) -> DemoStream:
    """The demo for `seed`: the same arguments give the same texts.

    `base` rows of company news to fit version 1 on, then the stream, one text every `gap` seconds of its own time
    from `start`, and `holdout` rows of each domain. Labels follow their texts after 20 to 90 minutes. The spike
    begins after 40% of the last stretch and is over `spike_texts` texts later.
    """
    rng = Random(seed)
    author = _Author(rng)
    rows = [_draw(author, NEWSWIRE, rng) for _ in range(base)]
    begin = sum(stretch.texts for stretch in stretches[:-1]) + int(0.4 * stretches[-1].texts)
    texts: list[Text] = []
    labels: list[Label] = []
    now = start
    for forum in (stretch.forum for stretch in stretches for _ in range(stretch.texts)):
        source = FORUM if rng.random() < forum else NEWSWIRE
        scandal = begin <= len(texts) < begin + spike_texts and rng.random() < SCANDAL_TALK
        company, label, text = _draw(author, source, rng, scandal=scandal)
        now += timedelta(seconds=rng.uniform(0.4, 1.6) * gap)
        name = f"demo-{len(texts):05}"
        texts.append(Text(id=name, text=text, timestamp=now, key=company.ticker, source=source))
        later = now + timedelta(minutes=rng.uniform(20, 90))
        labels.append(Label(id=name, label=_by_hand(label, rng), timestamp=later))
    labels.sort(key=lambda label: (label.timestamp or start, label.id))
    held_out = [(source, _draw(author, source, rng)) for source in (NEWSWIRE, FORUM) for _ in range(holdout)]
    return DemoStream(
        base=[
            TrainingRow(id=f"base-{i:04}", text=text, label=_by_hand(label, rng), source=NEWSWIRE, key=company.ticker)
            for i, (company, label, text) in enumerate(rows)
        ],
        texts=texts,
        labels=labels,
        holdout=[HoldoutRow(text=text, label=label, domain=source) for source, (_, label, text) in held_out],
        spike=Spike(SCANDAL_TICKER, texts[begin].timestamp, texts[begin + spike_texts - 1].timestamp),
    )


def _draw(author: _Author, source: str, rng: Random, *, scandal: bool = False) -> tuple[Company, str, str]:
    company = rng.choices(COMPANIES, [company.weight for company in COMPANIES])[0]
    label = rng.choices(LABELS, [MIX[label] for label in LABELS])[0]
    if scandal:
        company = next(company for company in COMPANIES if company.ticker == SCANDAL_TICKER)
        scandal = rng.random() < SCANDAL_BAD
        label = "negative" if scandal else label
    return company, label, author.write(source, company, label, scandal=scandal)


def _by_hand(label: str, rng: Random) -> str:
    return rng.choice([other for other in LABELS if other != label]) if rng.random() < MISLABELLED else label
