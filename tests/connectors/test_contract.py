"""What every connector must do. Nothing here counts on dense offsets or on a topic having one partition."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.topic import Connector, ConnectorError, FencedError, Message, Outgoing, Partition, Reader
from tests.connectors.conftest import ConnectorFactory, Place

#: Seconds after which a test that waits for something has failed.
PATIENCE = 20.0

WORKER = """
import sys
from connectors.topic import Outgoing
from tests.connectors.conftest import OPENERS

connector = OPENERS[sys.argv[1]](sys.argv[2])
reader, writer = connector.reader(["texts"], group="workers"), connector.writer()
while reader.positions() != reader.end():
    messages = reader.poll(3, 10.0)
    answers = [Outgoing("scores", b'"of ' + m.value + b'"') for m in messages]
    writer.write(answers, reader=reader, positions=reader.positions())
"""

PRODUCER = """
import sys
from connectors.topic import Outgoing
from tests.connectors.conftest import OPENERS

connector = OPENERS[sys.argv[1]](sys.argv[2])
writer = connector.writer()
for n in range(0, 100, 5):
    writer.write([Outgoing("texts", f"{sys.argv[3]}-{i:03}".encode()) for i in range(n, n + 5)])
"""


def texts(values: Iterable[object]) -> list[Outgoing]:
    """Under one key, so that they share a partition wherever there are several."""
    return [Outgoing("texts", str(value).encode(), b"key") for value in values]


def drain(reader: Reader, max_messages: int = 100) -> list[Message]:
    messages: list[Message] = []
    deadline = time.monotonic() + PATIENCE
    while reader.positions() != reader.end():
        assert time.monotonic() < deadline
        messages += reader.poll(max_messages, 0.1)
    return messages


def values(messages: Iterable[Message]) -> list[bytes]:
    return [message.value for message in messages]


def read_all(connector: Connector, topic: str = "texts") -> list[bytes]:
    with connector.reader([topic]) as reader:
        return values(drain(reader))


def assert_in_order(messages: Sequence[Message], written: Sequence[bytes]) -> None:
    """All that was written, once, and each partition in the order of writing. What was written differs."""
    assert Counter(values(messages)) == Counter(written)
    by_partition: defaultdict[int, list[Message]] = defaultdict(list)
    for message in messages:
        by_partition[message.partition].append(message)
    for partition in by_partition.values():
        offsets = [message.offset for message in partition]
        assert offsets == sorted(set(offsets))
        ranks = [written.index(message.value) for message in partition]
        assert ranks == sorted(ranks)


def test_messages_are_read_in_the_order_they_were_written(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts"]) as reader:
        for n in range(0, 60, 20):
            writer.write(texts(range(n, n + 20)))
        messages = drain(reader, 7)
    assert_in_order(messages, [str(n).encode() for n in range(60)])
    assert {message.topic for message in messages} == {"texts"}


def test_a_poll_returns_no_more_than_it_was_asked_for(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts", "labels"]) as reader:
        writer.write(texts(range(10)) + [Outgoing("labels", b"l")] * 10)
        assert len(reader.poll(4, PATIENCE)) <= 4


def test_readers_without_a_group_each_read_everything(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer:
        writer.write(texts(range(5)))
    assert read_all(connector) == read_all(connector) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_backlog_in_one_topic_does_not_starve_another(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts", "labels"]) as reader:
        writer.write([*texts(range(100)), Outgoing("labels", b"seen")])
        # Where topics end their parts of a transaction one after another, both have done so now.
        with connector.reader(["texts", "labels"]) as other:
            drain(other)
        early = reader.poll(5, PATIENCE) + reader.poll(5, PATIENCE)
    assert b"seen" in values(early)


def test_a_new_reader_of_a_group_goes_on_from_its_committed_positions(place: Place) -> None:
    written = [str(n).encode() for n in range(30)]
    first = place.open()
    with first.writer() as writer, first.reader(["texts"], group="g") as reader:
        writer.write(texts(range(30)))
        before = reader.poll(11, PATIENCE)
        writer.write([], reader=reader, positions=reader.positions())
        reader.poll(5, PATIENCE)  # read, but never committed
    first.close()
    with place.open().reader(["texts"], group="g") as reader:
        after = drain(reader)
    assert_in_order(before + after, written)


def test_committed_positions_are_told_apart_by_group(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts"], group="g") as reader:
        writer.write(texts(range(3)))
        drain(reader)
        writer.write([], reader=reader, positions=reader.positions())
        committed = connector.committed("g")
        assert committed == reader.positions()
    assert connector.committed("another") == {}
    with connector.reader(["texts"], group="another") as reader:
        assert len(drain(reader)) == 3


def test_a_made_up_partition_keeps_a_position_of_the_callers_own(place: Place) -> None:
    connector = place.open()
    outbox = Partition("outbox")
    with connector.writer() as writer, connector.reader(["texts"], group="g") as reader:
        writer.write(texts(["a"]), reader=reader, positions={outbox: 17})
        writer.write([], reader=reader, positions={outbox: 18})
    connector.close()
    assert place.open().committed("g") == {outbox: 18}


def test_positions_without_a_group_are_refused(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts"]) as reader:
        with pytest.raises(ConnectorError, match="group"):
            writer.write(texts(["a"]), reader=reader, positions={Partition("texts"): 0})
        with pytest.raises(ConnectorError, match="group"):
            writer.write(texts(["a"]), positions={Partition("texts"): 0})
    assert read_all(connector) == []


def test_a_write_that_fails_midway_leaves_nothing_and_commits_nothing(place: Place) -> None:
    connector = place.open()
    bad: list[Outgoing] = [*texts(range(20)), Outgoing("texts", None)]  # type: ignore[arg-type]
    with connector.writer() as writer, connector.reader(["texts"], group="g") as reader:
        writer.write(texts(["before"]), reader=reader, positions={Partition("outbox"): 1})
        with pytest.raises((ConnectorError, TypeError, AttributeError)):
            writer.write([Outgoing("scores", b"s"), *bad], reader=reader, positions={Partition("outbox"): 2})
        assert connector.committed("g") == {Partition("outbox"): 1}
        writer.write(texts(["after"]))
    assert read_all(connector) == [b"before", b"after"]
    assert read_all(connector, "scores") == []


def test_a_newer_reader_of_the_group_fences_the_older_one(place: Place) -> None:
    old, new = place.open(), place.open()
    with (
        old.writer() as writer,
        old.reader(["texts"], group="g") as fenced,
        new.reader(["texts"], group="g") as owner,
        new.reader(["texts"], group="another"),
    ):
        writer.write(texts(["a"]))
        assert values(drain(fenced)) == [b"a"]
        with pytest.raises(FencedError, match="'g'"):
            writer.write([Outgoing("scores", b"twice")], reader=fenced, positions=fenced.positions())
        assert read_all(new, "scores") == []
        assert new.committed("g") == {}
        assert values(drain(owner)) == [b"a"]
        with new.writer() as successor:
            successor.write([Outgoing("scores", b"once")], reader=owner, positions=owner.positions())
    assert read_all(place.open(), "scores") == [b"once"]


def test_seeking_reads_again_from_where_it_was(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts"]) as reader:
        writer.write(texts(range(20)))
        start = reader.positions()
        reader.poll(8, PATIENCE)
        middle = reader.positions()
        rest = drain(reader)
        reader.seek(middle)
        assert reader.positions() == middle
        assert drain(reader) == rest
        reader.seek(start)
        assert len(drain(reader)) == 20


def test_seeking_moves_only_the_partitions_that_are_named(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts", "labels"]) as reader:
        start = reader.positions()
        writer.write([*texts(range(3)), Outgoing("labels", b"l")])
        drain(reader)
        reader.seek({partition: at for partition, at in start.items() if partition.topic == "texts"})
        assert {message.topic for message in drain(reader)} == {"texts"}


def test_seeking_where_no_message_can_be_is_refused(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts"]) as reader:
        writer.write(texts(range(3)))
        drain(reader)
        end = reader.positions()
        with pytest.raises(ConnectorError, match="texts"):
            reader.seek({partition: at + 100 for partition, at in end.items()})
        with pytest.raises(ConnectorError, match="nowhere"):
            reader.seek({Partition("nowhere"): 0})
        assert reader.positions() == end


def test_the_end_is_where_a_reader_that_has_read_everything_stands(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts", "labels"]) as reader:
        assert reader.end() == reader.positions()
        writer.write(texts(range(10)))
        assert sum(reader.end().values()) > sum(reader.positions().values())
        drain(reader)
        assert reader.end() == reader.positions()


def test_an_empty_poll_takes_its_timeout_and_no_longer(place: Place) -> None:
    with place.open().reader(["texts"]) as reader:
        started = time.monotonic()
        assert reader.poll(10, 0.15) == []
        assert 0.14 <= time.monotonic() - started < PATIENCE
        started = time.monotonic()
        assert reader.poll(10, 0.0) == []
        assert time.monotonic() - started < 0.14


@pytest.mark.parametrize("same", [True, False], ids=["the same connector", "another connector"])
def test_a_waiting_poll_returns_soon_after_a_write(place: Place, same: bool) -> None:
    connector = place.open()
    other = connector if same else place.open()
    delays: list[float] = []
    with connector.reader(["texts"]) as reader, other.writer() as writer:
        for n in range(5):
            written: list[float] = []

            def write(n: int = n, written: list[float] = written) -> None:
                writer.write(texts([n]))
                written.append(time.monotonic())

            thread = threading.Timer(0.03, write)
            thread.start()
            assert values(reader.poll(10, PATIENCE)) == [str(n).encode()]
            read = time.monotonic()
            thread.join()
            delays.append(read - written[0])
    # The best of five: the machine that runs this may be busy.
    assert min(delays) < 0.04


def test_closing_a_reader_wakes_its_waiting_poll(place: Place) -> None:
    reader = place.open().reader(["texts"])
    closer = threading.Timer(0.05, reader.close)
    started = time.monotonic()
    closer.start()
    assert reader.poll(10, PATIENCE) == []
    assert time.monotonic() - started < PATIENCE / 2
    closer.join()
    with pytest.raises(ConnectorError, match="closed"):
        reader.poll(10, 0.0)
    reader.close()


def test_closing_a_connector_wakes_its_readers(place: Place) -> None:
    connector = place.open()
    reader = connector.reader(["texts"])
    closer = threading.Timer(0.05, connector.close)
    closer.start()
    assert reader.poll(10, PATIENCE) == []
    closer.join()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=15, deadline=None)
@given(documents=st.lists(JSON, max_size=8), ascii_only=st.booleans())
def test_any_json_comes_back_as_the_bytes_it_was(
    connector_factory: ConnectorFactory, documents: list[object], ascii_only: bool
) -> None:
    def encode(document: object) -> bytes:
        return json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    written = [encode(document) for document in documents]
    with connector_factory.place() as place:
        connector = place.open()
        with connector.writer() as writer:
            writer.write([Outgoing("texts", value) for value in written])
        assert Counter(read_all(connector)) == Counter(written)


def test_a_large_batch_and_a_large_message_come_back_whole(place: Place) -> None:
    written = [str(n).encode() for n in range(20_000)] + [b"x" * 2_000_000]
    connector = place.open()
    with connector.writer() as writer, connector.reader(["texts"]) as reader:
        writer.write([Outgoing("texts", value) for value in written])
        assert Counter(values(drain(reader, 50_000))) == Counter(written)


def test_threads_that_share_a_writer_lose_nothing(place: Place) -> None:
    connector = place.open()
    with connector.writer() as writer:

        def produce(name: int) -> None:
            for n in range(10):
                writer.write(texts([f"{name}-{n}"]))

        threads = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(read_all(connector)) == sorted(f"{name}-{n}".encode() for name in range(4) for n in range(10))


def test_processes_that_write_to_one_topic_lose_nothing(place: Place) -> None:
    names = ["a", "b", "c"]
    producers = [child(PRODUCER, place, name) for name in names]
    assert [producer.wait(PATIENCE) for producer in producers] == [0, 0, 0]
    read = read_all(place.open())
    for name in names:
        mine = [value for value in read if value.startswith(name.encode())]
        assert sorted(mine) == [f"{name}-{n:03}".encode() for n in range(100)]


def test_a_worker_killed_again_and_again_answers_every_text_exactly_once(place: Place) -> None:
    rng = random.Random(4)
    connector = place.open()
    written = list(range(240))
    with connector.writer() as writer, connector.reader(["scores"]) as answers:
        writer.write(texts(written))
        seen: list[Message] = []
        for _ in range(5):
            worker = child(WORKER, place)
            wanted = len(seen) + rng.randrange(1, 40)
            deadline = time.monotonic() + PATIENCE
            while len(seen) < wanted and worker.poll() is None:
                assert time.monotonic() < deadline
                seen += answers.poll(wanted - len(seen), 0.05)
            # Somewhere within the next write or two, which take about a millisecond.
            spin_until = time.perf_counter() + rng.uniform(0, 0.004)
            while time.perf_counter() < spin_until:
                pass
            worker.kill()
            worker.wait()
        assert child(WORKER, place).wait(PATIENCE) == 0
        seen += drain(answers)
    expected = Counter(f'"of {n}"'.encode() for n in written)
    assert Counter(values(seen)) == expected
    assert Counter(read_all(connector, "scores")) == expected


def child(program: str, place: Place, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", program, place.kind, place.location, *arguments]
    # Run from the repository's root, where the child finds this package.
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


Step = tuple[Literal["write", "poll", "commit", "answer", "reopen", "rewind"], int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "poll", "commit", "answer", "reopen", "rewind"]), st.integers(0, 5)),
    max_size=25,
)


class Model:
    """What a topic and a group are, in plain lists: `read` of `log` so far, `kept` of them committed."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.answers: list[bytes] = []
        self.read = 0
        self.kept = 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_interleaving_reads_what_a_list_would(connector_factory: ConnectorFactory, steps: list[Step]) -> None:
    model = Model()
    with connector_factory.place() as place:
        connector = place.open()
        writer, reader = connector.writer(), connector.reader(["texts"], group="g")
        for step, size in steps:
            if step == "write":
                batch = texts(range(len(model.log), len(model.log) + size))
                writer.write(batch)
                model.log += [message.value for message in batch]
            elif step == "poll":
                left = model.log[model.read :]
                messages = reader.poll(size + 1, PATIENCE if left else 0.0)
                assert min(1, len(left)) <= len(messages) <= size + 1
                assert values(messages) == left[: len(messages)]
                model.read += len(messages)
            elif step == "reopen":
                connector.close()
                connector = place.open()
                writer, reader = connector.writer(), connector.reader(["texts"], group="g")
                model.read = model.kept
            elif step == "rewind":
                committed = connector.committed("g")
                if committed:
                    reader.seek(committed)
                    model.read = model.kept
            else:
                answer = Outgoing("scores", f"answer {model.read}".encode(), b"key")
                answers = [answer] * size if step == "answer" else []
                writer.write(answers, reader=reader, positions=reader.positions())
                model.answers += [message.value for message in answers]
                model.kept = model.read
        assert read_all(connector) == model.log
        assert read_all(connector, "scores") == model.answers
