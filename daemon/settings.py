"""Where settings come from: defaults, then a YAML file, then the environment, then `--set`; the last one wins.

Every layer is flattened to the same thing, a value for a dotted path of `Config` and where it was said, so that
precedence is one dictionary update, and a refused value can be traced to the line or the variable that gave it.
"""

import difflib
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from daemon.config import Config
from daemon.errors import RelearndError
from daemon.schema import PREFIX, Group, Key, Setting, dotted, flow, groups, is_seconds, section_of, variable

#: Variables with our prefix that are read elsewhere (the bearer token of the HTTP server).
NOT_SETTINGS = frozenset({"RELEARND_TOKEN", "RELEARND_TOKEN_FILE"})

#: Kubernetes gives every pod variables named after the services of its namespace; a service called `relearnd` or
#: `relearnd-…` makes them look like ours. The form is fixed: kubernetes.io/docs/concepts/services-networking/service.
_SERVICE_LINK = re.compile(r"\w*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")

#: Settings that nearly everyone looks at first: `commented_yaml` leaves them active.
SHOWN = frozenset({("home",), ("connector", "kind"), ("model", "encoder"), ("alerts", "label")})

#: Of a refused value, how much a message repeats.
_MAX_SHOWN = 80


class SettingsError(RelearndError):
    """Settings that cannot be used. `problems` says of each which setting, what is wrong and where it was set."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{head} in the settings:", *problems]))


class _Layer(NamedTuple):
    """Values as nested mappings, how this layer writes a path, and where it said it."""

    values: Mapping[Any, object]
    spell: Callable[[Key], str]
    where: Callable[[Key], str]


class _Given(NamedTuple):
    value: object
    layer: _Layer


def load(path: Path | None, *, environment: Mapping[str, str], overrides: Sequence[str]) -> Config:
    """The configuration from the file at `path`, `RELEARND_SECTION__KEY` variables, and `key.path=value` overrides.

    A setting that holds text takes what a variable or an override says as it stands; any other is read as YAML
    (`true`, `15m`, `[…]`).

    Raises:
        SettingsError: with every problem at once.
    """
    problems: list[str] = []
    layers: list[_Layer] = []
    if path is not None:
        layers += _from_file(path, problems)
    layers += _from_environment(environment, problems)
    layers += _from_overrides(overrides, problems)
    given: dict[Key, _Given] = {}
    for layer in layers:
        _flatten(layer, layer.values, (), Config, given, problems)
    try:
        config = Config.model_validate(_nested(given))
    except ValidationError as error:
        problems += [_refused(detail, given) for detail in error.errors(include_url=False)]
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return config


def _from_file(path: Path, problems: list[str]) -> list[_Layer]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problems.append(f"{path}: no such file; `relearnd init` writes one to start from")
        return []
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 at byte {error.start}")
        return []
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return []
    lines: dict[Key, int] = {}
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return []
        problems += [f"{path}:{problem}" for problem in _survey(node, (), lines, set())]
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        problems.append(_not_yaml(path, error))
        return []
    finally:
        loader.dispose()
    if values is None:
        return []
    if not isinstance(values, dict):
        problems.append(f"{path}: sections and keys (`model:`, `home: …`) are expected, not {_shown(values)}")
        return []
    return [_Layer(values, dotted, lambda key: f"{path}:{_nearest(lines, key)}")]


def _not_yaml(path: Path, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{path}: not YAML: {error}"
    mark = error.problem_mark
    return f"{path}:{mark.line + 1}: not YAML at column {mark.column + 1}: {error.problem}"


def _survey(node: yaml.Node, key: Key, lines: dict[Key, int], seen: set[int]) -> Iterator[str]:
    """Notes the line of everything under `node`; says what would be read otherwise than it looks."""
    line = node.start_mark.line + 1
    lines.setdefault(key, line)
    if id(node) in seen:
        # Also what makes this walk end: an alias may contain itself.
        yield f"{line}: {dotted(key)}: aliases (`*name`) are not supported; write the value out"
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _survey(item, (*key, index), lines, seen)
    elif isinstance(node, yaml.MappingNode):
        for name, item in node.value:
            inner = (*key, str(name.value))
            if inner in lines:
                yield f"{name.start_mark.line + 1}: {dotted(inner)}: already set on line {lines[inner]}"
            lines[inner] = name.start_mark.line + 1
            yield from _survey(item, inner, lines, seen)


def _nearest(lines: Mapping[Key, int], key: Key) -> int:
    while key not in lines and key:
        key = key[:-1]
    return lines.get(key, 1)


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> Iterator[_Layer]:
    for name, text in sorted(environment.items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and not _is_service_link(name, text):
            key = tuple(name.removeprefix(PREFIX).lower().split("__"))
            yield from _assignment(key, text, name, variable, problems)


def _is_service_link(name: str, text: str) -> bool:
    rest = "_" + name.removeprefix(PREFIX)
    if "__" in rest:
        return False
    return bool(_SERVICE_LINK.fullmatch(rest) or (rest.endswith("_PORT") and _SERVICE_URL.match(text)))


def _from_overrides(overrides: Sequence[str], problems: list[str]) -> Iterator[_Layer]:
    for override in overrides:
        name, equals, text = override.partition("=")
        if equals and name.strip():
            key = tuple(name.strip().split("."))
            yield from _assignment(key, text, f"--set {name.strip()}", dotted, problems)
        else:
            problems.append(f"--set {override}: write it as key.path=value, as in --set triggers.cooldown=15m")


def _assignment(key: Key, text: str, where: str, spell: Callable[[Key], str], problems: list[str]) -> Iterator[_Layer]:
    field = {setting.key: setting.field for group in groups() for setting in group.settings}.get(key)
    try:
        value = _parse(text, field)
    except yaml.YAMLError:
        problems.append(f"{dotted(key)}: cannot be read as YAML: {_shown(text)} ({where})")
        return
    values = {key[-1]: value}
    for part in reversed(key[:-1]):
        values = {part: values}
    yield _Layer(values, spell, lambda _: where)


def _parse(text: str, field: FieldInfo | None) -> object:
    if field is None or not _is_text(field.annotation):
        return yaml.safe_load(text)
    # As it stands: in YAML `*/5 * * * *` is an alias, `no` is false, and `a # b` ends at the `a`.
    nullable = type(None) in get_args(field.annotation)
    return None if nullable and text in {"", "null"} else text


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    inside = [part for part in get_args(kind) if part is not type(None)] or [kind]
    return all(part in {str, Path, SecretStr} for part in inside)


def _flatten(
    layer: _Layer,
    values: Mapping[Any, object],
    at: Key,
    model: type[BaseModel],
    given: dict[Key, _Given],
    problems: list[str],
) -> None:
    for name, value in values.items():
        key = (*at, str(name))
        field = model.model_fields.get(str(name))
        section = field and section_of(field)
        if field is None:
            problems.append(f"{dotted(key)}: no such setting; {_hint(key, layer.spell)} ({layer.where(key)})")
        elif section is None:
            given[key] = _Given(value, layer)
        elif isinstance(value, Mapping):
            _flatten(layer, value, key, section, given, problems)
        elif value is not None:  # `gate:` with all of its keys commented out says nothing
            inside = ", ".join(section.model_fields)
            problems.append(f"{dotted(key)}: is a section ({inside}), not {_shown(value)} ({layer.where(key)})")


def _nested(given: Mapping[Key, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, (value, _) in given.items():
        section = tree
        for part in key[:-1]:
            section = section.setdefault(str(part), {})
        section[str(key[-1])] = value
    return tree


# Saying what is wrong


def _hint(key: Key, spell: Callable[[Key], str]) -> str:
    known = {dotted(found): found for group in groups() for found in (group.key, *(s.key for s in group.settings))}
    namesakes = [found for found in known.values() if found[-1:] == key[-1:]]
    if len(namesakes) == 1:
        return f"did you mean {spell(namesakes[0])}?"
    # The last part must be alike by itself: sections with long names would make all of their settings so.
    names = [str(found[-1]) for found in known.values() if found]
    alike = set(difflib.get_close_matches(str(key[-1]), names, n=len(names)))
    candidates = [name for name, found in known.items() if alike & {*found[-1:]} and found != key[: len(found)]]
    if candidates:
        return f"did you mean {spell(known[difflib.get_close_matches(dotted(key), candidates, n=1, cutoff=0)[0]])}?"
    while key and key not in known.values():
        key = key[:-1]
    model = next(group.model for group in groups() if group.key == key or key in {s.key for s in group.settings})
    return f"{dotted(key) or 'the top level'} has {', '.join(model.model_fields)}"


def _refused(detail: ErrorDetails, given: Mapping[Key, _Given]) -> str:
    key = detail["loc"]
    if not key:  # a rule between settings names them itself
        return _reason(detail, None)
    setting = next((key[:length] for length in range(len(key), 0, -1) if key[:length] in given), None)
    if setting is None:
        return f"{dotted(key)}: {_reason(detail, None)}"
    field = next(s.field for group in groups() for s in group.settings if s.key == setting)
    got = "" if detail["type"] in {"missing", "extra_forbidden"} else f"; got {_shown(detail['input'])}"
    if field.annotation is not None and _mentions(field.annotation, SecretStr):
        got = ""
    return f"{dotted(key)}: {_reason(detail, field)}{got} ({given[setting].layer.where(key)})"


def _reason(detail: ErrorDetails, field: FieldInfo | None) -> str:
    kind, message = detail["type"], detail["msg"]
    if is_seconds(field) and kind in {"float_parsing", "float_type", "value_error"}:
        return "must be a time: 90s, 15m, 6h, 7d or a number of seconds"
    if kind == "extra_forbidden":
        models = [part for part in get_args(field.annotation) if hasattr(part, "model_fields")] if field else []
        allowed = [name for model in models for name in model.model_fields]
        return f"no such key; there are {', '.join(allowed)}" if allowed else "no such key"
    if kind == "string_type":
        return "must be text (in YAML, put it in quotes)"
    if kind == "missing":
        return "is required"
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _mentions(kind: Any, wanted: type) -> bool:
    return kind is wanted or any(_mentions(part, wanted) for part in get_args(kind))


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):  # keys that JSON has no form for
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


# Writing


def commented_yaml() -> str:
    """The whole configuration as YAML: a few settings active, the others at their defaults behind a `#`.

    A line of prose starts with `# `, a setting that is commented out with `#` alone, so that taking that one
    character away puts it into force. Sections are active: an empty one leaves its defaults.
    """
    lines = [
        "# relearnd's configuration. A setting behind a # shows its default; remove the # to change it.",
        "# The environment (RELEARND_SECTION__KEY=value) and --set section.key=value win over this file.",
    ]
    for group in groups():
        lines += _group_lines(group)
    return "\n".join(lines) + "\n"


def _group_lines(group: Group) -> Iterator[str]:
    indent = "  " * len(group.key)
    if group.key:
        outer = indent[2:]
        yield ""
        yield from _prose(group.description, outer)
        yield f"{outer}{group.key[-1]}:"
    for index, setting in enumerate(group.settings):
        if index or not group.key:
            yield ""
        yield from _prose(setting.field.description or "", indent)
        yield from _setting_lines(setting, indent)


def _prose(text: str, indent: str) -> Iterable[str]:
    return textwrap.wrap(text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _setting_lines(setting: Setting, indent: str) -> Iterator[str]:
    name, value = setting.key[-1], setting.default
    mark = "" if setting.key in SHOWN else "#"
    if not isinstance(value, list) or not value:
        yield f"{indent}{mark}{name}: {flow(value)}"
        return
    yield f"{indent}{mark}{name}:"
    for item in value:
        yield f"{indent}{mark}- {flow(item)}"
