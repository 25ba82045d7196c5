import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from learners.checkpoint import CHECKPOINT
from learners.job import Progress, read_rows
from learners.run import run
from tests.learners.conftest import write_job
from tests.learners.test_run import digest, start
from tests.sentences import examples


def kill_in_mid_training(directory: Path) -> int:
    """SIGKILL a learner once it has saved something; the step that it had saved."""
    learner = start(directory)
    while not (directory / CHECKPOINT).exists():
        assert learner.poll() is None
        time.sleep(0.001)
    learner.send_signal(signal.SIGKILL)
    learner.wait()
    with safe_open(directory / CHECKPOINT, framework="pt") as file:
        return int(file.metadata()["step"])


# Each keeps something while it learns: path integrals, a place among the replayed rows, the best weights so far.
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "replay+ewc"},
        {"method": "der+si", "accumulate": 2},
        {"method": "agem"},
        {"method": "replay+si", "patience": 100.0},
        {"method": "replay+ewc", "tuning": "lora"},
        {"method": "finetune", "tuning": "adalora", "patience": 100.0},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_learner_that_is_killed_goes_on_and_ends_at_the_same_weights(job, tmp_path, settings):
    write_job(tmp_path / "first", job, new=examples(24))
    run(tmp_path / "first")
    settings |= {"parent": tmp_path / "first/candidate", "epochs": 40, "checkpoint_every": 1e-9}
    second = job.model_copy(update=settings)
    write_job(tmp_path / "whole", second, new=examples(24), replay=examples(24, offset=24))
    write_job_with_much_to_choose_on(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    report = run(tmp_path / "whole")
    saved = kill_in_mid_training(tmp_path / "cut")
    assert 0 < saved < report.steps
    again = run(tmp_path / "cut")
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert (again.steps, again.kept_step) == (report.steps, report.kept_step)
    assert next(read_rows(tmp_path / "cut/metrics.jsonl", Progress)).step > saved
    assert not (tmp_path / "cut" / CHECKPOINT).exists()


def write_job_with_much_to_choose_on(directory: Path) -> None:
    with (directory / "gate.jsonl").open("w") as file:
        for example in examples(150, offset=100):
            file.write(example.model_dump_json() + "\n")


@pytest.mark.parametrize("harm", ["damaged", "of another job"])
def test_a_checkpoint_that_is_not_this_jobs_is_left(job, tmp_path, harm, caplog):
    job = job.model_copy(update={"epochs": 200, "checkpoint_every": 1e-9})
    write_job(tmp_path / "whole", job, new=examples(24))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    kill_in_mid_training(tmp_path / "cut")
    checkpoint = tmp_path / "cut" / CHECKPOINT
    if harm == "damaged":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    else:
        (tmp_path / "whole/job.json").write_text(job.model_copy(update={"seed": 1}).model_dump_json())
        shutil.copy(checkpoint, tmp_path / "whole")
        shutil.rmtree(tmp_path / "cut")
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        (tmp_path / "whole" / CHECKPOINT).unlink()
    run(tmp_path / "whole")
    run(tmp_path / "cut")
    assert "training starts anew" in caplog.text
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
