"""The hot swap: the champion that the models topic names, loaded and warmed beside the one that scores.

The scorer takes `current` once a batch, so a swap happens between two batches; the old model is freed when the last
batch that it tokenised has been written. A version that this home's registry has is loaded from there; any other is
fetched from where its announcement says. Nothing here writes into a registry.
"""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from connectors.topic import Message, Reader
from daemon.backoff import Backoff
from daemon.cache import Cache
from daemon.config import Config
from daemon.engine import Engine, load_engine
from daemon.metrics import Metrics
from daemon.notices import Notices
from daemon.records import Alert, ModelAnnouncement, utc
from daemon.registry import Registry, RegistryError
from daemon.store import StoreError
from learners.errors import LearnerError

log = structlog.get_logger(__name__)

#: How long one look at the models topic waits for news, in seconds: bounds how long stopping takes.
POLL = 0.5

#: A champion that could not be loaded is tried again after this many seconds at first, and this many at most.
RETRY = (1.0, 60.0)

#: Announcements read at once; the topic is compacted, so there are few.
MAX_ANNOUNCEMENTS = 500


class Swapper:
    """Follows the models topic, from its beginning, in a thread of its own once started.

    What the user should hear of it waits in `notices` for the scorer's next write.
    """

    def __init__(
        self,
        reader: Reader,
        registry: Registry,
        config: Config,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.notices = Notices()
        self._reader = reader
        self._registry = registry
        self._cache = Cache(config.home / "cache")
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._current: Engine | None = None
        #: The sha256 of `current`: versions of two homes may have the same name.
        self._sha256 = ""
        self._arrived = threading.Event()
        self._wanted: ModelAnnouncement | None = None
        self._backoff = Backoff(first=RETRY[0], last=RETRY[1])
        #: The alerts that fire: versions that could not be loaded.
        self._firing: list[Alert] = []

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

        One that was refused is tried again, less and less often: its files may be on their way.
        """
        champion = None
        for message in self._news(timeout):
            try:
                announced = ModelAnnouncement.model_validate_json(message.value)
            except ValidationError as error:
                log.error("announcement refused", offset=message.offset, because=str(error))
                continue
            if announced.state == "champion":
                champion = announced
        if champion is not None:
            self._wanted = champion
            self._backoff.reset()
        if self._wanted is not None and self._backoff.is_over():
            if (self._version(), self._sha256) == (self._wanted.version, self._wanted.sha256):
                self._settle()
            else:
                self._swap(self._wanted)

    def _news(self, timeout: float) -> list[Message]:
        """All announcements that are there: who comes late should load the last champion, not each on the way."""
        news = batch = self._reader.poll(MAX_ANNOUNCEMENTS, timeout)
        while batch and self._is_behind():
            batch = self._reader.poll(MAX_ANNOUNCEMENTS, POLL)
            news = news + batch
        return news

    def _is_behind(self) -> bool:
        positions = self._reader.positions()
        return any(positions.get(partition, 0) < end for partition, end in self._reader.end().items())

    def _swap(self, champion: ModelAnnouncement) -> None:
        started = time.perf_counter()
        try:
            path = self._find(champion)
            engine = load_engine(champion.version, path, self._config)
        except (RegistryError, StoreError, LearnerError, OSError) as error:
            # The old model scores on: a stale answer is better than none, and the alert calls somebody.
            self._refuse(champion, str(error))
            return
        before, self._current, self._sha256 = self._version(), engine, champion.sha256
        self._arrived.set()
        seconds = time.perf_counter() - started
        self._metrics.swap_seconds.observe(seconds)
        self._metrics.champion(champion.version)
        log.info("swapped", version=champion.version, before=before, seconds=round(seconds, 3), path=str(path))
        self._settle()
        self._tidy(champion)

    def _find(self, champion: ModelAnnouncement) -> Path:
        """The folder of the version, every file of it checked."""
        if self._registry.holds(champion.version, champion.sha256):
            return self._registry.verify(champion.version, champion.sha256)
        return self._cache.fetch(champion)

    def _refuse(self, champion: ModelAnnouncement, because: str) -> None:
        wait = self._backoff.failed()
        self._metrics.model_load_failures.inc()
        story = {"version": champion.version, "scoring_on": self._version(), "again_in": wait}
        log.error("model refused", **story, because=because)
        if all(alert.key != champion.version for alert in self._firing):
            alert = Alert(
                status="firing",
                name="model-not-loaded",
                key=champion.version,
                severity="critical",
                value=1,
                baseline=0,
                starts_at=utc(self._clock()),
                model=self._version() or "",
                because=f"a scorer on {socket.gethostname()} cannot load it: {because}",
            )
            self._firing.append(alert)
            self.notices.add(alert)

    def _settle(self) -> None:
        """The champion scores: nothing is wanted, and what fired is over."""
        over = {"status": "resolved", "value": 0, "ends_at": utc(self._clock()), "model": self._version()}
        self.notices.add(*(alert.model_copy(update=over) for alert in self._firing))
        self._wanted, self._firing = None, []
        self._backoff.reset()

    def _tidy(self, champion: ModelAnnouncement) -> None:
        try:
            self._cache.keep(champion.sha256)
        except StoreError as error:
            log.warning("cache not tidied", because=str(error))

    def _version(self) -> str | None:
        return self._current.version if self._current else None
