import json

import pytest
import yaml

from daemon.config import Config
from daemon.settings import load
from tests.daemon.streams import drifting, write_jsonl
from tests.sentences import sentence


@pytest.fixture
def path(config: Config, tmp_path):
    file = tmp_path / "relearnd.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return file


def test_init_writes_a_config_that_loads_and_says_what_comes_next(relearnd, tmp_path):
    status, said = relearnd("init", tmp_path / "new")
    assert status == 0
    assert "relearnd fit" in said
    assert load(tmp_path / "new" / "relearnd.yaml", environment={}, overrides=[]) == Config()
    status, said = relearnd("init", tmp_path / "new")
    assert status == 1
    assert "exists already" in said


def test_check_tells_what_would_happen(relearnd, path):
    status, said = relearnd("check", path)
    assert status == 0, said
    assert "1 versions, v1 the newest, all files whole" in said
    assert "spikes of 'negative' per key" in said


def test_check_fails_on_what_would_not_work(relearnd, path, config):
    (config.home / "models" / "v1" / "model.safetensors").write_bytes(b"junk")
    status, said = relearnd("check", path, "--set", "triggers.schedule=every monday", "--set", "alerts.label=angry")
    assert status == 1
    assert "corrupt" in said
    assert "triggers.schedule" in said
    assert "'angry' is none of negative, neutral, positive" in said


def test_a_misspelt_setting_is_named_with_the_right_one(relearnd, path):
    status, said = relearnd("check", path, "--set", "triggers.cooldwon=1m")
    assert status == 1
    assert "triggers.cooldown" in said


def test_fit_makes_a_model_and_refuses_to_make_a_second_one(relearnd, path, tmp_path):
    rows = [{"text": sentence(n)[0], "label": sentence(n)[1]} for n in range(60)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    status, said = relearnd("fit", "--data", data, "--config", path, "--out", tmp_path / "fresh")
    assert status == 0, said
    assert "macro-F1" in said
    status, said = relearnd("fit", "--data", data, "--config", path, "--out", tmp_path / "fresh")
    assert status == 1
    assert "has v1 already" in said


def test_rows_that_cannot_be_learned_from_are_named(relearnd, path, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": "fine", "label": "a"}, {"text": "no label"}])
    status, said = relearnd("fit", "--data", data, "--config", path, "--out", tmp_path / "fresh")
    assert status == 1
    assert "row 2: label" in said


def test_backtest_prints_its_figures_and_where_the_page_is(relearnd, path, tmp_path):
    texts, labels = drifting(40, 40)
    files = ("--texts", write_jsonl(tmp_path / "t.jsonl", texts), "--labels", write_jsonl(tmp_path / "l.jsonl", labels))
    status, said = relearnd("backtest", *files, "--config", path, "--out", tmp_path / "out")
    assert status == 0, said
    assert "40 texts, 40 labels" in said
    assert (tmp_path / "out" / "report.html").is_file()


def test_what_is_sent_is_what_tail_prints(relearnd, path, tmp_path):
    rows = [{"id": f"t{n}", "text": "naïve café ☕"} for n in range(20)]
    relearnd("send", "texts", write_jsonl(tmp_path / "rows.jsonl", rows), "--config", path)
    status, said = relearnd("tail", "texts", "-n", 3, "--config", path)
    assert status == 0
    assert [json.loads(line) for line in said.splitlines()] == rows[-3:]


def test_models_and_status_can_be_read_while_nothing_runs(relearnd, path):
    assert relearnd("models", "list", "--config", path)[0] == 0
    status, said = relearnd("models", "show", "v1", "--json", "--config", path)
    assert status == 0
    assert json.loads(said)["version"] == "v1"
    status, said = relearnd("models", "show", "v7", "--config", path)
    assert status == 1
    assert "there are: v1" in said
    status, said = relearnd("status", "--json", "--config", path)
    assert json.loads(said)["champion"] is None


def test_a_command_waits_for_a_controller_that_is_down(relearnd, path, monkeypatch):
    monkeypatch.setattr("daemon.cli.STEER_WAIT", 0.0)
    status, said = relearnd("learn", "--config", path)
    assert status == 0
    assert "has not taken it up yet" in said


def test_without_a_model_run_says_how_to_make_one(relearnd, path, tmp_path):
    status, said = relearnd("run", "--config", path, "--set", f"home={tmp_path / 'nowhere'}")
    assert status == 1
    assert "relearnd fit --data" in said
