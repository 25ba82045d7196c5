import numpy as np
import pytest
from scipy.stats import beta

from daemon.drift.bets import EDGE, GENERAL, MOVES, SHAPES, STAKES, Bets, on_mix, restored, saved
from daemon.drift.detector import Values

#: The middles of so many equal pieces of 0 to 1: fine enough for the steep end of the boldest bet.
P = (np.arange(200_000) + 0.5) / 200_000


def probabilities(first: float, second: float, texts: int = 500) -> Values:
    """Of one label in `texts` reference texts."""
    return np.random.default_rng(3).beta(first, second, texts)


MIXES = {
    "a common label": probabilities(2, 3),
    "a rare label": probabilities(0.05, 5),
    "a label that nearly all have": probabilities(9, 0.1),
    "a label that none has": np.zeros(50),
    "a label that all have": np.ones(50),
    "certain scores": np.repeat([0.0, 1.0], [300, 100]),
    "one text": np.array([0.4]),
}


@pytest.mark.parametrize("bets", [GENERAL, *map(on_mix, MIXES.values())], ids=["general", *MIXES])
def test_while_p_values_are_uniform_no_bet_gains_or_loses(bets: Bets) -> None:
    paid = bets.pay(P).mean(axis=0)

    # The edges of a density are cut flat, which is worth this little.
    assert paid == pytest.approx(np.ones(len(bets.rising)), abs=1e-6)


@pytest.mark.parametrize("bets", [GENERAL, *map(on_mix, MIXES.values())], ids=["general", *MIXES])
def test_no_text_can_ruin_a_bet(bets: Bets) -> None:
    paid = bets.pay(np.array([0.0, EDGE, 0.5, 1 - EDGE, 1.0]))

    assert np.isfinite(paid).all()
    assert (paid > 0).all()


def test_a_whole_stake_is_paid_by_the_beta_density() -> None:
    whole = [number for number, stake in enumerate(np.tile(STAKES, len(SHAPES))) if stake == 1]
    p = np.array([0.01, 0.2, 0.5, 0.9])

    paid = GENERAL.pay(p)[:, whole]

    # Its mass beyond the edge is given to all else alike.
    gained = paid / np.stack([beta(*shape).pdf(p) for shape in SHAPES], axis=1)
    assert gained == pytest.approx(np.tile(gained[0], (len(p), 1)))
    assert gained[0] == pytest.approx([1.73, 1.05, 1.05, 1, 1], abs=0.01)


def test_a_part_of_the_stake_wins_and_loses_that_part() -> None:
    p = np.array([0.001, 0.3, 0.99])
    gains = GENERAL.pay(p).reshape(len(p), len(SHAPES), len(STAKES)) - 1

    assert gains == pytest.approx(gains[:, :, -1:] * np.array(STAKES))


def test_bets_on_rising_values_win_at_small_p_values_and_the_others_at_large_ones() -> None:
    small, large = np.log(GENERAL.pay(np.array([0.02, 0.98])))

    assert (small[GENERAL.rising] > 0).all()
    assert (large[~GENERAL.rising] > 0).all()
    assert (small > large).tolist() == GENERAL.rising.tolist()


@pytest.mark.parametrize("mix", ["a common label", "a rare label", "a label that nearly all have", "certain scores"])
def test_a_bet_on_a_labels_share_wins_when_it_moves_so_and_loses_when_it_moves_back(mix: str) -> None:
    order = np.sort(MIXES[mix])[::-1]
    bets, usual = on_mix(order), order.mean()
    p_values = (np.arange(len(order)) + 0.5) / len(order)
    # By Bayes' rule: how much more often a text comes when so much of the stream moves to the label.
    more, less = (
        1 + move * (order / usual - (1 - order) / (1 - usual))
        for move in (min(0.2, 0.9 * (1 - usual)), -min(0.2, 0.9 * usual))
    )

    gains = [np.average(np.log(bets.pay(p_values)), axis=0, weights=often) for often in (more, less)]

    assert bets.rising.tolist() == [True, False] * len(MOVES)
    # On the very move, and on less than it.
    for gain, so, back in ((gains[0], 2, 3), (gains[1], 3, 2)):
        assert gain[so] > 0
        assert gain[so - 2] > 0
        assert gain[back] < 0


@pytest.mark.parametrize("bets", [GENERAL, on_mix(MIXES["a common label"])], ids=["general", "mix"])
def test_a_text_without_a_p_value_pays_back_the_stake(bets: Bets) -> None:
    paid = bets.pay(np.array([np.nan, 0.01, np.nan]))

    assert (paid[[0, 2]] == 1).all()
    assert (paid[1] != 1).any()
    assert bets.pay(np.empty(0)).shape == (0, len(bets.rising))


def test_saved_bets_pay_the_same() -> None:
    bets = [GENERAL, on_mix(MIXES["a common label"]), GENERAL, on_mix(MIXES["a rare label"])]

    again = restored(saved(bets), len(bets))

    p = np.linspace(0, 1, 999)
    for one, other in zip(bets, again, strict=True):
        assert np.array_equal(one.pay(p), other.pay(p))
        assert one.rising.tolist() == other.rising.tolist()
