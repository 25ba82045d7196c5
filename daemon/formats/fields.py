"""The records that relearnd writes, field by field, as Avro and Protobuf have to be told."""

from typing import Literal, NamedTuple

#: `texts`: a list; `numbers`: a mapping of text to number; `meta`: a mapping of text to text.
Kind = Literal["text", "texts", "time", "number", "numbers", "meta"]


class Field(NamedTuple):
    name: str
    kind: Kind
    optional: bool = False


#: By the record's name. Add at the end only: a field's place is its number in Protobuf.
RECORDS: dict[str, tuple[Field, ...]] = {
    "Score": (
        Field("id", "text"),
        Field("text", "text"),
        Field("timestamp", "time"),
        Field("key", "text", optional=True),
        Field("source", "text", optional=True),
        Field("meta", "meta", optional=True),
        Field("label", "text"),
        Field("probabilities", "numbers"),
        Field("model", "text"),
        Field("scored_at", "time"),
        Field("sketch", "text", optional=True),
    ),
    "Alert": (
        Field("status", "text"),
        Field("name", "text"),
        Field("key", "text"),
        Field("severity", "text"),
        Field("value", "number"),
        Field("baseline", "number"),
        Field("starts_at", "time"),
        Field("ends_at", "time", optional=True),
        Field("examples", "texts"),
        Field("model", "text"),
        Field("because", "text", optional=True),
    ),
}
