import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.recording import SLICE_SECONDS, SLICE_TEXTS, Slice, messages, slices
from daemon.rows import RowsError

START = datetime(2025, 1, 1, tzinfo=UTC).timestamp()


def write(path: Path, *moments: float | bytes) -> Path:
    """One record a line, at so many seconds after the start; bytes stand as they are."""
    rows = [
        moment
        if isinstance(moment, bytes)
        else json.dumps({"id": f"{at}", "timestamp": datetime.fromtimestamp(START + moment, UTC).isoformat()}).encode()
        for at, moment in enumerate(moments)
    ]
    path.write_bytes(b"".join(row + b"\n" for row in rows))
    return path


def cut(texts: Path, labels: Path) -> list[Slice]:
    return list(slices(texts, labels, texts_topic="texts", labels_topic="labels"))


def times(path: Path) -> list[float]:
    return [message.timestamp - START for message in messages(path, "texts")]


def test_texts_and_labels_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    parts = cut(write(tmp_path / "texts", 0, 10, 700), write(tmp_path / "labels", 5, 10, 699))

    assert [[m.timestamp - START for m in part.texts] for part in parts] == [[0, 10], [700]]
    assert [[m.timestamp - START for m in part.labels] for part in parts] == [[5, 10], [699]]
    assert [part.now - START for part in parts] == [10, 700]
    assert [m.offset for part in parts for m in part.texts] == [0, 1, 2]


def test_a_slice_is_as_long_as_it_may_be_and_no_longer(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts", 0, SLICE_SECONDS, SLICE_SECONDS + 1)

    assert [len(part.texts) for part in cut(texts, write(tmp_path / "labels"))] == [2, 1]


def test_a_slice_holds_only_so_many_texts(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts", *[0.0] * (2 * SLICE_TEXTS + 1))

    assert [len(part.texts) for part in cut(texts, write(tmp_path / "labels"))] == [SLICE_TEXTS, SLICE_TEXTS, 1]


def test_a_record_without_a_time_or_out_of_order_comes_where_it_stands(tmp_path: Path) -> None:
    broken = [b"{", b'{"id": "a"}', b'{"timestamp": "2025-01-01T00:00:00"}', b'{"timestamp": NaN}', b"\xff"]

    assert times(write(tmp_path / "texts", 5, *broken, 3, 8, b"[]")) == [5, 5, 5, 5, 5, 5, 5, 8, 8]


def test_a_recording_that_begins_with_a_broken_record_does_not_begin_in_1970(tmp_path: Path) -> None:
    assert times(write(tmp_path / "texts", b"{", b"[]", 5, 6)) == [5, 5, 5, 6]


def test_a_recording_from_before_1970_keeps_its_times(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text('{"timestamp": "1929-10-28T00:00:00Z"}\n{"timestamp": "1929-10-29T00:00:00Z"}\n')

    first, second = messages(path, "texts")
    assert second.timestamp - first.timestamp == 86_400


def test_a_recording_without_any_time_is_refused_by_name(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels", b'{"id": "a", "label": "up"}')

    with pytest.raises(RowsError, match=f"{labels}: no record has a timestamp with a time zone"):
        cut(write(tmp_path / "texts", 0), labels)


def test_a_missing_recording_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="nothing"):
        cut(tmp_path / "nothing", write(tmp_path / "labels"))


def test_empty_recordings_have_no_slices(tmp_path: Path) -> None:
    assert cut(write(tmp_path / "texts"), write(tmp_path / "labels")) == []


moments = st.lists(st.floats(0, 5_000).map(round) | st.just(b"{"), max_size=150)


@settings(max_examples=40, deadline=None)
@given(texts=moments, labels=moments)
def test_every_record_comes_once_and_the_clock_never_goes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[float | bytes], labels: list[float | bytes]
) -> None:
    home = tmp_path_factory.getbasetemp()
    paths = write(home / "texts", 0, *texts), write(home / "labels", 0, *labels)

    parts = cut(*paths)

    assert [m.value for part in parts for m in part.texts] == [m.value for m in messages(paths[0], "texts")]
    assert [m.offset for part in parts for m in part.texts] == list(range(len(texts) + 1))
    assert [m.offset for part in parts for m in part.labels] == list(range(len(labels) + 1))
    clock = [part.now for part in parts]
    assert clock == sorted(clock)
    for part in parts:
        within = [m.timestamp for m in part.texts + part.labels]
        assert max(within) == part.now
        assert part.now - min(within) <= SLICE_SECONDS
        assert len(part.texts) <= SLICE_TEXTS
    assert cut(*paths) == parts
