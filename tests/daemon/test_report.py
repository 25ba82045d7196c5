import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from daemon.axes import LEFT, POINTS, RIGHT, Scale, TimeAxis, apart, envelope, evenly, rolling_share, steps
from daemon.config import Config
from daemon.records import utc
from daemon.report import Series, duration, fitting, layout, reign_bars, reigns, write_page
from daemon.report_drift import MARK, MARK_ROWS, OPEN, SHOWN

START = utc(1_767_571_200).timestamp()
HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.org/x onerror=alert(1)></svg>&{{ 7 * 7 }}"

#: Elements that have no end tag.
VOID = {"meta", "br", "img", "input", "link"}


class Elements(HTMLParser):
    """Every element and attribute of a page; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def close(self) -> None:
        super().close()
        assert not self._open


def iso(text: int) -> str:
    return utc(START + 60 * text).isoformat()


def a_series(texts: int = 400, sources: Sequence[str | None] = ("home", "abroad")) -> Series:
    rng = np.random.default_rng(0)
    index = np.arange(texts)
    return Series(
        at=START + 60 * index.astype(np.float64),
        text_index=index,
        live_correct=rng.random(texts) < 0.8,
        static_correct=rng.random(texts) < 0.5,
        source=[sources[i * len(sources) // texts] for i in range(texts)],
        statistics={"adwin on error": (index, rng.random(texts))},
    )


def an_alert(**changes: Any) -> dict[str, Any]:
    fired = {
        "status": "firing",
        "name": "negative-spike",
        "key": "ACME",
        "severity": "critical",
        "value": 0.7,
        "baseline": 0.2,
        "starts_at": iso(100),
        "examples": ["ACME under investigation"],
        "model": "v1",
    }
    return fired | changes


def an_alarm(**changes: Any) -> dict[str, Any]:
    told = {
        "at": iso(210),
        "text_index": 210,
        "detector": "conformal",
        "evidence": 10240.3,
        "direction": "rose",
        "kind": "input",
        "slice": "source abroad",
        "began_at": iso(180),
        "began_index": 180,
        "signals": {"novelty": 0.75, "wording": 0.249, "length": 0.001},
        "because": "input drift: all rose in source abroad (conformal)",
        "explanation": {
            "share": 0.31,
            "words": [
                {"text": "gold futures", "before": 0.02, "after": 0.31},
                {"text": "mcx", "before": 0.0, "after": 0.1},
            ],
            "clusters": [
                {"size": 0.7, "novelty": 0.98, "words": ["mcx"], "examples": ["gold slips on mcx", "silver shines"]},
                {"size": 0.3, "novelty": 0.91, "examples": ["crude oil steady"]},
            ],
        },
        "action": "the reference window is made anew",
    }
    return told | changes


FIGURES = {"base": 0.4, "best": 0.6, "final": 0.55, "forgot": 0.05, "backward": -0.02, "forward": 0.1}


def a_report(**changes: Any) -> dict[str, Any]:
    model = {"parent": "v1", "trigger": "drift", "method": "replay", "examples": 1234, "train_seconds": 75.0}
    report = {
        "texts": 400,
        "labels": 400,
        "scored": 400,
        "dead_letters": 2,
        "prequential": {"accuracy": 0.81, "macro_f1": 0.684},
        "static": {"accuracy": 0.52, "macro_f1": 0.431},
        "drift": {"alarms": [{"at": iso(210), "text_index": 210, "detector": "adwin on error", "evidence": 0.31}]},
        "models": [
            {**model, "version": "v2", "promoted": False, "reason": "no better on fresh examples", "at": iso(150)},
            {**model, "version": "v3", "promoted": True, "reason": "better on 80 fresh examples", "at": iso(250)},
        ],
        "holdout": {
            "base": {"home": {"accuracy": 0.8, "macro_f1": 0.7}, "abroad": {"accuracy": 0.5, "macro_f1": 0.4}},
            "final": {"home": {"accuracy": 0.8, "macro_f1": 0.69}, "abroad": {"accuracy": 0.7, "macro_f1": 0.65}},
        },
        "hindsight": {
            "forgot": 0.071,
            "backward": -0.02,
            "forward": 0.1,
            "sources": {"home": {"texts": 31, **FIGURES}, "abroad": {"texts": 30, **FIGURES}},
            "versions": [
                {"version": "v1", "mean": 0.5, "worst": "home", "known": {"home": 0.4, "abroad": 0.6}},
                {"version": "v3", "mean": 0.65, "worst": "home", "known": {"home": 0.6, "abroad": 0.7}},
            ],
            "leads": [{"since": 0, "version": "v1"}, {"since": 250, "version": "v3"}],
        },
        "alerts": [an_alert(), an_alert(status="resolved", ends_at=iso(130))],
        "seconds": {"scoring": 3.0, "training": 75.0, "total": 80.4},
        "settings": Config().model_dump(mode="json"),
    }
    return report | changes


def written(report: dict[str, Any], series: Series, directory: Path) -> tuple[str, Elements]:
    path = directory / "report.html"
    write_page(report, series, path)
    elements = Elements()
    elements.feed(html := path.read_text(encoding="utf-8"))
    elements.close()
    return html, elements


def test_a_newcomer_reads_the_outcome_in_the_first_line(tmp_path: Path) -> None:
    html, elements = written(a_report(), a_series(), tmp_path)
    assert "Learning from the stream raised macro-F1 from 0.43 to 0.68." in elements.text
    for shown in ("0.684", "0.431", "+0.253", "accuracy 0.810", "of 2 candidates", "1 min 20 s", "v3", "better on 80"):
        assert shown in html


def test_what_each_version_knew_is_a_row_a_source_and_a_cell_a_version(tmp_path: Path) -> None:
    html, _ = written(a_report(), a_series(), tmp_path)
    assert "On average 0.071 of macro-F1 was forgotten, backward transfer was -0.020" in html
    cells = [f"{version} on {source}" for source in ("home", "abroad") for version in ("v1", "v3")]
    assert [html.count(f"<title>{cell}") for cell in cells] == [1, 1, 1, 1]
    assert "What each version knew" not in written(a_report(hindsight=None), a_series(), tmp_path)[0]


@pytest.mark.parametrize(
    ("live", "static", "said"),
    [
        (0.5, 0.61, "lowered macro-F1 from 0.61 to 0.50"),
        (0.612, 0.609, "made no difference: macro-F1 stayed at 0.61"),
        (None, None, "nothing can be said about quality"),
        (0.6, None, "no static model to compare"),
    ],
)
def test_the_verdict_does_not_flatter(live: float | None, static: float | None, said: str, tmp_path: Path) -> None:
    report = a_report(prequential={"accuracy": live, "macro_f1": live}, static={"accuracy": static, "macro_f1": static})
    html, _ = written(report, a_series(), tmp_path)
    assert said in html


def test_a_version_that_went_on_from_one_which_was_turned_away_says_so(tmp_path: Path) -> None:
    report = a_report()
    report["models"][1]["challenger"] = "v2"
    html, _ = written(report, a_series(), tmp_path)
    assert html.count("v1, by way of v2") == 1


def test_what_strangers_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    report = a_report(
        alerts=[an_alert(key=HOSTILE, name=HOSTILE, model=HOSTILE, examples=[HOSTILE])],
        models=[
            {
                "version": HOSTILE,
                "parent": HOSTILE,
                "challenger": HOSTILE,
                "trigger": HOSTILE,
                "because": HOSTILE,
                "method": HOSTILE,
                "examples": 1,
                "train_seconds": 1.0,
                "promoted": promoted,
                "reason": HOSTILE,
                "at": iso(10),
            }
            for promoted in (True, False)
        ],
        drift={
            "alarms": [
                an_alarm(
                    text_index=9,
                    detector=HOSTILE,
                    kind=kind,
                    evidence=HOSTILE,
                    because=HOSTILE,
                    action=HOSTILE,
                    slice=HOSTILE,
                    signals={HOSTILE: 1.0},
                    explanation={
                        "share": 0.5,
                        "words": [{"text": HOSTILE, "before": 0.1, "after": 0.9}],
                        "clusters": [{"size": 1.0, "words": [HOSTILE], "examples": [HOSTILE, HOSTILE]}],
                    },
                )
                for kind in ("concept", HOSTILE)
            ]
        },
        holdout={which: {HOSTILE: {"accuracy": 0.5, "macro_f1": 0.5}} for which in ("base", "final")},
        settings={HOSTILE: HOSTILE},
    )
    series = replace(a_series(sources=(HOSTILE, "home")), statistics={HOSTILE: (np.arange(3), np.arange(3.0))})
    _, elements = written(report, series, tmp_path)
    _, harmless = written(a_report(drift={"alarms": [an_alarm()]}), a_series(), tmp_path)
    assert elements.tags <= harmless.tags
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert any(HOSTILE in text for text in elements.text)


def test_the_page_loads_and_runs_nothing(tmp_path: Path) -> None:
    html, elements = written(a_report(), a_series(), tmp_path)
    assert not elements.tags & {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base"}
    assert not {name for name, _ in elements.attributes} & {"src", "href", "xlink:href", "srcset", "action"}
    assert "url(" not in html
    assert "@import" not in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in elements.attributes


def test_the_same_report_gives_the_same_page(tmp_path: Path) -> None:
    first, _ = written(a_report(), a_series(), tmp_path)
    second, _ = written(a_report(), a_series(), tmp_path)
    assert first == second


def test_a_run_in_which_nothing_happened_has_a_page(tmp_path: Path) -> None:
    nothing = Series(
        at=np.empty(0),
        text_index=np.empty(0, np.int64),
        live_correct=np.empty(0, np.bool_),
        static_correct=np.empty(0, np.bool_),
        source=[],
    )
    _, elements = written({}, nothing, tmp_path)
    page = " ".join(elements.text)
    for said in ("accuracy is not known", "No drift detector", "No candidate was trained", "No key had a spike"):
        assert said in page


def test_alerts_without_any_label_still_have_their_place(tmp_path: Path) -> None:
    unlabelled = replace(
        a_series(1), at=np.empty(0), text_index=np.empty(0, np.int64), live_correct=np.empty(0, np.bool_),
        static_correct=np.empty(0, np.bool_), source=[],
    )  # fmt: skip
    alerts = [an_alert(), an_alert(starts_at=iso(300))]
    rows = layout(a_report(alerts=alerts, models=[], drift={}), unlabelled)["spikes"]["rows"]
    assert [bar["x"] for bar in rows[0]["bars"]] == [LEFT, RIGHT - 3]


def test_a_long_stream_makes_a_small_page(tmp_path: Path) -> None:
    series = a_series(60_000)
    html, _ = written(a_report(texts=60_000), series, tmp_path)
    assert len(html) < 200_000


def test_an_alert_and_its_end_are_one_bar() -> None:
    alerts = [an_alert(), an_alert(key="OTHER"), an_alert(status="resolved", ends_at=iso(130), value=0.1, examples=[])]
    drawn = layout(a_report(alerts=alerts), a_series())
    (acme,) = (row for row in drawn["spikes"]["rows"] if row["key"] == "ACME")
    (bar,) = acme["bars"]
    axis = TimeAxis(400, a_series().text_index, a_series().at)
    assert bar["x"] + bar["width"] == pytest.approx(axis.x_at(START + 60 * 130))
    assert (bar["alert"].status, bar["alert"].value) == ("resolved", 0.7)


def test_labels_that_came_out_of_order_change_nothing(tmp_path: Path) -> None:
    series = a_series()
    mixed = np.random.default_rng(1).permutation(len(series.at))
    shuffled = replace(
        series,
        at=series.at[mixed],
        text_index=series.text_index[mixed],
        live_correct=series.live_correct[mixed],
        static_correct=series.static_correct[mixed],
        source=[series.source[i] for i in mixed],
    )
    assert written(a_report(), shuffled, tmp_path)[0] == written(a_report(), series, tmp_path)[0]


def test_sources_one_after_another_are_shaded_and_mixed_ones_are_not() -> None:
    in_turn = layout(a_report(), a_series())["bands"]
    assert [band["name"] for band in in_turn] == ["home", "abroad"]
    assert in_turn[0]["x"] == LEFT
    assert in_turn[-1]["x"] + in_turn[-1]["width"] == RIGHT
    mixed = replace(a_series(), source=["home", "abroad"] * 200)
    assert layout(a_report(), mixed)["bands"] == []


def test_reigns_begin_with_the_base_and_know_of_rollbacks() -> None:
    assert [reign.version for reign in reigns(a_report())] == ["v1", "v3"]
    decisions = [
        {"kind": "promoted", "at": START, "version": "v1", "before": None},
        {"kind": "trigger fired", "at": START + 10, "trigger": "drift"},
        {"kind": "promoted", "at": START + 6000, "version": "v3", "before": "v1"},
        {"kind": "rolled back", "at": START + 12000, "version": "v3", "to": "v1"},
    ]
    found = reigns(a_report(decisions=decisions))
    assert [(reign.version, reign.how) for reign in found] == [
        ("v1", "promoted"),
        ("v3", "promoted"),
        ("v1", "brought back"),
    ]
    bars = reign_bars(found, TimeAxis(400, a_series().text_index, a_series().at))
    assert sum(bar["width"] for bar in bars) == pytest.approx(RIGHT - LEFT)
    assert [bar["mark"] for bar in bars] == ["", "v3", "v1"]


def test_a_run_that_did_not_end_is_not_called_rejected(tmp_path: Path) -> None:
    running = {"version": "v4", "promoted": False, "reason": None, "at": iso(390), "method": None, "examples": None}
    _, elements = written(a_report(models=[running]), a_series(), tmp_path)
    assert "unfinished" in elements.text
    assert "rejected" not in elements.text


def test_a_statistic_that_is_not_a_number_leaves_a_gap_only() -> None:
    values = np.array([1.0, math.nan, math.inf, 2.0])
    series = replace(a_series(), statistics={"adwin on error": (np.arange(4), values)})
    (strip,) = layout(a_report(), series)["drift"]
    assert len(strip["line"].split()) == 2


def test_an_alarm_tells_what_moved_where_in_which_words_and_what_was_done(tmp_path: Path) -> None:
    report = a_report(drift={"alarms": [an_alarm()]})
    _, elements = written(report, a_series(), tmp_path)
    page = " ".join(elements.text)
    for said in (
        "input drift", "in source abroad", "input drift: all rose in source abroad (conformal)", "novelty", "75%",
        "gold futures", "2% → 31%", "at least 31% of all", "70%: mcx", "silver shines", "crude oil steady",
        "the reference window is made anew", "at text 210 by conformal, evidence 10,240.",
    ):  # fmt: skip
        assert said in page
    assert "Began 2026-01-05 03:00 at text 180, found 2026-01-05 03:30" in page
    # A signal that has nearly nothing of the evidence is not worth a bar.
    (card,) = layout(report, a_series())["cards"]
    assert [bar["name"] for bar in card["signals"]] == ["novelty", "wording"]


def test_of_many_alarms_few_are_open_and_most_are_behind_a_click(tmp_path: Path) -> None:
    alarms = [an_alarm(text_index=10 * at, at=iso(10 * at)) for at in range(30)]
    html, elements = written(a_report(drift={"alarms": alarms}), a_series(), tmp_path)
    assert html.count('<details class="card" open>') == OPEN
    assert html.count('<details class="card"') == 30
    assert f"{30 - SHOWN} more alarms" in elements.text
    assert "more alarms" not in written(a_report(drift={"alarms": alarms[:SHOWN]}), a_series(), tmp_path)[0]


@pytest.mark.parametrize("missing", ["", *an_alarm()])
def test_whatever_an_alarm_lacks_is_left_out(missing: str, tmp_path: Path) -> None:
    whole = an_alarm()
    alarms = [
        {name: value for name, value in whole.items() if name != missing},
        whole | {missing: None},
        # As a report of before had them.
        {"at": iso(20), "text_index": 20, "detector": "adwin on error", "evidence": 1.2},
    ]
    _, elements = written(a_report(drift={"alarms": alarms}), a_series(), tmp_path)
    page = " ".join(elements.text)
    assert "None" not in page
    assert "adwin on error" in page


def test_a_concept_is_told_by_the_texts_that_were_wrong(tmp_path: Path) -> None:
    _, elements = written(a_report(drift={"alarms": [an_alarm(kind="concept")]}), a_series(), tmp_path)
    page = " ".join(elements.text)
    assert "Texts that it got wrong" in page
    assert "The new texts" not in page


@pytest.mark.parametrize("explanation", [{}, {"share": None, "words": None, "clusters": None}, {"clusters": [{}]}])
def test_an_explanation_may_say_nothing(explanation: dict[str, Any], tmp_path: Path) -> None:
    _, elements = written(a_report(drift={"alarms": [an_alarm(explanation=explanation)]}), a_series(), tmp_path)
    assert "Typical words" not in " ".join(elements.text)


def test_alarms_are_marked_under_the_accuracy_by_kind_and_explained() -> None:
    kinds = ["input", "concept", None, "input"]
    alarms = [an_alarm(kind=kind, text_index=at) for kind, at in zip(kinds, (100, 101, 300, 301), strict=True)]
    drawn = layout(a_report(drift={"alarms": alarms}), a_series())["marks"]
    assert [mark["letter"] for mark in drawn["marks"]] == ["I", "C", "D", "I"]
    assert [kind["letter"] for kind in drawn["legend"]] == ["I", "C", "D"]
    # Those that would touch are in rows of their own.
    assert [mark["row"] for mark in drawn["marks"]] == [0, 1, 0, 1]


@given(st.lists(st.integers(0, 400), max_size=60))
def test_marks_do_not_touch_while_there_are_rows(places: list[int]) -> None:
    drawn = layout(a_report(drift={"alarms": [an_alarm(text_index=at) for at in places]}), a_series())["marks"]
    assert drawn["rows"] <= MARK_ROWS
    for row in range(MARK_ROWS - 1):
        across = [mark["x"] for mark in drawn["marks"] if mark["row"] == row]
        assert all(later - x >= MARK for x, later in pairwise(across))


def test_an_alarm_is_on_the_strip_of_the_detector_that_gave_it() -> None:
    index = np.arange(3)
    series = replace(
        a_series(), statistics={"conformal on all": (index, np.ones(3)), "adwin on error": (index, np.ones(3))}
    )
    alarms = [an_alarm(), an_alarm(detector="adwin on error", kind=None), an_alarm(detector="kswin on novelty")]
    drawn = layout(a_report(drift={"alarms": alarms}), series)["drift"]
    assert {strip["name"]: len(strip["alarms"]) for strip in drawn} == {
        "conformal on all": 1,
        "adwin on error": 1,
        "kswin on novelty": 1,
    }


def test_a_domain_that_could_not_be_judged_is_left_out() -> None:
    holdout = {
        "base": {"home": {"accuracy": 0.8, "macro_f1": 0.7}, "empty": {"accuracy": None, "macro_f1": None}},
        "final": {"home": {"accuracy": 0.9, "macro_f1": 0.8}, "empty": {"accuracy": None, "macro_f1": None}},
    }
    assert [row["domain"] for row in layout(a_report(holdout=holdout), a_series())["holdout"]] == ["home"]


def test_a_series_with_arrays_of_different_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="'source': 3"):
        replace(a_series(), source=["home"] * 3)
    with pytest.raises(ValueError, match="'adwin on error': 2 text indexes, 1 values"):
        replace(a_series(), statistics={"adwin on error": (np.arange(2), np.arange(1.0))})


@given(hnp.arrays(np.bool_, st.integers(0, 50)), st.integers(1, 60))
def test_a_rolling_share_is_the_mean_of_its_window(right: Any, window: int) -> None:
    expected = [right[max(0, end - window) : end].mean() for end in range(1, len(right) + 1)]
    assert rolling_share(right, window) == pytest.approx(expected)


@given(hnp.arrays(np.float64, st.integers(1, 3 * POINTS), elements=st.floats(-1e9, 1e9)))
def test_thinning_keeps_the_peaks(values: Any) -> None:
    kept = envelope(values)
    assert len(kept) <= POINTS
    assert (np.diff(kept) > 0).all()
    assert (values[kept].min(), values[kept].max()) == (values.min(), values.max())


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_even_thinning_keeps_the_ends(start: int, length: int) -> None:
    kept = evenly(start, start + length)
    assert (kept[0], kept[-1]) == (start, start + length - 1)
    assert len(kept) <= POINTS
    assert (np.diff(kept) > 0).all()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_steps_are_even_and_cover_the_range(low: float, width: float, most: int) -> None:
    places = steps(low, low + width, most)
    assert places[0] <= low + 1e-6 * width
    assert places[-1] >= low + width - 1e-6 * width
    assert 2 <= len(places) <= most + 3
    assert np.diff(places) == pytest.approx(np.diff(places)[0], rel=1e-3)


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(-1e12, 1e12)), st.booleans())
def test_every_value_is_drawn_inside_its_plot(values: Any, logarithmic: bool) -> None:
    scale = Scale(values, 10, 90, logarithmic=logarithmic)
    drawn = scale.y(values)
    assert ((drawn >= 10 - 1e-3) & (drawn <= 90 + 1e-3)).all()
    assert [tick.at for tick in scale.ticks()] == sorted((tick.at for tick in scale.ticks()), reverse=True)


def test_evidence_over_many_magnitudes_is_drawn_logarithmically() -> None:
    evidence = np.logspace(0, 8, 9, dtype=np.float64)
    assert Scale(evidence, 0, 80, logarithmic=True).logarithmic
    assert not Scale(evidence, 0, 80).logarithmic
    assert not Scale(evidence - 1, 0, 80, logarithmic=True).logarithmic


@given(hnp.arrays(np.float64, 30, elements=st.floats(0, 1e9)), st.floats(-1e9, 2e9))
def test_time_never_runs_backwards_and_stays_on_the_page(at: Any, moment: float) -> None:
    axis = TimeAxis(30, np.arange(30), at)
    assert LEFT <= axis.x_at(moment) <= axis.x_at(moment + 1) <= RIGHT


@given(st.floats(0, 300), st.floats(0, 300))
def test_names_at_line_ends_keep_their_distance_and_order(first: float, second: float) -> None:
    one, other = apart((first, second), 16)
    assert abs(one - other) >= 16 - 1e-9
    assert (one <= other) == (first <= second)


def test_names_are_cut_to_the_room_they_have() -> None:
    assert fitting("stocktwits", 100) == "stocktwits"
    assert fitting("stocktwits", 31) == "stoc…"
    assert fitting("stocktwits", 12) == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.25, "0.25 s"), (42.4, "42 s"), (59.7, "1 min 0 s"), (93, "1 min 33 s"), (1605, "26 min"),
     (7380, "2 h 3 min")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
