import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from daemon.drift.detector import Values
from daemon.drift.ranks import BINS, BLOCK, Ranks

#: So long a stream crosses the places where values are ranked together.
LENGTH = 2 * BLOCK + 50

KINDS = ["continuous", "few values", "a constant", "far from what was expected"]


def ranks(components: int = 1, seed: int = 1, bins: int = BINS) -> Ranks:
    return Ranks(np.zeros(components), np.ones(components), seed, bins)


def values(kind: str, seed: int, shape: tuple[int, ...] = (LENGTH, 1)) -> Values:
    rng = np.random.default_rng(seed)
    match kind:
        case "continuous":
            return rng.normal(0, 1, shape)
        case "few values":
            return rng.integers(0, 3, shape).astype(np.float64)
        case "a constant":
            return np.full(shape, 0.5)
        case _:
            return rng.normal(1_000, 50, shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [0, 40])
def test_while_values_are_exchangeable_their_p_values_are_uniform_from_the_first_one_on(kind: str, known: int) -> None:
    firsts = []
    for seed in range(800):
        ranker, drawn = ranks(seed=seed), values(kind, seed, (known + 5, 1))
        ranker.add(drawn[:known])
        firsts.append(ranker.p_values(drawn[known:])[:, 0])

    # 40 such tests: one in 25 runs with other seeds would fail.
    for p_values in np.transpose(firsts):
        assert kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_while_values_are_exchangeable_their_p_values_are_independent(kind: str) -> None:
    p_values = np.concatenate([ranks(seed=seed).p_values(values(kind, seed)) for seed in range(20)])[:, 0]
    count = len(p_values)

    assert kstest(p_values, "uniform").pvalue > 0.01
    for lag in (1, 2, 3, 50):
        correlation = np.corrcoef(p_values[lag:], p_values[:-lag])[0, 1]
        assert abs(correlation) < 3.3 / np.sqrt(count)
    # The pair of neighbours is as often in one of 16 squares as in another: a chi-squared of 15, three deviations.
    squares = np.histogram2d(p_values[1::2], p_values[:-1:2], bins=4, range=[[0, 1], [0, 1]])[0]
    assert ((squares - count / 32) ** 2 / (count / 32)).sum() < 15 + 3.3 * np.sqrt(30)


@settings(deadline=None)
@given(
    column=st.lists(st.sampled_from([-2.0, -0.5, 0.5, 2.0, np.nan, np.inf, -np.inf]), max_size=40),
    seed=st.integers(0, 99),
)
def test_a_p_value_is_the_share_of_all_so_far_that_are_as_large_counted_one_by_one(
    column: list[float], seed: int
) -> None:
    before = np.array([-1.5, 0.5, 0.5, 3.0])
    ranker = ranks(seed=seed)
    ranker.add(before[:, None])
    drawn = np.random.Generator(np.random.PCG64(seed)).random(len(column))

    expected, past = [], before.tolist()
    for value, chance in zip(column, drawn, strict=True):
        if np.isnan(value):
            expected.append(np.nan)
            continue
        larger, ties = sum(one > value for one in past), sum(one == value for one in past)
        expected.append((larger + chance * (ties + 1)) / (len(past) + 1))
        past.append(value)

    assert ranker.p_values(np.array(column)[:, None])[:, 0] == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=5).map(sorted))
def test_however_values_are_cut_and_the_ranks_restored_the_p_values_are_the_same(cuts: list[int]) -> None:
    stream = values("continuous", 3, (LENGTH, 3))
    stream[::7, 1] = np.nan
    whole = ranks(3).p_values(stream)

    resumed, found = ranks(3), []
    for start, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        after_a_restart = ranks(3)
        after_a_restart.restore(resumed.state())
        resumed = after_a_restart
        found.append(resumed.p_values(stream[start:end]))

    assert np.array_equal(np.concatenate(found), whole, equal_nan=True)


@settings(deadline=None)
@given(end=st.integers(0, 60), start=st.integers(0, 60))
def test_what_was_ranked_can_be_taken_back(start: int, end: int) -> None:
    start, end = sorted([start, end])
    stream = values("few values", 5, (90, 2))
    stream[3::5] = np.nan
    straight, hesitant = ranks(2), ranks(2)
    hesitant.p_values(stream[:end])
    hesitant.take_back(stream[start:end])
    straight.p_values(stream[:start])

    assert np.array_equal(hesitant.p_values(stream[start:]), straight.p_values(stream[start:]), equal_nan=True)
    assert np.array_equal(hesitant.counts, straight.counts)


def test_a_value_above_all_before_it_has_the_smallest_p_value() -> None:
    ranker = ranks()
    ranker.add(np.linspace(-1, 1, 999)[:, None])

    high, low = ranker.p_values(np.array([[2.0], [-2.0]]))[:, 0]

    assert high <= 1 / 1_000
    assert low >= 1 - 1 / 1_000


def test_values_beyond_every_expectation_stay_in_order_with_the_usual_ones() -> None:
    ranker = ranks()
    ranker.add(np.zeros((99, 1)))

    assert ranker.p_values(np.array([[1e300]]))[0, 0] <= 0.01
    assert ranker.p_values(np.array([[-1e300]]))[0, 0] >= 0.99


def test_what_has_no_value_counts_for_nothing() -> None:
    with_gaps, without = ranks(), ranks()
    gaps = np.array([[np.nan], [0.3], [np.nan], [0.1]])
    with_gaps.add(gaps)
    without.add(gaps[[1, 3]])

    assert np.array_equal(with_gaps.counts, without.counts)
    assert np.isnan(with_gaps.p_values(gaps[:1])).all()
    assert np.array_equal(with_gaps.counts, without.counts)


def test_one_components_p_values_do_not_depend_on_the_others_values() -> None:
    one, other = values("continuous", 1, (300, 2)), values("continuous", 1, (300, 2))
    other[:, 1] = np.where(np.arange(300) % 3 == 0, np.nan, 9.0)

    assert np.array_equal(ranks(2).p_values(one)[:, 0], ranks(2).p_values(other)[:, 0])


def test_standing_is_the_share_as_large_and_takes_nothing() -> None:
    ranker = ranks()
    ranker.add(np.array([[-1.0], [0.0], [1.0], [2.0]]))

    shares = ranker.standing(np.array([[-9.0], [0.0], [1.5], [9.0], [np.nan]]))[:, 0]

    assert shares == pytest.approx([1, 0.75, 0.25, 0, np.nan], nan_ok=True)
    assert ranker.counts.sum() == 4


def test_before_there_is_any_value_nothing_stands_above_another() -> None:
    assert ranks().standing(np.array([[0.3]])) == np.zeros((1, 1))


def test_fewer_bins_are_as_exact() -> None:
    p_values = np.concatenate([ranks(seed=seed, bins=4).p_values(values("continuous", seed)) for seed in range(10)])

    assert kstest(p_values[:, 0], "uniform").pvalue > 0.01


def test_ranks_of_other_components_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ranks of shape \[2, 1024\] saved, \[3, 1024\] expected"):
        ranks(3).restore(ranks(2).state())
