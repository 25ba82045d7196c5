"""Values of messages that a schema registry knows the schemas of: read as JSON, written from records."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from daemon.formats.errors import FormatError, NotInFormatError, UnknownSchemaError, UnreachableError
from daemon.formats.fields import RECORDS
from daemon.formats.schema_registry import FRAME, Definition, SchemaRegistry

Read = Callable[[bytes], bytes]
Write = Callable[[BaseModel], bytes]


class SchemaReader:
    """Turns values into JSON, each by the schema that it was written with.

    `fetch` asks the registry; `json` does so only for a schema that was not fetched.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._reads: dict[int, Read] = {}
        self._unknown: dict[int, str] = {}

    def fetch(self, values: Iterable[bytes]) -> None:
        """Learn the schemas of `values` that are not known yet.

        Raises:
            UnreachableError, FormatError: as they say.
        """
        # One that was not there may be by now, but is not asked for again within these values.
        self._unknown = {}
        for id in {_id(value) for value in values if _is_framed(value)}:
            self._learn(id)

    def json(self, value: bytes) -> bytes:
        """Raises:
        NotInFormatError, UnknownSchemaError: the value's own fault.
        UnreachableError, FormatError: as they say, for a schema that was not fetched.
        """
        if not _is_framed(value):
            raise NotInFormatError(
                f"no {self._registry.format} of a schema registry: that begins with a zero byte and a schema's id"
            )
        id = _id(value)
        self._learn(id)
        if id in self._unknown:
            raise UnknownSchemaError(self._unknown[id])
        try:
            return self._reads[id](value)
        except Exception as error:
            # Whatever a decoder makes of a stranger's bytes, they are at fault.
            said = str(error) or type(error).__name__
            raise NotInFormatError(f"by schema {id}: {said[:200]}") from error

    def _learn(self, id: int) -> None:
        if id in self._reads or id in self._unknown:
            return
        try:
            self._reads[id] = _reader(self._registry, self._registry.definitions(id))
        except UnknownSchemaError as error:
            self._unknown[id] = str(error)
        except (FormatError, UnreachableError):
            raise
        except Exception as error:  # noqa: BLE001 (a schema may be wrong in as many ways as there are libraries)
            self._unknown[id] = f"schema {id} cannot be used: {str(error)[:200]}"


class SchemaWriter:
    """Turns records of `kind` (whose fields are in `RECORDS`) into values for `topic`; `open` it first."""

    def __init__(self, registry: SchemaRegistry, kind: type[BaseModel], topic: str) -> None:
        self._registry = registry
        self._topic = topic
        self._schema, self._write = _writer(registry, kind)
        self._frame: bytes | None = None

    def open(self) -> None:
        """Register our schema, or look it up.

        Raises:
            UnreachableError, FormatError: as they say.
        """
        if self._frame is None:
            id = self._registry.id_of(self._topic, self._schema)
            self._frame = b"\x00" + id.to_bytes(4, "big")

    def value(self, record: BaseModel) -> bytes:
        """Asks the registry only if that was not done yet; then raises what `open` raises."""
        self.open()
        return (self._frame or b"") + self._write(record)


def _is_framed(value: bytes) -> bool:
    return len(value) > FRAME and value[0] == 0


def _id(value: bytes) -> int:
    return int.from_bytes(value[1:FRAME], "big")


# The formats' libraries come with an extra, so each is imported where it is used.


def _reader(registry: SchemaRegistry, definitions: Sequence[Definition]) -> Read:
    if registry.format == "avro":
        from daemon.formats import avro

        return avro.reader(definitions)
    if registry.format == "protobuf":
        from daemon.formats import protobuf

        return protobuf.reader(definitions)
    from daemon.formats import json_schema

    return json_schema.reader(definitions)


def _writer(registry: SchemaRegistry, kind: type[BaseModel]) -> tuple[str, Write]:
    """Our schema of a record, and what writes one by it."""
    name, fields = kind.__name__, RECORDS[kind.__name__]
    if registry.format == "avro":
        from daemon.formats import avro

        schema, write = avro.schema(name, fields), avro.writer(avro.schema(name, fields))
    elif registry.format == "protobuf":
        from daemon.formats import protobuf

        schema, write = protobuf.schema(name, fields), protobuf.writer(protobuf.schema(name, fields))
    else:
        from daemon.formats import json_schema

        return json_schema.schema(name, fields), lambda record: record.model_dump_json(exclude_none=True).encode()
    return schema, lambda record: write(_values(record))


def _values(record: BaseModel) -> dict[str, Any]:
    """A record's fields; of `meta`, which may hold anything, what is not text as JSON."""
    values = dict(record)
    if meta := values.get("meta"):
        values["meta"] = {
            name: value if isinstance(value, str) else to_json(value).decode()
            for name, value in meta.items()
            if value is not None
        }
    return values
