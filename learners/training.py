"""From a snapshot to a candidate: a model is started, taught, and saved as it will be used."""

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from avalanche.training.plugins import SupervisedPlugin

from learners.augmentation import some_augmented
from learners.calibration import calibrated
from learners.checkpoint import Checkpoints
from learners.data import Row, stream
from learners.device import Compute, seed_everything
from learners.focus import focused
from learners.interpolation import Weights, interpolate, weights_of
from learners.job import CANDIDATE, Example, Job
from learners.methods.names import AS_IS, HOLDING, PRIORS, replays, starts_afresh
from learners.methods.registry import Lesson, carried, plugins
from learners.model import LoadedModel, create, load
from learners.pretraining import pretrain
from learners.priors import moved
from learners.progress import ProgressPlugin, Tell, journal
from learners.pseudo_labels import Chosen, from_parent
from learners.selection import chooses
from learners.snapshot import JobError, Snapshot
from learners.stopping import EarlyStopping, looked_at
from learners.strategy import Logits, TextStrategy, TrainingError
from learners.team import assembled
from learners.tuning import served, tune


class Learned(NamedTuple):
    """What became of training: how much was learned, in how many steps, and what was chosen.

    `examples` and `replayed` were gone over, `passed_over` were not; `chosen` are the ids of the gate examples that
    something was chosen on, `tempered` of those that the temperature was fitted to.
    """

    examples: int
    replayed: int
    passed_over: int
    trained_weights: int
    steps: int
    kept_step: int | None
    pseudo_labelled: Chosen
    pretraining_steps: int
    chosen: frozenset[str]
    tempered: frozenset[str] = frozenset()
    interpolation: float | None = None
    old_priors: dict[str, float] | None = None
    new_priors: dict[str, float] | None = None
    odds: dict[str, float] | None = None

    def samples(self, batch_size: int) -> int:
        """How many examples its steps went over, each as often as it was."""
        rows = self.examples + self.replayed + len(self.pseudo_labelled.examples)
        # The last batch of a pass may be smaller.
        return round(self.steps / math.ceil(rows / batch_size) * rows) if self.steps else 0


class Taught(NamedTuple):
    """A model after training, and what there is to go on with.

    `before` are its weights before it, where it may go back towards them. `choosing` are the gate examples that
    something may be chosen on.
    """

    model: LoadedModel
    before: Weights | None
    methods: list[SupervisedPlugin]
    choosing: list[Example]
    learned: Learned


def learn(directory: Path, job: Job, snapshot: Snapshot, compute: Compute) -> Learned:
    """Train the candidate and save it."""
    if job.method == PRIORS:
        return _follow_mix(directory, job, snapshot, compute)
    if job.method == AS_IS:
        return _leave(directory, job, snapshot)
    with journal(directory, job) as tell:
        model, before, methods, choosing, learned = teach(directory, job, snapshot, compute, tell)
    if before and choosing:
        learned = learned._replace(interpolation=interpolate(model, before, choosing, compute))
    if job.calibrate:
        model = calibrated(model, choosing, compute)
    model.save(directory / CANDIDATE)
    for method in carried(methods):
        method.save(directory / CANDIDATE)
    ids = frozenset(example.id for example in choosing)
    if learned.kept_step is not None or learned.interpolation is not None:
        learned = learned._replace(chosen=learned.chosen | ids)
    return learned._replace(tempered=ids) if job.calibrate else learned


def _follow_mix(directory: Path, job: Job, snapshot: Snapshot, compute: Compute) -> Learned:
    """Save the parent as the candidate, with nothing but its bias moved."""
    told = moved(job, snapshot, compute)
    told.model.save(directory / CANDIDATE)
    # What weights were worth to the past is as true as before: they are the same.
    for name in sorted(HOLDING):
        worth = f"{name}.safetensors"
        if job.parent and (job.parent / worth).exists():
            shutil.copyfile(job.parent / worth, directory / CANDIDATE / worth)
    return _taught_nothing(snapshot)._replace(
        examples=told.labels,
        passed_over=len(snapshot.new) + len(snapshot.replay) - told.labels,
        trained_weights=len(told.new),
        old_priors=told.old,
        new_priors=told.new,
        odds=told.odds,
    )


def _leave(directory: Path, job: Job, snapshot: Snapshot) -> Learned:
    """Save the parent as the candidate, with what it carries; what was chosen on when it learned proves nothing now."""
    if job.parent is None:
        raise JobError("as-is needs a parent", "name the candidate that is to be judged again")
    shutil.copytree(job.parent, directory / CANDIDATE)
    ids = frozenset(example.id for example in snapshot.gate if chooses(example.id))
    chose = job.patience or job.interpolate or job.pseudo_labels
    return _taught_nothing(snapshot)._replace(
        chosen=ids if chose else frozenset(), tempered=ids if job.calibrate else frozenset()
    )


def _taught_nothing(snapshot: Snapshot) -> Learned:
    return Learned(
        examples=0,
        replayed=0,
        passed_over=len(snapshot.new) + len(snapshot.replay),
        trained_weights=0,
        steps=0,
        kept_step=None,
        pseudo_labelled=Chosen([], None, frozenset()),
        pretraining_steps=0,
        chosen=frozenset(),
    )


def teach(directory: Path, job: Job, snapshot: Snapshot, compute: Compute, tell: Tell) -> Taught:
    """Train the job's model, which saves nothing but checkpoints; every process of a team does it."""
    seed_everything(job.seed)
    # The model, as training finds it.
    model = start(job, compute)
    before = weights_of(model) if job.interpolate and job.parent else None
    # What it learns, and how.
    pretraining_steps = pretrain(model, snapshot, job, compute, tell)
    pseudo_labelled = from_parent(job, snapshot, compute)
    part = focused(snapshot, job, compute)
    lesson = _lesson(job, model, _to_learn(job, part, pseudo_labelled), compute)
    methods = [*tune(model, job), *plugins(lesson)]
    trained_weights = sum(weight.numel() for weight in model.classifier.parameters() if weight.requires_grad)
    # Of a few first rows none may be left to hold out: they are learned from and judged on.
    new = {example.id for example in snapshot.new}
    choosing = [example for example in snapshot.gate if chooses(example.id) and example.id not in new]
    stopping = _early_stopping(model, choosing, lesson)
    steps = _train(directory, model, lesson, [*stopping, *methods], tell)
    learned = Learned(
        examples=len(part.new),
        replayed=len(part.replay) if replays(job.method) else 0,
        passed_over=len(snapshot.new) + len(snapshot.replay) - len(part.new) - len(part.replay),
        trained_weights=trained_weights,
        steps=steps,
        kept_step=stopping[0].best_step if stopping else None,
        pseudo_labelled=pseudo_labelled,
        pretraining_steps=pretraining_steps,
        chosen=pseudo_labelled.chosen_on,
    )
    return Taught(model, before, methods, choosing, learned)


def _early_stopping(model: LoadedModel, choosing: list[Example], lesson: Lesson) -> list[EarlyStopping]:
    """One, if the job asks for it and there is enough to look at."""
    job = lesson.job
    looked = looked_at(choosing, job.seed) if job.patience else []
    if not looked:
        return []
    groups = [example.group for example in looked]
    return [EarlyStopping(training_rows(model, looked), groups, patience=job.patience, compute=lesson.compute)]


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


def _train(directory: Path, model: LoadedModel, lesson: Lesson, methods: Sequence[SupervisedPlugin], tell: Tell) -> int:
    """Change the weights of `model`; how many steps that took."""
    compute, every = lesson.compute, lesson.job.checkpoint_every
    with assembled(directory, compute) as team:
        strategy = TextStrategy(
            model=Logits(model.classifier, model.pad_id, compute),
            job=lesson.job,
            compute=compute,
            team=team,
            plugins=[
                *methods,
                ProgressPlugin(tell, time.monotonic),
                Checkpoints(directory, every, time.monotonic, writes=team.leads),
            ],
        )
        try:
            strategy.train(stream([lesson.rows], model.pad_id)[0], eval_streams=[])
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{compute.device} ran out of memory ({error})", "raise accumulate, or lower batch_size or max_tokens"
            ) from error
    for name, weight in model.classifier.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise TrainingError(f"{name} of the candidate is not finite", "lower learning_rate, or set float32")
    return strategy.step


def start(job: Job, compute: Compute) -> LoadedModel:
    """The model that training starts from: the parent, or a fresh one; with the job's labels, length and adapters."""
    if job.parent is None or starts_afresh(job.method):
        model = create(job.encoder, job.labels, job.max_tokens, job.seed).to(compute.device)
        return model.with_adapters(served(job), job.seed)
    model = load(job.parent, compute.device)
    if model.labels != job.labels:
        model = model.with_labels(job.labels, job.seed)
    # Learning is about the logits; how sure they make the model is settled at its end.
    return model.with_adapters(served(job), job.seed).with_max_tokens(job.max_tokens).with_temperature(1.0)


def training_rows(model: LoadedModel, examples: Sequence[Example]) -> list[Row]:
    """`examples` as ids and positions of labels, their weights scaled to a mean of 1: they are relative."""
    if not examples:
        return []
    positions = {label: position for position, label in enumerate(model.labels)}
    mean = sum(example.weight for example in examples) / len(examples)
    tokens = model.tokenise([example.text for example in examples])
    return [
        Row(ids, positions[example.label], example.weight / mean) for ids, example in zip(tokens, examples, strict=True)
    ]
