import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.drift.bets import GENERAL, on_mix
from daemon.drift.detector import Values
from daemon.drift.evidence import MOST, Evidence
from daemon.drift.ranks import Ranks

MIX = on_mix(np.random.default_rng(1).beta(2, 3, 500))

#: Values before the change and in all.
CHANGE, LENGTH = 300, 400

COMPONENTS = ("rises", "stays", "mix", "mix")


def evidence(seed: int = 1) -> Evidence:
    """Of two signals of one component, and one of two."""
    count = len(COMPONENTS)
    return Evidence(COMPONENTS, [GENERAL, GENERAL, MIX, MIX], Ranks(np.zeros(count), np.ones(count), seed))


def stream(seed: int = 7, by: float = 2.5, component: int = 0) -> Values:
    """Values of which one component moves at `CHANGE`."""
    values = np.random.default_rng(seed).normal(0, 1, (LENGTH, len(COMPONENTS)))
    values[CHANGE:, component] += by
    return values


MOMENTS = 1_000.0 + 10 * np.arange(LENGTH)


def take(evidence: Evidence, values: Values, moments: Values | None = None) -> Values:
    course = evidence.update(values, MOMENTS[: len(values)] if moments is None else moments)
    evidence.keep(len(values))
    return course


def test_while_nothing_changes_evidence_grows_by_one_a_value_on_average() -> None:
    length, ended = 15, []
    for seed in range(3_000):
        one = evidence(seed)
        one.ranks.add(np.random.default_rng(seed).normal(0, 1, (100, len(COMPONENTS))))
        ended.append(take(one, np.random.default_rng(10_000 + seed).normal(0, 1, (length, len(COMPONENTS))))[-1])

    # Of such a sum a few runs hold much of the mean: it has a heavy tail.
    assert np.mean(ended) == pytest.approx(length, abs=3.3 * np.std(ended) / np.sqrt(len(ended)))
    assert np.std(ended) / np.sqrt(len(ended)) < 0.05 * length


def test_of_values_that_are_missing_no_evidence_grows() -> None:
    one = evidence()
    take(one, np.full((50, len(COMPONENTS)), np.nan))

    assert one.value == 0
    assert one.seen == 50


def test_after_each_value_the_evidence_is_the_shiryaev_roberts_sum_of_each_bet() -> None:
    one = evidence()
    course = one.update(stream()[:60], MOMENTS[:60])
    paid = one.paid
    one.keep(60)

    # What a unit staked at each value so far has become, added up.
    sums = sum(np.prod(paid[start:], axis=0) for start in range(60))
    # Signals weigh alike, then their components, then the bets on each.
    weights = np.repeat([1 / 3 / 15, 1 / 3 / 15, 1 / 6 / 6, 1 / 6 / 6], [15, 15, 6, 6])
    assert one.value == pytest.approx(weights @ sums)
    assert course[-1] == pytest.approx(one.value)
    assert one.by_component().sum() == pytest.approx(one.value)


@pytest.mark.parametrize("by", [2.5, -2.5])
@pytest.mark.parametrize("component", [0, 1])
def test_the_leader_is_the_component_that_moved_and_tells_when_and_where_to(by: float, component: int) -> None:
    one = evidence()
    course = take(one, stream(by=by, component=component))
    leader = one.leader()

    assert course[CHANGE - 1] < 10_000 < course[-1]
    assert leader.component == component
    assert leader.rose == (by > 0)
    assert leader.since == pytest.approx(CHANGE, abs=8)
    assert leader.moment == MOMENTS[leader.since]
    amounts = one.by_component()
    assert amounts[component] > 0.99 * amounts.sum()


def test_where_every_value_wins_the_change_began_with_the_first_that_did() -> None:
    one = evidence()
    usual = np.tile(np.linspace(-1, 1, 500)[:, None], (1, len(COMPONENTS)))
    one.ranks.add(usual)
    # A bet on rising values loses at the lowest ones, and wins at the ones above all others.
    take(one, np.repeat([-0.99, 5.0], [20, 10])[:, None] + np.zeros((30, len(COMPONENTS))))

    assert (one.leader().rose, one.leader().since, one.leader().moment) == (True, 20, MOMENTS[20])


@pytest.mark.parametrize("cut", range(CHANGE - 3, CHANGE + 4))
def test_a_change_at_the_seam_of_two_updates_has_its_own_moment(cut: int) -> None:
    whole, cut_up = evidence(), evidence()
    take(whole, stream())
    for part in (slice(0, cut), slice(cut, LENGTH)):
        take(cut_up, stream()[part], MOMENTS[part])

    assert cut_up.leader() == whole.leader()


def test_only_what_is_kept_counts() -> None:
    kept, straight = evidence(), evidence()
    kept.update(stream(), MOMENTS)
    kept.keep(120)
    take(straight, stream()[:120])

    assert kept.value == straight.value
    assert kept.seen == straight.seen == 120
    assert take(kept, stream()[120:]).tolist() == take(straight, stream()[120:]).tolist()


def test_of_what_is_not_kept_nothing_remains() -> None:
    one, other = evidence(), evidence()
    take(one, stream()[:50])
    take(other, stream()[:50])

    one.update(stream(by=9.0)[50:], MOMENTS[50:])
    one.keep(0)

    assert all(np.array_equal(part, other.state()[name], equal_nan=True) for name, part in one.state().items())


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(0, LENGTH), max_size=5).map(sorted),
    ahead=st.integers(0, 30),
)
def test_however_values_are_cut_tried_and_restored_the_evidence_is_the_same(cuts: list[int], ahead: int) -> None:
    values = stream()
    values[::9, 0] = np.nan
    whole = evidence()
    take(whole, values)

    resumed = evidence()
    for start, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        after_a_restart = evidence()
        after_a_restart.restore(resumed.state())
        resumed = after_a_restart
        resumed.update(values[start : end + ahead], MOMENTS[start : end + ahead])
        resumed.keep(end - start)

    assert resumed.value == whole.value
    assert resumed.leader() == whole.leader()
    assert all(np.array_equal(part, whole.state()[name], equal_nan=True) for name, part in resumed.state().items())


def test_after_a_reset_there_is_no_evidence_against_the_same_past() -> None:
    one = evidence()
    take(one, stream())
    counts = one.ranks.counts.copy()

    one.reset()

    assert one.value == 0
    assert one.leader().since == one.seen == LENGTH
    assert np.array_equal(one.ranks.counts, counts)
    take(one, stream(seed=8)[:CHANGE][:20], MOMENTS[:20] + 9_000)
    assert one.leader().since >= LENGTH
    assert one.leader().moment >= 9_000


def test_a_change_without_end_never_overflows() -> None:
    one = evidence()
    one.ranks.add(np.random.default_rng(1).normal(0, 1, (1_000_000, len(COMPONENTS))))

    for _ in range(3):
        course = take(one, np.full((LENGTH, len(COMPONENTS)), 50.0))

    assert np.isfinite(course).all()
    assert 10_000 < one.value <= MOST


def test_evidence_of_other_bets_is_refused() -> None:
    other = Evidence(["rises"], [GENERAL], Ranks(np.zeros(1), np.ones(1), 1))

    with pytest.raises(ValueError, match=r"sums of shape \[4, 15\] saved, \[4, 42\] expected"):
        evidence().restore(other.state())
