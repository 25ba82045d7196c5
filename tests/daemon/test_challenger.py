"""A candidate that lacked nothing but proof: it is judged again, and the next run goes on from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daemon.config import Config, GateConfig, TriggersConfig
from daemon.gate.chance import p_greater
from daemon.records import utc
from daemon.registry import Registry
from daemon.training import FURTHER_LOOK
from daemon.triggers import Firing
from learners.device import resolve
from learners.job import Example, Judged, read_rows
from learners.judging import answers
from learners.model import load
from learners.selection import chooses
from learners.snapshot import read_job
from tests.daemon.streams import label_row
from tests.daemon.test_controller import NOW, Desk, ask, score_row


def doubting(config: Config, **triggers: Any) -> Config:
    """Nothing is ever proved to its gate."""
    gate = config.gate.model_copy(update={"alpha": 1e-9})
    return config.model_copy(update={"gate": gate, "triggers": config.triggers.model_copy(update=triggers)})


@pytest.fixture
def desk(config: Config) -> Any:
    """One whose gate doubts everything, and that judges nothing again."""
    desk = Desk(doubting(config, min_labels=10_000))
    yield desk
    desk.close()


def begin(desk: Desk, start: int, end: int) -> Path:
    """Give it texts in slang with their labels, and ask for a run; returns its directory."""
    feed(desk, start, end)
    ask(desk, "learn", by="Ada")
    return at_work(desk)


def feed(desk: Desk, start: int, end: int) -> None:
    numbers = range(start, end)
    desk.step([score_row(n, slang=True) for n in numbers], [label_row(n, slang=True) for n in numbers])


def at_work(desk: Desk) -> Path:
    """The directory of the run that is under way."""
    learner = desk.controller.training.learner
    assert learner is not None
    return learner.directory


def conclude(desk: Desk) -> dict[str, Any]:
    """Wait for the run that is under way; the job, as it is judged."""
    training = desk.controller.training
    number = training.jobs.running().number
    training.learner.wait(120)
    desk.step()
    (job,) = [job for job in training.jobs.all() if job.number == number]
    return {"state": job.state, **job.decision}


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
    assert conclude(desk)["because"].endswith("; labels that come may prove it")

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


def test_joint_training_starts_afresh_whatever_came_before_and_may_be_proved_later_too(config):
    learning = config.learning.model_copy(update={"method": "joint"})
    desk = Desk(doubting(config.model_copy(update={"learning": learning}), min_labels=50))
    first = begin(desk, 0, 120)
    turn_away(desk, first, unproved=True)
    feed(desk, 120, 185)
    again = at_work(desk)
    assert (read_job(again).method, read_job(again).parent) == ("as-is", first / "candidate")
    turn_away(desk, again, unproved=True)
    ask(desk, "learn", by="Ada")
    assert (read_job(at_work(desk)).method, read_job(at_work(desk)).parent) == ("joint", config.home / "models" / "v1")
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


def test_it_is_judged_again_on_all_labels_that_have_come_since_and_goes_live(config):
    # Given a candidate that nothing was proved of, and a gate that can be convinced from now on
    desk = Desk(doubting(config, min_labels=60))
    first = begin(desk, 0, 120)
    conclude(desk)
    desk.close()
    desk = Desk(config.model_copy(update={"triggers": config.triggers.model_copy(update={"min_labels": 60})}))
    newest = desk.controller.memory.newest()

    # When labels come: too few at first, then enough; and the daemon is started anew in the middle
    feed(desk, 120, 170)
    assert desk.controller.training.learner is None
    feed(desk, 170, 220)
    again = at_work(desk)
    desk.close()
    desk = Desk(desk.config)
    desk.step()
    job = read_job(again)
    since = ids(again, "new")
    held_out = ids(again, "gate")
    judgement = conclude(desk)

    # Then it was judged on those of them that were to be learned too, at half of alpha
    assert (job.method, job.parent, job.champion) == ("as-is", first / "candidate", config.home / "models" / "v1")
    assert since
    assert {int(id[1:]) for id in since} <= set(range(120, 220))
    assert any(int(id[1:]) < 120 for id in held_out)
    assert judgement["gate"]["fresh"] == len(since) + sum(not chooses(id) for id in held_out)
    assert judgement["gate"]["settings"]["alpha"] == config.gate.alpha / 2

    # And it is live under its own name, with all that has come since yet to be learned
    champion = desk.controller.champion
    assert (champion.version, champion.parent, champion.newest_example) == ("v2", "v1", newest)
    manifest = Registry(config.home / "models").manifest("v2")
    assert (manifest.job, manifest.trigger, manifest.method) == ("job-00001", "manual", config.learning.method)
    assert manifest.decision["fresh"] == judgement["gate"]["fresh"]
    ask(desk, "learn", by="Ada")
    assert since <= ids(at_work(desk), "new")
    assert read_job(at_work(desk)).parent == config.home / "models" / "v2"
    desk.close()


def test_each_further_look_takes_twice_the_labels_and_what_is_not_proved_is_gone_on_from(config):
    desk = Desk(doubting(config, min_labels=50))
    turn_away(desk, begin(desk, 0, 120), unproved=False)
    first = begin(desk, 120, 180)
    conclude(desk)

    feed(desk, 180, 245)
    assert conclude(desk)["because"].endswith("; labels that come may prove it")
    feed(desk, 245, 280)
    assert desk.controller.training.learner is None
    feed(desk, 280, 320)
    assert read_job(at_work(desk)).method == "as-is"
    conclude(desk)
    assert [job.version for job in desk.controller.training.jobs.looks("v3")] == ["v3", "v3"]
    ask(desk, "learn", by="Ada")
    assert read_job(at_work(desk)).parent == first / "candidate"
    desk.close()


@pytest.mark.parametrize("state", ["rejected", "promoted"])
def test_one_that_was_harmful_when_judged_again_or_went_live_and_came_back_is_not_gone_on_from(config, state):
    desk = Desk(doubting(config, min_labels=50))
    first = begin(desk, 0, 120)
    conclude(desk)
    feed(desk, 120, 185)
    training = desk.controller.training
    training.stop()
    details = {"gate": {"unproved": False}, "report": {"method": "as-is"}}
    training.jobs.close(training.jobs.running(), state, {"because": "a test", **details})
    training.tidy()
    assert not (first / "candidate").exists()

    ask(desk, "learn", by="Ada")
    assert read_job(at_work(desk)).parent == config.home / "models" / "v1"
    desk.close()


def test_texts_that_it_may_have_learned_under_the_champions_word_prove_nothing(config):
    learning = config.learning.model_copy(
        update={"pseudo_labels": config.learning.pseudo_labels.model_copy(update={"enabled": True})}
    )
    desk = Desk(doubting(config, min_labels=50).model_copy(update={"learning": learning}))
    turn_away(desk, begin(desk, 0, 120), unproved=True)
    (made,) = desk.controller.training.jobs.all()
    moments = {n: utc(made.created_at + (60 if n >= 160 else -60)).isoformat() for n in range(120, 200)}
    scores = [score_row(n, slang=True, timestamp=moments[n]) for n in moments]
    desk.step(scores, [label_row(n, slang=True) for n in moments], NOW + 2 * 86_400)
    since = ids(at_work(desk), "new")
    assert since
    assert all(int(id[1:]) >= 160 for id in since)
    desk.close()


def test_the_looks_together_let_few_through_that_are_no_better():
    # Brier scores differ about as much as on real streams; a hundred held-out labels, then all of 800 that come.
    random = np.random.default_rng(0)
    gate, triggers = GateConfig(), TriggersConfig()
    looks = [triggers.min_labels * 2**look for look in range(4)]
    through = {"as good": 0, "a little worse": 0, "better": 0}
    for means, name in ((0.0, "as good"), (-0.006, "a little worse"), (0.018, "better")):
        for stream in range(200):
            differences = random.normal(means, 0.2, 100 + looks[-1])
            alphas = [gate.alpha, *[gate.alpha * FURTHER_LOOK] * len(looks)]
            ends = [100, *(100 + look for look in looks)]
            found = (p_greater(differences[:end], stream) < alpha for end, alpha in zip(ends, alphas, strict=True))
            through[name] += any(found)
    assert through["as good"] < 60
    assert through["a little worse"] < 25
    assert through["better"] > 160
