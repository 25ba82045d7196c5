from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import DetectorConfig, DriftConfig
from daemon.drift.conformal import Labels, Place
from daemon.drift.kinds import CONFORMAL, EVERYTHING
from daemon.drift.monitor import Alarm, DriftMonitor, Scores, Truths
from daemon.drift.signals import Texts
from tests.sentences import sentence

#: Conformal evidence alone; the streams below, whose seeds are fixed, have no false alarm.
PLAIN = DriftConfig(reference=150, neighbours=3, false_alarm_every=5_000)

#: Other detectors beside it.
BESIDE = PLAIN.model_copy(
    update={
        "detectors": [
            DetectorConfig(kind="adwin", signal="uncertainty", options={"clock": 8}),
            DetectorConfig(
                kind="kswin", signal="novelty", options={"alpha": 1e-6, "window_size": 100, "stat_size": 40}
            ),
            DetectorConfig(kind="mmd", signal="sketch", options={"reference": 100, "window": 50, "permutations": 999}),
            DetectorConfig(kind="page_hinkley", signal="error", options={"threshold": 15, "delta": 0.05}),
        ]
    }
)

#: Those alone.
ALONE = BESIDE.model_copy(update={"false_alarm_every": 0})

#: Texts before the change and in all.
CHANGE, TEXTS = 400, 700

LABELS = ("down", "flat", "up")


def stream(
    *,
    novelty: float = 0.0,
    doubt: float = 0.0,
    slang: bool = False,
    mix: Sequence[float] = (1, 1, 1),
    start: int = 0,
    seed: int = 1,
    dimensions: int = 6,
) -> Scores:
    """Texts, one every 10 seconds; at `CHANGE` their sketches, top probability, words or label mix move."""
    rng = np.random.default_rng(seed)
    late = np.arange(start, start + TEXTS) >= start + CHANGE
    said = [
        sentence(int(one), slang=slang and bool(at))[0]
        for one, at in zip(rng.integers(0, 500, TEXTS), late, strict=True)
    ]
    sketches = rng.normal(novelty * late[:, None], 1, (TEXTS, dimensions)).astype(np.float32)
    top = np.clip(rng.normal(0.8 - doubt * late, 0.05), 0.4, 0.99)
    label = np.where(late, rng.choice(3, TEXTS, p=np.array(mix) / sum(mix)), rng.integers(0, 3, TEXTS))
    probabilities = np.repeat((1 - top)[:, None] / 2, 3, axis=1)
    probabilities[np.arange(TEXTS), label] = top
    moments = 10.0 * np.arange(start, start + TEXTS)
    return Scores(Texts(said, sketches, probabilities), Place([None] * TEXTS, [None] * TEXTS, moments), LABELS)


def truths(wrong_before: float = 0.1, wrong: float = 0.1, *, mix: Sequence[float] = (1, 1, 1), seed: int = 5) -> Truths:
    """Labels of as many texts, of which so large a share was scored wrong before `CHANGE` and after it."""
    rng = np.random.default_rng(seed)
    late = np.arange(TEXTS) >= CHANGE
    truth = np.where(late, rng.choice(3, TEXTS, p=np.array(mix) / sum(mix)), rng.integers(0, 3, TEXTS))
    said = np.where(rng.random(TEXTS) < np.where(late, wrong, wrong_before), (truth + 1) % 3, truth)
    probabilities = np.full((TEXTS, 3), 0.1)
    probabilities[np.arange(TEXTS), said] = 0.8
    return Truths(Labels(truth, probabilities), Place([None] * TEXTS, [None] * TEXTS, 10.0 * np.arange(TEXTS)), LABELS)


def part(scores: Scores, of: slice) -> Scores:
    return Scores(scores.texts.part(of), scores.place.part(of), scores.labels)


def part_of_truths(truths: Truths, of: slice) -> Truths:
    return Truths(truths.labels.part(of), truths.place.part(of), truths.names)


def part_of(scores: Scores, of: slice) -> Scores:
    return Scores(scores.texts.part(of), scores.place.part(of), scores.labels)


class Watched:
    """A monitor whose caller keeps all texts, gives it the reference windows it wants, and renews them at alarms."""

    def __init__(self, config: DriftConfig = PLAIN) -> None:
        self._config = config
        self.monitor = DriftMonitor(config, seed=1)
        self.stored: dict[str, bytes] = {}
        self.referred: list[int] = []
        self._said: list[Texts] = []

    @property
    def seen(self) -> int:
        return len(self._said)

    def latest(self, count: int) -> Texts:
        parts = self._said[-count:]
        said = [text for one in parts for text in one.texts]
        return Texts(
            said, np.concatenate([p.sketches for p in parts]), np.concatenate([p.probabilities for p in parts])
        )

    def take(self, scores: Scores) -> list[Alarm]:
        """The alarms at these texts, counted from the first ever taken."""
        found: list[Alarm] = []
        while scores.texts.texts:
            taken, alarms = self.monitor.observe_scores(scores)
            start = self.seen
            self._said += [scores.texts.part(slice(at, at + 1)) for at in range(taken)]
            found += [replace(alarm, index=start + alarm.index) for alarm in alarms]
            for alarm in alarms:
                if alarm.calls_for_reference:
                    assert alarm.ago is not None
                    self.monitor.renew(alarm.ago)
            if wanted := self.monitor.wanted:
                self.monitor.refer(self.latest(wanted))
                self.referred.append(wanted)
            scores = scores.after(taken)
        return found

    def take_labels(self, truths: Truths) -> list[Alarm]:
        found: list[Alarm] = []
        done = 0
        while len(truths.labels.truth):
            taken, alarms = self.monitor.observe_labels(truths)
            found += [replace(alarm, index=done + alarm.index) for alarm in alarms]
            truths, done = truths.after(taken), done + taken
        return found

    def restart(self, config: DriftConfig | None = None) -> None:
        for name, value in self.monitor.changes().items():
            if value is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = value
        self.monitor = DriftMonitor(config or self._config, seed=1)
        self.monitor.restore(self.stored)


def test_new_texts_are_an_alarm_of_the_inputs_that_says_since_when() -> None:
    (alarm, *_) = Watched().take(stream(novelty=1.5))

    assert (alarm.detector, alarm.kind, alarm.direction, alarm.slice) == (CONFORMAL, "input", "rose", "")
    assert alarm.signal in ("novelty", "meaning")
    assert str(alarm) == f"{alarm.signal} rose (conformal)"
    assert CHANGE <= alarm.index < CHANGE + 40
    assert alarm.evidence >= 1
    assert alarm.ago is not None
    assert alarm.index - alarm.ago + 1 == pytest.approx(CHANGE, abs=8)
    assert alarm.moment == pytest.approx(10 * CHANGE, abs=80)
    assert sum(alarm.signals.values()) == pytest.approx(1)


def test_new_words_are_an_alarm_of_the_inputs() -> None:
    (alarm, *_) = Watched().take(stream(slang=True))

    assert (alarm.signal, alarm.kind, alarm.direction) == ("wording", "input", "rose")


def test_uncertainty_that_rises_is_an_alarm_of_the_inputs() -> None:
    (alarm, *_) = Watched().take(stream(doubt=0.3))

    assert (alarm.signal, alarm.kind, alarm.direction) == ("uncertainty", "input", "rose")


def test_uncertainty_that_falls_is_told_as_a_fall() -> None:
    (alarm, *_) = Watched().take(stream(doubt=-0.15))

    assert (alarm.signal, alarm.direction) == ("uncertainty", "fell")


def test_a_label_that_is_predicted_more_often_is_an_alarm_of_the_label_mix() -> None:
    (alarm, *_) = Watched().take(stream(mix=(1, 1, 9)))

    assert alarm.kind == "label mix"
    assert (alarm.signal, alarm.direction) in [
        ("share of up", "rose"),
        ("share of flat", "fell"),
        ("share of down", "fell"),
    ]
    assert alarm.signals[alarm.signal] > 0.5


def test_errors_that_rise_where_inputs_did_not_move_are_an_alarm_of_the_concept() -> None:
    watched = Watched()
    assert watched.take(stream()) == []

    (alarm, *_) = watched.take_labels(truths(wrong=0.6))

    assert (alarm.signal, alarm.kind, alarm.direction) == ("error", "concept", "rose")
    assert CHANGE <= alarm.index < CHANGE + 60
    assert alarm.moment == pytest.approx(10 * CHANGE, abs=150)
    assert not alarm.calls_for_reference


def test_errors_that_rise_after_inputs_moved_are_the_inputs_doing_and_do_harm() -> None:
    watched = Watched()
    watched.take_labels(part_of_truths(truths(), slice(0, CHANGE)))
    # Labels come while the moved inputs are still new: within two reference windows.
    assert watched.take(part_of(stream(novelty=1.5), slice(0, CHANGE + 200)))
    assert not watched.monitor.harmed

    (alarm, *_) = watched.take_labels(part_of_truths(truths(wrong=0.6), slice(CHANGE, None)))

    assert (alarm.signal, alarm.kind) == ("error", "input")
    assert watched.monitor.harmed


@pytest.mark.parametrize("drifting", [True, False])
def test_a_champion_that_has_not_learned_the_drift_is_held_to_the_errors_before_it(drifting: bool) -> None:
    watched = Watched()
    watched.take_labels(part_of_truths(truths(), slice(0, CHANGE)))
    assert watched.take(part_of(stream(novelty=1.5), slice(0, CHANGE + 100)))

    watched.monitor.rebase(None, drifting=drifting)
    watched.take_labels(part_of_truths(truths(wrong=0.5), slice(CHANGE + 100, None)))

    # Without its predecessor's errors, as many as these are what is usual of it.
    assert watched.monitor.harmed == drifting


def test_errors_that_stay_after_inputs_moved_do_no_harm() -> None:
    watched = Watched()
    watched.take_labels(part_of_truths(truths(), slice(0, CHANGE)))
    assert watched.take(stream(novelty=1.5))

    assert watched.take_labels(part_of_truths(truths(), slice(CHANGE, None))) == []
    assert not watched.monitor.harmed


def test_labels_tell_of_the_label_mix_too() -> None:
    (alarm, *_) = Watched().take_labels(truths(mix=(1, 1, 12)))

    assert alarm.kind == "label mix"
    assert alarm.signal.startswith("share of ")
    assert not alarm.calls_for_reference


def test_after_an_alarm_of_the_errors_their_new_level_is_what_is_usual() -> None:
    watched = Watched()
    before, after = truths(wrong=0.6), truths(0.6, 0.6, seed=7)

    assert len(watched.take_labels(before)) == 1
    assert watched.take_labels(after) == []


def test_a_stream_that_stays_the_same_raises_no_alarm() -> None:
    watched = Watched()

    assert watched.take(stream()) == []
    assert watched.take_labels(truths()) == []
    assert 0 < watched.monitor.statistics()[CONFORMAL, EVERYTHING] < 1


def test_a_twentieth_of_a_reference_window_begins_to_watch_then_a_third_and_a_whole_one_go_on() -> None:
    watched = Watched()
    watched.take(part(stream(), slice(0, 6)))
    assert watched.referred == []
    assert watched.monitor.statistics()[CONFORMAL, EVERYTHING] == 0

    watched.take(part(stream(), slice(6, TEXTS)))

    assert watched.referred == [7, 50, 150]


def test_what_moves_soon_after_an_alarm_is_found_as_well() -> None:
    watched = Watched(PLAIN.model_copy(update={"reference": 800}))
    assert watched.take(part(stream(novelty=1.5), slice(0, CHANGE + 60)))
    again = part(stream(novelty=1.5, start=TEXTS, seed=2), slice(CHANGE, CHANGE + 60))
    again.texts.sketches[:] += 1.5

    (alarm,) = watched.take(again)

    assert alarm.kind == "input"
    assert watched.referred[-1] == 40


def test_after_an_alarm_the_texts_since_are_the_beginning_of_the_next_reference() -> None:
    watched = Watched()
    moved, stays = stream(novelty=1.5), stream(novelty=0.0, start=TEXTS, seed=2)
    stays.texts.sketches[:] += 1.5
    alarms = watched.take(moved)
    assert len(alarms) == 1

    # What was new is what is usual now, and what was usual would be new.
    assert watched.take(stays) == []
    assert watched.referred == [7, 50, 150] * 2
    back = stream(start=2 * TEXTS, seed=3)
    assert watched.take(back)[0].index < 2 * TEXTS + 40


def test_while_a_reference_is_wanted_no_more_texts_are_taken_than_it_needs() -> None:
    monitor = DriftMonitor(PLAIN, seed=1)

    taken = 0
    for size in (7, 50, 150):
        assert monitor.observe_scores(stream().after(taken)) == (size - taken, [])
        assert monitor.wanted == size
        monitor.refer(stream().texts.part(slice(0, size)))
        assert monitor.wanted == 0
        taken = size


def test_a_new_champions_window_is_what_is_usual_under_it() -> None:
    watched = Watched()
    assert watched.take(stream(novelty=1.5))

    watched.monitor.rebase(stream(novelty=1.5).texts.part(slice(CHANGE, None)))

    assert watched.monitor.statistics()[CONFORMAL, EVERYTHING] == 0
    again = stream(start=TEXTS, seed=2)
    again.texts.sketches[:] += 1.5
    assert watched.take(again) == []


@pytest.mark.parametrize(("config", "detector"), [(PLAIN, CONFORMAL), (ALONE, "kswin")])
def test_a_change_that_comes_together_with_a_swap_is_found(config: DriftConfig, detector: str) -> None:
    watched = Watched(config)
    watched.monitor.rebase(stream().texts.part(slice(0, CHANGE)))

    alarms = watched.take(stream(novelty=1.5).after(CHANGE))

    assert [alarm.index < 100 for alarm in alarms if alarm.detector == detector] == [True]


def test_a_swap_without_texts_collects_a_new_reference_window() -> None:
    watched = Watched()
    watched.take(stream())

    watched.monitor.rebase(None)

    unlike = stream(start=TEXTS, seed=2)
    unlike.texts.sketches[:] += 1.5
    assert watched.take(unlike) == []
    assert watched.referred == [7, 50, 150] * 2


def test_a_swap_to_a_few_texts_waits_for_more() -> None:
    monitor = DriftMonitor(PLAIN, seed=1)

    monitor.rebase(stream().texts.part(slice(0, 30)))

    assert monitor.wanted == 0
    assert monitor.observe_scores(stream().after(30)) == (20, [])
    assert monitor.wanted == 50


def test_after_a_swap_errors_are_the_concept_again_and_no_harm_is_done_yet() -> None:
    watched = Watched()
    watched.take_labels(part_of_truths(truths(), slice(0, CHANGE)))
    watched.take(stream(novelty=1.5))
    watched.take_labels(part_of_truths(truths(wrong=0.6), slice(CHANGE, None)))
    assert watched.monitor.harmed

    watched.monitor.rebase(stream().texts.part(slice(0, 200)))

    assert not watched.monitor.harmed
    assert {alarm.kind for alarm in watched.take_labels(truths(wrong=0.6))} == {"concept"}


def test_with_no_evidence_asked_for_only_configured_detectors_alarm() -> None:
    alarms = Watched(ALONE).take(stream(novelty=1.5, doubt=0.3))

    assert {(alarm.detector, alarm.signal) for alarm in alarms} == {
        ("adwin", "uncertainty"),
        ("kswin", "novelty"),
        ("mmd", "sketch"),
    }
    assert all(CHANGE <= alarm.index < CHANGE + 200 and alarm.direction == "rose" for alarm in alarms)
    assert all(alarm.kind == "input" and not alarm.calls_for_reference for alarm in alarms)
    assert all(alarm.moment == 10 * alarm.index for alarm in alarms)
    means = next(alarm for alarm in alarms if alarm.detector == "adwin")
    assert str(means).startswith("uncertainty rose from 0.20 to 0.")


def test_a_configured_detector_of_errors_tells_of_the_concept() -> None:
    (alarm,) = Watched(ALONE).take_labels(truths(wrong=0.7))

    assert (alarm.detector, alarm.signal, alarm.kind) == ("page_hinkley", "error", "concept")


def test_a_configured_alarm_names_the_text_and_not_the_sketch() -> None:
    given = stream(novelty=3.0)
    given.texts.sketches[np.arange(TEXTS) % 3 != 0] = np.nan

    alarms = Watched(ALONE).take(given)

    assert alarms
    assert all(alarm.index % 3 == 0 and alarm.index >= CHANGE for alarm in alarms)


def test_texts_without_sketches_and_probabilities_are_watched_by_their_words() -> None:
    given = stream(slang=True)
    given.texts.sketches[:] = np.nan
    given.texts.probabilities[:] = np.nan

    (alarm, *_) = Watched(BESIDE).take(given)

    assert (alarm.detector, alarm.signal) == (CONFORMAL, "wording")


# Inputs and errors move, and the detectors beside find it too.
SCORES, TRUTHS = stream(novelty=1.5, doubt=0.3, slang=True), truths(wrong=0.6)

#: Texts after which their labels come.
EVERY = 100


def alarms(cuts: Sequence[int] = (), restarts: Sequence[int] = ()) -> list[tuple[int, Alarm]]:
    """The alarms of that stream in batches that end at `cuts` and `restarts`; and by which text each was told."""
    watched, found = Watched(BESIDE), list[tuple[int, Alarm]]()
    for start, end in pairwise(sorted({*range(0, TEXTS + 1, EVERY), *cuts, *restarts})):
        if start in restarts:
            watched.restart()
        found += [(alarm.index, alarm) for alarm in watched.take(part(SCORES, slice(start, end)))]
        if end % EVERY == 0:
            labels = part_of_truths(TRUTHS, slice(end - EVERY, end))
            found += [(end - EVERY + alarm.index, alarm) for alarm in watched.take_labels(labels)]
    return sorted(found, key=repr)


STRAIGHT = alarms()


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, TEXTS), max_size=4), restarts=st.lists(st.integers(0, TEXTS), max_size=3))
def test_however_the_stream_is_cut_and_restarted_the_alarms_are_the_same(cuts: list[int], restarts: list[int]) -> None:
    assert alarms(cuts, restarts) == STRAIGHT
    assert {alarm.detector for _, alarm in STRAIGHT} == {CONFORMAL, "adwin", "mmd", "page_hinkley"}


def test_what_has_not_changed_is_not_stored_again() -> None:
    watched = Watched()
    watched.take(part(stream(), slice(0, 200)))
    watched.restart()

    assert set(watched.monitor.changes()) == {"monitor", "conformal"}


def test_a_detector_configured_since_starts_anew() -> None:
    watched = Watched(BESIDE.model_copy(update={"detectors": BESIDE.detectors[:1]}))
    watched.take(part(SCORES, slice(0, 300)))
    before = watched.monitor.statistics()

    watched.restart(BESIDE)

    after = watched.monitor.statistics()
    assert after["adwin", "uncertainty"] == before["adwin", "uncertainty"] > 0
    assert after[CONFORMAL, EVERYTHING] == before[CONFORMAL, EVERYTHING] > 0
    assert after["page_hinkley", "error"] == 0


@pytest.mark.parametrize("change", [{"neighbours": 7}, {"reference": 120}])
def test_under_another_reference_window_all_that_compares_with_it_starts_anew(change: dict[str, Any]) -> None:
    watched = Watched(BESIDE)
    watched.take(part(stream(), slice(0, 300)))
    watched.take_labels(part_of_truths(truths(), slice(0, 100)))

    watched.restart(BESIDE.model_copy(update=change))

    after = watched.monitor.statistics()
    assert after["kswin", "novelty"] == after[CONFORMAL, EVERYTHING] == 0
    assert after["adwin", "uncertainty"] > 0
    # All that came before is there to make it of.
    assert watched.monitor.wanted == change.get("reference", 150)


def test_another_rate_of_false_alarms_goes_on_with_the_same_evidence() -> None:
    watched = Watched()
    watched.take(part(stream(), slice(0, 300)))
    before = watched.monitor.statistics()[CONFORMAL, EVERYTHING]

    watched.restart(PLAIN.model_copy(update={"false_alarm_every": 10_000}))

    assert watched.monitor.statistics()[CONFORMAL, EVERYTHING] == pytest.approx(before / 2)


def test_bytes_that_are_no_state_are_refused() -> None:
    watched = Watched()
    watched.take(part(stream(), slice(0, 200)))
    watched.restart()
    other_format = dict(watched.stored)
    other_format["monitor"] = other_format["monitor"].replace(b"format", b"tamrof")

    for bad in ({"monitor": b"not a state"}, {}, other_format, {"monitor": watched.stored["monitor"]}):
        with pytest.raises(ValueError, match="state cannot be read"):
            DriftMonitor(PLAIN, seed=1).restore(bad)


def test_two_detectors_of_one_kind_on_one_signal_are_refused() -> None:
    twice = BESIDE.model_copy(update={"detectors": [BESIDE.detectors[0], BESIDE.detectors[0]]})

    with pytest.raises(ValueError, match="adwin watches uncertainty twice"):
        DriftMonitor(twice, seed=1)


def test_a_bad_batch_is_refused_and_nothing_is_taken() -> None:
    watched = Watched(BESIDE)
    watched.take(part(stream(), slice(0, 200)))
    watched.restart()
    before = watched.monitor.changes()
    broken = part(stream(), slice(200, 209))
    broken.texts.sketches[4, 1] = np.inf

    with pytest.raises(ValueError, match="sketch 4 of 9"):
        watched.monitor.observe_scores(broken)
    with pytest.raises(ValueError, match="8 dimensions and the reference window 6"):
        watched.monitor.observe_scores(stream(dimensions=8))

    assert watched.monitor.changes() == before
