"""A job, from its directory to its report."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin

from learners.augmentation import some_augmented
from learners.calibration import calibrated
from learners.checkpoint import CHECKPOINT, Checkpoints
from learners.data import Row as TrainingRow
from learners.data import stream
from learners.device import Compute, be_deterministic, flushed_denormals, resolve, seed_everything, use_threads
from learners.disk import sync, write_atomically
from learners.evaluation import Probabilities, accuracy, calibration_error, log_loss, macro_f1
from learners.interpolation import interpolate, weights_of
from learners.invariance import swapped_answers
from learners.job import Example, Job, Quality, Recent, Report, Rescored, write_rows
from learners.judging import TOKEN_BUDGET, answers, in_order, judge, side_by_side
from learners.methods.names import replays, starts_afresh
from learners.methods.registry import Lesson, carried, plugins
from learners.model import LoadedModel, create, load
from learners.pretraining import pretrain
from learners.progress import ProgressPlugin
from learners.pseudo_labels import Chosen, from_parent
from learners.scoring import forward_batches
from learners.selection import chooses
from learners.snapshot import Snapshot, data_sha256, read_audit, read_job, read_recent, read_snapshot
from learners.stopping import EarlyStopping, looked_at
from learners.strategy import Logits, TextStrategy, TrainingError

REPORT = "report.json"
CANDIDATE = "candidate"
METRICS = "metrics.jsonl"

#: What an earlier attempt at the job may have left.
LEFTOVERS = (METRICS, "judged.jsonl", "audited.jsonl", "rescored.jsonl", "error.json")


class Learned(NamedTuple):
    """What became of training: `chosen` are the ids of the gate examples that something was chosen on."""

    steps: int
    kept_step: int | None
    interpolation: float | None
    chosen: frozenset[str]
    pseudo_labelled: Chosen
    pretraining_steps: int


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


def _do(directory: Path) -> Report:
    started = time.monotonic()
    job = read_job(directory)
    snapshot = read_snapshot(directory, job)
    compute = resolve(job.device, job.precision)
    use_threads(job.threads)
    be_deterministic()
    # Read again when it is its turn, and found good now: training may take hours.
    read_recent(directory)
    read_audit(directory, job)
    learned = _learn(directory, job, snapshot, compute)

    # What is judged is what was saved, read as the daemon will read it.
    candidate = load(directory / CANDIDATE, compute.device)
    parent = load(job.parent, compute.device) if job.parent else None
    qualities = _judge(directory, job, snapshot.gate, learned.chosen, parent, candidate, compute)
    _audit(directory, job, parent, candidate, compute)
    _rescore(directory, job, read_recent(directory), candidate, compute)
    return Report(
        job=job.id,
        method=job.method,
        examples=len(snapshot.new),
        replayed=len(snapshot.replay) if replays(job.method) else 0,
        steps=learned.steps,
        kept_step=learned.kept_step,
        seconds=time.monotonic() - started,
        parent=qualities[0] if parent else None,
        candidate=qualities[-1],
        interpolation=learned.interpolation,
        temperature=candidate.description.temperature,
        pseudo_labelled=len(learned.pseudo_labelled.examples),
        pseudo_label_threshold=learned.pseudo_labelled.threshold,
        pretraining_steps=learned.pretraining_steps,
        data_sha256=data_sha256(directory),
        seed=job.seed,
    )


def _learn(directory: Path, job: Job, snapshot: Snapshot, compute: Compute) -> Learned:
    """Train the candidate and save it."""
    seed_everything(job.seed)
    # The model, as training finds it.
    model = start(job, compute)
    started = weights_of(model) if job.interpolate and job.parent else None
    # What it learns, and how.
    pretraining_steps = pretrain(model, snapshot, job, directory / METRICS, compute)
    pseudo_labelled = from_parent(job, snapshot, compute)
    lesson = _lesson(job, model, _to_learn(job, snapshot, pseudo_labelled), compute)
    methods = plugins(lesson)
    # Of a few first rows none may be left to hold out: they are learned from and judged on.
    new = {example.id for example in snapshot.new}
    choosing = [example for example in snapshot.gate if chooses(example.id) and example.id not in new]
    looked = looked_at(choosing, job.seed) if job.patience else []
    stopping = EarlyStopping(
        training_rows(model, looked), [one.group for one in looked], patience=job.patience, compute=compute
    )
    steps = _train(directory, model, lesson, [stopping, *methods] if looked else methods)
    # The weights, as they will be used.
    interpolation = interpolate(model, started, choosing, compute) if started and choosing else None
    if job.calibrate:
        model = calibrated(model, choosing, compute)
    model.save(directory / CANDIDATE)
    for method in carried(methods):
        method.save(directory / CANDIDATE)
    chosen = pseudo_labelled.chosen_on
    if looked or interpolation is not None or job.calibrate:
        chosen |= frozenset(example.id for example in choosing)
    kept_step = stopping.best_step if looked else None
    return Learned(steps, kept_step, interpolation, chosen, pseudo_labelled, pretraining_steps)


def _to_learn(job: Job, snapshot: Snapshot, pseudo_labelled: Chosen) -> Snapshot:
    """The snapshot as it is learned from: pseudo-labelled examples are new ones too."""
    both = some_augmented([*snapshot.new, *snapshot.replay], job.augmentation, job.seed)
    count = len(snapshot.new)
    return snapshot._replace(new=[*both[:count], *pseudo_labelled.examples], replay=both[count:])


def _lesson(job: Job, model: LoadedModel, snapshot: Snapshot, compute: Compute) -> Lesson:
    if not replays(job.method):
        return Lesson(job, training_rows(model, snapshot.new), training_rows(model, snapshot.replay), compute)
    # Together, for their weights are relative to each other.
    rows = training_rows(model, [*snapshot.new, *snapshot.replay])
    return Lesson(job, rows[: len(snapshot.new)], rows[len(snapshot.new) :], compute)


def _train(directory: Path, model: LoadedModel, lesson: Lesson, methods: Sequence[SupervisedPlugin]) -> int:
    """Change the weights of `model`; how many steps that took."""
    compute = lesson.compute
    with (directory / METRICS).open("a", encoding="utf-8") as file:
        strategy = TextStrategy(
            model=Logits(model.classifier, model.pad_id, compute),
            job=lesson.job,
            compute=compute,
            plugins=[
                *methods,
                ProgressPlugin(file, time.monotonic),
                Checkpoints(directory, lesson.job.checkpoint_every, time.monotonic),
            ],
        )
        try:
            strategy.train(stream([lesson.rows], model.pad_id)[0], eval_streams=[])
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{compute.device} ran out of memory ({error})", "lower batch_size or max_tokens"
            ) from error
    for name, weight in model.classifier.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise TrainingError(f"{name} of the candidate is not finite", "lower learning_rate, or set float32")
    return strategy.step


def start(job: Job, compute: Compute) -> LoadedModel:
    """The model that training starts from: the parent, or a fresh one; with the job's labels and length."""
    if job.parent is None or starts_afresh(job.method):
        model = create(job.encoder, job.labels, job.max_tokens, job.seed)
        model.classifier.to(compute.device)
        return model
    model = load(job.parent, compute.device)
    if model.labels != job.labels:
        model = model.with_labels(job.labels, job.seed)
    # Learning is about the logits; how sure they make the model is settled at its end.
    return model.with_max_tokens(job.max_tokens).with_temperature(1.0)


def training_rows(model: LoadedModel, examples: Sequence[Example]) -> list[TrainingRow]:
    """`examples` as ids and positions of labels, their weights scaled to a mean of 1: they are relative."""
    if not examples:
        return []
    positions = {label: position for position, label in enumerate(model.labels)}
    mean = sum(example.weight for example in examples) / len(examples)
    tokens = model.tokenise([example.text for example in examples])
    return [
        TrainingRow(ids, positions[example.label], example.weight / mean)
        for ids, example in zip(tokens, examples, strict=True)
    ]


def _judge(
    directory: Path,
    job: Job,
    gate: list[Example],
    chosen: frozenset[str],
    parent: LoadedModel | None,
    candidate: LoadedModel,
    compute: Compute,
) -> list[Quality]:
    tokens = candidate.tokenise([example.text for example in gate])
    judged = judge([*([parent] if parent else []), candidate], tokens, job.labels, compute)
    swapped = swapped_answers(parent, candidate, gate, job.labels, job.seed, compute)
    both = side_by_side(gate, judged[0][0] if parent else None, judged[-1][0], chosen=chosen, swapped=swapped)
    write_rows(directory / "judged.jsonl", both)
    truth = np.array([job.labels.index(example.label) for example in gate], dtype=np.int64)
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
