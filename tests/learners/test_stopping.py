import numpy as np
import torch

from learners.job import Example, Judged, read_rows, write_rows
from learners.methods.si import SynapticIntelligence
from learners.model import load
from learners.run import run
from learners.scoring import forward_batches
from learners.selection import chooses
from learners.stopping import LEAST, MOST, EarlyStopping, looked_at, loss
from learners.training import training_rows
from tests.learners.conftest import write_job
from tests.sentences import LABELS, examples


def flipped(rows: list[Example]) -> list[Example]:
    other = dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
    return [row.model_copy(update={"label": other[row.label], "id": f"flipped-{row.id}"}) for row in rows]


def job_that_learns_something_wrong(job, tmp_path, **settings):
    """Its parent knows better than its new labels, and so do the held-out examples."""
    write_job(tmp_path / "first", job.model_copy(update={"epochs": 20}), new=examples(60))
    run(tmp_path / "first")
    job = job.model_copy(
        update={"parent": tmp_path / "first/candidate", "method": "finetune", "epochs": 30, **settings}
    )
    write_job(tmp_path / "second", job, new=flipped(examples(60)))
    write_rows(tmp_path / "second/gate.jsonl", examples(150, offset=100))
    return run(tmp_path / "second")


def accuracy(directory, compute):
    model = load(directory / "candidate", torch.device("cpu"))
    held_out = examples(60, offset=300)
    said = forward_batches(model, model.tokenise([one.text for one in held_out]), 512, compute).probabilities.argmax(1)
    return np.mean([model.labels[at] == one.label for at, one in zip(said, held_out, strict=True)])


def test_training_stops_when_nothing_gets_better_and_the_best_weights_are_kept(job, tmp_path, compute):
    report = job_that_learns_something_wrong(job, tmp_path, patience=2.0)
    a_pass = 8  # ceil(60 / 8)
    assert report.kept_step is not None
    assert 0 < report.kept_step < report.steps
    assert report.steps - report.kept_step <= 3 * a_pass  # of 240 that the job would have taken
    assert accuracy(tmp_path / "second", compute) > 0.9
    judged = read_rows(tmp_path / "second/judged.jsonl", Judged)
    assert all(row.selected == chooses(row.id) for row in judged)


def test_without_patience_training_goes_to_its_end(job, tmp_path, compute):
    report = job_that_learns_something_wrong(job, tmp_path)
    assert (report.steps, report.kept_step) == (240, None)
    assert accuracy(tmp_path / "second", compute) < 0.5


def test_other_plugins_go_back_with_the_weights(model, compute):
    """An importance measured along a path that was taken back would hold what no model has learned."""

    class Strategy:
        def __init__(self, plugins):
            self.plugins, self.device, self.step = plugins, torch.device("cpu"), 0
            self.model = torch.nn.Module()
            self.model.classifier = model.classifier

    rows = training_rows(model, examples(30))
    stopping = EarlyStopping(rows, ["fresh"] * 30, patience=1.0, compute=compute)
    si = SynapticIntelligence(strength=1.0, decay=0.9, importance=None)
    strategy = Strategy([stopping, si])
    si.before_training_exp(strategy)
    stopping.restore(
        {
            "so_far": torch.tensor([0.5, 1.0], dtype=torch.float64),
            **{f"weights/{name}": weight + 1 for name, weight in model.classifier.named_parameters()},
            **{f"SynapticIntelligence/{name}": one + 7 for name, one in si.state().items()},
        }
    )
    before = model.classifier.head.bias.detach().clone()
    strategy.step = 9
    stopping.after_training_exp(strategy)
    torch.testing.assert_close(model.classifier.head.bias.detach(), before + 1)
    assert all(bool((one == 7).all()) for one in si.state().values())


def test_few_are_not_looked_at_and_of_many_fresh_and_old_alike():
    fresh = examples(400)
    old = [one.model_copy(update={"group": "old"}) for one in examples(2_000, offset=400)]
    assert looked_at(fresh[: LEAST - 1], 0) == []
    chosen = looked_at([*fresh, *old], 0)
    assert (len(chosen), sum(one.group == "fresh" for one in chosen)) == (MOST, MOST // 2)
    few = looked_at([*fresh[:20], *old], 0)
    assert (len(few), sum(one.group == "fresh" for one in few)) == (MOST, 20)


def test_being_surer_of_the_same_answers_is_neither_better_nor_worse():
    generator = np.random.default_rng(0)
    truth = generator.integers(3, size=300)
    logits = generator.normal(size=(300, 3)) + 2 * np.eye(3)[truth]
    groups = ["fresh"] * 100 + ["old"] * 200
    assert abs(loss(logits, truth, groups) - loss(2 * logits, truth, groups)) < 5e-3
