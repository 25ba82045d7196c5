"""The page of a backtest: its report and the series behind it, as one HTML file that loads nothing else.

Everything is laid out here, in pixels, and drawn as inline SVG by `templates/report.html.j2`, which escapes every
value: texts, keys and sources come from strangers.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import numpy.typing as npt
import yaml

from daemon.axes import LEFT, RIGHT, WIDTH, Scale, TimeAxis, apart, between, evenly, polyline, rolling_share
from daemon.records import Alert, utc
from daemon.report_drift import SHOWN, Statistic, cards, marks, strips

Report = Mapping[str, Any]

#: More stretches of one source than this are a mixture, not a sequence, and shading them would be noise.
MAX_STRETCHES = 30

#: Keys with a row of their own, and alerts and drift alarms listed; report.json has them all.
MAX_KEYS, MAX_LISTED = 20, 100

#: Width of a small letter or digit in the plots' type, in pixels: 11-pixel sans-serifs average a little less.
LETTER = 6.2


@dataclass(frozen=True, kw_only=True)
class Series:
    """What the plots need beyond the report: the labelled texts `[n]`, and what the drift detectors measured.

    `at` is when each labelled text was written (seconds since the epoch) and `text_index` its place in the stream.
    `statistics` holds, by detector, text indexes and the detector's value at each.

    Raises:
        ValueError: arrays that belong together differ in length.
    """

    at: npt.NDArray[np.float64]
    text_index: npt.NDArray[np.int64]
    live_correct: npt.NDArray[np.bool_]
    static_correct: npt.NDArray[np.bool_]
    source: Sequence[str | None]
    statistics: Mapping[str, Statistic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("at", "text_index", "live_correct", "static_correct", "source")
        lengths = {name: len(getattr(self, name)) for name in names}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"a series has one element a labelled text in each array; the lengths are {lengths}")
        for name, (index, value) in self.statistics.items():
            if len(index) != len(value):
                raise ValueError(f"statistics of {name!r}: {len(index)} text indexes, {len(value)} values")

    def in_stream_order(self) -> "Series":
        """The same, ordered by place in the stream: labels come late and out of order."""
        order = np.argsort(self.text_index, kind="stable")
        return replace(
            self,
            at=self.at[order],
            text_index=self.text_index[order],
            live_correct=self.live_correct[order],
            static_correct=self.static_correct[order],
            source=[self.source[i] for i in order],
        )


class Reign(NamedTuple):
    """A version that went live, and when; None is before the stream began."""

    at: float | None
    version: str
    how: str


def write_page(report: Report, series: Series, path: Path) -> None:
    """Write the page of a backtest to `path`, replacing what is there. The same report gives the same bytes.

    `report` is what `report.json` holds; what is missing or null there is left out of the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("daemon"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"date": date, "duration": duration, "figure": figure}
    html = environment.get_template("report.html.j2").render(layout(report, series.in_stream_order()))
    path.write_text(html, encoding="utf-8")


def layout(report: Report, series: Series) -> dict[str, Any]:
    """All that the template draws; `series` is in stream order."""
    models = report.get("models") or []
    alarms = (report.get("drift") or {}).get("alarms") or []
    alerts = episodes(report.get("alerts") or [])
    axis = time_axis(report, series, alerts)
    live, static = ((report.get(part) or {}).get("macro_f1") for part in ("prequential", "static"))
    return {
        "width": WIDTH,
        "left": LEFT,
        "right": RIGHT,
        "report": report,
        "verdict": verdict(live, static),
        "gain": difference(static, live),
        "ticks": axis.ticks(),
        "bands": bands(series, axis),
        "accuracy": accuracy_plot(series, axis),
        "alarms": alarms,
        "drift": strips(series.statistics, alarms, axis),
        "marks": marks(alarms, axis),
        "cards": cards(alarms[:MAX_LISTED]),
        "shown": SHOWN,
        "models": models,
        "promotions": sum(bool(model.get("promoted")) for model in models),
        # One that was judged again is there each time.
        "candidates": len({model.get("version") for model in models}),
        "reigns": reign_bars(reigns(report), axis),
        "rejected": [
            {"x": axis.x_at(at), "version": model.get("version")}
            for model in models
            if not model.get("promoted") and (at := moment(model.get("at"))) is not None
        ],
        "alerts": sorted(alerts, key=lambda alert: alert.starts_at),
        "max_listed": MAX_LISTED,
        "spikes": spike_rows(alerts, axis),
        "holdout": holdout_rows(report),
        "hindsight": hindsight_rows(report, axis),
        "settings": yaml.safe_dump(dict(report.get("settings") or {}), sort_keys=False, allow_unicode=True),
    }


def verdict(live: float | None, static: float | None) -> tuple[str, str]:
    """One sentence for the head of the page, and its tone: `better`, `worse` or `same`."""
    if live is None:
        return "No label found its text, so nothing can be said about quality.", "same"
    if static is None:
        return f"Live macro-F1 was {live:.2f}; there is no static model to compare it with.", "same"
    if round(live, 2) == round(static, 2):
        return f"Learning from the stream made no difference: macro-F1 stayed at {live:.2f}.", "same"
    word, tone = ("raised", "better") if live > static else ("lowered", "worse")
    return f"Learning from the stream {word} macro-F1 from {static:.2f} to {live:.2f}.", tone


def time_axis(report: Report, series: Series, alerts: Iterable[Alert]) -> TimeAxis:
    """Labelled texts say when the stream was where; without any, time is taken to have passed evenly."""
    texts = max(int(report.get("texts") or 0), *(int(index) + 1 for index in series.text_index[-1:]), 1)
    if len(series.at):
        return TimeAxis(texts, series.text_index, series.at)
    times = [end for alert in alerts for end in (alert.starts_at, alert.ends_at)]
    times += [row.get("at") for row in (*(report.get("models") or []), *(report.get("drift") or {}).get("alarms", []))]
    known = [at for at in map(moment, times) if at is not None]
    return TimeAxis(texts, [0, texts], [min(known, default=0.0), max(known, default=0.0)])


def bands(series: Series, axis: TimeAxis) -> list[dict[str, Any]]:
    """The stretches of the stream that came from one source each; none if the sources are mixed."""
    rows = zip(series.source, series.text_index, strict=True)
    runs = [(source, int(next(group)[1])) for source, group in groupby(rows, lambda row: row[0])]
    if not 1 < len(runs) <= MAX_STRETCHES:
        return []
    edges = [LEFT, *(float(axis.x(start)) for _, start in runs[1:]), RIGHT]
    return [
        {"x": x, "width": end - x, "name": source or "no source", "label": fitting(source or "", end - x - 6)}
        for (source, _), (x, end) in zip(runs, pairwise(edges), strict=True)
    ]


def accuracy_plot(series: Series, axis: TimeAxis) -> dict[str, Any] | None:
    """Sliding accuracy of the live and the static model, in a plot from 34 to 274 pixels; None without labels."""
    labelled = len(series.at)
    if not labelled:
        return None
    # Wide enough that chance moves a point by a few percent, narrow enough that a shift is a step and no ramp.
    window = int(np.clip(labelled // 20, 20, 250))
    # While the window is only beginning to fill, its share is noise.
    shown = evenly(min(window // 2, labelled - 1), labelled)
    live, static = (rolling_share(right, window)[shown] for right in (series.live_correct, series.static_correct))
    scale = Scale(np.concatenate([live, static]), 34, 274)
    x, upper, lower = axis.x(series.text_index[shown]), scale.y(live), scale.y(static)
    live_name, static_name = apart((float(upper[-1]), float(lower[-1])), 16)
    return {
        "window": min(window, labelled),
        "ticks": scale.ticks(),
        "live": polyline(x, upper),
        "static": polyline(x, lower),
        # Pixels grow downwards: the smaller y is the better model.
        "gained": between(x, np.minimum(upper, lower), lower),
        "lost": between(x, np.maximum(upper, lower), lower),
        "live_end": {"y": live_name, "value": float(live[-1])},
        "static_end": {"y": static_name, "value": float(static[-1])},
    }


def reigns(report: Report) -> list[Reign]:
    """Which version went live when: from the recorded decisions, which know of rollbacks, else from the versions."""
    found = []
    for decision in report.get("decisions") or []:
        if decision.get("kind") == "promoted":
            found.append(Reign(moment(decision.get("at")), str(decision.get("version")), "promoted"))
        elif decision.get("kind") == "rolled back":
            found.append(Reign(moment(decision.get("at")), str(decision.get("to")), "brought back"))
    if found:
        return [found[0]._replace(at=None), *found[1:]]
    promoted = [model for model in report.get("models") or [] if model.get("promoted")]
    first = [Reign(None, str(model["parent"]), "the base") for model in promoted[:1] if model.get("parent")]
    return first + [Reign(moment(model.get("at")), str(model.get("version")), "promoted") for model in promoted]


def reign_bars(found: Sequence[Reign], axis: TimeAxis) -> list[dict[str, Any]]:
    """Each reign from its start to the next one's; `mark` is its name above a plot, where the last one leaves room."""
    edges = [LEFT if reign.at is None else axis.x_at(reign.at) for reign in found] + [RIGHT]
    bars: list[dict[str, Any]] = []
    free = LEFT
    for reign, (x, end) in zip(found, pairwise(edges), strict=True):
        mark = fitting(reign.version, 60) if reign.at is not None and x >= free else ""
        free = x + len(mark) * LETTER + 8 if mark else free
        bars.append(
            {"x": x, "width": end - x, "label": fitting(reign.version, end - x - 6), "mark": mark, **reign._asdict()}
        )
    return bars


def episodes(rows: Iterable[Report]) -> list[Alert]:
    """Alerts as episodes: the `resolved` record of a `firing` one tells when it ended; its spike was the first's."""
    found: dict[tuple[str, str, datetime], Alert] = {}
    for alert in map(Alert.model_validate, rows):
        start = (alert.name, alert.key, alert.starts_at)
        fired = found.get(start, alert)
        found[start] = fired.model_copy(update={"status": alert.status, "ends_at": alert.ends_at})
    return list(found.values())


def spike_rows(alerts: Iterable[Alert], axis: TimeAxis) -> dict[str, Any]:
    """One row a key, the most often alerted first, with a bar an episode."""
    by_key: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for alert in alerts:
        x = axis.x_at(alert.starts_at.timestamp())
        end = axis.x_at(alert.ends_at.timestamp()) if alert.ends_at else RIGHT
        # A short episode on a long stream is still to be seen.
        by_key[alert.key].append({"x": min(x, RIGHT - 3), "width": max(end - x, 3), "alert": alert})
    keys = sorted(by_key, key=lambda key: (-len(by_key[key]), key))
    rows = [{"key": key, "label": fitting(key, LEFT - 14), "bars": by_key[key]} for key in keys[:MAX_KEYS]]
    return {"rows": rows, "left_out": len(keys) - len(rows)}


def holdout_rows(report: Report) -> list[dict[str, Any]]:
    """The base and the final model on each domain's holdout."""
    holdout = report.get("holdout") or {}
    base, final = holdout.get("base") or {}, holdout.get("final") or {}
    rows = []
    for domain in base:
        if domain in final and None not in (*base[domain].values(), *final[domain].values()):
            gains = {name: difference(base[domain][name], final[domain][name]) for name in ("accuracy", "macro_f1")}
            worse = final[domain]["macro_f1"] < base[domain]["macro_f1"]
            rows.append({"domain": domain, "base": base[domain], "final": final[domain], "gain": gains, "worse": worse})
    return rows


def hindsight_rows(report: Report, axis: TimeAxis) -> list[dict[str, Any]]:
    """One row a source: what each version that was live knew of it, as cells along the stream, and the figures."""
    past = report.get("hindsight")
    if not past:
        return []
    known = {one["version"]: one["known"] for one in past["versions"]}
    starts = [float(axis.x(lead["since"])) for lead in past["leads"]]
    spans = list(pairwise([*starts, RIGHT]))
    rows = []
    for source, figures in past["sources"].items():
        values = [known[lead["version"]][source] for lead in past["leads"]]
        low, high = min(values), max(values)
        cells = [
            {
                "x": x,
                "width": end - x,
                # The best of the row is full, the worst is faint: levels differ by source, and the course is the point.
                "shade": 0.15 + 0.75 * ((value - low) / (high - low) if high > low else 1.0),
                "version": lead["version"],
                "value": value,
            }
            for (x, end), lead, value in zip(spans, past["leads"], values, strict=True)
        ]
        rows.append({"source": source, "label": fitting(source, LEFT - 14), "cells": cells, **figures})
    return rows


def moment(value: str | float | datetime | None) -> float | None:
    """An ISO 8601 time, a datetime or seconds since the epoch, as seconds since the epoch."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else value


def date(value: str | float | datetime | None) -> str:
    at = moment(value)
    return "" if at is None else utc(at).strftime("%Y-%m-%d %H:%M")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 9 else f"{minutes} min {rest} s"


def figure(value: float | None) -> str:
    """A count with its thousands apart, or a share to three decimals."""
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def difference(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{after - before:+.3f}".replace("-", "−")


def fitting(text: str, width: float) -> str:
    """`text`, cut so that it fits `width` pixels; empty where not even a stump of it would."""
    room = int(width / LETTER)
    return text if len(text) <= room else text[: room - 1] + "…" if room >= 4 else ""
