import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.local import LocalConnector
from connectors.topic import FencedError, Outgoing, Positions, Reader, Writer
from daemon.outbox import BATCH, Outbox
from daemon.state import open_state, transaction

GROUP = "relearnd-controller"


class Killed(BaseException):
    """What `kill -9` is to a test."""


class DyingWriter:
    """A real writer whose process dies right after, or right before, its `nth` write."""

    def __init__(self, writer: Writer, nth: int, *, after: bool = True) -> None:
        self._writer = writer
        self._left = nth
        self._after = after

    def write(
        self, messages: Sequence[Outgoing], *, reader: Reader | None = None, positions: Positions | None = None
    ) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        self._writer.write(messages, reader=reader, positions=positions)
        if self._left == 0:
            raise Killed

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> "DyingWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[LocalConnector]:
    connector = LocalConnector(tmp_path / "topics.db")
    yield connector
    connector.close()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_state(tmp_path / "state.db")
    yield db
    db.close()


def put(db: sqlite3.Connection, *said: str) -> None:
    with transaction(db):
        for text in said:
            Outbox(db).put(Outgoing("alerts", text.encode(), b"ACME", {"reason": text}))


def start_and_publish(
    db: sqlite3.Connection, topics: LocalConnector, *, dies_after: int = 0, after: bool = True
) -> None:
    """As a controller does: forget what went out before the crash, then publish what waits."""
    outbox = Outbox(db)
    with topics.reader(["scores"], group=GROUP) as reader, topics.writer() as writer:
        outbox.forget(topics.committed(GROUP).get(outbox.partition, 0))
        outbox.publish(DyingWriter(writer, dies_after, after=after) if dies_after else writer, reader)


def said(topics: LocalConnector) -> list[str]:
    with topics.reader(["alerts"]) as reader:
        messages = [message for batch in iter(lambda: reader.poll(10_000, 0.0), []) for message in batch]
    assert all(message.headers == {"reason": message.value.decode()} for message in messages)
    assert all(message.key == b"ACME" for message in messages)
    return [message.value.decode() for message in messages]


def test_what_was_put_goes_out_once_and_in_order(db: sqlite3.Connection, topics: LocalConnector) -> None:
    put(db, "a", "b")
    put(db, "c")
    for _ in range(3):
        start_and_publish(db, topics)

    assert said(topics) == ["a", "b", "c"]
    assert Outbox(db).waiting() == []


def test_more_than_one_batch_goes_out_whole(db: sqlite3.Connection, topics: LocalConnector) -> None:
    everything = [f"{number}" for number in range(2 * BATCH + 1)]
    put(db, *everything)

    with topics.reader(["scores"], group=GROUP) as reader, topics.writer() as writer:
        assert Outbox(db).publish(writer, reader) == 2 * BATCH + 1
    assert said(topics) == everything


@pytest.mark.parametrize("after", [True, False], ids=["after the write", "before the write"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_crash_between_publishing_and_forgetting_says_nothing_twice(
    db: sqlite3.Connection, topics: LocalConnector, nth: int, after: bool
) -> None:
    everything = [f"{number}" for number in range(BATCH + 5)]
    put(db, *everything)
    with pytest.raises(Killed):
        start_and_publish(db, topics, dies_after=nth, after=after)
    put(db, "after the crash")

    start_and_publish(db, topics)

    assert said(topics) == [*everything, "after the crash"]


def test_a_new_state_beside_old_topics_loses_nothing(tmp_path: Path, topics: LocalConnector) -> None:
    for home in ("old", "new"):
        db = open_state(tmp_path / f"{home}.db")
        put(db, f"{home} 1", f"{home} 2")
        start_and_publish(db, topics)
        db.close()

    assert said(topics) == ["old 1", "old 2", "new 1", "new 2"]


def test_the_outbox_keeps_its_name_and_its_numbers_over_a_restart(tmp_path: Path, topics: LocalConnector) -> None:
    names = set()
    for step in range(3):
        db = open_state(tmp_path / "state.db")
        names.add(Outbox(db).partition)
        put(db, f"{step}")
        start_and_publish(db, topics)
        db.close()

    assert len(names) == 1
    assert said(topics) == ["0", "1", "2"]


def test_a_controller_that_was_taken_over_says_nothing_and_keeps_it(
    db: sqlite3.Connection, topics: LocalConnector
) -> None:
    put(db, "a")
    with (
        topics.writer() as writer,
        topics.reader(["scores"], group=GROUP) as old,
        topics.reader(["scores"], group=GROUP),
        pytest.raises(FencedError),
    ):
        Outbox(db).publish(writer, old)

    assert said(topics) == []
    assert [message.value for _, message in Outbox(db).waiting()] == [b"a"]


def test_what_a_broken_step_had_to_say_is_not_said(db: sqlite3.Connection, topics: LocalConnector) -> None:
    def step() -> None:
        with transaction(db):
            Outbox(db).put(Outgoing("alerts", b"a"))
            raise Killed

    with pytest.raises(Killed):
        step()
    start_and_publish(db, topics)

    assert said(topics) == []


crashes = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["ends well", "dies before", "dies after"])), max_size=8
)


@settings(max_examples=25, deadline=None)
@given(steps=crashes)
def test_whenever_it_dies_everything_is_said_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    home = tmp_path_factory.mktemp("outbox")
    topics = LocalConnector(home / "topics.db")
    everything: list[str] = []
    for count, end in [*steps, (1, "ends well")]:
        db = open_state(home / "state.db")
        new = [f"{len(everything) + number}" for number in range(count)]
        everything += new
        put(db, *new)
        try:
            start_and_publish(db, topics, dies_after=int(end != "ends well"), after=end == "dies after")
        except Killed:
            assert end != "ends well"
        db.close()

    assert said(topics) == everything
    topics.close()
