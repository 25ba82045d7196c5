"""A gate's decision as a person reads it: each test with its numbers, what was allowed, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Slices of one table, those that lost most first: there may be one for each of a market's tickers.
SHOWN = 20

Record = Mapping[str, Any]


def print_verdict(verdict: Record, console: Console) -> None:
    """`verdict` is what `daemon.gate.verdict.Verdict.as_dict` gave, by this release or one before."""
    settings = verdict.get("settings")
    left_out = verdict.get("selected")
    about = f"judged on {verdict['fresh']} fresh labels"
    if left_out:
        about += f"; {left_out} held-out labels left out of that, because something was chosen on them"
    console.print(about)
    console.print(_tests(verdict, settings or {}))
    console.print("p: what luck explains, of being so much better (Brier) or so much worse (all others).")
    old, fresh = ([one for one in verdict["slices"] if one.get("fresh", False) is so] for so in (False, True))
    if old:
        _print_slices("what it knew before", old, console)
    else:
        console.print("no slice of old examples was large enough to judge")
    if fresh:
        _print_slices("what is fresh, by where it comes from", fresh, console)
    if verdict["slices"]:
        if verdict.get("apart_from_mix"):
            console.print(
                "One of the two follows the label mix. Old slices and names were judged as if both expected the mix of "
                "the past."
            )
        if settings:
            console.print(
                f"A slice fell when it lost more than {settings['slice_tolerance']:g}, and luck explains that with "
                f"{settings['alpha']:g} or less, counting all slices."
            )


def print_audit(audit: Record, console: Console) -> None:
    """What `daemon.gate.audit.Audit.as_dict` gave."""
    console.print(f"audit   {audit['because']}", markup=False)
    if audit["slices"]:
        _print_slices("checked afterwards, on examples that nothing else uses", audit["slices"], console)


def _tests(verdict: Record, settings: Record) -> Table:
    alpha, tolerance = settings.get("alpha"), settings.get("slice_tolerance")
    table = _table("test", "p", "allowed", "result", title="tests")
    fresh, old = verdict["fresh"], verdict.get("old", 0)
    better = verdict["p_better"]
    table.add_row(
        "Brier, old and fresh" if old else "Brier, fresh",
        str(fresh + old),
        *_figures(verdict["parent_brier"], verdict["candidate_brier"]),
        f"{better:.4f}",
        "" if alpha is None else f"p < {alpha:g}",
        "" if alpha is None else _outcome(better < alpha),
    )
    fell = verdict["parent_accuracy"] - verdict["candidate_accuracy"]
    table.add_row(
        "accuracy, fresh",
        str(fresh),
        *_figures(verdict["parent_accuracy"], verdict["candidate_accuracy"]),
        "",
        "" if tolerance is None else f"-{tolerance:g}",
        "" if tolerance is None else _outcome(fell <= tolerance),
    )
    for name, key, allowed in (
        ("calibration error", "calibration", "calibration_tolerance"),
        ("moved by names", "invariance", "invariance_tolerance"),
    ):
        rise = f"+{settings[allowed]:g}" if allowed in settings else ""
        compared = verdict.get(key)
        if compared is None:
            table.add_row(name, "", "", "", "", "", rise, "–")
            continue
        figures = (str(compared["examples"]), *_figures(compared["parent"], compared["candidate"]))
        table.add_row(name, *figures, f"{compared['p_worse']:.4f}", rise, _outcome(compared["passed"]))
    slower, most = verdict["slowdown"], settings.get("max_slowdown")
    allowed_time = ("", "") if most is None else (f"{most:g} times", _outcome(slower <= most))
    table.add_row("scoring time", "", "1.00", f"{slower:.2f}", f"{slower - 1:+.2f}", "", *allowed_time)
    return table


def _print_slices(title: str, slices: Sequence[Record], console: Console) -> None:
    table = _table("slice", "p worse", "result", title=title)
    ordered = sorted(slices, key=lambda one: (one["passed"], one["candidate"] - one["parent"]))
    for one in ordered[:SHOWN]:
        outcome = "kept" if one["passed"] else "fell"
        outcome += " *" if one.get("unused") else ""
        figures = _figures(one["parent"], one["candidate"])
        table.add_row(Text(one["name"]), str(one["examples"]), *figures, f"{one['p_worse']:.3f}", outcome)
    console.print(table)
    for one in ordered:
        if one.get("unused"):
            console.print(
                f"* {one['name']}: {one['unused_change']:+.3f} on the {one['unused']} of them that promoted no model, "
                "and so are not in the champion's favour",
                markup=False,
            )
    if len(ordered) > SHOWN:
        console.print(f"and {len(ordered) - SHOWN} more that lost less; --json has all")


def _table(first: str, *last: str, title: str) -> Table:
    """Narrow enough for 80 columns: a name, examples, both models and the change between them, and `last`."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in ("n", "before", "after", "change", *last[:-1]):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last[-1], no_wrap=True)
    return table


def _figures(parent: float, candidate: float) -> tuple[str, str, str]:
    return f"{parent:.3f}", f"{candidate:.3f}", f"{candidate - parent:+.3f}"


def _outcome(passed: bool) -> str:
    return "passed" if passed else "failed"
