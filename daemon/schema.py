"""What can be set: the sections and settings of `Config` as data, for reading, checking and describing them."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from daemon.config import Config, parse_seconds

PREFIX = "RELEARND_"

#: The path of a setting: `("triggers", "cooldown")`. Inside a list it goes on with indices.
Key = tuple[str | int, ...]


class Setting(NamedTuple):
    """One thing that can be set. `default` is as YAML would say it (`"30m"`, not 1800.0)."""

    key: Key
    field: FieldInfo
    default: object


class Group(NamedTuple):
    """A section of the configuration: the settings that lie directly in it, in the order they are declared."""

    key: Key
    model: type[BaseModel]
    settings: tuple[Setting, ...]

    @property
    def description(self) -> str:
        # Not getdoc: a section without a docstring would show that of its base class.
        return inspect.cleandoc(vars(self.model).get("__doc__") or "")


def groups() -> Iterator[Group]:
    """Every section, the top level first, each before the sections inside it."""
    return _groups(Config, (), Config().model_dump(mode="json"))


def _groups(model: type[BaseModel], key: Key, defaults: dict[str, Any]) -> Iterator[Group]:
    fields = model.model_fields.items()
    inside = {name: section for name, field in fields if (section := section_of(field))}
    own = [Setting((*key, name), field, defaults[name]) for name, field in fields if name not in inside]
    yield Group(key, model, tuple(own))
    for name, section in inside.items():
        yield from _groups(section, (*key, name), defaults[name])


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, or None for a setting."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def dotted(key: Key) -> str:
    """`("drift", "detectors", 0, "kind")` as `drift.detectors[0].kind`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def variable(key: Key) -> str:
    """The environment variable that gives a setting."""
    return PREFIX + "__".join(str(part).upper() for part in key)


def is_seconds(field: FieldInfo | None) -> bool:
    """Whether a setting is a time."""
    return field is not None and any(getattr(mark, "func", None) is parse_seconds for mark in field.metadata)


def flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
