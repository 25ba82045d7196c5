import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.champion import Champion
from daemon.config import Config
from daemon.records import Score, decode_sketch, encode_sketch, utc
from daemon.state import open_state, transaction
from daemon.waiting import Answer, Joined, Scored, Waiting
from daemon.watch import Drift, DriftWatch
from learners.job import Rescored
from learners.model import SKETCH_DIMENSIONS
from tests.sentences import LABELS, SLANG, WORDS, sentence

#: Texts before the change and in all, and where the reference window of 150 is made anew.
CHANGE, TEXTS, REFERENCE = 400, 700, 150

#: When the first text was written, in seconds; one comes every minute.
START, MINUTE = 1_700_000_000.0, 60.0

CHAMPION = Champion(version="v1", labels=LABELS, parent=None, since=START, newest_example=0)


def config(**changes: Any) -> Config:
    given: dict[str, Any] = {
        "drift": {"reference": REFERENCE, "neighbours": 3, "false_alarm_every": 5_000},
        "triggers": {"accuracy": {"window": 100, "drop": 0.1}},
        "labels": {"horizon": 1e9},
    }
    return Config.model_validate(given | changes)


@dataclass(frozen=True)
class Row:
    """A text with its score and its truth."""

    score: Score
    truth: str


def rows(
    *,
    slang: float = 0.0,
    novelty: float = 0.0,
    doubt: float = 0.0,
    wrong: float = 0.1,
    sources: Sequence[str] = (),
    only: str | None = None,
    texts: int = TEXTS,
    change: int = CHANGE,
    seed: int = 1,
    first: int = 0,
) -> list[Row]:
    """`texts`, of which from `change` on (in the source `only`) a share is `slang`, and other things move."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(texts):
        source = str(rng.choice(list(sources))) if sources else None
        late = number >= change and only in (None, source)
        text, truth = sentence(int(rng.integers(500)), slang=bool(rng.random() < slang * late))
        said = LABELS[(LABELS.index(truth) + bool(rng.random() < (wrong if late else 0.1))) % 3]
        top = float(np.clip(rng.normal(0.85 - doubt * late, 0.04), 0.4, 0.99))
        sketch = rng.normal(novelty * late, 1, SKETCH_DIMENSIONS).astype(np.float32)
        moment = utc(START + MINUTE * (first + number))
        score = Score(
            id=f"t{first + number}",
            text=text,
            timestamp=moment,
            source=source,
            label=said,
            probabilities={label: top if label == said else (1 - top) / 2 for label in LABELS},
            model="v1",
            scored_at=moment,
            sketch=encode_sketch(sketch),
        )
        made.append(Row(score, truth))
    return made


class Live:
    """The parts of a controller that a `DriftWatch` needs, on a real state; a step is a transaction."""

    def __init__(self, db: sqlite3.Connection, config: Config, keep: int = 0) -> None:
        self.db, self.config, self._keep = db, config, keep
        self.restart()

    def restart(self) -> None:
        self.waiting = Waiting(self.db, self.config.labels, self._keep)
        self.watch = DriftWatch(self.db, self.config, self.waiting)

    def take(self, rows: Sequence[Row], *, batch: int = 50) -> list[Drift]:
        found: list[Drift] = []
        for start in range(0, len(rows), batch):
            scores = [row.score for row in rows[start : start + batch]]
            now = scores[-1].timestamp.timestamp()
            with transaction(self.db):
                self.waiting.add_scores([Scored.of(score, now) for score in scores])
                found += self.watch.scores(scores, CHAMPION)
                self.waiting.expire(now)
                self.watch.save()
        return found

    def label(self, rows: Sequence[Row]) -> list[Drift]:
        with transaction(self.db):
            joined = [self.waiting.add_label(Answer(row.score.id, row.truth, 1.0, 0.0)) for row in rows]
            found = self.watch.labels([one for one in joined if one is not None], CHAMPION)
            self.watch.save()
        return found

    def take_with_labels(self, rows: Sequence[Row]) -> list[Drift]:
        """Fifty texts, and then their labels."""
        found: list[Drift] = []
        for start in range(0, len(rows), 50):
            found += self.take(rows[start : start + 50])
            found += self.label(rows[start : start + 50])
        return found


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    db = open_state(tmp_path / "state.db")
    yield Live(db, config())
    db.close()


def test_new_texts_are_told_with_when_they_began_and_their_words(live: Live) -> None:
    (drift, *_) = live.take(rows(slang=0.3))

    assert (drift.alarm.kind, drift.alarm.signal, drift.alarm.direction) == ("input", "wording", "rose")
    assert CHANGE < drift.text_index < CHANGE + 160
    assert drift.text_at == START + MINUTE * (drift.text_index - 1)
    assert drift.began_index == pytest.approx(CHANGE + 1, abs=30)
    assert drift.began_at == START + MINUTE * (drift.began_index - 1)
    assert drift.moment == drift.began_at
    assert drift.explanation is not None
    assert 0.05 < drift.explanation.share < 0.4
    slang_words = {word for words in SLANG.values() for word in words}
    assert slang_words & {part for word in drift.explanation.words for part in word.text.split()}
    assert f"since {utc(drift.began_at):%Y-%m-%d %H:%M}" in str(drift)
    assert str(drift).startswith("input drift: wording rose (conformal), since ")
    assert str(drift).endswith(str(drift.explanation))


def test_the_details_of_a_drift_are_plain_json(live: Live) -> None:
    (drift, *_) = live.take(rows(slang=1.0))

    details = json.loads(json.dumps(drift.details()))

    assert details["detector"] == "conformal"
    assert details["kind_of_drift"] == "input"
    assert details["began_index"] == drift.began_index
    assert sum(details["signals"].values()) == pytest.approx(1)
    assert {"share", "words", "clusters"} <= set(details["explanation"])


@pytest.mark.parametrize("batch", [1, 7, 700])
def test_however_texts_come_the_drifts_are_the_same(tmp_path: Path, batch: int) -> None:
    found = []
    for number, size in enumerate([50, batch]):
        db = open_state(tmp_path / f"{number}.db")
        found.append(Live(db, config()).take(rows(slang=0.7, novelty=0.5), batch=size))
        db.close()

    one, other = ([replace(drift, alarm=replace(drift.alarm, index=0)) for drift in drifts] for drifts in found)
    assert one == other != []


def test_after_a_drift_the_texts_since_are_the_reference(live: Live) -> None:
    assert len(live.take(rows(slang=1.0))) == 1

    # More of the new, and then the old again.
    assert live.take(rows(slang=1.0, change=0, seed=2, first=TEXTS)) == []
    (back, *_) = live.take(rows(seed=3, first=2 * TEXTS))
    assert 2 * TEXTS < back.text_index < 2 * TEXTS + 50


def test_a_source_that_moved_is_named_with_when_it_did(live: Live) -> None:
    given = rows(novelty=0.6, sources=list("abcde"), only="c", texts=2_000, change=1_600, seed=3)

    (drift, *_) = live.take(given, batch=256)

    assert drift.alarm.slice == "source c"
    assert "in source c" in str(drift)
    assert drift.began_index is not None
    # Counted in all texts, though the source tells of its own.
    assert drift.began_index == pytest.approx(1_601, abs=30)
    assert drift.began_at == START + MINUTE * (drift.began_index - 1)


def test_errors_that_rise_where_texts_did_not_move_are_told_as_the_concept(live: Live) -> None:
    (drift, *_) = live.take_with_labels(rows(wrong=0.7))

    assert (drift.alarm.kind, drift.alarm.signal, drift.alarm.direction) == ("concept", "error", "rose")
    assert drift.began_index == pytest.approx(CHANGE + 1, abs=20)
    assert drift.began_index <= drift.text_index < CHANGE + 80
    assert drift.began_at == START + MINUTE * (drift.began_index - 1)


def test_errors_are_explained_by_the_texts_that_were_wrong_since(live: Live) -> None:
    given = rows()
    # What was good news is bad news from here on.
    turned = [replace(row, truth="negative") if row.truth == "positive" else row for row in given[CHANGE:]]

    live.take(given)

    (drift, *_) = live.label([*given[:CHANGE], *turned])

    assert drift.alarm.by_labels
    assert drift.explanation is not None
    words = " ".join(word.text for word in drift.explanation.words)
    assert any(word in words for word in WORDS["positive"])
    assert not any(word in words for word in WORDS["neutral"])


def test_errors_told_long_after_their_texts_are_explained_all_the_same(live: Live) -> None:
    given = rows(wrong=0.7)
    assert live.take(given) == []
    assert live.take(rows(texts=1_200, change=1_200, seed=2, first=TEXTS)) == []

    (drift, *_) = live.label(given)

    assert drift.alarm.kind == "concept"
    assert drift.explanation is not None
    assert drift.explanation.clusters


def test_errors_whose_labels_come_last_text_first_began_no_later_than_they_were_told(live: Live) -> None:
    bad, good = rows(texts=300, wrong=0.9, change=0), rows(texts=400, change=400, seed=2, first=300)
    live.take([*bad, *good])

    (drift, *_) = live.label([*good, *reversed(bad)])

    assert drift.began_at is not None
    assert drift.began_at <= drift.text_at
    assert drift.began_index is not None
    assert drift.began_index <= drift.text_index


def test_errors_that_rise_after_texts_moved_are_harm(live: Live) -> None:
    assert live.watch.harm is None

    drifts = live.take_with_labels(rows(slang=1.0, wrong=0.7))

    assert drifts[0].alarm.kind == "input"
    assert live.watch.harm == "labels say that errors rose"
    assert "concept" not in {drift.alarm.kind for drift in drifts}


def test_errors_that_stay_after_texts_moved_are_no_harm(live: Live) -> None:
    drifts = live.take_with_labels(rows(slang=1.0))

    assert [drift.alarm.kind for drift in drifts] == ["input"]
    assert live.watch.harm is None


def test_without_labels_confidence_that_falls_is_harm_once_there_are_texts_to_tell(live: Live) -> None:
    given = rows(slang=1.0, doubt=0.3)
    drifts = live.take(given[: CHANGE + 60])
    assert drifts
    assert live.watch.harm is None

    live.take(given[CHANGE + 60 :])

    assert live.watch.harm is not None
    assert live.watch.harm.startswith("accuracy is estimated to have fallen from 0.8")


def test_confidence_that_stays_is_no_harm(live: Live) -> None:
    assert live.take(rows(slang=1.0))

    assert live.watch.harm is None


def nearly(live: Live, given: Sequence[Row], *, labelled: int) -> int:
    """Take texts until evidence is nearly what an alarm takes, each with its label, but for those from `labelled` on.

    How many texts were taken.
    """
    assert live.take_with_labels(given[:300]) == []
    for number, row in enumerate(given[300:], start=300):
        assert live.take([row]) == []
        assert number >= labelled or live.label([row]) == []
        if max(live.watch.monitor.statistics().values()) > 0.85:
            return number + 1
    raise AssertionError("there is little evidence")


SOONER = config(drift={"reference": REFERENCE, "neighbours": 3, "false_alarm_every": 300})


def test_errors_that_rose_are_told_once_though_a_text_brings_the_last_evidence(tmp_path: Path) -> None:
    db = open_state(tmp_path / "state.db")
    live = Live(db, SOONER)
    nearly(live, rows(wrong=0.4, seed=6), labelled=TEXTS)

    drifts = live.take(rows(texts=400, change=400, seed=3, first=TEXTS))

    assert [(drift.alarm.kind, drift.alarm.by_labels) for drift in drifts] == [("concept", True)]
    db.close()


def test_texts_that_moved_are_the_new_reference_though_a_label_brings_the_last_evidence(tmp_path: Path) -> None:
    db = open_state(tmp_path / "state.db")
    live, given = Live(db, SOONER), rows(novelty=0.25, seed=3)
    taken = nearly(live, given, labelled=300)

    drifts = live.label(given[300:taken])

    assert [(drift.alarm.kind, drift.alarm.by_labels, drift.text_index) for drift in drifts] == [
        ("input", False, taken)
    ]
    assert max(live.watch.monitor.statistics().values()) < 0.2
    db.close()


def test_labels_of_which_the_champion_knows_nothing_are_not_judged(live: Live) -> None:
    live.take(rows(texts=50))
    strange = [Row(row.score, "unheard of") for row in rows(texts=50)]

    assert live.label(strange) == []
    assert live.watch.estimate.labels == 0
    live.label(rows(texts=50)[:10])
    assert live.watch.estimate.labels == 10


def seen_by_another(given: Sequence[Row], seed: int) -> list[Row]:
    """As version 2 scores them, which lays texts out otherwise."""
    rng = np.random.default_rng(seed)
    sketches = rng.normal(2, 1, (len(given), SKETCH_DIMENSIONS)).astype(np.float32)
    return [
        replace(row, score=row.score.model_copy(update={"model": "v2", "sketch": encode_sketch(sketch)}))
        for row, sketch in zip(given, sketches, strict=True)
    ]


def test_under_a_new_champion_its_own_view_of_the_latest_texts_is_what_is_usual(live: Live) -> None:
    given, successor = rows(texts=400, change=400), CHAMPION.model_copy(update={"version": "v2"})
    live.take_with_labels(given)
    texts = {row.score.id: row.score.text for row in given}
    # It is surer of what it has learned than it will be of anything that comes.
    learned = frozenset(list(texts)[::2])
    rescored = [
        Rescored(
            id=row.score.id,
            key=None,
            source=None,
            timestamp=row.score.timestamp.timestamp(),
            probabilities=[0.99, 0.005, 0.005] if row.score.id in learned else list(row.score.probabilities.values()),
            sketch=decode_sketch(row.score.sketch or "").tolist(),
        )
        for row in seen_by_another(given, seed=9)
    ]

    live.watch.rebase(successor, rescored, texts, learned)

    coming = [row.score for row in seen_by_another(rows(texts=300, change=300, seed=2, first=400), seed=10)]
    live.waiting.add_scores([Scored.of(score, 0.0) for score in coming])
    assert live.watch.scores(coming, successor) == []
    assert live.watch.estimate.version == "v2"
    moved = [row.score for row in seen_by_another(rows(texts=100, change=0, slang=1.0, seed=3, first=700), seed=11)]
    live.waiting.add_scores([Scored.of(score, 0.0) for score in moved])
    assert live.watch.scores(moved, successor)[0].text_index < 740


def test_a_slow_stream_whose_texts_are_older_than_labels_wait_still_has_its_window(tmp_path: Path) -> None:
    found, given = [], rows(slang=1.0)
    for name, horizon in (("slow", 20 * MINUTE), ("patient", 1e9)):
        db = open_state(tmp_path / f"{name}.db")
        live = Live(db, config(labels={"horizon": horizon}), keep=2 * REFERENCE)
        found.append(live.take(given))
        assert len(live.waiting.recent(TEXTS)) == (2 * REFERENCE if name == "slow" else TEXTS)
        db.close()

    (slow, *_), (patient, *_) = found
    assert (slow.text_index, slow.began_index, slow.alarm) == (patient.text_index, patient.began_index, patient.alarm)


# Texts and errors move.
STREAM = rows(slang=0.8, wrong=0.6, sources=["a", "b"])


def drifts(folder: Path, restarts: Sequence[int] = ()) -> list[Drift]:
    """All that is told of that stream, each hundred texts before their labels, with a restart at each of `restarts`."""
    db = open_state(folder / "state.db")
    live, found = Live(db, config()), list[Drift]()
    for start, end in pairwise(sorted({*range(0, TEXTS + 1, 100), *restarts})):
        if start in restarts:
            live.restart()
        found += live.take(STREAM[start:end])
        if end % 100 == 0:
            found += live.label(STREAM[end - 100 : end])
    db.close()
    return found


@settings(max_examples=6, deadline=None)
@given(restarts=st.lists(st.integers(0, TEXTS), min_size=1, max_size=4))
def test_wherever_it_is_restarted_the_drifts_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, restarts: list[int]
) -> None:
    straight = drifts(tmp_path_factory.mktemp("straight"))

    assert drifts(tmp_path_factory.mktemp("restarted"), restarts) == straight
    assert [drift.alarm.by_labels for drift in straight] == [False, True]


def test_a_step_that_broke_leaves_the_watch_as_it_was(live: Live) -> None:
    live.take_with_labels(STREAM[:300])
    live.restart()
    before = live.watch.monitor.statistics()

    def broken() -> None:
        with transaction(live.db):
            live.waiting.add_scores([Scored.of(row.score, 0.0) for row in STREAM[300:600]])
            live.watch.scores([row.score for row in STREAM[300:600]], CHAMPION)
            live.watch.save()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()

    live.restart()
    assert live.watch.monitor.statistics() == before


def joined(row: Row) -> Joined:
    return Joined(Scored.of(row.score, 0.0), row.truth, 1.0, None)


def test_scores_without_probabilities_are_not_judged(live: Live) -> None:
    bare = joined(STREAM[0])._replace(scored=Scored.of(STREAM[0].score, 0.0)._replace(probabilities=None))

    assert live.watch.labels([bare], CHAMPION) == []
    assert live.watch.labels([], CHAMPION) == []
    assert live.watch.scores([], CHAMPION) == []
