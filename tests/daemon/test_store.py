import json
import uuid
from pathlib import Path

import fsspec
import pytest

from daemon.check import findings
from daemon.config import Config
from daemon.registry import MANIFEST, Registry, RegistryError, verify_files
from daemon.store import Store, StoreError, fetch, open_store
from tests.daemon.versions import version


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home" / "models")


@pytest.fixture(params=["file", "path", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "another place"
    return {"file": folder.as_uri(), "path": str(folder), "memory": f"memory://{uuid.uuid4()}/models/"}[request.param]


@pytest.fixture
def to(tmp_path: Path) -> Path:
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder


def stored(store: Store, name: str, content: bytes) -> None:
    """Something else than was put there."""
    with fsspec.open(store.url.replace("%20", " ") + f"/v1/{name}", "wb") as file:
        file.write(content)


def test_what_was_put_is_fetched_whole(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)

    fetch(store.uri("v1"), "v1", made.sha256, to)

    verify_files(to, made)
    assert sorted(path.name for path in to.iterdir()) == ["config.json", MANIFEST, "model.safetensors"]


def test_a_path_becomes_a_url_that_means_the_same_elsewhere(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Store("models/live").uri("v1") == (tmp_path / "models" / "live" / "v1").as_uri()


def test_what_is_there_already_is_not_written_again(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)
    (registry.path("v1") / "model.safetensors").unlink()

    store.put(registry.path("v1"), made)


def test_what_was_left_half_is_put_again(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    weights = registry.path("v1") / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    with pytest.raises(StoreError):
        store.put(registry.path("v1"), made)
    with pytest.raises(StoreError, match=f"{store.uri('v1')} is not there"):
        fetch(store.uri("v1"), "v1", made.sha256, to)

    weights.write_bytes(kept)
    store.put(registry.path("v1"), made)

    fetch(store.uri("v1"), "v1", made.sha256, to)


def test_a_manifest_that_was_cut_short_is_put_again(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)
    stored(store, MANIFEST, (registry.path("v1") / MANIFEST).read_bytes()[:50])

    store.put(registry.path("v1"), made)

    fetch(store.uri("v1"), "v1", made.sha256, to)


def test_another_model_of_that_name_is_not_overwritten(registry: Registry, url: str, tmp_path: Path, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)
    other = Registry(tmp_path / "other" / "models")
    others = version(other, 1, b"others")

    with pytest.raises(StoreError, match=r"versions are never rewritten; set registry\.url"):
        store.put(other.path("v1"), others)
    fetch(store.uri("v1"), "v1", made.sha256, to)


def test_a_damaged_file_is_named(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)
    stored(store, "model.safetensors", b"weights 2")

    with pytest.raises(RegistryError, match=f"{store.uri('v1')}/model.safetensors is corrupt"):
        fetch(store.uri("v1"), "v1", made.sha256, to)


def test_another_version_than_the_announced_one_is_refused(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)

    with pytest.raises(RegistryError, match=f"v1: announced with sha256 {'f' * 64}, .* has {made.sha256}"):
        fetch(store.uri("v1"), "v1", "f" * 64, to)
    with pytest.raises(RegistryError, match="is of version 'v1'"):
        fetch(store.uri("v1"), "v2", made.sha256, to)


@pytest.mark.parametrize(
    "name", ["../escaped", "/escaped", "..", ".hidden", "a/../../escaped", "..\\escaped", "a\0b", "", "x" * 300]
)
def test_a_manifest_that_names_a_path_is_refused(registry: Registry, url: str, to: Path, name: str) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)
    forged = json.loads(made.model_dump_json()) | {"files": {name: made.files["config.json"]}}
    stored(store, MANIFEST, json.dumps(forged).encode())
    stored(store, "../escaped", b"{}")

    with pytest.raises(RegistryError, match=f"{store.uri('v1')}/{MANIFEST} is corrupt: files"):
        fetch(store.uri("v1"), "v1", made.sha256, to)
    assert not (to.parent / "escaped").exists()


def test_a_manifest_made_to_fit_other_files_is_refused(registry: Registry, url: str, to: Path) -> None:
    made, store = version(registry, 1), Store(url)
    store.put(registry.path("v1"), made)
    forged = made.model_copy(update={"files": {"config.json": made.files["config.json"]}})
    stored(store, MANIFEST, forged.model_dump_json().encode())

    with pytest.raises(RegistryError, match="its sha256 is not that of its files"):
        fetch(store.uri("v1"), "v1", made.sha256, to)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("simplecache::file:///tmp", "chained URLs are not followed"),
        ("sftp://me:secret@models.example/v", "leave it to the environment"),
        ("s3://[models", "cannot be reached: ValueError"),
        ("nosuch://models", "cannot be reached: ValueError"),
        ("", "cannot be reached|is not there"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_no_secret_is_told(url: str, why: str, to: Path) -> None:
    with pytest.raises(StoreError, match=why) as refusal:
        fetch(url, "v1", "0" * 64, to)
    assert "secret" not in str(refusal.value)


def test_the_registrys_own_folder_is_no_store(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def store(url: str) -> Store | None:
        return open_store(Config.model_validate({"home": home, "registry": {"url": url}}))

    assert store("") is None
    assert store(str(home / "models")) is None
    assert store((home / "models").as_uri() + "/") is None
    assert store(str(tmp_path / "elsewhere")) is not None


def test_check_says_whether_the_store_can_be_used(config: Config, tmp_path: Path) -> None:
    def said(url: str) -> list[tuple[bool, str]]:
        changed = config.model_copy(update={"registry": config.registry.model_copy(update={"url": url})})
        return [found for found in findings(changed) if found.sentence.startswith(("store", "registry.url"))]

    assert said("") == []
    assert said(str(tmp_path / "to be made"))[0][0]
    ok, sentence = said("nosuch://models")[0]
    assert not ok
    assert "Protocol not known: nosuch" in sentence
