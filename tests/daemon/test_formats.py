import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.topic import Message
from daemon.check import Finding, findings
from daemon.config import Config, RecordsConfig
from daemon.formats import schema_registry
from daemon.formats.errors import FormatError, UnreachableError
from daemon.formats.fields import RECORDS
from daemon.formats.settings import TextsShape
from daemon.records import Alert, DeadLetter, Decoder, Encoder, Label, Reason, Score, Text, encode
from daemon.settings import SettingsError, load
from tests.daemon.test_records import texts
from tests.schema_registry import RegistryServer

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
PUBLISHED = datetime(2025, 6, 1, 11, 59, tzinfo=UTC)
FIELDS = {
    "id": "$.article.uuid",
    "text": "$.article.body",
    "timestamp": "$.published",
    "key": "$.symbols[0]",
    "source": "$.wire",
    "meta": "$.attributes",
}
ARTICLE = {
    "article": {"uuid": 7, "body": "Shares fall"},
    "published": PUBLISHED,
    "symbols": ["ACME", "INIT"],
    "wire": "reuters",
    "attributes": {"desk": "Zürich"},
}
SCORE = Score(
    id="a-1",
    text="Shares fall",
    timestamp=PUBLISHED,
    key="ACME",
    label="negative",
    probabilities={"negative": 0.75, "positive": 0.25},
    model="v3",
    scored_at=NOW,
    sketch="AAAA",
)
ALERT = Alert(
    status="firing",
    name="negative-spike",
    key="ACME",
    severity="critical",
    value=0.5,
    baseline=0.0,
    starts_at=PUBLISHED,
    examples=["Shares fall", "Shares fall again"],
    model="v3",
)
FORMATS = ["avro", "protobuf", "json-schema"]
every_format = pytest.mark.parametrize("kind", FORMATS)

NEVER = threading.Event()


# A newsroom's topic, written by Confluent's own serializers


def avro(version: int = 1) -> str:
    later = [{"name": "language", "type": "string"}, {"name": "price", "type": ["null", "bytes"]}]
    article = [{"name": "uuid", "type": "long"}, {"name": "body", "type": "string"}]
    return json.dumps(
        {
            "type": "record",
            "name": "News",
            "namespace": "newsroom",
            "fields": [
                # Evolved in the middle: what is read by an older schema would be garbage.
                *(later if version > 1 else []),
                {"name": "article", "type": {"type": "record", "name": "Article", "fields": article}},
                {"name": "published", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "symbols", "type": {"type": "array", "items": "string"}},
                {"name": "wire", "type": ["null", "string"], "default": None},
                {"name": "attributes", "type": {"type": "map", "values": "string"}},
            ],
        }
    )


def json_schema(version: int = 1) -> str:
    article = {"uuid": {"type": "integer"}, "body": {"type": "string"}}
    properties = {
        "article": {"type": "object", "properties": article, "required": ["uuid"]},
        "published": {"type": "string", "format": "date-time"},
    }
    if version > 1:
        properties["language"] = {"type": "string"}
    return json.dumps({"title": "News", "type": "object", "properties": properties, "required": ["article"]})


STRING, INT64, OF = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_MESSAGE
ONE, MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED


def proto(version: int = 1) -> FileDescriptorProto:
    """`News` is the second message of its file, and holds a message of its own."""
    file = FileDescriptorProto(name="newsroom/news.proto", package="newsroom", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/struct.proto"])
    file.message_type.add(name="Other").field.add(name="x", number=1, type=STRING, label=ONE)
    news = file.message_type.add(name="News")
    article = news.nested_type.add(name="Article")
    article.field.add(name="uuid", number=1, type=INT64, label=ONE)
    article.field.add(name="body", number=2, type=STRING, label=ONE)
    news.field.add(name="article", number=1, type=OF, label=ONE, type_name=".newsroom.News.Article")
    news.field.add(name="published", number=2, type=OF, label=ONE, type_name=".google.protobuf.Timestamp")
    news.field.add(name="symbols", number=3, type=STRING, label=MANY)
    news.field.add(name="wire", number=4, type=STRING, label=ONE)
    news.field.add(name="attributes", number=5, type=OF, label=ONE, type_name=".google.protobuf.Struct")
    if version > 1:
        news.field.add(name="language", number=6, type=STRING, label=ONE)
    return file


def message_class(file: FileDescriptorProto, name: str, *others: FileDescriptorProto) -> Any:
    pool = DescriptorPool()
    for shipped in (timestamp_pb2, struct_pb2):
        pool.Add(FileDescriptorProto.FromString(shipped.DESCRIPTOR.serialized_pb))
    for one in (*others, file):
        pool.Add(one)
    return GetMessageClass(pool.FindMessageTypeByName(name))


NAMED = {"subject.name.strategy": topic_subject_name_strategy}


def produced(registry: RegistryServer, kind: str, version: int = 1, **changes: object) -> bytes:
    """An article as a producer with Confluent's client writes it."""
    article = ARTICLE | ({"language": "en", "price": b"\x01\xff"} if version > 1 else {}) | changes
    context = SerializationContext("news", MessageField.VALUE)
    with SchemaRegistryClient({"url": registry.url}) as client:
        if kind == "avro":
            value = AvroSerializer(client, avro(version), conf=NAMED)(article, context)
        elif kind == "json-schema":
            plain = json.loads(json.dumps(article | {"published": PUBLISHED.isoformat()}, default=str))
            value = JSONSerializer(json_schema(version), client, conf=NAMED)(plain, context)
        else:
            fields = {name: value for name, value in article.items() if name != "price"}
            news = message_class(proto(version), "newsroom.News")
            filled = json_format.ParseDict(fields | {"published": PUBLISHED.isoformat()}, news())
            value = ProtobufSerializer(news, client, NAMED | {"use.deprecated.format": False})(filled, context)
    assert value is not None
    return value


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def records(registry: RegistryServer, kind: str, **access: object) -> RecordsConfig:
    """Every topic in one format."""
    return RecordsConfig.model_validate(
        {
            "texts": {"format": kind, "fields": FIELDS},
            "labels": {"format": kind},
            "scores": {"format": kind},
            "alerts": {"format": kind},
            "registry": {"url": registry.url} | access,
        }
    )


def message(value: bytes, offset: int = 17) -> Message:
    return Message("news", 3, offset, 0.0, None, value, {})


def read(decoder: Decoder[Text], value: bytes) -> Text:
    assert decoder.fetch([message(value)], NEVER)
    decoded = decoder.decode(message(value), NOW)
    assert isinstance(decoded, Text), decoded
    return decoded


def refused(decoder: Decoder[Text], value: bytes) -> tuple[Reason, str]:
    decoder.fetch([message(value)], NEVER)
    letter = decoder.decode(message(value), NOW)
    assert isinstance(letter, DeadLetter), letter
    assert base64.b64decode(letter.value) == value
    return letter.reason, letter.detail


# Reading


@every_format
def test_a_text_is_read_from_a_nested_record(registry: RegistryServer, kind: str) -> None:
    text = read(Decoder(Text, records(registry, kind)), produced(registry, kind))

    assert dict(text) == {
        "id": "7",
        "text": "Shares fall",
        "timestamp": PUBLISHED,
        "key": "ACME",
        "source": "reuters",
        "meta": {"desk": "Zürich"},
    }


@every_format
def test_a_new_schema_of_the_writer_is_read_beside_the_old_one(registry: RegistryServer, kind: str) -> None:
    decoder = Decoder(Text, records(registry, kind))
    old, new = produced(registry, kind), produced(registry, kind, version=2)
    assert old[:5] != new[:5]

    assert decoder.fetch([message(value) for value in (old, new, old)], NEVER)
    assert read(decoder, old) == read(decoder, new)


@every_format
def test_each_schema_is_asked_for_once(registry: RegistryServer, kind: str) -> None:
    decoder = Decoder(Text, records(registry, kind))
    values = [produced(registry, kind), produced(registry, kind, version=2)] * 50
    registry.requests.clear()

    for _ in range(3):
        decoder.fetch(map(message, values), NEVER)
        for value in values:
            read(decoder, value)

    assert len(registry.requests) == 2


@every_format
def test_a_schema_that_is_not_in_the_registry_is_named(registry: RegistryServer, kind: str) -> None:
    decoder = Decoder(Text, records(registry, kind))
    value = b"\x00\x00\x00\x00\x63" + produced(registry, kind)[5:]

    reason, detail = refused(decoder, value)

    assert reason is Reason.UNKNOWN_SCHEMA
    assert "of schema 99: Schema 99 not found" in detail


@every_format
def test_a_schema_that_comes_to_be_known_is_found(registry: RegistryServer, kind: str) -> None:
    decoder = Decoder(Text, records(registry, kind))
    assert refused(decoder, b"\x00\x00\x00\x00\x01\x00\x00")[0] is Reason.UNKNOWN_SCHEMA

    assert read(decoder, produced(registry, kind)).id == "7"


@every_format
def test_a_schema_of_another_format_is_named(registry: RegistryServer, kind: str) -> None:
    other = "avro" if kind != "avro" else "json-schema"
    value = produced(registry, other)

    reason, detail = refused(Decoder(Text, records(registry, kind)), value)

    assert reason is Reason.UNKNOWN_SCHEMA
    assert detail.startswith("schema 1 is ")


@every_format
@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\x00\x00\x00\x01", b'{"id": "t1"}', b"\x01" * 30])
def test_what_is_not_framed_is_named_so(registry: RegistryServer, kind: str, value: bytes) -> None:
    reason, detail = refused(Decoder(Text, records(registry, kind)), value)

    assert reason is Reason.NOT_IN_FORMAT
    assert detail.startswith(f"no {kind} of a schema registry")
    assert not registry.requests


@pytest.mark.parametrize("kind", ["avro", "json-schema"])
def test_a_value_cut_short_is_named_so(registry: RegistryServer, kind: str) -> None:
    decoder = Decoder(Text, records(registry, kind))
    value = produced(registry, kind)

    for length in range(6, len(value)):
        reason, detail = refused(decoder, value[:length])
        assert reason is Reason.NOT_IN_FORMAT
        assert detail.startswith("by schema 1: ")


def test_an_avro_value_with_more_behind_it_is_named_so(registry: RegistryServer) -> None:
    detail = refused(Decoder(Text, records(registry, "avro")), produced(registry, "avro") + b"\x00\x01")

    assert detail == (Reason.NOT_IN_FORMAT, "by schema 1: 2 bytes are left over")


def test_json_that_does_not_follow_its_schema_is_refused_with_the_place(registry: RegistryServer) -> None:
    value = produced(registry, "json-schema").replace(b'"uuid":7', b'"uuid":"7"')

    reason, detail = refused(Decoder(Text, records(registry, "json-schema")), value)

    assert reason is Reason.NOT_IN_FORMAT
    assert detail == "by schema 1: $.article.uuid does not satisfy 'type' of its schema"


def test_a_protobuf_message_type_that_is_not_there_is_named(registry: RegistryServer) -> None:
    decoder = Decoder(Text, records(registry, "protobuf"))
    value = produced(registry, "protobuf")

    # One index, of the ninth message; two, of a message inside the first. Zigzag: docs of the wire format.
    for indices in (b"\x02\x10", b"\x04\x00\x00"):
        reason, detail = refused(decoder, value[:5] + indices + value[7:])
        assert reason is Reason.NOT_IN_FORMAT
        assert "has no message type" in detail


def test_a_protobuf_field_without_a_value_is_missing(registry: RegistryServer) -> None:
    decoder = Decoder(Text, records(registry, "protobuf"))

    assert read(decoder, produced(registry, "protobuf", wire="")).source is None
    value = produced(registry, "protobuf", article={"uuid": 7})
    assert refused(decoder, value) == (Reason.INVALID, "text at $.article.body: Field required")


@every_format
def test_a_missing_path_is_named(registry: RegistryServer, kind: str) -> None:
    config = records(registry, kind)
    config = config.model_copy(update={"texts": TextsShape.model_validate({"format": kind})})

    assert refused(Decoder(Text, config), produced(registry, kind)) == (Reason.INVALID, "id: Field required")


@pytest.mark.parametrize("kind", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(payload=st.binary(max_size=80), at=st.integers(0, 80), whole=st.booleans())
def test_no_bytes_ever_raise(
    decoders: dict[str, tuple[Decoder[Text], bytes]], kind: str, payload: bytes, at: int, whole: bool
) -> None:
    decoder, value = decoders[kind]
    torn = value[:5] + payload if whole else value[: 5 + at] + payload + value[5 + at + len(payload) :]

    found = decoder.decode(message(torn), NOW)

    assert isinstance(found, Text | DeadLetter)
    encode(found)


@pytest.fixture(scope="module")
def decoders() -> Iterator[dict[str, tuple[Decoder[Text], bytes]]]:
    with RegistryServer() as server:
        values = {kind: produced(server, kind) for kind in FORMATS}
        found = {kind: Decoder(Text, records(server, kind)) for kind in FORMATS}
        for kind, decoder in found.items():
            read(decoder, values[kind])
        yield {kind: (found[kind], values[kind]) for kind in FORMATS}


@every_format
def test_schemas_that_refer_to_others_are_read(registry: RegistryServer, kind: str) -> None:
    value = referring(registry, kind)

    assert read(Decoder(Text, records(registry, kind)), value).id == "7"


def referring(registry: RegistryServer, kind: str) -> bytes:
    """An article whose schema takes the article itself from another subject, and that its body from a third."""
    context = SerializationContext("news", MessageField.VALUE)
    article = ARTICLE | {"article": {"uuid": 7, "body": "Shares fall"}}
    with SchemaRegistryClient({"url": registry.url}) as client:
        if kind == "avro":
            body = {"type": "fixed", "name": "Body", "namespace": "newsroom", "size": 11}
            parts = [{"name": "uuid", "type": "long"}, {"name": "body", "type": "newsroom.Body"}]
            inner = {"type": "record", "name": "Article", "namespace": "newsroom", "fields": parts}
            registry.register("body", json.dumps(body), "AVRO")
            named = [{"name": "newsroom.Body", "subject": "body", "version": 1}]
            registry.register("article", json.dumps(inner), "AVRO", named)
            whole = json.loads(avro())
            whole["fields"][0]["type"] = "newsroom.Article"
            text = Schema(json.dumps(whole), "AVRO", [SchemaReference("newsroom.Article", "article", 1)])
            article["article"] = {"uuid": 7, "body": b"Shares fall"}
            value = AvroSerializer(client, text, conf=NAMED)(article, context)
        elif kind == "json-schema":
            registry.register("body", json.dumps({"type": "string"}), "JSON")
            inner = {"type": "object", "properties": {"body": {"$ref": "body.json"}}}
            named = [{"name": "body.json", "subject": "body", "version": 1}]
            registry.register("article", json.dumps(inner), "JSON", named)
            whole = {"title": "News", "type": "object", "properties": {"article": {"$ref": "article.json"}}}
            text = Schema(json.dumps(whole), "JSON", [SchemaReference("article.json", "article", 1)])
            plain = json.loads(json.dumps(article | {"published": PUBLISHED.isoformat()}))
            value = JSONSerializer(text, client, conf=NAMED)(plain, context)
        else:
            inner = FileDescriptorProto(name="newsroom/article.proto", package="newsroom", syntax="proto3")
            moved = proto()
            inner.message_type.add().CopyFrom(moved.message_type[1].nested_type.pop())
            moved.message_type[1].field[0].type_name = ".newsroom.Article"
            moved.dependency.append("newsroom/article.proto")
            news = message_class(moved, "newsroom.News", inner)
            filled = json_format.ParseDict(article | {"published": PUBLISHED.isoformat()}, news())
            value = ProtobufSerializer(news, client, NAMED | {"use.deprecated.format": False})(filled, context)
    assert value is not None
    return value


def test_an_avro_type_that_contains_itself_is_refused(registry: RegistryServer) -> None:
    # fastavro would follow this message's nesting until the process ends.
    fields = [{"name": "inner", "type": ["null", "Doll"]}]
    id = registry.register("news-value", json.dumps({"type": "record", "name": "Doll", "fields": fields}), "AVRO")

    reason, detail = refused(
        Decoder(Text, records(registry, "avro")), b"\x00" + id.to_bytes(4, "big") + b"\x02" * 200_000 + b"\x00"
    )

    assert reason is Reason.UNKNOWN_SCHEMA
    assert "contains itself" in detail


@pytest.mark.parametrize(
    ("kind", "schema_type", "text"),
    [("avro", "AVRO", '{"type": "recrod"}'), ("json-schema", "JSON", '{"type": 3}'), ("protobuf", "PROTOBUF", "CgF4")],
)
def test_a_schema_that_makes_no_sense_is_the_messages_fault(
    registry: RegistryServer, kind: str, schema_type: str, text: str
) -> None:
    registry.register("news-value", text, schema_type)

    assert refused(Decoder(Text, records(registry, kind)), b"\x00\x00\x00\x00\x01\x00\x00")[0] in {
        Reason.UNKNOWN_SCHEMA,
        Reason.NOT_IN_FORMAT,
    }


def test_a_registry_that_gives_no_file_descriptors_is_refused(registry: RegistryServer) -> None:
    value = produced(registry, "protobuf")
    registry.serializes = False

    with pytest.raises(FormatError, match="file descriptors"):
        Decoder(Text, records(registry, "protobuf")).decode(message(value), NOW)


# Writing


@pytest.mark.parametrize("record", [Score, Alert])
def test_every_field_that_is_written_is_in_the_schemas(record: type[Score] | type[Alert]) -> None:
    fields = {field.name: field for field in RECORDS[record.__name__]}

    assert list(fields) == list(record.model_fields)
    for name, described in record.model_fields.items():
        assert fields[name].optional == (described.default is None)


@every_format
@pytest.mark.parametrize("source", [None, "reuters"])
def test_a_score_is_read_as_it_was_written(registry: RegistryServer, kind: str, source: str | None) -> None:
    config = records(registry, kind)
    encoder, decoder = Encoder(Score, "scores", config), Decoder(Score, config)
    score = SCORE.model_copy(update={"source": source, "meta": {"desk": "Zürich"}})

    assert encoder.open(NEVER)
    value = encoder.encode(score)

    assert decoder.decode(message(value), NOW) == score
    assert list(registry.subjects) == ["scores-value"]


@pytest.mark.parametrize("kind", FORMATS)
@settings(deadline=None)
@given(text=texts(), probability=st.floats(0, 1))
def test_whatever_was_read_can_be_written(
    encoders: dict[str, tuple[Encoder[Score], Decoder[Score]]], kind: str, text: Text, probability: float
) -> None:
    encoder, decoder = encoders[kind]
    made = {"label": "negative", "probabilities": {"negative": probability}, "model": "v1", "scored_at": NOW}
    score = Score.model_construct(**dict(text), **made, sketch=None)

    found = decoder.decode(message(encoder.encode(score)), NOW)

    assert isinstance(found, Score)
    assert found.model_copy(update={"meta": None}) == score.model_copy(update={"meta": None})
    if kind == "json-schema":
        assert found.meta == text.meta
    else:  # a mapping of text to text has no place for nulls
        assert set(found.meta or {}) == {name for name, value in (text.meta or {}).items() if value is not None}


@pytest.fixture(scope="module")
def encoders() -> Iterator[dict[str, tuple[Encoder[Score], Decoder[Score]]]]:
    with RegistryServer() as server:
        configs = {kind: records(server, kind) for kind in FORMATS}
        yield {kind: (Encoder(Score, kind, config), Decoder(Score, config)) for kind, config in configs.items()}


@every_format
def test_what_confluents_client_reads_is_what_was_written(registry: RegistryServer, kind: str) -> None:
    value = Encoder(Alert, "alerts", records(registry, kind)).encode(ALERT)
    context = SerializationContext("alerts", MessageField.VALUE)

    with SchemaRegistryClient({"url": registry.url}) as client:
        if kind == "avro":
            found = AvroDeserializer(client, conf=NAMED)(value, context)
        elif kind == "json-schema":
            found = JSONDeserializer(None, schema_registry_client=client, conf=NAMED)(value, context)
        else:
            text = base64.b64decode(registry.schemas[0]["schema"])
            alert = message_class(FileDescriptorProto.FromString(text), "relearnd.Alert")
            conf = NAMED | {"use.deprecated.format": False}
            found = json_format.MessageToDict(
                ProtobufDeserializer(alert, conf, client)(value, context),
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )

    empty = {name: None for name, value in found.items() if value == ""}
    assert Alert.model_validate(found | empty) == ALERT


@pytest.mark.parametrize("kind", ["avro", "protobuf"])
def test_meta_of_any_shape_is_written_as_text(registry: RegistryServer, kind: str) -> None:
    config = records(registry, kind)
    meta = {"desk": "Zürich", "rank": 3, "tags": ["a", {"b": None}], "none": None}

    value = Encoder(Score, "scores", config).encode(SCORE.model_copy(update={"meta": meta}))

    found = Decoder(Score, config).decode(message(value), NOW)
    assert isinstance(found, Score)
    assert found.meta == {"desk": "Zürich", "rank": "3", "tags": '["a",{"b":null}]'}


@every_format
def test_a_schema_is_registered_once(registry: RegistryServer, kind: str) -> None:
    for _ in range(3):
        encoder = Encoder(Score, "scores", records(registry, kind))
        assert {encoder.encode(SCORE)[:5] for _ in range(10)} == {b"\x00\x00\x00\x00\x01"}

    assert len(registry.schemas) == 1
    assert len(registry.requests) == 3


@every_format
def test_schemas_that_may_not_be_registered_are_looked_up(registry: RegistryServer, kind: str) -> None:
    config = records(registry, kind, register_schemas=False)
    with pytest.raises(FormatError, match=r"(?s)scores-value.*register it.*It is:\n.+") as missing:
        Encoder(Score, "scores", config).open(NEVER)
    assert not registry.schemas

    # As the error says it.
    text = str(missing.value).partition("It is:\n")[2]
    registry.register("other", "{}", "AVRO")
    registry.register("scores-value", text, {"json-schema": "JSON"}.get(kind, kind.upper()))

    assert Encoder(Score, "scores", config).encode(SCORE)[:5] == b"\x00\x00\x00\x00\x02"


def test_a_schema_that_the_registry_refuses_ends_with_its_reason(registry: RegistryServer) -> None:
    registry.refuses["scores-value"] = (409, 409)

    with pytest.raises(FormatError, match="of the schema of scores-value: Schema being registered is incompatible"):
        Encoder(Score, "scores", records(registry, "avro")).open(NEVER)


def test_json_needs_no_registry_and_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)

    encoder, decoder = Encoder(Score, "scores", RecordsConfig()), Decoder(Score, RecordsConfig())

    assert encoder.open(NEVER)
    assert decoder.fetch([], NEVER)
    assert encoder.encode(SCORE) == encode(SCORE)
    assert decoder.decode(message(encode(SCORE)), NOW) == SCORE


# The registry's troubles


@every_format
def test_texts_wait_while_the_registry_is_down(
    registry: RegistryServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_registry, "FIRST_PAUSE", 0.01)
    decoder, values = Decoder(Text, records(registry, kind)), [produced(registry, kind)] * 3
    registry.down = True
    tries: list[int] = []

    def waiting() -> None:
        tries.append(len(tries))
        registry.down = len(tries) < 3

    assert decoder.fetch(map(message, values), NEVER, waiting)
    assert len(tries) == 3
    assert all(isinstance(decoder.decode(message(value), NOW), Text) for value in values)


def test_a_schema_is_registered_once_the_registry_is_up(
    registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_registry, "FIRST_PAUSE", 0.01)
    encoder = Encoder(Alert, "alerts", records(registry, "avro"))
    registry.down = True

    def up() -> None:
        registry.down = False

    assert encoder.open(NEVER, up)
    assert encoder.encode(ALERT)[:5] == b"\x00\x00\x00\x00\x01"


def nowhere(registry: RegistryServer) -> str:
    """The address of a registry that has gone."""
    with RegistryServer() as gone:
        return gone.url


@pytest.mark.parametrize("url", [nowhere, lambda registry: registry.url + "/not/here"], ids=["nobody", "another"])
def test_waiting_for_a_registry_ends_when_told_to_stop(
    registry: RegistryServer, url: Callable[[RegistryServer], str]
) -> None:
    stop, value = threading.Event(), produced(registry, "avro")
    decoder = Decoder(Text, records(registry, "avro", url=url(registry)))

    assert not decoder.fetch([message(value)], stop, stop.set)

    with pytest.raises(UnreachableError, match="the schema registry at http://localhost"):
        decoder.decode(message(value), NOW)


def test_an_answer_that_is_no_registrys_is_waited_out(registry: RegistryServer, monkeypatch: Any) -> None:
    value, stop = produced(registry, "avro"), threading.Event()
    monkeypatch.setattr(registry, "answer", lambda *_: (200, ["hello"]))

    assert not Decoder(Text, records(registry, "avro")).fetch([message(value)], stop, stop.set)


def test_a_registry_may_ask_for_a_password(
    registry: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = produced(registry, "avro")
    registry.login = "scorer:p:ss wörd"
    file = tmp_path / "password"
    file.write_text("p:ss wörd\n", encoding="utf-8")
    monkeypatch.setenv("OTHER_PASSWORD", "p:ss wörd")

    for access in ({"password_file": file}, {"password_variable": "OTHER_PASSWORD"}):
        config = records(registry, "avro", username="scorer", **access)
        assert read(Decoder(Text, config), value).id == "7"


def test_a_wrong_password_ends_with_the_reason_and_is_shown_nowhere(
    registry: RegistryServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    value = produced(registry, "avro")
    registry.login = "scorer:right"
    monkeypatch.setenv("SCHEMA_REGISTRY_PASSWORD", "wrong-secret")
    caplog.set_level("DEBUG")

    with pytest.raises(FormatError, match=r"records\.registry\.username") as error:
        Decoder(Text, records(registry, "avro", username="scorer")).fetch([message(value)], NEVER)

    assert "wrong-secret" not in str(error.value) + caplog.text + "".join(capsys.readouterr())


def test_a_password_that_is_not_there_is_named(
    registry: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCHEMA_REGISTRY_PASSWORD", raising=False)

    with pytest.raises(FormatError, match="variable SCHEMA_REGISTRY_PASSWORD"):
        Decoder(Text, records(registry, "avro", username="scorer"))
    with pytest.raises(FormatError, match=r"gone: No such file"):
        Decoder(Text, records(registry, "avro", username="scorer", password_file=tmp_path / "gone"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["records.texts.format=avro"], "records.texts.format is avro, and that needs records.registry.url"),
        (["records.registry.url=http://me:my-secret@host"], "records.registry: there is a user or password in url"),
        (["records.registry.url=registry:8081"], "records.registry: url must begin with http"),
        (["records.texts.format=xml"], "records.texts.format: must be 'json', 'avro'"),
    ],
)
def test_settings_that_cannot_work_are_named_when_they_are_read(overrides: list[str], reason: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(None, environment={}, overrides=overrides)

    assert reason in str(error.value)
    assert "my-secret" not in str(error.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `localhost` that is its own authority, with its key, in one file."""
    directory = tmp_path_factory.mktemp("certificate")
    key, own, both = (directory / name for name in ("key.pem", "certificate.pem", "both.pem"))
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", own], check=True, capture_output=True)
    both.write_bytes(own.read_bytes() + key.read_bytes())
    return both


def test_a_registry_is_trusted_by_its_authoritys_certificate(certificate: Path, tmp_path: Path) -> None:
    with RegistryServer(certificate) as server:
        server.register("news-value", avro(), "AVRO")
        trusting = Encoder(Score, "scores", records(server, "avro", ca_file=certificate.with_name("certificate.pem")))
        assert trusting.encode(SCORE)[:5] == b"\x00\x00\x00\x00\x02"

        with pytest.raises(FormatError, match=r"not trusted .*; see records\.registry\.ca_file"):
            Encoder(Score, "scores", records(server, "avro")).open(NEVER)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_is_none_is_named(registry: RegistryServer, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")

    with pytest.raises(FormatError, match=rf"records\.registry\.ca_file {file} cannot be used"):
        Decoder(Text, records(registry, "avro", ca_file=file))


def test_without_the_libraries_the_error_says_what_to_install(
    registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)

    with pytest.raises(FormatError, match=r"the format avro .* pip install 'relearnd\[schemas\]'"):
        Decoder(Label, records(registry, "avro"))


@every_format
def test_check_says_whether_the_registry_can_be_used(registry: RegistryServer, kind: str) -> None:
    config = Config(records=records(registry, kind))

    def formats() -> list[Finding]:
        return [finding for finding in findings(config) if finding.sentence.startswith("formats: ")]

    names = f"texts, labels, scores, alerts in {kind}"
    assert formats() == [Finding(True, f"formats: {names}, with the schema registry at {registry.url}")]
    assert not registry.schemas

    registry.types = []
    assert [finding.ok for finding in formats()] == [False]
    registry.down = True
    assert "Registry is going down" in formats()[0].sentence
