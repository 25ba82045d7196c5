import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from daemon.champion import Reign
from daemon.config import Config, GateConfig
from daemon.estimate import Estimate
from daemon.gate.audit import Audit
from daemon.gate.slices import Comparison
from daemon.gate.verdict import Verdict
from daemon.memory import Labelled, Memory
from daemon.prequential import Prequential
from daemon.registry import Registry, RegistryError
from daemon.show import print_status, print_version, print_versions
from daemon.state import Blobs, Decisions, StateError, open_state
from daemon.status import status
from daemon.training import Jobs
from daemon.triggers import Firing
from daemon.waiting import Scored, Waiting
from learners.job import Progress, write_rows

MADE = datetime(2025, 1, 1, 9, 30, tzinfo=UTC)

VERDICT = Verdict(
    promoted=True,
    because="accuracy 0.600 → 0.800 on 100 fresh labels, p = 0.0012; worst old slice source [wire] -0.010",
    fresh=100,
    parent_accuracy=0.6,
    candidate_accuracy=0.8,
    parent_brier=0.5,
    candidate_brier=0.3,
    p_better=0.0012,
    slowdown=1.0,
    slices=[Comparison("source [wire]", 40, 0.91, 0.9, 0.6, True)],
    selected=50,
    calibration=Comparison("calibration error", 140, 0.08, 0.05, 0.9, True),
    invariance=None,
    settings=GateConfig().model_dump(),
    seed=3,
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "a home with spaces and a ?")


def printed(show: Callable[[Console], None]) -> str:
    console = Console(file=StringIO(), width=200)
    show(console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def add_version(config: Config, version: str, parent: str | None, decision: dict[str, Any]) -> None:
    folder = config.home / "candidate"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(version.encode())
    Registry(config.home / "models").add(
        folder,
        version=version,
        parent=parent,
        created_at=MADE,
        job=f"job of {version}",
        trigger="drift",
        method="replay+ewc",
        labels=["down", "[up]"],
        data_sha256="0" * 64,
        seed=3,
        decision=decision,
    )


def open_home(config: Config) -> sqlite3.Connection:
    return open_state(config.home / "state.db")


@pytest.fixture
def fitted(config: Config) -> Config:
    add_version(config, "v1", None, {"because": "the first model", "report": {}})
    db = open_home(config)
    Memory(db, config.memory).add([Labelled(f"t{number}", "text", "down", None, None, 0.0) for number in range(20)])
    db.close()
    return config


@pytest.fixture
def busy(fitted: Config) -> Config:
    add_version(fitted, "v2", "v1", VERDICT.as_dict())
    db, registry = open_home(fitted), Registry(fitted.home / "models")
    reign = Reign(db, fitted, registry)
    reign.crown(registry.manifest("v1"), MADE.timestamp(), because="the first model", newest_example=0)
    reign.crown(registry.manifest("v2"), MADE.timestamp() + 60, because="[bold]better[/bold]", newest_example=20)
    scores = [Scored(f"s{number}", "text", None, None, 0.0, "down", "v2", 0.0) for number in range(7)]
    Waiting(db, fitted.labels).add_scores(scores)
    live = Prequential("v2", window=10, max_slices=5)
    for truth in ("down", "down", "down", "[up]"):
        live.observe(version="v2", truth=truth, predicted="down")
    Blobs(db).put_json("prequential", live.state())
    job = Jobs(db).add(
        version="v3",
        parent="v2",
        firing=Firing("drift", "fired", "kswin on novelty [rose]"),
        created_at=MADE.timestamp(),
        newest_example=20,
    )
    folder = fitted.home / "jobs" / job.name
    folder.mkdir(parents=True)
    write_rows(
        folder / "metrics.jsonl",
        [Progress(step=step, steps=40, loss=0.5, penalty=0, learning_rate=1e-5, seconds=1) for step in (5, 10)],
    )
    db.close()
    return fitted


def test_a_home_where_nothing_has_been_is_told_so(config: Config) -> None:
    with pytest.raises(StateError, match=r"there is no state in .*; has `relearnd fit` or `relearnd run` been there"):
        printed(lambda console: print_status(config, console, as_json=False))
    assert "version" in printed(lambda console: print_versions(config, console, as_json=False))
    assert json.loads(printed(lambda console: print_versions(config, console, as_json=True))) == []
    with pytest.raises(RegistryError, match="no such version"):
        printed(lambda console: print_version(config, "v1", console, as_json=False))
    assert not config.home.exists()


def test_a_daemon_without_a_model_shows_that_it_has_none(config: Config) -> None:
    open_home(config).close()

    shown = printed(lambda console: print_status(config, console, as_json=False))

    assert shown.splitlines() == [
        "champion  none",
        "live      0 texts, 0 labels, none judged yet",
        "memory    recent 0, replay 0, gate 0, audit 0",
    ]


def test_a_home_that_was_fitted_and_never_run_shows_its_model(fitted: Config) -> None:
    assert "champion  none" in printed(lambda console: print_status(fitted, console, as_json=False))
    versions = printed(lambda console: print_versions(fitted, console, as_json=False))
    assert "v1" in versions
    assert "the first model" in versions
    assert json.loads(printed(lambda console: print_versions(fitted, console, as_json=True)))[0]["champion"] is False
    version = printed(lambda console: print_version(fitted, "v1", console, as_json=False))
    assert "v1, from nothing, made 2025-01-01 09:30" in version
    assert "labels  down, [up]" in version
    assert "why     the first model" in version


def test_a_model_from_elsewhere_shows_without_a_state(config: Config) -> None:
    add_version(config, "v1", None, {})

    assert "v1" in printed(lambda console: print_versions(config, console, as_json=False))
    assert "why     the first model" in printed(lambda console: print_version(config, "v1", console, as_json=False))


def test_a_busy_daemon_shows_what_it_does(busy: Config) -> None:
    shown = printed(lambda console: print_status(busy, console, as_json=False)).splitlines()

    assert shown[:4] == [
        "champion  v2 since 2025-01-01 09:31",
        "live      7 texts, 4 labels, accuracy 0.750, lately 0.750, macro-F1 0.429",
        f"memory    {', '.join(f'{part} {count}' for part, count in status(busy)['memory'].items())}",
        "learning  v3, 25%: kswin on novelty [rose]",
    ]
    assert shown[-1] == "2025-01-01 09:31:00  promoted        [bold]better[/bold]"


def test_a_busy_daemon_s_versions_show_the_champion_and_the_gate_s_numbers(busy: Config) -> None:
    rows = printed(lambda console: print_versions(busy, console, as_json=False)).splitlines()
    assert [("v1" in row, "v2" in row) for row in rows if "champion" in row] == [(True, True)]

    version = printed(lambda console: print_version(busy, "v2", console, as_json=False))
    assert VERDICT.because in version
    slices = next(line for line in version.splitlines() if "source [wire]" in line and "0.910" in line)
    assert slices.split()[-6:] == ["40", "0.910", "0.900", "-0.010", "0.600", "kept"]
    assert "50 held-out labels left out" in version
    tests = {row.strip().split("  ")[0]: row.split() for row in version.splitlines() if row.strip()}
    assert tests["Brier, fresh"][2:] == ["100", "0.500", "0.300", "-0.200", "0.0012", "p", "<", "0.1", "passed"]
    assert tests["accuracy, fresh"][2:] == ["100", "0.600", "0.800", "+0.200", "-0.03", "passed"]
    assert tests["calibration error"][2:] == ["140", "0.080", "0.050", "-0.030", "0.9000", "+0.05", "passed"]
    assert tests["moved by names"][3:] == ["+0.03", "–"]
    assert tests["scoring time"][2:] == ["1.00", "1.00", "+0.00", "1.5", "times", "passed"]


def test_a_decision_fits_a_terminal_of_80_columns(busy: Config) -> None:
    console = Console(file=StringIO(), width=80)

    print_version(busy, "v2", console, as_json=False)

    assert isinstance(console.file, StringIO)
    figures = [line for line in console.file.getvalue().splitlines() if "passed" in line]
    assert [line.split()[0] for line in figures] == ["Brier,", "accuracy,", "calibration", "scoring"]


def test_a_candidate_that_never_went_live_shows_why(busy: Config) -> None:
    db = open_home(busy)
    (job,) = Jobs(db).all()
    said = {**VERDICT.as_dict(), "promoted": False, "p_better": 0.4}
    report = {"data_sha256": "1" * 64, "method": "replay", "seed": 3}
    Jobs(db).close(job, "rejected", {"because": "no better [beyond] chance", "gate": said, "report": report})
    db.close()

    shown = printed(lambda console: print_version(busy, "v3", console, as_json=False))
    as_json = json.loads(printed(lambda console: print_version(busy, "v3", console, as_json=True)))

    assert "v3, from v2, never live: rejected (job-00001, trigger drift)" in shown
    assert "why     no better [beyond] chance" in shown
    better = next(line for line in shown.splitlines() if "Brier, fresh" in line)
    assert "failed" in better
    assert as_json["decision"]["gate"]["p_better"] == 0.4
    assert "went on" not in shown


def test_what_a_candidate_went_on_from_is_shown(busy: Config) -> None:
    db = open_home(busy)
    (job,) = Jobs(db).all()
    Jobs(db).close(job, "rejected", {"because": "no better beyond chance"})
    firing = Firing("labels", "fired", "1000 new labels")
    after = Jobs(db).add(
        version="v4", parent="v2", challenger="v3", firing=firing, created_at=MADE.timestamp(), newest_example=30
    )
    Jobs(db).close(after, "rejected", {"because": "no better beyond chance"})
    db.close()

    shown = printed(lambda console: print_version(busy, "v4", console, as_json=False))
    as_json = json.loads(printed(lambda console: print_version(busy, "v4", console, as_json=True)))

    assert "went on from v3, which lacked nothing but proof of being better" in shown
    assert as_json["challenger"] == "v3"


def test_all_that_was_said_of_a_candidate_that_was_judged_again_is_shown(busy: Config) -> None:
    db = open_home(busy)
    (made,) = Jobs(db).all()
    told = {"gate": VERDICT.as_dict(), "report": {"data_sha256": "1" * 64, "method": "der", "seed": 3}}
    Jobs(db).close(made, "rejected", {"because": "too little", **told})
    firing = Firing("proof", "fired", "100 labels since")
    again = Jobs(db).add(version="v3", parent="v2", firing=firing, created_at=MADE.timestamp(), newest_example=30)
    as_is = {**told["report"], "method": "as-is"}
    Jobs(db).close(again, "rejected", {"because": "still too little", "gate": told["gate"], "report": as_is})
    db.close()

    shown = printed(lambda console: print_version(busy, "v3", console, as_json=False))
    as_json = json.loads(printed(lambda console: print_version(busy, "v3", console, as_json=True)))
    assert "v3, from v2, never live: rejected (job-00001, trigger drift)" in shown
    assert "method der" in shown
    assert shown.index("why     still too little") < shown.index("before  too little (job-00001)")
    assert [one["because"] for one in as_json["judgements"]] == ["too little", "still too little"]

    add_version(busy, "v3", "v2", VERDICT.as_dict())
    assert "before  too little (job-00001)" in printed(
        lambda console: print_version(busy, "v3", console, as_json=False)
    )


def test_an_audit_is_shown_with_the_slice_that_fell(fitted: Config) -> None:
    fell = Comparison("source [blog]", 40, 0.9, 0.5, 0.001, False)
    audited = Audit(
        80, "1 of 2 slices fell", [Comparison("everything old", 80, 0.8, 0.8, 1.0, True), fell], [fell.name]
    )
    add_version(fitted, "v2", "v1", {**VERDICT.as_dict(), "audit": audited.as_dict()})

    shown = printed(lambda console: print_version(fitted, "v2", console, as_json=False))

    assert "audit   1 of 2 slices fell" in shown
    assert "fell" in next(line for line in shown.splitlines() if "source [blog]" in line)


def test_of_very_many_slices_the_worst_are_shown(fitted: Config) -> None:
    slices = [Comparison(f"key K{number}", 30, 0.9, 0.9 + number / 1000, 1.0, True) for number in range(60)]
    add_version(fitted, "v2", "v1", replace(VERDICT, slices=slices).as_dict())

    shown = printed(lambda console: print_version(fitted, "v2", console, as_json=False))

    assert "key K0 " in shown
    assert "key K59" not in shown
    assert "and 40 more that lost less" in shown


def test_a_slice_that_was_cleared_says_by_what(fitted: Config) -> None:
    cleared = Comparison("source [blog]", 140, 0.9, 0.85, 0.001, True, unused=40, unused_change=0.025)
    add_version(fitted, "v2", "v1", replace(VERDICT, slices=[cleared]).as_dict())

    shown = printed(lambda console: print_version(fitted, "v2", console, as_json=False))

    assert "kept *" in next(line for line in shown.splitlines() if "source [blog]" in line)
    assert "* source [blog]: +0.025 on the 40 of them that promoted no model" in shown


def test_what_was_judged_apart_from_the_label_mix_is_said(fitted: Config) -> None:
    slices = [
        Comparison("everything old", 80, 0.8, 0.8, 1.0, True),
        Comparison("fresh source wire", 40, 0.7, 0.9, 1.0, True, fresh=True),
    ]
    follower = replace(VERDICT, slices=slices, apart_from_mix=True)
    for version, verdict in (("v2", follower), ("v3", replace(follower, apart_from_mix=False))):
        add_version(fitted, version, "v1", verdict.as_dict())

    v2, v3 = (printed(lambda console, v=v: print_version(fitted, v, console, as_json=False)) for v in ("v2", "v3"))

    assert "judged as if both expected the mix of the past" in " ".join(v2.split())
    assert "label mix" not in v3
    known, fresh = v2.split("what is fresh, by where it comes from")
    assert "everything old" in known.split("what it knew before")[1]
    assert "fresh source wire" in fresh
    assert "fresh source wire" not in known


def test_a_version_of_an_earlier_release_shows_what_is_known_of_it(fitted: Config) -> None:
    later = ("settings", "seed", "selected", "calibration", "invariance")
    add_version(fitted, "v2", "v1", {name: value for name, value in VERDICT.as_dict().items() if name not in later})

    shown = printed(lambda console: print_version(fitted, "v2", console, as_json=False))

    assert "0.0012" in shown
    assert "source [wire]" in shown


def test_everything_can_be_had_as_json(busy: Config) -> None:
    found = json.loads(printed(lambda console: print_status(busy, console, as_json=True)))
    assert found["champion"]["version"] == "v2"
    assert found["learning"] == {"version": "v3", "because": "kswin on novelty [rose]", "progress": 0.25}
    assert found["live"] == {
        "labels": 4,
        "accuracy": 0.75,
        "macro_f1": pytest.approx(3 / 7),
        "recent_accuracy": 0.75,
        "estimated_accuracy": None,
    }
    versions = json.loads(printed(lambda console: print_versions(busy, console, as_json=True)))
    assert [(one["version"], one["champion"]) for one in versions] == [("v1", False), ("v2", True)]
    version = json.loads(printed(lambda console: print_version(busy, "v2", console, as_json=True)))
    assert version["decision"]["p_better"] == 0.0012


def test_the_estimated_accuracy_is_shown_beside_the_true_one(busy: Config) -> None:
    estimate = Estimate("v2", window=100)
    estimate.scored([0.75] * 100)
    db = open_home(busy)
    Blobs(db).put_json("watch", {"estimate": estimate.state()})
    db.close()

    shown = printed(lambda console: print_status(busy, console, as_json=False))

    assert "estimated accuracy 0.750 (0.665 to 0.835), from the champion's confidence" in shown


def test_a_job_that_has_not_begun_is_at_nothing(busy: Config) -> None:
    (busy.home / "jobs" / "job-00001" / "metrics.jsonl").unlink()

    assert status(busy)["learning"]["progress"] == 0.0


def test_a_candidate_that_is_judged_again_is_not_said_to_learn(busy: Config) -> None:
    db = open_home(busy)
    (made,) = Jobs(db).all()
    Jobs(db).close(made, "rejected", {"because": "too little"})
    firing = Firing("proof", "fired", "100 labels since v3 learned")
    Jobs(db).add(version="v3", parent="v2", firing=firing, created_at=MADE.timestamp(), newest_example=30)
    db.close()

    assert status(busy)["learning"]["progress"] is None
    shown = printed(lambda console: print_status(busy, console, as_json=False))
    assert "judging   v3 again: 100 labels since v3 learned" in shown


def test_only_the_latest_decisions_are_shown(busy: Config) -> None:
    db = open_home(busy)
    for number in range(30):
        Decisions(db).add(MADE.timestamp(), "drift", f"because {number}", {"evidence": 1.5})
    db.close()

    assert [decision["because"] for decision in status(busy)["decisions"]] == [f"because {n}" for n in range(20, 30)]


def test_looking_changes_nothing_and_waits_for_nobody(busy: Config) -> None:
    db = open_home(busy)
    db.execute("BEGIN IMMEDIATE")

    assert status(busy)["texts"] == 7

    db.execute("ROLLBACK")
    db.close()


@pytest.mark.parametrize("content", ["not a database, by any means. " * 200, ""])
def test_a_state_that_cannot_be_read_is_named(config: Config, content: str) -> None:
    config.home.mkdir()
    (config.home / "state.db").write_text(content)

    with pytest.raises(StateError, match=r"state\.db: cannot read the state: "):
        status(config)
