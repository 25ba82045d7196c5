import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from learners.job import Failure, Judged, Progress, Report, read_rows
from tests.learners.conftest import write_job
from tests.sentences import examples

#: The learner, with nothing drawn at random in a forward pass: what two processes draw is not what one does.
WITHOUT_DROPOUT = """
import sys
import torch
torch.nn.Dropout.forward = lambda self, states: states
from learners.__main__ import main
sys.exit(main())
"""

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def start(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, str(directory)], env=environment, start_new_session=True)


def answers(directory: Path) -> np.ndarray:
    return np.array([row.candidate for row in read_rows(directory / "judged.jsonl", Judged)])


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "learner.py"
    path.write_text(WITHOUT_DROPOUT)
    return path


def test_two_processes_of_torchrun_learn_what_one_does(job, tmp_path, script):
    job = job.model_copy(update={"method": "replay+ewc", "epochs": 3, "precision": "float32"})
    for name in ("one", "two"):
        # 41 in batches of 8: the last one holds a single example, of which one of the two has nothing.
        write_job(tmp_path / name, job, new=examples(25), replay=examples(16, offset=25))
    assert start([sys.executable, str(script)], tmp_path / "one").wait(120) == 0
    assert start([*TORCHRUN, str(script)], tmp_path / "two").wait(240) == 0
    # Not of the weights: Adam makes steps of any size of what rounding leaves of a gradient that is nothing.
    np.testing.assert_allclose(answers(tmp_path / "two"), answers(tmp_path / "one"), atol=5e-3)
    reports = [Report.model_validate_json((tmp_path / name / "report.json").read_bytes()) for name in ("one", "two")]
    assert reports[0].steps == reports[1].steps
    losses = [
        [row.loss for row in read_rows(tmp_path / name / "metrics.jsonl", Progress)][-1] for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_a_learner_starts_its_helpers_and_they_learn(job, tmp_path):
    job = job.model_copy(update={"epochs": 20, "processes": 2, "patience": 5.0, "accumulate": 2})
    write_job(tmp_path / "job", job, new=examples(36), replay=examples(24, offset=36))
    assert start([sys.executable, "-m", "learners"], tmp_path / "job").wait(240) == 0
    report = Report.model_validate_json((tmp_path / "job/report.json").read_bytes())
    assert report.candidate.accuracy == 1.0
    steps = [row.step for row in read_rows(tmp_path / "job/metrics.jsonl", Progress)]
    assert steps == sorted(set(steps))  # one of them writes
    assert not list((tmp_path / "job").glob("meeting-*"))


def at_work(directory: Path, learner: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The helpers of a learner that trains."""
    metrics = directory / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert learner.poll() is None
        time.sleep(0.01)
    return psutil.Process(learner.pid).children()


def gone(helpers: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(helpers, timeout=60)[1]


def test_a_learner_that_is_told_to_stop_takes_its_helpers_along(job, tmp_path):
    endless = job.model_copy(update={"epochs": 100_000, "processes": 2})
    write_job(tmp_path / "job", endless, new=examples(24))
    learner = start([sys.executable, "-m", "learners"], tmp_path / "job")
    helpers = at_work(tmp_path / "job", learner)
    assert len(helpers) == 1
    learner.send_signal(signal.SIGTERM)
    assert learner.wait(60) == 143
    assert gone(helpers)


def test_helpers_do_not_outlive_a_killed_learner(job, tmp_path):
    endless = job.model_copy(update={"epochs": 100_000, "processes": 2})
    write_job(tmp_path / "job", endless, new=examples(24))
    learner = start([sys.executable, "-m", "learners"], tmp_path / "job")
    helpers = at_work(tmp_path / "job", learner)
    learner.send_signal(signal.SIGKILL)
    learner.wait(60)
    assert gone(helpers)


def test_a_learner_does_not_wait_for_a_helper_that_died(job, tmp_path):
    endless = job.model_copy(update={"epochs": 100_000, "processes": 2})
    write_job(tmp_path / "job", endless, new=examples(24))
    learner = start([sys.executable, "-m", "learners"], tmp_path / "job")
    for helper in at_work(tmp_path / "job", learner):
        helper.kill()
    assert learner.wait(60) == 1
    assert Failure.model_validate_json((tmp_path / "job/error.json").read_text()).error
