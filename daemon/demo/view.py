"""What a person sees of the demo while it runs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon.records import Alert, utc

#: Labelled texts that an accuracy on the screen is taken over.
WINDOW = 150

#: Points of the accuracy curves, oldest to newest, over the whole run.
POINTS = 60

BLOCKS = "▁▂▃▄▅▆▇█"

#: Lines of the story that fit a usual terminal.
STORY = 9


@dataclass
class Picture:
    """All that is shown; filled anew before each frame."""

    texts: int
    began: float
    scored: int = 0
    source: str = ""
    live: Sequence[bool] = ()
    static: Sequence[bool] = ()
    evidence: dict[str, float] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()
    status: dict[str, Any] = field(default_factory=dict)
    _speeds: list[tuple[float, int]] = field(default_factory=list)

    def speed(self) -> float:
        """Texts a second over the last few seconds."""
        now = time.monotonic()
        self._speeds.append((now, self.scored))
        self._speeds = [one for one in self._speeds if now - one[0] <= 5.0]
        (since, before), (until, after) = self._speeds[0], self._speeds[-1]
        return (after - before) / (until - since) if until > since else 0.0

    def line(self) -> str:
        """The picture in one line, where there is no terminal."""
        champion = self.status["champion"]["version"] if self.status["champion"] else "none"
        learning = self.status["learning"]
        busy = f", {learning['version']}: {_progress(learning)}" if learning else ""
        return (
            f"{self.scored}/{self.texts} texts ({self.source}), champion {champion}, "
            f"accuracy live {_share(self.live)} static {_share(self.static)}, {len(self.alerts)} alerts{busy}"
        )


def render(picture: Picture) -> RenderableType:
    return Group(_header(picture), _accuracy(picture), _evidence(picture), _learning(picture), _story(picture))


def _header(picture: Picture) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 2))
    table.add_column(ratio=1)
    table.add_column(justify="right")
    elapsed = time.monotonic() - picture.began
    left = Text.assemble(("relearnd", "bold"), "  reading ", (picture.source, "bold cyan"))
    table.add_row(left, f"{picture.scored} of {picture.texts} texts   {picture.speed():.0f} texts/s   {elapsed:.0f} s")
    table.add_row(ProgressBar(total=picture.texts, completed=picture.scored), "")
    return table


def _accuracy(picture: Picture) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    champion = picture.status["champion"]["version"] if picture.status["champion"] else "none"
    for name, right, colour in ((f"live ({champion})", picture.live, "green"), ("static (v1)", picture.static, "red")):
        table.add_row(name, Text(_share(right), style=f"bold {colour}"), Text(sparkline(right), style=colour))
    return Panel(table, title=f"accuracy over the last {WINDOW} labels, and since the start", title_align="left")


def _share(right: Sequence[bool]) -> str:
    latest = right[-WINDOW:]
    return f"{sum(latest) / len(latest):.0%}" if latest else "–"


def sparkline(right: Sequence[bool]) -> str:
    """The share of right answers, start to end, in at most `POINTS` blocks from 0 to 1."""
    if not right:
        return ""
    cuts = [round(at * len(right) / POINTS) for at in range(POINTS + 1)]
    shares = [sum(right[start:end]) / (end - start) for start, end in pairwise(cuts) if end > start]
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))] for share in shares)


def _evidence(picture: Picture) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=24)
    table.add_column(width=40)
    for name, value in picture.evidence.items():
        colour = "red" if value > 0.8 else "yellow" if value > 0.5 else "blue"
        table.add_row(name, ProgressBar(total=1.0, completed=min(1.0, value), width=40, complete_style=colour))
    return Panel(table, title="evidence of drift (an alarm at the end of the bar)", title_align="left")


def _progress(learning: Mapping[str, Any]) -> str:
    return "judged again" if learning["progress"] is None else f"learning {learning['progress']:.0%}"


def _learning(picture: Picture) -> RenderableType:
    learning = picture.status["learning"]
    if learning is None:
        return Panel(Text("waiting for drift, or for enough labels", style="dim"), title="learner", title_align="left")
    table = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=1.0, completed=learning["progress"] or 0.0, width=40, complete_style="magenta")
    table.add_row(Text(learning["version"], style="bold"), bar, _progress(learning))
    table.add_row("", Text(learning["because"], overflow="ellipsis", no_wrap=True), "")
    return Panel(table, title="learner", title_align="left")


def _story(picture: Picture) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    rows = [(decision["at"], decision["kind"], decision["because"]) for decision in picture.status["decisions"]]
    colours = {"promoted": "green", "rejected": "yellow", "failed": "red", "rolled back": "red", "drift": "cyan"}
    alerts = [
        Text.assemble(("ALERT ", "bold red"), f"{alert.key} {alert.status}: {describe(alert)}")
        for alert in picture.alerts
    ]
    for at, kind, because in rows[-(STORY - len(alerts[-3:])) :]:
        story = Text(because, overflow="ellipsis", no_wrap=True)
        table.add_row(f"{utc(at):%H:%M:%S}", Text(kind, style=colours.get(kind, "")), story)
    return Panel(Group(table, *alerts[-3:]), title="what happened, and why", title_align="left")


def describe(alert: Alert) -> str:
    return f"{alert.value:.0%} of its texts are negative, usually {alert.baseline:.0%}"
