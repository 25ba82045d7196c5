import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from daemon.champion import Reign
from daemon.config import Config
from daemon.gate import SliceVerdict, Verdict
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
    slices=[SliceVerdict("source [wire]", 40, 0.91, 0.9, 0.6, True)],
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
    assert [cell.strip() for cell in slices.strip("│").split("│")][1:] == ["40", "0.910", "0.900", "-0.010", "0.600"]


def test_everything_can_be_had_as_json(busy: Config) -> None:
    found = json.loads(printed(lambda console: print_status(busy, console, as_json=True)))
    assert found["champion"]["version"] == "v2"
    assert found["learning"] == {"version": "v3", "because": "kswin on novelty [rose]", "progress": 0.25}
    assert found["live"] == {
        "labels": 4,
        "accuracy": 0.75,
        "macro_f1": pytest.approx(3 / 7),
        "recent_accuracy": 0.75,
    }
    versions = json.loads(printed(lambda console: print_versions(busy, console, as_json=True)))
    assert [(one["version"], one["champion"]) for one in versions] == [("v1", False), ("v2", True)]
    version = json.loads(printed(lambda console: print_version(busy, "v2", console, as_json=True)))
    assert version["decision"]["p_better"] == 0.0012


def test_a_job_that_has_not_begun_is_at_nothing(busy: Config) -> None:
    (busy.home / "jobs" / "job-00001" / "metrics.jsonl").unlink()

    assert status(busy)["learning"]["progress"] == 0.0


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
