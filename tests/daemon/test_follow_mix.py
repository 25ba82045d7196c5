"""A label mix that moved: the run that follows it, from the alarm to the job that the learner is given."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.triggers import Firing
from learners.job import Example, read_rows
from learners.run import run
from learners.snapshot import read_job
from tests.daemon.streams import START, as_messages, label_row, settings
from tests.daemon.test_controller import Desk, score_row
from tests.sentences import LABELS, sentence

#: The text at which the mix moves, and texts in all.
MOVED, TEXTS = 300, 800


def at(number: int) -> float:
    return (START + timedelta(minutes=number)).timestamp()


def texts_whose_mix_moves() -> list[dict[str, Any]]:
    """Sentences of all labels in turn, and from `MOVED` on four in five of one."""
    numbers = [number for number in range(3_000) if sentence(number)[1] == LABELS[0]]
    rows = []
    for place in range(TEXTS):
        of = numbers[place] if place >= MOVED and place % 5 else place
        text, label = sentence(of)
        moment = (START + timedelta(minutes=place)).isoformat()
        rows.append(
            {**score_row(of, label=label, text=text), "id": f"t{place}", "timestamp": moment, "scored_at": moment}
        )
    return rows


def test_a_mix_that_moved_is_noticed_and_followed_without_learning(config, encoder):
    desk = Desk(settings(config.home, encoder, triggers={"drift_labels": 10_000}))
    for _ in steps(desk, 500):
        pass

    decisions = desk.controller.decisions.latest(100)
    alarms = [one for one in decisions if one["kind"] == "drift" and one["text_at"] >= at(MOVED)]
    assert alarms
    assert alarms[0]["text_at"] < at(MOVED + 60)
    (fired,) = [one for one in decisions if one["kind"] == "trigger fired"]
    assert fired["trigger"] == "mix"
    job = read_job(config.home / "jobs" / "job-00001")
    assert job.method == "priors"
    assert at(MOVED - 30) < job.since < at(MOVED + 30)
    desk.close()


def test_a_mix_whose_run_was_turned_away_is_followed_again_once_twice_as_many_labels_judge_it(config, encoder):
    triggers = {"drift_labels": 10_000, "labels": 0, "accuracy": {"drop": 1.0}}
    desk = Desk(settings(config.home, encoder, triggers=triggers))
    training, memory, judged_on = desk.controller.training, desk.controller.memory, []
    for _ in steps(desk, TEXTS):
        if job := training.jobs.running():
            assert job.trigger == "mix"
            moved = read_job(config.home / "jobs" / job.name).since
            judged_on.append(memory.count("gate", from_time=moved))
            training.jobs.close(job, "rejected", {"because": "no better beyond chance"})

    needed = desk.config.gate.min_examples
    assert needed <= judged_on[0] < 2 * needed <= judged_on[1]
    desk.close()


def test_only_labels_from_after_the_move_judge_whether_it_is_followed(config):
    desk, directory = following(config)
    fresh = {row.id for row in read_rows(directory / "gate.jsonl", Example) if row.group == "fresh"}
    assert fresh
    assert all(int(id[1:]) >= 150 for id in fresh)
    desk.close()


def test_a_run_that_learned_nothing_leaves_all_labels_to_be_learned(config):
    desk, _ = following(config)
    champion, job = desk.controller.champion, desk.controller.training.jobs.running()
    assert champion is not None
    assert job is not None
    assert job.newest_example == champion.newest_example
    assert desk.controller.memory.count("learn", since=job.newest_example) > 100
    desk.close()


def test_all_that_is_known_of_the_mix_before_it_moved_is_what_the_job_has(config):
    desk, directory = following(config)
    champion = desk.controller.champion
    assert champion is not None
    known = sum(row.timestamp < at(150) for row in read_rows(directory / "new.jsonl", Example))
    assert desk.controller.training.before(champion, at(150)) == known > 100
    assert desk.controller.training.before(champion, at(0)) == 0
    desk.close()


def test_the_learner_takes_the_job_and_no_run_goes_on_from_what_it_left(config):
    gate = config.gate.model_copy(update={"alpha": 1e-9})
    desk, directory = following(config.model_copy(update={"gate": gate}))
    report = run(directory)
    assert (report.method, report.steps) == ("priors", 0)
    assert report.new_priors is not None
    desk.step()
    (rejected,) = [one for one in desk.controller.decisions.latest(5) if one["kind"] == "rejected"]
    assert "no better beyond chance" in rejected["because"]
    assert "goes on from it" not in rejected["because"]
    assert not (directory / "candidate").exists()
    desk.close()


def steps(desk: Desk, texts: int) -> Iterator[None]:
    """Hand the controller the first `texts` and their labels, 20 at a time, with a pause after each step."""
    rows = texts_whose_mix_moves()[:texts]
    labels = [{**label_row(place), "label": row["label"]} for place, row in enumerate(rows)]
    topics = desk.config.topics
    for first in range(0, texts, 20):
        part = slice(first, first + 20)
        messages = [*as_messages(topics.scores, rows[part]), *as_messages(topics.labels, labels[part])]
        desk.controller.step(messages, {}, datetime.fromisoformat(rows[part][-1]["timestamp"]).timestamp())
        yield


def following(config) -> tuple[Desk, Path]:
    """A run that follows a mix which moved at text 150 of 300, all of them labelled."""
    desk = Desk(config)
    desk.step([score_row(number) for number in range(300)], [label_row(number) for number in range(300)])
    champion = desk.controller.champion
    assert champion is not None
    firing = Firing("mix", "fired", "a test")
    job = desk.controller.training.follow_mix(firing, champion, at(300), since=at(150))
    return desk, config.home / "jobs" / job.name
