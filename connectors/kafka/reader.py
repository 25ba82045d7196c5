"""Reading topics of Kafka."""

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from connectors.kafka.ahead import ReadAhead
from connectors.kafka.client import Clients
from connectors.kafka.cluster import Cluster, named, shown
from connectors.kafka.errors import Patience
from connectors.kafka.member import Member
from connectors.kafka.owner import Owner
from connectors.topic import ConnectorError, Message, Partition, Positions


class KafkaReader:
    """Reads what is committed (`read_committed`); see `connectors.topic.Reader`.

    Without `shared` it reads every partition, new ones too, and takes the group from whoever had it. As one of several
    that are `shared` it joins the group when it is first polled, and has no positions before.

    One thread polls and seeks; one, the same or another, commits under the claim of what was polled. Any thread may
    close it: a `poll` or a commit that waits ends.
    """

    def __init__(
        self, clients: Clients, cluster: Cluster, topics: Sequence[str], group: str | None, *, shared: bool
    ) -> None:
        if shared and group is None:
            raise ConnectorError("readers that share partitions need a group")
        self.where = clients.settings.bootstrap_servers
        self._topics = tuple(dict.fromkeys(topics))
        self._closed = threading.Event()
        self._patience = Patience(self._closed, self.where)
        self._clients = clients
        self._cluster = cluster.within(self._patience)
        self._ahead: ReadAhead | None = None
        #: As whom it commits, where it can.
        self.role: Owner | Member | None = None
        partitions = self._cluster.partitions(self._topics)
        if group is not None and shared:
            self.role = Member(clients, self._cluster, self._patience, group)
        elif group is not None:
            self.role = Owner(clients, self._cluster, self._patience, group, self._topics)
        try:
            self._positions = {} if shared else self._begin(partitions, group)
        except BaseException:
            self.close()
            raise

    @property
    def claim(self) -> int:
        return self.role.claim if self.role else 0

    @property
    def lost(self) -> Mapping[Partition, int]:
        return self._ahead.lost if self._ahead else {}

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        if self._closed.is_set():
            raise self._closed_error()
        member = self.role if isinstance(self.role, Member) else None
        if self._ahead is None:
            self._ahead = ReadAhead(self._clients, self._cluster, self._patience, self._topics, self._positions, member)
        taken = self._ahead.take(max_messages, timeout)
        if taken.deal is not None and member is not None:
            member.deal = taken.deal
            self._positions = {}
        self._positions = {**self._positions, **taken.positions}
        return taken.messages

    def seek(self, positions: Positions) -> None:
        strange = [partition for partition in positions if partition not in self._positions]
        if strange:
            read = named(partition.topic for partition in self._positions)
            raise ConnectorError(f"cannot seek in {shown(strange[0])}: this reader reads {read}")
        for partition, end in self._cluster.ends(positions).items():
            position = positions[partition]
            if not 0 <= position <= end:
                raise ConnectorError(
                    f"cannot seek to {position} in {shown(partition)} at {self.where}: it ends at offset {end}"
                )
        if self._ahead is not None:
            self._ahead.seek(positions)
        self._positions = {**self._positions, **positions}

    def positions(self) -> dict[Partition, int]:
        return dict(self._positions)

    def end(self) -> dict[Partition, int]:
        if self._closed.is_set():
            raise self._closed_error()
        return self._cluster.ends(self._positions)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()
        if self._ahead is not None:
            self._ahead.close()
        if self.role is not None:
            self.role.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, partitions: Sequence[Partition], group: str | None) -> dict[Partition, int]:
        committed = self._cluster.committed(group, partitions) if group is not None else {}
        starts = self._cluster.starts(partition for partition in partitions if partition not in committed)
        return {p: committed[p].offset if p in committed else starts[p] for p in partitions}

    def _closed_error(self) -> ConnectorError:
        return ConnectorError(f"this reader of {named(self._topics)} at {self.where} is closed")
