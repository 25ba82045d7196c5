"""Topics in Apache Kafka 3.0 or newer, through kafka-python 3."""

import threading
from collections.abc import Sequence
from typing import TypeVar

from connectors.kafka.client import Clients
from connectors.kafka.cluster import Cluster
from connectors.kafka.errors import Patience
from connectors.kafka.owner import committed
from connectors.kafka.reader import KafkaReader
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.writer import KafkaWriter
from connectors.topic import ConnectorError, Partition

Opened = TypeVar("Opened", KafkaReader, KafkaWriter)


class KafkaConnector:
    """Readers and writers of the topics at the brokers that `settings` name.

    Once connected, it waits for brokers that are away as long as it takes, and logs that it does; what waiting does
    not mend is raised at once.

    Raises:
        ConnectorError: no broker can be reached, they refuse us, or a file that the settings name cannot be used.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._clients = Clients(settings)
        self._closed = threading.Event()
        self._cluster = Cluster.connect(self._clients, Patience(self._closed, settings.bootstrap_servers))
        self._opened: list[KafkaReader | KafkaWriter] = []

    def reader(self, topics: Sequence[str], *, group: str | None = None, shared: bool = False) -> KafkaReader:
        if not topics:
            raise ConnectorError("a reader needs at least one topic")
        return self._noted(KafkaReader(self._clients, self._cluster, topics, group, shared=shared))

    def writer(self) -> KafkaWriter:
        return self._noted(KafkaWriter(self._clients, self._cluster))

    def committed(self, group: str) -> dict[Partition, int]:
        return committed(self._cluster, group)

    def close(self) -> None:
        """Close every reader and writer that this connector opened."""
        self._closed.set()
        for opened in self._opened:
            opened.close()
        self._cluster.close()

    def _noted(self, opened: Opened) -> Opened:
        """For `close`: a reader that its caller forgot still has a thread."""
        self._opened = [other for other in self._opened if not other.closed] + [opened]
        return opened
