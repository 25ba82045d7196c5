"""The one reader that has a whole group: its commits, and how it loses the group to a newer one.

Beside the group G there is a group `G-owner` with one committed offset, on the first of the topics. The offset counts
the owners that G has had; its metadata holds the positions that a caller keeps for partitions that no topic has, since
Kafka commits none for those. Both change in the same transactions as everything else.

A new owner takes G's transactional id, which makes the broker refuse its predecessor, and counts itself. An owner that
is refused looks at the count: unchanged, it was only late (the broker ends transactions that take too long), and takes
the id back; changed, it has been replaced.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence

from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from connectors.kafka.client import Clients
from connectors.kafka.cluster import Cluster
from connectors.kafka.errors import Patience
from connectors.kafka.sending import Send
from connectors.kafka.transactions import Commit, Transactions
from connectors.topic import FencedError, Outgoing, Partition, Positions

#: Characters of metadata that a broker keeps with an offset (offset.metadata.max.bytes is 4096 unless told otherwise).
#: More positions of callers' own than fit, some sixty, and the least recently changed are forgotten.
MOST_METADATA = 4000

#: Brokers forget what was committed long ago (offsets.retention.minutes, a week unless told otherwise): the count of
#: owners is committed again with the first write after so many seconds.
STATE_EVERY = 3600.0


class Owner:
    """`group` from now on belongs to this reader of `topics`.

    Raises:
        ConnectorError: it cannot be had; the message says why.
    """

    claim = 0

    def __init__(
        self, clients: Clients, cluster: Cluster, patience: Patience, group: str, topics: Sequence[str]
    ) -> None:
        self.group = group
        self._cluster = cluster
        self._where = patience.where
        self._topics = frozenset(topics)
        self._anchor = Partition(min(topics))
        self._number = 0
        self._taken = False
        self._own: dict[Partition, int] = {}
        self._fenced = False
        self._transactions: Transactions | None = None
        if clients.settings.delivery == "exactly-once":
            self._transactions = Transactions(clients, cluster, patience, group, self._check)
            self._take(self._transactions, patience)
        else:
            self._check()
            cluster.commit(_companion(group), self._state({})[1])
            self._hold()
        self._stated = time.monotonic()

    def write(
        self,
        messages: Sequence[Outgoing],
        positions: Positions,
        claim: int | None,  # noqa: ARG002 (never dealt anew here)
        send: Send,
    ) -> None:
        """Write `messages` and commit `positions`: in one transaction, or with at-least-once by `send` and after it.

        Raises:
            FencedError: a newer reader has the group.
        """
        if not messages and not positions:
            return
        if self._fenced:
            raise self._replaced()
        offsets = {p: OffsetAndMetadata(at, "", -1) for p, at in positions.items() if p.topic in self._topics}
        own = {p: at for p, at in positions.items() if p not in offsets}
        group = ConsumerGroupMetadata(self.group)
        late = time.monotonic() - self._stated > STATE_EVERY

        def commits() -> list[Commit]:
            return ([(group, offsets)] if offsets else []) + ([self._state(own)] if own or late else [])

        if self._transactions is not None:
            self._transactions.write(messages, commits)
        else:
            # Between this look for a newer reader and the commit there is a moment.
            self._check()
            send(messages)
            for member, state in commits():
                self._cluster.commit(member.group_id, state)
        if own or late:
            self._own, self._stated = _latest(self._own, own), time.monotonic()

    def close(self) -> None:
        if self._transactions is not None:
            self._transactions.close()

    def _take(self, transactions: Transactions, patience: Patience) -> None:
        """Become the group's owner; of several at once, the last one does."""
        while True:
            try:
                # With none of the group's own positions, so that what a predecessor left of these is ended too.
                transactions.write([], lambda: [(ConsumerGroupMetadata(self.group), {}), self._state({})], self._hold)
            except FencedError:
                # Another takes it at this very moment. Waits of different lengths let one of us be done first.
                if patience.closed.wait(random.uniform(0.1, 0.5)):
                    raise
            else:
                return

    def _hold(self) -> None:
        """From now on another count than this one's is a newer owner's."""
        self._taken = True

    def _check(self) -> None:
        if self._fenced:
            raise self._replaced()
        number, own = _read(self._cluster, self.group)
        if not self._taken:
            self._number, self._own = number + 1, own
        elif number != self._number:
            self._fenced = True
            raise self._replaced()

    def _replaced(self) -> FencedError:
        return FencedError(
            f"another reader has taken over group {self.group!r} at {self._where}; nothing was written. "
            "Stop this process, or give it a group of its own"
        )

    def _state(self, changed: Mapping[Partition, int]) -> Commit:
        own = [[*partition, at] for partition, at in _latest(self._own, changed).items()]
        while len(metadata := json.dumps(own, separators=(",", ":"))) > MOST_METADATA:
            own.pop(0)
        offset = OffsetAndMetadata(self._number, metadata, -1)
        return ConsumerGroupMetadata(_companion(self.group)), {self._anchor: offset}


def committed(cluster: Cluster, group: str) -> dict[Partition, int]:
    """What `group` has committed, for its topics' partitions and for those of a caller's own."""
    return {p: at.offset for p, at in cluster.committed(group).items()} | _read(cluster, group)[1]


def _companion(group: str) -> str:
    return f"{group}-owner"


def _read(cluster: Cluster, group: str) -> tuple[int, dict[Partition, int]]:
    """The count of owners and the positions of callers' own; the highest count is the latest, on whatever topic."""
    state = cluster.committed(_companion(group))
    if not state:
        return 0, {}
    latest = max(state.values(), key=lambda at: at.offset)
    own = json.loads(latest.metadata or "[]")
    return latest.offset, {Partition(topic, number): at for topic, number, at in own}


def _latest(own: Mapping[Partition, int], changed: Mapping[Partition, int]) -> dict[Partition, int]:
    """`own` with what `changed`, the latest last."""
    return {**{p: at for p, at in own.items() if p not in changed}, **changed}
