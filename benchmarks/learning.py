"""Every way of learning on the same streams: what is known at the end, what was forgotten, and what it cost.

    python -m benchmarks.learning --data FOLDER --workers 2          a short table: up to three hours on 2 cores
    python -m benchmarks.learning --data FOLDER --workers 2 --orders 2         with another order of the stretches too
    python -m benchmarks.learning --data FOLDER --full               whole streams; for a GPU, or row by row
    python -m benchmarks.learning --data FOLDER --sets domains --ways der replay --seeds 1

FOLDER holds the streams that `benchmarks.stretches` names. A run learns one set in one way with one seed: a model
fitted on the base rows, then a training job after each `--every` texts, as the daemon makes them (its memory, its
shares, its settings), each from the one before it; no gate stands between them. Finished runs are kept in `--out` and
not done again, so the table can be stopped and gone on with; ways can be added with `--set`, which changes all that
are run and needs an `--out` of its own, as does `--labelled`. A star is at the daemon's default. Figures are macro-F1,
in points of 100: `final` the mean over the slices at the end, `worst` the lowest of them, `forgot` the mean fall from
each slice's best, `back` backward transfer (Lopez-Paz & Ranzato 2017: the end against the moment a slice had just been
taught), `live` every text by the model of its time.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.stretches import COURSES, Course, Rows
from daemon.config import Config
from daemon.hashing import unit_hash
from daemon.learning import Snapshot, job_settings, make_job
from daemon.memory import Labelled, Memory, share_of
from daemon.settings import load as load_settings
from daemon.state import open_state
from daemon.triggers import rehearsal_due
from learners.device import flushed_denormals, resolve, use_threads
from learners.evaluation import macro_f1
from learners.job import CANDIDATE, Example, Recent
from learners.judging import TOKEN_BUDGET
from learners.model import LoadedModel
from learners.model import load as load_model
from learners.process import die_with
from learners.run import begin
from learners.scoring import Floats, forward_batches
from learners.training import learn

#: Ways that are a method of the daemon's and nothing else; `--ways` runs these unless told.
METHODS = (
    "finetune",
    "replay",
    "ewc",
    "replay+ewc",
    "si",
    "mas",
    "lwf",
    "lwf+replay",
    "der",
    "der+ewc",
    "er-ace",
    "agem",
)

#: What the ways are compared under: a memory as the papers bound it, and no run goes over all of it.
BOUNDED = ("memory.replay=3000", "triggers.rehearse=0")

#: How the daemon learns by default: by its method, with a run over everything remembered whenever half of it is new.
DEFAULT = f"{Config().learning.method}, rehearsed"

#: Ways of tuning, each with replay.
TUNINGS = ("lora", "adalora", "ia3", "prefix", "prompt", "adapter")

#: A way of learning, by name: settings of the daemon's own.
WAYS: dict[str, tuple[str, ...]] = {
    **{method: (f"learning.method={method}",) for method in METHODS},
    DEFAULT: (f"memory.replay={Config().memory.replay}", f"triggers.rehearse={Config().triggers.rehearse}"),
    "replay, smoothed": ("learning.method=replay", "learning.label_smoothing=0.1"),
    "replay, focused": ("learning.method=replay", "learning.focus=0.6"),
    "replay, smoothed and focused": (
        "learning.method=replay",
        "learning.label_smoothing=0.1",
        "learning.focus=0.6",
    ),
    "replay, kept by loss": ("learning.method=replay", "memory.keep=loss"),
    "replay, kept by diversity": ("learning.method=replay", "memory.keep=diversity"),
    "replay, interpolated": ("learning.method=replay", "learning.interpolate=true"),
    **{f"replay, {tuning}": ("learning.method=replay", f"learning.tuning={tuning}") for tuning in TUNINGS},
}

#: Rows that learn nothing, and everything at once: what there is to win.
NOTHING, JOINT = "do nothing", "joint"

#: Held-out examples that a job is given to choose by, newest first; a way that chooses nothing ignores them.
HELD_OUT = 300

#: The short setting: rows of a stretch (and of the base), and of all slices together; and the steps that suit so few:
#: two passes for an update that replays, more for the base and for joint training, which have no past to build on.
#: Texts are cut to their beginning. With fewer rows little is learned, so that little can be forgotten.
SHORT, SHORT_SLICES = 100, 200
SHORTENED = ("learning.min_steps=20", "learning.fit_epochs=10", "model.max_tokens=32")


@dataclass
class Outcome:
    """One run. `after[stretch][slice]` is macro-F1 after each stretch; row 0 is before the first."""

    course: str
    way: str
    seed: int
    order: int
    slices: list[str]
    taught_by: list[int]
    after: list[list[float]] = field(default_factory=list)
    live: float = 0.0
    samples: int = 0
    seconds: float = 0.0

    @property
    def final(self) -> float:
        return statistics.mean(self.after[-1])

    @property
    def worst(self) -> float:
        return min(self.after[-1])

    @property
    def forgot(self) -> float:
        """Mean fall from the best that each slice had since it was first taught; 0 for `JOINT`, which has no past."""
        if len(self.after) == 1:
            return 0.0
        best = [max(row[at] for row in self.after[since + 1 :]) for at, since in enumerate(self.taught_by)]
        return statistics.mean(top - last for top, last in zip(best, self.after[-1], strict=True))

    @property
    def back(self) -> float:
        taught = [(at, since) for at, since in enumerate(self.taught_by) if since < len(self.after) - 2]
        return statistics.mean(self.after[-1][at] - self.after[since + 1][at] for at, since in taught) if taught else 0


#: Runs whose mean counts as one.
Runs = Sequence[Outcome]


class Run:
    """Learns one course in one way, in a scratch directory."""

    def __init__(self, course: Course, config: Config, seed: int, scratch: Path, base: Path, labelled: float) -> None:
        self._course = course
        self._config = config
        self._seed = seed
        self._scratch = scratch
        self._base = base
        self._labelled = labelled
        self._unlabelled: list[Labelled] = []
        self._compute = resolve(config.model.device, config.model.precision)
        self._jobs = 0
        self._rehearsed = 0
        use_threads(config.learning.threads)

    def do(self, way: str, order: int, every: int, say: Callable[[str], None]) -> Outcome:
        course = self._course
        taught_by = [one.taught_by for one in course.slices]
        outcome = Outcome(course.name, way, self._seed, order, [one.name for one in course.slices], taught_by)
        if way == JOINT:
            return self._joint(outcome)
        champion, model, memory = self._begin()
        outcome.after.append(self._known(model))
        seen: list[tuple[int, int]] = []
        for place, stretch in enumerate(course.stretches, 1):
            for first in range(0, len(stretch), every):
                texts = stretch[first : first + every]
                probabilities = self._probabilities(model, [text.text for text in texts])
                seen += self._said(model, texts, probabilities)
                if way != NOTHING:
                    losses = -np.log(probabilities.clip(1e-6))
                    at = [model.labels.index(text.label) for text in texts]
                    texts = [one._replace(loss=float(row[to])) for one, row, to in zip(texts, losses, at, strict=True)]
                    champion = self._update(champion, memory, texts, outcome)
                    model = load_model(champion, self._compute.device)
            outcome.after.append(self._known(model))
            say(f"stretch {place} of {len(course.stretches)}: {100 * statistics.mean(outcome.after[-1]):.1f}")
        outcome.live = macro_f1_of(seen)
        return outcome

    def _begin(self) -> tuple[Path, LoadedModel, Memory]:
        """The first model, where it lies and as it scores, and a memory of what it was fitted on."""
        champion = self._fitted()
        memory = Memory(open_state(self._scratch / "state.db"), self._config.memory)
        memory.add(self._course.base)
        self._rehearsed = memory.newest()
        return champion, load_model(champion, self._compute.device), memory

    def _update(self, champion: Path, memory: Memory, texts: Rows, outcome: Outcome) -> Path:
        since = memory.newest()
        memory.add([text for text in texts if unit_hash("labelled", text.id) < self._labelled])
        self._unlabelled += [text for text in texts if unit_hash("labelled", text.id) >= self._labelled]
        remembered, unrehearsed = memory.count("learn"), memory.count("learn", since=self._rehearsed)
        rehearses = rehearsal_due(remembered, unrehearsed, self._config.triggers)
        if rehearses:
            new, replay, self._rehearsed = memory.everything(since), [], memory.newest()
        else:
            new = memory.new(since)
            replay = memory.replay(since, round(len(new) * self._config.learning.replay_ratio), self._seed + self._jobs)
        # A job judges on something, even where nothing is held out.
        held_out = memory.held_out(since)[-HELD_OUT:] or new[:1]
        memory.evict()
        snapshot = Snapshot(new, replay, held_out, [], self._without_label())
        return self._train(snapshot, champion, outcome, rehearses=rehearses)

    def _without_label(self) -> list[Recent]:
        """As the daemon has them: the latest ones, and none of the held-out shares."""
        latest = self._unlabelled[-self._config.memory.unlabelled :]
        learned = [text for text in latest if share_of(text.id, self._config.memory) == "learn"]
        return [Recent(id=one.id, text=one.text, source=one.source, timestamp=one.timestamp) for one in learned]

    def _fitted(self) -> Path:
        """The model that all ways begin with, fitted once."""
        if not self._base.exists():
            rows, nothing = _examples(self._course.base), Outcome("", "", 0, 0, [], [])
            self._train(Snapshot(rows, [], rows[:1], []), None, nothing).rename(self._base)
        return self._base

    def _joint(self, outcome: Outcome) -> Outcome:
        rows = _examples([row for rows in (self._course.base, *self._course.stretches) for row in rows])
        model = load_model(self._train(Snapshot(rows, [], rows[:1], []), None, outcome), self._compute.device)
        outcome.after.append(self._known(model))
        return outcome

    def _train(self, snapshot: Snapshot, parent: Path | None, outcome: Outcome, *, rehearses: bool = False) -> Path:
        """Do one job; the candidate's directory. What is left of the job before it is deleted."""
        self._jobs += 1
        directory = self._scratch / f"job-{self._jobs}"
        seed = 1_000 * self._seed + self._jobs
        job = job_settings(
            self._config, id=directory.name, labels=self._course.labels, parent=parent, seed=seed, rehearses=rehearses
        )
        make_job(job, snapshot, directory)
        started = time.monotonic()
        with flushed_denormals():
            learned = learn(directory, *begin(directory))  # nothing is judged: no gate stands between updates
        outcome.seconds += time.monotonic() - started
        outcome.samples += learned.samples(job.batch_size)
        if parent is not None and parent.is_relative_to(self._scratch):
            shutil.rmtree(parent.parent)
        return directory / CANDIDATE

    def _known(self, model: LoadedModel) -> list[float]:
        return [macro_f1_of(self._lived(model, one.rows)) for one in self._course.slices]

    def _lived(self, model: LoadedModel, rows: Rows) -> list[tuple[int, int]]:
        return self._said(model, rows, self._probabilities(model, [row.text for row in rows]))

    def _said(self, model: LoadedModel, rows: Rows, given: Floats) -> list[tuple[int, int]]:
        """True and predicted label of each, as positions."""
        said = [self._course.labels.index(model.labels[at]) for at in given.argmax(1)]
        return [(self._course.labels.index(row.label), answer) for row, answer in zip(rows, said, strict=True)]

    def _probabilities(self, model: LoadedModel, texts: list[str]) -> Floats:
        return forward_batches(model, model.tokenise(texts), TOKEN_BUDGET, self._compute).probabilities


def macro_f1_of(pairs: Sequence[tuple[int, int]]) -> float:
    truth, said = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    return macro_f1(np.eye(int(max(truth.max(), said.max())) + 1, dtype=np.float32)[said], truth)


def _examples(rows: Sequence[Labelled]) -> list[Example]:
    return [row.example("fresh") for row in rows]


#: Figures of a run in points of 100, and those of them that need a past, which `JOINT` has not.
SHOWN, OF_THE_PAST = ("final", "worst", "forgot", "back", "live"), ("forgot", "back", "live")

HEADINGS = ["way", *SHOWN, "samples", "seconds", "runs"]


def table(outcomes: Sequence[Outcome], course: str) -> list[list[str]]:
    """A row for each way, best first: its figures over the seeds and orders, mean and spread."""
    ways: dict[str, list[Runs]] = {}
    for one in outcomes:
        if one.course == course:
            ways.setdefault(one.way, []).append([one])
    return _ranked(ways)


def averages(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The same of the means over all sets, for the ways that have learned all of them from the same seed and order.

    So what is spread is that mean, to which a set that is hard in itself adds nothing.
    """
    together: dict[tuple[str, int, int], list[Outcome]] = {}
    for one in outcomes:
        together.setdefault((one.way, one.seed, one.order), []).append(one)
    courses = {one.course for one in outcomes}
    ways: dict[str, list[Runs]] = {}
    for (way, _, _), runs in together.items():
        if len(runs) == len(courses):
            ways.setdefault(way, []).append(runs)
    return _ranked(ways)


def _ranked(ways: Mapping[str, Sequence[Runs]]) -> list[list[str]]:
    """A row for each way: over what it has, of each of which the mean counts; the best `final` first."""
    rows = []
    for way, groups in ways.items():
        mean = {
            name: [statistics.mean(getattr(run, name) for run in runs) for runs in groups]
            for name in (*SHOWN, "samples", "seconds")
        }
        shown = ["" if way == JOINT and name in OF_THE_PAST else _spread(mean[name]) for name in SHOWN]
        cost = [f"{statistics.mean(mean[name]):,.0f}" for name in ("samples", "seconds")]
        name = f"{way} *" if way == DEFAULT else way
        rows.append((statistics.mean(mean["final"]), [name, *shown, *cost, str(len(groups))]))
    return [cells for _, cells in sorted(rows, reverse=True)]


def _spread(shares: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ±{100 * statistics.stdev(shares):.1f}"


def tables(outcomes: Sequence[Outcome]) -> dict[str, list[list[str]]]:
    """By what they are of: each set, and the mean over them where there are several."""
    courses = list(dict.fromkeys(one.course for one in outcomes))
    over_all = {f"mean of the {len(courses)}": averages(outcomes)} if len(courses) > 1 else {}
    return {course: table(outcomes, course) for course in courses} | over_all


def markdown(outcomes: Sequence[Outcome]) -> str:
    parts = []
    for title, rows in tables(outcomes).items():
        lines = [HEADINGS, ["---", *["---:"] * (len(HEADINGS) - 1)], *rows]
        parts.append("\n".join([f"### {title}", "", *("| " + " | ".join(cells) + " |" for cells in lines)]))
    return "\n\n".join(parts) + "\n"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """What each way knows at the end, with its spread, and live: a panel for each set, the best way on top."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    courses = list(dict.fromkeys(one.course for one in outcomes))
    everywhere = {
        way: statistics.mean(one.final for one in outcomes if one.way == way) for way in {one.way for one in outcomes}
    }
    ways = sorted(everywhere, key=lambda way: everywhere[way])
    size = (3.2 * len(courses) + 1.2, 0.32 * len(ways) + 1.4)
    figure, panels = pyplot.subplots(1, len(courses), figsize=size, squeeze=False, sharey=True)
    for panel, course in zip(panels[0], courses, strict=True):
        for at, way in enumerate(ways):
            runs = [one for one in outcomes if one.course == course and one.way == way]
            finals = [100 * one.final for one in runs]
            if finals:
                spread = statistics.stdev(finals) if len(finals) > 1 else 0
                panel.errorbar(statistics.mean(finals), at, xerr=spread, fmt="o", color="C0", label="at the end")
            lived = [100 * one.live for one in runs if way != JOINT]
            if lived:
                panel.plot(statistics.mean(lived), at, "o", mfc="none", color="C1", label="live")
        panel.set(title=course, xlabel="macro-F1, points")
        panel.set_yticks(range(len(ways)), ways)
        panel.grid(alpha=0.3)
    named = {label: mark for panel in panels[0] for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _show(outcomes: Sequence[Outcome], console: Console) -> None:
    for title, rows in tables(outcomes).items():
        shown = Table(*HEADINGS, title=title)
        for cells in rows:
            shown.add_row(*cells)
        console.print(shown)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=COURSES, default=list(COURSES))
    parser.add_argument(
        "--ways", nargs="+", choices=[NOTHING, JOINT, *WAYS], default=[NOTHING, JOINT, DEFAULT, *METHODS]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--orders", type=int, default=1, help="the stretches as they came, and so many less one others")
    parser.add_argument("--full", action="store_true", help="whole streams")
    parser.add_argument("--every", type=int, default=1_000, help="texts to a training job")
    parser.add_argument("--labelled", type=float, default=1.0, help="share of the labels that come; all for joint")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the daemon's")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, of one thread each if more than one")
    parser.add_argument("--out", type=Path, default=Path("out/learning"))
    return parser.parse_args()


class Plan(NamedTuple):
    """A set in one order, learned in several ways from one seed."""

    course: str
    seed: int
    order: int

    def file(self, kept: Path, way: str) -> Path:
        return kept / f"{self.course}-{way.replace(' ', '_')}-{self.seed}-{self.order}.json"


def planned(arguments: argparse.Namespace) -> list[Plan]:
    """Seed by seed, so that a table that is stopped early has all sets. Other orders have the first seed alone."""
    which = [(seed, 0) for seed in range(arguments.seeds)] + [(0, order) for order in range(1, arguments.orders)]
    return [Plan(name, seed, order) for (seed, order), name in itertools.product(which, arguments.sets)]


def files(arguments: argparse.Namespace, kept: Path) -> list[Path]:
    """One for each run, done or not."""
    return [plan.file(kept, way) for plan, way in itertools.product(planned(arguments), arguments.ways)]


def carry_out(plan: Plan, arguments: argparse.Namespace, kept: Path) -> None:
    """Do the runs of `plan` that have not been done."""
    course = COURSES[plan.course](arguments.data, plan.order)
    course = course if arguments.full else course.cut(SHORT, SHORT_SLICES // len(course.slices))
    for_all = [*(() if arguments.full else SHORTENED), *arguments.set]
    if arguments.workers > 1:
        for_all.append("learning.threads=1")
    base = kept / f"{plan.course}-base-{plan.seed}-{plan.order}"
    for way in arguments.ways:
        done = plan.file(kept, way)
        if done.exists():
            continue
        say = partial(Console(log_path=False).log, f"{plan.course}, {way}, seed {plan.seed}, order {plan.order}:")
        config = load_settings(None, environment={}, overrides=[*BOUNDED, *WAYS.get(way, ()), *for_all])
        with tempfile.TemporaryDirectory(prefix="relearnd-learning-") as scratch:
            run = Run(course, config, plan.seed, Path(scratch), base, arguments.labelled)
            done.write_text(json.dumps(asdict(run.do(way, plan.order, arguments.every, say))))
        runs = [file.exists() for file in files(arguments, kept)]
        say(f"done: {sum(runs)} of {len(runs)} runs")


def main() -> None:
    arguments = _arguments()
    kept = arguments.out / ("full" if arguments.full else "short")
    kept.mkdir(parents=True, exist_ok=True)
    plans = planned(arguments)
    if arguments.workers == 1:
        for plan in plans:
            carry_out(plan, arguments, kept)
    else:
        apart = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.workers, apart, initializer=die_with, initargs=(os.getpid(),)) as pool:
            list(pool.map(partial(carry_out, arguments=arguments, kept=kept), plans))
    console = Console()
    outcomes = [Outcome(**json.loads(file.read_text())) for file in files(arguments, kept)]
    _show(outcomes, console)
    (kept / "table.md").write_text(markdown(outcomes))
    plot(outcomes, kept / "table.png")
    console.print(f"{kept / 'table.md'}, {kept / 'table.png'}")


if __name__ == "__main__":
    main()
