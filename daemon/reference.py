"""The text of docs/configuration.md and docs/metrics.md, from the code.

`python -m daemon.reference configuration|metrics` prints one of them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from daemon.metrics import Entry, Metrics
from daemon.schema import Group, dotted, flow, groups, is_seconds

_LAYERS = """\
# Configuration

Everything has a default: `relearnd run` without a configuration works. `relearnd init` writes a file with every
setting in it, each behind a `#` at its default; `relearnd check FILE` says what a file would do.

## Where a value comes from

Later lines win over earlier ones:

1. the default, as in the tables below;
2. the YAML file of `--config`;
3. the environment: `RELEARND_`, the section, two underscores, the key, all in capitals;
4. `--set section.key=value`, as often as you like.

The same setting in three places:

```yaml
triggers:
  cooldown: 15m
  accuracy:
    drop: 0.05
```

```sh
RELEARND_TRIGGERS__COOLDOWN=15m RELEARND_TRIGGERS__ACCURACY__DROP=0.05 relearnd run
relearnd run --set triggers.cooldown=15m --set triggers.accuracy.drop=0.05
```

In the environment and in `--set`, a setting that holds text takes the value as it stands
(`--set 'triggers.schedule=*/30 * * * *'`); every other value is read as YAML. A list is given whole, and replaces the
one before it:

```sh
relearnd run --set 'drift.detectors=[{kind: adwin, signal: error, options: {delta: 0.001}}]'
```

A time is a number with `s`, `m`, `h` or `d` behind it, or a number of seconds.

A setting that does not exist is an error, wherever it was given, and the error names the nearest one that does. So are
a key that is set twice in one file, a value of the wrong type, and one out of bounds; all of them are reported at once,
each with its line, variable or option. Variables that Kubernetes adds for a service named `relearnd` are left alone.

Two variables are no settings, so that no secret is written into a file of settings: `RELEARND_TOKEN`, or
`RELEARND_TOKEN_FILE` with the name of a file, holds the bearer token that commands over HTTP then need. Without one,
commands are taken on a loopback address only.
"""

_METRICS = """\
# Metrics

`GET /metrics` on `http.host`:`http.port` (127.0.0.1:9464 unless set) answers in the Prometheus text format, or in
OpenMetrics when asked for it. A scorer and a controller that run apart have the same metrics; what a role does not do
stays at 0, absent, or NaN.

Labels have few values and always will: no metric has one that grows with the stream, and only `relearnd_model_info`
names a model version, that of the champion. `topic` is the name of the setting in `topics`, whatever the topic is
called at your connector. Counters whose labels are listed here exist from the start, so `increase()` sees the first
event. `process_*` (memory, CPU, open files) come on Linux, and a `_created` time comes with each counter and histogram.
"""

#: What each label without a list of its own takes its values from.
_OPEN_LABELS = {
    "detector": "`conformal`, or `kind` of `drift.detectors`",
    "signal": "`all`, or `signal` of `drift.detectors`",
    "kind": "`input`, `label mix`, `concept`",
    "version": "one at a time",
    "partition": "number",
}

_QUERIES = {
    "Texts scored a second": "sum(rate(relearnd_texts_scored_total[5m]))",
    "Time from read to committed, 99th percentile": (
        "histogram_quantile(0.99, sum by (le) (rate(relearnd_score_seconds_bucket[5m])))"
    ),
    "Texts in a batch, on average": (
        "sum(rate(relearnd_batch_texts_sum[5m])) / sum(rate(relearnd_batch_texts_count[5m]))"
    ),
    "Minutes until the scorers have caught up, if they are catching up": (
        'sum(relearnd_lag_messages{topic="texts"}) '
        '/ -deriv(sum(relearnd_lag_messages{topic="texts"})[10m:30s]) / 60 > 0'
    ),
    "Messages set aside a minute, by why": "sum by (topic, reason) (rate(relearnd_dead_letters_total[15m])) * 60 > 0",
    "Share of labels that found their score": (
        'sum(increase(relearnd_labels_total{outcome="joined"}[1d])) / '
        'sum(increase(relearnd_labels_total{outcome=~"joined|expired"}[1d]))'
    ),
    "Live accuracy against a week ago": "relearnd_live_accuracy - relearnd_live_accuracy offset 7d",
    "Drift alarms a day, by kind": "sum by (kind) (increase(relearnd_drift_alarms_total[1d]))",
    "Share of candidates that went live, at once or when they were judged again": (
        "sum(increase(relearnd_promotions_total[7d])) / "
        'sum(increase(relearnd_triggers_total{outcome="fired", trigger!="proof"}[7d]))'
    ),
    "Which versions score now; more than one row for longer than a swap takes means that a scorer is stuck": (
        "count by (version) (relearnd_model_info)"
    ),
}


def configuration() -> str:
    """The text of docs/configuration.md."""
    return "\n".join([_LAYERS, *(line for group in groups() for line in _section(group))])


def _section(group: Group) -> Iterator[str]:
    yield f"## {dotted(group.key)}" if group.key else "## Top level"
    yield ""
    if group.description and group.key:
        yield group.description
        yield ""
    if not group.settings:
        return
    yield "| setting | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for setting in group.settings:
        name, meaning = f"`{dotted(setting.key)}`", setting.field.description or ""
        cells = (name, _values(setting.field), _default(setting.default), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _default(value: object) -> str:
    if value in (None, ""):
        return ""
    items = value if isinstance(value, list) and value else [value]
    return "<br>".join(f"`{flow(item)}`" for item in items)


def _values(field: FieldInfo) -> str:
    if is_seconds(field):
        return ", ".join(["time", *_bounds(field, "0s")])
    kinds = [kind for kind in get_args(field.annotation) or [field.annotation] if kind is not type(None)]
    if get_origin(field.annotation) in {list, dict, Literal}:
        kinds = [field.annotation]
    return " or ".join(_kind(kind, field) for kind in kinds)


def _kind(kind: Any, field: FieldInfo) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin is list:
        return f"list of {_kind(inside[0], field)}"
    if origin is dict:
        return f"mapping of {_kind(inside[0], field)} to {_kind(inside[1], field)}"
    if kind is bool:
        return "`true`, `false`"
    if kind in {int, float}:
        return ", ".join(["whole number" if kind is int else "number", *_bounds(field)])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "{" + ", ".join(f"`{name}`" for name in kind.model_fields) + "}"
    names = {str: "text", Path: "path", SecretStr: "text (secret)"}
    return names[kind]


def _bounds(field: FieldInfo, zero: str = "0") -> Iterator[str]:
    # A type may bound below and the field more tightly (`Seconds` with `gt=0`): then the tighter one is said.
    strict = {type(mark) for mark in field.metadata}
    for mark in field.metadata:
        match mark:
            case annotated_types.Gt(gt=int(bound)) if field.annotation is int:
                yield f"at least {bound + 1}"
            case annotated_types.Gt(gt=bound):
                yield f"above {zero if bound == 0 else f'{bound:g}'}"
            case annotated_types.Ge(ge=bound) if annotated_types.Gt not in strict:
                yield f"at least {zero if bound == 0 else f'{bound:g}'}"
            case annotated_types.Lt(lt=bound):
                yield f"below {bound:g}"
            case annotated_types.Le(le=bound) if annotated_types.Lt not in strict:
                yield f"at most {bound:g}"


def metrics() -> str:
    """The text of docs/metrics.md."""
    lines = [_METRICS, "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    entries = Metrics("0").entries
    lines += [f"| `{entry.name}` | {entry.kind} | {_labels(entry)} | {entry.help} |" for entry in entries]
    lines += ["", "## Buckets", "", "| histogram | upper bounds |", "| --- | --- |"]
    lines += [
        f"| `{entry.name}` | {', '.join(f'{bound:g}' for bound in entry.buckets)} |"
        for entry in entries
        if entry.buckets
    ]
    lines += ["", "## Questions", ""]
    for question, query in _QUERIES.items():
        lines += [f"{question}:", "", "```promql", query, "```", ""]
    return "\n".join(lines)


def _labels(entry: Entry) -> str:
    return "<br>".join(
        f"`{name}`: {', '.join(f'`{value}`' for value in values) or _OPEN_LABELS[name]}"
        for name, values in entry.labels.items()
    )


PAGES = {"configuration": configuration, "metrics": metrics}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in PAGES:
        sys.stderr.write(f"usage: python -m daemon.reference {'|'.join(PAGES)}\n")
        return 2
    sys.stdout.write(PAGES[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
