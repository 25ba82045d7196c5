"""A small daemon: a tiny real model fitted once, and homes that begin with it."""

import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from connectors.kafka.settings import KafkaSettings
from daemon import topics
from daemon.cli import main
from daemon.config import Config, ConnectorConfig, TopicsConfig
from daemon.fit import fit
from daemon.memory import Labelled
from daemon.state import open_state
from tests.daemon.streams import settings
from tests.sentences import sentence


@pytest.fixture(scope="session")
def fitted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with version 1, which knows the formal words. Copy it; do not change it."""
    home = tmp_path_factory.mktemp("fitted")
    rows = []
    for number in range(240):
        text, label = sentence(number)
        rows.append(Labelled(f"base-{number}", text, label, "formal", None, 0.0))
    db = open_state(home / "state.db")
    fit(rows, db, settings(home, encoder), show=lambda _: None)
    db.close()
    return home


@pytest.fixture
def config(fitted: Path, encoder: Path, tmp_path: Path) -> Config:
    """The settings of a new home that begins with version 1."""
    shutil.copytree(fitted, tmp_path / "home")
    return settings(tmp_path / "home", encoder)


@pytest.fixture(params=["local", "jsonl", pytest.param("kafka", marks=pytest.mark.kafka)])
def connected(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """Settings by each connector, with empty topics that no other test has."""
    config = Config(home=tmp_path / "home", connector=ConnectorConfig(kind=request.param))
    if request.param != "kafka":
        return config
    own = uuid4().hex[:8]
    names = TopicsConfig(**{role: f"{name}-{own}" for role, name in config.topics})
    kafka = KafkaSettings(bootstrap_servers=request.getfixturevalue("kafka").bootstrap)
    config = Config(home=config.home, topics=names, connector=ConnectorConfig(kind="kafka", kafka=kafka))
    topics.create(config)
    return config


@pytest.fixture
def relearnd(capsys, monkeypatch):
    """Runs the command in this process; returns its exit status and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["relearnd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run
