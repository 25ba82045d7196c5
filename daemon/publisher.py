"""Bringing promoted versions to the store, beside the controller: none of its steps waits for a network."""

import threading

import structlog

from daemon.backoff import Backoff
from daemon.metrics import Metrics
from daemon.registry import Registry, RegistryError
from daemon.store import Store, StoreError

log = structlog.get_logger(__name__)

#: What failed is tried again after this many seconds at first, and this many at most.
RETRY = (1.0, 60.0)


class Publisher:
    """Copies one version at a time; for use by one thread."""

    def __init__(self, store: Store, registry: Registry, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._thread: threading.Thread | None = None
        self._published: str | None = None
        self._backoff = Backoff(first=RETRY[0], last=RETRY[1])

    def uri(self, version: str) -> str:
        return self._store.uri(version)

    def has(self, version: str) -> bool:
        """Whether `version` is in the store; if not, it is being brought there, until it is or another is asked for."""
        if self._thread is not None and self._thread.is_alive():
            return False
        if self._published != version and self._backoff.is_over():
            # A daemon: what is half there when the process ends is copied again.
            self._thread = threading.Thread(target=self._publish, args=(version,), name="publisher", daemon=True)
            self._thread.start()
        return self._published == version

    def _publish(self, version: str) -> None:
        try:
            path = self._registry.verify(version)
            self._store.put(path, self._registry.manifest(version))
        except (StoreError, RegistryError, OSError) as error:
            self._metrics.model_publish_failures.inc()
            wait = self._backoff.failed()
            log.error("model not published", version=version, again_in=wait, because=str(error))
        else:
            self._backoff.reset()
            self._published = version
            log.info("model published", version=version, uri=self.uri(version))
