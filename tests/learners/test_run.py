import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from learners.device import resolve
from learners.errors import LearnerError
from learners.evaluation import macro_f1
from learners.job import Failure, Judged, Progress, Report, Rescored, read_rows
from learners.model import load
from learners.run import run
from learners.scoring import forward_batches
from tests.learners.conftest import write_job
from tests.sentences import LABELS, examples


def start(directory: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "learners", str(directory)], env=environment)


def digest(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (directory / "candidate").iterdir()}


def test_a_job_leaves_a_model_and_all_that_was_asked_about_it(job, tmp_path):
    write_job(tmp_path / "job", job.model_copy(update={"epochs": 20}), new=examples(36), replay=examples(24, offset=36))
    report = run(tmp_path / "job")

    assert Report.model_validate_json((tmp_path / "job/report.json").read_text()) == report
    assert (report.examples, report.replayed, report.parent) == (36, 24, None)
    assert report.steps == 20 * 8  # ceil(60 / 8) batches an epoch
    assert report.samples == 20 * 60
    assert report.candidate.accuracy == 1.0
    progress = list(read_rows(tmp_path / "job/metrics.jsonl", Progress))
    assert progress[-1].step == progress[-1].steps == report.steps

    candidate = load(tmp_path / "job/candidate", torch.device("cpu"))
    judged = list(read_rows(tmp_path / "job/judged.jsonl", Judged))
    assert [row.id for row in judged] == [example.id for example in examples(12, offset=60)]
    assert judged[0].parent is None
    probabilities = np.array([row.candidate for row in judged], np.float32)
    assert macro_f1(probabilities, np.array([LABELS.index(row.label) for row in judged])) == report.candidate.macro_f1
    rescored = list(read_rows(tmp_path / "job/rescored.jsonl", Rescored))
    assert [row.id for row in rescored] == [f"r{n}" for n in range(5)]
    scored = forward_batches(
        candidate,
        candidate.tokenise(["globex surge 3"]),
        64,
        resolve("cpu"),
    )
    np.testing.assert_allclose(rescored[3].probabilities, scored.probabilities[0], atol=1e-6)
    np.testing.assert_allclose(rescored[3].sketch, scored.sketches[0], atol=1e-6)


def test_the_same_job_twice_gives_the_same_weights(job, tmp_path):
    for name in ("one", "two"):
        write_job(tmp_path / name, job, new=examples(24), replay=examples(12, offset=24))
        torch.manual_seed(hash(name))  # what was drawn before does not matter
        run(tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize(("method", "replayed"), [("finetune", 0), ("ewc", 0), ("replay", 12), ("replay+ewc", 12)])
def test_each_method_learns_from_its_own(job, tmp_path, method, replayed):
    write_job(
        tmp_path / "job",
        job.model_copy(update={"method": method}),
        new=examples(24),
        replay=examples(12, offset=24),
    )
    report = run(tmp_path / "job")
    assert report.replayed == replayed
    assert report.steps == 2 * -(-(24 + replayed) // 8)
    assert (tmp_path / "job/candidate/ewc.safetensors").exists() == ("ewc" in method)


def test_the_next_job_goes_on_from_the_saved_state_in_another_process(job, tmp_path):
    def second(parent):
        return job.model_copy(update={"id": "job-2", "parent": parent, "seed": 1})

    # Given a job that is done
    write_job(tmp_path / "one", job, new=examples(24))
    run(tmp_path / "one")

    # When the next starts from it, once in this process and once in another
    for place in ("here", "there"):
        write_job(tmp_path / place, second(tmp_path / "one/candidate"), new=examples(24, offset=24))
    report = run(tmp_path / "here")
    assert start(tmp_path / "there").wait(120) == 0

    # Then weights and Fisher information are the same, and the latter holds both jobs'
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    first, both = (load_file(tmp_path / name / "candidate/ewc.safetensors") for name in ("one", "here"))
    assert sum(float(f.sum()) for f in both.values()) == pytest.approx(
        1.9 * sum(float(f.sum()) for f in first.values()), rel=1e-3
    )
    assert any(row.penalty > 0 for row in read_rows(tmp_path / "here/metrics.jsonl", Progress))
    assert report.parent is not None


def test_a_parent_is_judged_beside_the_candidate_on_the_labels_of_the_job(job, tmp_path):
    write_job(tmp_path / "one", job, new=examples(24))
    run(tmp_path / "one")
    grown = job.model_copy(update={"labels": ["mixed", *LABELS], "parent": tmp_path / "one/candidate"})
    mixed = [row.model_copy(update={"label": "mixed"}) for row in examples(3)]
    write_job(tmp_path / "two", grown, new=[*examples(24), *mixed])
    report = run(tmp_path / "two")
    first = next(read_rows(tmp_path / "two/judged.jsonl", Judged))
    assert first.parent is not None
    assert len(first.parent) == len(first.candidate) == 4
    assert first.parent[0] == 0
    assert report.parent is not None
    assert report.parent.seconds > 0


def test_a_job_that_is_done_is_not_done_again(job, tmp_path):
    write_job(tmp_path / "job", job, new=examples(24))
    report = run(tmp_path / "job")
    before = (tmp_path / "job/candidate/model.safetensors").stat()
    assert run(tmp_path / "job") == report
    assert (tmp_path / "job/candidate/model.safetensors").stat().st_mtime_ns == before.st_mtime_ns


def test_a_job_that_was_cut_off_is_done_from_its_start(job, tmp_path):
    write_job(tmp_path / "whole", job, new=examples(24))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    run(tmp_path / "whole")
    (tmp_path / "cut/candidate").mkdir()
    (tmp_path / "cut/candidate/model.safetensors").write_bytes(b"half")
    (tmp_path / "cut/candidate/ewc.safetensors").write_bytes(b"half")
    (tmp_path / "cut/error.json").write_text("{}")
    run(tmp_path / "cut")
    assert digest(tmp_path / "whole") == digest(tmp_path / "cut")
    assert not (tmp_path / "cut/error.json").exists()


def break_label(directory):
    rows = [example.model_copy(update={"label": "bullish"}) for example in examples(1)]
    with (directory / "new.jsonl").open("a") as file:
        file.write(rows[0].model_dump_json() + "\n")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (
            break_label,
            r"new\.jsonl line 25 \(id 'e0'\) has the label 'bullish'; use one of negative, neutral, positive",
        ),
        (lambda directory: (directory / "new.jsonl").write_text(""), r"new\.jsonl is empty"),
        (lambda directory: (directory / "gate.jsonl").write_text(""), r"gate\.jsonl is empty"),
        (lambda directory: (directory / "replay.jsonl").unlink(), r"replay\.jsonl is not there"),
        (lambda directory: (directory / "gate.jsonl").write_text('{"id": "a"}\n'), r"gate\.jsonl line 1: text: Field"),
        (lambda directory: (directory / "recent.jsonl").write_bytes(b"\xff\n"), r"recent\.jsonl line 1 .* not UTF-8"),
        (lambda directory: (directory / "job.json").write_text("{}"), r"job\.json is not a job: id: Field required"),
        (lambda directory: (directory / "job.json").unlink(), r"job\.json is not there"),
    ],
)
def test_a_job_that_cannot_be_done_says_where_and_why(job, tmp_path, harm, says):
    write_job(tmp_path / "job", job, new=examples(24))
    harm(tmp_path / "job")
    with pytest.raises(LearnerError, match=says):
        run(tmp_path / "job")
    assert not (tmp_path / "job/report.json").exists()


def test_a_loss_that_is_no_number_ends_the_job(job, tmp_path):
    write_job(tmp_path / "job", job.model_copy(update={"learning_rate": 1e38}), new=examples(24))
    with pytest.raises(LearnerError, match="lower learning_rate"):
        run(tmp_path / "job")
    assert not (tmp_path / "job/candidate").exists()


def test_a_failure_is_left_in_error_json_with_exit_code_1(job, tmp_path):
    write_job(tmp_path / "job", job, new=[])
    assert start(tmp_path / "job").wait(120) == 1
    failure = Failure.model_validate_json((tmp_path / "job/error.json").read_text())
    assert failure.error == "new.jsonl is empty"
    assert "labelled examples" in failure.detail


def test_a_learner_that_is_told_to_stop_stops_and_leaves_no_report(job, tmp_path):
    write_job(tmp_path / "job", job.model_copy(update={"epochs": 100_000}), new=examples(24))
    learner = start(tmp_path / "job")
    metrics = tmp_path / "job/metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert learner.poll() is None
        time.sleep(0.01)
    learner.send_signal(signal.SIGTERM)
    assert learner.wait(60) == 143
    assert not (tmp_path / "job/report.json").exists()
    assert not (tmp_path / "job/error.json").exists()
    assert json.loads(metrics.read_text().splitlines()[0])["step"] >= 1
