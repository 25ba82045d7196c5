import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.metrics import Metrics
from tests.deploy.conftest import Run


@pytest.fixture
def rules(deploy: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((deploy / "prometheus" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_rules_are_valid(deploy: Path, run: Run) -> None:
    assert "SUCCESS" in run("promtool", "check", "rules", deploy / "prometheus" / "rules.yml")


def test_the_rules_fire_when_they_should_and_only_then(deploy: Path, run: Run) -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", deploy / "prometheus" / "rules.test.yml")


def test_every_rule_says_what_happened_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "description", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]


def test_every_rule_is_tried_on_a_story(rules: list[dict[str, Any]], deploy: Path) -> None:
    stories = (deploy / "prometheus" / "rules.test.yml").read_text()
    assert [rule["alert"] for rule in rules if f'alertname="{rule["alert"]}"' not in stories] == []


def test_the_rules_and_their_stories_are_about_metrics_that_the_daemon_has(deploy: Path) -> None:
    known = {entry.name: entry.labels for entry in Metrics("0").entries}
    told = "".join((deploy / "prometheus" / name).read_text() for name in ("rules.yml", "rules.test.yml"))
    used = re.findall(r"\b(relearnd_[a-z_]+)(?:\{([^}]*)\})?", told)
    assert used
    for name, matchers in used:
        assert name in known
        for label, value in re.findall(r'(\w+)="([^"]*)"', matchers):
            if label not in ("job", "instance"):
                # A label without a list takes its values from elsewhere.
                assert not known[name][label] or value in known[name][label], (name, label)
