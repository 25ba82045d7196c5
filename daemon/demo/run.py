"""The whole loop, live, on the made-up stream: what `relearnd demo` does.

The daemon runs as it would in production, on topics of its own; the stream is replayed into them faster than life,
and everything shown is read from the topics and the state, as any other program could.
"""

import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from connectors.topic import Outgoing
from daemon import logs
from daemon.config import Config
from daemon.connect import open_connector
from daemon.demo.grammar import DemoStream, generate
from daemon.demo.view import Picture, render
from daemon.drift.kinds import CONFORMAL, EVERYTHING
from daemon.engine import Engine, load_engine
from daemon.fit import fit
from daemon.ledger import Ledger, by_domain
from daemon.memory import Labelled
from daemon.progress import FitBar, bars, print_report
from daemon.records import Alert, Label, Score, encode
from daemon.registry import Registry
from daemon.report import write_page
from daemon.rows import dump
from daemon.service import Service
from daemon.state import open_state
from daemon.status import status

#: How the demo differs from the defaults: its stream is some 200 times as fast as life, and so is its patience. A
#: training run takes hours of the stream's time, and what is scored meanwhile is in no alert window of the next
#: version; so windows are short, and less evidence makes a spike.
OVERRIDES = {
    "triggers": {"cooldown": 5.0, "drift_labels": 200, "min_labels": 100, "labels": 700},
    "alerts": {"window": 1800.0, "fire": 5e-4},
    "http": {"port": 0},
    "logging": {"format": "terminal"},
}

#: Texts and labels are sent this often, in seconds: small enough to look like a stream.
TICK = 0.1

#: The picture is drawn this often, in seconds.
FRAME = 0.25

#: Without a terminal, a line is printed this often instead, in seconds.
LINE_EVERY = 15.0

#: After the last label, a training run under way may take this long to end, in seconds.
PATIENCE = 120.0


@dataclass
class Sender:
    """Replays the stream into the topics, `rate` texts a second; labels come when the stream's clock says."""

    config: Config
    stream: DemoStream
    rate: float
    sent: int = 0
    done: bool = False

    def run(self, stop: threading.Event) -> None:
        connector = open_connector(self.config)
        labels = 0
        started = time.monotonic()
        with connector.writer() as writer:
            while not stop.is_set() and not self.done:
                due = min(len(self.stream.texts), round((time.monotonic() - started) * self.rate))
                texts = self.stream.texts[self.sent : due]
                clock = self.stream.texts[max(0, due - 1)].timestamp
                over = due == len(self.stream.texts)
                ready = labels
                while ready < len(self.stream.labels) and (over or _sooner(self.stream.labels[ready], clock)):
                    ready += 1
                answers = self.stream.labels[labels:ready]
                topics = self.config.topics
                writer.write([Outgoing(topics.texts, encode(text)) for text in texts])
                writer.write([Outgoing(topics.labels, encode(label)) for label in answers])
                self.sent, labels, self.done = due, ready, over
                stop.wait(TICK)
        connector.close()


def _sooner(label: Label, clock: Any) -> bool:
    return label.timestamp is not None and label.timestamp <= clock


class Demo:
    def __init__(
        self, config: Config, directory: Path, rate: float, console: Console, stream: DemoStream | None = None
    ) -> None:
        home = (directory / "home").resolve()
        self.config = config.model_copy(
            update={
                "home": home,
                **{name: getattr(config, name).model_copy(update=changes) for name, changes in OVERRIDES.items()},
            }
        )
        self.directory = directory
        self.console = console
        self.stream = stream or generate(config.seed)
        self.ledger = Ledger()
        self._sender = Sender(self.config, self.stream, rate)
        self._stop = threading.Event()
        self._failures: list[BaseException] = []

    def run(self) -> None:
        """Fit, stream, watch, and write the report. Ctrl-C ends it early, with the report of what there was."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._introduce()
        self._fit()
        service = Service(self.config, "all")
        with (self.directory / "relearnd.log").open("w", encoding="utf-8") as log:
            logs.set_up(self.config.logging, log)
            try:
                self._stream(service)
            finally:
                logs.take_down()
        self._report()

    def _introduce(self) -> None:
        self.console.print(
            f"Company news turns into a trading forum's slang, and later both come mixed: {len(self.stream.texts)} "
            "texts made by a grammar.\nA model that knows only the news scores them live; its labels come late. "
            f"Everything is in {self.directory}.\n"
        )

    def _fit(self) -> None:
        db = open_state(self.config.home / "state.db")
        rows = [Labelled(row.id or "", row.text, row.label, row.source, row.key, 0.0) for row in self.stream.base]
        with bars(self.console) as progress:
            manifest = fit(rows, db, self.config, show=FitBar(progress).show)
        db.close()
        quality = manifest.decision["report"]["candidate"]
        self.console.print(
            f"v1 has learned from {len(rows)} news sentences: {quality['accuracy']:.0%} right on others."
        )

    def _stream(self, service: Service) -> None:
        self._base = load_engine("v1", Registry(self.config.home / "models").path("v1"), self.config)
        serving = threading.Thread(target=self._guard, args=(service.run,))
        serving.start()
        sending = threading.Thread(target=self._guard, args=(lambda: self._sender.run(self._stop),))
        try:
            while not service.ready().ok and serving.is_alive():
                time.sleep(TICK)
            sending.start()
            self._watch(service, serving)
        except KeyboardInterrupt:
            self.console.print("Stopping…")
        finally:
            self._stop.set()
            service.stop.set()
            serving.join()
            if sending.is_alive():
                sending.join()
        if self._failures:
            raise self._failures[0]

    def _guard(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (kept, and raised by the main thread)
            self._failures.append(error)
            self._stop.set()

    def _watch(self, service: Service, serving: threading.Thread) -> None:
        """Draw until the stream is scored, its labels are in and no training run is under way."""
        connector = open_connector(self.config)
        topics = self.config.topics
        reader = connector.reader([topics.scores, topics.labels, topics.alerts])
        picture = Picture(texts=len(self.stream.texts), began=time.monotonic())
        line_due = waited_since = time.monotonic()
        with reader, Live(console=self.console, auto_refresh=False, transient=True, screen=False) as live:
            while serving.is_alive() and not self._failures:
                for message in reader.poll(1_000, FRAME):
                    self._note(message.topic, message.value)
                self.ledger.judge_static(self._base)
                found = status(self.config)
                self._fill(picture, service, found)
                if self.console.is_terminal:
                    live.update(render(picture), refresh=True)
                elif time.monotonic() >= line_due:
                    line_due += LINE_EVERY
                    self.console.print(picture.line())
                complete = self._sender.done and found["live"]["labels"] >= len(self.stream.labels)
                if not complete:
                    waited_since = time.monotonic()
                if complete and (found["learning"] is None or time.monotonic() - waited_since > PATIENCE):
                    break
            # The state may be ahead of what was read here for the picture.
            while late := reader.poll(1_000, 0.0):
                for message in late:
                    self._note(message.topic, message.value)
        connector.close()

    def _note(self, topic: str, value: bytes) -> None:
        topics = self.config.topics
        if topic == topics.scores:
            self.ledger.add_score(Score.model_validate_json(value))
            self.ledger.texts += 1
        elif topic == topics.labels:
            self.ledger.add_label(Label.model_validate_json(value), self._base.labels)
            self.ledger.labels += 1
        else:
            self.ledger.alerts.append(Alert.model_validate_json(value))

    def _fill(self, picture: Picture, service: Service, found: Any) -> None:
        picture.scored = self.ledger.scored
        picture.live, picture.static = self.ledger.correct()
        picture.status = found
        picture.alerts = self.ledger.alerts
        picture.source = self.stream.texts[min(self._sender.sent, len(self.stream.texts) - 1)].source or ""
        detectors = [(one.kind, one.signal) for one in self.config.drift.detectors]
        for kind, signal in [(CONFORMAL, EVERYTHING), *detectors]:
            labels: dict[str, str] = {"detector": kind, "signal": signal}
            value = service.metrics.registry.get_sample_value("relearnd_drift_statistic", labels)
            if value is not None and value == value:
                picture.evidence[f"{kind} on {signal}"] = value
                self.ledger.add_statistic(f"{kind} on {signal}", value)

    def _report(self) -> None:
        db = open_state(self.config.home / "state.db")
        registry = Registry(self.config.home / "models")
        final = status(self.config)["champion"]["version"]
        self.ledger.judge_static(self._base)
        report = self.ledger.report(db, self.config)

        def load(version: str) -> Engine:
            return load_engine(version, registry.verify(version), self.config)

        champion = load(final)
        report["holdout"] = {
            "base": by_domain(self._base, self.stream.holdout),
            "final": by_domain(champion, self.stream.holdout),
        }
        report["hindsight"] = self.ledger.look_back(final, registry.learned, load, self.config.memory)
        db.close()
        (self.directory / "report.json").write_text(dump(report), encoding="utf-8")
        write_page(report, self.ledger.series(), self.directory / "report.html")
        self._summarise(report)

    def _summarise(self, report: dict[str, Any]) -> None:
        print_report(report, self.console)
        self.console.print(
            f"\nThe page is {self.directory / 'report.html'}; the log is {self.directory / 'relearnd.log'}"
        )
        sys.stdout.flush()
