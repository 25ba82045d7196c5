"""What the measurements of drift come to: tables and plots."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.drift_matching import Judged, Rate, median
from benchmarks.drift_ours import OURS
from benchmarks.drift_scores import CRASH
from benchmarks.drift_streams import HORIZON


class Quiet(NamedTuple):
    """False alarms of ours on still streams of `stream`, at `nominal`."""

    stream: str
    labelled: bool
    nominal: float
    rate: Rate


@dataclass
class Change:
    """One row of delays: the streams of a kind, by key, and how long a stream is after its change."""

    kind: str
    keys: list[str]
    horizons: list[int]

    @property
    def labelled(self) -> bool:
        """Labels come, and may be needed to tell of it."""
        return self.kind.startswith(("flipped", CRASH))

    def median(self, judged: Judged) -> float:
        given = [
            (judged.found[key], horizon)
            for key, horizon in zip(self.keys, self.horizons, strict=True)
            if key in judged.found
        ]
        return statistics.median(median([one], horizon) for one, horizon in given)

    def share(self, judged: Judged) -> float:
        found = [judged.found[key] for key in self.keys if key in judged.found]
        return sum(one is not None for one in found) / len(found)

    def __str__(self) -> str:
        return self.kind


@dataclass
class Results:
    """All that was measured; what was left out is empty."""

    quiet: list[Quiet] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    single: list[Change] = field(default_factory=list)
    days: dict[str, list[float]] = field(default_factory=dict)
    recorded: dict[str, list[list[str]]] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    soon: Mapping[int, Sequence[int | None]] = field(default_factory=dict)
    speeds: Sequence[tuple[str, float]] = ()
    missing: Sequence[str] = ()


class Section(NamedTuple):
    title: str
    headings: list[str]
    rows: list[list[str]]
    note: str = ""


def sections(results: Results) -> list[Section]:
    """Those for which there is anything."""
    made = [
        _false_alarms(results),
        _first(results),
        _delays(results),
        _crash(results),
        _contenders(results),
        _kinds(results),
        _soon(results),
        *_recorded(results),
        _speeds(results),
    ]
    return [section for section in made if section.rows]


def _false_alarms(results: Results) -> Section:
    rows = [
        [
            one.stream,
            "with" if one.labelled else "without",
            f"{one.nominal:,.0f}",
            str(one.rate.runs),
            f"{one.rate.texts:,}",
            str(one.rate.alarms),
            str(one.rate),
            "yes" if one.rate.holds(one.nominal) else "NO",
        ]
        for one in results.quiet
    ]
    headings = ["streams of", "labels", "nominal", "runs", "texts", "alarms", "measured ± s.e.", "holds"]
    note = (
        "A run ends at its first alarm or, censored, where its texts would repeat; measured is all texts over all "
        "alarms. `holds`: so many alarms come by chance at the nominal rate once in 40 times or oftener."
    )
    return Section("False alarms: texts to one, nominal and measured", headings, rows, note)


def ours(results: Results, change: Change) -> Judged:
    signal = "with labels" if change.labelled else "without labels"
    return next(one for one in results.judged if one.name == OURS and one.signal == signal)


def others(results: Results) -> list[Judged]:
    return [one for one in results.judged if one.name != OURS]


def best(change: Change, candidates: Iterable[Judged]) -> Judged | None:
    """The soonest of those that were given any stream of this kind; of equals, the one that found most."""
    given = [one for one in candidates if any(key in one.found for key in change.keys)]
    return min(given, key=lambda one: (change.median(one), -change.share(one)), default=None)


def first_on(results: Results, changes: Sequence[Change]) -> tuple[int, int]:
    """On how many rows nobody is sooner than ours, and of how many: all on which anybody found anything."""
    won, counted = 0, 0
    for change in changes:
        mine, rival = ours(results, change), best(change, others(results))
        if rival is None or max(change.share(mine), change.share(rival)) == 0:
            continue
        counted += 1
        won += change.median(mine) <= change.median(rival)
    return won, counted


#: Signals that the others are lent: the daemon's score of sketch and wording together, and the lean of the labels.
LENT = ("novelty", "sentiment")


def _first(results: Results) -> Section:
    rows = []
    for change in results.changes if others(results) else []:
        mine, rival = ours(results, change), best(change, others(results))
        if rival is not None:
            place = 1 + sum(change.median(one) < change.median(mine) for one in _by_name(change, results))
            rows.append([change.kind, str(len(change.keys)), _cell(change, mine), rival.title, _cell(change, rival)])
            rows[-1].append(str(place))
    note = ""
    if rows:
        plain = replace(results, judged=[one for one in results.judged if one.name == OURS or one.signal not in LENT])
        by_kind, alone = first_on(results, results.changes), first_on(results, results.single)
        plain_by_kind, plain_alone = first_on(plain, results.changes), first_on(plain, results.single)
        note = (
            f"Ours is first on {by_kind[0]} of {by_kind[1]} rows, against the best of {len(others(results))} detectors "
            f"and signals on each; on {plain_by_kind[0]} where the others have not the signals that are our own "
            f"({' and '.join(LENT)}). Every pair of domains or labels, and every turn, taken for a row of its own (the "
            f"median of its few seeds, so the best of many is lucky): {alone[0]} of {alone[1]}, and {plain_alone[0]}."
        )
    headings = ["change", "streams", "ours", "soonest other", "its delay", "our place"]
    return Section("Ours and the soonest other, at the same measured rate of false alarms", headings, rows, note)


def _delays(results: Results) -> Section:
    columns = results.changes
    rows = []
    for name in dict.fromkeys(one.name for one in results.judged):
        row = [name]
        for change in columns:
            candidates = [one for one in results.judged if one.name == name]
            soonest = ours(results, change) if name == OURS else best(change, candidates)
            row.append("" if soonest is None else f"{_cell(change, soonest)} {_initial(soonest)}".strip())
        rows.append(row)
    note = (
        f"Median texts from the change to the alarm, what was not found in {HORIZON:,} counting as {HORIZON:,}, and "
        "the share found. Each detector on the best of its signals for that row: n novelty, m meaning, u uncertainty, "
        "s sentiment, e errors (with every label at once), k the sketch. Ours has labels where labels flip, and on "
        "crash2020."
    )
    return Section("Delays", ["detector", *map(str, columns)], rows if columns else [], note)


def _initial(judged: Judged) -> str:
    if judged.name == OURS or not judged.signal:
        return ""
    return "k" if judged.signal == "sketch" else judged.signal[0]


def _crash(results: Results) -> Section:
    turns = [change for change in results.changes if change.keys[0] in results.days]
    rows = []
    for judged in results.judged:
        row = [judged.title]
        for change in turns:
            found = judged.found.get(change.keys[0])
            days = results.days[change.keys[0]]
            row.append("not found" if found is None else f"{found:,} texts, {days[found - 1]:.1f} days")
        rows.append(row)
    note = "From each turn to the next, the reference being the 1,500 texts before it (844 before the first)."
    return Section("crash2020 on its true clock", ["detector", *map(str, turns)], rows if turns else [], note)


def _contenders(results: Results) -> Section:
    rows = [
        [
            one.title,
            f"{one.parameter:.3g}",
            f"{one.target:,.0f}",
            str(one.rate),
            str(one.rate.alarms),
            str(one.rate.runs),
            str(len(one.found)),
            f"{one.seconds:,.0f}",
        ]
        for one in results.judged
    ]
    headings = ["detector", "threshold", "to match", "measured ± s.e.", "alarms", "still runs", "changes", "seconds"]
    note = (
        "The main parameter of each is tuned until its measured rate on the still streams is ours. Slow ones are given "
        "fewer streams. Where `measured` is far from `to match`, the detector cannot come nearer."
    )
    if results.missing:
        note += " Did not run here: " + "; ".join(results.missing) + "."
    return Section("The same rate of false alarms", headings, rows, note)


def _soon(results: Results) -> Section:
    rows = [
        [str(lead), str(len(found)), f"{median(found, HORIZON):,.0f}", str(sum(one is not None for one in found))]
        for lead, found in results.soon.items()
    ]
    headings = ["texts since the alarm", "streams", "median delay", "found within 500"]
    note = "A full change of domain while the reference window is made anew, between all domains; no labels."
    return Section("Changes soon after an alarm", headings, rows, note)


def _kinds(results: Results) -> Section:
    said = list(dict.fromkeys(kind for counts in results.kinds.values() for kind in counts))
    rows = [[change, *[str(counts.get(kind, 0)) for kind in said]] for change, counts in results.kinds.items()]
    return Section("What ours takes a change for, with labels", ["change", *said], rows)


def _recorded(results: Results) -> list[Section]:
    headings = ["at", "text", "kind", "signal"]
    return [Section(f"Alarms of ours on {name}", headings, rows) for name, rows in results.recorded.items()]


def _speeds(results: Results) -> Section:
    rows = [[what, f"{speed:,.0f}"] for what, speed in results.speeds]
    return Section("Speed on one core", ["what", "texts a second"], rows)


def _by_name(change: Change, results: Results) -> list[Judged]:
    """The soonest signal of each of the others."""
    names = dict.fromkeys(one.name for one in others(results))
    soonest = [best(change, [one for one in results.judged if one.name == name]) for name in names]
    return [one for one in soonest if one is not None]


def _cell(change: Change, judged: Judged) -> str:
    return f"{change.median(judged):,.0f} ({100 * change.share(judged):.0f} %)"


def markdown(results: Results) -> str:
    parts = []
    for section in sections(results):
        lines = [section.headings, ["---"] * len(section.headings), *section.rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        parts.append("\n\n".join(filter(None, [f"### {section.title}", table, section.note])))
    return "\n\n".join(parts) + "\n"


#: Columns of a table that an ordinary terminal has room for.
NARROW = 8


def show(results: Results, console: Console) -> None:
    """All tables but the widest, which are in the file alone."""
    for section in sections(results):
        if len(section.headings) > NARROW:
            continue
        shown = Table(*section.headings, title=section.title, caption=section.note or None)
        for cells in section.rows:
            shown.add_row(*cells)
        console.print(shown)


def plots(results: Results, folder: Path) -> list[Path]:
    """False alarms, nominal and measured; the delay of each detector at each kind of change."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    made = []
    if results.quiet:
        figure, panel = pyplot.subplots(figsize=(6.5, 5))
        nominal = sorted({one.nominal for one in results.quiet})
        panel.plot(nominal, nominal, color="black", lw=1, label="as promised")
        for name in dict.fromkeys(one.stream for one in results.quiet):
            found = [one for one in results.quiet if one.stream == name and not one.labelled and one.rate.alarms]
            rates = [one.rate for one in found]
            # A little to the side of each other, to be told apart.
            shift = 1 + 0.04 * len(panel.containers)
            panel.errorbar(
                [one.nominal * shift for one in found],
                [rate.mean for rate in rates],
                yerr=[
                    # Two standard errors of the logarithm, as the axis is: counts of few are not symmetric.
                    [rate.mean * (1 - math.exp(-2 / math.sqrt(rate.alarms))) for rate in rates],
                    [rate.mean * (math.exp(2 / math.sqrt(rate.alarms)) - 1) for rate in rates],
                ],
                fmt="o",
                ms=4,
                capsize=2,
                label=name,
            )
        panel.set(xscale="log", yscale="log", xlabel="false_alarm_every (texts)", ylabel="measured (texts), ± 2 s.e.")
        panel.set_title("Texts to a false alarm on streams that stay the same")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
        made.append(_saved(figure, folder / "false-alarms.png"))
    if results.changes:
        names = list(dict.fromkeys(one.name for one in results.judged))
        figure, panel = pyplot.subplots(figsize=(11, 0.42 * len(names) + 1.5))
        for place, change in enumerate(results.changes):
            for row, name in enumerate(names):
                candidates = [one for one in results.judged if one.name == name]
                soonest = ours(results, change) if name == OURS else best(change, candidates)
                if soonest is not None:
                    panel.plot(change.median(soonest), len(names) - row, **_mark(place, name == OURS))
        for place, change in enumerate(results.changes):
            panel.plot([], [], label=change.kind, **_mark(place, star=False))
        panel.set_yticks(range(len(names), 0, -1), names)
        panel.set(xscale="log", xlabel="median texts from the change to the alarm")
        panel.set_title("Delay at the same measured rate of false alarms, best signal of each")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        made.append(_saved(figure, folder / "delays.png"))
    return made


def _mark(place: int, star: bool) -> dict[str, Any]:
    """One colour for each kind of change; hollow when there are no more colours."""
    colour = f"C{place % 10}"
    shape = {"marker": "*", "markersize": 11} if star else {"marker": "o", "markersize": 6}
    return {"linestyle": "", "color": colour, "markerfacecolor": colour if place < 10 else "none", **shape}


def _saved(figure: object, path: Path) -> Path:
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return path
