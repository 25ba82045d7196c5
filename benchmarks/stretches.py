"""Recorded streams, cut into the stretches that a model learns one after another."""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from daemon.memory import Labelled

Rows = Sequence[Labelled]

#: The domains of `domains.holdout`, by the source that the stream gives their texts.
DOMAINS = {
    "company_news_sentence": "phrasebank",
    "india_business_headline": "sentfin",
    "commodity_headline": "gold",
    "single_stock_tweets": "apple2014",
    "finance_tweet_newswire": "twitterfin",
    "stocktwits_retail": "stockemotions",
}

#: Rows of one source in a row that make a stretch; shorter runs are two sources mixed.
LONG_RUN = 100

#: Where the share of positive posts moved in 2020.
TURNS = ("2020-02-20", "2020-03-24", "2020-07-01")


@dataclass(frozen=True)
class Slice:
    """Held-out examples of one kind, and the stretch (its place) that first teaches it; -1: the base rows do."""

    name: str
    rows: Rows
    taught_by: int


@dataclass(frozen=True)
class Course:
    """What there is to learn, in order: `base` first, then the stretches; `slices` say what was learned and kept."""

    name: str
    labels: list[str]
    base: Rows
    stretches: list[Rows]
    slices: list[Slice]

    def cut(self, learned: int, held_out: int) -> "Course":
        """At most so many rows in each stretch and in the base, and in each slice: evenly picked, order kept."""
        return replace(
            self,
            base=_pick(self.base, learned),
            stretches=[_pick(rows, learned) for rows in self.stretches],
            slices=[replace(one, rows=_pick(one.rows, held_out)) for one in self.slices],
        )


def domains(folder: Path, order: int) -> Course:
    """PhraseBank, headlines, gold, Apple, finance tweets, StockTwits, then the first two again, mixed."""
    stream = [row._replace(source=DOMAINS[row.source or ""]) for row in _joined(folder, "domains")]
    runs = [list(rows) for _, rows in groupby(stream, key=lambda row: row.source)]
    alone = [run for run in runs if len(run) >= LONG_RUN]
    stretches = [*alone, [row for run in runs if len(run) < LONG_RUN for row in run]]
    base = [_row(row, "phrasebank") for row in _read(folder / "domains.base.jsonl.gz")]
    held_out = [_row(row, row["domain"]) for row in _read(folder / "domains.holdout.jsonl.gz")]
    return _course("domains", base, _shuffled(stretches, order), held_out, known={"phrasebank"})


def crash2020(folder: Path, order: int) -> Course:
    """StockTwits posts of 2020, cut where the mood turned; PhraseBank, the base, must not be forgotten."""
    stream = [row._replace(source="stocktwits") for row in _joined(folder, "crash2020")]
    turns = [datetime.fromisoformat(f"{turn}T00:00:00+00:00").timestamp() for turn in TURNS]
    stretches = [list(rows) for _, rows in groupby(stream, key=lambda row: sum(row.timestamp >= t for t in turns))]
    base = [_row(row, "phrasebank") for row in _read(folder / "domains.base.jsonl.gz")]
    kept = [row for row in _read(folder / "domains.holdout.jsonl.gz") if row["domain"] == "phrasebank"]
    held_out = [_row(row, "stocktwits") for row in _read(folder / "crash2020.holdout.jsonl.gz")]
    held_out += [_row(row, "phrasebank") for row in kept]
    return _course("crash2020", base, _shuffled(stretches, order), held_out, known={"phrasebank"})


def five_tasks(folder: Path, order: int) -> Course:
    """The five-task set of continual-learning papers: each task has labels of its own; the first is the base."""
    names = ["dbpedia", "amazon", "yahoo", "agnews", "yelp"]
    tasks, held_out = [], []
    for name in names:
        tasks.append([_row(row, name) for row in _read(folder / "cl5_textclass" / f"{name}.train.jsonl.gz")])
        held_out += [_row(row, name) for row in _read(folder / "cl5_textclass" / f"{name}.test.jsonl.gz")]
    tasks = _shuffled(tasks, order)
    return _course("five tasks", tasks[0], tasks[1:], held_out, known={tasks[0][0].source or ""})


def clinc150(folder: Path, order: int) -> Course:
    """CLINC's 150 intents in ten steps of 15, the first of which is the base."""
    train = list(_read(folder / "clinc150" / "train.jsonl.gz"))
    intents = sorted({row["label"] for row in train})
    random.Random(7).shuffle(intents)
    step_of = {intent: f"step {place // 15 + 1:02}" for place, intent in enumerate(intents)}
    rows = [_row(row, step_of[row["label"]]) for row in train]
    by_step = [[row for row in rows if row.source == step] for step in sorted(set(step_of.values()))]
    held_out = [_row(row, step_of[row["label"]]) for row in _read(folder / "clinc150" / "test.jsonl.gz")]
    steps = _shuffled(by_step, order)
    return _course("clinc150", steps[0], steps[1:], held_out, known={steps[0][0].source or ""})


COURSES: dict[str, Callable[[Path, int], Course]] = {
    "domains": domains,
    "crash2020": crash2020,
    "five": five_tasks,
    "clinc150": clinc150,
}


def _course(name: str, base: Rows, stretches: Sequence[Rows], held_out: Rows, known: set[str]) -> Course:
    slices = []
    for source in sorted({row.source or "" for row in held_out}):
        taught_by = -1
        if source not in known:
            taught_by = next(at for at, rows in enumerate(stretches) if any(row.source == source for row in rows))
        slices.append(Slice(source, [row for row in held_out if row.source == source], taught_by))
    labels = sorted({row.label for rows in (base, *stretches) for row in rows})
    return Course(name, labels, base, list(stretches), slices)


def label_times(folder: Path, name: str) -> dict[str, float]:
    """When the label of each text of a recorded stream comes, in seconds since the epoch."""
    rows = _read(folder / f"{name}.labels.jsonl.gz")
    return {row["id"]: datetime.fromisoformat(row["timestamp"]).timestamp() for row in rows}


def _joined(folder: Path, name: str) -> list[Labelled]:
    """The texts of a stream that have a label, in the order of the texts."""
    labels = {row["id"]: row["label"] for row in _read(folder / f"{name}.labels.jsonl.gz")}
    return [
        _row({**row, "label": labels[row["id"]]}, row["source"])
        for row in _read(folder / f"{name}.texts.jsonl.gz")
        if row["id"] in labels
    ]


def _row(row: dict[str, Any], source: str) -> Labelled:
    at = row.get("timestamp")
    moment = datetime.fromisoformat(at).timestamp() if at else 0.0
    return Labelled(row["id"], row["text"], row["label"], source, row.get("key"), moment)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _shuffled(stretches: list[list[Labelled]], order: int) -> list[list[Labelled]]:
    """As they came for order 0; another order of the stretches for any other."""
    stretches = list(stretches)
    if order:
        random.Random(order).shuffle(stretches)
    return stretches


def _pick(rows: Rows, most: int) -> Rows:
    if len(rows) <= most:
        return rows
    return [rows[at * len(rows) // most] for at in range(most)]
