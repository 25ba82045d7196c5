import copy

import pytest
import torch
from pydantic import ValidationError

from learners.interpolation import GRID, interpolate, weights_of
from learners.job import Job, Judged, read_rows
from learners.model import load
from learners.run import run
from learners.selection import chooses
from tests.learners.conftest import write_job
from tests.sentences import examples


def spoiled(weights, by):
    """`weights` with the head's signs partly turned: at 1, whatever was learned is said the other way round."""
    return {name: weight * (1 - 2 * by) if name.startswith("head") else weight for name, weight in weights.items()}


def put(model, weights):
    with torch.no_grad():
        for name, weight in model.classifier.named_parameters():
            weight.copy_(weights[name])


@pytest.fixture
def taught(job, tmp_path):
    write_job(tmp_path / "job", job.model_copy(update={"epochs": 20}), new=examples(36))
    run(tmp_path / "job")
    return load(tmp_path / "job/candidate", torch.device("cpu"))


def test_what_was_trained_stays_where_it_is_best(taught, compute):
    best = weights_of(taught)
    assert interpolate(taught, spoiled(best, 1.0), examples(12, offset=60), compute) == 1.0
    assert all(torch.equal(weight, best[name]) for name, weight in weights_of(taught).items())


def test_training_that_did_harm_is_nearly_undone(taught, compute):
    best = weights_of(taught)
    put(taught, spoiled(best, 1.0))
    assert interpolate(taught, best, examples(12, offset=60), compute) == min(GRID)
    expected = best["head.weight"] * 0.8 - best["head.weight"] * 0.2
    torch.testing.assert_close(taught.classifier.head.weight.detach(), expected)


def test_fresh_and_old_examples_have_an_equal_say(taught, compute):
    best = weights_of(taught)
    # The fresh ones are few and say the opposite of the old ones, so each way gains what the other loses.
    old = [example.model_copy(update={"group": "old"}) for example in examples(36)]
    turned = {"negative": "positive", "positive": "negative", "neutral": "neutral"}
    fresh = [example.model_copy(update={"label": turned[example.label]}) for example in examples(6)]
    alone = interpolate(copy.deepcopy(taught), spoiled(best, 1.0), old, compute)
    assert alone == 1.0
    assert interpolate(taught, spoiled(best, 1.0), [*old, *fresh], compute) < 1.0


@pytest.mark.parametrize("on", [False, True])
def test_only_examples_that_chose_are_marked(on, job, tmp_path):
    write_job(tmp_path / "one", job, new=examples(24))
    run(tmp_path / "one")
    second = job.model_copy(update={"parent": tmp_path / "one/candidate", "interpolate": on})
    write_job(tmp_path / "two", second, new=examples(24, offset=24))
    report = run(tmp_path / "two")
    judged = list(read_rows(tmp_path / "two/judged.jsonl", Judged))
    assert (report.interpolation in GRID) == on
    assert [row.selected for row in judged] == [on and chooses(row.id) for row in judged]
    assert any(row.selected for row in judged) == on
    assert not all(row.selected for row in judged)


def test_a_first_model_has_nothing_to_go_back_to(job, tmp_path):
    write_job(tmp_path / "job", job.model_copy(update={"interpolate": True}), new=examples(24))
    assert run(tmp_path / "job").interpolation is None


def test_a_job_that_starts_afresh_is_not_interpolated(job):
    with pytest.raises(ValidationError, match="joint does not start from it"):
        Job.model_validate(job.model_dump() | {"method": "joint", "interpolate": True})
