"""The benchmark of asking runs on a small stream: labels that nobody asked for stay away from the controller."""

from benchmarks.asking import budget, compare, table
from tests.daemon.streams import drifting, settings, write_jsonl


def test_only_the_labels_that_were_asked_for_are_delivered_and_all_are_judged_by(fitted, encoder, tmp_path):
    texts, labels = drifting(360, 150)
    files = {
        "texts": write_jsonl(tmp_path / "texts.jsonl", texts),
        "labels": write_jsonl(tmp_path / "labels.jsonl", labels),
        "base": None,
        "holdout": None,
    }
    config = settings(fitted, encoder, asking={"every": 20}, learning={"epochs": 1.0})
    reports = compare(config, files, 0.1, tmp_path / "out", seed=0)
    rows = {name: given for name, given, *_ in table(reports)}
    assert rows["no labels"] == 0
    assert rows["all labels"] == 360
    # The budget is a day's, and the stream a quarter of one: a quarter may be asked at once, and it grows from there.
    assert 0 < rows["asked for"] <= budget(files["texts"], 0.1) / 2 + 1
    assert all(report["prequential"]["accuracy"] is not None for report in reports.values())
