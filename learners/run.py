"""A job, from its directory to its report."""

import shutil
import time
from pathlib import Path

import numpy as np

from learners.checkpoint import CHECKPOINT
from learners.device import Compute, be_deterministic, flushed_denormals, resolve, use_threads
from learners.disk import sync, write_atomically
from learners.evaluation import Probabilities, accuracy, calibration_error, log_loss, macro_f1
from learners.invariance import swapped_answers
from learners.job import CANDIDATE, Example, Job, Quality, Recent, Report, Rescored, write_rows
from learners.judging import TOKEN_BUDGET, answers, in_order, judge, side_by_side
from learners.methods.names import AS_IS, UNLEARNING
from learners.model import LoadedModel, load
from learners.process import gpu
from learners.progress import METRICS, quiet
from learners.scoring import forward_batches
from learners.snapshot import Snapshot, data_sha256, read_audit, read_job, read_recent, read_snapshot
from learners.training import Learned, learn, teach

REPORT = "report.json"

#: What an earlier attempt at the job may have left.
LEFTOVERS = (METRICS, "judged.jsonl", "audited.jsonl", "rescored.jsonl", "error.json")


def run(directory: Path) -> Report:
    """Do the job in `directory`: see `learners.job` for what it reads and leaves.

    A job that is done is left as it is; one that was cut off goes on from its checkpoint, or else from its start, with
    the same outcome.

    Raises:
        LearnerError: it cannot be done, for a reason that the user can mend.
    """
    report = directory / REPORT
    if report.exists():
        return Report.model_validate_json(report.read_bytes())
    for name in LEFTOVERS:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / CANDIDATE, ignore_errors=True)

    with flushed_denormals():
        result = _do(directory)
    sync(directory)
    write_atomically(report, result)
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return result


def assist(directory: Path) -> None:
    """Take part in training the job in `directory`, as a process beside the one that does it: see `learners.team`."""
    if not (directory / REPORT).exists():
        with flushed_denormals():
            job, snapshot, compute = begin(directory)
            if job.method not in UNLEARNING:
                teach(directory, job, snapshot, compute, quiet)


def begin(directory: Path) -> tuple[Job, Snapshot, Compute]:
    """The job in `directory`, what it is to learn from, and the device it runs on, which is made ready."""
    job = read_job(directory)
    snapshot = read_snapshot(directory, job)
    compute = resolve(job.device, job.precision, gpu())
    use_threads(job.threads)
    be_deterministic(compute.device)
    return job, snapshot, compute


def _do(directory: Path) -> Report:
    started = time.monotonic()
    job, snapshot, compute = begin(directory)
    # Read again when it is its turn, and found good now: training may take hours.
    read_recent(directory)
    read_audit(directory, job)
    learned = learn(directory, job, snapshot, compute)

    # What is judged is what was saved, read as the daemon will read it.
    candidate = load(directory / CANDIDATE, compute.device)
    before = job.champion or job.parent
    parent = load(before, compute.device) if before else None
    # What was to be learned and was not is as good to judge on as what is held out.
    unseen = [*snapshot.gate, *snapshot.new] if job.method == AS_IS else snapshot.gate
    qualities = _judge(directory, job, unseen, learned, parent, candidate, compute)
    _audit(directory, job, parent, candidate, compute)
    _rescore(directory, job, read_recent(directory), candidate, compute)
    return Report(
        job=job.id,
        method=job.method,
        examples=learned.examples,
        replayed=learned.replayed,
        passed_over=learned.passed_over,
        steps=learned.steps,
        samples=learned.samples(job.batch_size),
        kept_step=learned.kept_step,
        tuning=job.tuning,
        trained_weights=learned.trained_weights,
        seconds=time.monotonic() - started,
        parent=qualities[0] if parent else None,
        candidate=qualities[-1],
        interpolation=learned.interpolation,
        temperature=candidate.description.temperature,
        pseudo_labelled=len(learned.pseudo_labelled.examples),
        pseudo_label_threshold=learned.pseudo_labelled.threshold,
        pretraining_steps=learned.pretraining_steps,
        old_priors=learned.old_priors,
        new_priors=learned.new_priors,
        odds=learned.odds,
        data_sha256=data_sha256(directory),
        seed=job.seed,
    )


def _judge(
    directory: Path,
    job: Job,
    unseen: list[Example],
    learned: Learned,
    parent: LoadedModel | None,
    candidate: LoadedModel,
    compute: Compute,
) -> list[Quality]:
    tokens = candidate.tokenise([example.text for example in unseen])
    judged = judge([*([parent] if parent else []), candidate], tokens, job.labels, compute)
    swapped = swapped_answers(parent, candidate, unseen, job.labels, job.seed, compute)
    both = side_by_side(
        unseen,
        judged[0][0] if parent else None,
        judged[-1][0],
        chosen=learned.chosen,
        tempered=learned.tempered,
        swapped=swapped,
    )
    write_rows(directory / "judged.jsonl", both)
    truth = np.array([job.labels.index(example.label) for example in unseen], dtype=np.int64)
    return [_quality(probabilities, truth, seconds) for probabilities, seconds in judged]


def _audit(directory: Path, job: Job, parent: LoadedModel | None, candidate: LoadedModel, compute: Compute) -> None:
    examples = read_audit(directory, job)
    texts = [example.text for example in examples]
    before = answers(parent, texts, job.labels, compute) if parent else None
    both = side_by_side(examples, before, answers(candidate, texts, job.labels, compute))
    write_rows(directory / "audited.jsonl", both)


def _quality(probabilities: Probabilities, truth: np.ndarray, seconds: float) -> Quality:
    return Quality(
        accuracy=accuracy(probabilities, truth),
        macro_f1=macro_f1(probabilities, truth),
        loss=log_loss(probabilities, truth),
        calibration_error=calibration_error(probabilities, truth),
        seconds=seconds,
    )


def _rescore(directory: Path, job: Job, recent: list[Recent], candidate: LoadedModel, compute: Compute) -> None:
    scored = forward_batches(candidate, candidate.tokenise([row.text for row in recent]), TOKEN_BUDGET, compute)
    probabilities = in_order(scored.probabilities, candidate.labels, job.labels)
    write_rows(
        directory / "rescored.jsonl",
        (
            Rescored(
                id=row.id,
                key=row.key,
                source=row.source,
                timestamp=row.timestamp,
                probabilities=probabilities[at].tolist(),
                sketch=scored.sketches[at].tolist(),
            )
            for at, row in enumerate(recent)
        ),
    )
