"""A champion is announced once its files are where scorers are told to look."""

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.champion import Reign
from daemon.config import Config
from daemon.metrics import Metrics
from daemon.outbox import Outbox
from daemon.publisher import Publisher
from daemon.records import ModelAnnouncement
from daemon.registry import Registry
from daemon.state import open_state
from daemon.store import Store, fetch
from tests.daemon.test_scorer import wait_for
from tests.daemon.versions import version

CONFIG = Config()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_state(tmp_path / "home" / "state.db")
    yield db
    db.close()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "home" / "models")
    for number in (1, 2):
        version(registry, number)
    return registry


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4()}"


def come_up(db: sqlite3.Connection, registry: Registry, url: str, metrics: Metrics | None = None) -> Reign:
    """As a controller does at its start."""
    publisher = Publisher(Store(url), registry, metrics or Metrics("0")) if url else None
    return Reign(db, CONFIG, registry, publisher)


def crown(reign: Reign, registry: Registry, name: str) -> None:
    reign.crown(registry.manifest(name), 1.0, because="asked for", newest_example=1)


def announced(db: sqlite3.Connection) -> list[tuple[str, str, str]]:
    said = [ModelAnnouncement.model_validate_json(message.value) for _, message in Outbox(db).waiting()]
    return [(one.version, one.state, one.uri) for one in said]


def announces(reign: Reign, db: sqlite3.Connection, count: int) -> bool:
    """One step of the controller; whether there are that many announcements now."""
    reign.announce()
    return len(announced(db)) == count


def test_a_champion_is_announced_when_its_files_are_in_the_store(
    db: sqlite3.Connection, registry: Registry, url: str, tmp_path: Path
) -> None:
    reign = come_up(db, registry, url)
    crown(reign, registry, "v1")
    wait_for(lambda: announces(reign, db, 1))
    (tmp_path / "fetched").mkdir()

    fetch(f"{url}/v1", "v1", registry.manifest("v1").sha256, tmp_path / "fetched")

    crown(reign, registry, "v2")
    wait_for(lambda: announces(reign, db, 3))
    reign.announce()
    assert announced(db) == [
        ("v1", "champion", f"{url}/v1"),
        ("v1", "retired", f"{url}/v1"),
        ("v2", "champion", f"{url}/v2"),
    ]


def test_while_the_store_is_away_the_old_champion_stands_and_then_the_new_one_is_announced_once(
    db: sqlite3.Connection, registry: Registry, tmp_path: Path
) -> None:
    metrics, store = Metrics("0"), tmp_path / "store"
    store.write_text("not a folder")
    reign = come_up(db, registry, str(store), metrics)
    crown(reign, registry, "v1")
    wait_for(lambda: reign.announce() or metrics.registry.get_sample_value("relearnd_model_publish_failures_total"))
    assert announced(db) == []

    # The decision is in the state, so another controller goes on with it.
    store.unlink()
    again = come_up(db, registry, str(store))
    assert again.champion is not None
    assert again.champion.version == "v1"
    wait_for(lambda: announces(again, db, 1))
    once_more = come_up(db, registry, str(store))
    once_more.announce()
    assert announced(db) == [("v1", "champion", f"{store.as_uri()}/v1")]


def test_a_champion_taken_back_before_it_was_announced_never_is(
    db: sqlite3.Connection, registry: Registry, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    reign = come_up(db, registry, str(store))
    crown(reign, registry, "v1")
    wait_for(lambda: announces(reign, db, 1))
    (store / "v2").write_text("in the way")
    crown(reign, registry, "v2")
    reign.roll_back(2.0, cause="manual", because="asked for")
    (store / "v2").unlink()

    reign.announce()
    assert [(name, state) for name, state, _ in announced(db)] == [("v1", "champion")]


def test_a_champion_is_announced_again_from_where_the_store_is_now(
    db: sqlite3.Connection, registry: Registry, url: str
) -> None:
    crown(come_up(db, registry, ""), registry, "v1")

    moved = come_up(db, registry, url)
    wait_for(lambda: announces(moved, db, 2))

    assert announced(db) == [
        ("v1", "champion", registry.path("v1").resolve().as_uri()),
        ("v1", "champion", f"{url}/v1"),
    ]
