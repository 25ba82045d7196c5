"""A run that goes over everything remembered, instead of what is new and as much of what is not."""

from pathlib import Path

from daemon.config import Config
from daemon.state import Blobs, transaction
from learners.job import Example, read_rows
from learners.snapshot import read_job
from tests.daemon.test_challenger import begin, conclude, doubting
from tests.daemon.test_controller import Desk


def ids(directory: Path, name: str) -> set[str]:
    return {row.id for row in read_rows(directory / f"{name}.jsonl", Example)}


def remembered(desk: Desk) -> set[str]:
    return {row[0] for row in desk.db.execute("SELECT id FROM examples WHERE share = 'learn'")}


def test_everything_is_gone_over_once_half_of_it_is_new(config: Config) -> None:
    # Its gate doubts everything, and it judges nothing again.
    desk = Desk(doubting(config, min_labels=10_000))
    # Few of what was learned from the base rows, then as many again and more.
    first = begin(desk, 0, 20)
    assert (read_job(first).epochs, ids(first, "replay") != set()) == (desk.config.learning.epochs, True)
    conclude(desk)

    second = begin(desk, 20, 400)
    assert ids(second, "new") == remembered(desk)
    assert ids(second, "replay") == set()
    assert read_job(second).epochs == 1.0
    assert "are gone over, of which" in desk.controller.training.jobs.all()[-1].reason
    # The past tells as well whether it is better.
    gate = conclude(desk)["gate"]
    assert gate["old"] > 0
    assert f"on {gate['fresh']} fresh labels, and with {gate['old']} old ones p = " in gate["because"]

    third = begin(desk, 400, 420)
    assert ids(third, "new") < remembered(desk)
    assert ids(third, "replay") != set()
    assert conclude(desk)["gate"]["old"] == 0
    desk.close()


def test_a_restart_remembers_what_was_gone_over_and_an_older_state_goes_over_it_all(config: Config) -> None:
    config = doubting(config, min_labels=10_000)
    desk = Desk(config)
    begin(desk, 0, 400)
    conclude(desk)
    desk.close()

    again = Desk(config)
    assert ids(begin(again, 400, 420), "new") < remembered(again)
    conclude(again)
    with transaction(again.db):
        noticed = Blobs(again.db).get_json("noticed", {})
        Blobs(again.db).put_json("noticed", {name: value for name, value in noticed.items() if name != "rehearsed"})
    again.close()

    older = Desk(config)
    assert ids(begin(older, 420, 440), "new") == remembered(older)
    older.close()
