"""JSON that follows a JSON Schema, by jsonschema."""

import json
from collections.abc import Callable, Sequence

from jsonschema import Draft7Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic_core import from_json
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from daemon.formats.fields import Field, Kind
from daemon.formats.schema_registry import FRAME, Definition

_TYPES: dict[Kind, object] = {
    "text": {"type": "string"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "time": {"type": "string", "format": "date-time"},
    "number": {"type": "number"},
    "numbers": {"type": "object", "additionalProperties": {"type": "number"}},
    "meta": {"type": "object"},
}


def reader(definitions: Sequence[Definition]) -> Callable[[bytes], bytes]:
    """What turns a value into JSON: what follows its frame, once it was found to follow its schema.

    Raises ValueError for a schema that cannot be used.
    """
    *others, own = [(definition.name, json.loads(definition.text)) for definition in definitions]
    # A schema that does not say which draft it follows is of the seventh: the registry reads it so, too.
    registry: Registry[object] = Registry().with_resources(
        (name, Resource.from_contents(schema, default_specification=DRAFT7)) for name, schema in others
    )
    kind = validator_for(own[1], default=Draft7Validator)
    try:
        kind.check_schema(own[1])
    except SchemaError as error:
        raise ValueError(error.message) from error
    validator = kind(own[1], registry=registry)

    def read(value: bytes) -> bytes:
        for error in validator.iter_errors(from_json(value[FRAME:])):
            # The record is not repeated: it may be long, and the dead letter has it.
            raise ValueError(f"{error.json_path} does not satisfy {error.validator!r} of its schema")
        return value[FRAME:]

    return read


def schema(name: str, fields: Sequence[Field]) -> str:
    """Our schema of a record."""
    properties = {field.name: _TYPES[field.kind] for field in fields}
    required = [field.name for field in fields if not field.optional]
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": name, "type": "object"}
    return json.dumps({**head, "properties": properties, "required": required})
