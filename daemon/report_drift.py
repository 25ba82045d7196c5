"""Drift on the page of a backtest: a strip for each detector, a mark and a card for each alarm.

Alarms are those of `report.json`. Detectors say more or less about theirs, and reports of before less still: what is
missing or null is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daemon.axes import Scale, TimeAxis, envelope, polyline

Alarm = Mapping[str, Any]

#: A detector's text indexes, and its value at each.
Statistic = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

#: Alarms whose cards are open, and those that are listed without a click.
OPEN, SHOWN = 2, 8

#: Width and height of a mark in a plot, in pixels, and rows of marks at most; more fall on each other.
MARK, MARK_ROWS = 16, 3

#: The letter and the style of each kind, and what it is.
KINDS = {
    "input": ("I", "input", "texts are unlike those before"),
    "label mix": ("L", "mix", "labels are as frequent as they were not"),
    "concept": ("C", "concept", "errors rose where texts had not changed"),
}
OTHER = ("D", "other", "a detector found a change")


def strips(statistics: Mapping[str, Statistic], alarms: Sequence[Alarm], axis: TimeAxis) -> list[dict[str, Any]]:
    """One for each detector that was on or has an alarm."""
    names = [_strip_of(alarm, statistics) for alarm in alarms]
    return [
        _strip(name, statistics.get(name), [alarm for alarm, of in zip(alarms, names, strict=True) if of == name], axis)
        for name in dict.fromkeys([*statistics, *names])
    ]


def _strip_of(alarm: Alarm, statistics: Mapping[str, Statistic]) -> str:
    """The detector whose strip shows an alarm: of the evidence on several signals, the alarm does not name them."""
    detector = str(alarm.get("detector") or "drift")
    wider = (name for name in statistics if name.startswith(f"{detector} on "))
    return detector if detector in statistics else next(wider, detector)


def _strip(name: str, statistic: Statistic | None, alarms: Iterable[Alarm], axis: TimeAxis) -> dict[str, Any]:
    """What one detector measured, on a scale of its own from 8 to 68 pixels, and its alarms."""
    index, value = statistic or (np.empty(0, np.int64), np.empty(0))
    index, value = index[np.isfinite(value)], value[np.isfinite(value)]
    shown = envelope(value)
    scale = Scale(value, 8, 68, logarithmic=True)
    return {
        "name": name,
        "logarithmic": scale.logarithmic,
        "ticks": scale.ticks() if len(value) else [],
        "line": polyline(axis.x(index[shown]), scale.y(value[shown])),
        "alarms": [
            {
                "x": float(axis.x(alarm["text_index"])),
                "fell": alarm.get("direction") == "fell",
                "style": _kind(alarm)[1],
                "told": alarm.get("because") or _title(alarm),
                "text_index": alarm["text_index"],
                "at": alarm.get("at"),
                "evidence": _evidence(alarm.get("evidence")) or "–",
            }
            for alarm in alarms
            if alarm.get("text_index") is not None
        ],
    }


def marks(alarms: Sequence[Alarm], axis: TimeAxis) -> dict[str, Any]:
    """A letter for each alarm in rows under a plot, moved down a row where they would touch, and what they mean."""
    drawn: list[dict[str, Any]] = []
    ends = [-np.inf] * MARK_ROWS
    placed = [pair for pair in enumerate(alarms, 1) if pair[1].get("text_index") is not None]
    for number, alarm in sorted(placed, key=lambda pair: pair[1]["text_index"]):
        x = float(axis.x(alarm["text_index"]))
        row = next((row for row, end in enumerate(ends) if end <= x - MARK), MARK_ROWS - 1)
        ends[row] = x
        letter, style, _ = _kind(alarm)
        told = f"{number}. {_title(alarm)}"
        drawn.append({"x": x, "row": row, "letter": letter, "style": style, "told": told, "at": alarm.get("at")})
    there = {_kind(alarm) for _, alarm in placed}
    legend = [(name, kind) for name, kind in [*KINDS.items(), ("drift", OTHER)] if kind in there]
    return {
        "marks": drawn,
        "rows": 1 + max((mark["row"] for mark in drawn), default=-1),
        "legend": [{"name": name, "letter": kind[0], "style": kind[1], "means": kind[2]} for name, kind in legend],
    }


def cards(alarms: Sequence[Alarm]) -> list[dict[str, Any]]:
    """What is known of each alarm, ready to be drawn: shares are from 0 to 1, and bars too."""
    return [_card(number, alarm) for number, alarm in enumerate(alarms, 1)]


def _card(number: int, alarm: Alarm) -> dict[str, Any]:
    letter, style, _ = _kind(alarm)
    explanation = alarm.get("explanation") or {}
    return {
        "open": number <= OPEN,
        "letter": letter,
        "style": style,
        "title": _title(alarm),
        "slice": alarm.get("slice"),
        "at": alarm.get("at"),
        "text_index": alarm.get("text_index"),
        "began_at": alarm.get("began_at"),
        "began_index": alarm.get("began_index"),
        "detector": alarm.get("detector"),
        "evidence": _evidence(alarm.get("evidence")),
        "because": alarm.get("because"),
        "action": alarm.get("action"),
        **_headings(alarm, explanation.get("share")),
        "signals": _bars(alarm.get("signals") or {}),
        "words": _words(explanation.get("words") or []),
        "clusters": [
            {"size": None, "words": [], "examples": []} | {name: value for name, value in cluster.items() if value}
            for cluster in explanation.get("clusters") or []
        ],
    }


def _headings(alarm: Alarm, share: float | None) -> dict[str, str]:
    """Of the words and of the texts: a concept's are those that were judged wrong, whether or not they are new."""
    if alarm.get("kind") == "concept":
        return {"words_are": "right before → wrong since", "texts_are": "Texts that it got wrong"}
    return {
        "words_are": "before → since",
        "texts_are": "The new texts" if share is None else f"The new texts, at least {share:.0%} of all",
    }


def _title(alarm: Alarm) -> str:
    return f"{alarm['kind']} drift" if alarm.get("kind") else str(alarm.get("detector") or "drift")


def _bars(signals: Mapping[str, float]) -> list[dict[str, Any]]:
    """Those that would not be rounded to nothing, the largest first."""
    ranked = sorted(signals.items(), key=lambda pair: -pair[1])
    return [{"name": name, "share": share} for name, share in ranked if share >= 0.005]


def _words(words: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With `from` and `to`, on a scale on which the highest rate of all is 1."""
    rates = [(float(word.get("before") or 0), float(word.get("after") or 0)) for word in words]
    most = max((max(pair) for pair in rates), default=0) or 1
    return [
        {"text": word.get("text"), "before": before, "after": after, "from": before / most, "to": after / most}
        for word, (before, after) in zip(words, rates, strict=True)
    ]


def _evidence(value: object) -> str:
    """As many digits as tell something."""
    if not isinstance(value, float | int):
        return str(value or "")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _kind(alarm: Alarm) -> tuple[str, str, str]:
    return KINDS.get(alarm.get("kind") or "", OTHER)
