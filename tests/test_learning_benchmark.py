"""What `benchmarks.learning` and `benchmarks.plain` say of their runs, and that a run teaches."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.learning import HEADINGS, JOINT, NOTHING, Outcome, Run, averages, markdown, plot, table
from benchmarks.plain import SETTINGS, PlainLoop, of_report
from benchmarks.stretches import Course, Slice
from daemon.memory import Labelled, share_of
from daemon.settings import load
from tests.sentences import LABELS, sentence


def outcome(course: str, way: str, seed: int, final: float) -> Outcome:
    return Outcome(course, way, seed, 0, ["one", "two"], [-1, 0], [[0.5, 0.1], [0.4, 0.9], [final, final]], live=0.5)


def test_what_was_forgotten_counts_from_when_it_was_taught():
    after = [[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.6, 0.5, 0.4]]
    run = Outcome("set", "replay", 0, 0, ["base", "first", "last"], [-1, 0, 1], after)
    assert run.final == pytest.approx(0.5)
    assert run.worst == 0.4
    assert run.forgot == pytest.approx((0.3 + 0.2 + 0.0) / 3)
    # What the last stretch teaches has no later; the base and the first stretch have.
    assert run.back == pytest.approx(((0.6 - 0.9) + (0.5 - 0.7)) / 2)


def test_a_table_ranks_ways_by_what_they_know_at_the_end():
    runs = [outcome("a", "replay", seed, final) for seed, final in enumerate((0.5, 0.6))]
    rows = table([*runs, outcome("a", "si", 0, 0.7), outcome("b", "replay", 0, 0.9)], "a")
    assert [row[:2] for row in rows] == [["si", "70.0"], ["replay", "55.0 ±7.1"]]
    assert [row[-1] for row in rows] == ["1", "2"]


def test_an_average_is_over_the_sets_and_its_spread_over_the_seeds(tmp_path):
    finals = {("a", 0): 0.9, ("b", 0): 0.1, ("a", 1): 0.8, ("b", 1): 0.4}
    runs = [outcome(course, "replay", seed, final) for (course, seed), final in finals.items()]
    (row,) = averages([*runs, outcome("a", "si", 0, 1.0)])  # which has not learned b
    said = dict(zip(HEADINGS, row, strict=True))
    assert (said["way"], said["final"], said["runs"]) == ("replay", "55.0 ±7.1", "2")
    assert "### mean of the 2\n" in markdown(runs)
    assert "mean of" not in markdown(runs[:1])
    plot(runs, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def rows(count: int, *, slang: bool) -> list[Labelled]:
    """Sentences of one kind, named so that the daemon's shares are the same in every run."""
    source = "slang" if slang else "news"
    return [Labelled(f"{source}-{at}", *sentence(at, slang=slang), source, None, float(at)) for at in range(count)]


@pytest.fixture(scope="module")
def course() -> Course:
    slices = [Slice("news", rows(36, slang=False), -1), Slice("slang", rows(36, slang=True), 0)]
    return Course("small", LABELS, rows(60, slang=False), [rows(90, slang=True)], slices)


@pytest.mark.parametrize("way", ["der", "finetune", NOTHING, JOINT])
def test_a_run_learns_its_stretches_in_the_way_it_is_told(course, way, encoder, tmp_path: Path):
    told = [f"learning.method={way}"] if way in ("der", "finetune") else []
    settings = [*told, f"model.encoder={encoder}", "model.max_tokens=32", "learning.learning_rate=2e-3"]
    config = load(None, environment={}, overrides=[*settings, "learning.fit_epochs=20", "learning.threads=1"])
    said: list[str] = []
    (tmp_path / "scratch").mkdir()
    run = Run(course, config, 0, tmp_path / "scratch", tmp_path / "base", labelled=1.0)
    done = run.do(way, order=0, every=50, say=said.append)
    news, slang = done.after[-1]
    assert (slang > 0.9, done.samples > 0) == (way != NOTHING, way != NOTHING)
    assert news > 0.9 or way == "finetune"  # which may forget
    assert (len(done.after), len(said)) == ((1, 0) if way == JOINT else (2, 1))
    assert (tmp_path / "base").is_dir() == (way != JOINT)


def test_a_run_that_rehearses_goes_over_everything_once_half_of_it_is_new(course, encoder, tmp_path: Path):
    fixed = [f"model.encoder={encoder}", "model.max_tokens=32", "learning.threads=1", "learning.min_steps=1"]
    samples = {}
    for share in (0, 0.5):
        told = [*fixed, "learning.epochs=1", f"triggers.rehearse={share}"]
        config = load(None, environment={}, overrides=told)
        (tmp_path / str(share)).mkdir()
        run = Run(course, config, 0, tmp_path / str(share), tmp_path / "base", labelled=1.0)
        samples[share] = run.do("der", order=0, every=45, say=lambda _: None).samples
    (stretch,) = course.stretches
    base, first, second = (
        sum(share_of(row.id, config.memory) == "learn" for row in part)
        for part in (course.base, stretch[:45], stretch[45:])
    )
    # Both learn the first 45 with some of the base; then, one the second 45 with some of all, the other all.
    learned_first = samples[0.5] - (base + first + second)
    assert first < learned_first <= 2 * first
    assert second < samples[0] - learned_first <= 2 * second


@pytest.mark.parametrize(("delay", "learned"), [(0.5, True), (100.0, False)])
def test_the_plain_loop_learns_labels_when_they_come(course, encoder, tmp_path: Path, delay, learned):
    told = [*SETTINGS, f"model.encoder={encoder}", "model.max_tokens=32", "learning.learning_rate=2e-3"]
    config = load(None, environment={}, overrides=[*told, "learning.fit_epochs=20", "learning.threads=1"])
    (tmp_path / "scratch").mkdir()
    loop = PlainLoop(course, config, 0, tmp_path / "scratch", tmp_path / "base", labelled=1.0)
    due = {text.id: text.timestamp + delay for stretch in course.stretches for text in stretch}
    done = loop.live(due, every=40, console=Console(quiet=True))
    # Two passes over 40 new ones and up to 40 old ones, after the 41st text and the 81st.
    assert 300 < done.samples <= 320 if learned else done.samples == 0
    assert (done.held_out > 0.9, done.live > 0.5) == (learned, learned)


def test_what_a_backtest_went_over_is_the_sum_of_its_runs(tmp_path: Path):
    report = {
        "models": [{"samples": 300}, {"samples": 0}, {"samples": None}, {"samples": 20}],
        "prequential": {"macro_f1": 0.7},
        "holdout": {"final": {"one": {"macro_f1": 0.5}, "two": {"macro_f1": 0.7}}},
        "seconds": {"total": 60.0},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert of_report(tmp_path / "report.json") == pytest.approx((0.7, 0.6, 320, 60.0))
