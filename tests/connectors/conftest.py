"""Where the contract suite gets its connectors from. A new kind joins by adding how it is opened to `OPENERS`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from connectors.jsonl import JsonlConnector
from connectors.local import LocalConnector
from connectors.topic import Connector

#: How each kind is opened at a location. Child processes open the same topics by the same two strings.
OPENERS: dict[str, Callable[[str], Connector]] = {
    "local": lambda location: LocalConnector(Path(location) / "topics.db"),
    "jsonl": lambda location: JsonlConnector(Path(location)),
}


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


@dataclass(frozen=True)
class ConnectorFactory:
    kind: str
    root: Path
    _number: Iterator[int] = field(default_factory=count)

    @contextmanager
    def place(self) -> Iterator[Place]:
        location = self.root / str(next(self._number))
        location.mkdir()
        place = Place(self.kind, str(location))
        try:
            yield place
        finally:
            place.close()


@pytest.fixture(scope="session", params=OPENERS)
def connector_factory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ConnectorFactory:
    return ConnectorFactory(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def place(connector_factory: ConnectorFactory) -> Iterator[Place]:
    with connector_factory.place() as place:
        yield place
