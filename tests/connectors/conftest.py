"""Where the contract suite gets its connectors from. A new kind joins by adding how it is opened to `OPENERS`."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec

from connectors.jsonl import JsonlConnector
from connectors.kafka.connector import KafkaConnector
from connectors.kafka.settings import KafkaSettings
from connectors.local import LocalConnector
from connectors.topic import Connector

#: How each kind is opened at a location. Child processes open the same topics by the same two strings.
OPENERS: dict[str, Callable[[str], Connector]] = {
    "local": lambda location: LocalConnector(Path(location) / "topics.db"),
    "jsonl": lambda location: JsonlConnector(Path(location)),
    "kafka": lambda location: KafkaConnector(KafkaSettings(bootstrap_servers=location)),
}

#: Topics of the contract suite and their numbers of partitions, where these can be more than one; and its groups.
TOPICS = {"texts": 3, "labels": 1, "scores": 2}
GROUPS = {"g", "another", "workers"}


@dataclass
class Place:
    """One set of topics, empty at first, that may be opened again and again."""

    kind: str
    location: str
    _open: ExitStack = field(default_factory=ExitStack)

    def open(self) -> Connector:
        connector = OPENERS[self.kind](self.location)
        self._open.callback(connector.close)
        return connector

    def close(self) -> None:
        self._open.close()


class Rooms:
    """Gives each place files of its own."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self._root = root
        self._number = count()

    @contextmanager
    def place(self) -> Iterator[Place]:
        location = self._root / str(next(self._number))
        location.mkdir()
        place = Place(self.kind, str(location))
        try:
            yield place
        finally:
            place.close()


class Brokers:
    """Gives each place the same topics of the same brokers, emptied, and groups that never were."""

    kind = "kafka"

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
            topics = {name: {"num_partitions": partitions} for name, partitions in TOPICS.items()}
            admin.create_topics(topics, wait_for_metadata=True)

    @contextmanager
    def place(self) -> Iterator[Place]:
        place = Place(self.kind, self._bootstrap)
        try:
            yield place
        finally:
            place.close()
            self._empty()

    def _empty(self) -> None:
        with KafkaAdminClient(bootstrap_servers=self._bootstrap) as admin:
            partitions = [TopicPartition(name, n) for name, count in TOPICS.items() for n in range(count)]
            deadline = time.monotonic() + 60
            while True:
                # Transactions have ended where all that was written can be read; until then their ends may yet come.
                written = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
                readable = admin.list_partition_offsets(
                    dict.fromkeys(partitions, OffsetSpec.LATEST), isolation_level="read_committed"
                )
                if written == readable:
                    break
                assert time.monotonic() < deadline, "a transaction has not ended"
                time.sleep(0.01)
            admin.delete_records({partition: at.offset for partition, at in written.items()})
            groups = [group["group_id"] for group in admin.list_groups()]
            admin.delete_groups([group for group in groups if group.removesuffix("-owner") in GROUPS])


ConnectorFactory = Rooms | Brokers


@pytest.fixture(scope="session", params=["local", "jsonl", pytest.param("kafka", marks=pytest.mark.kafka)])
def connector_factory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ConnectorFactory:
    if request.param == "kafka":
        return Brokers(request.getfixturevalue("kafka").bootstrap)
    return Rooms(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def place(connector_factory: ConnectorFactory) -> Iterator[Place]:
    with connector_factory.place() as place:
        yield place
