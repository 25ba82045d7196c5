"""The daemon on topics that were not made for it: nested Avro, numbers for ids, a schema registry that goes away."""

from collections.abc import Iterator, Sequence

import pytest

from connectors.topic import Message, Outgoing
from daemon.config import Config, RecordsConfig
from daemon.connect import open_connector
from daemon.formats import schema_registry
from daemon.formats.errors import FormatError
from daemon.records import Decoder, Score, utc
from daemon.status import status
from tests.daemon.streams import label_row, text_row
from tests.daemon.test_backtest import run
from tests.daemon.test_formats import FIELDS, produced
from tests.daemon.test_scorer import wait_for
from tests.daemon.test_service import Running
from tests.schema_registry import RegistryServer
from tests.sentences import sentence

#: A label as a desk's own tool may write it.
LABEL_FIELDS = {"id": "$.doc[0]", "label": "$.verdict.sentiment"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    monkeypatch.setattr(schema_registry, "FIRST_PAUSE", 0.05)
    with RegistryServer() as server:
        yield server


def foreign(config: Config, registry: RegistryServer, kind: str) -> Config:
    given = {
        "texts": {"format": kind, "fields": FIELDS},
        "labels": {"fields": LABEL_FIELDS},
        "scores": {"format": kind},
        "alerts": {"format": kind},
        "registry": {"url": registry.url},
    }
    return config.model_copy(update={"records": RecordsConfig.model_validate(given)})


def send(config: Config, topic: str, values: Sequence[bytes]) -> None:
    connector = open_connector(config)
    with connector.writer() as writer:
        writer.write([Outgoing(topic, value) for value in values])
    connector.close()


def all_of(config: Config, topic: str) -> list[Message]:
    connector = open_connector(config)
    with connector.reader([topic]) as reader:
        found = reader.poll(1_000, 0.0)
    connector.close()
    return found


def articles(registry: RegistryServer, kind: str, count: int) -> list[bytes]:
    return [
        produced(registry, kind, 1 + number % 2, article={"uuid": number + 1, "body": sentence(number)[0]})
        for number in range(count)
    ]


def verdicts(count: int) -> list[bytes]:
    return [
        f'{{"doc": [{number + 1}], "verdict": {{"sentiment": "{sentence(number)[1]}"}}}}'.encode()
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["avro", "protobuf", "json-schema"])
def test_foreign_texts_and_labels_are_scored_and_joined(config: Config, registry: RegistryServer, kind: str) -> None:
    config = foreign(config, registry, kind)
    with Running(config):
        send(config, "texts", articles(registry, kind, 12))
        send(config, "labels", verdicts(12))
        wait_for(lambda: status(config)["live"]["labels"] == 12)

    decoder = Decoder(Score, config.records)
    scores = [decoder.decode(message, utc(2e9)) for message in all_of(config, "scores")]
    assert [score.id for score in scores if isinstance(score, Score)] == [str(number + 1) for number in range(12)]
    assert not all_of(config, "dead-letters")
    assert {"scores-value", "alerts-value"} <= set(registry.subjects)


def test_nothing_is_lost_or_set_aside_while_the_registry_is_away(config: Config, registry: RegistryServer) -> None:
    config = foreign(config, registry, "avro")
    send(config, "texts", [*articles(registry, "avro", 4), b"no avro"])
    send(config, "labels", verdicts(4))
    registry.down = True
    registry.requests.clear()
    with Running(config) as daemon:
        # Its roles both ask, again and again, and are well.
        wait_for(lambda: len(registry.requests) > 6)
        assert daemon.service.health().ok
        assert not all_of(config, "scores")
        registry.down = False
        wait_for(lambda: status(config)["live"]["labels"] == 4)

    assert daemon.failure is None
    assert len(all_of(config, "scores")) == 4
    assert len(all_of(config, "dead-letters")) == 1


def test_a_daemon_that_waits_for_the_registry_stops_when_told(config: Config, registry: RegistryServer) -> None:
    config = foreign(config, registry, "avro")
    send(config, "texts", articles(registry, "avro", 4))
    registry.down = True
    with Running(config) as daemon:
        wait_for(lambda: len(registry.requests) > 6)

    assert daemon.failure is None
    registry.down = False
    with Running(config):
        wait_for(lambda: len(all_of(config, "scores")) == 4)


def test_a_registry_that_refuses_ends_the_daemon_with_the_reason(config: Config, registry: RegistryServer) -> None:
    config = foreign(config, registry, "avro")
    registry.refuses["scores-value"] = (409, 409)

    daemon = Running(config, "scorer")
    daemon.join()

    assert isinstance(daemon.failure, FormatError)
    assert "incompatible" in str(daemon.failure)


def test_a_backtest_reads_its_own_shape_and_asks_no_registry(
    config: Config, registry: RegistryServer, tmp_path
) -> None:
    config = foreign(config, registry, "avro")
    rows = [text_row(number) for number in range(20)], [label_row(number) for number in range(20)]

    report = run(config, tmp_path / "out", *rows)

    assert (report["scored"], report["dead_letters"]) == (20, 0)
    assert report["prequential"]["accuracy"] is not None
    assert not registry.requests
