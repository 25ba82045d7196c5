"""Messages and committed positions in one Kafka transaction: all of it or nothing, whatever dies in between."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from connectors.kafka.client import REQUEST_TIMEOUT, Clients
from connectors.kafka.cluster import Cluster, named
from connectors.kafka.connections import Connections
from connectors.kafka.errors import Delays, Patience, explained, raise_refusal, remedy, said
from connectors.kafka.sending import abandon, send
from connectors.topic import ConnectorError, FencedError, Outgoing, Partition

log = structlog.get_logger(__name__)

#: How often a wait looks whether it should end, in seconds.
LOOK_EVERY = 0.2

#: What to commit, and as which member of which group.
Commit = tuple[ConsumerGroupMetadata, Mapping[Partition, OffsetAndMetadata]]


class Transactions:
    """The transactions of one transactional id, one after another. Threads may share it.

    After any failure the producer is thrown away: the next one has the broker end whatever its predecessor left open,
    and kafka-python keeps the offsets of a transaction that failed for the next one of the same producer.

    The end of a transaction, whoever brings it about, does not reach partitions that have no broker at that moment:
    Kafka takes them for deleted (4.4's TransactionMarkerChannelManager: "likely deleted already and hence can be
    skipped"). What was written there would share the fate of the next transaction of the same id. So a producer that
    has predecessors first ends an empty transaction as their last one ended, on all that it is about to write to. And
    a producer whose connection to a broker was lost begins no other transaction: its last one, committed or not, may
    have ended so. (Should brokers fail again while the empty transaction is under way, it is aborted after all.)

    Args:
        transactional_id: Whoever begins to use it takes it from whoever did before.
        check: Called before and after each time that a producer takes the id; raises when it must not.
        new: Nobody has ever used the id.
    """

    def __init__(
        self,
        clients: Clients,
        cluster: Cluster,
        patience: Patience,
        transactional_id: str,
        check: Callable[[], None] = lambda: None,
        *,
        new: bool = False,
    ) -> None:
        self._clients = clients
        self._cluster = cluster
        self._patience = patience
        self._id = transactional_id
        self._check = check
        self._has_predecessors = not new
        #: Whether what they may have left was committed; None before it was asked for.
        self._left_committed: bool | None = None
        #: Where the present producer has ended it.
        self._cleared_topics: set[str] = set()
        self._cleared_groups: set[str] = set()
        self._lock = threading.RLock()
        self._producer: KafkaProducer | None = None

    def write(
        self,
        messages: Sequence[Outgoing],
        commits: Callable[[], Sequence[Commit]] = tuple,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Write `messages` and commit what `commits` says at each try: all of it or nothing; for as long as it takes.

        `then` is called as soon as that is certain, before the id may have to be taken again.

        Raises:
            FencedError: another process goes by this transactional id, or by this member's instance id.
            StaleError: the group refuses the commit, as its partitions were dealt anew.
            ConnectorError: it cannot be written, or `patience` ended.
        """
        doing = "write to " + named(m.topic for m in messages) if messages else "commit"
        with self._lock:
            self._insist(lambda: self._attempt(messages, commits), doing)
            then()
            if self._producer is None or _connections(self._producer).lost:
                # Now also where it was not heard of. A successor would see to that as well.
                with suppress(FencedError):
                    self._insist(lambda: self._clear(messages, commits), doing)

    def begin(self) -> None:
        """Take the transactional id now, so that whoever had it before can commit no more."""
        with self._lock:
            self._patience(self._ready, f"begin the transactions of {self._id!r}")

    def close(self) -> None:
        """To be called when `patience` has ended, which also ends a `write` under way."""
        with self._lock:
            self._abandon()

    def _insist(self, work: Callable[[], object], doing: str) -> None:
        """Do `work`, each time with another producer, until it succeeds or waiting does not help."""
        delays = Delays(self._patience, doing)
        while True:
            try:
                work()
            except KafkaError as error:
                self._give_up()
                raise_refusal(error)
                delays.wait(error)
            except BaseException:
                self._give_up()
                raise
            else:
                return

    def _attempt(self, messages: Sequence[Outgoing], commits: Callable[[], Sequence[Commit]]) -> None:
        if self._patience.closed.is_set():
            raise ConnectorError(f"the transactions of {self._id!r} at {self._patience.where} are closed")
        producer = self._clear(messages, commits)
        manager, connections = producer._transaction_manager, _connections(producer)
        me = manager.producer_id_and_epoch
        # A broker that came up again must not be told of this transaction before it is known how the last one ended.
        connections.reconnecting = False
        producer.begin_transaction()
        send(producer, messages, lambda: self._look(producer), self._clients.settings.transaction_timeout)
        for member, offsets in commits():
            self._send_offsets(producer, member, offsets)
        connections.reconnecting = True
        ending = manager.begin_commit()
        try:
            self._await(producer, ending)
        except KafkaError as error:
            # Everything is with the brokers, and the word to commit it may be as well.
            log.warning("asking how a transaction ended", transactional_id=self._id, because=said(error))
            self._abandon()
            if not self._was_committed(me.producer_id, me.epoch):
                raise

    def _clear(self, messages: Sequence[Outgoing], commits: Callable[[], Sequence[Commit]]) -> KafkaProducer:
        """The producer, once what its predecessors may have left where these go has been ended."""
        producer = self._ready()
        topics = {message.topic for message in messages}
        groups = {member.group_id: member for member, _ in commits()}
        if not self._has_predecessors or (topics <= self._cleared_topics and groups.keys() <= self._cleared_groups):
            return producer
        manager = producer._transaction_manager
        partitions = self._cluster.led(sorted(topics - self._cleared_topics))
        producer.begin_transaction()
        if partitions:
            with manager._lock:
                for partition in partitions:
                    manager.maybe_add_partition_to_transaction(TopicPartition(*partition))
                adding = manager._add_partitions_to_transaction_handler()
                manager._enqueue_request(adding)
            self._await(producer, adding.result)
        for group in groups.keys() - self._cleared_groups:
            self._send_offsets(producer, groups[group], {})
        self._await(producer, manager.begin_commit() if self._left_committed else manager.begin_abort())
        self._cleared_topics |= topics
        self._cleared_groups |= groups.keys()
        return producer

    def _send_offsets(
        self, producer: KafkaProducer, member: ConsumerGroupMetadata, offsets: Mapping[Partition, OffsetAndMetadata]
    ) -> None:
        kafka = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
        try:
            self._await(producer, producer._transaction_manager.send_offsets_to_transaction(kafka, member))
        except KafkaError as error:
            raise_refusal(error)
            if remedy(error) is not None:  # the brokers' answer says neither which topic nor which group
                topics = named(partition.topic for partition in offsets)
                doing = f"commit positions in {topics} for the group {member.group_id!r} at {self._patience.where}"
                raise explained(error, doing) from error
            raise

    def _ready(self) -> KafkaProducer:
        """A producer that has the id, and has lost no connection."""
        if self._producer is not None and _connections(self._producer).lost:
            self._abandon()
        if self._producer is None:
            self._check()
            if self._has_predecessors and self._left_committed is None:
                # While they can still be asked about: taking the id begins a new account.
                state, _, _ = self._cluster.transaction(self._id)
                # Not known, it counts as committed: that may double something, and never loses anything.
                self._left_committed = state not in ("Ongoing", "PrepareAbort", "CompleteAbort", "PrepareEpochFence")
            self._producer = producer = self._clients.producer(self._id)
            try:
                self._await(producer, producer._transaction_manager.initialize_transactions())
                self._check()
            except BaseException:
                self._abandon()
                raise
        return self._producer

    def _await(self, producer: KafkaProducer, result: Any) -> None:
        """Wait for a request: the public methods that do so cannot be interrupted.

        Raises:
            KafkaError: it failed, or the transaction's time is over, as the broker sees it too.
        """
        producer._sender.wakeup()
        deadline = time.monotonic() + self._clients.settings.transaction_timeout
        while not result.wait(LOOK_EVERY * 1000):
            self._look(producer)
            if time.monotonic() > deadline:
                raise KafkaTimeoutError(f"no answer within {self._clients.settings.transaction_timeout:g} s")

    def _look(self, producer: KafkaProducer) -> None:
        """Raise what a wait should end for."""
        if self._patience.closed.is_set():
            raise ConnectorError(f"closed while a transaction of {self._id!r} was under way; it may still succeed")
        connections = _connections(producer)
        for refusal in connections._auth_failures.values():
            raise refusal
        if connections.cut_off:
            raise KafkaConnectionError("the connection to a broker was lost")

    def _was_committed(self, producer_id: int, epoch: int) -> bool:
        """How the last transaction ended; waits until it has. One that was not told to commit ends by its timeout."""
        while True:
            state, owner, its_epoch = self._cluster.transaction(self._id)
            mine = (owner, its_epoch) == (producer_id, epoch)
            if mine and state in ("PrepareCommit", "CompleteCommit"):
                return True
            # The broker that aborts one for being late takes the next epoch for that.
            if state in ("PrepareAbort", "CompleteAbort") and owner == producer_id and its_epoch <= epoch + 1:
                return False
            if not mine and state != "PrepareEpochFence":
                raise FencedError(
                    f"another process writes as {self._id!r} at {self._patience.where}, and it is not known whether "
                    "this one's last transaction was committed. Stop one of them, or give it a group of its own"
                )
            if self._patience.closed.wait(LOOK_EVERY):
                raise ConnectorError(f"closed before it was known how a transaction of {self._id!r} ended")

    def _give_up(self) -> None:
        """End what is open, as readers wait for that; then throw the producer away."""
        producer = self._producer
        if producer is None:
            return
        if _connections(producer).cut_off:  # the next one's first request aborts, or else the transaction's timeout
            self._abandon()
            return
        try:
            aborted = producer._transaction_manager.begin_abort()
            producer._sender.wakeup()
            aborted.wait(REQUEST_TIMEOUT * 1000)
        except KafkaError as error:
            # It is fenced, or was never begun; or the broker cannot be reached, and aborts by itself.
            log.debug("not aborted", transactional_id=self._id, because=said(error))
        self._abandon()

    def _abandon(self) -> None:
        if self._producer is not None:
            abandon(self._producer)
            self._producer, self._has_predecessors = None, True
            if self._cleared_topics or self._cleared_groups:
                self._left_committed, self._cleared_topics, self._cleared_groups = None, set(), set()


def _connections(producer: KafkaProducer) -> Connections:
    connections: Connections = producer._sender._client._manager
    return connections
