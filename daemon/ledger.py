"""The account of a run: what came, what was true of it, and what the live and the static model made of it.

A backtest and the demo keep one, and draw up the same report and plots from it.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from daemon.config import Config, MemoryConfig
from daemon.engine import Engine
from daemon.gate.audit import together
from daemon.hindsight import Lead, Seen, look_back
from daemon.prequential import Confusion
from daemon.records import Alert, Label, Score, utc
from daemon.report import Series
from daemon.rows import HoldoutRow
from daemon.state import Decisions
from daemon.training import Job, Jobs


class Judged(NamedTuple):
    """A labelled text: its place in the stream, the score it got when it came, and the truth."""

    text_index: int
    score: Score
    truth: str


@dataclass
class Ledger:
    """Fill it as records come, then ask for `report` and `series`. `seconds` is what each kind of work took."""

    texts: int = 0
    labels: int = 0
    scored: int = 0
    dead_letters: int = 0
    alerts: list[Alert] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"scoring": 0.0, "training": 0.0})
    judged: dict[str, Judged] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    _arrived: dict[str, tuple[int, Score]] = field(default_factory=dict)
    _statistics: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    _static: dict[str, str] = field(default_factory=dict)

    def add_score(self, score: Score) -> None:
        """A text that was scored; the first score of an id counts."""
        self._arrived.setdefault(score.id, (self.scored, score))
        self.scored += 1

    def add_label(self, label: Label, known: Sequence[str]) -> None:
        """A label; the first one of an id counts, if it is one of the `known` ones."""
        arrived = self._arrived.get(label.id)
        if arrived is not None and label.id not in self.judged and label.label in known:
            self.judged[label.id] = Judged(*arrived, label.label)

    def add_statistic(self, detector: str, value: float) -> None:
        """A drift detector's statistic after the latest text."""
        indexes, values = self._statistics.setdefault(detector, ([], []))
        indexes.append(self.scored)
        values.append(value)

    def judge_static(self, base: Engine) -> None:
        """Have the model of the beginning, never updated, score the labelled texts that it has not scored yet."""
        missing = [id for id in self.judged if id not in self._static]
        labels = base.best([self.judged[id].score.text for id in missing])
        self._static.update(zip(missing, labels, strict=True))

    def correct(self) -> tuple[list[bool], list[bool]]:
        """Whether the live and the static model were right on each labelled text, in the order of the labels."""
        live = [one.score.label == one.truth for one in self.judged.values()]
        return live, [self._static[id] == one.truth for id, one in self.judged.items()]

    def report(self, db: sqlite3.Connection, config: Config) -> dict[str, Any]:
        """What `report.json` holds; the decisions and versions are read from the state `db`."""
        decisions, jobs = Decisions(db).latest(-1), Jobs(db).all()
        live = [(one.truth, one.score.label) for one in self.judged.values()]
        static = [(one.truth, self._static[id]) for id, one in self.judged.items()]
        return {
            "texts": self.texts,
            "labels": self.labels,
            "scored": self.scored,
            "dead_letters": self.dead_letters,
            "prequential": _quality(live),
            "static": _quality(static),
            "drift": {"alarms": [_alarm(decision) for decision in decisions if decision["kind"] == "drift"]},
            "models": [_version(job) for job in jobs],
            "audit": together(
                {job.version: job.decision["audit"] for job in jobs if job.decision and "audit" in job.decision},
                config.gate,
            ).as_dict(),
            "decisions": decisions,
            "alerts": [alert.model_dump(mode="json") for alert in self.alerts],
            "seconds": {**self.seconds, "total": time.perf_counter() - self.started},
            "settings": config.model_dump(mode="json", exclude={"home"}),
        }

    def look_back(
        self, final: str, learned: Callable[[str], str], load: Callable[[str], Engine], memory: MemoryConfig
    ) -> dict[str, Any] | None:
        """What each version that was live knew, see `daemon.hindsight`; `final` is the last champion.

        `learned` names the version that learned what another one knows, which only follows the label mix.
        """
        live = {model: learned(model) for model in {final, *(score.model for _, score in self._arrived.values())}}
        leads: list[Lead] = []
        for index, score in self._arrived.values():
            if not leads or leads[-1].version != live[score.model]:
                leads.append(Lead(index, live[score.model]))
        if leads and leads[-1].version != live[final]:
            leads.append(Lead(self.scored, live[final]))
        seen = [
            Seen(one.text_index, id, one.score.text, one.score.source, one.truth) for id, one in self.judged.items()
        ]
        return look_back(seen, leads, load, memory)

    def series(self) -> Series:
        """The labelled texts in the order of their labels, and the drift statistics."""
        judged = list(self.judged.values())
        live, static = self.correct()
        return Series(
            at=np.array([one.score.timestamp.timestamp() for one in judged], dtype=np.float64),
            text_index=np.array([one.text_index for one in judged], dtype=np.int64),
            live_correct=np.array(live, dtype=np.bool_),
            static_correct=np.array(static, dtype=np.bool_),
            source=[one.score.source for one in judged],
            statistics={
                name: (np.array(indexes, dtype=np.int64), np.array(values, dtype=np.float64))
                for name, (indexes, values) in self._statistics.items()
            },
        )


def by_domain(engine: Engine, rows: Sequence[HoldoutRow]) -> dict[str, dict[str, float | None]]:
    """Accuracy and macro-F1 of `engine` for each domain; a label that it does not know counts as wrong."""
    cut: dict[str, list[tuple[str, str]]] = {}
    for row, label in zip(rows, engine.best([row.text for row in rows]), strict=True):
        cut.setdefault(row.domain, []).append((row.label, label))
    return {domain: _quality(pairs) for domain, pairs in sorted(cut.items())}


def _quality(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    confusion = Confusion((truth, predicted, 1) for truth, predicted in pairs)
    return {"accuracy": confusion.accuracy, "macro_f1": confusion.macro_f1}


def _alarm(decision: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("text_index", "detector", "direction", "evidence", "because")
    more = ("slice", "signals", "began_index", "explanation", "action")
    began = decision["began_at"]
    return {
        "at": utc(decision["text_at"]).isoformat(),
        "began_at": None if began is None else utc(began).isoformat(),
        "kind": decision["kind_of_drift"],
        **{name: decision[name] for name in (*kept, *more)},
    }


def _version(job: Job) -> dict[str, Any]:
    decision = job.decision or {}
    report = decision.get("report", {})
    return {
        "version": job.version,
        "parent": job.parent,
        "challenger": job.challenger,
        "trigger": job.trigger,
        "because": job.reason,
        "method": report.get("method"),
        "examples": report.get("examples"),
        "replayed": report.get("replayed"),
        "steps": report.get("steps"),
        "samples": report.get("samples"),
        "train_seconds": report.get("seconds"),
        "promoted": job.state == "promoted",
        "reason": decision.get("because"),
        "audit": decision.get("audit"),
        "at": utc(job.created_at).isoformat(),
    }
