"""What is written down of a promotion once it has been audited, through the real controller and learner process."""

import json

from daemon.config import Config
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
