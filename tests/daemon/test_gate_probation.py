"""Probation where labels come with the texts, so that none is left to wait for once the candidate is live."""

import os
import signal
from typing import Any

import pytest

from daemon.config import LabelsConfig
from daemon.state import Blobs
from tests.daemon.streams import label_row
from tests.daemon.test_controller import Desk, ask, score_row
from tests.sentences import LABELS, sentence

#: Seconds after which a learner that should have ended counts as stuck.
STUCK = 120


def rows(numbers: range, *, slang: bool, turn: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Scores of the champion and the labels; the score is right, and both are `turn` labels from the usual one."""
    scores, labels = [], []
    for number in numbers:
        label = LABELS[(number + turn) % 3]
        scores.append(score_row(number, label=label, text=sentence(number, slang=slang)[0]))
        labels.append(label_row(number) | {"label": label})
    return scores, labels


@pytest.fixture
def taught(config, monkeypatch):
    """A controller whose learner is at work on slang that all labels are known of, and waits to be let go on."""
    monkeypatch.setattr("daemon.training.REFRESH", 0.0)
    desk = Desk(config.model_copy(update={"labels": LabelsConfig(hold=False)}))
    desk.step(*rows(range(200), slang=True))
    ask(desk, "learn", by="Ada")
    os.kill(desk.controller.training.learner.pid, signal.SIGSTOP)
    yield desk
    desk.close()


def conclude(desk: Desk) -> list[str]:
    learner = desk.controller.training.learner
    os.kill(learner.pid, signal.SIGCONT)
    learner.wait(STUCK)
    desk.step()
    return [decision["kind"] for decision in desk.controller.decisions.latest(3)]


def test_labels_that_came_while_it_learned_bring_the_parent_back_at_once(taught):
    taught.step(*rows(range(200, 300), slang=True, turn=1))

    assert conclude(taught) == ["promoted", "audited", "rolled back"]
    assert taught.controller.champion.version == "v1"
    assert "of 1" in taught.controller.decisions.latest(1)[0]["because"]


def test_labels_that_came_while_it_learned_and_speak_for_it_leave_it_live(taught):
    taught.step(*rows(range(200, 300), slang=True))

    assert conclude(taught)[1:] == ["promoted", "audited"]
    assert taught.controller.champion.version == "v2"
    counted = Blobs(taught.db).get_json("probation", {})
    assert counted["seen"] == 100
    assert counted["parent"] == 0


def test_labels_that_it_was_taught_with_are_no_evidence(taught):
    assert conclude(taught)[1:] == ["promoted", "audited"]
    assert Blobs(taught.db).get_json("probation", {})["seen"] == 0
