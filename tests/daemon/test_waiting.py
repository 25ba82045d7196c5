import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import LabelsConfig
from daemon.state import open_state, transaction
from daemon.waiting import Answer, Expired, Joined, Scored, Waiting

CONFIG = LabelsConfig(horizon=100.0, max_waiting=1_000)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_state(tmp_path / "state.db")
    yield db
    db.close()


@pytest.fixture
def waiting(db: sqlite3.Connection) -> Waiting:
    return Waiting(db, CONFIG)


def scored(id: str, *, seen_at: float = 0.0, label: str = "up") -> Scored:
    return Scored(id, f"text {id}", "wire", "ACME", 5.0, label, "v1", seen_at)


def answer(id: str, label: str = "up", *, seen_at: float = 0.0) -> Answer:
    return Answer(id, label, 2.0, seen_at)


def test_a_label_finds_its_score(waiting: Waiting) -> None:
    assert waiting.add_scores([scored("a")]) == ([scored("a")], [])
    assert waiting.add_label(answer("a", "down")) == Joined(scored("a"), "down", 2.0, None)


def test_a_score_finds_the_label_that_came_before_it(waiting: Waiting) -> None:
    assert waiting.add_label(answer("a", "down")) is None
    assert waiting.add_scores([scored("a")]) == ([scored("a")], [Joined(scored("a"), "down", 2.0, None)])


def test_of_two_early_labels_the_later_is_the_truth_and_is_joined_once(waiting: Waiting) -> None:
    waiting.add_label(answer("a", "down"))
    waiting.add_label(answer("a", "up"))

    assert [joined.truth for joined in waiting.add_scores([scored("a")])[1]] == ["up"]
    assert waiting.add_scores([scored("a")]) == ([], [])
    assert waiting.expire(101.0) == Expired(scores=0, labels=0)


def test_a_second_label_is_told_from_the_first(waiting: Waiting) -> None:
    waiting.add_scores([scored("a")])
    truths = [waiting.add_label(answer("a", label)) for label in ("down", "down", "up", "down")]

    assert [joined.before for joined in truths if joined] == [None, "down", "down", "up"]


def test_of_two_scores_of_one_text_the_first_counts(waiting: Waiting) -> None:
    first, second = scored("a", label="up"), scored("a", label="down")

    assert waiting.add_scores([first, second]) == ([first], [])
    assert waiting.add_scores([second]) == ([], [])
    joined = waiting.add_label(answer("a"))
    assert joined is not None
    assert joined.scored == first
    assert waiting.seen() == 1


def test_more_scores_than_sqlite_takes_parameters(db: sqlite3.Connection, waiting: Waiting) -> None:
    many = [scored(f"t{number}") for number in range(33_000)]

    with transaction(db):
        assert len(waiting.add_scores(many)[0]) == 33_000
        assert waiting.add_scores(many) == ([], [])
        assert len(waiting.without_truth([score.id for score in many])) == 33_000


def test_what_waited_in_vain_is_counted_exactly_once(waiting: Waiting) -> None:
    waiting.add_scores([scored("labelled", seen_at=10.0), scored("vain", seen_at=10.0), scored("late", seen_at=11.0)])
    waiting.add_label(answer("labelled", seen_at=10.0))
    waiting.add_label(answer("nobody's", seen_at=10.0))

    assert waiting.expire(110.0) == Expired(0, 0)
    assert waiting.expire(110.5) == Expired(scores=1, labels=1)
    assert waiting.expire(110.5) == Expired(0, 0)
    assert waiting.expire(1_000.0) == Expired(scores=1, labels=0)


def test_a_label_after_its_score_expired_waits_and_expires_itself(waiting: Waiting) -> None:
    waiting.add_scores([scored("a")])
    assert waiting.expire(100.5) == Expired(scores=1, labels=0)

    assert waiting.add_label(answer("a", seen_at=101.0)) is None
    assert waiting.expire(202.0) == Expired(scores=0, labels=1)


def test_a_repeated_early_label_waits_from_its_last_coming(waiting: Waiting) -> None:
    waiting.add_label(answer("a", seen_at=0.0))
    waiting.add_label(answer("a", seen_at=50.0))

    assert waiting.expire(149.0) == Expired(0, 0)
    assert waiting.expire(151.0) == Expired(scores=0, labels=1)


def test_only_so_many_scores_wait_and_the_oldest_give_way(db: sqlite3.Connection) -> None:
    waiting = Waiting(db, LabelsConfig(horizon=100.0, max_waiting=3))
    waiting.add_scores([scored(f"t{number}") for number in range(7)])
    waiting.add_label(answer("t0"))

    assert waiting.expire(0.0) == Expired(scores=3, labels=0)
    assert [score.id for score in waiting.recent(10)] == ["t4", "t5", "t6"]
    assert waiting.expire(0.0) == Expired(0, 0)


def test_texts_are_counted_on_after_they_expired_and_after_a_restart(db: sqlite3.Connection) -> None:
    waiting = Waiting(db, CONFIG)
    assert waiting.seen() == 0
    waiting.add_scores([scored("a"), scored("b")])
    waiting.expire(1_000.0)
    waiting.add_scores([scored("c", seen_at=1_000.0)])

    assert Waiting(db, CONFIG).seen() == 3


def test_a_step_that_broke_leaves_no_score_and_no_count(db: sqlite3.Connection, waiting: Waiting) -> None:
    def step() -> None:
        with transaction(db):
            waiting.add_scores([scored("a")])
            waiting.add_label(answer("b"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step()

    assert waiting.seen() == 0
    assert waiting.recent(10) == []
    assert waiting.add_scores([scored("b")]) == ([scored("b")], [])


def test_the_latest_scores_come_oldest_first(waiting: Waiting) -> None:
    waiting.add_scores([scored(f"t{number}") for number in range(5)])

    assert [score.id for score in waiting.recent(3)] == ["t2", "t3", "t4"]
    assert waiting.recent(0) == []


def test_only_scores_without_a_label_are_without_truth(waiting: Waiting) -> None:
    waiting.add_scores([scored("a"), scored("b")])
    waiting.add_label(answer("a"))
    waiting.add_label(answer("c"))

    assert waiting.without_truth(["a", "b", "c", "d"]) == {"b"}


def test_the_latest_that_have_a_truth_come_with_it_oldest_first(waiting: Waiting) -> None:
    waiting.add_scores([scored(f"t{number}") for number in range(9)])
    for number in (5, 1, 3, 0):
        waiting.add_label(answer(f"t{number}", "down"))
    waiting.add_label(answer("t3", "up"))

    assert [(score.id, truth) for score, truth in waiting.judged(3)] == [("t1", "down"), ("t3", "up"), ("t5", "down")]
    assert len(waiting.judged(99)) == 4
    assert waiting.judged(0) == []


def test_a_label_that_comes_late_is_judged_however_many_texts_came_since(waiting: Waiting) -> None:
    waiting.add_scores([scored(f"t{number}") for number in range(500)])
    waiting.add_label(answer("t2"))

    assert [score.id for score, _ in waiting.judged(10)] == ["t2"]


def test_a_moment_is_at_the_first_text_written_then_or_later(waiting: Waiting) -> None:
    waiting.add_scores([scored(f"t{number}")._replace(timestamp=10.0 * number) for number in range(1, 6)])

    assert [waiting.place_of(moment) for moment in (0, 10, 11, 50)] == [1, 1, 2, 5]
    # After all of them, it is at the last.
    assert waiting.place_of(51) == 5


def test_places_are_counted_on_after_texts_expired(waiting: Waiting) -> None:
    assert waiting.place_of(0) == 0
    waiting.add_scores([scored("old")])
    waiting.expire(1_000.0)
    waiting.add_scores([scored("new", seen_at=1_000.0)._replace(timestamp=1_000.0)])

    assert waiting.place_of(0) == waiting.place_of(1_000) == 2


def test_the_latest_texts_stay_however_long_they_have_waited(db: sqlite3.Connection) -> None:
    waiting = Waiting(db, CONFIG, keep=3)
    waiting.add_scores([scored(f"t{number}") for number in range(5)])

    assert waiting.expire(1_000.0) == Expired(scores=2, labels=0)
    assert [score.id for score in waiting.recent(10)] == ["t2", "t3", "t4"]
    assert waiting.expire(1_000.0) == Expired(0, 0)

    waiting.add_scores([scored("t5", seen_at=1_000.0)])
    assert waiting.expire(1_000.0) == Expired(scores=1, labels=0)
    assert [score.id for score in waiting.recent(10)] == ["t3", "t4", "t5"]


def test_no_more_stay_than_there_is_room_for(db: sqlite3.Connection) -> None:
    waiting = Waiting(db, LabelsConfig(horizon=100.0, max_waiting=2), keep=3)
    waiting.add_scores([scored(f"t{number}") for number in range(5)])

    waiting.expire(0.0)

    assert [score.id for score in waiting.recent(10)] == ["t3", "t4"]


@dataclass
class Model:
    """The same in a few dictionaries."""

    horizon: float
    truths: dict[str, str | None] = field(default_factory=dict)
    early: dict[str, str] = field(default_factory=dict)
    moments: dict[tuple[str, str], float] = field(default_factory=dict)
    seen: int = 0

    def score(self, id: str, now: float) -> list[tuple[str, str, str | None]]:
        if id in self.truths:
            return []
        self.seen += 1
        self.moments["score", id] = now
        self.truths[id] = self.early.pop(id, None)
        truth = self.truths[id]
        return [] if truth is None else [(id, truth, None)]

    def label(self, id: str, label: str, now: float) -> list[tuple[str, str, str | None]]:
        if id not in self.truths:
            self.early[id] = label
            self.moments["label", id] = now
            return []
        before, self.truths[id] = self.truths[id], label
        return [(id, label, before)]

    def expire(self, now: float) -> Expired:
        scores = [id for id in self.truths if self.moments["score", id] < now - self.horizon]
        labels = [id for id in self.early if self.moments["label", id] < now - self.horizon]
        in_vain = sum(self.truths.pop(id) is None for id in scores)
        for id in labels:
            del self.early[id]
        return Expired(in_vain, len(labels))


ids = st.sampled_from("abcd")
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("scores"), st.lists(ids, max_size=4)),
        st.tuples(st.just("label"), st.tuples(ids, st.sampled_from(["up", "down"]))),
        st.tuples(st.just("expire"), st.integers(0, 12)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(happenings=happenings)
def test_in_any_order_scores_and_labels_join_as_in_a_simple_model(
    tmp_path_factory: pytest.TempPathFactory,
    happenings: list[tuple[str, list[str] | tuple[str, str] | int]],
) -> None:
    db = open_state(tmp_path_factory.mktemp("waiting") / "state.db")
    waiting, model, now = Waiting(db, LabelsConfig(horizon=10.0)), Model(horizon=10.0), 0.0
    first_truths: list[str] = []
    for what, details in happenings:
        joined: list[Joined] = []
        expected: list[tuple[str, str, str | None]] = []
        if isinstance(details, list):
            _, joined = waiting.add_scores([scored(id, seen_at=now) for id in details])
            expected = [one for id in details for one in model.score(id, now)]
        elif isinstance(details, tuple):
            found = waiting.add_label(answer(*details, seen_at=now))
            joined = [found] if found else []
            expected = model.label(*details, now)
        else:
            assert what == "expire"
            now += details
            assert waiting.expire(now) == model.expire(now)
        assert sorted((j.scored.id, j.truth, j.before or "") for j in joined) == sorted(
            (id, truth, before or "") for id, truth, before in expected
        )
        first_truths += [j.scored.id for j in joined if j.before is None]
        assert waiting.seen() == model.seen
    # Each score that was stored was given a first truth once at most.
    assert all(first_truths.count(id) <= model.seen for id in first_truths)
    assert waiting.without_truth(list("abcd")) == {id for id, truth in model.truths.items() if truth is None}
    db.close()


@settings(deadline=None)
@given(order=st.permutations(["score", "score", "first", "first", "correction"]))
def test_however_late_either_comes_a_text_is_judged_once(
    tmp_path_factory: pytest.TempPathFactory, order: list[str]
) -> None:
    db = open_state(tmp_path_factory.mktemp("waiting") / "state.db")
    waiting = Waiting(db, CONFIG)
    judged = 0
    for what in order:
        if what == "score":
            judged += len(waiting.add_scores([scored("a")])[1])
        else:
            found = waiting.add_label(answer("a", "down" if what == "correction" else "up"))
            judged += found is not None and found.before is None
    assert judged == 1
    db.close()
