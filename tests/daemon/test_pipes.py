import gzip
import io
import os
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from connectors.local import LocalConnector, LocalReader
from connectors.topic import Message
from daemon.config import Config
from daemon.pipes import BATCH, send_lines, tail_lines
from daemon.rows import RowsError

#: Seconds after which a thread that should have ended counts as stuck.
STUCK = 30.0


@pytest.fixture
def config(connected: Config) -> Config:
    return connected


@pytest.fixture
def topic(config: Config) -> str:
    """One that has one partition everywhere, so that lines keep their order."""
    return config.topics.labels


def tail(config: Config, topic: str, count: int = 0) -> list[str]:
    return list(tail_lines(config, topic, count, follow=False))


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.jsonl.gz"])
def test_what_is_sent_from_a_file_can_be_read_again(config: Config, topic: str, tmp_path: Path, name: str) -> None:
    rows = [f'{{"id": "{number}"}}' for number in range(BATCH + 3)]
    content = ("\n".join(rows) + "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    assert send_lines(config, topic, tmp_path / name, rate=0) == BATCH + 3
    assert tail(config, topic) == rows
    assert tail(config, topic, 2) == rows[-2:]
    assert tail(config, topic, 10**6) == rows


def test_lines_go_through_as_they_stand(config: Config, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"broken": \r\n\n   \n{"caf\xc3\xa9": 1}\nlast')

    assert send_lines(config, topic, path, rate=0) == 3
    assert tail(config, topic) == ['{"broken": ', '{"café": 1}', "last"]


def test_a_topic_that_nobody_wrote_to_is_empty(config: Config, topic: str) -> None:
    assert tail(config, topic) == tail(config, topic, 5) == []


def test_the_last_lines_are_found_behind_holes_in_the_offsets(config: Config, topic: str, tmp_path: Path) -> None:
    # On Kafka every write is a transaction, whose end takes an offset.
    path = tmp_path / "line"
    for number in range(30):
        path.write_text(f"{number}\n")
        send_lines(config, topic, path, rate=0)
    for count in (1, 7, 29, 30):
        assert tail(config, topic, count) == [str(number) for number in range(30 - count, 30)]


def test_the_last_lines_are_those_of_all_partitions_together(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "line"
    for number in range(12):
        path.write_text(f"{number}\n")
        send_lines(config, config.topics.texts, path, rate=0)
    assert tail(config, config.topics.texts, 5) == ["7", "8", "9", "10", "11"]


def test_the_last_lines_are_found_without_reading_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(home=tmp_path / "home")
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(20_000)))
    send_lines(config, "texts", path, rate=0)
    read: list[int] = []
    poll = LocalReader.poll

    def counting(reader: LocalReader, max_messages: int, timeout: float) -> list[Message]:
        messages = poll(reader, max_messages, timeout)
        read.append(len(messages))
        return messages

    monkeypatch.setattr(LocalReader, "poll", counting)
    assert tail(config, "texts", 3) == ["19997", "19998", "19999"]
    assert sum(read) < 10


def test_a_missing_file_is_named(config: Config, topic: str, tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="nothing"):
        send_lines(config, topic, tmp_path / "nothing.jsonl", rate=0)


def test_a_rate_spreads_lines_and_loses_none(config: Config, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(120)))

    assert send_lines(config, topic, path, rate=2_000) == 120
    assert tail(config, topic) == [f"{number}" for number in range(120)]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.FileIO]:
    """Standard input is a pipe; this is its other end."""
    out, into = os.pipe()
    with open(out, encoding="utf-8") as stream, io.FileIO(into, "wb") as end:  # noqa: PTH123 (a descriptor)
        monkeypatch.setattr(sys, "stdin", stream)
        yield end


@pytest.mark.parametrize("rate", [0, 2_000])
def test_standard_input_is_sent_to_its_end(config: Config, topic: str, stdin: io.FileIO, rate: float) -> None:
    stdin.write(b"one\r\n\ntwo\nthree without an end")
    stdin.close()

    assert send_lines(config, topic, None, rate) == 3
    assert tail(config, topic) == ["one", "two", "three without an end"]


def test_a_line_from_a_pipe_is_sent_before_the_next_one_comes(tmp_path: Path, stdin: io.FileIO) -> None:
    config = Config(home=tmp_path / "home")
    sending = threading.Thread(target=send_lines, args=(config, "texts", None, 0.0), daemon=True)
    topics = LocalConnector(tmp_path / "home" / "topics.db")
    with topics.reader(["texts"]) as reader:
        sending.start()
        for word in (b"one", b"two"):
            stdin.write(word[:1])
            stdin.write(word[1:] + b"\n")
            assert [message.value for message in reader.poll(10, STUCK)] == [word]
        stdin.close()
        sending.join(STUCK)
    assert not sending.is_alive()
    topics.close()


def test_following_tells_what_comes_after_what_was_there(tmp_path: Path) -> None:
    config = Config(home=tmp_path / "home")
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n")
    send_lines(config, "texts", path, rate=0)

    following = tail_lines(config, "texts", 1, follow=True)
    assert next(following) == "two"
    path.write_bytes(b"three\nfour \xff\n")
    send_lines(config, "texts", path, rate=0)
    assert [next(following), next(following)] == ["three", "four \N{REPLACEMENT CHARACTER}"]
    assert isinstance(following, Generator)
    following.close()
