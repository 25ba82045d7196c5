"""A label mix that moved: the run that follows it, from the alarm to the job that the learner is given."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.training import judges_mix
from daemon.triggers import Firing
from learners.job import Example, read_rows
from learners.run import run
from learners.snapshot import read_job
from tests.daemon.streams import START, as_messages, label_row, settings
from tests.daemon.test_challenger import conclude
from tests.daemon.test_controller import Desk, score_row
from tests.sentences import LABELS, sentence

#: The text at which the mix moves, and texts in all.
MOVED, TEXTS = 300, 800


def at(number: int) -> float:
    return (START + timedelta(minutes=number)).timestamp()


def texts_whose_mix_moves(*, slang: bool = False) -> list[dict[str, Any]]:
    """Sentences of all labels in turn, and from `MOVED` on four in five of one; the first model knows no `slang`."""
    numbers = [number for number in range(3_000) if sentence(number)[1] == LABELS[0]]
    rows = []
    for place in range(TEXTS):
        of = numbers[place] if place >= MOVED and place % 5 else place
        text, label = sentence(of, slang=slang)
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
    training, judged_on = desk.controller.training, []
    for _ in steps(desk, TEXTS):
        if job := training.jobs.running():
            assert job.trigger == "mix"
            judged_on.append(len(fresh_of(config.home / "jobs" / job.name)))
            training.jobs.close(job, "rejected", {"because": "no better beyond chance"})

    needed = desk.config.gate.min_examples
    assert needed <= judged_on[0] < 2 * needed <= judged_on[1]
    desk.close()


def test_only_labels_from_after_the_move_judge_whether_it_is_followed(config):
    desk, directory = following(config)
    champion = desk.controller.champion
    assert champion is not None
    fresh = fresh_of(directory)
    assert fresh
    assert all(int(id[1:]) >= 150 for id in fresh)
    assert desk.controller.training.judging(champion, at(150)) == len(fresh)
    desk.close()


def test_a_quarter_of_what_would_be_learned_judges_and_the_rest_tells_the_mix(config):
    desk, directory = following(config)
    champion, memory = desk.controller.champion, desk.controller.memory
    assert champion is not None
    telling = {row.id for row in read_rows(directory / "new.jsonl", Example)}
    judging = fresh_of(directory) - {row.id for row in memory.held_out(0)}
    assert not judging & telling
    assert judging | telling == {row.id for row in memory.new(champion.newest_example)}
    assert judging == {id for id in judging | telling if int(id[1:]) >= 150 and judges_mix(id)}
    assert sum(judges_mix(f"n{number}") for number in range(10_000)) == pytest.approx(2_500, abs=3 * 43)
    desk.close()


def test_what_was_labelled_before_the_move_is_old(config, encoder):
    held_out = {"gate_share": 0.4, "audit_share": 0.2}
    # No run of its own accord.
    waits = {"triggers": {"min_labels": 10_000}, "gate": {"min_examples": 10_000}}
    desk = Desk(settings(config.home, encoder, memory=held_out, **waits))
    rows = texts_whose_mix_moves()
    desk.step(rows, [{**label_row(place), "label": row["label"]} for place, row in enumerate(rows)])
    champion = desk.controller.champion
    assert champion is not None
    job = desk.controller.training.follow_mix(Firing("mix", "fired", "a test"), champion, at(TEXTS), since=at(MOVED))
    for name in ("gate", "audit"):
        judging = list(read_rows(config.home / "jobs" / job.name / f"{name}.jsonl", Example))
        assert {row.group for row in judging} == {"old", "fresh"}
        assert all((row.group == "old") == (row.timestamp < at(MOVED)) for row in judging)
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


def fresh_of(job: Path) -> set[str]:
    """Ids of the labels that judge the candidate of the job in this directory, and no champion before."""
    return {row.id for row in read_rows(job / "gate.jsonl", Example) if row.group == "fresh"}


def test_it_is_tried_only_on_texts_from_after_the_move_whose_labels_told_it_nothing(config, encoder):
    lets_all_through = {
        "alpha": 0.999999,
        "slice_tolerance": 1.0,
        "calibration_tolerance": 1.0,
        "invariance_tolerance": 1.0,
        "max_slowdown": 1e6,
    }
    only_mix = {"drift_labels": 10_000, "min_labels": 10_000}
    memory = {"rescored": TEXTS}
    desk = Desk(settings(config.home, encoder, gate=lets_all_through, triggers=only_mix, memory=memory))
    rows = texts_whose_mix_moves(slang=True)
    labels = [{**label_row(place), "label": row["label"]} for place, row in enumerate(rows)]
    desk.step(rows, [*labels[: MOVED - 100], *labels[MOVED:700]])
    job = desk.controller.training.jobs.running()
    assert job is not None
    moved = read_job(config.home / "jobs" / job.name).since
    desk.step(labels=labels[700:720])
    judged = conclude(desk)
    assert judged["state"] == "promoted", judged["because"]
    assert judged["gate"]["apart_from_mix"]
    assert at(MOVED - 30) < moved < at(MOVED + 30)
    followed = desk.controller.champion
    assert followed is not None
    assert followed.odds == judged["report"]["odds"]
    tried = {row[0] for row in desk.db.execute("SELECT id FROM probation")}
    unlabelled = [*range(MOVED - 100, MOVED), *range(720, TEXTS)]
    assert tried == {f"t{place}" for place in unlabelled if at(place) >= moved}

    # What learns next goes on from the bias that was learned, and is judged beside a champion that follows the mix;
    # what learns after that is not.
    learned = learn(desk)
    followed = read_job(config.home / "jobs" / "job-00002")
    assert (followed.parent, followed.champion) == tuple(config.home / "models" / name for name in ("v1", "v2"))
    assert learned["state"] == "promoted", learned["because"]
    assert learned["gate"]["apart_from_mix"]
    assert desk.controller.champion is not None
    assert desk.controller.champion.odds is None
    desk.step(labels=labels[720:760])
    assert not learn(desk)["gate"]["apart_from_mix"]
    desk.close()


def learn(desk: Desk) -> dict[str, Any]:
    """Have a run learn what there is; the job, as it is judged."""
    champion = desk.controller.champion
    assert champion is not None
    desk.controller.training.start(Firing("manual", "fired", "a test"), champion, at(TEXTS))
    desk.controller.training.supervise()
    return conclude(desk)


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
