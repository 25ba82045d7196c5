import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.registry import MANIFEST, Manifest, Registry, RegistryError

MADE = datetime(2025, 1, 1, tzinfo=UTC)


def candidate(directory: Path, weights: bytes = b"weights") -> Path:
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(weights)
    (directory / "config.json").write_text("{}")
    return directory


def add(
    registry: Registry,
    folder: Path,
    version: str = "v1",
    *,
    parent: str | None = None,
    job: str = "job-00001",
    created_at: datetime = MADE,
    method: str = "replay",
) -> Manifest:
    return registry.add(
        folder,
        version=version,
        parent=parent,
        created_at=created_at,
        job=job,
        trigger="labels",
        method=method,
        labels=["down", "up"],
        data_sha256="0" * 64,
        seed=3,
        decision={"because": "better"},
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def test_a_version_is_moved_in_whole_and_verifies(registry: Registry, tmp_path: Path) -> None:
    made = add(registry, candidate(tmp_path / "candidate"))

    assert not (tmp_path / "candidate").exists()
    assert registry.manifest("v1") == made
    assert registry.manifests() == [made]
    assert set(made.files) == {"model.safetensors", "config.json"}
    assert registry.verify("v1") == registry.verify("v1", made.sha256) == registry.path("v1")


def test_what_only_follows_the_label_mix_knows_what_the_one_learned_that_it_came_of(
    registry: Registry, tmp_path: Path
) -> None:
    for number, method in enumerate(["der", "priors", "priors", "der"], 1):
        parent = f"v{number - 1}" if number > 1 else None
        add(registry, candidate(tmp_path / "candidate"), f"v{number}", parent=parent, method=method)

    assert [registry.learned(f"v{number}") for number in (1, 2, 3, 4)] == ["v1", "v1", "v1", "v4"]
    assert list(registry.alike("v3")) == ["v3", "v2", "v1"]
    # The oldest that is still here speaks for those that somebody removed.
    shutil.rmtree(registry.path("v1"))
    assert registry.learned("v3") == "v2"


def test_adding_twice_for_the_same_job_finds_it_done(registry: Registry, tmp_path: Path) -> None:
    first = add(registry, candidate(tmp_path / "candidate"))

    # Killed after the move and before the commit: the folder has gone.
    assert add(registry, tmp_path / "candidate") == first
    assert add(registry, candidate(tmp_path / "candidate", b"others"), created_at=MADE + timedelta(days=1)) == first
    registry.verify("v1", first.sha256)


def test_another_job_cannot_have_the_version(registry: Registry, tmp_path: Path) -> None:
    first = add(registry, candidate(tmp_path / "candidate"))

    with pytest.raises(RegistryError, match="v1 exists already, from job-00001; versions are never rewritten"):
        add(registry, candidate(tmp_path / "candidate"), job="job-00002")
    registry.verify("v1", first.sha256)


def test_the_same_files_have_the_same_sha256_and_others_another(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, candidate(tmp_path / "one"), "v1")
    same = add(registry, candidate(tmp_path / "same"), "v2", job="job-00002")
    other = add(registry, candidate(tmp_path / "other", b"weight5"), "v3", job="job-00003")

    assert one.sha256 == same.sha256 != other.sha256


def test_a_file_that_is_missing_or_corrupt_is_named(registry: Registry, tmp_path: Path) -> None:
    made = add(registry, candidate(tmp_path / "candidate"))
    weights = registry.path("v1") / "model.safetensors"

    weights.write_bytes(b"weightz")
    with pytest.raises(RegistryError, match=f"{weights} is corrupt"):
        registry.verify("v1", made.sha256)
    weights.unlink()
    with pytest.raises(RegistryError, match=f"{weights} is missing"):
        registry.verify("v1", made.sha256)


def test_a_version_that_is_not_the_announced_one_does_not_verify(registry: Registry, tmp_path: Path) -> None:
    made = add(registry, candidate(tmp_path / "candidate"))

    with pytest.raises(RegistryError, match=f"announced with sha256 {'f' * 64}, the registry has {made.sha256}"):
        registry.verify("v1", "f" * 64)


def test_a_manifest_made_to_fit_changed_files_does_not_verify(registry: Registry, tmp_path: Path) -> None:
    made = add(registry, candidate(tmp_path / "candidate"))
    other = add(registry, candidate(tmp_path / "other", b"poison"), "v2", job="job-00002")
    shutil.copy(registry.path("v2") / "model.safetensors", registry.path("v1") / "model.safetensors")
    forged = made.model_copy(update={"files": other.files})
    (registry.path("v1") / MANIFEST).write_text(forged.model_dump_json())

    with pytest.raises(RegistryError, match="its sha256 is not that of its files"):
        registry.verify("v1", made.sha256)


@pytest.mark.parametrize(
    "version",
    [
        "v9",
        "",
        ".",
        "..",
        "../v1",
        "../../etc",
        "/etc",
        "v1/",
        "./v1",
        "v1/../v1",
        ".v1.partial",
        "v1\0",
        "v" * 5_000,
        "\udcff",
    ],
)
def test_a_name_that_is_no_version_is_refused_and_never_made_a_path_of(
    registry: Registry, tmp_path: Path, version: str
) -> None:
    add(registry, candidate(tmp_path / "candidate"))
    shutil.copytree(registry.path("v1"), registry.directory / ".v1.partial")
    shutil.copy(registry.path("v1") / MANIFEST, tmp_path / MANIFEST)

    with pytest.raises(RegistryError, match=r"no such version in .*; there are: v1$") as refusal:
        registry.manifest(version)
    str(refusal.value).encode()
    with pytest.raises(RegistryError, match="no such version"):
        registry.verify(version)


def test_copies_that_were_not_finished_are_no_versions(registry: Registry, tmp_path: Path) -> None:
    add(registry, candidate(tmp_path / "candidate"))
    shutil.copytree(registry.path("v1"), registry.directory / ".v2.partial")
    candidate(registry.directory / "v3")

    assert [manifest.version for manifest in registry.manifests()] == ["v1"]


def test_an_empty_registry_has_no_versions(registry: Registry) -> None:
    assert registry.manifests() == []
    with pytest.raises(RegistryError, match=r"'v1': no such version in .*; there are: none"):
        registry.manifest("v1")


def test_versions_come_oldest_first(registry: Registry, tmp_path: Path) -> None:
    for number, days in [(10, 1), (9, 1), (2, 0), (11, 0)]:
        made_at = MADE + timedelta(days=days)
        add(registry, candidate(tmp_path / f"{number}"), f"v{number}", job=f"job-{number}", created_at=made_at)

    assert [manifest.version for manifest in registry.manifests()] == ["v2", "v11", "v9", "v10"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "v1"}'])
def test_a_manifest_that_is_none_is_named(registry: Registry, tmp_path: Path, content: str) -> None:
    add(registry, candidate(tmp_path / "candidate"))
    path = registry.path("v1") / MANIFEST
    path.write_text(content)

    for ask in (registry.manifests, lambda: registry.manifest("v1"), lambda: registry.verify("v1")):
        with pytest.raises(RegistryError, match=f"{path} is corrupt: "):
            ask()


def test_a_version_under_another_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    add(registry, candidate(tmp_path / "candidate"))
    registry.path("v1").rename(registry.path("v7"))

    with pytest.raises(RegistryError, match=r"v7/manifest\.json is of version 'v1'"):
        registry.manifest("v7")


def test_a_candidate_on_another_file_system_is_copied_and_appears_whole(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = candidate(tmp_path / "candidate")
    stale = registry.directory / ".v1.partial"
    candidate(stale, b"half")
    rename = os.rename

    def across(source: str, target: str) -> None:
        if Path(source) == folder:
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    made = add(registry, folder)

    assert registry.verify("v1", made.sha256).is_dir()
    assert not stale.exists()
    assert (registry.path("v1") / "model.safetensors").read_bytes() == b"weights"


def test_a_manifest_from_a_candidate_does_not_count_as_one_of_its_files(registry: Registry, tmp_path: Path) -> None:
    folder = candidate(tmp_path / "candidate")
    (folder / MANIFEST).write_text(json.dumps({"version": "forged"}))

    assert MANIFEST not in add(registry, folder).files
    assert registry.manifest("v1").version == "v1"
