"""What the brokers know: topics and their partitions, where these begin and end, what groups have committed."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Self, TypeVar

from kafka import TopicPartition, errors
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from connectors.kafka.client import Admin, Clients
from connectors.kafka.errors import Patience, explained
from connectors.topic import ConnectorError, Partition

T = TypeVar("T")


class Cluster:
    """Asks the brokers, again and again until they answer. Threads may share it."""

    def __init__(self, line: "_Line", patience: Patience) -> None:
        self._line = line
        self._patience = patience

    @classmethod
    def connect(cls, clients: Clients, patience: Patience) -> Self:
        """Raises ConnectorError: no broker can be reached within connector.kafka.connect_timeout, or they refuse us."""
        line = _Line(clients)
        try:
            line.ask(bool)
        except errors.KafkaTimeoutError as error:
            where = patience.where
            raise ConnectorError(f"no Kafka broker can be reached at {where}: {clients.diagnosis()}") from error
        except KafkaError as error:
            raise explained(error, f"connect to Kafka at {patience.where}") from error
        return cls(line, patience)

    def within(self, patience: Patience) -> "Cluster":
        """The same, for one whose patience may end sooner."""
        return Cluster(self._line, patience)

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """Every partition of `topics`, in the order of these.

        Raises:
            ConnectorError: there is no such topic, or it may not be seen.
        """
        described = self._ask(lambda admin: admin.describe_topics(list(topics)), "look up " + named(topics))
        found = {topic["name"]: topic for topic in described}
        partitions = []
        for name in dict.fromkeys(topics):
            error = errors.for_code(found[name]["error_code"])
            if issubclass(error, errors.UnknownTopicOrPartitionError):
                raise ConnectorError(
                    f"there is no topic {name!r} at {self._patience.where}; make what is missing with "
                    "`relearnd topics create`, or set its name under `topics`"
                )
            if error is not errors.NoError and not issubclass(error, errors.RetriableError):
                raise explained(error(), f"use the topic {name!r} at {self._patience.where}")
            numbers = sorted(partition["partition_index"] for partition in found[name]["partitions"])
            partitions += [Partition(name, number) for number in numbers]
        return partitions

    def led(self, topics: Sequence[str]) -> list[Partition]:
        """Every partition of `topics`, once all of them have a leader; waits for that."""

        def look(admin: Admin) -> list[Partition]:
            found = []
            for topic in admin.describe_topics(list(topics)):
                for partition in topic["partitions"]:
                    if partition["leader_id"] < 0:
                        raise errors.LeaderNotAvailableError(f"{topic['name']}/{partition['partition_index']}")
                    found.append(Partition(topic["name"], partition["partition_index"]))
            return found

        return self._ask(look, f"find the leaders of {named(topics)}") if topics else []

    def starts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset of the oldest message there is, or that the next one will get."""
        return self._offsets(partitions, OffsetSpec.EARLIEST)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The high-water mark: one more than the offset of the newest message, whether committed yet or not."""
        return self._offsets(partitions, OffsetSpec.LATEST)

    def committed(
        self, group: str, partitions: Collection[Partition] | None = None
    ) -> dict[Partition, OffsetAndMetadata]:
        """What `group` has committed, of `partitions` or of all; waits while a transaction that changes it ends."""

        def fetch(admin: Admin) -> Mapping[TopicPartition, OffsetAndMetadata]:
            # Always by name: asked for all that a group has, a broker leaves out, without a word, what is committed for
            # the first time by a transaction that has not quite ended.
            names = _all_partitions(admin) if partitions is None else [TopicPartition(*p) for p in partitions]
            return admin.list_group_offsets({group: names})[group] if names else {}

        found = self._ask(fetch, f"read what was committed by {group!r}")
        return {Partition(*tp): at for tp, at in found.items() if at.offset >= 0}

    def commit(self, group: str, offsets: Mapping[Partition, OffsetAndMetadata]) -> None:
        """Commit for a group that has no members, outside of any transaction."""

        def alter(admin: Admin) -> None:
            kafka = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
            for partition, error in admin.alter_group_offsets(group, kafka).items():
                if error is not errors.NoError:
                    raise error(f"group {group}, {partition}")

        self._ask(alter, f"commit for {group!r}")

    def transaction(self, transactional_id: str) -> tuple[str, int, int]:
        """The state of the last transaction: its name as in Kafka's protocol, and the producer's id and epoch.

        An id that nobody has used yet is `Empty`.
        """

        def describe(admin: Admin) -> tuple[str, int, int]:
            try:
                found = admin.describe_transactions([transactional_id])[transactional_id]
            except errors.TransactionalIdNotFoundError:
                return "Empty", -1, -1
            return found.state.value, found.producer_id, found.producer_epoch

        return self._ask(describe, f"learn how the transaction of {transactional_id!r} ended")

    def close(self) -> None:
        self._line.close()

    def _offsets(self, partitions: Iterable[Partition], where: OffsetSpec) -> dict[Partition, int]:
        wanted = {TopicPartition(*partition): where for partition in partitions}
        if not wanted:
            return {}
        topics = named({partition.topic for partition in wanted})
        found = self._ask(lambda admin: admin.list_partition_offsets(wanted), f"look up offsets of {topics}")
        return {Partition(*tp): at.offset for tp, at in found.items()}

    def _ask(self, question: Callable[[Admin], T], doing: str) -> T:
        return self._patience(lambda: self._line.ask(question), doing)


class _Line:
    """One client for all who ask, made again after each failure."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._lock = threading.Lock()
        self._admin: Admin | None = None

    def ask(self, question: Callable[[Admin], T]) -> T:
        with self._lock:
            if self._admin is None:
                self._admin = self._clients.admin()
            try:
                return question(self._admin)
            except errors.UnstableOffsetCommitError:
                raise
            except BaseException:
                # Where coordinators are is remembered, rightly or not: a new client looks it up again.
                self._drop()
                raise

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def _all_partitions(admin: Admin) -> list[TopicPartition]:
    return [
        TopicPartition(topic["name"], partition["partition_index"])
        for topic in admin.describe_topics()
        for partition in topic["partitions"]
    ]


def shown(partition: Partition) -> str:
    return f"{partition.topic}/{partition.number}"


def named(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(names))
