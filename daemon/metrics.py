"""What Prometheus can ask of a running daemon.

Every label has a small fixed set of values. Model versions grow without end, so none is a label of a counter:
`relearnd_model_info` alone names the champion, and forgets it when the next one comes.
"""

import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from connectors.topic import Positions
from daemon.doubts import CAUSES
from daemon.drift.kinds import CONFORMAL, EVERYTHING, Kind
from daemon.records import Reason
from daemon.triggers import TriggerName

#: A batch takes milliseconds on a GPU and up to seconds on a busy CPU: factors of about two across that range.
BATCH_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

#: Powers of four up to 4096: tells an idle stream (single texts) from a full `scorer.max_texts` (256).
BATCH_TEXTS = (1, 4, 16, 64, 256, 1024, 4096)

#: A run is some seconds on a GPU and minutes to hours on a CPU; `learning.timeout` is six hours.
TRAINING_SECONDS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)

#: Reading a model from a local disk takes tenths of a second; from a cold network volume, tens of seconds.
SWAP_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)

#: The topics that are read, by the name they have in `topics`: what they are called at the connector is unbounded.
TOPICS = ("texts", "scores", "labels")

#: A label whose values come from the configuration or the build, not from a list here.
OPEN: tuple[str, ...] = ()

Labels = dict[str, tuple[str, ...]]

_M = TypeVar("_M", Counter, Gauge, Histogram)


class Entry(NamedTuple):
    """One metric as the reference page shows it. A label without values takes them from the configuration."""

    name: str
    kind: str
    labels: Labels
    help: str
    buckets: tuple[float, ...] = ()


class Metrics:
    """All metrics, in a registry of their own; `version` is relearnd's.

    Counters whose labels are known beforehand exist from the start, at 0, so that `increase()` sees the first event.
    `detectors` are the (detector, signal) pairs that the configuration names. Gauges that mean nothing yet are NaN.
    """

    def __init__(self, version: str, *, detectors: Iterable[tuple[str, str]] = ()) -> None:
        self.registry = CollectorRegistry()
        self.entries: list[Entry] = []
        self._lag_lock = threading.Lock()
        self._lag_of: defaultdict[str, set[int]] = defaultdict(set)
        self._scoring()
        self._stream()
        self._drift(detectors)
        self._training()
        self._models()
        self._alerts()
        build = self._gauge("relearnd_build_info", "Always 1; `version` is relearnd's own.", {"version": OPEN})
        build.labels(version=version).set(1)
        ProcessCollector(registry=self.registry)

    def champion(self, version: str) -> None:
        """Name the version that scores from now on."""
        self.model_info.clear()
        self.model_info.labels(version=version).set(1)

    def measure_lag(self, topic: str, read: Positions, end: Positions) -> None:
        """Of `topic` (its name in `topics`), how far `read` is behind `end`; only partitions in both have a series."""
        behind = {partition.number: end[partition] - offset for partition, offset in read.items() if partition in end}
        with self._lag_lock:
            for gone in self._lag_of[topic] - behind.keys():
                self.lag.remove(topic, gone)
            self._lag_of[topic] = set(behind)
            for number, messages in behind.items():
                self.lag.labels(topic, number).set(max(0, messages))

    def _scoring(self) -> None:
        self.texts_scored = self._counter("relearnd_texts_scored_total", "Texts scored and committed.")
        self.tokens_scored = self._counter(
            "relearnd_tokens_scored_total", "Tokens that went through the model, without padding."
        )
        self.score_seconds = self._histogram(
            "relearnd_score_seconds", "A batch of texts from being read to being committed, in seconds.", BATCH_SECONDS
        )
        self.forward_seconds = self._histogram(
            "relearnd_forward_seconds", "One forward pass of the model, in seconds.", BATCH_SECONDS
        )
        self.batch_texts = self._histogram("relearnd_batch_texts", "Texts read and committed together.", BATCH_TEXTS)

    def _stream(self) -> None:
        self.lag = self._gauge(
            "relearnd_lag_messages",
            "Messages that this process has not read yet, or has not answered, in the partitions that are its own.",
            {"topic": TOPICS, "partition": OPEN},
        )
        self.messages_lost = self._counter(
            "relearnd_messages_lost_total", "Messages that retention removed before they were read.", {"topic": TOPICS}
        )
        self.stale_batches = self._counter(
            "relearnd_stale_batches_total",
            "Batches of texts dropped because their partitions had gone to another scorer; they are scored there.",
        )
        self.dead_letters = self._counter(
            "relearnd_dead_letters_total",
            "Messages set aside because they could not be used, by why.",
            {"topic": TOPICS, "reason": tuple(Reason)},
        )
        self.duplicates = self._counter(
            "relearnd_duplicates_total", "Records skipped because their id had been seen.", {"topic": TOPICS}
        )
        self.labels = self._counter(
            "relearnd_labels_total",
            "What became of labels: joined to their score; a duplicate of, or a correction to, one before; early, "
            "before their score, to join or expire later; held, in a run of contradictions; or unknown, because "
            "the model has no such label.",
            {"outcome": ("joined", "duplicate", "corrected", "early", "expired", "held", "unknown")},
        )
        self.labels_set_aside = self._counter(
            "relearnd_labels_set_aside_total", "Labels that were set aside for review, by why.", {"cause": CAUSES}
        )
        self.labels_doubtful = self._gauge(
            "relearnd_labels_doubtful", "Labels that wait for a person's review, by why.", {"cause": CAUSES}
        )
        self.label_requests = self._counter(
            "relearnd_label_requests_total", "Texts whose label was asked for on `label-requests`."
        )
        self.scores_expired = self._counter(
            "relearnd_scores_expired_total", "Scores that waited for a label in vain (`labels.horizon`)."
        )
        self.estimated_accuracy = self._gauge(
            "relearnd_estimated_accuracy",
            "Accuracy of the champion's latest texts, estimated from its calibrated confidence.",
        )
        self.live_accuracy = self._gauge(
            "relearnd_live_accuracy",
            "Share of the latest labelled texts (`triggers.accuracy.window`) that got the right label when they "
            "were scored; NaN before there are any.",
            unknown=True,
        )
        self.memory_examples = self._gauge(
            "relearnd_memory_examples",
            "Labelled examples kept, by what they are for.",
            {"part": ("recent", "replay", "gate", "audit")},
        )
        self.controller_step_seconds = self._histogram(
            "relearnd_controller_step_seconds",
            "One step of the controller: read, learn from it, commit; in seconds.",
            BATCH_SECONDS,
        )

    def _drift(self, detectors: Iterable[tuple[str, str]]) -> None:
        self.drift_alarms = self._counter(
            "relearnd_drift_alarms_total", "Alarms of a drift detector.", {"detector": OPEN, "kind": OPEN}
        )
        self.drift_statistic = self._gauge(
            "relearnd_drift_statistic",
            "Evidence of drift: 0 is none, and the detector alarms at 1.",
            {"detector": OPEN, "signal": OPEN},
        )
        for detector, signal in (*detectors, (CONFORMAL, EVERYTHING)):
            self.drift_statistic.labels(detector=detector, signal=signal).set(math.nan)
            for kind in get_args(Kind):
                self.drift_alarms.labels(detector=detector, kind=kind)

    def _training(self) -> None:
        self.triggers = self._counter(
            "relearnd_triggers_total",
            "Triggers that started a run, or were held back (cooldown, budget, too few labels).",
            {"trigger": get_args(TriggerName), "outcome": ("fired", "held")},
        )
        self.training_runs = self._counter(
            "relearnd_training_runs_total",
            "Runs that ended, by what became of the candidate; one that is judged again is counted each time.",
            {"outcome": ("promoted", "rejected", "failed")},
        )
        self.training_running = self._gauge("relearnd_training_running", "1 while a learner runs, else 0.")
        self.training_progress = self._gauge(
            "relearnd_training_progress_ratio",
            "Share of the run's steps that are done; NaN without a run.",
            unknown=True,
        )
        self.training_seconds = self._histogram(
            "relearnd_training_seconds", "A training run from start to report, in seconds.", TRAINING_SECONDS
        )

    def _models(self) -> None:
        self.model_info = self._gauge(
            "relearnd_model_info", "Always 1; `version` is the champion. Earlier ones disappear.", {"version": OPEN}
        )
        self.promotions = self._counter("relearnd_promotions_total", "Candidates that became champion.")
        self.rollbacks = self._counter(
            "relearnd_rollbacks_total",
            "Champions replaced by their parent: by a person, or because they failed probation.",
            {"cause": ("manual", "probation")},
        )
        self.swap_seconds = self._histogram(
            "relearnd_swap_seconds", "Loading and warming a new champion beside the old one, in seconds.", SWAP_SECONDS
        )
        self.model_load_failures = self._counter(
            "relearnd_model_load_failures_total",
            "Attempts of a scorer to load an announced model that failed; it kept the old one.",
        )
        self.model_publish_failures = self._counter(
            "relearnd_model_publish_failures_total",
            "Attempts to copy a promoted model to `registry.url` that failed; scorers keep the old one meanwhile.",
        )

    def _alerts(self) -> None:
        self.alerts_firing = self._gauge("relearnd_alerts_firing", "Spikes firing now.")
        self.alerts = self._counter(
            "relearnd_alerts_total", "Alerts sent, by status.", {"status": ("firing", "resolved")}
        )

    def _counter(self, name: str, meaning: str, labels: Labels | None = None) -> Counter:
        counter = Counter(name, meaning, labels or (), registry=self.registry)
        return self._enter(counter, Entry(name, "counter", labels or {}, meaning))

    def _gauge(self, name: str, meaning: str, labels: Labels | None = None, *, unknown: bool = False) -> Gauge:
        gauge = self._enter(
            Gauge(name, meaning, labels or (), registry=self.registry), Entry(name, "gauge", labels or {}, meaning)
        )
        if unknown:
            gauge.set(math.nan)
        return gauge

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, meaning, registry=self.registry, buckets=buckets)
        return self._enter(histogram, Entry(name, "histogram", {}, meaning, buckets))

    def _enter(self, metric: _M, entry: Entry) -> _M:
        self.entries.append(entry)
        if isinstance(metric, Counter) and entry.labels and all(entry.labels.values()):
            for values in itertools.product(*entry.labels.values()):
                metric.labels(*values)
        return metric
