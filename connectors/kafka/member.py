"""One reader of several that share a group: it commits as a member, and the broker refuses members of the past.

When the group's partitions are dealt anew, every member gets another *generation*. A commit carries the generation
under which its messages were polled (KIP-447), so that once others may have them, they cannot be committed here any
more. A commit that the broker took before the deal is waited for by whoever reads the committed positions after it.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from connectors.kafka.client import REQUEST_TIMEOUT, Clients
from connectors.kafka.cluster import Cluster, shown
from connectors.kafka.errors import Patience, raise_refusal, stale
from connectors.kafka.sending import Send
from connectors.kafka.transactions import Transactions
from connectors.topic import ConnectorError, Outgoing, Partition, Positions


class Deal(NamedTuple):
    """The partitions that a member got, and where it begins to read them."""

    claim: int
    generation: ConsumerGroupMetadata
    positions: dict[Partition, int]


class Member:
    """A member of `group`; it joins when it is first polled.

    With an instance id it keeps its transactional id across restarts, so that a new process ends at once what its
    predecessor left open.
    """

    def __init__(self, clients: Clients, cluster: Cluster, patience: Patience, group: str) -> None:
        self.group = group
        self._patience = patience
        #: The deal that the last poll was of.
        self.deal = Deal(0, ConsumerGroupMetadata(group), {})
        #: The claim of the newest deal, which a poll may not have come to yet.
        self.newest = 0
        #: Joined to the group; commits what no transaction does.
        self.consumer: KafkaConsumer = None
        self._transactions: Transactions | None = None
        if clients.settings.delivery == "exactly-once":
            name = clients.settings.instance_id or uuid.uuid4().hex
            self._transactions = Transactions(clients, cluster, patience, f"{group}-{name}")
            self._transactions.begin()

    @property
    def claim(self) -> int:
        return self.deal.claim

    def write(self, messages: Sequence[Outgoing], positions: Positions, claim: int | None, send: Send) -> None:
        """Write `messages` and commit `positions`: in one transaction, or with at-least-once by `send` and after it.

        Raises:
            FencedError: another process has this one's instance id.
            StaleError: the partitions were dealt anew since `claim`.
        """
        deal = self.deal
        if deal.claim != self.newest or claim not in (None, deal.claim):
            raise stale()
        for partition in positions:
            if partition not in deal.positions:
                raise ConnectorError(
                    f"a member of group {self.group!r} cannot commit for {shown(partition)}, which it was not dealt; "
                    "positions of the caller's own need a reader that is not shared"
                )
        offsets = {partition: OffsetAndMetadata(at, "", -1) for partition, at in positions.items()}
        if self._transactions is not None:
            if messages or offsets:
                self._transactions.write(messages, lambda: [(deal.generation, offsets)] if offsets else [])
            return
        send(messages)
        if offsets:
            kafka = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
            self._patience(lambda: self._commit(kafka), f"commit for {self.group!r}")

    def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        try:
            self.consumer.commit(offsets, timeout_ms=REQUEST_TIMEOUT * 1000)
        except KafkaError as error:
            raise_refusal(error)
            raise

    def close(self) -> None:
        if self._transactions is not None:
            self._transactions.close()
