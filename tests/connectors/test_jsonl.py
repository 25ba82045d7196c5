import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from connectors.jsonl import JsonlConnector, JsonlReader
from connectors.topic import ConnectorError, Message, Outgoing, Partition

TEXTS = Partition("texts")
ROOT = Path(__file__).parents[2]

#: Answers three texts, and dies at a step of writing that makes something last: the n-th fsync or rename.
DYING_WORKER = """
import os
import sys
from pathlib import Path
from connectors.jsonl import JsonlConnector
from connectors.topic import Outgoing

steps = int(sys.argv[2])

def dying(real):
    def call(*arguments):
        global steps
        if steps == 0:
            os._exit(9)
        steps -= 1
        return real(*arguments)
    return call

os.fsync, os.replace = dying(os.fsync), dying(os.replace)
connector = JsonlConnector(Path(sys.argv[1]))
reader, writer = connector.reader(["texts"], group="g"), connector.writer()
messages = reader.poll(3, 0.0)
answers = [Outgoing("scores", m.value) for m in messages] + [Outgoing("audit", b"three")]
writer.write(answers, reader=reader, positions=reader.positions())
os._exit(steps)
"""

PIPE = """
import sys
from pathlib import Path
from connectors.jsonl import JsonlConnector
from connectors.topic import Outgoing

connector = JsonlConnector(Path(sys.argv[1]), files={"texts": "-", "scores": "-"})
reader, writer = connector.reader(["texts"], group="g"), connector.writer()
while not reader.exhausted():
    answers = [Outgoing("scores", b"%d " % m.offset + m.value) for m in reader.poll(2, 10.0)]
    writer.write(answers, reader=reader, positions=reader.positions())
try:
    reader.seek(dict.fromkeys(reader.positions(), 0))
except Exception as error:
    writer.write([Outgoing("scores", str(error).encode())])
"""


@pytest.fixture
def connector(tmp_path: Path) -> JsonlConnector:
    return JsonlConnector(tmp_path)


def values(reader: JsonlReader, max_messages: int = 100) -> list[bytes]:
    messages: list[Message] = []
    while batch := reader.poll(max_messages, 0.0):
        messages += batch
    return [message.value for message in messages]


def write(connector: JsonlConnector, topic: str, *lines: bytes) -> None:
    with connector.writer() as writer:
        writer.write([Outgoing(topic, line) for line in lines])


def test_a_message_is_a_line_and_its_offset_is_where_the_line_starts(connector: JsonlConnector, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes('{"text": "é"}\n[]\n'.encode())
    os.utime(file, (0, 1000.5))
    with connector.reader(["texts"]) as reader:
        assert reader.poll(10, 0.0) == [
            Message("texts", 0, 0, 1000.5, None, '{"text": "é"}'.encode(), {}),
            Message("texts", 0, 15, 1000.5, None, b"[]", {}),
        ]
        assert reader.positions() == reader.end() == {TEXTS: 18}


@pytest.mark.parametrize("max_messages", [1, 2, 100])
def test_blank_lines_are_skipped(connector: JsonlConnector, tmp_path: Path, max_messages: int) -> None:
    (tmp_path / "texts.jsonl").write_bytes(b"\n\n1\n\n \n\r\n2\n\n")
    with connector.reader(["texts"]) as reader:
        assert values(reader, max_messages) == [b"1", b"2"]
        assert reader.exhausted()


def test_an_unfinished_last_line_is_read_unless_following(connector: JsonlConnector, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_bytes(b"1\n2")
    with connector.reader(["texts"]) as reader:
        assert values(reader) == [b"1", b"2"]


def test_following_waits_for_the_rest_of_the_last_line(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(b"1\n2")
    with JsonlConnector(tmp_path, follow=True).reader(["texts"]) as reader:
        assert values(reader) == [b"1"]
        assert not reader.exhausted()
        with file.open("ab") as stream:
            stream.write(b"3\n")
        assert values(reader) == [b"23"]
        assert not reader.exhausted()


def test_a_write_does_not_run_into_a_line_another_program_left_unfinished(
    connector: JsonlConnector, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_bytes(b"1\n2")
    with connector.reader(["texts"]) as reader:
        assert values(reader) == [b"1", b"2"]
        write(connector, "texts", b"3")
        assert values(reader) == [b"3"]
    assert (tmp_path / "texts.jsonl").read_bytes() == b"1\n2\n3\n"


def test_reading_without_a_group_writes_nothing(connector: JsonlConnector, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_bytes(b"1\n")
    with connector.reader(["texts", "labels"]) as reader:
        assert values(reader) == [b"1"]
        assert reader.exhausted()
    assert connector.committed("g") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_topics_may_lie_in_files_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "headlines 2020.txt").write_bytes(b"1\n2\n")
    out = tmp_path / "out"
    out.mkdir()
    files = {"texts": tmp_path / "headlines 2020.txt", "scores": out / "scored.jsonl"}
    connector = JsonlConnector(tmp_path / "state", files=files)
    with connector.reader(["texts"], group="g") as reader, connector.writer() as writer:
        answers = [Outgoing("scores", message.value) for message in reader.poll(1, 0.0)]
        writer.write(answers, reader=reader, positions=reader.positions())
    assert (out / "scored.jsonl").read_bytes() == b"1\n"
    with JsonlConnector(tmp_path / "state", files=files).reader(["texts"], group="g") as reader:
        assert values(reader) == [b"2"]


class TestCompressed:
    def test_it_is_read_like_any_other(self, connector: JsonlConnector, tmp_path: Path) -> None:
        lines = [b"%d" % n for n in range(5000)]
        (tmp_path / "texts.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
        with connector.reader(["texts"]) as reader:
            assert not reader.exhausted()
            assert values(reader, 700) == lines
            assert reader.exhausted()
            assert reader.positions() == reader.end() == {TEXTS: len(b"\n".join(lines))}
            reader.seek({TEXTS: 10})
            assert values(reader)[:2] == [b"5", b"6"]

    def test_it_cannot_be_written(self, connector: JsonlConnector, tmp_path: Path) -> None:
        (tmp_path / "texts.jsonl.gz").write_bytes(gzip.compress(b"1\n"))
        with pytest.raises(ConnectorError, match=r"texts\.jsonl\.gz: compressed topics can only be read"):
            write(connector, "texts", b"2")

    @pytest.mark.parametrize(
        "content", [b"1\n2\n", gzip.compress(b"1\n2\n" * 99)[:-9]], ids=["not compressed", "cut short"]
    )
    def test_a_damaged_one_is_named(self, connector: JsonlConnector, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "texts.jsonl.gz").write_bytes(content)
        with connector.reader(["texts"]) as reader:
            with pytest.raises(ConnectorError, match=r"texts\.jsonl\.gz is damaged or not a gzip file"):
                values(reader)
            with pytest.raises(ConnectorError, match=r"texts\.jsonl\.gz is damaged or not a gzip file"):
                reader.end()

    def test_a_topic_with_two_files_is_refused(self, connector: JsonlConnector, tmp_path: Path) -> None:
        (tmp_path / "texts.jsonl.gz").touch()
        (tmp_path / "texts.jsonl").touch()
        with pytest.raises(ConnectorError, match="has two files"):
            connector.reader(["texts"])


class TestCrashes:
    @pytest.mark.parametrize("step", range(15))
    def test_a_worker_that_dies_at_any_step_of_a_write_answers_exactly_once(self, tmp_path: Path, step: int) -> None:
        (tmp_path / "texts.jsonl").write_bytes(b"1\n2\n3\n")
        child = subprocess.run([sys.executable, "-c", DYING_WORKER, str(tmp_path), str(step)], cwd=ROOT, check=False)
        # Joining the group makes 3 things last, the write 10: its note 3, two files 2 each, its end 3.
        assert child.returncode == (9 if step < 13 else step - 13)
        connector = JsonlConnector(tmp_path)
        with connector.reader(["texts"], group="g") as reader, connector.writer() as writer:
            for message in reader.poll(10, 0.0):
                writer.write([Outgoing("scores", message.value)], reader=reader, positions=reader.positions())
        with connector.reader(["scores"]) as reader:
            assert values(reader) == [b"1", b"2", b"3"]

    def test_a_write_cut_short_is_not_read_and_is_undone_by_the_next(self, tmp_path: Path) -> None:
        connector = JsonlConnector(tmp_path)
        write(connector, "scores", b"whole")
        (tmp_path / ".positions.json").write_text('{"version": 1, "groups": {}, "pending": {"scores.jsonl": 6}}')
        with (tmp_path / "scores.jsonl").open("ab") as file:
            file.write(b"doubtful\nha")
        with connector.reader(["scores"]) as reader:
            assert values(reader) == [b"whole"]
            assert reader.end() == {Partition("scores"): 6}
            write(connector, "scores", b"again")
            assert values(reader) == [b"again"]
        assert (tmp_path / "scores.jsonl").read_bytes() == b"whole\nagain\n"

    def test_lines_that_other_programs_append_are_kept(self, tmp_path: Path) -> None:
        write(JsonlConnector(tmp_path), "texts", b"1")
        with (tmp_path / "texts.jsonl").open("ab") as file:
            file.write(b"2\n")
        connector = JsonlConnector(tmp_path)
        write(connector, "texts", b"3")
        with connector.reader(["texts"]) as reader:
            assert values(reader) == [b"1", b"2", b"3"]

    def test_a_write_that_fails_midway_takes_back_what_it_appended(self, tmp_path: Path) -> None:
        connector = JsonlConnector(tmp_path)
        write(connector, "scores", b"1")
        (tmp_path / "audit.jsonl").mkdir()
        with connector.writer() as writer, pytest.raises(ConnectorError, match=r"audit\.jsonl.*[Ii]s a directory"):
            writer.write([Outgoing("scores", b"2"), Outgoing("audit", b"x")])
        assert (tmp_path / "scores.jsonl").read_bytes() == b"1\n"
        write(connector, "scores", b"3")
        assert (tmp_path / "scores.jsonl").read_bytes() == b"1\n3\n"


class TestStandardStreams:
    def test_a_pipe_is_read_to_its_end_and_answered(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", PIPE, str(tmp_path)]
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"one\ntw")
        child.stdin.flush()
        assert child.stdout.readline() == b"0 one\n"
        child.stdin.write(b"o\n\nthree\nfour")
        child.stdin.close()
        answers = child.stdout.read().splitlines()
        child.stdout.close()
        assert child.wait(20) == 0
        assert answers[:3] == [b"4 two", b"9 three", b"15 four"]
        assert answers[3].startswith(b"cannot go back to byte 0 of standard input, which has been read up to byte 19")
        assert JsonlConnector(tmp_path).committed("g") == {}

    def test_an_output_that_nobody_reads_any_more_is_named(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", PIPE, str(tmp_path)]
        child = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.close()
        child.stdout = None
        _, complaint = child.communicate(b"1\n", timeout=20)
        assert b"ConnectorError: cannot write to standard output: Broken pipe" in complaint


class TestErrors:
    @pytest.mark.parametrize(("value", "why"), [(b"1\n2", "newline"), (b"", "blank"), (b" \t", "blank")])
    def test_a_value_that_is_not_a_line(
        self, connector: JsonlConnector, tmp_path: Path, value: bytes, why: str
    ) -> None:
        with pytest.raises(ConnectorError, match=f"'texts' .*{why}"):
            write(connector, "texts", b"1", value)
        assert not (tmp_path / "texts.jsonl").exists()

    @pytest.mark.parametrize("topic", ["", "../texts", "a/b", ".positions", "a\0b"])
    def test_a_topic_that_cannot_be_a_file(self, connector: JsonlConnector, topic: str) -> None:
        with pytest.raises(ConnectorError, match="cannot be the name of a file"):
            connector.reader([topic])
        with pytest.raises(ConnectorError, match="cannot be the name of a file"):
            write(connector, topic, b"1")

    def test_a_file_that_was_cut(self, connector: JsonlConnector, tmp_path: Path) -> None:
        write(connector, "texts", b"1", b"2")
        with connector.reader(["texts"]) as reader:
            values(reader)
            (tmp_path / "texts.jsonl").write_bytes(b"1\n")
            with pytest.raises(ConnectorError, match=r"texts\.jsonl has 2 bytes, less than the 4 that were read"):
                reader.poll(1, 0.0)

    def test_a_position_within_a_line(self, connector: JsonlConnector) -> None:
        write(connector, "texts", b"123", b"456")
        with connector.reader(["texts"]) as reader:
            with pytest.raises(ConnectorError, match=r"no line of .*texts\.jsonl starts at byte 2"):
                reader.seek({TEXTS: 2})
            reader.seek({TEXTS: 4})
            assert values(reader) == [b"456"]

    @pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', "{"])
    def test_damaged_positions(self, connector: JsonlConnector, tmp_path: Path, content: str) -> None:
        (tmp_path / ".positions.json").write_text(content)
        with pytest.raises(ConnectorError, match=r"\.positions\.json is damaged"):
            connector.committed("g")

    def test_positions_of_another_format(self, connector: JsonlConnector, tmp_path: Path) -> None:
        (tmp_path / ".positions.json").write_text('{"version": 99}')
        with pytest.raises(ConnectorError, match="format 99"):
            connector.reader(["texts"], group="g")

    def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConnectorError, match=r"cannot write to .*file"):
            write(JsonlConnector(tmp_path / "file"), "texts", b"1")


def test_a_second_process_writes_only_when_the_first_is_done(connector: JsonlConnector, tmp_path: Path) -> None:
    write(connector, "texts", b"1")
    with connector._state.changing():
        waiting = threading.Thread(target=write, args=(JsonlConnector(tmp_path), "texts", b"2"))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join()
    assert (tmp_path / "texts.jsonl").read_bytes() == b"1\n2\n"
