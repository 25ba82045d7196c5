import threading
from pathlib import Path

import pytest

from daemon.config import Config
from daemon.state import Commands, StateError, open_state, transaction
from daemon.steering import steer

#: Seconds after which a thread that should have ended counts as stuck.
STUCK = 30.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    open_state(tmp_path / "home" / "state.db").close()
    return Config(home=tmp_path / "home")


def test_a_command_waits_for_a_controller_that_is_down(config: Config) -> None:
    assert steer(config, "promote", {"version": "v2"}).startswith("waiting: ")

    db = open_state(config.home / "state.db")
    assert [(name, arguments) for _, name, arguments in Commands(db).waiting()] == [("promote", {"version": "v2"})]
    db.close()


def test_the_controller_s_answer_comes_back(config: Config) -> None:
    db = open_state(config.home / "state.db")
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(steer(config, "learn", {}, wait=STUCK)), daemon=True)
    asking.start()
    commands = Commands(db)
    while asking.is_alive():
        with transaction(db):
            for seq, name, _ in commands.waiting():
                commands.answer(seq, f"{name}: refused")
        asking.join(0.01)

    assert answers == ["learn: refused"]
    assert commands.waiting() == []
    db.close()


def test_commands_are_taken_up_in_the_order_they_were_given(config: Config) -> None:
    for version in ("v1", "v2", "v3"):
        steer(config, "promote", {"version": version})

    db = open_state(config.home / "state.db")
    assert [arguments["version"] for _, _, arguments in Commands(db).waiting()] == ["v1", "v2", "v3"]
    db.close()


def test_a_home_without_a_state_is_no_place_to_leave_a_command(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no state"):
        steer(Config(home=tmp_path / "nowhere"), "learn", {})
    assert not (tmp_path / "nowhere").exists()


def test_a_state_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("this is no database, and long enough that SQLite looks twice" * 20)

    with pytest.raises(StateError, match=r"state\.db: cannot open the state: "):
        steer(Config(home=tmp_path), "learn", {})
