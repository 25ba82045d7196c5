import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import GateConfig
from daemon.gate.audit import audit
from daemon.gate.chance import holm, p_greater, p_more_often
from daemon.gate.verdict import Verdict, judge
from learners.job import Judged, Quality, Swapped, read_rows, write_rows

LABELS = ["down", "flat", "up"]
CONFIG = GateConfig()

Model = Callable[[int], list[float]]


def right(share: float, sure: float = 0.8) -> Model:
    """A model that is right on this share of the examples, spread evenly, and this sure of itself."""

    def probabilities(n: int) -> list[float]:
        hit = math.floor((n + 1) * share) > math.floor(n * share)
        best = (n if hit else n + 1) % 3
        return [sure if label == best else (1 - sure) / 2 for label in range(3)]

    return probabilities


def right_on(hits: np.typing.NDArray[np.bool_]) -> Model:
    return lambda n: right(float(hits[n]))(n)


def always(probabilities: list[float]) -> Model:
    return lambda _: probabilities


def rows(
    count: int,
    parent: Model | None,
    candidate: Model,
    *,
    group: Literal["fresh", "old"] = "fresh",
    source: str | None = None,
    key: str | None = None,
) -> list[Judged]:
    return [
        Judged(
            id=f"{group}{source}{key}{n}",
            label=LABELS[n % 3],
            source=source,
            key=key,
            group=group,
            parent=parent(n) if parent else None,
            candidate=candidate(n),
        )
        for n in range(count)
    ]


def verdict(
    judged: Sequence[Judged],
    *,
    slowdown: float = 1.0,
    config: GateConfig = CONFIG,
    seed: int = 0,
    rehearsed: bool = False,
) -> Verdict:
    return judge(judged, LABELS, slowdown=slowdown, config=config, seed=seed, rehearsed=rehearsed)


def marked(how: str, judged: list[Judged]) -> list[Judged]:
    return [row.model_copy(update={how: True, "id": f"{how} {row.id}"}) for row in judged]


@pytest.mark.parametrize("how", ["selected", "tempered"])
def test_examples_that_something_was_chosen_on_prove_nothing(how: str) -> None:
    flattered = marked(how, rows(100, right(0.6), right(0.9)))
    decided = verdict([*flattered, *rows(100, right(0.8), right(0.6), key="unseen")])

    assert not decided.promoted
    assert decided.fresh == 100


def test_a_better_candidate_goes_live_with_its_numbers() -> None:
    decided = verdict(rows(100, right(0.6), right(0.8)) + rows(60, right(0.7), right(0.7), group="old"))

    assert decided.promoted
    assert decided.because.startswith("accuracy 0.600 → 0.800 on 100 fresh labels, p = 0.0")
    assert decided.because.endswith("; worst old slice everything old +0.000")
    assert decided.p_better < CONFIG.alpha
    assert (decided.fresh, decided.parent_accuracy, decided.candidate_accuracy) == (100, 0.6, 0.8)
    assert decided.candidate_brier < decided.parent_brier


@pytest.mark.parametrize(
    ("parent", "candidate"), [(right(0.8), right(0.8)), (right(0.8), right(0.6)), (right(0.8), right(0.0))]
)
def test_a_candidate_that_is_no_better_stays_out(parent: Model, candidate: Model) -> None:
    decided = verdict(rows(100, parent, candidate))

    assert not decided.promoted
    assert decided.because.startswith("no better beyond chance: accuracy 0.800 → ")
    assert f"p = {decided.p_better:.3f}" in decided.because


def test_what_has_gone_over_everything_is_proved_on_the_past_as_well() -> None:
    little = [*rows(60, right(0.80), right(0.82)), *rows(600, right(0.80), right(0.86), group="old")]
    decided = verdict(little, rehearsed=True)

    assert decided.promoted, decided.because
    assert decided.because.startswith("accuracy 0.800 → 0.817 on 60 fresh labels, and with 600 old ones p = 0.0")
    assert (decided.fresh, decided.old) == (60, 600)
    assert not verdict(little).promoted
    # Nothing is proved on what something was chosen on.
    chosen = [row.model_copy(update={"selected": row.group == "old"}) for row in little]
    assert not verdict(chosen, rehearsed=True).promoted


@pytest.mark.parametrize(
    ("fresh", "says"),
    [
        (rows(400, right(0.80), right(0.70)), "surer but less accurate: accuracy 0.800 → 0.700"),
        (rows(400, right(0.80), right(0.80, sure=0.50)), "better at the past alone: accuracy 0.800 → 0.800"),
        (rows(10, right(0.80), right(0.90)), "only 10 fresh held-out labels"),
    ],
)
def test_but_not_on_the_past_alone(fresh: list[Judged], says: str) -> None:
    decided = verdict([*fresh, *rows(2_000, right(0.70), right(0.90), group="old")], rehearsed=True)

    assert not decided.promoted
    assert decided.because.startswith(says)


LITTLE = rows(60, right(0.80), right(0.82))
FORGOT = rows(100, right(0.9), right(0.5), group="old")
SHOUTS = rows(60, right(0.80), right(0.82, sure=0.99))


@pytest.mark.parametrize(
    ("judged", "unproved"),
    [
        (LITTLE, True),
        (rows(60, right(0.8), right(0.8)), True),
        (rows(60, right(0.8), right(0.79)), True),
        (rows(100, right(0.8), right(0.6)), False),
        (LITTLE[:29], True),
        (rows(20, right(0.9), right(0.3)), False),
        (rows(31, right(0.75), right(0.68)), True),
        ([*LITTLE, *FORGOT], False),
        (SHOUTS, False),
        (rows(100, right(0.6), right(0.8)), False),
    ],
    ids=[
        "a little better",
        "the same",
        "a little worse",
        "worse",
        "too few to tell",
        "too few, and yet worse",
        "less accurate by chance",
        "forgetful",
        "too sure",
        "proved",
    ],
)
def test_unproved_is_what_only_lacks_proof(judged: list[Judged], unproved: bool) -> None:
    assert verdict(judged).unproved == unproved


def test_a_candidate_with_its_labels_in_another_order_stays_out() -> None:
    decided = verdict(rows(100, right(0.8), lambda n: right(0.9)(n)[::-1]))

    assert not decided.promoted
    assert "no better beyond chance" in decided.because


def test_a_candidate_that_always_says_the_same_stays_out_though_the_stream_now_is_mostly_that() -> None:
    always_down = always([0.9, 0.05, 0.05])
    mostly_down = [row.model_copy(update={"label": "down"}) for row in rows(100, right(0.4), always_down)]
    decided = verdict(mostly_down + rows(120, right(0.8), always_down, group="old"))

    assert not decided.promoted
    assert decided.because == "forgets label flat: 0.800 → 0.000 on 40 examples"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["one fresh", "all", "one old"])
def test_a_candidate_whose_probabilities_are_not_numbers_never_goes_live(bad: float, where: str) -> None:
    judged = rows(100, right(0.5), right(1.0)) + rows(90, right(0.5), right(1.0), group="old")
    assert verdict(judged).promoted
    broken = {"one fresh": [0], "all": range(190), "one old": [150]}[where]
    for at in broken:
        judged[at] = judged[at].model_copy(update={"candidate": [0.2, bad, 0.2]})

    decided = verdict(judged)

    assert not decided.promoted
    assert decided.because == f"its probabilities are not numbers on {len(broken)} of 190 held-out examples"
    numbers = [value for value in decided.as_dict().values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))


def test_what_is_not_a_number_reaches_the_gate_through_the_learner_s_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "judged.jsonl", rows(100, right(0.5), always([math.nan, math.inf, 0.0])))
    quality = Quality(accuracy=0.3, macro_f1=0.2, loss=math.nan, calibration_error=0.1, seconds=1.0)

    decided = verdict(list(read_rows(tmp_path / "judged.jsonl", Judged)))

    assert decided.because == "its probabilities are not numbers on 100 of 100 held-out examples"
    assert math.isnan(Quality.model_validate_json(quality.model_dump_json()).loss)


def test_a_parent_whose_probabilities_are_not_numbers_can_be_replaced() -> None:
    assert verdict(rows(100, always([math.nan] * 3), right(0.8))).promoted


def test_a_candidate_that_forgets_one_source_stays_out_though_the_mean_rises() -> None:
    old = rows(300, right(0.5), right(0.9), group="old", source="wire")
    old += rows(60, right(0.9), right(0.5), group="old", source="blog")

    decided = verdict(rows(100, right(0.5), right(0.9)) + old)

    everything = next(one for one in decided.slices if one.name == "everything old")
    assert everything.candidate > everything.parent
    assert not decided.promoted
    assert decided.because == "forgets source blog: 0.900 → 0.500 on 60 examples"


def test_a_candidate_that_forgets_one_key_stays_out_though_its_source_rises() -> None:
    old = rows(300, right(0.5), right(0.9), group="old", source="wire")
    old += rows(60, right(0.9), right(0.5), group="old", source="wire", key="ACME")
    few = rows(CONFIG.slice_min - 1, right(1.0), right(0.0), group="old", source="wire", key="RARE")

    decided = verdict(rows(100, right(0.5), right(0.9)) + old + few)

    assert decided.because == "forgets key ACME: 0.900 → 0.500 on 60 examples"
    assert not [one for one in decided.slices if one.name == "key RARE"]


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.5))
def test_of_many_p_values_holm_finds_what_the_step_by_step_procedure_finds(values: list[float], alpha: float) -> None:
    found, left = [], sorted(values)
    while left and left[0] * len(left) < alpha:
        found.append(left.pop(0))

    assert sum(p < alpha for p in holm(values)) == len(found)
    assert all(counted >= p for counted, p in zip(holm(values), values, strict=True))


def test_a_fall_within_the_tolerance_or_easily_by_chance_is_let_through() -> None:
    fresh = rows(100, right(0.5), right(0.9))

    exactly = verdict(fresh + rows(1_000, right(1.0), right(0.97), group="old"))
    assert all(one.passed for one in exactly.slices if one.name == "everything old")
    noise = verdict(fresh + rows(30, right(1.0), right(0.94), group="old"))
    assert noise.promoted
    assert noise.slices[0].p_worse > CONFIG.alpha
    assert not verdict(fresh + rows(1_000, right(1.0), right(0.96), group="old")).promoted


@pytest.mark.parametrize(("count", "after", "promoted"), [(100, 0.85, True), (100, 0.75, False), (29, 0.85, False)])
def test_old_examples_that_promoted_nobody_clear_a_slice_that_seems_to_have_fallen(
    count: int, after: float, promoted: bool
) -> None:
    fresh = rows(100, right(0.5), right(0.9))
    old = rows(300, right(0.9), right(0.84), group="old")
    assert verdict(fresh + old).because == "forgets everything old: 0.900 → 0.840 on 300 examples"

    decided = verdict(fresh + old + marked("tempered", rows(count, right(0.85), right(after), group="old")))

    assert decided.promoted == promoted
    everything = decided.slices[0]
    assert (everything.examples, everything.change < -CONFIG.slice_tolerance) == (300 + count, True)
    if promoted:
        assert everything.unused == count
        assert everything.unused_change == pytest.approx(after - 0.85, abs=0.011)
        assert all(one.unused for one in decided.slices if -one.change > CONFIG.slice_tolerance)


def test_where_weights_were_chosen_on_old_examples_these_clear_nothing() -> None:
    fresh, old = rows(100, right(0.5), right(0.9)), rows(300, right(0.9), right(0.8), group="old")
    chosen = marked("selected", marked("tempered", rows(100, right(0.85), right(0.9), group="old")))
    assert verdict(fresh + old + chosen).because == "forgets everything old: 0.900 → 0.800 on 300 examples"


def test_a_candidate_that_says_a_label_more_rarely_and_more_rightly_has_forgotten_nothing() -> None:
    def often_down(n: int) -> list[float]:
        return [0.8, 0.1, 0.1] if n % 3 == 0 or n % 2 == 0 else right(1.0)(n)

    def seldom_down(n: int) -> list[float]:
        return [0.1, 0.8, 0.1] if n % 15 == 0 else right(1.0)(n)

    decided = verdict(rows(100, right(0.5), right(0.9)) + rows(300, often_down, seldom_down, group="old"))

    # Of the label, 80 of 100 are found and no longer all; but what is called so now is so.
    assert decided.promoted
    down = next(one for one in decided.slices if one.name == "label down")
    assert down.candidate > down.parent
    assert down.p_worse > 0.99


def test_by_chance_alone_a_candidate_is_said_to_forget_as_seldom_as_alpha() -> None:
    random = np.random.default_rng(0)
    trials, forgets = 60, 0
    config = GateConfig(slice_tolerance=0.0)
    for trial in range(trials):
        said = random.random((2, 120)) < 0.8
        old = rows(60, *map(right_on, said[:, :60]), group="old", source="wire")
        old += rows(60, *map(right_on, said[:, 60:]), group="old", source="blog")
        forgets += any(not one.passed for one in verdict(old, config=config, seed=trial).slices)

    # Three standard deviations above alpha: the slices together may err that often.
    assert forgets / trials <= config.alpha + 3 * math.sqrt(config.alpha * (1 - config.alpha) / trials)


def test_slices_too_small_to_judge_are_not_judged() -> None:
    few = CONFIG.slice_min - 1

    decided = verdict(rows(100, right(0.5), right(0.9)) + rows(few, right(1.0), right(0.0), group="old"))

    assert decided.promoted
    assert decided.slices == []


def test_too_few_fresh_labels_decide_nothing() -> None:
    few = CONFIG.min_examples - 1

    assert verdict(rows(few, right(0.0), right(1.0))).because == (
        f"only {few} fresh held-out labels; gate.min_examples is {few + 1}"
    )
    assert verdict([]).because == f"only 0 fresh held-out labels; gate.min_examples is {few + 1}"
    assert verdict(rows(few + 1, right(0.0), right(1.0))).promoted


@pytest.mark.parametrize("slowdown", [1.51, math.inf, math.nan])
def test_a_candidate_that_is_too_slow_stays_out(slowdown: float) -> None:
    judged = rows(100, right(0.5), right(0.9))

    assert verdict(judged, slowdown=1.5).promoted
    decided = verdict(judged, slowdown=slowdown)
    assert not decided.promoted
    assert decided.because == f"{slowdown:.2f} times as slow; gate.max_slowdown is 1.5"


def test_a_candidate_that_is_surer_but_less_often_right_stays_out() -> None:
    decided = verdict(rows(100, right(0.9, sure=0.36), right(0.85, sure=0.9)))

    assert decided.p_better < CONFIG.alpha
    assert decided.because == "surer but less accurate: accuracy 0.900 → 0.850 on 100 fresh labels"


def test_without_a_parent_a_candidate_is_measured_against_knowing_nothing() -> None:
    assert verdict(rows(100, None, right(0.8))).promoted
    assert not verdict(rows(100, None, always([1 / 3] * 3))).promoted
    assert not verdict(rows(100, None, right(0.1))).promoted


@given(st.integers(0, 2**32))
def test_a_decision_is_the_same_for_the_same_seed(seed: int) -> None:
    judged = rows(40, right(0.5), right(0.7))

    assert verdict(judged, seed=seed) == verdict(judged, seed=seed)


chances = st.lists(st.floats(0, 1, width=32) | st.just(math.nan), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(candidates=st.lists(chances, min_size=30, max_size=45))
def test_whatever_a_candidate_says_it_goes_live_only_with_a_lower_loss_and_no_fewer_right(
    candidates: list[list[float]],
) -> None:
    decided = verdict(rows(len(candidates), right(0.3), lambda n: candidates[n]))

    if decided.promoted:
        assert decided.candidate_brier < decided.parent_brier
        assert decided.candidate_accuracy >= decided.parent_accuracy
        assert np.isfinite(candidates).all()
    assert decided.because


@pytest.mark.parametrize("noise", ["normal", "coin", "heavy"])
def test_by_chance_alone_the_test_says_better_as_seldom_as_alpha(noise: str) -> None:
    random = np.random.default_rng(0)
    trials, alpha = 400, 0.1
    draws = {
        "normal": random.normal(size=(trials, 40)),
        "coin": random.choice([-1.0, 0.0, 1.0], size=(trials, 40)),
        "heavy": random.standard_t(2, size=(trials, 40)),
    }[noise]

    false = sum(p_greater(differences, seed=trial) < alpha for trial, differences in enumerate(draws))

    # Three standard deviations above alpha; ties make the coin's test shy, so there is no such bound below it.
    assert false / trials <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)
    assert false / trials > alpha / 3


def test_a_clear_gain_is_found_and_a_clear_loss_is_not_one() -> None:
    gain = np.random.default_rng(1).normal(0.5, 1, size=100)

    assert p_greater(gain, seed=0) < 0.01
    assert p_greater(-gain, seed=0) > 0.99


@given(zeros=st.integers(0, 50))
def test_where_nothing_differs_nothing_is_proved(zeros: int) -> None:
    assert p_greater(np.zeros(zeros), seed=0) == 1.0


@given(differences=st.lists(st.floats(-1, 1), max_size=20), zeros=st.integers(0, 20))
def test_a_p_value_is_never_zero_and_ties_do_not_move_it(differences: list[float], zeros: int) -> None:
    p = p_greater(np.array(differences), seed=3)

    assert 0 < p <= 1
    assert p_greater(np.array(differences + [0.0] * zeros), seed=3) == p


def test_a_candidate_that_has_grown_overconfident_stays_out() -> None:
    fresh = rows(100, right(0.5), right(0.8))
    old = rows(200, right(0.6, sure=0.6), right(0.6, sure=0.99), group="old")

    decided = verdict(fresh + old)

    assert decided.calibration is not None
    assert decided.calibration.candidate > decided.calibration.parent + CONFIG.calibration_tolerance
    assert decided.calibration.p_worse < CONFIG.alpha
    assert not decided.promoted
    assert decided.because.startswith("its confidence means less: calibration error 0.")


def test_a_candidate_whose_confidence_means_more_goes_live() -> None:
    decided = verdict(rows(100, right(0.5), right(0.8)) + rows(200, right(0.8, sure=0.99), right(0.8), group="old"))

    assert decided.promoted
    assert decided.calibration is not None
    assert decided.calibration.candidate < decided.calibration.parent


def test_by_chance_alone_confidence_is_said_to_mean_less_as_seldom_as_alpha() -> None:
    random = np.random.default_rng(0)
    trials, errors = 60, 0
    config = GateConfig(calibration_tolerance=0.0)
    for trial in range(trials):
        given = random.dirichlet([1, 1, 1], size=(2, 90)).tolist()
        judged = verdict(rows(90, given[0].__getitem__, given[1].__getitem__), config=config, seed=trial)
        assert judged.calibration is not None
        errors += not judged.calibration.passed

    assert errors / trials <= config.alpha + 3 * math.sqrt(config.alpha * (1 - config.alpha) / trials)


def with_names_swapped(judged: list[Judged], parent: Model, candidate: Model) -> list[Judged]:
    return [
        row.model_copy(update={"swapped": Swapped(parent=parent(n), candidate=candidate(n))})
        for n, row in enumerate(judged)
    ]


def test_a_candidate_that_judges_the_name_and_not_the_news_stays_out() -> None:
    judged = rows(100, right(0.5), right(0.8))

    decided = verdict(with_names_swapped(judged, right(0.5), always([0.8, 0.1, 0.1])))

    assert decided.invariance is not None
    assert (decided.invariance.parent, decided.invariance.examples) == (0.0, 50)
    assert not decided.promoted
    assert decided.because.endswith(" of 50 texts that were right change label with other names")


def test_a_candidate_that_judges_names_no_more_than_its_parent_goes_live() -> None:
    judged = rows(100, right(0.5), right(0.8))

    decided = verdict(with_names_swapped(judged, always([0.8, 0.1, 0.1]), always([0.8, 0.1, 0.1])))

    assert decided.promoted
    assert decided.invariance is not None
    assert decided.invariance.candidate > 0.5


def test_what_the_champion_does_not_know_says_nothing_of_names() -> None:
    judged = rows(100, right(0.2), right(0.8))

    # It says the same whatever the name is, and whatever the news is.
    decided = verdict(with_names_swapped(judged, right(0.2), always([0.8, 0.1, 0.1])))

    assert decided.promoted
    assert decided.invariance is None


def test_names_in_few_texts_decide_nothing() -> None:
    few = CONFIG.slice_min - 1
    judged = with_names_swapped(rows(few, right(0.5), right(0.8)), right(0.5), right(0.0))

    decided = verdict(judged + rows(70, right(0.5), right(0.8), key="without names"))

    assert decided.promoted
    assert decided.invariance is None


def test_a_candidate_that_is_broken_by_other_names_never_goes_live() -> None:
    judged = with_names_swapped(rows(100, right(0.5), right(0.8)), right(0.5), always([math.nan] * 3))

    assert verdict(judged).because == "its probabilities are not numbers on 100 of 100 held-out examples"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_of_two_yes_or_no_answers_only_those_that_differ_count(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array([pair[at] for pair in pairs], dtype=np.bool_) for at in (0, 1))
    only_first, differ = int(np.sum(first & ~second)), int(np.sum(first ^ second))

    least = sum(math.comb(differ, k) for k in range(only_first, differ + 1)) / 2**differ

    assert p_more_often(first, second) == pytest.approx(least)


def test_a_record_holds_what_it_takes_to_decide_again() -> None:
    judged = rows(100, right(0.6), right(0.8)) + rows(60, right(0.7), right(0.7), group="old")
    decided = verdict(judged, seed=7)

    record = decided.as_dict()
    again = verdict(judged, slowdown=record["slowdown"], config=GateConfig(**record["settings"]), seed=record["seed"])

    assert again == decided


def test_an_audit_finds_the_slice_that_fell() -> None:
    kept = rows(200, right(0.6), right(0.8)) + rows(100, right(0.8), right(0.8), group="old", source="wire")
    fallen = rows(100, right(0.9), right(0.5), group="old", source="blog")

    good, bad = (audit(judged, LABELS, CONFIG, seed=0) for judged in (kept, kept + fallen))

    assert good.fell == []
    assert good.because == "7 slices kept on 300 audit examples; worst everything old 0.800 → 0.800 on 100"
    assert "source blog" in bad.fell
    assert bad.because.endswith("slices fell on 400 audit examples; worst source blog 0.900 → 0.500 on 100")
    assert audit([], LABELS, CONFIG, seed=0).because == "0 audit examples, too few for a slice of 30"
