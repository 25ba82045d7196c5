"""The plugins of a job's method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from avalanche.training.plugins import SupervisedPlugin

from learners.data import Row
from learners.device import Compute
from learners.job import Job
from learners.methods.agem import AveragedGEM
from learners.methods.der import DarkExperienceReplay
from learners.methods.er_ace import AsymmetricCrossEntropy
from learners.methods.ewc import OnlineEWC
from learners.methods.lwf import LearningWithoutForgetting
from learners.methods.mas import MemoryAwareSynapses
from learners.methods.names import parts, replays
from learners.methods.si import SynapticIntelligence
from learners.methods.teacher import Teacher, ask
from learners.model import load


@dataclass(frozen=True)
class Lesson:
    """What a job learns: its new and its replayed rows, whether or not the method goes over the latter."""

    job: Job
    new: list[Row]
    replay: list[Row]
    compute: Compute

    @property
    def rows(self) -> list[Row]:
        """The rows that training goes over: new ones first. A batch has their positions here."""
        return [*self.new, *self.replay] if replays(self.job.method) else self.new

    def teacher(self, rows: list[Row]) -> Teacher | None:
        """The parent's word on `rows`; None without a parent or rows."""
        if self.job.parent is None or not rows:
            return None
        return ask(load(self.job.parent, self.compute.device), rows, self.job.labels, self.compute)


def plugins(lesson: Lesson) -> list[SupervisedPlugin]:
    """One for each part of the job's method that has anything to do: without a past, many have not."""
    built = [BUILD[part](lesson) for part in parts(lesson.job.method) if part in BUILD]
    return [plugin for plugin in built if plugin is not None]


@runtime_checkable
class Carried(Protocol):
    """A plugin with something to keep beside the weights."""

    def save(self, directory: Path) -> None:
        """Write it into `directory`."""


def carried(plugins: Sequence[SupervisedPlugin]) -> list[Carried]:
    """Those with something to keep."""
    return [plugin for plugin in plugins if isinstance(plugin, Carried)]


def _er_ace(lesson: Lesson) -> SupervisedPlugin:
    return AsymmetricCrossEntropy(lesson.new, len(lesson.job.labels))


def _der(lesson: Lesson) -> SupervisedPlugin | None:
    teacher = lesson.teacher(lesson.replay)
    if teacher is None:
        return None
    return DarkExperienceReplay(strength=lesson.job.der.strength, teacher=teacher, first=len(lesson.new))


def _lwf(lesson: Lesson) -> SupervisedPlugin | None:
    teacher = lesson.teacher(lesson.new)
    return LearningWithoutForgetting(**lesson.job.lwf.model_dump(), teacher=teacher) if teacher else None


# The past is in the replayed rows even where they are not learned from, so importances are measured on both.


def _ewc(lesson: Lesson) -> SupervisedPlugin:
    job, rows = lesson.job, [*lesson.new, *lesson.replay]
    return OnlineEWC(**job.ewc.model_dump(), seed=job.seed, rows=rows, importance=OnlineEWC.load(job.parent))


def _mas(lesson: Lesson) -> SupervisedPlugin:
    job, rows = lesson.job, [*lesson.new, *lesson.replay]
    importance = MemoryAwareSynapses.load(job.parent)
    return MemoryAwareSynapses(**job.mas.model_dump(), seed=job.seed, rows=rows, importance=importance)


def _si(lesson: Lesson) -> SupervisedPlugin:
    job = lesson.job
    return SynapticIntelligence(**job.si.model_dump(), importance=SynapticIntelligence.load(job.parent))


def _agem(lesson: Lesson) -> SupervisedPlugin | None:
    job = lesson.job
    return AveragedGEM(lesson.replay, job.agem.samples, job.seed) if lesson.replay else None


#: The parts that are plugins; the others say where training starts and what it goes over.
BUILD: dict[str, Callable[[Lesson], SupervisedPlugin | None]] = {
    "er-ace": _er_ace,
    "der": _der,
    "lwf": _lwf,
    "ewc": _ewc,
    "si": _si,
    "mas": _mas,
    "agem": _agem,
}
