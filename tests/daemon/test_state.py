import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.topic import Partition
from daemon.state import (
    SCHEMA_VERSION,
    Blobs,
    Commands,
    Decisions,
    ReadPositions,
    StateError,
    open_state,
    transaction,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    db = open_state(path)
    yield db
    db.close()


def test_a_state_is_made_with_its_folder_and_opens_again(path: Path) -> None:
    db = open_state(path)
    Blobs(db).put("drift", b"evidence")
    db.close()

    again = open_state(path)
    assert Blobs(again).get("drift") == b"evidence"
    again.close()


def test_a_committed_step_is_on_the_disk(db: sqlite3.Connection) -> None:
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_state_of_another_version_is_refused_and_left_alone(path: Path) -> None:
    db = open_state(path)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()

    with pytest.raises(StateError, match=f"another version of relearnd .state {SCHEMA_VERSION + 1}, this one reads"):
        open_state(path)
    assert path.read_bytes() == before


def test_what_is_no_state_is_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("These are notes of mine, in a file of that name. " * 100)

    with pytest.raises(StateError, match=f"{path}: cannot open the state: file is not a database"):
        open_state(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StateError, match=f"{path}: cannot open the state: unable to open database file"):
        open_state(path)


def test_a_home_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    with pytest.raises(StateError, match=r"home/state\.db: cannot open the state: .*File exists"):
        open_state(tmp_path / "home" / "state.db")


def test_two_that_make_the_same_state_at_once_both_have_it(path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    threads = [threading.Thread(target=lambda: opened.append(open_state(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(opened) == 4
    for db in opened:
        assert Blobs(db).get("drift") is None
        db.close()


def test_a_transaction_keeps_all_or_nothing(db: sqlite3.Connection) -> None:
    blobs = Blobs(db)
    with transaction(db):
        blobs.put("one", b"kept")

    def broken() -> None:
        with transaction(db):
            blobs.put("one", b"lost")
            blobs.put("two", b"lost")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert (blobs.get("one"), blobs.get("two")) == (b"kept", None)
    with transaction(db):
        blobs.put("two", b"kept")
    assert blobs.get("two") == b"kept"


def test_what_broke_a_transaction_is_told_even_when_sqlite_has_rolled_it_back_already(db: sqlite3.Connection) -> None:
    def full() -> None:
        with transaction(db):
            Blobs(db).put("one", b"lost")
            # What SQLite does by itself when the disk is full.
            db.execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
        full()
    assert Blobs(db).get("one") is None


def test_positions_move_and_others_stay(db: sqlite3.Connection) -> None:
    positions = ReadPositions(db)
    assert positions.load() == {}

    positions.save({Partition("scores"): 7, Partition("labels", 2): 1})
    positions.save({Partition("scores"): 9})

    assert positions.load() == {Partition("scores"): 9, Partition("labels", 2): 1}


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_named_value_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    db = open_state(tmp_path_factory.getbasetemp() / "blobs.db")
    blobs = Blobs(db)
    blobs.put_json("value", value)

    assert blobs.get_json("value", "absent") == value
    assert blobs.get_json("another", "absent") == "absent"
    db.close()


def test_the_latest_decisions_come_oldest_first(db: sqlite3.Connection) -> None:
    decisions = Decisions(db)
    for number in range(5):
        decisions.add(float(number), "drift", f"because {number}", {"number": number})

    assert decisions.latest(2) == [
        {"at": 3.0, "kind": "drift", "because": "because 3", "number": 3},
        {"at": 4.0, "kind": "drift", "because": "because 4", "number": 4},
    ]
    assert len(decisions.latest(100)) == 5


def test_a_command_waits_until_it_is_answered_and_is_answered_once(db: sqlite3.Connection) -> None:
    commands = Commands(db)
    first, second = commands.ask(1.0, "learn", {}), commands.ask(2.0, "promote", {"version": "v2"})
    assert commands.waiting() == [(first, "learn", {}), (second, "promote", {"version": "v2"})]
    assert commands.outcome(first) is None

    commands.answer(first, "a training run is asked for")

    assert commands.waiting() == [(second, "promote", {"version": "v2"})]
    assert commands.outcome(first) == "a training run is asked for"
    assert commands.outcome(99) is None


def test_a_file_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE positions (mine TEXT)")
    theirs.commit()

    with pytest.raises(StateError, match="table positions already exists; is the folder writable, and the file ours"):
        open_state(path)
    assert json.dumps(theirs.execute("SELECT name FROM sqlite_master").fetchall()) == '[["positions"]]'
    theirs.close()
