import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import MemoryConfig
from daemon.hashing import unit_hash
from daemon.memory import SLACK, Labelled, Memory, priority, quota, share_of
from daemon.state import open_state, transaction
from learners.job import Example

CONFIG = MemoryConfig(recent=50, replay=100, held_out=60, gate_share=0.2, audit_share=0.1)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_state(tmp_path / "state.db")
    yield db
    db.close()


def example(id: str, *, label: str = "up", source: str | None = None, timestamp: float = 0.0) -> Labelled:
    return Labelled(id, f"text {id}", label, source, None, timestamp)


def learnable(count: int, config: MemoryConfig = CONFIG, prefix: str = "t") -> list[str]:
    ids = (f"{prefix}{number}" for number in range(100 * count))
    return [id for id in ids if share_of(id, config) == "learn"][:count]


def fill(db: sqlite3.Connection, memory: Memory, examples: list[Labelled], *, step: int = 40) -> None:
    """As the controller does: some, then an eviction, in one transaction each."""
    for start in range(0, len(examples), step):
        with transaction(db):
            memory.add(examples[start : start + step])
            memory.evict()


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


@given(id=st.text(), salt=st.text())
def test_a_hash_is_a_point_below_one_and_always_the_same(id: str, salt: str) -> None:
    assert 0 <= unit_hash(salt, id) < 1
    assert unit_hash(salt, id) == unit_hash(salt, id)


def test_a_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert unit_hash("share", "t1") == pytest.approx(0.98153171426, abs=1e-10)


def test_shares_have_the_sizes_that_are_asked_for() -> None:
    shares = Counter(share_of(f"t{number}", CONFIG) for number in range(20_000))

    # Four standard deviations of a share of 20,000 are at most 0.013.
    assert shares["gate"] / 20_000 == pytest.approx(0.2, abs=0.013)
    assert shares["audit"] / 20_000 == pytest.approx(0.1, abs=0.013)


def test_a_larger_gate_share_moves_no_example_out_of_audit() -> None:
    wider = MemoryConfig(gate_share=0.5, audit_share=0.1)

    for number in range(500):
        if share_of(f"t{number}", CONFIG) == "audit":
            assert share_of(f"t{number}", wider) == "audit"


def test_shares_never_mix_and_keep_every_example_while_there_is_room(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    given = [f"t{number}" for number in range(100)]
    fill(db, memory, [example(id) for id in given])

    learn = set(ids(memory.new(0)) + ids(memory.replay(10**9, 10**9, seed=1)))
    gate, audit = set(ids(memory.held_out(0))), set(ids(memory.audit()))

    assert not learn & gate
    assert not learn & audit
    assert not gate & audit
    assert learn | gate | audit == set(given)
    assert all(share_of(id, CONFIG) == "gate" for id in gate)


def test_a_second_label_corrects_the_first_and_makes_nothing_new(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    first, second = learnable(2)
    memory.add([example(first), example(second)])
    newest = memory.newest()

    memory.add([Labelled(first, "another text", "down", "elsewhere", None, 9.0, 3.0)])

    assert memory.newest() == newest
    corrected = memory.new(0)[0]
    assert (corrected.id, corrected.text, corrected.label, corrected.weight) == (first, f"text {first}", "down", 3.0)
    assert memory.parts()["recent"] == 2


def test_every_part_stays_within_its_bound(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)

    for start in range(0, 2_000, 100):
        fill(db, memory, [example(f"t{number}", source="ab"[number % 2]) for number in range(start, start + 100)])
        parts = memory.parts()
        assert parts["recent"] <= CONFIG.recent
        assert parts["replay"] <= CONFIG.replay * SLACK
        assert parts["gate"] <= CONFIG.held_out * SLACK
        assert parts["audit"] <= CONFIG.held_out * SLACK


def test_eviction_takes_nothing_from_the_recent_part(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    given = learnable(500)
    fill(db, memory, [example(id) for id in given])

    assert ids(memory.new(0)) == given[-CONFIG.recent :]


def test_a_replay_part_of_nothing_leaves_the_recent_part(db: sqlite3.Connection) -> None:
    memory = Memory(db, MemoryConfig(recent=10, replay=0))
    given = learnable(40, MemoryConfig())
    fill(db, memory, [example(id) for id in given])

    assert memory.parts()["replay"] == 0
    assert ids(memory.new(0)) == given[-10:]
    assert memory.replay(memory.newest(), 5, seed=0) != []


def test_evicted_examples_leave_small_cells_whole_and_large_ones_level(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    old = [
        example(id, label="rare" if at % 100 == 0 else "up", source="wire" if at % 5 == 1 else None)
        for at, id in enumerate(learnable(1_000))
    ]
    # These push the old ones out of the recent part, and 60 of themselves into the replay part.
    late = [example(id, label="late") for id in learnable(CONFIG.recent + 60, prefix="late")]
    fill(db, memory, old)
    fill(db, memory, late, step=len(late))

    cells = Counter((e.source, e.label) for e in memory.replay(memory.newest(), 10**9, seed=0))

    assert cells == {(None, "rare"): 10, ("wire", "up"): 30, (None, "up"): 30, (None, "late"): 30 + CONFIG.recent}


def test_what_is_kept_is_uniform_over_time(db: sqlite3.Connection) -> None:
    config = MemoryConfig(recent=1, replay=200, gate_share=0, audit_share=0)
    memory = Memory(db, config)
    fill(db, memory, [example(f"t{number}", timestamp=number) for number in range(4_000)], step=400)

    quarters = Counter(int(e.timestamp // 1_000) for e in memory.replay(3_999, 10**9, seed=0))

    # Four standard deviations of a quarter of 200 are 24.
    assert sum(quarters.values()) == pytest.approx(200, abs=21)
    assert all(count == pytest.approx(50, abs=25) for count in quarters.values())
    assert len(quarters) == 4


def test_what_is_kept_does_not_depend_on_when_it_was_evicted(tmp_path: Path) -> None:
    kept = []
    for step in (60, 600):
        db = open_state(tmp_path / f"{step}.db")
        memory = Memory(db, CONFIG)
        fill(db, memory, [example(id) for id in learnable(600)], step=step)
        boundary = memory.newest() - CONFIG.recent
        kept.append(set(ids(memory.replay(boundary, 10**9, seed=0))))
        db.close()

    often, once = kept
    assert once <= often


def kept_of(tmp_path: Path, keep: Literal["uniform", "loss", "diversity"], given: list[Labelled]) -> list[Example]:
    """What of `given` is in the replay part in the end, of which it has room for an eighth."""
    config = MemoryConfig(recent=1, replay=len(given) // 8, gate_share=0, audit_share=0, keep=keep)
    db = open_state(tmp_path / f"{keep}.db")
    memory = Memory(db, config)
    fill(db, memory, given, step=len(given) // 4)
    memory.evict()
    kept = memory.replay(memory.newest() - 1, 10**9, seed=0)
    db.close()
    return kept


def test_by_loss_what_surprised_stays_more_often_and_what_did_not_stays_too(tmp_path: Path) -> None:
    given = [example(f"t{number}")._replace(loss=1.5 if number % 2 else 0.3) for number in range(4_000)]
    for keep, least, most in (("uniform", 0.4, 0.6), ("loss", 0.7, 0.95)):
        kept = kept_of(tmp_path, keep, given)
        share = sum(int(one.id[1:]) % 2 for one in kept) / len(kept)
        assert least < share < most
        assert len(kept) == pytest.approx(500, abs=50)


def test_an_example_that_was_never_scored_is_kept_like_one_that_was_known_halfway() -> None:
    never, half = example("t1"), example("t1")._replace(loss=0.7)
    assert priority(never, "loss") == priority(half, "loss") > priority(half._replace(loss=9.0), "loss")
    assert priority(half, "uniform") == unit_hash("priority", "t1")


def test_by_diversity_one_of_a_kind_stays_and_copies_go(tmp_path: Path) -> None:
    stories = [f"story {'abcdefghij'[number % 10] * 3} of {'klmnopqrst'[number // 10] * 3}" for number in range(100)]
    given = [example(f"t{number}")._replace(text=stories[0]) for number in range(700)]
    given += [example(f"u{number}")._replace(text=story) for number, story in enumerate(stories)]
    assert len({one.text for one in kept_of(tmp_path, "diversity", given)}) > 95
    assert len({one.text for one in kept_of(tmp_path, "uniform", given)}) < 30


def test_the_held_out_shares_are_a_uniform_sample_whatever_is_kept(db: sqlite3.Connection) -> None:
    config = CONFIG.model_copy(update={"keep": "loss"})
    memory = Memory(db, config)
    given = [example(f"t{number}")._replace(loss=2.0 if number % 2 else 0.05) for number in range(2_000)]
    fill(db, memory, given, step=2_000)
    expected = sorted(
        (one.id for one in given if share_of(one.id, config) == "gate"), key=lambda i: unit_hash("priority", i)
    )
    assert set(ids(memory.held_out(0))) == set(expected[: config.held_out])


@given(sizes=st.lists(st.integers(0, 60), max_size=12), capacity=st.integers(0, 300))
def test_the_quota_fills_the_capacity_and_never_breaks_it(sizes: list[int], capacity: int) -> None:
    most = quota(sizes, capacity)

    def kept(quota: int) -> int:
        return sum(min(size, quota) for size in sizes)

    assert most >= 0
    assert kept(most) <= capacity
    assert kept(most + 1) > capacity or kept(most) == sum(sizes)


def test_a_draw_is_balanced_and_the_same_for_the_same_seed(db: sqlite3.Connection) -> None:
    memory = Memory(db, MemoryConfig(recent=1_000, gate_share=0, audit_share=0))
    memory.add(
        example(f"t{n}", label="down" if n % 10 == 0 else "up", source="wire" if n % 2 else None) for n in range(400)
    )

    drawn = memory.replay(memory.newest(), 60, seed=7)
    cells = Counter((e.source, e.label) for e in drawn)

    assert cells == {("wire", "up"): 20, (None, "up"): 20, (None, "down"): 20}
    assert drawn == memory.replay(memory.newest(), 60, seed=7)
    assert ids(drawn) != ids(memory.replay(memory.newest(), 60, seed=8))
    assert [e.group for e in drawn] == ["old"] * 60
    assert ids(drawn) == sorted(ids(drawn), key=lambda id: int(id[1:]))


def test_a_draw_of_more_than_there_is_takes_all_and_of_nothing_takes_none(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    given = learnable(5)
    memory.add(map(example, given))

    assert ids(memory.replay(memory.newest(), 100, seed=0)) == given
    assert memory.replay(memory.newest(), 0, seed=0) == []
    assert memory.replay(0, 100, seed=0) == []


def test_only_what_came_after_the_champion_learned_is_new_and_fresh(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    fill(db, memory, [example(f"t{number}") for number in range(60)])
    since = memory.newest()
    fill(db, memory, [example(f"n{number}") for number in range(60)])

    assert {e.id[0] for e in memory.new(since)} == {"n"}
    assert {e.id[0] for e in memory.replay(since, 10**9, seed=0)} == {"t"}
    assert {(e.id[0], e.group) for e in memory.held_out(since)} == {("t", "old"), ("n", "fresh")}
    assert memory.count("gate", since=since) == sum(e.group == "fresh" for e in memory.held_out(since))


def test_counting_goes_by_the_text_s_own_time(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)
    memory.add(example(id, timestamp=at) for at, id in enumerate(learnable(10)))

    assert memory.count("learn") == 10
    assert memory.count("learn", from_time=4.0) == 6
    assert memory.count("learn", since=8, from_time=4.0) == 2


def test_an_empty_memory_has_nothing_to_say(db: sqlite3.Connection) -> None:
    memory = Memory(db, CONFIG)

    assert memory.newest() == 0
    assert memory.evict() == 0
    assert memory.new(0) == memory.replay(0, 10, seed=0) == memory.held_out(0) == memory.audit() == []
    assert memory.parts() == {"recent": 0, "replay": 0, "gate": 0, "audit": 0}


def test_what_was_evicted_gives_its_number_to_nobody(db: sqlite3.Connection) -> None:
    memory = Memory(db, MemoryConfig(recent=1, replay=0, held_out=1, gate_share=0.99, audit_share=0))
    fill(db, memory, [example(f"t{number}") for number in range(50)])
    highest = memory.newest()
    memory.add([example("one more")])

    assert memory.newest() > highest


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.lists(
            st.tuples(st.integers(0, 80), st.sampled_from(["up", "down"]), st.sampled_from([None, "wire", "blog"])),
            max_size=40,
        ),
        max_size=6,
    )
)
def test_whatever_comes_bounds_hold_and_no_example_is_kept_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[int, str, str | None]]]
) -> None:
    config = MemoryConfig(recent=10, replay=12, held_out=5)
    db = open_state(tmp_path_factory.mktemp("memory") / "state.db")
    memory = Memory(db, config)
    for step in steps:
        with transaction(db):
            memory.add(example(f"t{id}", label=label, source=source) for id, label, source in step)
            before = sum(memory.parts().values())
            dropped = memory.evict()
        parts = memory.parts()
        assert before - dropped == sum(parts.values())
        assert parts["recent"] <= 10
        assert parts["replay"] <= 12 * SLACK
        assert max(parts["gate"], parts["audit"]) <= 5 * SLACK
    everything = ids(memory.replay(memory.newest(), 10**9, seed=0) + memory.held_out(0) + memory.audit())
    assert len(everything) == len(set(everything))
    db.close()
