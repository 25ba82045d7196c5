"""Protobuf without generated classes: message types are made from the registry's file descriptors."""

import base64
import binascii
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

from confluent_kafka.schema_registry.serde import SchemaId
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from pydantic_core import to_json

from daemon.formats.errors import FormatError
from daemon.formats.fields import Field, Kind
from daemon.formats.schema_registry import Definition

#: The files that a registry does not keep because every compiler has them, and where Python has them.
_BUILTIN = {
    r"google/(protobuf|type)/\w+\.proto": "",
    r"confluent/(meta|type/\w+)\.proto": "confluent_kafka.schema_registry.",
}

_TYPES: dict[Kind, int] = {
    "text": FieldDescriptorProto.TYPE_STRING,
    "texts": FieldDescriptorProto.TYPE_STRING,
    "number": FieldDescriptorProto.TYPE_DOUBLE,
    "time": FieldDescriptorProto.TYPE_MESSAGE,
    "numbers": FieldDescriptorProto.TYPE_MESSAGE,
    "meta": FieldDescriptorProto.TYPE_MESSAGE,
}


def reader(definitions: Sequence[Definition]) -> Callable[[bytes], bytes]:
    """What turns a value into JSON.

    A field without a value is left out, and of a field without presence (proto3) that is the value 0 or "" too.

    Raises:
        FormatError: the registry does not give file descriptors.
        TypeError, ValueError: the schema cannot be used.
    """
    pool = DescriptorPool()
    for definition in definitions:
        file = _add(pool, _described(definition))
    types: dict[tuple[int, ...], Any] = {}

    def read(value: bytes) -> bytes:
        frame = SchemaId("PROTOBUF")
        message = frame.from_bytes(BytesIO(value)).read()
        indices = tuple(frame.message_indexes or ())
        if indices not in types:
            types[indices] = GetMessageClass(_message_type(file, indices))
        found = json_format.MessageToDict(
            types[indices].FromString(message), preserving_proto_field_name=True, descriptor_pool=pool
        )
        return to_json(found)

    return read


def schema(name: str, fields: Sequence[Field]) -> str:
    """Our schema of a record: its file descriptor, in base64."""
    file = FileDescriptorProto(name=f"relearnd/{name}.proto", package="relearnd", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    message = file.message_type.add(name=name)
    for number, field in enumerate(fields, start=1):
        entry = f"{field.name.capitalize()}Entry"
        described = message.field.add(name=field.name, number=number, json_name=field.name)
        described.type = _TYPES[field.kind]
        repeated = field.kind in {"texts", "numbers", "meta"}
        described.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        if field.kind == "time":
            described.type_name = ".google.protobuf.Timestamp"
        elif field.kind in {"numbers", "meta"}:
            described.type_name = f".relearnd.{name}.{entry}"
            pair = message.nested_type.add(name=entry)
            pair.options.map_entry = True
            kinds: dict[str, Kind] = {"key": "text", "value": "number" if field.kind == "numbers" else "text"}
            for place, (part, kind) in enumerate(kinds.items(), start=1):
                pair.field.add(name=part, number=place, type=_TYPES[kind], label=FieldDescriptorProto.LABEL_OPTIONAL)
    return base64.b64encode(file.SerializeToString()).decode("ascii")


def writer(text: str) -> Callable[[Mapping[str, Any]], bytes]:
    """What turns a record's fields into a value, without its frame but with the index of its message type."""
    file = _add(DescriptorPool(), _described(Definition("", text)))
    # The first message of the file is written as one 0.
    message_class = GetMessageClass(_message_type(file, (0,)))

    def write(values: Mapping[str, Any]) -> bytes:
        message = message_class()
        for name, value in values.items():
            if isinstance(value, datetime):
                getattr(message, name).FromDatetime(value)
            elif isinstance(value, dict):
                getattr(message, name).update(value)
            elif isinstance(value, list):
                getattr(message, name).extend(value)
            elif value is not None:
                setattr(message, name, value)
        return b"\x00" + bytes(message.SerializeToString())

    return write


def _described(definition: Definition) -> FileDescriptorProto:
    try:
        file = FileDescriptorProto.FromString(base64.b64decode(definition.text, validate=True))
    except (binascii.Error, DecodeError) as error:
        raise FormatError(
            "the schema registry gives Protobuf schemas as text only; reading them takes one that gives file "
            "descriptors (`format=serialized`)"
        ) from error
    # What refers to it says this name, whatever it was called when it was compiled.
    file.name = definition.name or file.name or "schema.proto"
    return file


def _add(pool: DescriptorPool, file: FileDescriptorProto) -> FileDescriptor:
    for needed in file.dependency:
        for pattern, package in _BUILTIN.items():
            if re.fullmatch(pattern, needed):
                module = package + needed.removesuffix(".proto").replace("/", ".") + "_pb2"
                shipped = importlib.import_module(module).DESCRIPTOR.serialized_pb
                _add(pool, FileDescriptorProto.FromString(shipped))
    pool.Add(file)
    return pool.FindFileByName(file.name)


def _message_type(file: FileDescriptor, indices: Sequence[int]) -> Descriptor:
    """The message type at `indices`: the first counts the file's, each further one those inside the one before."""
    found, inside = None, list(file.message_types_by_name.values())
    for index in indices:
        if not 0 <= index < len(inside):
            raise ValueError(f"its schema has no message type {list(indices)}")
        found = inside[index]
        inside = list(found.nested_types)
    if found is None:
        raise ValueError("no message type is named")
    return found
