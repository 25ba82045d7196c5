"""What is written down of a promotion once it has been audited, through the real controller and learner process."""

import json
from typing import Any

import pytest

from daemon.config import Config, GateConfig
from daemon.gate.audit import together
from daemon.registry import Registry
from tests.daemon.test_gate_bad_candidates import flipped_to_learn, good, trained


def audit_of(config: Config) -> Config:
    gate = config.gate.model_copy(update={"slice_min": 5})
    return config.model_copy(update={"gate": gate})


def test_a_promotion_is_audited_on_examples_that_nothing_else_uses(config: Config) -> None:
    desk = trained(audit_of(config), good, slang=True)
    directory = desk.config.home / "jobs" / "job-00001"
    ids = {
        name: {json.loads(line)["id"] for line in (directory / f"{name}.jsonl").read_text().splitlines()}
        for name in ("new", "replay", "gate", "judged", "audit", "audited")
    }
    assert ids["audit"] == ids["audited"]
    assert len(ids["audit"]) > 15
    assert not ids["audit"] & (ids["new"] | ids["replay"] | ids["gate"] | ids["judged"])

    desk.step()

    promoted, audited = desk.controller.decisions.latest(2)
    assert (promoted["kind"], audited["kind"], audited["version"]) == ("promoted", "audited", "v2")
    record = Registry(desk.config.home / "models").manifest("v2").decision["audit"]
    assert record["because"] == audited["because"]
    assert record["fell"] == audited["fell"] == []
    assert record["examples"] == len(ids["audit"])
    names = {one["name"] for one in record["slices"]}
    assert {"everything old", "everything fresh", "source formal"} <= names
    (job,) = desk.controller.training.jobs.all()
    assert job.decision is not None
    assert job.decision["audit"] == record
    assert not (directory / "audit.jsonl").exists()
    desk.close()


def test_what_was_turned_away_is_not_audited(config: Config) -> None:
    desk = trained(audit_of(config), flipped_to_learn)

    desk.step()

    assert desk.controller.decisions.latest(1)[0]["kind"] == "rejected"
    (job,) = desk.controller.training.jobs.all()
    assert "audit" not in (job.decision or {})
    desk.close()


def test_of_many_audits_one_may_flag_by_chance_and_one_beyond_it_is_told():
    def audited(p: float) -> dict[str, Any]:
        slices = [{"name": "source wire", "p_worse": p}, {"name": "key ACME", "p_worse": 0.001}]
        return {"slices": slices, "fell": ["source wire"] if p <= 0.1 else []}

    clean = {f"v{number}": audited(0.7) for number in range(2, 10)}

    by_chance = together({**clean, "v10": audited(0.06)}, GateConfig())
    assert (by_chance.promotions, by_chance.flagged, by_chance.fell) == (9, ["v10"], [])
    assert by_chance.by_chance == pytest.approx(0.9)
    assert together({**clean, "v10": audited(0.01)}, GateConfig()).fell == ["v10"]
    assert together({}, GateConfig()).as_dict() == {"promotions": 0, "flagged": [], "by_chance": 0.0, "fell": []}
