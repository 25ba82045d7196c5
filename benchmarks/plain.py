"""The loop that anybody would write first, on a recorded stream: what relearnd has to beat.

    python -m benchmarks.plain --data FOLDER --report out/report.json

Every 1,000 labels that have come, learn these and as many from a memory of 3,000, balanced by source and label, in two
passes at 5e-5 from the model before; no gate, nothing held out, no trigger. A text is scored by the model of its time,
and a label is there when it is due, as in `relearnd backtest`. With the `report.json` of a backtest of the same stream
it prints the daemon's figures beside its own. FOLDER is as for `benchmarks.learning`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.asking import held_out
from benchmarks.learning import BOUNDED, Outcome, Run, macro_f1_of
from benchmarks.stretches import COURSES, label_times
from daemon.memory import Labelled
from daemon.settings import load as load_settings
from learners.model import load as load_model

#: Streams with a time for each text and each label.
RECORDED = ("domains", "crash2020")

SETTINGS = (
    "learning.method=replay",
    "learning.replay_ratio=1",
    "learning.epochs=2",
    "learning.fit_epochs=2",
    "learning.min_steps=1",
    "learning.learning_rate=5e-5",
    "memory.gate_share=0",
    "memory.audit_share=0",
    *BOUNDED,
)


class Figures(NamedTuple):
    """Macro-F1 of every text by the model of its time, its mean over the held-out slices at the end, and the cost."""

    live: float
    held_out: float | None
    samples: int
    seconds: float


class PlainLoop(Run):
    """Learns the texts of a course as their labels come."""

    def live(self, due: Mapping[str, float], every: int, console: Console) -> Figures:
        """`due`: when the label of each text comes, in seconds since the epoch."""
        course = self._course
        started = time.monotonic()
        outcome = Outcome(course.name, "plain", self._seed, 0, [], [])
        champion, model, memory = self._begin()
        texts = sorted((text for stretch in course.stretches for text in stretch), key=lambda text: text.timestamp)
        coming = sorted(texts, key=lambda text: due[text.id], reverse=True)
        seen: list[tuple[int, int]] = []
        unscored: list[Labelled] = []
        new: list[Labelled] = []
        for text in track(texts, "Texts", console=console):
            while coming and due[coming[-1].id] <= text.timestamp:
                new.append(coming.pop())
                if len(new) == every:
                    seen += self._lived(model, unscored)
                    champion = self._update(champion, memory, new, outcome)
                    model = load_model(champion, self._compute.device)
                    unscored, new = [], []
            unscored.append(text)
        seen += self._lived(model, unscored)
        return Figures(
            macro_f1_of(seen), statistics.mean(self._known(model)), outcome.samples, time.monotonic() - started
        )


def of_report(path: Path) -> Figures:
    """The same of the daemon, from what a backtest wrote."""
    report = json.loads(path.read_text())
    samples = sum(model["samples"] or 0 for model in report["models"])
    return Figures(report["prequential"]["macro_f1"], held_out(report), samples, report["seconds"]["total"])


def table(rows: Sequence[tuple[str, Figures]]) -> Table:
    shown = Table("", "live, macro-F1", "held out", "samples", "seconds")
    for name, figures in rows:
        held = "" if figures.held_out is None else f"{figures.held_out:.3f}"
        shown.add_row(name, f"{figures.live:.3f}", held, f"{figures.samples:,}", f"{figures.seconds:,.0f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stream", choices=RECORDED, default=RECORDED[0])
    parser.add_argument("--report", type=Path, help="report.json of a backtest of the same stream")
    parser.add_argument("--every", type=int, default=1_000, help="labels to an update")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the daemon's")
    given = parser.parse_args()
    console = Console()
    rows = [("relearnd", of_report(given.report))] if given.report else []
    config = load_settings(None, environment={}, overrides=[*SETTINGS, f"memory.recent={given.every}", *given.set])
    course, due = COURSES[given.stream](given.data, 0), label_times(given.data, given.stream)
    with (
        tempfile.TemporaryDirectory(prefix="relearnd-plain-") as scratch,
        tempfile.TemporaryDirectory(prefix="relearnd-base-") as base,
    ):
        loop = PlainLoop(course, config, given.seed, Path(scratch), Path(base) / "base", labelled=1.0)
        rows.insert(0, ("plain loop", loop.live(due, given.every, console)))
    console.print(table(rows))


if __name__ == "__main__":
    main()
