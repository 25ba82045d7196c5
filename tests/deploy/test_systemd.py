import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.conftest import Run


@pytest.fixture
def unit(deploy: Path, tmp_path: Path) -> Path:
    """The unit, starting a program that exists here: verify looks for it."""
    path = tmp_path / "relearnd.service"
    text = (deploy / "systemd" / "relearnd.service").read_text()
    path.write_text(text.replace("/opt/relearnd/.venv/bin/relearnd", "/bin/true"))
    return path


def test_systemd_has_nothing_to_say_against_the_unit(unit: Path, run: Run) -> None:
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


def test_systemd_has_nothing_to_say_against_the_gpu_drop_in(unit: Path, deploy: Path, run: Run) -> None:
    drop_ins = unit.parent / "relearnd.service.d"
    drop_ins.mkdir()
    shutil.copy(deploy / "systemd" / "gpu.conf", drop_ins)
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


def test_the_service_is_well_confined(unit: Path, run: Run) -> None:
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert exposure is not None
    # Out of 10; what is left is the network, and machine code that torch writes.
    assert float(exposure[1]) <= 2.0


def test_the_unit_starts_what_is_installed(deploy: Path) -> None:
    unit = (deploy / "systemd" / "relearnd.service").read_text()
    assert "Type=notify\n" in unit
    assert "ExecStart=/opt/relearnd/.venv/bin/relearnd run --config /etc/relearnd/relearnd.yaml\n" in unit
    # torch writes and runs machine code.
    assert not re.search(r"^MemoryDenyWriteExecute", unit, re.MULTILINE)
