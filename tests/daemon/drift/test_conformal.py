from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.drift.conformal import (
    BLOCK,
    ERROR,
    MAX_SLICES,
    TRUTH,
    YOUNG,
    Conformal,
    Finding,
    Labels,
    Place,
    State,
)
from daemon.drift.signals import INPUTS, MIX, Signals, Texts
from tests.sentences import sentence

DIMENSIONS, LABELS = 6, 3

#: High enough for no false alarm in the streams below, whose seeds are fixed.
THRESHOLD = 5_000.0


def texts(count: int, seed: int = 1, *, new: float = 0.0, mix: Sequence[float] = (1, 1, 1)) -> Texts:
    """Sentences of which so large a share is `new` by its sketch. `mix` is how probable each label mostly is."""
    rng = np.random.default_rng(seed)
    said = [sentence(int(number))[0] for number in rng.integers(0, 500, count)]
    centres = np.where(rng.random((count, 1)) < new, 4.0, 0.0)
    sketches = (centres + rng.normal(0, 1, (count, DIMENSIONS))).astype(np.float32)
    return Texts(said, sketches, rng.dirichlet(mix, count))


def labels(count: int, seed: int = 1, *, wrong: float = 0.1, mix: Sequence[float] = (1, 1, 1)) -> Labels:
    """True labels, each as frequent as `mix` says, of scores of which so large a share is `wrong`."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(LABELS, count, p=np.array(mix) / sum(mix))
    said = np.where(rng.random(count) < wrong, (truth + 1) % LABELS, truth)
    probabilities = rng.uniform(0.02, 0.2, (count, LABELS))
    probabilities[np.arange(count), said] = 1 - (probabilities.sum(axis=1) - probabilities[np.arange(count), said])
    return Labels(truth, probabilities)


def place(count: int, *, sources: Sequence[str] = (), keys: Sequence[str] = (), start: int = 0, seed: int = 1) -> Place:
    """One text every 10 seconds, from any of `sources` and on any of `keys`."""
    rng = np.random.default_rng([seed, start])
    chosen = [[str(rng.choice(names)) if len(names) else None for _ in range(count)] for names in (sources, keys)]
    return Place(chosen[0], chosen[1], 10.0 * np.arange(start, start + count))


def joined(*parts: Texts) -> Texts:
    said = [text for part in parts for text in part.texts]
    return Texts(said, np.concatenate([p.sketches for p in parts]), np.concatenate([p.probabilities for p in parts]))


def watching(
    threshold: float = THRESHOLD, seed: int = 1, window: Texts | None = None, *, young: bool = False
) -> Conformal:
    """With a reference of which a third are neighbours, as the monitor makes it."""
    window = texts(450, seed=90 + seed) if window is None else window
    at = np.arange(len(window.texts))
    conformal = Conformal(threshold, seed)
    signals = Signals.of(window.part(at[at % 3 == 0]), nearest=4)
    conformal.refer(signals, window.part(at[at % 3 != 0]), young=young)
    return conformal


def take_texts(conformal: Conformal, given: Texts, where: Place) -> tuple[int, Finding | None]:
    """As many as there are, or up to an alarm, whose index is then that of all."""
    done = 0
    while done < len(given.texts):
        taken, finding = conformal.take_texts(given.part(slice(done, None)), where.part(slice(done, None)))
        done += taken
        if finding:
            return done, replace(finding, index=done - taken + finding.index)
    return done, None


def take_labels(conformal: Conformal, given: Labels, where: Place) -> tuple[int, Finding | None]:
    done = 0
    while done < len(given.truth):
        rest = given.part(slice(done, None))
        taken, finding = conformal.take_labels(rest, where.part(slice(done, None)))
        done += taken
        if finding:
            return done, replace(finding, index=done - taken + finding.index)
    return done, None


def alarm_of(found: tuple[int, Finding | None]) -> Finding:
    taken, finding = found
    assert finding is not None
    assert finding.index == taken - 1
    assert finding.evidence >= 1
    assert sum(finding.signals.values()) == pytest.approx(1)
    assert finding.ago >= 1
    return finding


def test_while_nothing_changes_the_mean_time_to_an_alarm_is_at_least_the_threshold() -> None:
    threshold, at_a_time, times = 200, 25, []
    for seed in range(60):
        conformal, done = watching(threshold, seed, texts(180, seed=1_000 + seed)), 0
        found: tuple[int, Finding | None] = (0, None)
        while not found[1]:
            where = place(at_a_time, sources=["a", "b"], keys=list("ABCDE"), start=done, seed=seed)
            found = take_texts(conformal, texts(at_a_time, seed=2_000_000 + 1_000 * seed + done), where)
            done += found[0]
            if not found[1]:
                found = take_labels(conformal, labels(at_a_time, seed=1_000_000 + 1_000 * seed + done), where)
        times.append(done)

    error = np.std(times) / np.sqrt(len(times))
    assert np.mean(times) > threshold - 2 * error
    # It is a guarantee, and not so wide a one that changes are found late for it.
    assert np.mean(times) < 5 * threshold


def test_a_stream_that_stays_the_same_raises_no_alarm() -> None:
    conformal = watching()

    assert take_texts(conformal, texts(1_500), place(1_500, sources=["a", "b"], keys=["A", "B"])) == (1_500, None)
    assert take_labels(conformal, labels(1_500), place(1_500, sources=["a", "b"])) == (1_500, None)
    assert 0 < conformal.statistic < 1


def test_new_texts_are_found_with_what_moved_and_when() -> None:
    found = take_texts(watching(), joined(texts(300), texts(200, seed=2, new=0.5)), place(500))

    finding = alarm_of(found)
    assert (finding.side, finding.slice, finding.rose) == ("texts", "", True)
    assert finding.signal in ("meaning", "novelty")
    assert finding.signals["meaning"] + finding.signals["novelty"] > 0.9
    assert set(finding.signals) == {*INPUTS, MIX}
    assert 300 < finding.index < 350
    assert finding.index - finding.ago + 1 == pytest.approx(300, abs=8)
    assert finding.moment == pytest.approx(10 * 300, abs=80)


def test_a_label_that_is_predicted_more_often_is_named() -> None:
    found = take_texts(watching(), joined(texts(300), texts(300, seed=2, mix=(1, 4, 1))), place(600))

    finding = alarm_of(found)
    assert (finding.signal, finding.label, finding.rose) == (MIX, 1, True)
    assert finding.index - finding.ago + 1 == pytest.approx(300, abs=60)


@pytest.mark.parametrize("kind", ["source", "key"])
def test_a_change_in_one_source_or_on_one_key_is_found_there(kind: str) -> None:
    eight, two = list("abcdefgh"), list("xy")
    sources, keys = (eight, two) if kind == "source" else (two, eight)
    where = place(3_000, sources=sources, keys=keys)
    names = where.sources if kind == "source" else where.keys
    moved = np.flatnonzero([name == "c" and at >= 2_400 for at, name in enumerate(names)])
    given = texts(3_000, seed=5)
    given.sketches[moved] += 1

    finding = alarm_of(take_texts(watching(), given, where))

    assert (finding.slice, finding.signal, finding.rose) == (f"{kind} c", "novelty", True)
    # It counts the texts of that part.
    assert finding.ago == pytest.approx((moved <= finding.index).sum(), abs=3)
    assert finding.moment == pytest.approx(10 * moved[0], abs=300)


def test_labels_tell_that_errors_rose() -> None:
    where = place(600)
    before, after = labels(300), labels(300, seed=2, wrong=0.6)
    given = Labels(np.r_[before.truth, after.truth], np.r_[before.probabilities, after.probabilities])

    finding = alarm_of(take_labels(Conformal(THRESHOLD, 1), given, where))

    assert (finding.side, finding.signal, finding.label, finding.rose) == ("labels", ERROR, None, True)
    assert finding.index - finding.ago + 1 == pytest.approx(300, abs=15)
    assert finding.moment == pytest.approx(3_000, abs=150)


def test_labels_tell_that_errors_fell() -> None:
    before, after = labels(400, wrong=0.7), labels(400, seed=2, wrong=0.05)
    given = Labels(np.r_[before.truth, after.truth], np.r_[before.probabilities, after.probabilities])

    finding = alarm_of(take_labels(Conformal(THRESHOLD, 1), given, place(800)))

    assert (finding.signal, finding.rose) == (ERROR, False)


def test_labels_tell_which_of_them_became_frequent() -> None:
    before, after = labels(400), labels(400, seed=2, mix=(1, 1, 9))
    given = Labels(np.r_[before.truth, after.truth], np.r_[before.probabilities, after.probabilities])

    finding = alarm_of(take_labels(Conformal(THRESHOLD, 1), given, place(800)))

    assert finding.signal == TRUTH
    assert (finding.label, finding.rose) in [(2, True), (0, False), (1, False)]


def test_errors_that_rise_in_one_source_are_found_there() -> None:
    where = place(4_000, sources=list("abcdefgh"))
    moved = np.array([source == "c" and at >= 3_000 for at, source in enumerate(where.sources)])
    right, wrong = labels(4_000, wrong=0.02), labels(4_000, wrong=0.98)
    given = Labels(right.truth, np.where(moved[:, None], wrong.probabilities, right.probabilities))

    assert alarm_of(take_labels(Conformal(THRESHOLD, 1), given, where)).slice == "source c"


def test_a_young_reference_takes_so_many_times_the_evidence_of_texts_and_none_of_labels() -> None:
    young, full = watching(np.inf, young=True), watching(np.inf)
    for conformal in (young, full):
        conformal.take_texts(texts(80, new=0.3), place(80))
    assert young._gathered() * YOUNG == pytest.approx(full._gathered())

    for conformal in (young, full):
        conformal.refer(watching().signals, texts(90), young=conformal is young)
        conformal.take_labels(labels(80, wrong=0.6), place(80))
    assert young._gathered() == pytest.approx(full._gathered())


def test_a_young_reference_is_young_after_a_restart() -> None:
    young, again = watching(young=True), Conformal(THRESHOLD, 1)
    again.restore({name: state for name, state in young.changes().items() if state is not None})
    for conformal in (young, again):
        conformal.take_texts(texts(30, new=0.3), place(30))
    assert again.statistic == young.statistic > 0


def test_evidence_of_labels_is_theirs_though_a_text_brings_the_last_of_it() -> None:
    def told_by_labels(count: int) -> tuple[Conformal, int]:
        conformal = watching(400.0)
        take_texts(conformal, texts(200), place(200))
        take_labels(conformal, labels(200), place(200))
        more = labels(200, seed=29, wrong=0.35)
        part = more.part(slice(0, count))
        return conformal, take_labels(conformal, part, place(count, start=200))[0]

    _, at_the_alarm = told_by_labels(200)
    conformal, _ = told_by_labels(at_the_alarm - 1)
    assert 0.8 < conformal.statistic < 1

    finding = alarm_of(take_texts(conformal, texts(400, seed=3), place(400, start=200)))

    assert (finding.side, finding.signal) == ("labels", ERROR)
    assert finding.moment <= 10.0 * (200 + at_the_alarm)


def test_errors_no_more_than_before_do_no_harm() -> None:
    harmed = 0
    for seed in range(60):
        conformal = Conformal(float("inf"), seed)
        take_labels(conformal, labels(100, seed=seed), place(100))
        conformal.watch_harm(1_000.0)
        take_labels(conformal, labels(150, seed=500 + seed), place(150, start=100))
        harmed += conformal.harmed

    # Once in a hundred, by Ville's inequality.
    assert harmed <= 2


def test_errors_that_rise_at_texts_since_then_do_harm() -> None:
    conformal = Conformal(float("inf"), 1)
    take_labels(conformal, labels(200), place(200))

    conformal.watch_harm(2_000.0)
    assert not conformal.harmed
    take_labels(conformal, labels(60, seed=2, wrong=0.7), place(60, start=200))

    assert conformal.harmed
    take_labels(conformal, labels(300, seed=3, wrong=0.0), place(300, start=260))
    assert conformal.harmed
    conformal.watch_harm(None)
    assert not conformal.harmed


def test_late_labels_of_texts_from_before_do_no_harm() -> None:
    conformal = Conformal(float("inf"), 1)
    take_labels(conformal, labels(200), place(200))

    conformal.watch_harm(9_000.0)
    take_labels(conformal, labels(60, seed=2, wrong=0.7), place(60, start=200))

    assert not conformal.harmed


def test_errors_that_fall_do_no_harm() -> None:
    conformal = Conformal(float("inf"), 1)
    take_labels(conformal, labels(200, wrong=0.7), place(200))

    conformal.watch_harm(2_000.0)
    take_labels(conformal, labels(200, seed=2, wrong=0.0), place(200, start=200))

    assert not conformal.harmed


def test_with_the_evidence_turned_off_no_change_however_long_is_an_alarm() -> None:
    conformal = watching(float("inf"))
    take_texts(conformal, texts(5_000), place(5_000))

    assert take_texts(conformal, texts(2_000, seed=2, new=1.0), place(2_000)) == (2_000, None)
    assert conformal.statistic == 0


def test_without_a_reference_texts_are_not_watched_and_labels_are() -> None:
    conformal = Conformal(THRESHOLD, 1)

    assert conformal.signals is None
    assert take_texts(conformal, texts(9), place(9)) == (9, None)
    assert conformal.unusual(texts(9)).tolist() == [1.0] * 9
    take_labels(conformal, labels(30), place(30))
    assert conformal.statistic > 0


def test_another_reference_forgets_what_texts_told_and_not_what_labels_did() -> None:
    conformal, window = watching(), texts(90, seed=5, new=1.0)
    take_labels(conformal, labels(50), place(50))
    take_texts(conformal, texts(50), place(50, sources=["a"]))
    conformal.lose_reference()
    told_by_labels = conformal.statistic
    assert told_by_labels > 0

    conformal.refer(Signals.of(window.part(slice(0, 30)), 4), window.part(slice(30, None)))

    assert conformal.statistic == pytest.approx(told_by_labels)
    # What was new is what is usual now.
    assert take_texts(conformal, texts(300, seed=6, new=1.0), place(300)) == (300, None)


def test_labels_that_start_anew_forget_what_labels_told() -> None:
    conformal = watching()
    take_labels(conformal, labels(50), place(50, sources=["a"]))

    conformal.start_labels()

    assert conformal.statistic == 0


def test_evidence_that_stops_begins_again_against_the_same_past() -> None:
    conformal = watching()
    take_texts(conformal, texts(300), place(300, sources=["a"]))
    finding = alarm_of(take_texts(conformal, texts(300, seed=2, new=0.5), place(300, sources=["a"])))

    conformal.stop_evidence()

    assert conformal.statistic == 0
    again = alarm_of(take_texts(conformal, texts(300, seed=3, new=0.7), place(300, sources=["a"])))
    assert again.index <= 3 * finding.index


def test_new_texts_are_unusual_by_their_wording_where_they_have_no_sketch() -> None:
    conformal, given = watching(), texts(60, seed=3)
    slang = Texts(
        [sentence(number, slang=True)[0] for number in range(60)], given.sketches * np.nan, given.probabilities
    )

    usual, new = conformal.unusual(given), conformal.unusual(texts(60, seed=4, new=1.0))

    assert usual.mean() == pytest.approx(0.5, abs=0.15)
    assert new.max() < 0.05
    assert np.isfinite(conformal.unusual(slang)).all()
    assert conformal.unusual(slang).mean() < 0.2


class Stored:
    """What `changes` gave, and each time another that goes on from it, as after a restart."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.states: dict[str, State] = {}
        self._threshold = threshold

    def restart(self, conformal: Conformal) -> Conformal:
        for name, state in conformal.changes().items():
            if state is None:
                self.states.pop(name, None)
            else:
                self.states[name] = {part: array.copy() for part, array in state.items()}
        again = Conformal(self._threshold, 1)
        again.restore(self.states)
        return again

    @property
    def keys(self) -> list[str]:
        return [name.removeprefix("texts/key ") for name in self.states if name.startswith("texts/key ")]


def test_only_so_many_slices_are_watched_and_the_longest_silent_give_way() -> None:
    keys = [f"k{number}" for number in range(MAX_SLICES + 100)]
    conformal, stored = watching(), Stored()
    # Some come again and again, the others once.
    order = [name for start in range(40, len(keys), 10) for name in keys[:40] + keys[start : start + 10]]
    count = len(order) // BLOCK * BLOCK

    take_texts(conformal, texts(count), Place([None] * count, order[:count], 10.0 * np.arange(count)))
    stored.restart(conformal)

    latest = list(dict.fromkeys(order[:count][::-1]))[:MAX_SLICES]
    assert set(keys[:40]) < set(latest)
    assert sorted(stored.keys) == sorted(latest)


def test_slices_that_are_watched_no_more_are_no_longer_stored() -> None:
    conformal, stored = watching(), Stored()
    for start in range(0, 4 * BLOCK, 32):
        names = [f"k{number}" for number in range(start, start + 32)]
        take_texts(conformal, texts(32, seed=start), Place([None] * 32, names, 10.0 * np.arange(32)))
        conformal = stored.restart(conformal)

    assert sorted(stored.keys) == sorted(f"k{number}" for number in range(4 * BLOCK - MAX_SLICES, 4 * BLOCK))


def test_only_what_has_changed_is_to_be_stored() -> None:
    conformal = watching()
    take_texts(conformal, texts(40), place(40, sources=["a", "b"]))
    assert set(conformal.changes()) == {"conformal", "reference", "texts/", "texts/source a", "texts/source b"}
    assert set(conformal.changes()) == {"conformal"}

    take_labels(conformal, labels(2), Place(["a", "a"], [None, None], np.zeros(2)))
    assert set(conformal.changes()) == {"conformal", "labels/", "labels/source a"}

    conformal.lose_reference()
    lost = conformal.changes()
    assert {name for name, state in lost.items() if state is None} == {
        "reference",
        "texts/",
        "texts/source a",
        "texts/source b",
    }


def test_a_slice_may_have_any_name() -> None:
    conformal, stored = watching(), Stored()
    names = ["a b", "source a", "ß/ü", "key ", "'; DROP TABLE blobs; --", "价"]

    take_texts(conformal, texts(6), Place(names, names[::-1], np.arange(6.0)))
    again = stored.restart(conformal)

    assert again.statistic == conformal.statistic > 0


# More keys than are watched, so that some give way; and a source that moves.
LENGTH = 640
PLACE = place(LENGTH, sources=["a", "b", "c"], keys=[f"k{number}" for number in range(2 * MAX_SLICES)])
TEXTS = texts(LENGTH)
TEXTS.sketches[[source == "b" and at >= 500 for at, source in enumerate(PLACE.sources)]] += 4
TRUTHS = labels(LENGTH)

#: Texts after which their labels come.
EVERY = 80


def alarms(cuts: Sequence[int], restarts: Sequence[int] = ()) -> list[tuple[int, Finding]]:
    """The alarms of these texts and their labels, and at which text, with batches that end at `cuts` and `restarts`."""
    conformal, stored, found = watching(400.0), Stored(400.0), list[tuple[int, Finding]]()
    edges = sorted({*range(0, LENGTH + 1, EVERY), *cuts, *restarts})
    for start, end in pairwise(edges):
        if start in restarts:
            conformal = stored.restart(conformal)
        done = start
        while done < end:
            part = slice(done, end)
            taken, finding = conformal.take_texts(TEXTS.part(part), PLACE.part(part))
            done += taken
            if finding:
                found.append((done - 1, replace(finding, index=0)))
                conformal.stop_evidence()
        if end % EVERY == 0:
            part = slice(end - EVERY, end)
            take_labels(conformal, Labels(TRUTHS.truth[part], TRUTHS.probabilities[part]), PLACE.part(part))
    return found


STRAIGHT = alarms([])


@settings(deadline=None, max_examples=8)
@given(
    cuts=st.lists(st.integers(0, LENGTH), max_size=6),
    restarts=st.lists(st.integers(0, LENGTH), max_size=3),
)
def test_however_the_stream_is_cut_and_restarted_the_alarms_are_the_same(cuts: list[int], restarts: list[int]) -> None:
    assert alarms(cuts, restarts) == STRAIGHT
    assert len(STRAIGHT) > 1


def test_a_restart_changes_no_state() -> None:
    conformal, stored = watching(), Stored()
    where = place(300, sources=["a", "b"], keys=["A", "B", "C"])
    conformal.watch_harm(500.0)
    take_texts(conformal, texts(300), where)
    take_labels(conformal, labels(300), where)
    before = stored.restart(conformal).changes()

    # Of a whole state, all is given again once it is touched.
    again = stored.restart(conformal)
    take_texts(again, texts(30, seed=4), place(30, sources=["a", "b"], keys=["A", "B", "C"]))
    take_texts(conformal, texts(30, seed=4), place(30, sources=["a", "b"], keys=["A", "B", "C"]))
    one, other = again.changes(), conformal.changes()

    assert set(before) == {"conformal"}
    assert one.keys() == other.keys()
    for name, state in one.items():
        expected = other[name]
        assert state is not None
        assert expected is not None
        assert all(np.array_equal(array, expected[part], equal_nan=True) for part, array in state.items())


def test_states_of_something_else_are_refused() -> None:
    stored = Stored()
    stored.restart(watching())
    without = {name: state for name, state in stored.states.items() if name != "texts/"}

    with pytest.raises(KeyError):
        Conformal(THRESHOLD, 1).restore(without)
    with pytest.raises(KeyError):
        Conformal(THRESHOLD, 1).restore({})
