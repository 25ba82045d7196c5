import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from connectors.topic import Message
from daemon.config import RecordsConfig
from daemon.records import (
    EARLIEST,
    MAX_NAME,
    DeadLetter,
    Decoder,
    Label,
    Reason,
    Score,
    Text,
    decode_sketch,
    encode,
    encode_sketch,
    utc,
)

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
LIMITS = RecordsConfig()

TEXT = {"id": "t1", "text": "Shares fall", "timestamp": "2025-06-01T11:59:00Z"}
SCORE = {
    **TEXT,
    "label": "negative",
    "probabilities": {"negative": 0.9, "positive": 0.1},
    "model": "v1",
    "scored_at": "2025-06-01T11:59:01Z",
}
LABEL = {"id": "t1", "label": "negative"}

Kind = type[Text] | type[Label] | type[Score]


def message(value: bytes) -> Message:
    return Message("texts", 3, 17, 0.0, None, value, {})


def decode(value: bytes, kind: Kind = Text, limits: RecordsConfig = LIMITS) -> Text | Label | Score | DeadLetter:
    match kind.__name__:
        case "Text":
            return Decoder(Text, limits).decode(message(value), NOW)
        case "Label":
            return Decoder(Label, limits).decode(message(value), NOW)
        case _:
            return Decoder(Score, limits).decode(message(value), NOW)


def refused(value: bytes | Mapping[str, object], kind: Kind = Text) -> tuple[Reason, str]:
    given = value if isinstance(value, bytes) else json.dumps(value).encode()
    letter = decode(given, kind)
    assert isinstance(letter, DeadLetter), letter
    return letter.reason, letter.detail


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(max_value=NOW.replace(tzinfo=None) - timedelta(days=1), timezones=zones).filter(
    lambda moment: moment >= EARLIEST
)
plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(plain | names, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner))
metas = st.none() | st.dictionaries(names, values, max_size=3)
some = st.none() | names


@st.composite
def texts(draw: st.DrawFn) -> Text:
    text = draw(names.filter(str.strip))
    return Text(id=draw(names), text=text, timestamp=draw(moments), key=draw(some), source=draw(some), meta=draw(metas))


@given(text=texts())
def test_a_text_survives_its_encoding(text: Text) -> None:
    assert decode(encode(text)) == text


@given(text=texts(), probability=st.floats(0, 1), sketch=arrays.arrays(np.float16, 8, elements={"allow_nan": False}))
def test_a_score_survives_its_encoding_with_its_sketch(
    text: Text, probability: float, sketch: np.typing.NDArray[np.float16]
) -> None:
    given = sketch.astype(np.float32)
    score = Score(
        **dict(text),
        label="negative",
        probabilities={"negative": probability},
        model="v7",
        scored_at=NOW,
        sketch=encode_sketch(given),
    )

    decoded = decode(encode(score), Score)

    assert decoded == score
    assert isinstance(decoded, Score)
    assert decoded.sketch is not None
    np.testing.assert_array_equal(decode_sketch(decoded.sketch), given)


@given(
    label=st.builds(
        Label,
        id=names,
        label=names,
        timestamp=st.none() | moments,
        text=st.none() | names.filter(str.strip),
        weight=st.floats(0, 1000, exclude_min=True),
        annotator=some,
    )
)
def test_a_label_survives_its_encoding(label: Label) -> None:
    assert decode(encode(label), Label) == label


@given(value=st.binary(max_size=300))
@pytest.mark.parametrize("kind", [Text, Label, Score])
def test_no_bytes_ever_raise(kind: Kind, value: bytes) -> None:
    assert isinstance(decode(value, kind), DeadLetter)


@given(changes=st.dictionaries(st.sampled_from([*SCORE, "weight", "sketch", "meta", "key"]), values))
@pytest.mark.parametrize("kind", [Text, Label, Score])
def test_no_json_ever_raises_and_what_passes_can_be_written_again(kind: Kind, changes: dict[str, object]) -> None:
    decoded = decode(json.dumps({**SCORE, **changes}).encode(), kind)

    if isinstance(decoded, DeadLetter):
        encode(decoded)
    else:
        assert decode(encode(decoded), kind) == decoded
        if decoded.timestamp is not None:
            assert utc(decoded.timestamp.timestamp()).year >= 1


@given(cut=st.integers(0, 190), extra=st.binary(max_size=4), at=st.integers(0, 200))
def test_a_torn_or_overwritten_record_never_raises(cut: int, extra: bytes, at: int) -> None:
    whole = json.dumps(SCORE).encode()

    assert isinstance(decode(whole[:cut], Score), DeadLetter)
    decode(whole[:at] + extra + whole[at + len(extra) :], Score)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b"\xff", "invalid UTF-8 at byte 0"),
        (b'{"id": "\xe9"}', "invalid UTF-8 at byte 8"),
        (json.dumps(TEXT).encode("utf-16"), "invalid UTF-8 at byte 0"),
        # A surrogate that stands alone has no UTF-8; in a field that nobody reads, too.
        (b'{"unread": "\xed\xa0\x80"}', "invalid UTF-8 at byte 12"),
    ],
)
def test_what_is_not_utf8_is_named_so(value: bytes, detail: str) -> None:
    assert refused(value) == (Reason.NOT_UTF8, detail)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x00\x00",
        b"Shares fall",
        b'{"id": "t1"',
        b"{'id': 't1'}",
        json.dumps(TEXT).encode() + b"{}",
        b"\xef\xbb\xbf" + json.dumps(TEXT).encode(),
        b'{"id": "\\ud800"}',
        b'{"unread": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"meta": ' + b'{"a":' * 40_000,
        b'{"meta": {"a": ' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_not_json_is_named_so(value: bytes) -> None:
    reason, detail = refused(value)

    assert reason is Reason.NOT_JSON
    assert len(detail) < 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": 7}, "id"),
        ({"id": ""}, "id"),
        ({"id": "x" * (MAX_NAME + 1)}, "id"),
        ({"id": None}, "id"),
        ({"text": None}, "text"),
        ({"text": ["a"]}, "text"),
        ({"key": ""}, "key"),
        ({"source": 3}, "source"),
        ({"meta": []}, "meta"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2025-06-01T11:59:00"}, "timestamp"),
        ({"timestamp": "2025-06-01"}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": 1e300}, "timestamp"),
        ({"timestamp": float("nan")}, "timestamp"),
        ({"timestamp": float("-inf")}, "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp"),
    ],
    ids=str,
)
def test_a_field_of_a_wrong_kind_is_named(changes: dict[str, object], field: str) -> None:
    reason, detail = refused({**TEXT, **changes})

    assert reason is Reason.INVALID
    assert detail.startswith(f"{field}: ")


@pytest.mark.parametrize("missing", TEXT)
def test_a_missing_field_is_named(missing: str) -> None:
    reason, detail = refused({name: value for name, value in TEXT.items() if name != missing})

    assert reason is Reason.INVALID
    assert detail == f"{missing}: Field required"


@pytest.mark.parametrize("value", [b"null", b"[]", b'"text"', b"1", b"NaN"])
def test_json_that_is_no_object_is_invalid(value: bytes) -> None:
    assert refused(value) == (Reason.INVALID, "the record: Input should be an object")


@pytest.mark.parametrize("probability", [float("nan"), float("inf"), -0.1, 1.1, None, "high"])
def test_a_score_whose_probability_is_none_is_invalid(probability: object) -> None:
    reason, detail = refused({**SCORE, "probabilities": {"negative": probability}}, Score)

    assert reason is Reason.INVALID
    assert detail.startswith("probabilities.negative: ")


def test_a_score_without_probabilities_is_invalid() -> None:
    assert refused({**SCORE, "probabilities": {}}, Score)[0] is Reason.INVALID


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0, -1, 1000.5])
def test_a_label_whose_weight_cannot_weigh_is_invalid(weight: float) -> None:
    assert refused({**LABEL, "weight": weight}, Label)[0] is Reason.INVALID


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000\u00a0"])
def test_an_empty_text_is_named_so(text: str) -> None:
    assert refused({**TEXT, "text": text})[0] is Reason.TEXT_EMPTY
    assert refused({**LABEL, "text": text}, Label)[0] is Reason.TEXT_EMPTY


def test_the_longest_text_passes_and_one_character_more_does_not() -> None:
    longest = "é" * LIMITS.max_text_chars

    assert isinstance(decode(json.dumps({**TEXT, "text": longest}, ensure_ascii=False).encode()), Text)
    assert refused({**TEXT, "text": longest + "é"}) == (
        Reason.TEXT_TOO_LONG,
        "20001 characters; records.max_text_chars is 20000",
    )


def test_a_message_too_large_is_not_even_parsed_and_only_its_head_is_kept() -> None:
    limits = RecordsConfig(max_record_bytes=10)

    letter = decode(b'"01234567"!', limits=limits)

    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.TOO_LARGE
    assert letter.detail == "11 bytes; records.max_record_bytes is 10"
    assert letter.value == "IjAxMjM0NTY3Ig=="
    assert isinstance(whole := decode(b'"01234567"', limits=limits), DeadLetter)
    assert whole.reason is Reason.INVALID


def test_a_timestamp_may_be_ahead_of_the_clock_by_so_much_and_no_more() -> None:
    limit = NOW + timedelta(seconds=LIMITS.max_future)

    assert isinstance(decode(json.dumps({**TEXT, "timestamp": limit.isoformat()}).encode()), Text)
    for far in ((limit + timedelta(milliseconds=1)).isoformat(), "9999-12-31T23:59:59-23:59"):
        assert refused({**TEXT, "timestamp": far})[0] is Reason.FROM_THE_FUTURE
        assert refused({**LABEL, "timestamp": far}, Label)[0] is Reason.FROM_THE_FUTURE


def test_fields_of_the_producers_own_are_dropped_and_of_a_key_that_comes_twice_the_last_counts() -> None:
    decoded = decode(json.dumps({**TEXT, "desk": "Zürich"}).encode().replace(b"{", b'{"id": "first", ', 1))

    assert decoded == Text.model_validate(TEXT)


def test_a_dead_letter_says_where_it_came_from() -> None:
    letter = decode(b"{}")

    assert isinstance(letter, DeadLetter)
    assert (letter.topic, letter.partition, letter.offset, letter.at) == ("texts", 3, 17, NOW)
    assert json.loads(encode(letter))["value"] == "e30="


@pytest.mark.parametrize("sketch", ["AA==", "@@@@", "é", "AAA"])
def test_what_is_no_sketch_is_a_value_error(sketch: str) -> None:
    with pytest.raises(ValueError):
        decode_sketch(sketch)
