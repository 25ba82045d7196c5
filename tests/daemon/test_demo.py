import io
import json
import threading

from rich.console import Console

from daemon.config import Config
from daemon.demo.grammar import Stretch, generate
from daemon.demo.run import Demo
from daemon.demo.view import POINTS, Picture, render, sparkline


def test_a_short_demo_runs_the_loop_and_leaves_its_report_log_and_page(tmp_path):
    stream = generate(0, base=90, stretches=(Stretch(60, 0.0), Stretch(60, 1.0)), spike_texts=10, holdout=20)
    config = Config.model_validate({"learning": {"fit_epochs": 1.0, "threads": 1}, "model": {"threads": 1}})
    said = io.StringIO()
    before = set(threading.enumerate())
    Demo(config, tmp_path / "demo", 60.0, Console(file=said, width=100), stream).run()
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert (report["texts"], report["labels"]) == (120, 120)
    assert report["holdout"].keys() == {"base", "final"}
    assert "relearnd" in (tmp_path / "demo" / "report.html").read_text()
    assert "ready" in (tmp_path / "demo" / "relearnd.log").read_text()
    assert "The page is" in said.getvalue()
    # Libraries may leave a monitor of theirs; none of the demo's own threads may be left.
    assert {thread.name for thread in set(threading.enumerate()) - before} <= {"tqdm_monitor"}


def picture() -> Picture:
    decision = {"at": 0.0, "kind": "drift", "because": "novelty rose from 1.0 to [bold]2.0[/bold] (kswin)"}
    found = {"champion": None, "learning": {"version": "v2", "progress": 0.5, "because": "drift"}}
    return Picture(texts=10, began=0.0, status={**found, "decisions": [decision]}, evidence={"kswin on novelty": 0.9})


def test_the_picture_is_drawn_from_the_first_moment_on_and_texts_are_no_markup():
    said = io.StringIO()
    Console(file=said, width=100).print(render(picture()))
    assert "[bold]2.0[/bold]" in said.getvalue()
    assert "v2" in said.getvalue()


def test_a_candidate_that_is_judged_again_is_not_drawn_as_one_that_learns():
    again = picture()
    assert ", v2: learning 50%" in again.line()
    again.status["learning"]["progress"] = None
    assert ", v2: judged again" in again.line()
    said = io.StringIO()
    Console(file=said, width=100).print(render(again))
    assert "judged again" in said.getvalue()


def test_the_curve_runs_from_nothing_to_all_right():
    assert sparkline([]) == ""
    assert sparkline([False] * 200 + [True] * 200) == "▁" * (POINTS // 2) + "█" * (POINTS // 2)
    assert sparkline([True]) == "█"
