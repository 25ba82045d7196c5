import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score

from daemon.prequential import Confusion, Prequential

labels = st.sampled_from(["negative", "neutral", "positive"])
outcomes = st.lists(st.tuples(labels, labels), min_size=1, max_size=60)


def judged(pairs: list[tuple[str, str]], *, window: int = 5, version: str = "v1") -> Prequential:
    prequential = Prequential(version, window=window, max_slices=100)
    for truth, predicted in pairs:
        prequential.observe(version=version, truth=truth, predicted=predicted)
    return prequential


@given(pairs=outcomes)
def test_accuracy_and_macro_f1_are_the_usual_ones(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = [list(column) for column in zip(*pairs, strict=True)]
    overall = judged(pairs).overall

    assert overall.accuracy == pytest.approx(accuracy_score(truth, predicted))
    f1 = f1_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert overall.macro_f1 == pytest.approx(f1)


def test_a_label_that_never_occurs_in_truth_has_no_f1() -> None:
    assert Confusion([("up", "up", 3), ("up", "flat", 1)]).macro_f1 == pytest.approx(6 / 7)


def test_before_the_first_label_nothing_is_claimed() -> None:
    assert Confusion().accuracy is None
    assert Confusion().macro_f1 is None


@given(pairs=outcomes, window=st.integers(1, 20))
def test_the_window_holds_the_last_labels(pairs: list[tuple[str, str]], window: int) -> None:
    recent = judged(pairs, window=window).recent

    assert recent.counts() == judged(pairs[-window:], window=1000).overall.counts()


def test_a_swap_empties_the_window_and_late_labels_of_the_old_version_stay_out_of_it() -> None:
    prequential = judged([("up", "up")] * 3)
    prequential.swap("v2")
    prequential.observe(version="v1", truth="up", predicted="down")
    prequential.observe(version="v2", truth="down", predicted="down")

    assert prequential.recent.counts() == [("down", "down", 1)]
    assert prequential.versions["v1"].accuracy == 0.75
    assert prequential.versions["v2"].accuracy == 1
    assert prequential.overall.accuracy == 0.8


def test_keys_and_sources_are_counted_apart() -> None:
    prequential = Prequential("v1", window=5, max_slices=100)
    prequential.observe(version="v1", truth="up", predicted="up", key="AAPL", source="wire")
    prequential.observe(version="v1", truth="up", predicted="down", key="MSFT", source="wire")
    prequential.observe(version="v1", truth="up", predicted="down")

    assert [(key, prequential.keys[key].accuracy) for key in prequential.keys] == [("AAPL", 1), ("MSFT", 0)]
    assert prequential.sources["wire"].accuracy == 0.5
    assert prequential.sources["elsewhere"].accuracy is None


def test_the_longest_silent_key_gives_way() -> None:
    prequential = Prequential("v1", window=5, max_slices=2)
    for key in ("a", "b", "a", "c"):
        prequential.observe(version="v1", truth="up", predicted="up", key=key)

    assert list(prequential.keys) == ["a", "c"]
    assert prequential.keys["a"].total == 2
    assert prequential.overall.total == 4


steps = st.lists(
    st.tuples(st.sampled_from(["v1", "v2", "swap"]), labels, labels, st.sampled_from([None, "a", "b", "c"])),
    max_size=40,
)


def take(prequential: Prequential, taken: list[tuple[str, str, str, str | None]]) -> None:
    for version, truth, predicted, name in taken:
        if version == "swap":
            prequential.swap("v2")
        else:
            prequential.observe(version=version, truth=truth, predicted=predicted, key=name, source=name)


@given(taken=steps, cut=st.integers(0, 40))
def test_a_restart_changes_nothing(taken: list[tuple[str, str, str, str | None]], cut: int) -> None:
    straight, stopped = Prequential("v1", window=4, max_slices=2), Prequential("v1", window=4, max_slices=2)
    take(straight, taken)
    take(stopped, taken[:cut])

    restarted = Prequential.restored(json.loads(json.dumps(stopped.state())), window=4, max_slices=2)
    take(restarted, taken[cut:])

    assert restarted.state() == straight.state()
    assert restarted.recent.counts() == straight.recent.counts()


def test_smaller_bounds_forget_the_oldest() -> None:
    prequential = Prequential("v1", window=5, max_slices=5)
    for key in ("a", "b", "c"):
        prequential.observe(version="v1", truth="up", predicted=key, key=key)

    restored = Prequential.restored(prequential.state(), window=2, max_slices=1)

    assert list(restored.keys) == ["c"]
    assert restored.recent.counts() == [("up", "b", 1), ("up", "c", 1)]


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValidationError):
        Prequential.restored({"version": "v1"}, window=2, max_slices=1)
