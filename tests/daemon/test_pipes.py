import gzip
import io
import os
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Literal

import pytest

from connectors.local import LocalConnector
from daemon.config import Config, ConnectorConfig
from daemon.pipes import BATCH, send_lines, tail_lines
from daemon.rows import RowsError

#: Seconds after which a thread that should have ended counts as stuck.
STUCK = 30.0


@pytest.fixture(params=["local", "jsonl"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    kind: Literal["local", "jsonl"] = request.param
    return Config(home=tmp_path / "home", connector=ConnectorConfig(kind=kind))


def tail(config: Config, count: int = 0) -> list[str]:
    return list(tail_lines(config, "texts", count, follow=False))


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.jsonl.gz"])
def test_what_is_sent_from_a_file_can_be_read_again(config: Config, tmp_path: Path, name: str) -> None:
    rows = [f'{{"id": "{number}"}}' for number in range(BATCH + 3)]
    content = ("\n".join(rows) + "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    assert send_lines(config, "texts", tmp_path / name, rate=0) == BATCH + 3
    assert tail(config) == rows
    assert tail(config, 2) == rows[-2:]
    assert tail(config, 10**6) == rows


def test_lines_go_through_as_they_stand(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"broken": \r\n\n   \n{"caf\xc3\xa9": 1}\nlast')

    assert send_lines(config, "texts", path, rate=0) == 3
    assert tail(config) == ['{"broken": ', '{"café": 1}', "last"]


def test_a_topic_that_nobody_wrote_to_is_empty(config: Config) -> None:
    assert tail(config) == tail(config, 5) == []


def test_a_missing_file_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="nothing"):
        send_lines(config, "texts", tmp_path / "nothing.jsonl", rate=0)


def test_a_rate_spreads_lines_and_loses_none(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(120)))

    assert send_lines(config, "texts", path, rate=2_000) == 120
    assert tail(config) == [f"{number}" for number in range(120)]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.FileIO]:
    """Standard input is a pipe; this is its other end."""
    out, into = os.pipe()
    with open(out, encoding="utf-8") as stream, io.FileIO(into, "wb") as end:  # noqa: PTH123 (a descriptor)
        monkeypatch.setattr(sys, "stdin", stream)
        yield end


@pytest.mark.parametrize("rate", [0, 2_000])
def test_standard_input_is_sent_to_its_end(config: Config, stdin: io.FileIO, rate: float) -> None:
    stdin.write(b"one\r\n\ntwo\nthree without an end")
    stdin.close()

    assert send_lines(config, "texts", None, rate) == 3
    assert tail(config) == ["one", "two", "three without an end"]


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
