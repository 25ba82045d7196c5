"""Reading ahead in a thread of its own, so that polling never stops because somebody is slow.

The thread owns the consumer, which is not safe between threads. It polls all the time: that is what keeps a member in
its group. What it reads it holds for its reader; when that is enough, it pauses the partitions and polls on.
"""

import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog
from kafka import KafkaConsumer, TopicPartition, errors
from kafka.errors import KafkaError
from kafka.structs import MemberState, OffsetAndMetadata

from connectors.kafka.client import Clients
from connectors.kafka.cluster import Cluster, shown
from connectors.kafka.errors import Delays, Patience, raise_refusal
from connectors.kafka.member import Deal, Member
from connectors.kafka.shelf import Shelf
from connectors.topic import ConnectorError, Message, Partition, Positions

log = structlog.get_logger(__name__)

#: What is held for the reader at most, before partitions are paused: a second's worth for a fast reader, in messages,
#: and in bytes of values for large ones.
ENOUGH_MESSAGES, ENOUGH_BYTES = 10_000, 32 * 1024 * 1024

#: A poll of the consumer takes this long at most, in seconds: how late the thread notices a seek or a close.
POLL = 0.1

#: How often the consumer is polled while its partitions are paused, in seconds.
KEEP_ALIVE = 0.25

#: How long a consumer may take to leave its group, in seconds.
LEAVE = 5.0

_NO_HEADERS = MappingProxyType[str, str]({})


class Taken(NamedTuple):
    """What a poll hands over: `positions` are those that have changed, or all of them with a new `deal`."""

    messages: list[Message]
    positions: dict[Partition, int]
    deal: Deal | None


class ReadAhead:
    """Begins to read when it is made.

    Args:
        positions: Where to read, of a reader that has all partitions of `topics` by itself.
        member: Joins its group instead, and reads what it is dealt.
    """

    def __init__(
        self,
        clients: Clients,
        cluster: Cluster,
        patience: Patience,
        topics: tuple[str, ...],
        positions: Positions,
        member: Member | None,
    ) -> None:
        self._clients = clients
        self._cluster = cluster
        self._patience = patience
        self._topics = topics
        self._member = member
        self._generation: tuple[int, str] | None = None
        #: Guards what follows.
        self._changed = threading.Condition()
        self._held: dict[Partition, Shelf] = {}
        self._sought = dict(positions)
        self._deal: Deal | None = None
        self._error: BaseException | None = None
        self._known_start: dict[Partition, int] = {}
        #: How many messages were removed before this reader came to them; replaced, never changed.
        self.lost: dict[Partition, int] = {}
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._thread.start()

    # For the reader

    def take(self, most: int, timeout: float) -> Taken:
        """Up to `most` messages; waits until `timeout` for the first.

        Raises:
            ConnectorError: reading has ended for a reason.
        """
        with self._changed:
            self._changed.wait_for(self._has_something, timeout)
            if self._error is not None:
                raise self._error
            positions: dict[Partition, int] = {}
            deal, self._deal = self._deal, None
            if deal is not None:
                positions |= deal.positions
            messages: list[Message] = []
            if not self._patience.closed.is_set():
                for partition, shelf in list(self._held.items()):
                    before = len(messages)
                    shelf.take(messages, most)
                    positions[partition] = shelf.position
                    if len(messages) > before:
                        # To the end of the line, so that a backlog in one partition does not starve the rest.
                        self._held[partition] = self._held.pop(partition)
                self._changed.notify_all()
            return Taken(messages, positions, deal)

    def seek(self, positions: Positions) -> None:
        with self._changed:
            for partition in positions:
                self._held.pop(partition, None)
            self._sought |= positions

    def close(self) -> None:
        """To be called when `patience` has ended."""
        with self._changed:
            self._changed.notify_all()
        self._thread.join(LEAVE)

    def _has_something(self) -> bool:
        return (
            self._patience.closed.is_set()
            or self._error is not None
            or any(shelf.messages for shelf in self._held.values())
        )

    # The thread

    def _run(self) -> None:
        consumer = None
        try:
            consumer = self._patience(lambda: self._clients.consumer(self._group), "connect a reader")
            self._begin(consumer)
            delays: Delays | None = None
            while not self._patience.closed.is_set():
                try:
                    self._poll(consumer)
                    delays = None
                except KafkaError as error:
                    if isinstance(error, errors.FencedInstanceIdError):
                        raise_refusal(error)
                    delays = delays or Delays(self._patience, "read")
                    delays.wait(error)
        except BaseException as error:  # noqa: BLE001 (kept, and raised by take)
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            if consumer is not None:
                consumer.close(timeout_ms=LEAVE * 1000)

    @property
    def _group(self) -> str | None:
        return self._member.group if self._member else None

    def _begin(self, consumer: KafkaConsumer) -> None:
        if self._member is not None:
            self._member.consumer = consumer
            consumer.subscribe(list(self._topics))
        else:
            consumer.assign([TopicPartition(*partition) for partition in self._sought])

    def _poll(self, consumer: KafkaConsumer) -> None:
        self._seek_what_was_sought(consumer)
        if self._member is None:
            self._look_for_new_partitions(consumer)
        elif consumer._coordinator._join_task is not None:
            # A join that outlasted the poll it began in. If new partitions were the reason for it, kafka-python 3.0.12
            # takes it for done as soon as it has dealt them, and would wait for ever for what nobody asks it for.
            consumer._coordinator.request_rejoin()
        if self._wait_for_room():
            consumer.resume(*consumer.paused())
            wait = POLL
        else:
            consumer.pause(*consumer.assignment())
            wait = 0.0
        try:
            batches = consumer.poll(timeout_ms=wait * 1000)
        except errors.OffsetOutOfRangeError as error:
            self._skip_what_was_removed(consumer, error.args[0])
            return
        except errors.NoOffsetForPartitionError:
            batches = {}  # of partitions just dealt, for which nothing was ever committed
        if self._member is None or not self._was_dealt_anew(consumer, self._member):
            self._hold(batches, consumer._subscription.all_consumed_offsets())

    def _seek_what_was_sought(self, consumer: KafkaConsumer) -> None:
        with self._changed:
            sought, self._sought = self._sought, {}
        for partition, position in sought.items():
            consumer.seek(TopicPartition(*partition), position)

    def _look_for_new_partitions(self, consumer: KafkaConsumer) -> None:
        assigned = consumer.assignment()
        there = {
            TopicPartition(topic, number)
            for topic in self._topics
            for number in consumer._cluster.partitions_for_topic(topic) or ()
        }
        if new := there - assigned:
            starts = self._cluster.starts(Partition(*tp) for tp in new)
            log.info("reading new partitions", partitions=sorted(map(shown, starts)))
            consumer.assign([*assigned, *new])
            for partition, start in starts.items():
                consumer.seek(TopicPartition(*partition), start)

    def _wait_for_room(self) -> bool:
        def is_room() -> bool:
            shelves = self._held.values()
            few = sum(shelf.messages for shelf in shelves) < ENOUGH_MESSAGES
            return self._patience.closed.is_set() or (few and sum(shelf.bytes for shelf in shelves) < ENOUGH_BYTES)

        with self._changed:
            return self._changed.wait_for(is_room, KEEP_ALIVE)

    def _skip_what_was_removed(self, consumer: KafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
        """Go on where the log begins now, and say how much was removed unread: offsets, markers of transactions too."""
        partitions = [Partition(*tp) for tp in positions]
        starts, ends = self._cluster.starts(partitions), self._cluster.ends(partitions)
        for partition in partitions:
            position, start, end = positions[TopicPartition(*partition)], starts[partition], ends[partition]
            if position > end:
                raise ConnectorError(
                    f"{shown(partition)} at {self._patience.where} ends at offset {end}, before position {position}: "
                    f"this is not the log that was read before; restore that one, or seek to {end} to go on with what "
                    "comes"
                )
            if position < start:
                # Dealt away and back, a position that was not committed in between is come to again.
                missed = start - max(position, self._known_start.get(partition, position))
                self._known_start[partition] = start
                self.lost = {**self.lost, partition: self.lost.get(partition, 0) + missed}
                # Debug: whoever reads `lost` says it where people look.
                log.debug("messages were removed unread", partition=shown(partition), lost=missed, go_on_at=start)
                consumer.seek(TopicPartition(*partition), start)

    def _was_dealt_anew(self, consumer: KafkaConsumer, member: Member) -> bool:
        """Whether the group has a new generation. If so, begin again at what was committed, on every partition.

        Nothing is committed in a rebalance listener: a cooperative consumer is told of a deal when the generation
        before it can commit no more. What it had under way was committed in time, or comes again.
        """
        generation = consumer.group_metadata()
        identity = generation.generation_id, generation.member_id
        if generation.state != MemberState.STABLE or identity == self._generation:
            return False
        # Asked for only now: what an older generation may still commit, the brokers have under way and wait for.
        partitions = [Partition(*tp) for tp in consumer.assignment()]
        committed = self._cluster.committed(member.group, partitions)
        positions = self._cluster.starts(p for p in partitions if p not in committed)
        positions |= {p: committed[p].offset for p in partitions if p in committed}
        for partition, position in positions.items():
            consumer.seek(TopicPartition(*partition), position)
        self._generation = identity
        with self._changed:
            member.newest += 1
            self._deal = Deal(member.newest, generation, positions)
            self._held.clear()
            self._sought.clear()
        log.info(
            "partitions dealt", group=member.group, generation=identity[0], partitions=sorted(map(shown, positions))
        )
        return True

    def _hold(
        self, batches: Mapping[TopicPartition, list[Any]], ends: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        """Hold what was polled, up to where the consumer stands now: markers of transactions come after messages."""
        messages = {tp: _messages(records) for tp, records in batches.items()}
        with self._changed:
            for tp, end in ends.items():
                partition = Partition(*tp)
                if partition not in self._sought:
                    shelf = self._held.setdefault(partition, Shelf())
                    shelf.add(messages.get(tp, []), end.offset)
            self._changed.notify_all()


def _messages(records: Iterable[Any]) -> list[Message]:
    return [
        Message(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp / 1000,
            record.key,
            # A message without a value stands for "deleted" in a compacted topic.
            b"" if record.value is None else record.value,
            _headers(record.headers) if record.headers else _NO_HEADERS,
        )
        for record in records
    ]


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in headers}
