"""Avro, by fastavro."""

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import fastavro
from pydantic_core import to_json

from daemon.formats.fields import Field, Kind
from daemon.formats.schema_registry import FRAME, Definition

_TYPES: dict[Kind, object] = {
    "text": "string",
    "texts": {"type": "array", "items": "string"},
    "time": {"type": "long", "logicalType": "timestamp-micros"},
    "number": "double",
    "numbers": {"type": "map", "values": "double"},
    "meta": {"type": "map", "values": "string"},
}


def reader(definitions: Sequence[Definition]) -> Callable[[bytes], bytes]:
    """What turns a value into JSON. Raises ValueError for a schema that cannot be used."""
    named: dict[str, Any] = {}
    schema: Any = None
    for definition in definitions:
        schema = fastavro.parse_schema(json.loads(definition.text), named_schemas=named)
    if _is_recursive(schema, named, frozenset()):
        # fastavro follows the nesting on the C stack, without a limit: 100 KB of it end the process.
        raise ValueError("a type contains itself, and such schemas are not read")

    def read(value: bytes) -> bytes:
        stream = BytesIO(value)
        stream.seek(FRAME)
        record = fastavro.schemaless_reader(stream, schema, None)
        if left := len(stream.read()):
            raise ValueError(f"{left} bytes are left over")
        return to_json(record, bytes_mode="base64")

    return read


def schema(name: str, fields: Sequence[Field]) -> str:
    """Our schema of a record."""
    described = [
        {"name": field.name, "type": ["null", _TYPES[field.kind]], "default": None}
        if field.optional
        else {"name": field.name, "type": _TYPES[field.kind]}
        for field in fields
    ]
    return json.dumps({"type": "record", "name": name, "namespace": "relearnd", "fields": described})


def writer(text: str) -> Callable[[Mapping[str, Any]], bytes]:
    """What turns a record's fields into a value, without its frame."""
    parsed = fastavro.parse_schema(json.loads(text))

    def write(values: Mapping[str, Any]) -> bytes:
        stream = BytesIO()
        fastavro.schemaless_writer(stream, parsed, values)
        return stream.getvalue()

    return write


def _is_recursive(schema: Any, named: Mapping[str, Any], within: frozenset[str]) -> bool:
    """Whether a type contains itself. Of a parsed schema, in which every name is whole."""
    if isinstance(schema, str):
        return schema in named and _is_recursive(named[schema], named, within)
    if isinstance(schema, list):
        return any(_is_recursive(branch, named, within) for branch in schema)
    name = schema.get("name", "")
    inside = [field["type"] for field in schema.get("fields", [])]
    inside += [schema[part] for part in ("type", "items", "values") if part in schema]
    return name in within or any(_is_recursive(part, named, within | {name} if name else within) for part in inside)
