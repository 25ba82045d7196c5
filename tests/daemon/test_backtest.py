import json
from pathlib import Path
from typing import Any

import pytest

from daemon.backtest import Backtest, BacktestError
from daemon.config import Config
from daemon.controller import Controller
from daemon.registry import Registry
from learners.job import Progress
from tests.daemon.streams import drifting, settings, text_row, write_jsonl
from tests.sentences import sentence


class Silent:
    def learned(self, version: str, done: Progress) -> None: ...

    def moved(self, texts: int, controller: Controller) -> None: ...


def run(config: Config, out: Path, texts: list[dict[str, Any]], labels: list[dict[str, Any]], **files: Path) -> Any:
    out.mkdir(exist_ok=True)
    given = {"base": None, "holdout": None, **files}
    return Backtest(config, out, Silent()).run(
        texts=write_jsonl(out / "texts.jsonl", texts), labels=write_jsonl(out / "labels.jsonl", labels), **given
    )


def config(fitted: Path, encoder: Path) -> Config:
    """With enough labels to look back on."""
    return settings(fitted, encoder, memory={"audit_share": 0.1})


@pytest.fixture(scope="module")
def recorded(fitted: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A backtest over formal sentences that turn into slang, and where it is."""
    out = tmp_path_factory.mktemp("backtest")
    rows = [
        {"text": sentence(n, slang=s)[0], "label": sentence(n, slang=s)[1], "domain": "slang" if s else "formal"}
        for n in range(200, 260)
        for s in (False, True)
    ]
    holdout = write_jsonl(out / "holdout.jsonl", rows)
    return run(config(fitted, encoder), out, *drifting(480, 200), holdout=holdout), out


def test_the_loop_closes_drift_is_noticed_learned_and_scored_better(recorded):
    report, _ = recorded
    alarm = next(one for one in report["drift"]["alarms"] if one["text_index"] > 200)
    assert (alarm["detector"], alarm["kind"]) == ("conformal", "input")
    assert 195 < alarm["began_index"] <= alarm["text_index"] < 240
    assert alarm["explanation"]["clusters"][0]["examples"]
    promoted = [model for model in report["models"] if model["promoted"]]
    assert promoted[0]["trigger"] == "drift"
    assert report["prequential"]["macro_f1"] > report["static"]["macro_f1"] + 0.1
    holdout = report["holdout"]
    assert holdout["final"]["slang"]["macro_f1"] > holdout["base"]["slang"]["macro_f1"] + 0.3
    assert holdout["final"]["formal"]["macro_f1"] >= holdout["base"]["formal"]["macro_f1"] - 0.05


def test_the_report_has_the_keys_that_tools_read(recorded):
    report, out = recorded
    assert report == json.loads((out / "report.json").read_text())
    assert (report["texts"], report["labels"], report["scored"], report["dead_letters"]) == (480, 480, 480, 0)
    assert {"at", "text_index", "detector", "evidence"} <= report["drift"]["alarms"][0].keys()
    keys = {
        "version",
        "parent",
        "trigger",
        "method",
        "examples",
        "samples",
        "train_seconds",
        "promoted",
        "reason",
        "at",
    }
    assert keys <= report["models"][0].keys()
    assert report["seconds"].keys() == {"scoring", "training", "total"}
    assert isinstance(report["alerts"], list)


def test_the_report_looks_back_on_what_each_version_knew(recorded):
    report, _ = recorded
    past = report["hindsight"]
    assert past["versions"][0]["version"] == "v1"
    assert {"forgot", "backward", "forward"} <= past.keys()
    assert past["versions"][-1]["mean"] > past["versions"][0]["mean"]
    assert all(known["texts"] >= 20 for known in past["sources"].values())


def test_every_promotion_is_audited_in_the_report_and_none_lost_a_slice(recorded):
    report, _ = recorded
    audits = [model["audit"] for model in report["models"] if model["promoted"]]
    assert audits
    assert all(audit["examples"] and audit["fell"] == [] for audit in audits)
    assert all(model["audit"] is None for model in report["models"] if not model["promoted"])
    assert (report["audit"]["promotions"], report["audit"]["fell"]) == (len(audits), [])


def test_the_page_shows_the_run_and_loads_nothing(recorded):
    _, out = recorded
    page = (out / "report.html").read_text()
    assert "v2" in page
    assert "src=" not in page


def test_the_home_that_it_begins_with_is_left_alone(recorded, fitted):
    assert [manifest.version for manifest in Registry(fitted / "models").manifests()] == ["v1"]


def test_the_same_recording_gives_the_same_decisions_twice(recorded, fitted, encoder, tmp_path):
    report, _ = recorded
    again = run(config(fitted, encoder), tmp_path / "again", *drifting(480, 200))

    def decisions(of: Any) -> Any:
        return [(d["kind"], d["because"], d["at"]) for d in of["decisions"]]

    assert decisions(again) == decisions(report)
    assert again["prequential"] == report["prequential"]


def test_broken_records_become_dead_letters_and_the_rest_is_scored(config, tmp_path):
    texts = [text_row(number) for number in range(10)]
    texts[3] = {"id": "t3", "text": "", "timestamp": texts[3]["timestamp"]}
    texts[5] = {"what": "is this"}
    labels = [{"id": "t1", "label": "furious", "timestamp": "2026-01-01T01:00:00Z"}]
    report = run(config, tmp_path / "out", texts, labels)
    assert (report["texts"], report["scored"], report["dead_letters"]) == (10, 8, 3)
    assert report["prequential"] == {"accuracy": None, "macro_f1": None}


def test_without_a_model_it_says_what_to_give(encoder, tmp_path):
    with pytest.raises(BacktestError, match="give --base"):
        run(settings(tmp_path / "nowhere", encoder), tmp_path / "out", [text_row(0)], [])
