"""How long work shows itself on a terminal: bars while it goes on, figures at its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from daemon.controller import Controller
from learners import job


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[story]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


class FitBar:
    """The steps of one training run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("learning", total=None, story="")

    def show(self, done: job.Progress) -> None:
        self._progress.update(self._task, total=done.steps, completed=done.step, story=f"loss {done.loss:.3f}")


class BacktestBars:
    """How far the stream is, and the training run under way."""

    def __init__(self, progress: Progress, texts: int) -> None:
        self._progress = progress
        self._stream = progress.add_task("stream", total=texts, story="")
        self._learning = progress.add_task("learning", total=None, visible=False, story="")

    def learned(self, version: str, done: job.Progress) -> None:
        self._progress.update(
            self._learning,
            visible=True,
            total=done.steps,
            completed=done.step,
            description=f"learning {version}",
            story=f"loss {done.loss:.3f}",
        )

    def moved(self, texts: int, controller: Controller) -> None:
        champion, recent = controller.champion, controller.intake.prequential.recent.accuracy
        live = "" if recent is None else f", live accuracy {recent:.3f}"
        story = f"champion {champion.version if champion else None}{live}"
        self._progress.update(self._learning, visible=False)
        self._progress.update(self._stream, completed=texts, story=story)


def print_report(report: Mapping[str, Any], out: Console) -> None:
    """The figures of a backtest or the demo, as a person wants them at its end."""
    live, static = report["prequential"], report["static"]
    if live["macro_f1"] is not None:
        out.print(f"live    accuracy {live['accuracy']:.3f}  macro-F1 {live['macro_f1']:.3f}")
        out.print(f"static  accuracy {static['accuracy']:.3f}  macro-F1 {static['macro_f1']:.3f}")
    promoted = sum(model["promoted"] for model in report["models"])
    candidates = len({model["version"] for model in report["models"]})
    out.print(
        f"{report['texts']} texts, {report['labels']} labels, {report['dead_letters']} dead letters, "
        f"{len(report['drift']['alarms'])} drift alarms, {promoted} of {candidates} candidates promoted, "
        f"{len(report['alerts'])} alerts, {report['seconds']['total']:.0f} s"
    )
    for which, domains in report.get("holdout", {}).items():
        mean = sum(domain["macro_f1"] for domain in domains.values()) / len(domains)
        each = "  ".join(f"{name} {domain['macro_f1']:.3f}" for name, domain in domains.items())
        out.print(f"holdout {which:5}  mean macro-F1 {mean:.3f}   {each}")
    if (audits := report["audit"])["promotions"]:
        out.print(
            f"audit   {len(audits['flagged'])} of {audits['promotions']} promotions show a slice that fell "
            f"(by chance, up to {audits['by_chance']:.1f}); all counted together: {', '.join(audits['fell']) or 'none'}"
        )
    if past := report.get("hindsight"):
        final = past["leads"][-1]["version"]
        last = next(one for one in past["versions"] if one["version"] == final)
        out.print(
            f"by source, on labels that nothing else used: mean macro-F1 {last['mean']:.3f}, worst {last['worst']} "
            f"{last['known'][last['worst']]:.3f}; forgotten {past['forgot']:.3f}, "
            f"backward transfer {past['backward']:+.3f}, forward {past['forward']:+.3f}"
        )
