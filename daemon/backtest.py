"""The daemon's own code on a recorded stream, on the stream's own clock.

A slice of the recording is scored as the scorer would and stepped through as the controller would. Training takes no
stream time: the next slice is scored by what came of it. With a seed, the same recording gives the same decisions.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from connectors.topic import Message
from daemon.config import Config, RecordsConfig, RegistryConfig
from daemon.controller import Controller
from daemon.engine import Engine, load_engine
from daemon.errors import RelearndError
from daemon.fit import LOOK, fit
from daemon.ledger import Ledger, by_domain
from daemon.metrics import Metrics
from daemon.recording import Slice, slices
from daemon.records import Alert, DeadLetter, Decoder, Label, LabelRequest, Score, Text, utc
from daemon.registry import Registry
from daemon.report import write_page
from daemon.rows import HoldoutRow, dump, labelled, read
from daemon.scorer import answers, forward, prepare
from daemon.state import open_state
from learners.job import Progress


class BacktestError(RelearndError):
    """The backtest cannot run; the message says what is missing."""


#: Decides which recorded labels are delivered: given those that are due and what was asked for since the last call.
Annotator = Callable[[Sequence[Message], Sequence[LabelRequest]], Sequence[Message]]


class Watcher(Protocol):
    """Whoever shows a backtest's progress."""

    def learned(self, version: str, done: Progress) -> None: ...

    def moved(self, texts: int, controller: Controller) -> None: ...


class Backtest:
    """One run over a recording; its home, `report.json` and `report.html` go to `out`."""

    def __init__(self, config: Config, out: Path, watcher: Watcher, annotator: Annotator | None = None) -> None:
        """Without an `annotator` every label is delivered when it is due. What is not delivered is judged by still."""
        self.out = out
        # What is promoted here stays here: no scorer may fetch it.
        changes = {"home": (out / "home").resolve(), "registry": RegistryConfig(), "records": _plain(config.records)}
        self.config = config.model_copy(update=changes)
        self.ledger = Ledger()
        self._live_home = config.home
        self._watcher = watcher
        self._annotator = annotator
        self._asked: list[LabelRequest] = []
        self._text_decoder = Decoder(Text, self.config.records)
        self._label_decoder = Decoder(Label, self.config.records)
        self._registry = Registry(self.config.home / "models")

    def run(self, *, texts: Path, labels: Path, base: Path | None, holdout: Path | None) -> dict[str, Any]:
        """Run it and write the report and its page; returns the report.

        Raises:
            BacktestError: there is no model to begin with.
            RowsError, FitError: the files or the first model are unusable.
        """
        held_out = read(holdout, HoldoutRow) if holdout else []
        self._begin(base)
        topics = self.config.topics
        for part in slices(texts, labels, texts_topic=topics.texts, labels_topic=topics.labels):
            self._advance(part)
        self.ledger.judge_static(self._base)
        report = self.ledger.report(self._db, self.config)
        if held_out:
            report["holdout"] = {"base": by_domain(self._base, held_out), "final": by_domain(self._engine, held_out)}
        report["hindsight"] = self.ledger.look_back(
            self._engine.version, self._registry.learned, self._load, self.config.memory
        )
        (self.out / "report.json").write_text(dump(report), encoding="utf-8")
        write_page(report, self.ledger.series(), self.out / "report.html")
        self._db.close()
        return report

    def _begin(self, base: Path | None) -> None:
        shutil.rmtree(self.config.home, ignore_errors=True)
        self._db = open_state(self.config.home / "state.db")
        if base is None:
            self._copy_newest()
        else:
            began = time.perf_counter()
            fit(labelled(base), self._db, self.config, show=lambda progress: self._watcher.learned("v1", progress))
            self.ledger.seconds["training"] += time.perf_counter() - began
        self.controller = Controller(self._db, self.config, self._registry, Metrics("backtest"))
        champion = self.controller.begin(0.0)
        if champion is None:
            raise BacktestError(f"no model came to be in {self._registry.directory}")
        self._engine = self._base = self._load(champion.version)

    def _copy_newest(self) -> None:
        """Begin with the newest version of the live home, and leave that home alone."""
        manifests = Registry(self._live_home / "models").manifests()
        if not manifests:
            raise BacktestError(
                f"no model in {self._live_home}: give --base with labelled rows, or run `relearnd fit` first"
            )
        newest = manifests[-1].version
        shutil.copytree(self._live_home / "models" / newest, self._registry.path(newest))

    def _load(self, version: str) -> Engine:
        return load_engine(version, self._registry.verify(version), self.config)

    def _advance(self, part: Slice) -> None:
        scores = self._score(part) if part.texts else []
        labels: Sequence[Message] = part.labels
        if self._annotator is not None:
            labels = self._annotator(part.labels, self._asked)
            self._asked = []
        self.controller.step([*scores, *labels], {}, part.now)
        self._publish()
        self._note(part)
        while self.controller.training.learner is not None:
            self._learn(part.now)
        champion = self.controller.champion
        if champion is not None and champion.version != self._engine.version:
            self._engine = self._load(champion.version)
        self._watcher.moved(self.ledger.texts, self.controller)

    def _score(self, part: Slice) -> list[Message]:
        """The scores of a slice's texts, as the controller reads them."""
        began = time.perf_counter()
        now = utc(part.now)
        batch = prepare(part.texts, self._engine, self._text_decoder, {}, now, began)
        messages = []
        for outgoing in answers(forward(batch), self.config, now):
            if outgoing.topic == self.config.topics.scores:
                messages.append(Message(outgoing.topic, 0, self.ledger.scored, part.now, None, outgoing.value, {}))
                self.ledger.add_score(Score.model_validate_json(outgoing.value))
            else:
                self.ledger.dead_letters += 1
        self.ledger.seconds["scoring"] += time.perf_counter() - began
        self.ledger.texts += len(part.texts)
        return messages

    def _note(self, part: Slice) -> None:
        for message in part.labels:
            label = self._label_decoder.decode(message, utc(part.now))
            if not isinstance(label, DeadLetter):
                self.ledger.add_label(label, self._engine.labels)
        self.ledger.labels += len(part.labels)
        for (detector, signal), value in self.controller.intake.watch.monitor.statistics().items():
            self.ledger.add_statistic(f"{detector} on {signal}", value)

    def _learn(self, now: float) -> None:
        """Wait for the learner, then let the controller judge what it left."""
        began = time.perf_counter()
        job, learner = self.controller.training.jobs.running(), self.controller.training.learner
        while learner is not None and learner.running():
            learner.wait(LOOK)
            if job is not None and (progress := learner.progress()) is not None:
                self._watcher.learned(job.version, progress)
        self.ledger.seconds["training"] += time.perf_counter() - began
        self.controller.step([], {}, now)
        self._publish()

    def _publish(self) -> None:
        """Take what the controller has to say, where the daemon would write it to the topics."""
        while waiting := self.controller.outbox.waiting():
            for _, message in waiting:
                if message.topic == self.config.topics.alerts:
                    self.ledger.alerts.append(Alert.model_validate_json(message.value))
                if message.topic == self.config.topics.label_requests:
                    self._asked.append(LabelRequest.model_validate_json(message.value))
                self.ledger.dead_letters += message.topic == self.config.topics.dead_letters
            self.controller.outbox.forget(waiting[-1][0] + 1)


def _plain(records: RecordsConfig) -> RecordsConfig:
    """The limits without the shapes: a recording is JSON of relearnd's own, and no registry is asked."""
    shapes = ("texts", "labels", "scores", "alerts", "registry")
    return records.model_copy(update={name: RecordsConfig.model_fields[name].default for name in shapes})
