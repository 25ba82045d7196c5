"""Versions for tests of where they go: made-up files, and further versions of a real model."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.records import ModelAnnouncement
from daemon.registry import Manifest, Registry

MADE = datetime(2025, 1, 1, tzinfo=UTC)


def version(registry: Registry, number: int, weights: bytes = b"") -> Manifest:
    """Version `number`, whose files are no model."""
    folder = registry.directory.with_name("candidate")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights or b"weights %d" % number)
    (folder / "config.json").write_text("{}")
    return _add(registry, folder, number)


def another(registry: Registry, number: int) -> Manifest:
    """Version `number`: the real model v1 again, with a file that makes it another version."""
    folder = registry.directory.with_name("candidate")
    shutil.copytree(registry.path("v1"), folder)
    (folder / "number.txt").write_text(str(number))
    return _add(registry, folder, number)


def _add(registry: Registry, folder: Path, number: int) -> Manifest:
    return registry.add(
        folder,
        version=f"v{number}",
        parent=f"v{number - 1}" if number > 1 else None,
        created_at=MADE + timedelta(days=number),
        job=f"job-{number:05d}",
        trigger="labels",
        method="replay",
        labels=["down", "up"] if not registry.has("v1") else registry.manifest("v1").labels,
        data_sha256="0" * 64,
        seed=0,
        decision={"because": "better"},
    )


def announcement(manifest: Manifest, uri: str) -> ModelAnnouncement:
    return ModelAnnouncement(version=manifest.version, uri=uri, sha256=manifest.sha256, state="champion")
