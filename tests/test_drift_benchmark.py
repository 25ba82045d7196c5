"""The parts of `benchmarks.drift` that could be wrong without anybody seeing it."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drift_matching import Rate, Statistic, delay, judge, median, tune
from benchmarks.drift_rivals import Interval
from benchmarks.drift_streams import (
    BEFORE,
    HORIZON,
    MIXED,
    MOVED,
    REFERENCE,
    SHARES,
    STILL,
    Domain,
    Pool,
    Stream,
    View,
    changes,
    cycled,
    read,
    save,
    still,
    true_labels,
    turns,
)

LABELS = ["negative", "neutral", "positive"]
DOMAINS = ["news", "posts"]
TEXTS = 2_400


@pytest.fixture(scope="module")
def pool() -> Pool:
    random = np.random.default_rng(0)
    count = TEXTS * len(DOMAINS)
    return Pool(
        texts=[str(at) for at in range(count)],
        source=np.repeat(DOMAINS, TEXTS),
        labels=LABELS,
        truth=random.choice(3, count, p=[0.3, 0.5, 0.2]),
        probabilities=random.dirichlet([1, 1, 1], count).astype(np.float32),
        sketches=random.normal(size=(count, 4)).astype(np.float32),
        moments=np.arange(count, dtype=np.float64),
    )


@pytest.fixture(scope="module")
def changed(pool: Pool) -> list[Stream]:
    return changes(pool, DOMAINS, seeds=1)


def stream_of(kind: str, streams: Iterable[Stream]) -> Stream:
    return next(stream for stream in streams if stream.kind == kind)


def from_posts(pool: Pool, stream: Stream) -> np.ndarray:
    return pool.source[stream.texts] == "posts"


def test_a_still_stream_holds_every_text_once_and_none_of_its_reference(pool: Pool) -> None:
    for stream in still(pool, DOMAINS, runs=2, mixed=1):
        assert len(stream.reference) == REFERENCE
        both = np.concatenate([stream.reference, stream.texts])
        assert len(np.unique(both)) == len(both) == (len(pool.texts) if stream.name == MIXED else TEXTS)
        assert stream.change == len(stream.texts)


def test_two_runs_have_other_references(pool: Pool) -> None:
    first, second = (one for one in still(pool, DOMAINS, runs=2, mixed=0) if one.name == "news")
    assert set(first.reference) != set(second.reference)


def test_an_abrupt_change_is_all_of_the_other_domain_from_its_first_text(pool: Pool, changed: list[Stream]) -> None:
    stream = stream_of("abrupt", changed)
    assert from_posts(pool, stream).tolist() == [False] * BEFORE + [True] * HORIZON
    assert not set(stream.reference) & set(stream.texts)


@pytest.mark.parametrize(("kind", "share"), [("30 % mixture", 0.3), ("10 % mixture", 0.1)])
def test_a_mixture_holds_its_share_of_the_other_domain(
    pool: Pool, changed: list[Stream], kind: str, share: float
) -> None:
    new = from_posts(pool, stream_of(kind, changed))
    assert not new[:BEFORE].any()
    assert new[BEFORE:].mean() == pytest.approx(share, abs=4 * math.sqrt(share / HORIZON))


def test_a_gradual_change_grows_from_nothing_to_all(pool: Pool, changed: list[Stream]) -> None:
    (kind,) = (kind for kind in SHARES if kind.startswith("gradual"))
    new = from_posts(pool, stream_of(kind, changed))[BEFORE:]
    assert new[:50].mean() < 0.2
    assert new[200:300].mean() == pytest.approx(0.5, abs=0.2)
    assert new[500:].all()


def test_a_label_mix_moves_twenty_points_from_one_label_to_the_other(pool: Pool) -> None:
    usual = np.bincount(pool.truth[pool.of("news")], minlength=3) / TEXTS
    found = {stream.name: stream for stream in Domain(pool, "news", 0).label_mixes()}
    # Of two labels of three there are six ordered pairs; the rarest may have no twenty points to give.
    assert len(found) == 2 * int((usual >= MOVED).sum())
    moved = np.bincount(pool.truth[found["news: neutral > negative"].texts[BEFORE:]], minlength=3) / HORIZON
    assert moved == pytest.approx(usual + np.array([MOVED, -MOVED, 0]), abs=0.05)


def test_flipped_labels_turn_round_after_the_change_and_the_inputs_stay(pool: Pool) -> None:
    stream = Domain(pool, "news", 0).flips()
    told, true = true_labels(pool, stream.texts, stream.flipped), pool.truth[stream.texts]
    assert told[:BEFORE].tolist() == true[:BEFORE].tolist()
    assert told[BEFORE:].tolist() == (2 - true[BEFORE:]).tolist()
    assert not from_posts(pool, stream).any()


def test_a_domain_that_is_used_up_comes_again_only_after_its_last_text() -> None:
    places = cycled(np.arange(10), 25, np.random.default_rng(0))
    assert sorted(places[:10]) == sorted(places[10:20]) == list(range(10))
    assert len(set(places[20:])) == 5


def test_a_turn_begins_at_its_moment_and_is_compared_with_what_was_before(pool: Pool) -> None:
    first, second = turns(pool, "news", [("one", 700.0), ("two", 2_000.0)])
    assert (first.reference[0], first.reference[-1], first.texts[0], first.texts[-1]) == (0, 699, 700, 1_999)
    assert (second.reference[0], second.reference[-1], second.texts[0]) == (500, 1_999, 2_000)
    assert first.change == second.change == 0


def test_the_mean_time_to_an_alarm_is_right_where_most_runs_are_cut_short() -> None:
    random = np.random.default_rng(1)
    alarms = random.geometric(1 / 1_000, 4_000) - 1
    rate = Rate.of([int(at) if at < 300 else None for at in alarms], [300] * len(alarms))
    assert rate.mean == pytest.approx(1_000, abs=3 * rate.error)
    assert rate.error == pytest.approx(1_000 / math.sqrt(4_000 * (1 - math.exp(-0.3))), rel=0.1)


def test_an_alarm_at_the_first_text_took_one_text() -> None:
    assert Rate.of([0, None, 9], [10, 10, 10]) == Rate(texts=21, alarms=2, runs=3)


def test_no_alarm_is_no_rate_and_breaks_no_promise() -> None:
    rate = Rate.of([None, None], [50, 50])
    assert rate.mean == math.inf
    assert rate.holds(10)


@pytest.mark.parametrize(("alarms", "holds"), [(80, True), (100, True), (118, True), (125, False), (200, False)])
def test_a_promise_is_broken_by_more_alarms_than_chance_gives(alarms: int, holds: bool) -> None:
    assert Rate(texts=100_000, alarms=alarms, runs=1).holds(1_000) == holds


def still_view(values: Sequence[float], seed: int = 0, change: int | None = None, kind: str = STILL) -> View:
    count = len(values)
    nothing = np.zeros(0, dtype=np.int64)
    flipped = np.zeros(count, dtype=bool)
    stream = Stream(kind, "made", seed, "made", nothing, np.arange(count), count if change is None else change, flipped)
    return View(stream, {"score": np.zeros(0)}, {"score": np.asarray(values, dtype=np.float64)})


class Score(Statistic):
    """Its statistic is the score itself."""

    def path(self, view: View) -> Iterable[float]:
        return view.values["score"].tolist()


SCORE = Score("score", "score", 0.01, 100.0)


def exponential_views(runs: int) -> list[View]:
    random = np.random.default_rng(2)
    return [still_view(random.exponential(size=500), seed) for seed in range(runs)]


def test_a_threshold_is_tuned_to_the_rate_asked_for() -> None:
    judged = judge(SCORE, exponential_views(400), target=200)
    # Of an exponential score, one in 200 is above log(200).
    assert judged.parameter == pytest.approx(math.log(200), rel=0.05)
    assert judged.rate.mean == pytest.approx(200, rel=0.05)


def test_what_is_said_of_all_thresholds_at_once_is_what_each_says() -> None:
    views = exponential_views(50)
    for threshold in (1.0, 3.0, 6.0):
        rate = judge(SCORE, views, target=1, parameter=threshold).rate
        assert rate == Rate.of([SCORE.first(threshold, view) for view in views], [500] * 50)


def test_the_loosest_threshold_is_taken_where_none_alarms() -> None:
    parameter, rate = tune(lambda _: [None], [1_000], target=100, loose=1, strict=100)
    assert rate.alarms == 0
    assert parameter == pytest.approx(1, abs=0.01)


def test_a_delay_is_counted_from_the_change_and_an_alarm_before_it_starts_again() -> None:
    assert delay(SCORE, 5, still_view([0, 9, 0, 0, 9, 0], change=3)) == 2
    assert delay(SCORE, 5, still_view([0, 0, 0, 9], change=3)) == 1
    assert delay(SCORE, 5, still_view([0, 9, 0, 0], change=3)) is None
    assert delay(SCORE, 5, still_view([0, 9, 9, 0, 9], change=3).after(2)) == 2


def test_what_was_not_found_counts_as_the_whole_stream() -> None:
    assert median([10, None, 30], 1_500) == 30
    assert median([10, None, None], 1_500) == 1_500


def test_an_alarm_every_so_many_texts_comes_as_often() -> None:
    views = [still_view([0.0] * 300, seed) for seed in range(2_000)]
    rate = Rate.of([Interval("interval", "", 1.0, 1e6).first(1_000, view) for view in views], [300] * len(views))
    assert rate.alarms == pytest.approx(600, abs=4 * math.sqrt(600 * 0.7))
    # It does not begin anew after an alarm, nor where it begins to look.
    first = Interval("interval", "", 1.0, 1e6).first(100, views[0])
    assert first is not None
    assert Interval("interval", "", 1.0, 1e6).first(100, views[0].after(first + 1)) == 99


def test_streams_come_back_from_their_files_as_they_were(pool: Pool, tmp_path: Path) -> None:
    streams = [*still(pool, DOMAINS, 1, 1), Domain(pool, "news", 0).flips(), *turns(pool, "news", [("one", 700.0)])]
    views = []
    for stream in streams:
        warm = {"novelty": np.arange(len(stream.reference) // 3) / 8, "sketch": pool.sketches[stream.reference]}
        values = {"novelty": np.arange(len(stream.texts)) / 8, "sketch": pool.sketches[stream.texts]}
        views.append(View(stream, warm, values))
    save(views, pool.sketches, tmp_path)
    for view, back in zip(views, read(tmp_path), strict=True):
        assert (back.stream.key, back.stream.change) == (view.stream.key, view.stream.change)
        assert np.array_equal(back.stream.texts, view.stream.texts)
        assert np.array_equal(back.stream.flipped, view.stream.flipped)
        for name in view.warm:
            assert np.array_equal(back.warm[name], view.warm[name])
            assert np.array_equal(back.values[name], view.values[name])
