import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from daemon.alerts import EXAMPLE_CHARS, EXAMPLES, SHARED_ROW, Scored, SpikeWatch
from daemon.baseline import MAX_TAIL, PRIOR_CORRELATION, correlation, tail
from daemon.config import AlertsConfig
from daemon.records import Alert

HOUR = 3600.0
CONFIG = AlertsConfig(window=HOUR, baseline=7 * 24 * HOUR)


def stream(
    seed: int,
    hours: tuple[float, float],
    share: float,
    *,
    per_hour: float = 30,
    correlated: float = 0.0,
    key: str | None = "ACME",
    model: str = "v1",
) -> list[Scored]:
    """Texts at random times; with `correlated`, each hour has a share of its own, Beta around `share`."""
    rng = np.random.default_rng(seed)
    scored = []
    start, end = hours
    while start < end:
        length = min(1.0, end - start)
        own = rng.beta(share * (1 / correlated - 1), (1 - share) * (1 / correlated - 1)) if correlated else share
        for at in np.sort(rng.uniform(start, start + length, rng.poisson(per_hour * length))):
            label = "negative" if rng.random() < own else "positive"
            scored.append(Scored(key, label, float(at * HOUR), model, f"{label} at {at:.4f}"))
        start += length
    return scored


def brief(alerts: Iterable[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.status, alert.severity, alert.key) for alert in alerts]


def test_a_spike_fires_once_grows_critical_once_and_resolves_once() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    texts = stream(1, (0, 48), 0.3) + stream(2, (48, 50), 0.9, per_hour=120) + stream(3, (50, 60), 0.3)

    alerts = watch.update(texts)

    assert brief(alerts) == [
        ("firing", "warning", "ACME"),
        ("firing", "critical", "ACME"),
        ("resolved", "critical", "ACME"),
    ]
    warning, critical, resolved = alerts
    assert warning.name == "negative-spike"
    assert 48 * HOUR < warning.starts_at.timestamp() < 49 * HOUR
    assert warning.starts_at == critical.starts_at == resolved.starts_at
    assert warning.ends_at is critical.ends_at is None
    assert resolved.ends_at is not None
    assert 50 * HOUR < resolved.ends_at.timestamp() < 52 * HOUR
    assert 0.2 < warning.baseline < 0.4 < warning.value
    assert warning.model == "v1"


def test_a_small_spike_is_a_warning_and_no_more() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    texts = stream(1, (0, 48), 0.3) + stream(2, (48, 49), 0.85, per_hour=30) + stream(3, (49, 60), 0.3)
    assert brief(watch.update(texts)) == [("firing", "warning", "ACME"), ("resolved", "warning", "ACME")]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_a_steady_stream_of_sixty_days_fires_nothing(share: float) -> None:
    # Measured at fire = 1e-5: none in 29,000 such windows of 15, 60 and 300 texts (5 at 1e-4), and 2 in 87,000
    # windows of streams whose hours are correlated by 0.01 to 0.08.
    watch = SpikeWatch(CONFIG.model_copy(update={"fire": 1e-5}), "v1")
    assert watch.update(stream(7, (0, 60 * 24), share)) == []


def test_a_stream_that_wanders_fires_less_than_one_that_is_taken_for_steady() -> None:
    texts = stream(3, (0, 30 * 24), 0.3, per_hour=60, correlated=0.08)
    watch = SpikeWatch(CONFIG.model_copy(update={"fire": 1e-5}), "v1")
    assert watch.update(texts) == []

    # The same hours against a binomial of the same share would have fired many times.
    counts, watched = Counter(int(s.timestamp // HOUR) for s in texts), Counter[int]()
    watched.update(int(s.timestamp // HOUR) for s in texts if s.label == "negative")
    binomial = [tail(watched[hour], texts, 0.3e6, 0.7e6) for hour, texts in counts.items()]
    assert sum(p < 1e-5 for p in binomial) > 5


def test_nothing_fires_before_anything_is_usual() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    assert watch.update(stream(1, (0, 1), 0.95, per_hour=200)) == []


def test_a_new_key_is_compared_with_everyone_but_with_little_trust() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    watch.update(stream(1, (0, 24), 0.2, per_hour=100))
    assert watch.update(stream(2, (24, 25), 0.6, key="NEWB", per_hour=40)) == []
    fired = watch.update(stream(3, (24, 25), 1.0, key="ODD", per_hour=80))
    assert brief(fired[:1]) == [("firing", "warning", "ODD")]


def test_few_texts_or_a_small_rise_never_fire() -> None:
    few = SpikeWatch(CONFIG, "v1")
    few.update(stream(1, (0, 100), 0.02, per_hour=50))
    assert few.update([Scored("ACME", "negative", 102 * HOUR + i, "v1", "bad") for i in range(7)]) == []

    small = SpikeWatch(CONFIG, "v1")
    small.update(stream(1, (0, 100), 0.3, per_hour=400))
    assert small.update(stream(2, (100, 103), 0.45, per_hour=4000)) == []


def test_a_key_that_falls_silent_is_resolved_as_time_goes_on() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    alerts = watch.update(stream(1, (0, 48), 0.3) + stream(2, (48, 49), 0.95, per_hour=100))
    assert alerts[-1].status == "firing"
    assert watch.firing == ["ACME"]
    assert watch.advance(49.5 * HOUR) == []

    (resolved,) = watch.advance(500 * HOUR)

    assert resolved.status == "resolved"
    assert resolved.ends_at is not None
    assert 50 * HOUR <= resolved.ends_at.timestamp() <= 50.2 * HOUR
    assert len(resolved.examples) == EXAMPLES
    assert watch.firing == []
    assert watch.advance(600 * HOUR) == []


def test_the_spike_itself_does_not_become_usual() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    calm, storm = stream(1, (0, 48), 0.3), stream(2, (48, 78), 0.9)
    alerts = watch.update(calm + storm)
    assert [alert.status for alert in alerts].count("resolved") == 0

    alerts = watch.update(stream(3, (78, 120), 0.3) + stream(4, (120, 122), 0.9, per_hour=60))

    assert alerts[0].status == "resolved"
    assert alerts[1].status == "firing"
    assert alerts[1].baseline < 0.4


def test_a_level_that_lasts_as_long_as_a_baseline_is_the_new_normal() -> None:
    watch = SpikeWatch(CONFIG.model_copy(update={"baseline": 24 * HOUR}), "v1")
    alerts = watch.update(stream(1, (0, 48), 0.2) + stream(2, (48, 120), 0.8, per_hour=60))
    assert [alert.status for alert in alerts] == ["firing", "firing", "resolved"]
    assert alerts[-1].ends_at is not None
    assert 71 * HOUR < alerts[-1].ends_at.timestamp() < 74 * HOUR


def test_examples_are_the_latest_distinct_texts_cut_to_size() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    watch.update(stream(1, (0, 48), 0.2))
    spike = [
        Scored("ACME", "negative", 48 * HOUR + i, "v1", f"{i // 2} " + "x" * 2 * EXAMPLE_CHARS) for i in range(100)
    ]
    fired = watch.update(spike)[0]
    numbers = [int(text.split()[0]) for text in fired.examples]
    assert len(numbers) == EXAMPLES
    assert all(after == before + 1 for before, after in pairwise(numbers))
    assert all(len(text) == EXAMPLE_CHARS for text in fired.examples)


def test_texts_without_a_key_count_together() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    alerts = watch.update(stream(1, (0, 48), 0.3, key=None) + stream(2, (48, 49), 0.95, per_hour=100, key=None))
    assert {alert.key for alert in alerts} == {""}
    assert len(watch) == 1


def test_a_late_text_counts_where_its_time_belongs_and_one_older_than_the_baseline_nowhere() -> None:
    on_time, shuffled = SpikeWatch(CONFIG, "v1"), SpikeWatch(CONFIG, "v1")
    history = stream(1, (0, 48), 0.3)
    last = history[-1]
    on_time.update(history)
    shuffled.update([last, *reversed(history[:-1])])
    spike = stream(2, (48, 49), 0.9, per_hour=100)
    assert [(a.value, a.baseline) for a in on_time.update(spike)] == [
        (a.value, a.baseline) for a in shuffled.update(spike)
    ]
    assert shuffled.too_late == 0
    shuffled.update([Scored("ACME", "negative", (48 - 8 * 24) * HOUR, "v1", "stale")])
    assert shuffled.too_late == 1


def test_a_swap_to_a_model_that_sees_everything_darker_fires_nothing() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    watch.update(stream(1, (0, 48), 0.2))
    watch.rebase("v2", stream(2, (24, 48), 0.8, model="v2"))
    in_flight = stream(3, (48, 48.1), 0.2, model="v1", per_hour=100)

    assert watch.update(in_flight + stream(4, (48, 72), 0.8, model="v2", per_hour=60)) == []

    assert watch.version == "v2"
    assert watch.ignored == len(in_flight)


def test_a_firing_alert_lives_through_a_swap_and_resolves_by_the_new_model() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    (fired, *_) = watch.update(stream(1, (0, 48), 0.2) + stream(2, (48, 49), 0.9, per_hour=60))
    spike = stream(2, (48, 49), 0.95, per_hour=60, model="v2")
    watch.rebase("v2", stream(1, (24, 48), 0.3, model="v2") + spike)
    assert watch.firing == ["ACME"]

    alerts = watch.update(stream(4, (49, 53), 0.3, model="v2"))

    assert [alert.status for alert in alerts if alert.status == "resolved"] == ["resolved"]
    assert alerts[-1].starts_at == fired.starts_at
    assert alerts[-1].model == "v2"
    assert 0.2 < alerts[-1].baseline < 0.4


def test_a_firing_key_that_was_not_rescored_keeps_its_baseline_until_it_resolves() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    watch.update(stream(1, (0, 48), 0.2) + stream(2, (48, 49), 0.95, per_hour=60))
    watch.rebase("v2", [])
    assert watch.update(stream(3, (49, 50), 0.95, per_hour=60, model="v2")) == []
    assert watch.firing == ["ACME"]
    assert brief(watch.advance(55 * HOUR)) == [("resolved", "critical", "ACME")]


def test_rebase_refuses_scores_of_another_version() -> None:
    with pytest.raises(ValueError, match="rebase on v2: a rescored text was scored by v1"):
        SpikeWatch(CONFIG, "v1").rebase("v2", stream(1, (0, 1), 0.3))


def test_the_longest_silent_keys_are_forgotten_but_not_the_one_that_fires() -> None:
    watch = SpikeWatch(CONFIG.model_copy(update={"max_keys": 3}), "v1")
    watch.update(stream(1, (0, 48), 0.2, key="OLD") + stream(2, (48, 49), 0.95, per_hour=100, key="OLD"))
    for i, key in enumerate(["A", "B", "C", "D"]):
        watch.update([Scored(key, "positive", (60 + i) * HOUR, "v1", "fine")])
    assert len(watch) == 3
    assert watch.forgotten == 2
    assert watch.firing == ["OLD"]
    rows = watch.dirty()
    assert {name for name, row in rows.items() if row is None} == {"key:A", "key:B"}


def test_when_every_key_fires_the_forgotten_one_is_resolved() -> None:
    watch = SpikeWatch(CONFIG.model_copy(update={"max_keys": 1}), "v1")
    watch.update(stream(1, (0, 48), 0.2) + stream(2, (48, 49), 0.95, per_hour=100))
    alerts = watch.update([Scored("NEXT", "positive", 60 * HOUR, "v1", "fine")])
    assert brief(alerts) == [("resolved", "critical", "ACME")]


def test_only_keys_that_changed_are_dirty() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    watch.update(stream(1, (0, 2), 0.3, key="A") + stream(2, (0, 2), 0.3, key="B"))
    assert set(watch.dirty()) == {SHARED_ROW, "key:A", "key:B"}
    watch.update(stream(3, (2, 3), 0.3, key="B"))
    assert set(watch.dirty()) == {SHARED_ROW, "key:B"}
    assert watch.dirty() == {}
    watch.rebase("v2", [])
    assert set(watch.dirty()) == {SHARED_ROW, "key:A", "key:B"}


def test_a_swap_before_the_first_text_is_saved() -> None:
    watch, restarted = SpikeWatch(CONFIG, "v1"), SpikeWatch(CONFIG, "v1")
    watch.rebase("v2", [])
    restarted.load({name: row for name, row in watch.dirty().items() if row is not None})
    assert restarted.version == "v2"


def test_a_key_takes_bounded_state_however_long_the_baseline() -> None:
    watch = SpikeWatch(AlertsConfig(window=300.0, baseline=365 * 86400.0), "v1")
    watch.update([Scored("ACME", "positive", float(at), "v1", "fine") for at in range(0, 2 * 365 * 86400, 3000)])
    row = watch.dirty()["key:ACME"]
    assert row is not None
    assert len(json.loads(row)["past"]) <= 200


def test_after_a_change_of_window_what_fires_is_resolved_and_the_rest_starts_anew() -> None:
    watch = SpikeWatch(CONFIG, "v1")
    watch.update(stream(1, (0, 48), 0.2) + stream(2, (48, 49), 0.95, per_hour=100) + stream(3, (48, 49), 0.2, key="B"))
    saved = {name: row for name, row in watch.dirty().items() if row is not None}

    other = SpikeWatch(CONFIG.model_copy(update={"window": 2 * HOUR}), "v1")
    other.load(saved)

    assert len(other) == 1
    (resolved,) = other.advance(50 * HOUR)
    assert resolved.status == "resolved"


def save(watch: SpikeWatch, rows: dict[str, bytes]) -> None:
    for name, row in watch.dirty().items():
        if row is None:
            rows.pop(name, None)
        else:
            rows[name] = row


def eventful(seed: int) -> list[Scored]:
    """Four days of more keys than are kept, with three spikes, late texts and scores of an old model."""
    rng = np.random.default_rng(seed)
    scored = []
    for key, per_hour in (("A", 12), ("B", 8), ("C", 1), ("D", 0.1), (None, 4)):
        scored += stream(int(rng.integers(1 << 30)), (0, 96), 0.25, key=key, per_hour=per_hour)
    for at in rng.uniform(20, 90, 3):
        key = ["A", "B", None][rng.integers(3)]
        scored += stream(int(rng.integers(1 << 30)), (at, at + rng.uniform(0.3, 3)), 0.95, key=key, per_hour=40)
    scored.sort(key=lambda score: score.timestamp)
    late = rng.choice([0.0, 0.5, 3.0, 30.0], len(scored), p=[0.85, 0.1, 0.04, 0.01]) * HOUR
    old = rng.random(len(scored)) < 0.02
    return [
        s._replace(timestamp=s.timestamp - back, model="v0" if is_old else "v1")
        for s, back, is_old in zip(scored, late.tolist(), old, strict=True)
    ]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 20), cuts=st.sets(st.floats(0, 1), max_size=8), swap=st.floats(0, 1))
def test_restarts_and_batches_change_no_alert(seed: int, cuts: set[float], swap: float) -> None:
    config = CONFIG.model_copy(update={"baseline": 24 * HOUR, "max_keys": 4, "fire": 1e-3})
    scored = eventful(seed)
    at_swap = int(swap * len(scored))
    rescored = [score._replace(model="v2") for score in scored[max(0, at_swap - 300) : at_swap]]
    scored[at_swap:] = [score._replace(model="v2") for score in scored[at_swap:]]

    whole = SpikeWatch(config, "v1")
    expected = whole.update(scored[:at_swap])
    whole.rebase("v2", rescored)
    expected += whole.update(scored[at_swap:]) + whole.advance(150 * HOUR)

    watch, rows, alerts = SpikeWatch(config, "v1"), dict[str, bytes](), list[Alert]()
    ends = sorted({int(cut * len(scored)) for cut in cuts} | {0, at_swap, len(scored)})
    for start, end in pairwise(ends):
        if start == at_swap:
            watch.rebase("v2", rescored)
        save(watch, rows)
        watch = SpikeWatch(config, "v1")
        watch.load(rows)
        for batch in range(start, end, 7):
            alerts += watch.update(scored[batch : min(end, batch + 7)])
    if at_swap == len(scored):
        watch.rebase("v2", rescored)
    alerts += watch.advance(150 * HOUR)

    assert alerts == expected
    assert watch.firing == whole.firing == []
    starts, ends_ = ({(a.key, a.starts_at) for a in alerts if a.status == status} for status in ("firing", "resolved"))
    assert starts == ends_


@settings(max_examples=50, deadline=None)
@given(texts=st.integers(1, 300), share=st.floats(0, 1), a=st.floats(0.05, 1000), b=st.floats(0.05, 1000))
def test_the_tail_is_the_beta_binomials(texts: int, share: float, a: float, b: float) -> None:
    watched = round(texts * share)
    expected = float(betabinom.pmf(np.arange(watched, texts + 1), texts, a, b).sum())
    assert tail(watched, texts, a, b) == pytest.approx(min(1.0, expected), rel=1e-6, abs=1e-12)


def test_the_tail_of_a_huge_window_is_tamer_than_the_true_one() -> None:
    texts, a, b = 10 * MAX_TAIL, 300.0, 700.0
    watched = int(0.36 * texts)
    assert betabinom.sf(watched - 1, texts, a, b) <= tail(watched, texts, a, b) < 1e-3


@pytest.mark.parametrize("true", [0.0, 0.05, 0.2])
def test_the_correlation_of_many_windows_is_found(true: float) -> None:
    rng = np.random.default_rng(1)
    shares = rng.beta(0.3 * (1 / true - 1), 0.7 * (1 / true - 1), 1000) if true else np.full(1000, 0.3)
    rows = [(i, n, int(rng.binomial(n, p))) for i, (n, p) in enumerate(zip(rng.poisson(40, 1000), shares, strict=True))]
    assert correlation(rows, 0.3) == pytest.approx(true, abs=0.01 + 0.1 * true)
    assert correlation([], 0.3) == PRIOR_CORRELATION
