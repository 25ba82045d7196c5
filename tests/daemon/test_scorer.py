import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from connectors.local import LocalConnector
from connectors.topic import Connector, FencedError, Outgoing, Partition
from daemon.config import Config
from daemon.metrics import Metrics
from daemon.records import Alert, DeadLetter, ModelAnnouncement, Score, encode
from daemon.registry import Manifest, Registry
from daemon.scorer import Scorer
from daemon.swap import Swapper
from tests.daemon.streams import text_row

#: A wait that ends as soon as its condition holds; reaching it is a failure.
SOON = 30.0


class Bench:
    """A scorer at work on a local log, and hands to feed it and read from it."""

    def __init__(self, config: Config, connector: Connector | None = None) -> None:
        self.config = config
        self.metrics = Metrics("test")
        self.registry = Registry(config.home / "models")
        self.connector = connector or LocalConnector(config.home / "topics.db")
        self._writer = self.connector.writer()
        self._answers = self.connector.reader([config.topics.scores, config.topics.dead_letters])
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self.swapper = Swapper(self.connector.reader([config.topics.models]), self.registry, config, self.metrics)
        self._threads: list[threading.Thread] = []

    def announce(self, manifest: Manifest, *, sha256: str | None = None) -> None:
        announcement = ModelAnnouncement(
            version=manifest.version, uri="file:///", sha256=sha256 or manifest.sha256, state="champion"
        )
        self._writer.write([Outgoing(self.config.topics.models, encode(announcement))])

    def send(self, *rows: object) -> None:
        values = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        self._writer.write([Outgoing(self.config.topics.texts, value, b"key") for value in values])

    def start(self) -> None:
        scorer = Scorer(self.connector, self.swapper, self.config, self.metrics)
        for work in (self.swapper.run, scorer.run):
            self._threads.append(threading.Thread(target=self._guard, args=(work,)))
            self._threads[-1].start()

    def _guard(self, work) -> None:
        try:
            work(self._stop)
        except Exception as error:  # noqa: BLE001 (kept for the test to see)
            self.failure = error
            self._stop.set()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        self._threads, self._stop = [], threading.Event()

    def answers(self, count: int) -> list[Score | DeadLetter]:
        """The next `count` answers, waiting for them; then none may follow."""
        found: list[Score | DeadLetter] = []
        for _ in range(int(SOON / 0.2)):
            for message in self._answers.poll(1_000, 0.2):
                kind = Score if message.topic == self.config.topics.scores else DeadLetter
                found.append(kind.model_validate_json(message.value))
            if len(found) >= count:
                break
        assert len(found) == count
        return found

    def alerts(self, count: int) -> list[Alert]:
        """The first `count` alerts, waiting for them; then none may follow."""
        wait_for(lambda: self.connector_end(self.config.topics.alerts) >= count)
        with self.connector.reader([self.config.topics.alerts]) as reader:
            messages = reader.poll(1_000, 0.0)
        assert len(messages) == count
        return [Alert.model_validate_json(message.value) for message in messages]

    def connector_end(self, topic: str) -> int:
        with self.connector.reader([topic]) as reader:
            return reader.end()[Partition(topic)]


@pytest.fixture
def bench(config: Config) -> Iterator[Bench]:
    bench = Bench(config)
    yield bench
    bench.stop()
    bench.connector.close()


def second_version(bench: Bench) -> Manifest:
    """Version 2: the same weights again under another name."""
    first = bench.registry.manifest("v1")
    copy = bench.config.home / "copy"
    shutil.copytree(bench.registry.path("v1"), copy)
    fields = first.model_dump(include={"trigger", "method", "labels", "data_sha256", "seed", "created_at", "decision"})
    return bench.registry.add(copy, version="v2", parent="v1", job="job-00001", **fields)


def test_every_text_gets_one_score_in_order_with_the_texts_fields(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    bench.send(*(text_row(number, meta={"n": number}) for number in range(50)))
    scores = bench.answers(50)
    assert [score.id for score in scores] == [f"t{number}" for number in range(50)]
    assert {score.model for score in scores} == {"v1"}
    first = scores[0]
    assert (first.key, first.source, first.meta) == ("ACME", "formal", {"n": 0})
    assert first.label == max(first.probabilities, key=first.probabilities.get)
    assert sum(first.probabilities.values()) == pytest.approx(1.0, abs=1e-3)
    assert first.sketch is not None


def test_what_does_not_decode_is_set_aside_in_the_same_step(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    bench.send(text_row(0), b"\xff", b"{", text_row(1, text=" "), text_row(2, text="x" * 30_000), text_row(3))
    answers = bench.answers(6)
    reasons = [answer.reason.value for answer in answers if isinstance(answer, DeadLetter)]
    assert sorted(reasons) == ["not_json", "not_utf8", "text_empty", "text_too_long"]
    letter = next(answer for answer in answers if isinstance(answer, DeadLetter) and answer.reason == "not_utf8")
    assert (letter.topic, letter.offset) == ("texts", 1)
    value = bench.metrics.registry.get_sample_value
    assert value("relearnd_dead_letters_total", {"topic": "texts", "reason": "not_utf8"}) == 1


def test_a_scorer_that_starts_again_goes_on_where_the_last_one_wrote(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    bench.send(*(text_row(number) for number in range(20)))
    bench.answers(20)
    bench.stop()
    bench.send(*(text_row(number) for number in range(20, 40)))
    bench.start()
    assert [score.id for score in bench.answers(20)] == [f"t{number}" for number in range(20, 40)]


def test_texts_wait_until_there_is_a_model(bench):
    bench.start()
    bench.send(text_row(0))
    bench.announce(bench.registry.manifest("v1"))
    assert [score.id for score in bench.answers(1)] == ["t0"]


def test_a_second_scorer_of_the_group_takes_over_and_nothing_is_scored_twice(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    bench.send(text_row(0))
    bench.answers(1)
    bench.connector.reader([bench.config.topics.texts], group="relearnd-scorer")
    bench.send(text_row(1))
    for thread in bench._threads:
        thread.join(SOON)
    assert isinstance(bench.failure, FencedError)
    bench.failure = None
    bench.stop()
    bench.start()
    assert [score.id for score in bench.answers(1)] == ["t1"]


def test_a_swap_under_steady_load_loses_and_repeats_nothing(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    numbers = itertools.count()
    with steady(bench, numbers):
        manifest = second_version(bench)
        bench.announce(manifest)
        wait_for(lambda: bench.swapper.current is not None and bench.swapper.current.version == "v2")
    sent = next(numbers)
    bench.send(text_row(sent))
    scores = bench.answers(sent + 1)
    assert [score.id for score in scores] == [f"t{number}" for number in range(sent + 1)]
    models = [score.model for score in scores]
    assert models == sorted(models)
    assert models[-1] == "v2"


def test_a_model_that_is_not_what_was_announced_is_refused_and_the_old_one_scores_on(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    bench.send(text_row(0))
    bench.answers(1)
    weights = bench.registry.path(second_version(bench).version) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    bench.announce(bench.registry.manifest("v2"))
    wait_for(lambda: bench.metrics.registry.get_sample_value("relearnd_model_load_failures_total"))
    bench.send(text_row(1))
    assert [score.model for score in bench.answers(1)] == ["v1"]


def test_a_first_model_that_cannot_be_loaded_is_alerted_though_nothing_is_scored(bench):
    weights = bench.registry.path("v1") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    bench.send(text_row(0))
    (alert,) = bench.alerts(1)
    assert (alert.status, alert.name, alert.key, alert.model) == ("firing", "model-not-loaded", "v1", "")
    assert f"{weights} is corrupt" in alert.because

    weights.write_bytes(whole)
    assert [score.id for score in bench.answers(1)] == ["t0"]
    over = bench.alerts(2)[1]
    assert (over.status, over.key, over.model) == ("resolved", "v1", "v1")
    assert over.starts_at == alert.starts_at < over.ends_at


def test_a_version_that_is_not_loaded_is_alerted_once_and_a_better_one_ends_that(bench):
    bench.announce(bench.registry.manifest("v1"))
    bench.start()
    wait_for(lambda: bench.swapper.current is not None)
    second = second_version(bench)
    bench.announce(second, sha256="0" * 64)
    value = bench.metrics.registry.get_sample_value
    wait_for(lambda: value("relearnd_model_load_failures_total") >= 2)
    assert [(one.status, one.key, one.model) for one in bench.alerts(1)] == [("firing", "v2", "v1")]

    bench.announce(second)
    assert [(one.status, one.key, one.model) for one in bench.alerts(2)][1] == ("resolved", "v2", "v2")
    assert value("relearnd_alerts_total", {"status": "firing"}) == 1


def test_who_comes_late_loads_only_the_last_champion(bench):
    second = second_version(bench)
    for manifest in [bench.registry.manifest("v1"), second] * 400:
        bench.announce(manifest)
    bench.swapper.follow(0.0)
    assert bench.swapper.current.version == "v2"
    assert bench.metrics.registry.get_sample_value("relearnd_swap_seconds_count") == 1


def wait_for(condition) -> None:
    """Until the condition holds."""
    turn = threading.Event()
    for _ in range(int(SOON / 0.01)):
        if condition():
            return
        turn.wait(0.01)
    raise AssertionError("it never came to be")


@contextmanager
def steady(bench: Bench, numbers: Iterator[int]) -> Iterator[None]:
    """Texts coming all the time, a few at once."""
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            bench.send(*(text_row(next(numbers)) for _ in range(5)))
            over.wait(0.005)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
