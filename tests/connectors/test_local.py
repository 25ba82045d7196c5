import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.local import PRUNE_EVERY, LocalConnector
from connectors.topic import ConnectorError, Message, Outgoing, Partition, Reader

TEXTS = Partition("texts")
DAY = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topics.db"


def append(connector: LocalConnector, count: int, topic: str = "texts") -> None:
    with connector.writer() as writer:
        writer.write([Outgoing(topic, b"%d" % n) for n in range(count)])


def commit(connector: LocalConnector, group: str, position: int) -> None:
    with connector.reader(["texts"], group=group) as reader, connector.writer() as writer:
        writer.write([], reader=reader, positions={TEXTS: position})


def offsets(reader: Reader) -> list[int]:
    messages: list[Message] = []
    while batch := reader.poll(10_000, 0.0):
        messages += batch
    return [message.offset for message in messages]


def oldest(connector: LocalConnector, topic: str = "texts") -> int:
    with connector.reader([topic]) as reader:
        return reader.positions()[Partition(topic)]


def test_offsets_are_dense_from_zero_in_each_topic(path: Path) -> None:
    connector = LocalConnector(path)
    for _ in range(3):
        append(connector, 2)
        append(connector, 1, "labels")
    with connector.reader(["texts"]) as texts, connector.reader(["labels"]) as labels:
        assert offsets(texts) == [0, 1, 2, 3, 4, 5]
        assert offsets(labels) == [0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(
    value=st.binary(),
    key=st.none() | st.binary(),
    headers=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_message_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, value: bytes, key: bytes | None, headers: Mapping[str, str]
) -> None:
    connector = LocalConnector(tmp_path_factory.mktemp("log") / "topics.db", clock=lambda: 12.5)
    with connector.writer() as writer, connector.reader(["texts"]) as reader:
        writer.write([Outgoing("texts", value, key, headers)])
        assert reader.poll(1, 0.0) == [Message("texts", 0, 0, 12.5, key, value, headers)]


def test_text_where_bytes_belong_is_refused(path: Path) -> None:
    connector = LocalConnector(path)
    with connector.writer() as writer, pytest.raises(ConnectorError, match="keys and values are bytes"):
        writer.write([Outgoing("texts", "text")])  # type: ignore[arg-type]


def test_a_reader_sees_a_write_whole_or_not_at_all(path: Path) -> None:
    connector = LocalConnector(path)

    def produce() -> None:
        for _ in range(30):
            append(connector, 10)

    producer = threading.Thread(target=produce)
    producer.start()
    with connector.reader(["texts"]) as reader:
        ends = set()
        while producer.is_alive():
            ends.add(reader.end()[TEXTS])
    producer.join()
    assert {end % 10 for end in ends} <= {0}


def test_an_idle_poll_costs_next_to_no_processor_time(path: Path) -> None:
    with LocalConnector(path).reader(["texts"]) as reader:
        spent = time.thread_time()
        reader.poll(1, 0.5)
        assert time.thread_time() - spent < 0.05


@pytest.mark.parametrize("attempt", range(15))
def test_connectors_that_make_the_file_at_once_agree_on_it(path: Path, attempt: int) -> None:
    # SQLite locks between connections of one process as it does between processes.
    together = threading.Barrier(6)

    def open_and_write() -> None:
        together.wait()
        append(LocalConnector(path), 1)

    threads = [threading.Thread(target=open_and_write) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with LocalConnector(path).reader(["texts"]) as reader:
        assert offsets(reader) == list(range(together.parties))


class TestRetention:
    def test_old_messages_go_once_every_group_has_read_them(self, path: Path, clock: Clock) -> None:
        connector = LocalConnector(path, retention=DAY, clock=clock)
        append(connector, PRUNE_EVERY)
        commit(connector, "scorer", PRUNE_EVERY)
        commit(connector, "archive", 300)
        clock.now += 2 * DAY
        append(connector, PRUNE_EVERY)
        assert oldest(connector) == 300
        commit(connector, "archive", PRUNE_EVERY + 5)
        append(connector, PRUNE_EVERY)
        assert oldest(connector) == PRUNE_EVERY

    def test_messages_that_are_not_old_stay(self, path: Path, clock: Clock) -> None:
        connector = LocalConnector(path, retention=DAY, clock=clock)
        append(connector, PRUNE_EVERY)
        commit(connector, "scorer", PRUNE_EVERY)
        clock.now += DAY
        append(connector, PRUNE_EVERY)
        assert oldest(connector) == 0

    @pytest.mark.parametrize(
        ("retention", "keep", "group"),
        [(0.0, "models", "scorer"), (DAY, "texts", "scorer"), (DAY, "models", None)],
        ids=["no retention", "a topic to keep", "no group ever committed"],
    )
    def test_everything_stays(self, path: Path, clock: Clock, retention: float, keep: str, group: str | None) -> None:
        connector = LocalConnector(path, retention=retention, keep=frozenset({keep}), clock=clock)
        append(connector, PRUNE_EVERY)
        if group is not None:
            commit(connector, group, PRUNE_EVERY)
        clock.now += 2 * DAY
        append(connector, PRUNE_EVERY)
        assert oldest(connector) == 0

    def test_a_backlog_goes_over_many_writes_rather_than_hold_one_up(self, path: Path, clock: Clock) -> None:
        connector = LocalConnector(path, retention=DAY, clock=clock)
        backlog = 10 * PRUNE_EVERY
        append(connector, backlog)
        commit(connector, "scorer", backlog)
        clock.now += 2 * DAY
        left = []
        for _ in range(3 * PRUNE_EVERY // 500):
            append(connector, 500)
            left.append(oldest(connector))
        assert max(after - before for before, after in zip([0, *left], left, strict=False)) == 2 * (PRUNE_EVERY + 500)
        assert left[-1] == 9000
        append(connector, PRUNE_EVERY)
        assert oldest(connector) == backlog

    def test_offsets_go_on_after_everything_was_deleted(self, path: Path, clock: Clock) -> None:
        connector = LocalConnector(path, retention=DAY, clock=clock)
        append(connector, PRUNE_EVERY)
        commit(connector, "scorer", PRUNE_EVERY)
        clock.now += 2 * DAY
        append(connector, PRUNE_EVERY)
        connector.close()
        with LocalConnector(path).reader(["texts"]) as reader:
            assert offsets(reader) == list(range(PRUNE_EVERY, 2 * PRUNE_EVERY))

    def test_reading_what_is_gone_names_how_much_is_lost(self, path: Path, clock: Clock) -> None:
        connector = LocalConnector(path, retention=DAY, clock=clock)
        append(connector, PRUNE_EVERY)
        with connector.reader(["texts"]) as slow:
            slow.poll(10, 0.0)
            commit(connector, "scorer", PRUNE_EVERY)
            clock.now += 2 * DAY
            append(connector, PRUNE_EVERY)
            with pytest.raises(ConnectorError, match=r"990 messages of 'texts' from offset 10 .* seek to 1000 "):
                slow.poll(10, 0.0)
            with pytest.raises(ConnectorError, match="1000 messages of 'texts' from offset 0"):
                slow.seek({TEXTS: 0})
            slow.seek({TEXTS: PRUNE_EVERY})
            assert offsets(slow)[0] == PRUNE_EVERY

    @settings(max_examples=15, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2 * PRUNE_EVERY), st.floats(0, 1.5)), max_size=6
        )
    )
    def test_nothing_young_and_nothing_unread_is_ever_deleted(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, float]]
    ) -> None:
        clock = Clock()
        connector = LocalConnector(tmp_path_factory.mktemp("log") / "topics.db", retention=DAY, clock=clock)
        written: list[float] = []
        read: dict[str, int] = {}
        for group, more, days in steps:
            written += [clock.now] * PRUNE_EVERY
            append(connector, PRUNE_EVERY)
            gone = oldest(connector)
            assert gone <= min(read.values(), default=0)
            assert all(at < clock.now - DAY for at in written[:gone])
            read[group] = min(max(read.get(group, gone), gone) + more, len(written))
            commit(connector, group, read[group])
            clock.now += days * DAY
        connector.close()


class TestErrors:
    def test_a_file_that_is_no_database(self, path: Path) -> None:
        path.write_text("id,text\n" * 200)
        with pytest.raises(ConnectorError, match=r"topics\.db.*not a SQLite database.*connector\.local\.path"):
            LocalConnector(path)
        assert path.read_text() == "id,text\n" * 200

    def test_a_database_of_another_program_is_left_alone(self, path: Path) -> None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE accounts (id)")
        other.close()
        before = path.read_bytes()
        with pytest.raises(ConnectorError, match=r"topics\.db is another program's database"):
            LocalConnector(path)
        assert path.read_bytes() == before

    def test_a_log_of_another_format(self, path: Path) -> None:
        LocalConnector(path).close()
        future = sqlite3.connect(path)
        future.execute("PRAGMA user_version = 99")
        future.close()
        with pytest.raises(ConnectorError, match="format 99"):
            LocalConnector(path)

    def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConnectorError, match=r"cannot make the directory of .*file/topics\.db"):
            LocalConnector(tmp_path / "file" / "topics.db")

    def test_a_directory_in_the_place_of_the_file(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(ConnectorError, match="must be a file in a directory that this user may write"):
            LocalConnector(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_directory_that_is_not_writable(self, path: Path) -> None:
        path.parent.chmod(0o555)
        with pytest.raises(ConnectorError, match="may write"):
            LocalConnector(path)

    def test_a_full_disk_keeps_nothing_of_the_write_and_the_next_one_works(self, path: Path) -> None:
        connector = LocalConnector(path)
        with connector.writer() as writer, connector.reader(["texts"]) as reader:
            writer.write([Outgoing("texts", b"before")])
            # SQLite's own limit on the file's size fails as a full disk does.
            (pages,) = writer._connection.execute("PRAGMA page_count").fetchone()
            writer._connection.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(ConnectorError, match=r"full.*free some space") as caught:
                writer.write([Outgoing("texts", bytes(100_000))])
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            writer._connection.execute("PRAGMA max_page_count = 1000000")
            writer.write([Outgoing("texts", b"after")])
            assert [message.value for message in reader.poll(10, 0.0)] == [b"before", b"after"]

    def test_a_writer_that_was_closed(self, path: Path) -> None:
        writer = LocalConnector(path).writer()
        writer.close()
        with pytest.raises(ConnectorError, match="closed"):
            writer.write([])

    def test_a_reader_of_another_log(self, path: Path, tmp_path: Path) -> None:
        with (
            LocalConnector(path).writer() as writer,
            LocalConnector(tmp_path / "other.db").reader(["texts"], group="g") as reader,
            pytest.raises(ConnectorError, match="same log"),
        ):
            writer.write([], reader=reader, positions={TEXTS: 0})

    def test_a_reader_of_no_topic(self, path: Path) -> None:
        with pytest.raises(ConnectorError, match="at least one topic"):
            LocalConnector(path).reader([])
