"""`relearnd check`: does what the config names work, and what would the daemon do."""

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from connectors.topic import ConnectorError
from daemon import topics
from daemon.config import Config, format_seconds
from daemon.connect import open_connector
from daemon.drift.monitor import DriftMonitor
from daemon.formats.errors import FormatError, UnreachableError
from daemon.formats.schema_registry import SchemaRegistry
from daemon.registry import Registry, RegistryError
from daemon.store import StoreError, open_store
from daemon.triggers import Schedule
from learners.device import resolve
from learners.errors import LearnerError
from learners.model import is_local

#: Free space under which a promotion may fail, in bytes: a job, a candidate and a version of a small encoder.
ENOUGH = 1 << 30


class Finding(NamedTuple):
    ok: bool
    sentence: str


def findings(config: Config) -> Iterator[Finding]:
    """What was found, in the order that a text takes through the daemon."""
    yield from _topics(config)
    yield from _formats(config)
    yield _device(config)
    yield _model(config)
    if config.registry.url:
        yield _store(config)
    yield _detectors(config)
    yield _training(config)
    yield _alerts(config)
    yield _disk(config)


def _topics(config: Config) -> Iterator[Finding]:
    if config.connector.kind == "kafka":
        try:
            reports = topics.reports(config)
        except ConnectorError as error:
            yield Finding(False, f"topics: {error}")
            return
        yield from (Finding(ok, sentence) for ok, sentence in topics.sentences(reports))
        if any(report.missing for report in reports):
            return
    yield _positions(config)


def _positions(config: Config) -> Finding:
    names = config.topics
    try:
        connector = open_connector(config)
        with connector.reader([names.texts, names.labels]) as reader:
            there: Counter[str] = Counter()
            for partition, end in reader.end().items():
                there[partition.topic] += end
        connector.close()
    except ConnectorError as error:
        return Finding(False, f"topics: {error}")
    texts, labels = there[names.texts], there[names.labels]
    return Finding(
        True,
        f"topics: reads {names.texts} (at {texts}) and {names.labels} (at {labels}), "
        f"writes {names.scores}, {names.alerts} and {names.dead_letters}, by the {config.connector.kind} connector",
    )


def _formats(config: Config) -> Iterator[Finding]:
    formats = config.records.formats
    for kind in sorted(set(formats.values()) - {"json"}):
        try:
            SchemaRegistry(config.records.registry, kind).check()
        except (FormatError, UnreachableError) as error:
            yield Finding(False, f"formats: {error}")
        else:
            names = ", ".join(name for name, its in formats.items() if its == kind)
            yield Finding(
                True, f"formats: {names} in {kind}, with the schema registry at {config.records.registry.url}"
            )


def _device(config: Config) -> Finding:
    try:
        compute = resolve(config.model.device, config.model.precision)
    except LearnerError as error:
        return Finding(False, f"device: {error}")
    return Finding(True, f"device: {compute.device} in {str(compute.precision).removeprefix('torch.')}")


def _model(config: Config) -> Finding:
    registry = Registry(config.home / "models")
    try:
        manifests = registry.manifests()
        if manifests:
            registry.verify(manifests[-1].version)
            return Finding(
                True, f"model: {len(manifests)} versions, {manifests[-1].version} the newest, all files whole"
            )
    except RegistryError as error:
        return Finding(False, f"model: {error}")
    where = "offline" if is_local(config.model.encoder) else "from the Hugging Face hub"
    begin = f"make one with `relearnd fit` (from {config.model.encoder}, {where})"
    return Finding(False, f"model: none in {registry.directory}; {begin}")


def _store(config: Config) -> Finding:
    try:
        store = open_store(config)
        if store is not None:
            store.check()
    except StoreError as error:
        return Finding(False, f"registry.url: {error}")
    return Finding(True, f"store: promoted versions are copied to {config.registry.url}, and scorers fetch them there")


def _detectors(config: Config) -> Finding:
    try:
        DriftMonitor(config.drift, config.seed)
    except ValueError as error:
        return Finding(False, f"drift: {error}")
    every = config.drift.false_alarm_every
    watched = [f"conformal evidence, a false alarm in {every:,} texts at most"] if every else []
    watched += [f"{detector.kind} on {detector.signal}" for detector in config.drift.detectors]
    return Finding(True, f"drift: {', '.join(watched) or 'nothing is watched'}")


def _training(config: Config) -> Finding:
    triggers = config.triggers
    try:
        Schedule(triggers.schedule)
    except ValueError as error:
        return Finding(False, f"triggers.schedule: {triggers.schedule!r}: {error}")
    when = [f"{triggers.drift_labels} labels after drift", f"accuracy falls by {triggers.accuracy.drop:g}"]
    when += [f"every {triggers.labels} labels"] if triggers.labels else []
    when += [f"at {triggers.schedule}"] if triggers.schedule else []
    bounds = f"{format_seconds(triggers.cooldown)} apart and {triggers.daily_budget} a day at most"
    learning = config.learning
    how = learning.method if learning.tuning == "full" else f"{learning.method} by {learning.tuning}"
    return Finding(True, f"learning: {how}, when {', or '.join(when)}; {bounds}")


def _alerts(config: Config) -> Finding:
    if not config.alerts.enabled:
        return Finding(True, "alerts: off")
    manifests = Registry(config.home / "models").manifests()
    if manifests and config.alerts.label not in manifests[-1].labels:
        return Finding(False, f"alerts.label: {config.alerts.label!r} is none of {', '.join(manifests[-1].labels)}")
    window = format_seconds(config.alerts.window)
    return Finding(
        True, f"alerts: spikes of {config.alerts.label!r} per key within {window}, to {config.topics.alerts}"
    )


def _disk(config: Config) -> Finding:
    existing = next(path for path in (config.home.resolve(), *config.home.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Finding(free >= ENOUGH, f"disk: {free / 2**30:.0f} GiB free for {config.home}")
