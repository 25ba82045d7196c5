import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.drift.explanation import (
    EXAMPLE_LENGTH,
    EXAMPLES,
    MOST_CLUSTERS,
    MOST_TEXTS,
    Explanation,
    explain,
    share_of_small,
    shortened,
)
from tests.sentences import sentence

Values = npt.NDArray[np.float64]

USUAL = [sentence(number)[0] for number in range(400)]
METAL = [f"{metal} futures {move} on mcx" for metal in ("gold", "silver", "zinc") for move in ("slip", "rise", "flat")]
BANK = [f"why was my card {what} by the {who}" for what in ("declined", "charged") for who in ("shop", "hotel", "app")]


def a_change(
    share: float, texts: int = 200, seed: int = 0
) -> tuple[list[str], npt.NDArray[np.float32], Values, npt.NDArray[np.int64]]:
    """Texts of which `share` are new, half of them on metals and half on cards; their sketches, p-values and kinds."""
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(texts) < share, rng.integers(1, 3, texts), 0)
    pools = (USUAL, METAL, BANK)
    after = [pools[one][rng.integers(len(pools[one]))] for one in kind]
    centres = 6 * rng.standard_normal((3, 16))
    sketches = (centres[kind] + rng.standard_normal((texts, 16))).astype(np.float32)
    return after, sketches, np.where(kind > 0, rng.beta(0.3, 8, texts), rng.random(texts)), kind


@pytest.mark.parametrize("texts", [30, 100, 500])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_share_is_mostly_below_the_true_one_and_near_it(share: float, texts: int) -> None:
    rng = np.random.default_rng(7)
    shares = np.empty(200)
    for at in range(200):
        new = rng.random(texts) < share
        shares[at] = share_of_small(np.where(new, rng.beta(0.1, 8, texts), rng.random(texts)))

    assert (shares > share).mean() < 0.3
    # Two standard deviations of the number of new texts, and the caution.
    assert shares.mean() == pytest.approx(share, abs=0.02 + 0.75 / np.sqrt(texts))


def test_an_explanation_tells_how_many_are_new_in_which_words() -> None:
    after, sketches, novelty, kind = a_change(0.4)

    explanation = explain(USUAL, after, sketches, novelty, 0)

    assert explanation.share == pytest.approx((kind > 0).mean(), abs=0.12)
    listed = {word.text: word for word in explanation.words}
    assert "futures" in " ".join(listed)
    assert "my card" in " ".join(listed) or "card" in " ".join(listed)
    assert all(word.before == 0 and word.after > 0.05 for word in explanation.words)


def test_what_is_new_in_two_ways_makes_two_clusters() -> None:
    after, sketches, novelty, _ = a_change(0.6)

    clusters = explain(USUAL, after, sketches, novelty, 0).clusters

    assert len(clusters) == 2
    told = [" ".join(cluster.examples) for cluster in clusters]
    assert sorted(("mcx" in one, "card" in one) for one in told) == [(False, True), (True, False)]
    assert sum(cluster.size for cluster in clusters) > 0.9
    assert all(cluster.novelty > 0.9 for cluster in clusters)


def test_without_sketches_there_are_examples_all_the_same() -> None:
    after, _, novelty, _ = a_change(0.4)

    (cluster,) = explain(USUAL, after, None, novelty, 0).clusters

    assert cluster.size == 1
    assert len(cluster.examples) == EXAMPLES
    assert all("mcx" in example or "card" in example for example in cluster.examples)


def test_a_word_shows_a_share_that_no_p_value_does() -> None:
    after, _, _, kind = a_change(0.4)
    unremarkable = np.random.default_rng(1).random(len(after))

    assert 0.1 < explain(USUAL, after, None, unremarkable, 0).share < (kind > 0).mean()


def test_examples_are_not_one_story_three_times() -> None:
    after = [*["shares of acme suspended until further notice"] * 30, *BANK * 3, *METAL * 3]

    (cluster,) = explain(USUAL, after, None, np.full(len(after), 0.01), 0).clusters

    assert len(cluster.examples) == EXAMPLES
    assert sum("suspended" in example for example in cluster.examples) == 1


def test_nothing_new_is_said_to_be_nothing_new() -> None:
    after, sketches, novelty, _ = a_change(0.0, seed=2)

    explanation = explain(USUAL, after, sketches, novelty, 0)

    assert explanation.words == ()
    assert str(explanation).startswith("no text stands out as new; for example:")


def test_the_sentence_reads_as_one() -> None:
    after, sketches, novelty, _ = a_change(0.4)

    said = str(explain(USUAL, after, sketches, novelty, 0))

    assert said.startswith('at least 27% of the texts are new; typical: "')
    assert said.count("for example") == 1


def test_the_gist_does_not_say_new() -> None:
    after, sketches, novelty, _ = a_change(0.4)

    explanation = explain(USUAL, after, sketches, novelty, 0)

    assert explanation.gist.startswith('typical: "')
    assert str(explanation).endswith(explanation.gist)
    assert "new" not in explanation.gist


def test_a_seed_gives_the_same_explanation_twice_of_more_texts_than_are_looked_at() -> None:
    after, sketches, novelty, _ = a_change(0.4, texts=2 * MOST_TEXTS)

    first, second = (explain(USUAL * 3, after, sketches, novelty, 5) for _ in range(2))

    assert first == second


def test_an_explanation_survives_json() -> None:
    after, sketches, novelty, _ = a_change(0.4)
    told = explain(USUAL, after, sketches, novelty, 0).as_json()

    assert json.loads(json.dumps(told)) == told
    assert set(told) == {"share", "words", "clusters"}
    assert set(told["words"][0]) == {"text", "before", "after"}
    assert set(told["clusters"][0]) == {"size", "novelty", "words", "examples"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"novelty": np.zeros(2)}, "3 texts need as many p-values"),
        ({"novelty": np.array([0.1, np.nan, 0.2])}, "must be p-values"),
        ({"novelty": np.array([0.1, 7.0, 0.2])}, "must be p-values"),
        ({"sketches": np.zeros((2, 4), np.float32)}, "3 texts need as many sketches"),
        ({"sketches": np.full((3, 4), np.inf, np.float32)}, "not finite"),
    ],
)
def test_what_does_not_fit_the_texts_is_refused(arguments: dict[str, Any], said: str) -> None:
    fitting: dict[str, Any] = {"sketches": None, "novelty": np.full(3, 0.5), "seed": 0}
    with pytest.raises(ValueError, match=said):
        explain(["a"], ["a", "b", "c"], **{**fitting, **arguments})


def test_long_examples_are_cut_between_words_and_lines_are_joined() -> None:
    assert shortened("up\n\n 3 %\t today ") == "up 3 % today"
    assert shortened("word " * 4000).endswith("word…")
    assert shortened("x" * 20_000) == "x" * (EXAMPLE_LENGTH - 1) + "…"
    assert shortened(" \n ") == "(empty)"


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(["", "🚀🚀 $TSLA", "送餐员迷失了", "x" * 20_000, "word " * 4000, "acme profit again"]),
    ),
    max_size=40,
)


@given(TEXTS, TEXTS, st.booleans(), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_any_texts_have_an_explanation_of_bounded_size(
    before: list[str], after: list[str], sketched: bool, same: int, data: st.DataObject
) -> None:
    p_values = data.draw(st.lists(st.floats(0, 1), min_size=len(after), max_size=len(after)))
    # Sketches that are all the same, or of few kinds.
    sketches = np.random.default_rng(same).integers(0, same + 1, (len(after), 4)).astype(np.float32)

    told = explain(before, after, sketches if sketched else None, np.array(p_values, np.float64), 0)

    assert isinstance(told, Explanation)
    assert 0 <= told.share <= 1
    assert len(told.clusters) <= MOST_CLUSTERS
    assert bool(told.clusters) == bool(after)
    assert sum(cluster.size for cluster in told.clusters) <= 1 + 1e-9
    for cluster in told.clusters:
        assert 1 <= len(cluster.examples) <= EXAMPLES
        assert all(0 < len(example) <= EXAMPLE_LENGTH for example in cluster.examples)
        assert -1e-9 <= cluster.novelty <= 1
    assert len(str(told)) < 600
