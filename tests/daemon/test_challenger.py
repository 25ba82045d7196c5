"""A candidate that lacked nothing but proof: the next run goes on from it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.config import Config
from daemon.records import utc
from daemon.registry import Registry
from daemon.triggers import Firing
from learners.device import resolve
from learners.job import Example, Judged, read_rows
from learners.judging import answers
from learners.model import load
from learners.snapshot import read_job
from tests.daemon.streams import label_row
from tests.daemon.test_controller import NOW, Desk, ask, score_row


@pytest.fixture
def desk(config: Config) -> Any:
    """Nothing is ever proved to its gate."""
    desk = Desk(config.model_copy(update={"gate": config.gate.model_copy(update={"alpha": 1e-9})}))
    yield desk
    desk.close()


def begin(desk: Desk, start: int, end: int) -> Path:
    """Give it texts in slang with their labels, and ask for a run; returns its directory."""
    numbers = range(start, end)
    desk.step([score_row(n, slang=True) for n in numbers], [label_row(n, slang=True) for n in numbers])
    ask(desk, "learn", by="Ada")
    learner = desk.controller.training.learner
    assert learner is not None
    return learner.directory


def turn_away(desk: Desk, directory: Path, *, unproved: bool) -> None:
    """Have the run in `directory` end with a candidate that the gate thinks this of."""
    training = desk.controller.training
    training.stop()
    (directory / "candidate").mkdir(exist_ok=True)
    details = {"gate": {"unproved": unproved}, "report": {"method": "der"}}
    training.jobs.close(training.jobs.running(), "rejected", {"because": "a test", **details})
    training.tidy()


def ids(directory: Path, name: str, group: str = "fresh") -> set[str]:
    return {row.id for row in read_rows(directory / f"{name}.jsonl", Example) if row.group == group}


def test_the_next_run_goes_on_from_it_and_learns_only_what_is_new(desk, config):
    first = begin(desk, 0, 120)
    judged_first = ids(first, "gate")
    desk.controller.training.learner.wait(120)
    desk.step()
    assert desk.controller.decisions.latest(1)[0]["because"].endswith("; the next run goes on from it")

    second = begin(desk, 120, 200)
    job = read_job(second)
    assert job.parent == first / "candidate"
    assert job.champion == config.home / "models" / "v1"
    assert desk.controller.training.jobs.running().challenger == "v2"
    assert {int(id[1:]) for id in ids(second, "new")} <= set(range(120, 200))
    assert ids(second, "replay", "old") & {f"t{n}" for n in range(120)}
    # It is judged on all that the champion has not learned.
    assert judged_first < ids(second, "gate")

    desk.controller.training.learner.wait(120)
    judged = list(read_rows(second / "judged.jsonl", Judged))
    champion = load(config.home / "models" / "v1", torch.device("cpu"))
    texts = {row.id: row.text for row in read_rows(second / "gate.jsonl", Example)}
    said = answers(champion, [texts[row.id] for row in judged], champion.labels, resolve("cpu", "float32"))
    assert [row.parent for row in judged] == pytest.approx(said, abs=1e-5)
    desk.step()
    assert not (first / "candidate").exists()
    assert (second / "candidate").is_dir()


def test_one_that_may_do_harm_is_left_and_all_is_learned_from_the_champion_again(desk, config):
    first = begin(desk, 0, 120)
    learned = ids(first, "new")
    turn_away(desk, first, unproved=False)
    assert not (first / "candidate").exists()

    second = begin(desk, 120, 200)
    job = read_job(second)
    assert (job.parent, job.champion) == (config.home / "models" / "v1", None)
    assert learned < ids(second, "new")


def test_one_whose_files_are_gone_is_done_without(desk, config):
    first = begin(desk, 0, 120)
    turn_away(desk, first, unproved=True)
    (first / "candidate").rmdir()
    assert read_job(begin(desk, 120, 200)).parent == config.home / "models" / "v1"


def test_joint_training_starts_afresh_whatever_came_before(config):
    desk = Desk(config.model_copy(update={"learning": config.learning.model_copy(update={"method": "joint"})}))
    turn_away(desk, begin(desk, 0, 120), unproved=True)
    assert read_job(begin(desk, 120, 200)).parent == config.home / "models" / "v1"
    desk.close()


@pytest.mark.parametrize(("method", "goes_on"), [("priors", True), ("der", False)])
def test_it_outlives_a_champion_that_only_followed_the_label_mix(desk, config, method, goes_on):
    first = begin(desk, 0, 120)
    turn_away(desk, first, unproved=True)
    crown(desk, config, method)
    job = read_job(begin(desk, 120, 200))
    assert job.parent == (first / "candidate" if goes_on else config.home / "models" / "v9")
    assert job.champion == (config.home / "models" / "v9" if goes_on else None)


def crown(desk: Desk, config: Config, method: str) -> None:
    """Make v9 champion, which came of v1 by `method`."""
    registry = Registry(config.home / "models")
    copy = config.home / "copy"
    copy.mkdir()
    for file in registry.path("v1").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    first = registry.manifest("v1")
    told = {"job": "job-00009", "trigger": "mix", "method": method, "decision": {}}
    same = first.model_dump(include={"labels", "data_sha256", "seed"})
    manifest = registry.add(copy, version="v9", parent="v1", created_at=utc(NOW), **told, **same)
    champion = desk.controller.champion
    desk.controller.reign.crown(manifest, NOW, because="a test", newest_example=champion.newest_example)


def test_what_it_has_learned_is_not_new_again_after_a_run_that_followed_the_label_mix(desk):
    first = begin(desk, 0, 120)
    turn_away(desk, first, unproved=True)
    controller = desk.controller
    followed = controller.training.follow_mix(Firing("mix", "fired", "a test"), controller.champion, NOW, since=NOW)
    controller.training.jobs.close(followed, "rejected", {"because": "a test"})

    ask(desk, "learn", by="Ada")
    assert "nothing new to learn" in controller.decisions.latest(1)[0]["because"]
