"""What a GPU must do as a CPU does."""

import shutil

import numpy as np
import pytest
import torch

from learners.device import resolve
from learners.job import Judged, read_rows
from learners.model import create
from learners.run import run
from learners.scoring import forward_batches
from tests.learners.conftest import write_job
from tests.learners.test_checkpoint import kill_in_mid_training
from tests.learners.test_run import digest
from tests.sentences import LABELS, examples

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_gpu_and_a_cpu_learn_the_same(job, tmp_path):
    # Not to the same weights: dropout is drawn by generators that differ.
    answers = {}
    for device in ("cpu", "cuda"):
        on = job.model_copy(update={"device": device, "precision": "float32", "method": "der+ewc", "epochs": 12})
        write_job(tmp_path / device, on, new=examples(36), replay=examples(24, offset=36))
        report = run(tmp_path / device)
        answers[device] = np.array([row.candidate for row in read_rows(tmp_path / device / "judged.jsonl", Judged)])
        assert report.candidate.accuracy == 1.0
    assert abs(answers["cpu"] - answers["cuda"]).max() < 0.1


@pytest.mark.parametrize(("precision", "apart"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_a_gpu_and_a_cpu_score_the_same(encoder, precision, apart):
    texts = [example.text for example in examples(60)]
    exact = create(str(encoder), LABELS, 32, seed=0)
    wanted = forward_batches(exact, exact.tokenise(texts), 64, resolve("cpu", "float32"))
    compute = resolve("cuda", precision)
    model = create(str(encoder), LABELS, 32, seed=0).to(compute.device)
    scored = forward_batches(model, model.tokenise(texts), 64, compute)
    np.testing.assert_allclose(scored.probabilities, wanted.probabilities, atol=apart)
    np.testing.assert_allclose(scored.sketches, wanted.sketches, atol=apart)


@pytest.mark.parametrize("method", ["finetune", "replay+ewc", "er-ace", "der+si", "lwf+mas", "agem"])
def test_the_same_job_twice_gives_the_same_weights_on_a_gpu(job, tmp_path, method):
    job = job.model_copy(update={"device": "cuda", "precision": "auto", "method": method})
    for name in ("one", "two"):
        write_job(tmp_path / name / "first", job, new=examples(24))
        run(tmp_path / name / "first")
        second = job.model_copy(update={"parent": tmp_path / name / "first/candidate"})
        write_job(tmp_path / name / "second", second, new=examples(24), replay=examples(12, offset=24))
        run(tmp_path / name / "second")
    assert digest(tmp_path / "one/second") == digest(tmp_path / "two/second")


def test_a_learner_that_is_killed_on_a_gpu_goes_on_and_ends_at_the_same_weights(job, tmp_path):
    settings = {"device": "cuda", "precision": "auto", "epochs": 60, "checkpoint_every": 1e-9}
    write_job(tmp_path / "whole", job.model_copy(update=settings), new=examples(24))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    report = run(tmp_path / "whole")
    assert 0 < kill_in_mid_training(tmp_path / "cut") < report.steps
    run(tmp_path / "cut")
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
