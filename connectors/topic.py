"""The one interface between relearnd and wherever its topics live.

A *connector* opens readers and writers on topics. A topic is an append-only log of messages, cut into
partitions; a message's position is its offset in its partition. Offsets only grow; they need not be dense.
A *position* is always the offset of the next message to read, as in Kafka.

Readers of one group share its committed positions. A write may commit positions for a reader's group in the
same atomic step as its messages, which is what makes "read, process, write" happen exactly once.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self


class Partition(NamedTuple):
    topic: str
    number: int = 0


class Message(NamedTuple):
    """A message as read. `timestamp` is when it was appended, in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes
    headers: Mapping[str, str]


class Outgoing(NamedTuple):
    """A message to write."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: Mapping[str, str] = {}


#: Next offset to read, by partition.
Positions = Mapping[Partition, int]


class ConnectorError(Exception):
    """Topics cannot be read or written; the message says which, why, and what to do."""


class FencedError(ConnectorError):
    """A newer reader has taken over this reader's group; this one must stop."""


class StaleError(ConnectorError):
    """The group's partitions were dealt anew since these messages were polled: they come again, here or elsewhere.

    Nothing was written. Drop what was made of them and go on polling.
    """


class Reader(Protocol):
    @property
    def claim(self) -> int:
        """Under which deal of the group's partitions the messages of the last `poll` came.

        It changes when partitions are dealt anew; from then on, what was polled before cannot be committed.
        Always 0 where one reader has the whole group.
        """

    @property
    def lost(self) -> Mapping[Partition, int]:
        """How many messages were removed (by retention) before this reader came to them, since it was opened."""

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        """The next messages, in offset order within a partition; empty after `timeout` seconds without any."""

    def seek(self, positions: Positions) -> None:
        """Read on from `positions`; partitions that are not named stay where they are."""

    def positions(self) -> dict[Partition, int]:
        """The next offset this reader will read, by partition."""

    def end(self) -> dict[Partition, int]:
        """The offset that the next message appended will get, by partition; lag is this less `positions()`."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Writer(Protocol):
    def write(
        self,
        messages: Sequence[Outgoing],
        *,
        reader: Reader | None = None,
        positions: Positions | None = None,
        claim: int | None = None,
    ) -> None:
        """Append `messages` and commit `positions` for the group of `reader`: all of it or nothing.

        `positions` may name partitions that no topic has: a caller can keep a counter of its own there
        (the controller's outbox does). `claim` is `reader.claim` as it was after the poll that gave the messages;
        without it, as it is now.

        Raises:
            FencedError: a newer reader has taken the group over; nothing was written.
            StaleError: the partitions were dealt anew since `claim`; nothing was written.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Connector(Protocol):
    def reader(self, topics: Sequence[str], *, group: str | None = None, shared: bool = False) -> Reader:
        """A reader of `topics`, starting at the group's committed positions, else at the oldest message.

        With a group, the newest reader owns it: older ones are fenced at their next commit. When all of its readers
        are opened as `shared`, they divide the partitions among them instead, where the connector can (`kafka`).
        """

    def writer(self) -> Writer: ...

    def committed(self, group: str) -> dict[Partition, int]:
        """The positions that `group` has committed; empty when it never has."""

    def close(self) -> None: ...
