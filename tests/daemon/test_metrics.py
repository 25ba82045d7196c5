import math
import re

from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from connectors.topic import Partition
from daemon.metrics import Metrics
from daemon.records import Reason

text, _ = choose_encoder("")
openmetrics, _ = choose_encoder("application/openmetrics-text; version=1.0.0")


def test_the_exposition_parses_in_both_formats() -> None:
    metrics = Metrics("0.1.0", detectors=[("adwin", "error")])
    metrics.champion("v1")

    plain = {family.name for family in parse_text(text(metrics.registry).decode())}
    families = {family.name for family in parse_openmetrics(openmetrics(metrics.registry).decode())}  # type: ignore[no-untyped-call]

    for entry in metrics.entries:
        assert entry.name.removesuffix("_total") in plain
        assert entry.name.removesuffix("_total") in families


def test_names_follow_the_conventions() -> None:
    for entry in Metrics("0").entries:
        assert re.fullmatch(r"relearnd_[a-z]+(_[a-z]+)*", entry.name)
        assert entry.name.endswith("_total") == (entry.kind == "counter")
        assert entry.help.endswith(".")
        assert list(entry.buckets) == sorted(set(entry.buckets))


def test_two_in_one_process_do_not_meet() -> None:
    first, second = Metrics("0"), Metrics("0")

    first.texts_scored.inc(3)

    assert first.registry.get_sample_value("relearnd_texts_scored_total") == 3
    assert second.registry.get_sample_value("relearnd_texts_scored_total") == 0


def test_rare_events_start_at_zero_so_that_their_first_is_an_increase() -> None:
    registry = Metrics("0", detectors=[("adwin", "error")]).registry

    assert registry.get_sample_value("relearnd_rollbacks_total", {"cause": "probation"}) == 0
    assert registry.get_sample_value("relearnd_drift_alarms_total", {"detector": "adwin", "kind": "concept"}) == 0
    for reason in Reason:
        labels = {"topic": "texts", "reason": reason.value}
        assert registry.get_sample_value("relearnd_dead_letters_total", labels) == 0


def test_what_is_not_known_yet_is_not_zero() -> None:
    registry = Metrics("0").registry

    assert math.isnan(registry.get_sample_value("relearnd_live_accuracy") or 0)
    assert math.isnan(registry.get_sample_value("relearnd_training_progress_ratio") or 0)


def test_only_the_champion_has_a_series() -> None:
    metrics = Metrics("0")
    for version in range(100):
        metrics.champion(f"v{version}")

    exposition = text(metrics.registry).decode()

    assert re.findall(r"^relearnd_model_info.*$", exposition, re.MULTILINE) == [
        'relearnd_model_info{version="v99"} 1.0'
    ]


def test_lag_is_that_of_the_partitions_that_are_ours_now() -> None:
    metrics = Metrics("0")
    first, second, third = (Partition("news", number) for number in range(3))

    def lag() -> dict[str, str]:
        lines = re.findall(r'^relearnd_lag_messages\{partition="(\d)",topic="texts"\} (.*)$', shown(), re.MULTILINE)
        return dict(lines)

    def shown() -> str:
        return text(metrics.registry).decode()

    metrics.measure_lag("texts", {first: 5, second: 7}, {first: 9, second: 7})
    metrics.measure_lag("labels", {third: 1}, {third: 2})
    assert lag() == {"0": "4.0", "1": "0.0"}

    # The first went to another scorer, and its last batch was measured after that.
    metrics.measure_lag("texts", {first: 6, second: 8}, {second: 10, third: 1})
    assert lag() == {"1": "2.0"}
    assert 'relearnd_lag_messages{partition="2",topic="labels"} 1.0' in shown()
