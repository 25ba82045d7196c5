"""A small daemon: a tiny real model fitted once, and homes that begin with it."""

import shutil
from pathlib import Path

import pytest

from daemon.config import Config
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
