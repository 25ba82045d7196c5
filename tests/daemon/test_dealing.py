"""A scorer whose partitions are dealt anew, and whose texts were removed before it came to them.

The local connector does neither, so these tests do both to it.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from connectors.local import LocalConnector, LocalReader
from connectors.topic import Outgoing, Partition, Positions, StaleError
from daemon.config import Config
from daemon.scorer import GROUP
from tests.daemon.streams import text_row
from tests.daemon.test_scorer import SOON, Bench, wait_for

TEXTS = Partition("texts")


@dataclasses.dataclass
class Deal:
    """What happens to the group: at the `deals_at`th poll its partitions are dealt anew, and `lost` is then known."""

    deals_at: int = 0
    lost: dict[Partition, int] = dataclasses.field(default_factory=dict)
    claim: int = 0
    lock: Any = dataclasses.field(default_factory=threading.Lock)
    done: threading.Event = dataclasses.field(default_factory=threading.Event)


class DealtReader:
    def __init__(self, connector: LocalConnector, reader: LocalReader, deal: Deal) -> None:
        self.inner = reader
        self.claim = 0
        self._connector, self._deal = connector, deal
        self._polls = 0

    @property
    def lost(self) -> dict[Partition, int]:
        return dict(self._deal.lost) if self._deal.done.is_set() else {}

    def poll(self, max_messages: int, timeout: float) -> list[Any]:
        self._polls += 1
        if self._polls == self._deal.deals_at:
            with self._deal.lock:
                self._deal.claim += 1
                self.inner.seek({TEXTS: self._connector.committed(GROUP).get(TEXTS, 0)})
                self._deal.done.set()
        messages = self.inner.poll(max_messages, timeout)
        self.claim = self._deal.claim
        return messages

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class DealtWriter:
    """Holds the first write of a reader back until the partitions have been dealt anew."""

    def __init__(self, writer: Any, deal: Deal) -> None:
        self._writer, self._deal = writer, deal

    def write(
        self,
        messages: Sequence[Outgoing],
        *,
        reader: DealtReader | None = None,
        positions: Positions | None = None,
        claim: int | None = None,
    ) -> None:
        if reader is None:
            self._writer.write(messages)
            return
        assert self._deal.done.wait(SOON)
        with self._deal.lock:
            if claim != self._deal.claim:
                raise StaleError("the partitions of texts were dealt anew")
            self._writer.write(messages, reader=reader.inner, positions=positions)

    def close(self) -> None:
        self._writer.close()


class Dealing(LocalConnector):
    """The local connector, whose shared readers are in for a deal."""

    deal: Deal

    def reader(self, topics: Sequence[str], *, group: str | None = None, shared: bool = False) -> Any:
        reader = super().reader(topics, group=group, shared=shared)
        return DealtReader(self, reader, self.deal) if shared else reader

    def writer(self) -> Any:
        return DealtWriter(super().writer(), self.deal)


@pytest.fixture
def bench(config: Config) -> Iterator[Bench]:
    small = config.model_copy(update={"scorer": config.scorer.model_copy(update={"max_texts": 4})})
    connector = Dealing(config.home / "topics.db")
    connector.deal = Deal()
    bench = Bench(small, connector)
    bench.announce(bench.registry.manifest("v1"))
    yield bench
    bench.stop()
    connector.close()


def test_a_batch_whose_partitions_were_dealt_anew_is_dropped_and_its_texts_are_scored_once(bench):
    bench.connector.deal.deals_at = 2
    bench.send(*(text_row(number) for number in range(20)))
    bench.start()

    assert [score.id for score in bench.answers(20)] == [f"t{number}" for number in range(20)]
    assert bench.failure is None
    assert bench.metrics.registry.get_sample_value("relearnd_stale_batches_total") == 1
    assert bench.metrics.registry.get_sample_value("relearnd_texts_scored_total") == 20


def test_a_loss_goes_out_with_the_scores_that_follow_it(bench):
    bench.connector.deal = Deal(deals_at=1, lost={TEXTS: 41})
    bench.send(text_row(0))
    bench.start()

    bench.answers(1)
    (alert,) = bench.alerts(1)
    assert (alert.name, alert.key, alert.value, alert.model) == ("messages-lost", "texts", 41, "v1")
    assert bench.metrics.registry.get_sample_value("relearnd_messages_lost_total", {"topic": "texts"}) == 41


def test_a_loss_is_told_though_the_batch_with_it_was_dropped(bench):
    bench.connector.deal = Deal(deals_at=2, lost={TEXTS: 3})
    bench.send(*(text_row(number) for number in range(8)))
    bench.start()

    bench.answers(8)
    assert [alert.value for alert in bench.alerts(1)] == [3]


def test_a_loss_is_told_though_no_text_follows(bench):
    bench.connector.deal = Deal(deals_at=1, lost={TEXTS: 5})
    bench.start()

    assert [alert.value for alert in bench.alerts(1)] == [5]
    wait_for(lambda: bench.metrics.registry.get_sample_value("relearnd_alerts_total", {"status": "firing"}) == 1)
