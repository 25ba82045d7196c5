"""What a job is given to learn from without labels."""

from pathlib import Path

import pytest

from daemon.memory import share_of
from daemon.settings import SettingsError, load
from daemon.triggers import Firing
from learners.job import Recent, read_rows
from learners.run import run
from learners.snapshot import read_job
from tests.daemon.streams import label_row, settings
from tests.daemon.test_controller import NOW, Desk, score_row
from tests.sentences import sentence


def started(config) -> tuple[Desk, Path]:
    """A job over 240 texts of which the first 120 have labels."""
    desk = Desk(config)
    # With a number, for the sentences repeat and a labelled one does not count as unlabelled.
    scores = [score_row(number, text=f"{sentence(number)[0]} {number}") for number in range(240)]
    desk.step(scores, [label_row(number) for number in range(120)])
    champion = desk.controller.champion
    assert champion is not None
    job = desk.controller.training.start(Firing("manual", "fired", "a test"), champion, NOW)
    return desk, config.home / "jobs" / job.name


def unlabelled(directory: Path) -> list[str]:
    return [row.id for row in read_rows(directory / "unlabelled.jsonl", Recent)]


@pytest.mark.parametrize("asks", ["pseudo_labels", "pretraining"])
def test_a_job_gets_the_latest_texts_without_a_label_that_are_not_held_out(config, encoder, asks):
    asking = settings(config.home, encoder, learning={asks: {"enabled": True}}, memory={"unlabelled": 50})
    desk, directory = started(asking)
    latest = [f"t{number}" for number in range(190, 240)]
    assert unlabelled(directory) == [id for id in latest if share_of(id, asking.memory) == "learn"]
    assert 20 < len(unlabelled(directory)) < 50
    job = read_job(directory)
    assert (job.pseudo_labels is not None, job.pretraining is not None) == (
        asks == "pseudo_labels",
        asks == "pretraining",
    )
    desk.close()


def test_a_job_that_asks_for_none_gets_none(config):
    desk, directory = started(config)
    assert not (directory / "unlabelled.jsonl").exists()
    desk.close()


def test_a_learner_takes_what_the_daemon_wrote(config, encoder):
    asking = settings(
        config.home,
        encoder,
        # The tiny model is right often enough from 0.5 on.
        learning={"pseudo_labels": {"enabled": True, "precision": 0.5}, "augmentation": 0.2},
        memory={"gate_share": 0.5},
    )
    desk, directory = started(asking)
    report = run(directory)
    assert report.pseudo_label_threshold is not None
    assert report.pseudo_labelled > 0
    # What closed jobs leave is small.
    job = desk.controller.training.jobs.running()
    assert job is not None
    desk.controller.training.jobs.close(job, "rejected", {})
    desk.controller.training.tidy()
    assert not (directory / "unlabelled.jsonl").exists()
    desk.close()


def test_pseudo_labels_without_texts_to_give_them_to_are_refused():
    with pytest.raises(SettingsError, match=r"set memory\.unlabelled above 0"):
        load(None, environment={}, overrides=["learning.pseudo_labels.enabled=true", "memory.unlabelled=0"])
