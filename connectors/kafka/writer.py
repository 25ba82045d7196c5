"""Writing to topics of Kafka."""

import threading
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from kafka import KafkaProducer
from kafka.errors import KafkaError

from connectors.kafka.client import Clients
from connectors.kafka.cluster import Cluster, named
from connectors.kafka.errors import Delays, Patience
from connectors.kafka.reader import KafkaReader
from connectors.kafka.sending import abandon, checked, send
from connectors.kafka.transactions import Transactions
from connectors.topic import ConnectorError, Outgoing, Positions, Reader


class KafkaWriter:
    """Writes in transactions, or with at-least-once without; see `connectors.topic.Writer`. Threads may share it.

    A write that returned is with all in-sync replicas. It waits for brokers that are away as long as it takes; any
    thread may close the writer or the reader, which ends the wait. What is written at once must be written within
    connector.kafka.transaction_timeout.
    """

    def __init__(self, clients: Clients, cluster: Cluster) -> None:
        self._clients = clients
        self._where = clients.settings.bootstrap_servers
        self._closed = threading.Event()
        self._patience = Patience(self._closed, self._where)
        self._cluster = cluster.within(self._patience)
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None
        # Of its own: nobody else continues its transactions, nor ends them but by their timeout.
        name = f"relearnd-writer-{uuid.uuid4().hex}"
        self._transactions = (
            Transactions(clients, self._cluster, self._patience, name, new=True)
            if clients.settings.delivery == "exactly-once"
            else None
        )

    def write(
        self,
        messages: Sequence[Outgoing],
        *,
        reader: Reader | None = None,
        positions: Positions | None = None,
        claim: int | None = None,
    ) -> None:
        if self._closed.is_set():
            raise ConnectorError(f"this writer to {self._where} is closed")
        if reader is not None and not (isinstance(reader, KafkaReader) and reader.where == self._where):
            raise ConnectorError(f"positions can only be committed for a reader of the same brokers, {self._where}")
        role = reader.role if reader is not None else None
        if positions and role is None:
            raise ConnectorError("positions can only be committed for a reader that was opened with a group")
        checked(messages)
        self._require({message.topic for message in messages})
        if role is not None:
            role.write(messages, positions or {}, claim, self._send)
        elif self._transactions is None:
            self._send(messages)
        elif messages:
            self._transactions.write(messages)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()
        if self._transactions is not None:
            self._transactions.close()
        with self._lock:
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require(self, topics: set[str]) -> None:
        """A producer waits for topics that are missing; we say so."""
        if new := topics - self._known:
            self._cluster.partitions(sorted(new))
            self._known |= new

    def _send(self, messages: Sequence[Outgoing]) -> None:
        """Write without a transaction; whatever was not acknowledged is written again."""
        delays = Delays(self._patience, "write to " + named(message.topic for message in messages))
        with self._lock:
            while messages:
                try:
                    self._producer = self._producer or self._clients.producer(None)
                    send(self._producer, messages, self._look)
                except KafkaError as error:
                    self._abandon()
                    delays.wait(error)
                else:
                    return

    def _look(self) -> None:
        if self._closed.is_set():
            raise ConnectorError(f"closed while writing to {self._where}")

    def _abandon(self) -> None:
        if self._producer is not None:
            abandon(self._producer)
            self._producer = None
