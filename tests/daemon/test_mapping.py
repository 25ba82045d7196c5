import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.topic import Message
from daemon.config import RecordsConfig
from daemon.formats.mapping import MAX_DEPTH, checked, steps
from daemon.formats.settings import LabelsShape, TextsShape
from daemon.records import DeadLetter, Decoder, Label, Reason, Text
from daemon.settings import SettingsError, load

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
ARTICLE = {
    "article": {"uuid": "a-1", "body": "Shares fall", "tags": [{"name": "markets"}]},
    "published": "2025-06-01T11:59:00Z",
    "symbols": ["ACME", "INIT"],
    "wire": "reuters",
    "attributes": {"desk": "Zürich"},
}
FIELDS = {
    "id": "$.article.uuid",
    "text": "$.article.body",
    "timestamp": "$.published",
    "key": "$.symbols[0]",
    "source": "$.wire",
    "meta": "$.attributes",
}


def message(value: object, key: bytes | None = None) -> Message:
    return Message("news", 3, 17, 1748779140.5, key, json.dumps(value).encode(), {})


def read(value: object, at: bytes | None = None, /, **fields: str) -> Text | DeadLetter:
    shape = TextsShape.model_validate({"fields": FIELDS | fields})
    return Decoder(Text, RecordsConfig(texts=shape)).decode(message(value, at), NOW)


def read_label(value: object, **fields: str) -> Label | DeadLetter:
    shape = LabelsShape.model_validate({"fields": fields})
    return Decoder(Label, RecordsConfig(labels=shape)).decode(message(value), NOW)


def why(letter: Text | Label | DeadLetter) -> str:
    assert isinstance(letter, DeadLetter), letter
    assert letter.reason is Reason.INVALID
    return letter.detail


def text(value: Text | DeadLetter) -> Text:
    assert isinstance(value, Text), value
    return value


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
parts = st.lists(names | st.integers(0, 99_999), max_size=MAX_DEPTH - 1)


def spelled(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else "['" + part.replace("\\", "\\\\").replace("'", "\\'") + "']"


@given(first=names, rest=parts)
def test_every_name_can_be_written_in_brackets(first: str, rest: list[str | int]) -> None:
    assert steps("$" + "".join(map(spelled, [first, *rest]))) == [first, *rest]


@given(path=st.text(max_size=30) | st.text(st.sampled_from("$.[]'\"\\*0a"), max_size=30))
def test_any_text_is_a_path_or_refused(path: str) -> None:
    try:
        found = steps(path)
    except ValueError:
        return
    assert isinstance(found[0], str)
    assert path[0] == "$"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.a.b[0].c", ["a", "b", 0, "c"]),
        ("$['a name'].b", ["a name", "b"]),
        ('$["it\'s"][12]', ["it's", 12]),
        ("$._id.$oid", ["_id", "$oid"]),
        ("$.foo-bar.é", ["foo-bar", "é"]),
    ],
)
def test_a_path_is_names_and_indices(path: str, expected: list[str | int]) -> None:
    assert steps(path) == expected


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "a path is like $.article.body"),
        ("article.body", "a path is like $.article.body"),
        ("$", "a path is like $.article.body"),
        ("message.offset", "or one of message.key, message.position, message.timestamp"),
        ("$.a[*].b", "cannot be read from '[*].b' on"),
        ("$.a..b", "cannot be read from '..b' on"),
        ("$.a[-1]", "cannot be read from '[-1]' on"),
        ("$.a[?@.b]", "cannot be read from"),
        ("$.a b", "cannot be read from ' b' on"),
        ("$[0].a", "begins with a name"),
        ("$" + ".a" * (MAX_DEPTH + 1), "16 steps"),
        ("$." + "a" * 300, "256 characters"),
    ],
)
def test_what_is_no_path_is_refused_with_the_place(path: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        checked(path)
    assert reason in str(refused.value)


def test_a_wrong_path_is_named_with_its_setting_when_the_config_is_read() -> None:
    with pytest.raises(SettingsError) as refused:
        load(None, environment={"RELEARND_RECORDS__LABELS__FIELDS__ID": ""}, overrides=["records.texts.fields.id=$..a"])

    text_id, label_id = sorted(refused.value.problems, reverse=True)
    assert text_id.startswith("records.texts.fields.id: a path is like")
    assert label_id.startswith("records.labels.fields.id: a path is like")


def test_a_text_is_read_from_where_its_fields_are() -> None:
    assert dict(text(read(ARTICLE))) == {
        "id": "a-1",
        "text": "Shares fall",
        "timestamp": datetime(2025, 6, 1, 11, 59, tzinfo=UTC),
        "key": "ACME",
        "source": "reuters",
        "meta": {"desk": "Zürich"},
    }


def test_a_field_that_is_not_mapped_is_read_by_its_own_name() -> None:
    label = read_label({"doc": {"id": "a-1"}, "label": "negative", "weight": 2}, id="$.doc.id")

    assert isinstance(label, Label)
    assert (label.id, label.label, label.weight) == ("a-1", "negative", 2)


def test_a_field_that_is_mapped_is_not_read_by_its_own_name() -> None:
    assert text(read(ARTICLE | {"key": "OTHER", "source": "other"})).key == "ACME"
    assert why(read({"id": "x"} | ARTICLE | {"article": {"body": "Shares fall"}})).startswith("id at $.article.uuid:")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"article": {"body": "x"}}, "id at $.article.uuid: Field required"),
        ({"article": "a-1"}, "id at $.article.uuid: Field required"),
        ({"article": None}, "id at $.article.uuid: Field required"),
        ({"article": {"uuid": "a-1", "body": ["x"]}}, "text at $.article.body: Input should be a valid string"),
        ({"symbols": [["ACME"]]}, "key at $.symbols[0]: Input should be a valid string"),
        ({"attributes": "Zürich"}, "meta at $.attributes: Input should be an object"),
    ],
    ids=str,
)
def test_a_path_that_leads_to_nothing_usable_is_named(change: dict[str, object], detail: str) -> None:
    assert why(read(ARTICLE | change)) == detail


@pytest.mark.parametrize("symbols", [[], None, "ACME", {"0": "ACME"}])
def test_a_path_of_an_optional_field_may_lead_to_nothing(symbols: object) -> None:
    assert text(read(ARTICLE | {"symbols": symbols})).key is None


def test_an_optional_field_without_a_path_is_not_read() -> None:
    assert text(read(ARTICLE | {"source": {"not": "a name"}}, source="")).source is None
    label = read_label({"id": "a-1", "label": "negative", "weight": "heavy"}, weight="")
    assert isinstance(label, Label)
    assert label.weight == 1


def test_numbers_become_text_in_a_topic_with_a_shape_of_its_own() -> None:
    assert text(read(ARTICLE | {"article": {"uuid": 2**60, "body": "x"}})).id == str(2**60)
    label = read_label({"id": 7, "truth": 1}, label="$.truth")
    assert isinstance(label, Label)
    assert (label.id, label.label) == ("7", "1")
    assert why(read_label({"id": True, "truth": 1}, label="$.truth")) == "id: Input should be a valid string"


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("2025-06-01T13:59:00+02:00", 1748779140.0),
        (1748779140, 1748779140.0),
        (1748779140.25, 1748779140.25),
        (1748779140250, 1748779140.25),
        ("1748779140250", 1748779140.25),
        # Up to here it is seconds: of the year 2603, while milliseconds begin in August 1970.
        (20_000_000_001, 20_000_000.001),
        (-86_400, -86_400.0),
    ],
)
def test_a_time_may_be_rfc_3339_or_seconds_or_milliseconds(published: object, expected: float) -> None:
    assert text(read(ARTICLE | {"published": published})).timestamp.timestamp() == expected


@pytest.mark.parametrize("published", [1748779140250000, 1748779140250000000, "2025-06-01T11:59:00", "June", None])
def test_a_time_that_can_not_be_told_is_invalid(published: object) -> None:
    assert why(read(ARTICLE | {"published": published})).startswith("timestamp at $.published: ")


def test_what_stands_beside_the_value_can_be_taken_for_what_is_missing_in_it() -> None:
    beside = {"id": "message.position", "timestamp": "message.timestamp", "key": "message.key"}

    found = text(read({"id": {}, "timestamp": "June", "article": ARTICLE["article"]}, b"ACME", **beside))

    assert (found.id, found.key) == ("news-3-17", "ACME")
    assert found.timestamp == datetime(2025, 6, 1, 11, 59, 0, 500_000, tzinfo=UTC)
    assert text(read(ARTICLE, None, **beside)).key is None


@pytest.mark.parametrize("timestamp", [-0.001, 1e12, 9.2e15, 1e300, float("inf"), float("nan")])
def test_a_message_time_that_is_none_is_refused(timestamp: float) -> None:
    shape = TextsShape.model_validate({"fields": FIELDS | {"timestamp": "message.timestamp"}})
    decoder = Decoder(Text, RecordsConfig(texts=shape))

    letter = decoder.decode(message(ARTICLE)._replace(timestamp=timestamp), NOW)

    assert why(letter).startswith("timestamp at message.timestamp: Value error, ")


def test_a_message_key_that_is_no_name_is_refused() -> None:
    assert why(read(ARTICLE, b"\xff", key="message.key")).startswith("key at message.key: ")
    assert why(read(ARTICLE, b"x" * 600, key="message.key")).startswith("key at message.key: ")
    assert why(read(ARTICLE, None, id="message.key")).startswith("id at message.key: ")


@given(
    change=st.dictionaries(
        st.sampled_from(list(ARTICLE)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | names,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names | st.just("uuid"), inner, max_size=2),
        ),
    ),
    key=st.none() | st.binary(max_size=4),
)
def test_no_value_of_any_shape_raises(change: dict[str, object], key: bytes | None) -> None:
    read(ARTICLE | change, key)
    read(ARTICLE | change, key, key="message.key", id="$.article.tags[0].name", source="$.wire['x'][3]")
