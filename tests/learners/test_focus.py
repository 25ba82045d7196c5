import numpy as np
import pytest
import torch

from learners.focus import CEILING, FLOOR, draw, focused
from learners.run import run
from learners.snapshot import Snapshot
from learners.strategy import Logits, TextStrategy
from learners.training import training_rows
from tests.learners.conftest import write_job
from tests.learners.test_stopping import flipped
from tests.sentences import examples


@pytest.fixture
def learned(job, tmp_path):
    """A job whose parent has learned what `examples` say."""
    write_job(tmp_path / "first", job.model_copy(update={"epochs": 20}), new=examples(60))
    run(tmp_path / "first")
    return job.model_copy(update={"parent": tmp_path / "first/candidate", "focus": 0.5})


def test_what_the_parent_gets_wrong_is_gone_over_and_most_of_what_it_knows_is_not(learned, compute):
    snapshot = Snapshot(
        new=[*examples(60), *flipped(examples(30))], replay=examples(30, offset=60), gate=[], unlabelled=[]
    )
    part = focused(snapshot, learned, compute)
    assert len(part.new) + len(part.replay) == 60
    assert sum(one.id.startswith("flipped") for one in part.new) >= 27
    assert 5 <= len(part.replay) <= 20
    assert [one for one in snapshot.new if one in part.new] == part.new


def test_a_chance_is_in_proportion_to_the_bounded_loss():
    losses = np.array([0.0, 0.4, CEILING, 40.0])
    counts = sum(draw(losses, 1, seed) for seed in range(20_000))
    chances = FLOOR + np.minimum(losses, CEILING)
    np.testing.assert_allclose(counts / 20_000, chances / chances.sum(), atol=0.015)


def test_all_is_gone_over_without_a_parent_or_when_all_is_asked_for(learned, compute):
    snapshot = Snapshot(new=examples(20), replay=examples(10, offset=20), gate=[], unlabelled=[])
    for settings in ({"parent": None}, {"focus": 1.0}, {"method": "joint"}):
        assert focused(snapshot, learned.model_copy(update=settings), compute) == snapshot


def test_what_a_method_does_not_learn_from_is_left_to_measure_on(learned, compute):
    snapshot = Snapshot(new=examples(20), replay=examples(10, offset=20), gate=[], unlabelled=[])
    part = focused(snapshot, learned.model_copy(update={"method": "ewc"}), compute)
    assert (len(part.new), part.replay) == (10, snapshot.replay)


def test_the_report_says_what_was_gone_over(learned, tmp_path):
    write_job(tmp_path / "second", learned, new=examples(40), replay=examples(20, offset=40))
    report = run(tmp_path / "second")
    assert report.examples + report.replayed == report.passed_over == 30
    assert report.steps == 8  # 2 epochs of 30 in batches of 8


def test_labels_are_smoothed(model, job, compute):
    job = job.model_copy(update={"label_smoothing": 0.3})
    strategy = TextStrategy(model=Logits(model.classifier, model.pad_id, compute), job=job, compute=compute)
    (row,) = training_rows(model, examples(1))
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    strategy.mb_output = logits
    strategy.mbatch = [None, torch.tensor([row.label]), torch.ones(1)]
    target = torch.full((3,), 0.1)
    target[row.label] += 0.7
    torch.testing.assert_close(strategy.criterion(), -(target * logits.log_softmax(-1)[0]).sum())
