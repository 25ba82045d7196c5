from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import DetectorConfig, DriftConfig
from daemon.drift.monitor import Alarm, DriftMonitor

CONFIG = DriftConfig(
    reference=90,
    neighbours=3,
    detectors=[
        DetectorConfig(kind="adwin", signal="uncertainty", options={"clock": 8}),
        DetectorConfig(kind="adwin", signal="novelty", options={"clock": 8}),
        DetectorConfig(kind="kswin", signal="novelty", options={"alpha": 1e-6, "window_size": 100, "stat_size": 40}),
        DetectorConfig(kind="page_hinkley", signal="error", options={"threshold": 15, "delta": 0.05}),
    ],
)

#: Texts before the change and in all.
CHANGE, TEXTS = 400, 700


def uncertainty(before: float = 0.2, after: float = 0.2) -> Any:
    rng = np.random.default_rng(1)
    return np.concatenate([rng.normal(before, 0.1, CHANGE), rng.normal(after, 0.1, TEXTS - CHANGE)])


def sketches(before: float = 0.0, after: float = 0.0, dimensions: int = 6) -> Any:
    rng = np.random.default_rng(2)
    parts = [rng.normal(before, 1, (CHANGE, dimensions)), rng.normal(after, 1, (TEXTS - CHANGE, dimensions))]
    return np.concatenate(parts).astype(np.float32)


EVERY = np.arange(TEXTS)


def test_novelty_that_rises_is_an_alarm_that_says_so() -> None:
    alarms = DriftMonitor(CONFIG, seed=1).observe_scores(uncertainty(), sketches(after=3.0), EVERY)

    assert {(alarm.detector, alarm.signal) for alarm in alarms} == {("adwin", "novelty"), ("kswin", "novelty")}
    assert all(CHANGE <= alarm.index < CHANGE + 60 and alarm.direction == "rose" for alarm in alarms)
    assert alarms[0].before == pytest.approx(1, abs=0.1)
    assert str(alarms[0]).startswith(f"novelty rose from {alarms[0].before:.2f} to ")


def test_uncertainty_that_rises_is_an_alarm() -> None:
    alarms = DriftMonitor(CONFIG, seed=1).observe_scores(uncertainty(after=0.6))

    assert [(alarm.detector, alarm.signal, alarm.direction) for alarm in alarms] == [("adwin", "uncertainty", "rose")]


def test_uncertainty_that_falls_is_told_as_a_fall() -> None:
    (alarm,) = DriftMonitor(CONFIG, seed=1).observe_scores(uncertainty(before=0.6))

    assert alarm.direction == "fell"
    assert str(alarm).startswith("uncertainty fell from 0.59 to 0.2")


def test_errors_that_become_frequent_are_an_alarm() -> None:
    rng = np.random.default_rng(5)
    errors = np.concatenate([rng.random(400) < 0.1, rng.random(200) < 0.6])

    (alarm,) = DriftMonitor(CONFIG, seed=1).observe_labels(errors)

    assert alarm.signal == "error"
    assert 400 <= alarm.index < 470


def test_a_stream_that_stays_the_same_raises_no_alarm() -> None:
    assert DriftMonitor(CONFIG, seed=1).observe_scores(uncertainty(), sketches(), EVERY) == []


def test_an_alarm_names_the_text_and_not_the_sketch() -> None:
    every_third = np.arange(0, 3 * TEXTS, 3)
    alarms = DriftMonitor(CONFIG, seed=1).observe_scores(np.full(3 * TEXTS, 0.2), sketches(after=3.0), every_third)

    assert alarms
    assert all(3 * CHANGE <= alarm.index < 3 * CHANGE + 180 and alarm.index % 3 == 0 for alarm in alarms)


def test_while_the_reference_window_fills_there_is_no_novelty() -> None:
    monitor = DriftMonitor(CONFIG, seed=1)
    wild = np.concatenate([sketches()[:45], sketches(before=9.0)[:45]])

    assert monitor.observe_scores(np.full(89, 0.2), wild[:89], np.arange(89)) == []
    assert monitor.statistics()["adwin", "novelty"] == 0
    assert monitor.observe_scores(np.full(1, 0.2), wild[89:], np.arange(1)) == []


def test_after_a_swap_the_new_reference_window_is_what_is_usual() -> None:
    monitor = DriftMonitor(CONFIG, seed=1)
    assert monitor.observe_scores(uncertainty(), sketches(after=3.0), EVERY)

    monitor.rebase(sketches(after=3.0)[CHANGE:])

    assert max(monitor.statistics().values()) < 1
    assert monitor.observe_scores(uncertainty(), sketches(before=3.0, after=3.0), EVERY) == []
    assert monitor.observe_scores(uncertainty(), sketches(before=3.0, after=6.0), EVERY)


def test_a_change_that_comes_together_with_a_swap_is_found() -> None:
    monitor = DriftMonitor(CONFIG, seed=1)
    monitor.rebase(sketches()[:CHANGE])

    changed = sketches(after=3.0)[CHANGE:]
    alarms = monitor.observe_scores(np.full(len(changed), 0.2), changed, np.arange(len(changed)))

    assert {alarm.signal for alarm in alarms} == {"novelty"}
    assert alarms[0].index < 150


def test_a_swap_without_sketches_collects_a_new_reference_window() -> None:
    monitor = DriftMonitor(CONFIG, seed=1)
    monitor.observe_scores(uncertainty(), sketches(), EVERY)

    monitor.rebase(None)

    assert monitor.observe_scores(uncertainty(), sketches(before=3.0, after=3.0), EVERY) == []


def test_too_few_sketches_for_a_reference_window_are_its_beginning() -> None:
    few, given_all = DriftMonitor(CONFIG, seed=1), DriftMonitor(CONFIG, seed=1)
    few.rebase(sketches()[:30])
    few.observe_scores(np.full(60, 0.2), sketches()[30:90], np.arange(60))
    given_all.rebase(sketches()[:90])

    rest = sketches(after=3.0)[90:]
    found = few.observe_scores(np.full(len(rest), 0.2), rest, np.arange(len(rest)))

    assert found == given_all.observe_scores(np.full(len(rest), 0.2), rest, np.arange(len(rest)))
    assert found


def observe(monitor: DriftMonitor, start: int, end: int) -> list[Alarm]:
    """The texts from `start` to `end` of a stream in which all three signals rise at `CHANGE`."""
    errors = np.random.default_rng(5).random(TEXTS) < np.where(np.arange(TEXTS) < CHANGE, 0.1, 0.6)
    alarms = monitor.observe_scores(
        uncertainty(after=0.6)[start:end], sketches(after=3.0)[start:end], np.arange(start, end) - start
    )
    alarms += monitor.observe_labels(errors[start:end])
    return [Alarm(a.detector, a.signal, a.index + start, a.evidence, a.before, a.after) for a in alarms]


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, TEXTS), max_size=4).map(sorted))
def test_however_the_stream_is_cut_and_restarted_the_alarms_are_the_same(cuts: list[int]) -> None:
    monitor, found = DriftMonitor(CONFIG, seed=1), []
    for start, end in zip([0, *cuts], [*cuts, TEXTS], strict=True):
        state = monitor.state()
        monitor = DriftMonitor(CONFIG, seed=1)
        monitor.restore(state)
        assert monitor.state() == state
        found += observe(monitor, start, end)

    straight = observe(DriftMonitor(CONFIG, seed=1), 0, TEXTS)
    assert sorted(found, key=repr) == sorted(straight, key=repr)
    assert {alarm.signal for alarm in found} == {"uncertainty", "novelty", "error"}


def test_a_detector_configured_since_starts_anew() -> None:
    before = DriftMonitor(CONFIG.model_copy(update={"detectors": CONFIG.detectors[:1]}), seed=1)
    observe(before, 0, 300)
    after = DriftMonitor(CONFIG, seed=1)

    after.restore(before.state())

    assert after.statistics()["adwin", "uncertainty"] == before.statistics()["adwin", "uncertainty"] > 0
    assert after.statistics()["page_hinkley", "error"] == 0


def test_under_another_reference_window_novelty_starts_anew() -> None:
    before = DriftMonitor(CONFIG, seed=1)
    observe(before, 0, 300)
    other = CONFIG.model_copy(update={"neighbours": 7})
    after, anew = DriftMonitor(other, seed=1), DriftMonitor(other, seed=1)

    after.restore(before.state())

    anew.rebase(sketches()[:90])
    assert after.statistics()["adwin", "novelty"] == anew.statistics()["adwin", "novelty"]
    assert after.statistics()["adwin", "uncertainty"] > 0


def test_bytes_that_are_no_state_are_refused() -> None:
    with pytest.raises(ValueError, match="state cannot be read"):
        DriftMonitor(CONFIG, seed=1).restore(b"not a state")


def test_two_detectors_of_one_kind_on_one_signal_are_refused() -> None:
    twice = CONFIG.model_copy(update={"detectors": [CONFIG.detectors[0], CONFIG.detectors[0]]})

    with pytest.raises(ValueError, match="adwin watches uncertainty twice"):
        DriftMonitor(twice, seed=1)


def test_a_bad_batch_is_refused_and_nothing_is_taken() -> None:
    monitor = DriftMonitor(CONFIG, seed=1)
    monitor.observe_scores(uncertainty()[:99], sketches()[:99], np.arange(99))
    state = monitor.state()
    broken = sketches()[:9]
    broken[4] = np.nan

    with pytest.raises(ValueError, match="uncertainty: value 1 of 2 is nan"):
        monitor.observe_scores(np.array([0.1, np.nan]), sketches()[:2], np.arange(2))
    with pytest.raises(ValueError, match="sketch 4 of 9"):
        monitor.observe_scores(np.full(9, 0.2), broken, np.arange(9))
    with pytest.raises(ValueError, match="8 dimensions and the reference window 6"):
        monitor.observe_scores(np.full(9, 0.2), sketches(dimensions=8)[:9], np.arange(9))
    with pytest.raises(ValueError, match="9 sketches need as many indices"):
        monitor.observe_scores(np.full(9, 0.2), sketches()[:9], np.arange(8))
    with pytest.raises(ValueError, match="errors: value 0 of 1 is nan"):
        monitor.observe_labels(np.array([np.nan]))

    assert monitor.state() == state
