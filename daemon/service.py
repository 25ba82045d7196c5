"""The running daemon: its roles in threads, its health, its signals."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

import structlog

from connectors.topic import Connector
from daemon import __version__
from daemon.api import CommandRefused, Health
from daemon.config import Config
from daemon.connect import open_connector
from daemon.controller import Controller
from daemon.errors import RelearndError
from daemon.losses import Losses
from daemon.metrics import Metrics
from daemon.registry import Registry
from daemon.scorer import Scorer
from daemon.state import open_state
from daemon.status import status
from daemon.steering import REFUSED, steer
from daemon.swap import Swapper
from daemon.systemd import notify
from daemon.web import WebServer, read_token

Role = Literal["all", "scorer", "controller"]

log = structlog.get_logger(__name__)

#: The controller's consumer group: one member, which fences its predecessor.
CONTROLLER_GROUP = "relearnd-controller"

#: Messages of one controller step, at most: a step stays well under a second.
MAX_MESSAGES = 1_000

#: How long a controller step waits for messages, in seconds: how late a finished learner is noticed.
WAIT = 0.5

#: The controller tells its connector how far it has read this often, in seconds: for lag and retention only.
COMMIT_EVERY = 10.0

#: systemd is told this often that all is well, in seconds: several times in the shortest sensible WatchdogSec.
WATCHDOG_EVERY = 5.0

#: A controller that has not ended a step for this long is not alive, in seconds.
STUCK_AFTER = 120.0

#: How long a person waits for the answer to a command, in seconds.
COMMAND_TIMEOUT = 30.0


class ServiceError(RelearndError):
    """The daemon cannot start; the message says what to do."""


class ControllerLoop:
    """Feeds the controller from its topics, and publishes what it says."""

    def __init__(self, connector: Connector, db: sqlite3.Connection, config: Config, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self.controller = Controller(db, config, Registry(config.home / "models"), metrics)
        self._losses = Losses(config.topics, metrics)
        self._reader = connector.reader([config.topics.scores, config.topics.labels], group=CONTROLLER_GROUP)
        self._writer = connector.writer()
        # What went out before a crash is not said again.
        published = connector.committed(CONTROLLER_GROUP).get(self.controller.outbox.partition, 0)
        self.controller.outbox.forget(published)
        self._reader.seek(self.controller.positions())
        self.last_step = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        self.controller.begin(time.time())
        self.controller.outbox.publish(self._writer, self._reader)
        committed = time.monotonic()
        try:
            while not stop.is_set():
                messages = self._reader.poll(MAX_MESSAGES, WAIT)
                if not self.controller.intake.fetch(messages, stop, self._alive):
                    break
                now, champion = time.time(), self.controller.champion
                lost = self._losses.notice(self._reader.lost, now, champion.version if champion else "")
                self.controller.step(messages, self._reader.positions(), now, lost)
                self.controller.outbox.publish(self._writer, self._reader)
                self.last_step = time.monotonic()
                if self.last_step - committed > COMMIT_EVERY:
                    committed = self.last_step
                    self._report_progress()
        finally:
            self.controller.training.stop()
            self._writer.close()
            self._reader.close()

    def _alive(self) -> None:
        self.last_step = time.monotonic()

    def _report_progress(self) -> None:
        positions = self._reader.positions()
        self._writer.write([], reader=self._reader, positions=positions)
        end = self._reader.end()
        for name in ("scores", "labels"):
            topic = getattr(self._config.topics, name)
            read = {partition: offset for partition, offset in positions.items() if partition.topic == topic}
            self._metrics.measure_lag(name, read, end)


class Service:
    """`run` serves until a signal or a failure, and raises the failure."""

    def __init__(self, config: Config, role: Role) -> None:
        self.config = config
        self.role = role
        self.stop = threading.Event()
        self.metrics = Metrics(__version__, detectors=[(d.kind, d.signal) for d in config.drift.detectors])
        self._failure: BaseException | None = None
        self._loop: ControllerLoop | None = None
        self._swapper: Swapper | None = None
        self._db: sqlite3.Connection | None = None
        #: The port that the server listens on; 0 while there is none.
        self.port = 0

    def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve. `on_ready` is called once, when a model is loaded.

        Raises:
            ServiceError: there is no model.
            ConnectorError, StateError, WebError: as they say.
        """
        connector = open_connector(self.config)
        with self._signals(), self._web():
            threads = [
                threading.Thread(target=self._guard, args=(work,), name=name)
                for name, work in self._work(connector).items()
            ]
            for thread in threads:
                thread.start()
            self._wait(on_ready)
            notify("STOPPING=1")
            for thread in threads:
                thread.join()
        connector.close()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    def _work(self, connector: Connector) -> dict[str, Callable[[threading.Event], None]]:
        """What this role's threads do, by name."""
        work: dict[str, Callable[[threading.Event], None]] = {}
        if self.role in ("all", "controller"):
            self._db = open_state(self.config.home / "state.db")
            self._loop = ControllerLoop(connector, self._db, self.config, self.metrics)
            if self._loop.controller.champion is None and not Registry(self.config.home / "models").manifests():
                raise ServiceError(
                    f"there is no model in {self.config.home / 'models'}; make the first one with "
                    "`relearnd fit --data LABELLED.jsonl`"
                )
            work["controller"] = self._loop.run
        if self.role in ("all", "scorer"):
            registry = Registry(self.config.home / "models")
            self._swapper = Swapper(connector.reader([self.config.topics.models]), registry, self.config, self.metrics)
            work["swapper"] = self._swapper.run
            work["scorer"] = Scorer(connector, self._swapper, self.config, self.metrics).run
        return work

    def _wait(self, on_ready: Callable[[], None]) -> None:
        """Until it is time to stop: tell systemd when ready and that all is well, and hear a person's signal."""
        announced, told = False, float("-inf")
        while not self.stop.wait(WAIT):
            if not announced and self.ready().ok:
                announced = True
                log.info("ready", role=self.role, home=str(self.config.home))
                notify("READY=1")
                on_ready()
            if self.health().ok and time.monotonic() - told > WATCHDOG_EVERY:
                told = time.monotonic()
                notify("WATCHDOG=1")

    @property
    def controller(self) -> Controller | None:
        """The controller, where this process is one and has come up."""
        return self._loop.controller if self._loop else None

    def health(self) -> Health:
        """Whether every part is at work."""
        reasons = []
        if self._failure is not None:
            reasons.append(f"stopping: {self._failure}")
        if self._loop is not None:
            silent = time.monotonic() - self._loop.last_step
            if silent > STUCK_AFTER:
                reasons.append(f"the controller has not ended a step for {silent:.0f} s")
        return Health(not reasons, tuple(reasons))

    def ready(self) -> Health:
        """Whether texts that come now are scored, or labels learned from."""
        reasons = list(self.health().reasons)
        if self._swapper is not None and self._swapper.current is None:
            reasons.append("no model is loaded")
        if self._loop is not None and self._loop.controller.champion is None:
            reasons.append("no version is champion")
        return Health(not reasons, tuple(reasons))

    def _status(self) -> Mapping[str, Any]:
        seen = status(self.config) if self._loop is not None else {}
        return {"role": self.role, "scoring_with": self._scoring_with(), **seen}

    def _scoring_with(self) -> str | None:
        current = self._swapper.current if self._swapper else None
        return current.version if current else None

    def _command(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._loop is None:
            raise CommandRefused("this process only scores; ask the controller")
        given = {key: str(value) for key, value in arguments.items()}
        outcome = steer(self.config, name, {"by": "the API", **given}, wait=COMMAND_TIMEOUT)
        if outcome.startswith(REFUSED):
            raise CommandRefused(outcome.removeprefix(REFUSED))
        return {"outcome": outcome}

    @contextmanager
    def _web(self) -> Iterator[None]:
        if not self.config.http.enabled:
            yield
            return
        server = WebServer(
            self.config.http.host,
            self.config.http.port,
            registry=self.metrics.registry,
            health=self.health,
            ready=self.ready,
            status=self._status,
            command=self._command,
            token=read_token(os.environ),
        )
        with server:
            self.port = server.port
            log.info("listening", url=f"http://{self.config.http.host}:{server.port}")
            yield

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop; SIGUSR1 asks for a training run. Only the main thread can hear them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stop.set()

        def learn(_number: int, _frame: FrameType | None) -> None:
            # A thread of its own: the state may be locked, and a signal handler must not wait.
            threading.Thread(target=steer, args=(self.config, "learn", {"by": "SIGUSR1"})).start()

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: learn}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _guard(self, work: Callable[[threading.Event], None]) -> None:
        """Run one part; what breaks it stops the service and is raised by `run`."""
        try:
            work(self.stop)
        except BaseException as error:  # noqa: BLE001 (kept, and raised by run)
            self._failure = self._failure or error
        finally:
            self.stop.set()
