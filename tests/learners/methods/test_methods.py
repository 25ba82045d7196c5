"""What every method must do, over two tasks: formal sentences, then slang in which one label never occurs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from learners.device import resolve
from learners.evaluation import log_loss
from learners.job import EWC, MAS, SI, Example, Job, Progress, read_rows
from learners.methods.names import HOLDING, PARTS, canonical, parts, replays
from learners.model import create, load
from learners.run import run
from learners.scoring import forward_batches
from tests.learners.conftest import write_job
from tests.learners.test_run import digest, start
from tests.sentences import LABELS, examples, sentence

#: Methods that must keep the first task: all but fine-tuning, and some together.
KEEPS = (
    "joint",
    "replay",
    "er-ace",
    "der",
    "lwf",
    "ewc",
    "si",
    "mas",
    "agem",
    "replay+ewc",
    "replay+lwf",
    "der+si",
)

SLANG = [
    Example(id=f"s{number}", text=text, label=label)
    for number, (text, label) in enumerate(sentence(number, slang=True) for number in range(72))
    if label != "negative"
]


@pytest.fixture
def job(job: Job) -> Job:
    # A tiny encoder moves ten times as far as a real one, at forty times the learning rate.
    held = {"strength": 0.01, "decay": 0.9}
    return job.model_copy(
        update={"epochs": 12, "ewc": EWC(**held, samples=16), "si": SI(**held), "mas": MAS(**held, samples=16)}
    )


def first_task(job: Job, directory: Path, method: str) -> Path:
    """The candidate."""
    write_job(directory, job.model_copy(update={"method": canonical(method)}), new=examples(36))
    run(directory)
    return directory / "candidate"


def prepare_second(job: Job, directory: Path, parent: Path, method: str) -> None:
    """Its gate is of the first task, so that its report tells what is left of that."""
    then = job.model_copy(update={"id": "two", "method": canonical(method), "parent": parent, "seed": 1})
    write_job(directory, then, new=SLANG, replay=examples(36))


def loss_on(directory: Path, rows: list[Example]) -> float:
    model = load(directory, torch.device("cpu"))
    scored = forward_batches(model, model.tokenise([row.text for row in rows]), 2048, resolve("cpu"))
    return log_loss(scored.probabilities, np.array([model.labels.index(row.label) for row in rows]))


def test_fine_tuning_forgets_the_first_task(job, tmp_path):
    parent = first_task(job, tmp_path / "one", "finetune")
    prepare_second(job, tmp_path / "two", parent, "finetune")
    report = run(tmp_path / "two")
    assert report.parent is not None
    assert report.parent.loss < 0.5
    assert report.candidate.loss > 1.2


@pytest.mark.parametrize("method", KEEPS)
def test_a_method_learns_the_second_task_and_keeps_the_first(method, job, tmp_path):
    # Given a model of the first task
    parent = first_task(job, tmp_path / "one", method)

    # When it learns the second, twice
    for place in ("two", "again"):
        prepare_second(job, tmp_path / place, parent, method)
    report = run(tmp_path / "two")
    run(tmp_path / "again")

    # Then it has learned that, and forgotten little: fine-tuning is at more than 1.2
    assert loss_on(parent, SLANG) > 1
    assert loss_on(tmp_path / "two/candidate", SLANG) < 0.5
    assert report.candidate.loss < 0.7
    # And the same job has given the same weights
    assert digest(tmp_path / "two") == digest(tmp_path / "again")
    # And only what it learned from is counted, and what the next job needs is saved
    assert report.replayed == (36 if replays(report.method) else 0)
    assert all(math.isfinite(row.loss) for row in read_rows(tmp_path / "two/metrics.jsonl", Progress))
    saved = {path.stem for path in (tmp_path / "two/candidate").glob("*.safetensors")} - {"model"}
    assert saved == HOLDING & set(parts(report.method))


def test_every_part_is_held_to_the_contract():
    assert {part for method in KEEPS for part in parts(canonical(method))} == set(PARTS) - {"finetune"}


@pytest.mark.parametrize("method", ["si", "mas"])
def test_two_processes_learn_what_one_does(method, job, tmp_path):
    parent = first_task(job, tmp_path / "one", method)
    for place in ("here", "there"):
        prepare_second(job, tmp_path / place, parent, method)
    run(tmp_path / "here")
    assert start(tmp_path / "there").wait(120) == 0
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    # What was learned last counts as much as all before it did at first, and adds to nine tenths of that.
    first, both = (load_file(place / f"{method}.safetensors") for place in (parent, tmp_path / "here/candidate"))
    assert sum(float(one.sum()) for one in both.values()) == pytest.approx(
        1.9 * sum(float(one.sum()) for one in first.values()), rel=1e-3
    )


@pytest.mark.parametrize("method", [part for part in PARTS if part != "finetune"])
def test_a_first_model_can_be_made_by_any_method(method, job, tmp_path):
    first_task(job.model_copy(update={"epochs": 1}), tmp_path / "one", method)


@pytest.mark.parametrize("method", ["lwf", "der", "er-ace+lwf", "der+mas"])
def test_a_label_that_the_parent_does_not_know_is_learned(method, job, tmp_path):
    parent = first_task(job, tmp_path / "one", method)
    named = {"positive": "mixed", "neutral": "neutral"}
    mixed = [example.model_copy(update={"label": named[example.label]}) for example in SLANG]
    grown = job.model_copy(update={"method": canonical(method), "labels": ["mixed", *LABELS], "parent": parent})
    write_job(tmp_path / "two", grown, new=mixed, replay=examples(36))
    run(tmp_path / "two")
    assert loss_on(tmp_path / "two/candidate", mixed) < 0.5


def test_joint_training_starts_from_the_encoder(job, tmp_path):
    slow = job.model_copy(update={"learning_rate": 1e-12})
    parent = first_task(job, tmp_path / "one", "finetune")
    prepare_second(slow, tmp_path / "two", parent, "joint")
    run(tmp_path / "two")
    fresh = create(job.encoder, job.labels, job.max_tokens, job.seed + 1)
    trained = load(tmp_path / "two/candidate", torch.device("cpu"))
    torch.testing.assert_close(trained.classifier.head.weight, fresh.classifier.head.weight)
