"""Where a record's fields are in messages of another shape: `$.article.body`, `$.symbols[0]`, `message.timestamp`.

A path is a small part of JSONPath (RFC 9535): names and indices, one value at most. What it finds is read by pydantic's
own path aliases, so that a record of any shape is validated in one pass over its JSON.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, cast

from pydantic import AliasPath, BaseModel, BeforeValidator, Field, ValidationInfo, create_model

from connectors.topic import Message

#: Longer or deeper than any message that a person has to map.
MAX_LENGTH, MAX_DEPTH = 256, 16

#: One step of a path: `.name`, `[0]`, `['any name']` or `["any name"]`.
_STEP = re.compile(r"""\.([^\s.\[\]'"*]+)|\[(\d{1,6})\]|\['((?:[^'\\]|\\['\\])+)'\]|\["((?:[^"\\]|\\["\\])+)"\]""")


def _appended(message: Message) -> datetime:
    # In Kafka the producer may say it, whatever it likes; and -1 ms is none.
    if message.timestamp < 0:
        raise ValueError("the message has no time")
    try:
        return datetime.fromtimestamp(message.timestamp, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"the message's time is {message.timestamp} seconds") from error


#: What stands in a message beside its value, by the name that a mapping gives it.
BESIDE: Mapping[str, Callable[[Message], object]] = {
    "message.key": lambda message: message.key,
    "message.position": lambda message: f"{message.topic}-{message.partition}-{message.offset}",
    "message.timestamp": _appended,
}

M = TypeVar("M", bound=BaseModel)


def steps(path: str) -> list[str | int]:
    """The names and indices of a path, in order.

    Raises:
        ValueError: it is none; the message says where it ends to be one.
    """
    found: list[str | int] = []
    at = 1
    while path.startswith("$") and len(path) <= MAX_LENGTH and (step := _STEP.match(path, at)):
        name, index, single, double = step.groups()
        quoted = re.sub(r"\\(.)", r"\1", single or double or "")
        found.append(int(index) if index else name or quoted)
        at = step.end()
    if len(path) > MAX_LENGTH or len(found) > MAX_DEPTH:
        raise ValueError(f"a path has at most {MAX_LENGTH} characters and {MAX_DEPTH} steps")
    if not found or at < len(path):
        beside = ", ".join(BESIDE)
        where = f"; this one cannot be read from {path[at:]!r} on" if found else ""
        raise ValueError(f"a path is like $.article.body, $.symbols[0] or $['a name'], or one of {beside}{where}")
    if isinstance(found[0], int):
        raise ValueError("a message is an object, so a path begins with a name")
    return found


def checked(path: str) -> str:
    """`path`, if it is a path or names what stands beside the value. Raises ValueError when it does not."""
    if path not in BESIDE:
        steps(path)
    return path


def mapped(kind: type[M], paths: Mapping[str, str]) -> type[M]:
    """`kind`, reading each field from its path; fields whose path is empty keep their default.

    Validate with the `Message` as context. A number where text is expected is written out: in a topic that was not
    made for relearnd, ids often are numbers.
    """
    fields: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        path = paths[name]
        if path.startswith("$"):
            first, *rest = steps(path)
            marks: list[object] = [Field(validation_alias=AliasPath(str(first), *rest))]
            default = field.default
        else:
            # Whatever the message's value has under this name is not looked at.
            marks = [BeforeValidator(_beside(BESIDE[path]) if path else _constant(field.default))]
            default = Field(None, validate_default=True)
        fields[name] = (Annotated[(field.annotation, *field.metadata, *marks)], default)
    # By the field's name: its path is known, and pydantic would only say as much of it as it has found.
    settings: Any = {"coerce_numbers_to_str": True, "loc_by_alias": False}
    model: type[M] = create_model(f"Mapped{kind.__name__}", __base__=kind, __cls_kwargs__=settings, **fields)
    return model


def _beside(find: Callable[[Message], object]) -> Callable[[object, ValidationInfo], object]:
    def instead(_: object, info: ValidationInfo) -> object:
        return find(cast(Message, info.context))

    return instead


def _constant(value: object) -> Callable[[object], object]:
    return lambda _: value
