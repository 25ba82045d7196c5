import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Mapping
from typing import Any

import pytest

from connectors.topic import FencedError, Message, Partition
from daemon.config import Config
from daemon.controller import Controller
from daemon.losses import Losses
from daemon.metrics import Metrics
from daemon.records import Alert, DeadLetter, ModelAnnouncement
from daemon.registry import Registry
from daemon.state import Commands, open_state, transaction
from learners.job import Rescored, read_rows
from tests.daemon.streams import START, as_messages, label_row, text_row
from tests.sentences import LABELS

NOW = START.timestamp()


def score_row(number: int, *, label: str = "neutral", model: str = "v1", **fields: Any) -> dict[str, Any]:
    rest = (1 - 0.8) / (len(LABELS) - 1)
    probabilities = {name: 0.8 if name == label else rest for name in LABELS}
    row = {**text_row(number), "label": label, "probabilities": probabilities, "model": model}
    return {**row, "scored_at": row["timestamp"], **fields}


class Crash(Mapping[Partition, int]):
    """Positions that cannot be stored: the step breaks at its end, with everything else done."""

    def __getitem__(self, key: Partition) -> int:
        raise KeyError(key)

    def __iter__(self) -> Any:
        raise OSError("the machine is gone")

    def __len__(self) -> int:
        return 1


class Desk:
    """A controller on a home, fed by hand."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics("test")
        self.db = open_state(config.home / "state.db")
        self.controller = Controller(self.db, config, Registry(config.home / "models"), self.metrics)
        self.controller.begin(NOW)

    def step(self, scores: list[Any] = (), labels: list[Any] = (), now: float = NOW + 86_400) -> None:  # type: ignore[assignment]
        self.controller.step(self.messages(scores, labels), {}, now)

    def messages(self, scores: list[Any], labels: list[Any]) -> list[Message]:
        topics = self.config.topics
        return [*as_messages(topics.scores, scores), *as_messages(topics.labels, labels)]

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"relearnd_{name}", labels) or 0.0

    def said(self, topic: str) -> list[bytes]:
        return [message.value for _, message in self.controller.outbox.waiting() if message.topic == topic]

    def close(self) -> None:
        self.controller.training.stop()
        self.db.close()


@pytest.fixture
def desk(config):
    desk = Desk(config)
    yield desk
    desk.close()


def counted(desk: Desk) -> int:
    return desk.controller.intake.prequential.overall.total


def test_the_first_model_becomes_champion_and_is_announced_once(desk, config):
    assert desk.controller.champion is not None
    assert desk.controller.champion.version == "v1"
    desk.controller.begin(NOW)
    announced = [ModelAnnouncement.model_validate_json(value) for value in desk.said("models")]
    assert [(one.version, one.state) for one in announced] == [("v1", "champion")]


def test_a_label_finds_its_score_however_the_two_come(desk):
    desk.step([score_row(0), score_row(1)], [label_row(0)])
    desk.step([], [label_row(1), label_row(2)])
    assert counted(desk) == 2
    desk.step([score_row(2)])
    assert counted(desk) == 3
    assert desk.value("labels_total", outcome="joined") == 3
    assert desk.value("labels_total", outcome="early") == 1


def test_repeats_are_counted_apart_and_change_nothing(desk):
    desk.step([score_row(0), score_row(0)], [label_row(0), label_row(0)])
    desk.step([score_row(0, label="positive")], [label_row(0)])
    assert counted(desk) == 1
    assert desk.value("duplicates_total", topic="scores") == 2
    assert desk.value("labels_total", outcome="duplicate") == 2


def test_a_correction_changes_what_is_learned_and_not_what_was_counted(desk):
    desk.step([score_row(0)], [label_row(0)])
    before = desk.controller.intake.prequential.overall.counts()
    desk.step([], [{**label_row(0), "label": "positive"}])
    assert desk.controller.intake.prequential.overall.counts() == before
    assert desk.value("labels_total", outcome="corrected") == 1
    label = desk.db.execute("SELECT label FROM examples WHERE id = 't0'").fetchone()[0]
    assert label == "positive"


def test_a_label_outside_the_set_goes_to_dead_letters_with_the_set(desk):
    desk.step([score_row(0)], [{**label_row(0), "label": "furious"}])
    (letter,) = [DeadLetter.model_validate_json(value) for value in desk.said("dead-letters")]
    assert letter.reason == "unknown_label"
    assert "negative, neutral, positive" in letter.detail
    assert counted(desk) == 0


def test_a_score_with_a_sketch_that_is_none_is_set_aside(desk):
    desk.step([score_row(0, sketch="AAAA"), score_row(1, sketch="%%%"), score_row(2)])
    assert len(desk.said("dead-letters")) == 2


def test_a_label_with_its_own_text_is_learned_from_without_a_score(desk):
    desk.step([], [label_row(500, text="somebody's own words")])
    assert desk.db.execute("SELECT count(*) FROM examples WHERE id = 't500'").fetchone()[0] == 1


def test_a_step_that_breaks_leaves_nothing_and_the_next_controller_goes_on_exactly(config, fitted, encoder, tmp_path):
    rows = [(score_row(n, label=LABELS[n % 3]), label_row(n)) for n in range(60)]

    def feed(desk: Desk, start: int, end: int) -> None:
        desk.step([score for score, _ in rows[start:end]], [label for _, label in rows[start:end]])

    whole = Desk(config)
    feed(whole, 0, 30)
    feed(whole, 30, 60)
    expected = everything(whole.db)
    whole.close()

    other = config.model_copy(update={"home": tmp_path / "other"})
    shutil.copytree(fitted, other.home)
    broken = Desk(other)
    feed(broken, 0, 30)
    half = everything(broken.db)
    messages = broken.messages([score for score, _ in rows[30:]], [label for _, label in rows[30:]])
    with pytest.raises(OSError, match="the machine is gone"):
        broken.controller.step(messages, Crash(), NOW + 86_400)
    assert everything(broken.db) == half
    broken.close()
    again = Desk(other)
    feed(again, 30, 60)
    assert everything(again.db) == expected
    again.close()


def everything(db: sqlite3.Connection) -> dict[str, list[Any]]:
    """All that the state holds, but for its random name, and where it is."""
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    found = {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}
    found["blobs"] = [row for row in found["blobs"] if row[0] not in ("announced", "outbox", "owner")]
    found["outbox"] = [(seq, topic, json.loads(value) | {"uri": ""}) for seq, topic, _, value, _ in found["outbox"]]
    return found


def test_a_second_controller_of_the_same_state_fences_the_first_before_its_next_step(desk):
    second = Desk(desk.config)
    second.step([score_row(0)])
    with pytest.raises(FencedError, match="another controller"):
        desk.step([score_row(0)])
    assert counted(second) == 0
    assert second.controller.waiting.seen() == 1
    second.close()


def ask(desk: Desk, name: str, **arguments: str) -> str | None:
    commands = Commands(desk.db)
    with transaction(desk.db):
        seq = commands.ask(NOW, name, arguments)
    desk.step()
    return commands.outcome(seq)


def test_a_controller_owns_the_state_before_it_has_read_it(desk, config):
    desk.step([score_row(0), score_row(1)], [label_row(0)])
    successor = Controller(desk.db, config, Registry(config.home / "models"), Metrics("test"))
    with pytest.raises(FencedError):
        desk.step([], [label_row(1)])
    successor.begin(NOW)
    successor.step(desk.messages([], [label_row(1)]), {}, NOW + 86_400)
    assert successor.intake.prequential.overall.total == 2


def test_commands_that_cannot_be_carried_out_are_refused_with_the_reason(desk):
    assert ask(desk, "rollback") == "refused: there is no earlier version to go back to"
    assert "no such version" in (ask(desk, "promote", version="v9") or "")
    assert "no such version" in (ask(desk, "promote", version="../models/v1") or "")
    assert ask(desk, "promote", version="v1") == "v1 is champion already"
    assert ask(desk, "dance") == "refused: there is no command 'dance'"


def test_a_person_who_asks_to_learn_without_new_labels_is_told_why_not(desk):
    assert ask(desk, "learn", by="Ada") == "a training run is asked for"
    held = desk.controller.decisions.latest(1)[0]
    assert held["kind"] == "trigger held"
    assert "asked for by Ada" in held["because"]
    assert "nothing new to learn" in held["because"]


def test_what_is_scored_while_a_candidate_learns_is_scored_again_by_it(desk, monkeypatch):
    monkeypatch.setattr("daemon.training.REFRESH", 0.0)
    desk.step([score_row(n) for n in range(120)], [label_row(n) for n in range(120)])
    ask(desk, "learn", by="Ada")
    learner = desk.controller.training.learner
    assert learner is not None
    os.kill(learner.pid, signal.SIGSTOP)

    desk.step([score_row(n) for n in range(120, 150)])

    os.kill(learner.pid, signal.SIGCONT)
    learner.wait(120)
    rescored = [row.id for row in read_rows(learner.directory / "rescored.jsonl", Rescored)]
    assert rescored == [f"t{n}" for n in range(50, 150)]


def test_a_spike_reaches_the_alerts_topic_and_resolves(desk):
    calm = [score_row(n, label="neutral" if n % 5 else "negative") for n in range(600)]
    desk.step(calm)
    assert not desk.said("alerts")
    desk.step([score_row(n, label="negative") for n in range(600, 660)])
    (fired,) = desk.said("alerts")[:1]
    assert b'"firing"' in fired
    assert b'"ACME"' in fired
    desk.step([score_row(n) for n in range(660, 860)])
    assert b'"resolved"' in desk.said("alerts")[-1]


def test_what_expires_is_counted(config):
    changes = {"labels": config.labels.model_copy(update={"horizon": 3600.0})}
    # What is rescored, or the reference window, stays, however old.
    changes["memory"] = config.memory.model_copy(update={"rescored": 0})
    changes["drift"] = config.drift.model_copy(update={"reference": 30})
    desk = Desk(config.model_copy(update=changes))
    desk.step([score_row(number) for number in range(40)], [label_row(1), label_row(77)], now=NOW)
    desk.step(now=NOW + 7200)
    assert desk.value("scores_expired_total") == 9
    assert desk.value("labels_total", outcome="expired") == 1
    desk.close()


def test_what_was_lost_before_it_was_read_is_alerted_with_the_step_and_told_once(desk):
    lost = {Partition("scores"): 12}
    losses = Losses(desk.config.topics, desk.metrics)
    desk.controller.step([], {Partition("scores"): 12}, NOW, losses.notice(lost, NOW, "v1"))
    desk.controller.step([], {Partition("scores"): 12}, NOW, losses.notice(lost, NOW, "v1"))
    (alert,) = [Alert.model_validate_json(value) for value in desk.said("alerts")]
    assert (alert.name, alert.key, alert.value) == ("messages-lost", "scores", 12)
    # A controller that comes up now reads on behind the loss, and does not count it again.
    assert desk.controller.positions() == {Partition("scores"): 12}
    assert desk.value("messages_lost_total", topic="scores") == 12
