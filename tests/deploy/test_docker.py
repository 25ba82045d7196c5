"""The image cannot be built here (there is no Docker); these hold what reading it can hold."""

import re
from pathlib import Path

import pytest

from tests.deploy.conftest import Run

REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==\S+", re.MULTILINE)


@pytest.fixture
def lines(deploy: Path) -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    text = (deploy / "docker" / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [re.sub(r"\s+", " ", line) for line in text.splitlines() if line]


def test_the_base_image_is_pinned_and_the_same_in_both_stages(lines: list[str]) -> None:
    (image,) = (line for line in lines if line.startswith("ARG PYTHON_IMAGE="))
    assert re.fullmatch(r"ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+", image)
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${PYTHON_IMAGE} AS build",
        "FROM ${PYTHON_IMAGE}",
    ]


def test_the_lock_is_installed_with_its_hashes_and_nothing_else_is_resolved(lines: list[str]) -> None:
    installs = [line for line in lines for _ in re.findall("pip install", line)]
    assert all("--no-deps" in line for line in installs)
    assert "RUN pip install --require-hashes --no-deps --no-build-isolation -r wanted.lock" in installs


def test_it_does_not_run_as_root(lines: list[str]) -> None:
    final = lines[lines.index("FROM ${PYTHON_IMAGE}") :]
    (user,) = (line for line in final if line.startswith("USER "))
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)
    assert final.index(user) < next(i for i, line in enumerate(final) if line.startswith("ENTRYPOINT"))


def test_nothing_is_fetched_by_add_and_no_secret_is_an_argument(lines: list[str]) -> None:
    assert not [line for line in lines if line.startswith("ADD")]
    assert not [line for line in lines if re.match(r"(ARG|ENV)\b.*(TOKEN|PASSWORD|SECRET|KEY)\b", line)]


def test_only_what_the_image_is_built_from_gets_into_a_build(deploy: Path, lines: list[str]) -> None:
    ignored = (deploy.parent / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert ignored[1] == "*"
    copied = {
        source for line in lines if line.startswith("COPY") and "--from" not in line for source in line.split()[1:-1]
    }
    assert {source if source in allowed else str(Path(source).parent) for source in copied} == allowed


def test_the_cpu_variant_drops_cuda_and_only_that(deploy: Path, run: Run) -> None:
    lock = (deploy.parent / "requirements.lock").read_text()
    kept = run("awk", "-f", deploy / "docker" / "without-cuda.awk", deploy.parent / "requirements.lock")
    dropped = set(REQUIREMENT.findall(lock)) - set(REQUIREMENT.findall(kept))
    assert {"torch", "torchvision", "triton"} <= dropped
    assert all(re.match("nvidia-|cuda-", name) for name in dropped - {"torch", "torchvision", "triton"})
    assert not re.search("nvidia|cuda", kept)
    # No hash is left behind without its requirement.
    assert all(" \\\n    --hash=" in block for block in re.split(r"\n(?=[a-zA-Z])", kept) if REQUIREMENT.match(block))


def test_what_builds_the_wheel_is_pinned_by_hash_and_agrees_with_the_lock(deploy: Path) -> None:
    build = (deploy / "docker" / "build.lock").read_text()
    lock = (deploy.parent / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", build, re.MULTILINE))
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    assert "hatchling" in pins
    assert all(locked.get(name, version) == version for name, version in pins.items())
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", build) if not block.startswith("#"))
