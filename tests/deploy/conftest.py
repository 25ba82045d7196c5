import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]


@pytest.fixture
def deploy() -> Path:
    return Path(__file__).parents[2] / "deploy"


@pytest.fixture
def run() -> Run:
    """Runs a command and returns all that it printed; skips where it is not installed, fails if it fails."""

    def run(*command: str | Path) -> str:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run
