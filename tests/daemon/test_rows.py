import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rows import HoldoutRow, RowsError, TrainingRow, count, dump, labelled, lines, read

GOOD: list[dict[str, object]] = [
    {"text": "Shares fall", "label": "down"},
    {"text": "Shares rise", "label": "up", "id": 7, "source": "wire"},
]


def write(path: Path, *rows: object) -> Path:
    content = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_are_read_plain_or_gzipped(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, *GOOD)

    assert [(row.text, row.label, row.id) for row in read(path, TrainingRow)] == [
        ("Shares fall", "down", None),
        ("Shares rise", "up", "7"),
    ]
    assert count(path) == 2


def test_empty_lines_and_the_ends_of_lines_are_nobody_s_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n{"a": 1}\r\n  \n\r\n{"b": 2}')

    assert list(lines(path)) == [b'{"a": 1}', b'{"b": 2}']
    assert count(path) == 2


@given(rows=st.lists(st.binary(max_size=20).map(lambda row: row.replace(b"\n", b"").replace(b"\r", b""))))
def test_every_line_with_something_in_it_comes_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", *rows)

    assert list(lines(path)) == [row for row in rows if row.strip()]


def test_a_file_that_is_not_there_or_not_a_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path, tmp_path / "none.jsonl.gz"):
        with pytest.raises(RowsError, match=rf"{path}.*; expected a \.jsonl or \.jsonl\.gz file"):
            count(path)


@pytest.mark.parametrize("damage", ["not gzip", "torn", "garbled"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "rows.jsonl.gz", *GOOD * 50)
    whole = path.read_bytes()
    path.write_bytes({"not gzip": b"{}\n", "torn": whole[:-9], "garbled": whole[:30] + b"\xff" * 40}[damage])

    with pytest.raises(RowsError, match=f"{path}: "):
        count(path)


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (b"{", "row: Invalid JSON: EOF"),
        (b"\xff", "row: Invalid JSON"),
        (b"[1]", "row: Input should be an object"),
        ({"text": "a"}, "label: Field required"),
        ({"text": "", "label": "up"}, "text: String should have at least 1 character"),
        ({"text": "a", "label": ""}, "label: String should have at least 1 character"),
        ({"text": "a", "label": None}, "label: Input should be a valid string"),
        ({"text": "a", "label": True}, "label: Input should be a valid string"),
    ],
    ids=str,
)
def test_a_bad_row_is_named_by_file_and_number(tmp_path: Path, row: object, wrong: str) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD[0], row, GOOD[1])

    with pytest.raises(RowsError, match=f"{path}, row 2: {wrong}"):
        read(path, TrainingRow)
    with pytest.raises(RowsError, match=f"{path}, row 2: {wrong}"):
        read(path, HoldoutRow)


def test_a_file_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"rows\.jsonl: no rows"):
        read(write(tmp_path / "rows.jsonl"), TrainingRow)


def test_training_rows_become_examples_with_ids_of_their_own(tmp_path: Path) -> None:
    first, second = labelled(write(tmp_path / "rows.jsonl", *GOOD))

    assert (first.id, first.text, first.label, first.source) == ("rows.jsonl:1", "Shares fall", "down", None)
    assert (second.id, second.label, second.source, second.weight) == ("7", "up", "wire", 1.0)


def test_labels_that_are_numbers_are_labels(tmp_path: Path) -> None:
    rows = labelled(write(tmp_path / "rows.jsonl", {"text": "a", "label": 0}, {"text": "b", "label": 1}))

    assert [row.label for row in rows] == ["0", "1"]


def test_rows_of_one_label_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="all rows have the label 'down'; a model needs at least two labels"):
        labelled(write(tmp_path / "rows.jsonl", GOOD[0], GOOD[0]))


def test_holdout_rows_without_a_domain_are_of_one(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", GOOD[0], {**GOOD[0], "domain": "blogs"}), HoldoutRow)

    assert [row.domain for row in rows] == ["all", "blogs"]


def test_a_dump_is_json_that_a_person_can_read() -> None:
    assert dump({"a": "é", "path": Path("x")}) == '{\n  "a": "é",\n  "path": "x"\n}\n'
