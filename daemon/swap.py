"""The hot swap: the champion that the models topic names, loaded and warmed beside the one that scores.

The scorer takes `current` once a batch, so a swap happens between two batches; the old model is freed when the last
batch that it tokenised has been written.
"""

import threading
import time
from pathlib import Path

import structlog
from pydantic import ValidationError

from connectors.topic import Reader
from daemon.config import Config
from daemon.engine import Engine, load_engine
from daemon.metrics import Metrics
from daemon.records import ModelAnnouncement
from daemon.registry import Registry, RegistryError
from learners.errors import LearnerError

log = structlog.get_logger(__name__)

#: How long one look at the models topic waits for news, in seconds: bounds how long stopping takes.
POLL = 0.5

#: A champion that could not be loaded is tried again this often, in seconds.
RETRY = 30.0

#: Announcements read at once; the topic is compacted, so there are few.
MAX_ANNOUNCEMENTS = 500


class Swapper:
    """Follows the models topic, from its beginning, in a thread of its own once started."""

    def __init__(self, reader: Reader, registry: Registry, config: Config, metrics: Metrics) -> None:
        self._reader = reader
        self._registry = registry
        self._config = config
        self._metrics = metrics
        self._current: Engine | None = None
        self._arrived = threading.Event()
        self._wanted: ModelAnnouncement | None = None
        self._try_at = 0.0

    @property
    def current(self) -> Engine | None:
        """The engine to score the next batch with; None until a first champion has been announced and loaded."""
        return self._current

    def wait(self, timeout: float) -> Engine | None:
        """The current engine, waiting up to `timeout` seconds for a first one."""
        self._arrived.wait(timeout)
        return self._current

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.follow(POLL)

    def follow(self, timeout: float) -> None:
        """Read what was announced, waiting up to `timeout` seconds for it, and swap to the last champion named.

        One that was refused is tried again every `RETRY` seconds: its files may have been on their way.
        """
        champion = None
        for message in self._reader.poll(MAX_ANNOUNCEMENTS, timeout):
            try:
                announced = ModelAnnouncement.model_validate_json(message.value)
            except ValidationError as error:
                log.error("announcement refused", offset=message.offset, because=str(error))
                continue
            if announced.state == "champion":
                champion = announced
        if champion is not None:
            self._wanted, self._try_at = champion, time.monotonic()
        if self._wanted is not None and time.monotonic() >= self._try_at:
            if self._current is None or self._current.version != self._wanted.version:
                self._swap(self._wanted)
            else:
                self._wanted = None

    def _swap(self, champion: ModelAnnouncement) -> None:
        started = time.perf_counter()
        try:
            path = self._registry.verify(champion.version, champion.sha256)
            engine = load_engine(champion.version, path, self._config)
        except (RegistryError, LearnerError) as error:
            # The old model scores on: a stale answer is better than none, and the metric pages somebody.
            self._try_at = time.monotonic() + RETRY
            self._metrics.model_load_failures.inc()
            log.error("model refused", version=champion.version, scoring_on=self._version(), because=str(error))
            return
        self._wanted = None
        before, self._current = self._version(), engine
        self._arrived.set()
        seconds = time.perf_counter() - started
        self._metrics.swap_seconds.observe(seconds)
        self._metrics.champion(champion.version)
        log.info("swapped", version=champion.version, before=before, seconds=round(seconds, 3), path=str(Path(path)))

    def _version(self) -> str | None:
        return self._current.version if self._current else None
