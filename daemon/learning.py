"""The training supervisor: runs one learner process at a time, in a job directory of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from daemon.config import Config, PretrainingConfig, PseudoLabelsConfig
from learners.job import (
    AGEM,
    DER,
    EWC,
    LEARNING_RATES,
    MAS,
    SI,
    Adapter,
    Example,
    Failure,
    Job,
    LwF,
    Pretraining,
    Progress,
    PseudoLabels,
    Recent,
    Report,
    write_rows,
)
from learners.methods.names import AS_IS, PRIORS, parts, starts_afresh
from learners.snapshot import AUDIT, UNLABELLED

Settings = TypeVar("Settings", PseudoLabels, Pretraining)

#: The section `learning` of a run that learns nothing, by its method. One that judges a candidate again has to know
#: whether something was chosen on held-out examples when that was learned.
UNLEARNED: Mapping[str, Mapping[str, Any]] = {
    PRIORS: {
        "method": PRIORS,
        "tuning": "full",
        "interpolate": False,
        "calibrate": False,
        "pseudo_labels": PseudoLabelsConfig(),
        "pretraining": PretrainingConfig(),
        "processes": 1,
    },
    AS_IS: {"method": AS_IS, "tuning": "full", "processes": 1},
}

#: Passes of a run over everything remembered. On a stream of seven domains one brought 2.4 points of macro-F1.
REHEARSAL_PASSES = 1.0

#: Bytes of metrics.jsonl and of the learner's output that are read from the end: a few lines.
TAIL = 4_096

#: How long a learner that was asked to stop may take before it is killed, in seconds.
STOP_TIMEOUT = 10.0


@dataclass(frozen=True)
class Snapshot:
    """What a job learns from and is judged on: see `learners.job`."""

    new: Sequence[Example]
    replay: Sequence[Example]
    gate: Sequence[Example]
    recent: Sequence[Recent]
    unlabelled: Sequence[Recent] = ()
    audit: Sequence[Example] = ()


def make_job(job: Job, snapshot: Snapshot, directory: Path) -> None:
    """Write the job directory whole or not at all; an unfinished one from before is replaced."""
    aside = directory.with_name(f".{directory.name}.partial")
    for stale in (aside, directory):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir(parents=True)
    write_rows(aside / "new.jsonl", snapshot.new)
    write_rows(aside / "replay.jsonl", snapshot.replay)
    write_rows(aside / "gate.jsonl", snapshot.gate)
    write_rows(aside / "recent.jsonl", snapshot.recent)
    write_rows(aside / AUDIT, snapshot.audit)
    if snapshot.unlabelled:
        write_rows(aside / UNLABELLED, snapshot.unlabelled)
    (aside / "job.json").write_text(job.model_dump_json(indent=2), encoding="utf-8")
    aside.rename(directory)


def replace_recent(directory: Path, recent: Sequence[Recent]) -> None:
    """Have the learner in `directory` score these again instead, should it still come to it."""
    # Not inside: the learner flushes all that is in its directory.
    aside = directory.with_name(f".{directory.name}.recent")
    write_rows(aside, recent)
    aside.replace(directory / "recent.jsonl")


def job_settings(
    config: Config,
    *,
    id: str,
    labels: list[str],
    parent: Path | None,
    seed: int,
    champion: Path | None = None,
    method: Literal["priors", "as-is"] | None = None,
    since: float = 0.0,
    rehearses: bool = False,
) -> Job:
    """The job that the config asks for: an update of `parent`, or a first model when there is none.

    `champion` is what the candidate is judged beside, where that is not its parent.

    With the method `priors` it follows the label mix, which moved at `since`, and learns nothing: whatever the config
    says of learning, all weights but the head's bias stay the parent's, and nothing is chosen on held-out examples.
    With `as-is` all weights stay, and the parent is judged again. One that `rehearses` goes over everything remembered.
    """
    learning = config.learning.model_copy(update=UNLEARNED[method]) if method else config.learning
    epochs = learning.fit_epochs
    if parent is not None and not starts_afresh(learning.method):
        epochs = min(REHEARSAL_PASSES, learning.epochs) if rehearses else learning.epochs
    return Job(
        id=id,
        method=learning.method if parent or method else "finetune",
        labels=labels,
        parent=parent.resolve() if parent else None,
        champion=champion.resolve() if champion else None,
        since=since,
        rehearses=rehearses,
        encoder=config.model.encoder,
        epochs=epochs,
        learning_rate=learning.learning_rate or LEARNING_RATES[learning.tuning],
        warmup_share=learning.warmup_share,
        weight_decay=learning.weight_decay,
        batch_size=learning.batch_size,
        accumulate=learning.accumulate,
        min_steps=learning.min_steps,
        max_steps=learning.max_steps,
        patience=learning.patience if learning.early_stopping else 0.0,
        checkpoint_every=learning.checkpoint_every,
        max_tokens=config.model.max_tokens,
        ewc=EWC(**learning.ewc.model_dump()),
        si=SI(**learning.si.model_dump()),
        mas=MAS(**learning.mas.model_dump()),
        lwf=LwF(**learning.lwf.model_dump()),
        der=DER(**learning.der.model_dump()),
        agem=AGEM(**learning.agem.model_dump()),
        focus=learning.focus,
        label_smoothing=0.0 if "er-ace" in parts(learning.method) else learning.label_smoothing,
        tuning=learning.tuning,
        adapter=Adapter(**learning.adapter.model_dump()),
        interpolate=learning.interpolate and parent is not None,
        pseudo_labels=_if_enabled(learning.pseudo_labels, PseudoLabels) if parent else None,
        pretraining=_if_enabled(learning.pretraining, Pretraining) if parent else None,
        augmentation=learning.augmentation,
        calibrate=learning.calibrate,
        seed=seed,
        device=config.model.device,
        precision=config.model.precision,
        threads=learning.threads,
        processes=learning.processes,
        tensorboard=learning.tensorboard,
        wandb_project=learning.wandb_project,
    )


def _if_enabled(section: PseudoLabelsConfig | PretrainingConfig, kind: type[Settings]) -> Settings | None:
    return kind(**section.model_dump(exclude={"enabled"})) if section.enabled else None


class Learner:
    """A learner process at work in `directory`."""

    def __init__(self, directory: Path, *, niceness: int, timeout: float) -> None:
        self.directory = directory
        self._timeout = timeout
        self._started = time.monotonic()
        own = str(os.getpid())
        with (directory / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                ["nice", "-n", str(niceness), sys.executable, "-m", "learners", str(directory), "--parent", own],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def running(self) -> bool:
        """Whether it is still at work; one past its timeout is stopped."""
        if self._process.poll() is None and time.monotonic() - self._started > self._timeout:
            self.stop()
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def found_busy(self) -> bool:
        """Whether it gave way to a learner of an earlier daemon, which will notice in a moment that it is orphaned."""
        return self._process.returncode == os.EX_TEMPFAIL

    def wait(self, seconds: float) -> None:
        """Return when it has stopped, or after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def stop(self) -> None:
        """Stop it if it still runs: asked first, then killed."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def progress(self) -> Progress | None:
        return progress_of(self.directory)


def progress_of(directory: Path) -> Progress | None:
    """The latest line of the job's metrics.jsonl; None before the first one."""
    lines = _tail(directory / "metrics.jsonl").splitlines()
    whole = [line for line in lines if line.startswith("{") and line.endswith("}")]
    return Progress.model_validate_json(whole[-1]) if whole else None


def outcome(directory: Path) -> Report | Failure:
    """What a learner that has stopped left behind."""
    report, error = directory / "report.json", directory / "error.json"
    if report.is_file():
        return Report.model_validate_json(report.read_bytes())
    if error.is_file():
        return Failure.model_validate_json(error.read_bytes())
    said = _tail(directory / "output.log").strip().splitlines()
    detail = said[-1] if said else "it said nothing"
    return Failure(error="the learner stopped without a report", detail=f"{detail} (see {directory / 'output.log'})")


def finished(directory: Path) -> bool:
    return (directory / "report.json").is_file() or (directory / "error.json").is_file()


def _tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL), os.SEEK_SET)
        return file.read().decode("utf-8", "replace")
