import base64
import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from connectors.topic import Message, Outgoing
from daemon.config import Config
from daemon.connect import open_connector
from daemon.dead_letters import DeadLettersError, Filter, print_letters, replay
from daemon.pipes import up_to_now
from daemon.records import Decoder, Reason, Text
from daemon.scorer import dead_letter

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

ALL = Filter()


@pytest.fixture
def config(connected: Config) -> Config:
    return connected


def named(config: Config, role: str) -> str:
    name: str = getattr(config.topics, role)
    return name


def letter(config: Config, value: bytes, reason: Reason, role: str, number: int, key: bytes | None = None) -> Outgoing:
    message = Message(named(config, role), 0, number, 0.0, key, value, {})
    refused = Decoder(Text, config.records).refuse(message, NOW + timedelta(minutes=number), reason, "for a test")
    return dead_letter(refused, config.topics.dead_letters)


def write(config: Config, messages: Iterable[Outgoing]) -> None:
    connector = open_connector(config)
    with connector.writer() as writer:
        writer.write(list(messages))
    connector.close()


def read(config: Config, role: str) -> list[Message]:
    connector = open_connector(config)
    with connector.reader([named(config, role)]) as reader:
        messages = [message for batch in up_to_now(reader) for message in batch]
    connector.close()
    return messages


def values(config: Config, role: str) -> list[bytes]:
    """In no order: a topic may have several partitions."""
    return sorted(message.value for message in read(config, role))


def sent(config: Config, wanted: Filter, *, dry_run: bool = False) -> dict[str, int]:
    """How many a replay sends back, by what their topics are for."""
    count = replay(config, wanted, dry_run=dry_run).sent
    return {role: count[name] for role, name in config.topics if name in count}


def listed(config: Config, wanted: Filter = ALL, count: int = 0) -> list[dict[str, Any]]:
    console = Console(file=io.StringIO(), soft_wrap=True)
    print_letters(config, wanted, count, console, as_json=True)
    rows: list[dict[str, Any]] = json.loads(console.file.getvalue())
    return rows


@pytest.fixture
def letters(config: Config) -> None:
    """Four of them, and a message that is none."""
    write(
        config,
        [
            letter(config, b"{broken", Reason.NOT_JSON, "texts", 0),
            letter(config, b'{"id": 1}', Reason.INVALID, "labels", 1),
            Outgoing(config.topics.dead_letters, b"not a letter"),
            letter(config, b"{cut", Reason.NOT_JSON, "texts", 2),
            letter(config, b"{off", Reason.NOT_JSON, "labels", 3),
        ],
    )


def test_a_dead_letter_says_in_its_headers_why_from_where_and_when(config: Config) -> None:
    headers = letter(config, b"{broken", Reason.NOT_JSON, "texts", 4).headers
    assert headers == {
        "reason": "not_json",
        "origin": f"{config.topics.texts}/0/4",
        "time": "2026-03-02T09:34:00+00:00",
    }


@pytest.mark.usefixtures("letters")
def test_the_list_has_the_newest_last_and_can_be_narrowed(config: Config) -> None:
    assert [row["offset"] for row in listed(config)] == [0, 1, 2, 3]
    assert [row["offset"] for row in listed(config, count=2)] == [2, 3]
    assert [row["offset"] for row in listed(config, Filter(Reason.NOT_JSON))] == [0, 2, 3]
    assert [row["offset"] for row in listed(config, Filter(Reason.NOT_JSON, config.topics.labels))] == [3]
    assert listed(config, Filter(origin="nowhere")) == []


@pytest.mark.usefixtures("letters")
def test_the_table_tells_what_was_replayed_and_counts_reasons(config: Config) -> None:
    replay(config, Filter(Reason.INVALID), dry_run=False)
    console = Console(file=io.StringIO(), width=200)
    print_letters(config, ALL, 3, console, as_json=False)
    said = console.file.getvalue()
    assert "3 of 4 dead letters shown: 3 not_json, 1 invalid" in said
    assert f"1 messages of {config.topics.dead_letters} are no dead letters" in said
    rows = [line for line in said.splitlines() if "for a test" in line]
    assert ["yes" in row for row in rows] == [True, False, False]
    assert f"{config.topics.labels}/0/1" in rows[0]


@pytest.mark.usefixtures("letters")
def test_a_replay_sends_each_message_back_as_it_was_and_once(config: Config) -> None:
    assert sent(config, ALL) == {"texts": 2, "labels": 2}
    assert sent(config, ALL) == {}
    assert values(config, "texts") == [b"{broken", b"{cut"]
    assert values(config, "labels") == [b'{"id": 1}', b"{off"]
    assert all(row["replayed"] for row in listed(config))


@pytest.mark.usefixtures("letters")
def test_a_narrow_replay_leaves_the_other_letters_for_later(config: Config) -> None:
    assert sent(config, Filter(Reason.NOT_JSON, config.topics.labels)) == {"labels": 1}
    assert sent(config, Filter(origin=config.topics.labels)) == {"labels": 1}
    assert [message.value for message in read(config, "labels")] == [b"{off", b'{"id": 1}']
    assert sent(config, ALL) == {"texts": 2}


@pytest.mark.usefixtures("letters")
def test_letters_that_come_after_a_replay_are_sent_by_the_next_one(config: Config) -> None:
    replay(config, ALL, dry_run=False)
    write(config, [letter(config, b"{new", Reason.NOT_JSON, "texts", 9)])
    assert sent(config, ALL) == {"texts": 1}
    assert values(config, "texts") == [b"{broken", b"{cut", b"{new"]


@pytest.mark.usefixtures("letters")
def test_a_dry_run_counts_and_sends_nothing(config: Config) -> None:
    assert sent(config, ALL, dry_run=True) == {"texts": 2, "labels": 2}
    assert values(config, "texts") == []
    assert sent(config, ALL) == {"texts": 2, "labels": 2}


def test_what_was_cut_is_not_sent_back(config: Config) -> None:
    write(config, [letter(config, b"x" * 300_000, Reason.TOO_LARGE, "texts", 0)])
    assert replay(config, ALL, dry_run=False) == (Counter(), 1)
    assert values(config, "texts") == []


def test_a_replayed_message_keeps_its_key(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    write(config, [letter(config, b"{broken", Reason.NOT_JSON, "texts", 0, key=b"\xffACME")])
    replay(config, ALL, dry_run=False)
    assert [message.key for message in read(config, "texts")] == [b"\xffACME"]


def test_a_reason_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(DeadLettersError, match="there are too_large, not_utf8"):
        Filter.of("unreadable", None)
    assert Filter.of("not_json", "texts") == Filter(Reason.NOT_JSON, "texts")


def test_replays_that_are_killed_send_each_message_once_in_the_end(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    write(config, [letter(config, b"%d" % number, Reason.INVALID, "texts", number) for number in range(20_000)])
    script = (
        "import sys; from pathlib import Path; from daemon.config import Config;"
        "from daemon.dead_letters import Filter, replay;"
        "replay(Config(home=Path(sys.argv[1])), Filter(), dry_run=False)"
    )
    connector = open_connector(config)
    with connector.reader(["texts"]) as reader:
        for _ in range(3):
            before = reader.end()
            with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as process:
                while reader.end() == before and process.poll() is None:
                    time.sleep(0.001)
                process.kill()
    connector.close()
    replay(config, ALL, dry_run=False)
    assert Counter(values(config, "texts")) == Counter(b"%d" % number for number in range(20_000))


def test_a_letter_from_before_keys_were_kept_can_still_be_sent_back(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    old = {
        "reason": "invalid",
        "detail": "id: missing",
        "topic": "texts",
        "partition": 0,
        "offset": 7,
        "at": NOW.isoformat(),
        "value": base64.b64encode(b"{}").decode(),
    }
    write(config, [Outgoing("dead-letters", json.dumps(old).encode())])
    replay(config, ALL, dry_run=False)
    assert values(config, "texts") == [b"{}"]


def test_the_commands_list_and_replay(relearnd: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    write(config, [letter(config, b"{broken", Reason.NOT_JSON, "texts", number) for number in range(3)])
    write(config, [letter(config, b"x" * 300_000, Reason.TOO_LARGE, "texts", 3)])
    here = ("--set", f"home={tmp_path}")
    status, said = relearnd("dead-letters", "list", "--reason", "not_json", "-n", 2, "--json", *here)
    assert status == 0
    assert [row["offset"] for row in json.loads(said)] == [1, 2]
    status, said = relearnd("dead-letters", "list", *here)
    assert "4 of 4 dead letters shown: 3 not_json, 1 too_large" in said
    assert "3 would go back to texts" in relearnd("dead-letters", "replay", "--dry-run", *here)[1]
    status, said = relearnd("dead-letters", "replay", *here)
    assert status == 0
    assert "3 sent back to texts" in said
    assert "1 too_large were cut when they were set aside" in said
    assert "nothing to send" in relearnd("dead-letters", "replay", *here)[1]
    status, said = relearnd("dead-letters", "replay", "--reason", "broken", *here)
    assert status == 1
    assert "--reason broken: there are too_large" in said
