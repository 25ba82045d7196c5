"""What every detector must do, whichever it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from daemon.config import DetectorConfig
from daemon.drift import river
from daemon.drift.detector import Change, Detector, Values

DETECTORS = [
    DetectorConfig(kind="adwin", signal="novelty", options={"delta": 1e-4, "clock": 8}),
    DetectorConfig(kind="kswin", signal="novelty", options={"alpha": 1e-7, "window_size": 200, "stat_size": 60}),
    DetectorConfig(kind="page_hinkley", signal="novelty", options={"threshold": 15, "delta": 0.05}),
]

every_detector = pytest.mark.parametrize("config", DETECTORS, ids=lambda config: config.kind)


def stream(*means: float, length: int = 600, seed: int = 7) -> Values:
    """Stretches of `length` noisy values, each around its own mean."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(mean, 0.15, length) for mean in means])


def in_batches(detector: Detector, values: Values, cuts: list[int]) -> list[Change]:
    """The changes found when `values` come cut at `cuts`, with their places in the whole."""
    found: list[Change] = []
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        changes = detector.update(values[start:end])
        found += [Change(c.index + start, c.evidence, c.before, c.after) for c in changes]
    return found


@every_detector
def test_a_sudden_rise_is_found_soon_after_it(config: DetectorConfig) -> None:
    changes = river.build(config, seed=1).update(stream(0.4, 0.9))

    assert [600 <= change.index < 700 for change in changes] == [True]
    assert changes[0].before == pytest.approx(0.4, abs=0.06)
    assert changes[0].after == pytest.approx(0.9, abs=0.1)
    assert changes[0].evidence >= 1


@every_detector
@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_stays_the_same_raises_no_alarm(config: DetectorConfig, seed: int) -> None:
    assert river.build(config, seed=1).update(stream(0.4, length=6_000, seed=seed)) == []


@every_detector
def test_a_constant_raises_no_alarm(config: DetectorConfig) -> None:
    detector = river.build(config, seed=1)

    assert detector.update(np.full(1_000, 0.3)) == []
    assert detector.statistic == pytest.approx(0, abs=0.01)


@every_detector
def test_the_statistic_rises_from_none_to_one(config: DetectorConfig) -> None:
    detector = river.build(config, seed=1)
    assert detector.statistic == 0

    before, after = stream(0.4, 0.9).reshape(2, -1)
    detector.update(before)
    calm = detector.statistic
    seen = []
    for value in after[:10]:
        assert not detector.update(np.array([value]))
        seen.append(detector.statistic)

    assert 0 <= calm < 0.8
    assert calm < seen[-1] <= 1


@every_detector
def test_a_detector_starts_afresh_after_its_alarm(config: DetectorConfig) -> None:
    detector, values = river.build(config, seed=1), stream(0.4, 0.9, 1.4)
    first, second = detector.update(values)
    fresh = river.build(config, seed=1)

    again = fresh.update(values[first.index + 1 :])

    assert [change.index + first.index + 1 for change in again] == [second.index]


@every_detector
def test_reset_forgets_everything(config: DetectorConfig) -> None:
    detector, values = river.build(config, seed=1), stream(0.4, 0.9)
    detector.update(values[:590])
    detector.reset()

    assert detector.statistic == 0
    assert detector.update(values) == river.build(config, seed=1).update(values)


@every_detector
def test_an_empty_update_changes_nothing(config: DetectorConfig) -> None:
    detector = river.build(config, seed=1)
    detector.update(stream(0.4))
    before = detector.state()

    assert detector.update(np.empty(0)) == []
    assert all(np.array_equal(before[name], array) for name, array in detector.state().items())


@every_detector
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_nothing_is_taken(config: DetectorConfig, bad: float) -> None:
    detector = river.build(config, seed=1)

    with pytest.raises(ValueError, match=rf"{config.kind} on novelty: value 2 of 3 is {bad}"):
        detector.update(np.array([0.1, 0.2, bad]))

    assert detector.state()["values"].size == 0


@every_detector
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_however_a_stream_is_cut_and_restarted_the_alarms_are_the_same(
    config: DetectorConfig, data: st.DataObject
) -> None:
    values = stream(0.4, 0.9, 0.5, 1.0, length=500)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    whole = in_batches(river.build(config, seed=1), values, [])

    resumed, found = river.build(config, seed=1), []
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        after_a_restart = river.build(config, seed=1)
        after_a_restart.restore(resumed.state())
        assert after_a_restart.statistic == resumed.statistic
        resumed = after_a_restart
        found += [change.index + start for change in resumed.update(values[start:end])]

    assert found == [change.index for change in whole]
    assert in_batches(river.build(config, seed=1), values, cuts) == whole
    assert whole


@every_detector
@pytest.mark.parametrize("cut", [2_400, 5_000, 5_001, 7_600])
def test_a_long_calm_is_kept_within_bounds_and_survives_a_restart(config: DetectorConfig, cut: int) -> None:
    values = stream(0.4, 0.4, 0.4, 0.9, length=2_600)
    straight, restarted = river.build(config, seed=1), river.build(config, seed=1)

    straight.update(values[:cut])
    restarted.restore(straight.state())

    assert straight.state()["values"].size <= river.MAX_VALUES
    changes = straight.update(values[cut:])
    assert restarted.update(values[cut:]) == changes
    assert 7_800 <= changes[0].index + cut < 7_900


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    stat_size=st.integers(2, 40),
    older=st.integers(0, 30),
    alpha=st.sampled_from([0.2, 0.01, 1e-4]),
    decimals=st.integers(0, 6),
)
def test_kswin_alarms_where_rivers_own_does(seed: int, stat_size: int, older: int, alpha: float, decimals: int) -> None:
    values = np.round(stream(0.4, 0.8, length=100, seed=seed), decimals)
    window_size = 2 * stat_size + older
    rivers, expected = drift.KSWIN(alpha=alpha, window_size=window_size, stat_size=stat_size, seed=seed), []
    for index, value in enumerate(values.tolist()):
        rivers.update(value)  # type: ignore[no-untyped-call]  # River's
        if rivers.drift_detected:
            expected.append(index)

    options = {"alpha": alpha, "window_size": window_size, "stat_size": stat_size}
    ours = river.build(DetectorConfig(kind="kswin", signal="error", options=options), seed=seed)

    assert [change.index for change in ours.update(values)] == expected


def test_a_fall_is_told_from_a_rise() -> None:
    adwin = river.build(DETECTORS[0], seed=1)

    (change,) = adwin.update(stream(0.9, 0.4))

    assert change.after < change.before


def test_page_hinkley_minds_no_fall() -> None:
    assert river.build(DETECTORS[2], seed=1).update(stream(0.9, 0.4)) == []


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "adwin",
            {"threshold": 5.0},
            r"adwin on error: options.threshold: there is no such option; .* delta \(default",
        ),
        ("adwin", {"delta": 2.0}, "options.delta: Input should be less than 1"),
        ("adwin", {"clock": 1.5}, "options.clock: Input should be a valid integer"),
        ("kswin", {"window_size": 50.0}, "options: .*window_size must be at least twice stat_size"),
        ("page_hinkley", {"threshold": 0.0}, "options.threshold: .*greater than 0; its options are min_instances"),
    ],
)
def test_a_wrong_option_is_refused_with_those_there_are(kind: str, options: dict[str, float], message: str) -> None:
    config = DetectorConfig.model_validate({"kind": kind, "signal": "error", "options": options})

    with pytest.raises(ValueError, match=message):
        river.build(config, seed=1)


def test_more_saved_values_than_a_detector_keeps_are_refused() -> None:
    with pytest.raises(ValueError, match="5001 saved values"):
        river.build(DETECTORS[0], seed=1).restore({"values": np.zeros(river.MAX_VALUES + 1)})
