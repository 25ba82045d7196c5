import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from daemon.cache import Cache
from daemon.registry import Manifest, Registry, RegistryError, verify_files
from daemon.store import Store, StoreError
from tests.daemon.versions import announcement, version


class Place:
    """A controller's registry and store, and a scorer's cache."""

    def __init__(self, directory: Path) -> None:
        self.registry = Registry(directory / "controller" / "models")
        self.store = Store(f"memory://{uuid.uuid4()}")
        self.directory = directory / "scorer" / "cache"
        self.cache = Cache(self.directory)

    def put(self, number: int) -> Manifest:
        made = version(self.registry, number)
        self.store.put(self.registry.path(made.version), made)
        return made

    def fetch(self, made: Manifest) -> Path:
        return self.cache.fetch(announcement(made, self.store.uri(made.version)))

    def withdraw(self, made: Manifest) -> None:
        files, path = fsspec.url_to_fs(self.store.uri(made.version))
        files.rm(path, recursive=True)

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_was_fetched_is_not_fetched_again(place: Place) -> None:
    made = place.put(1)
    copy = place.fetch(made)
    verify_files(copy, made)
    place.withdraw(made)

    assert place.fetch(made) == copy
    assert place.kept() == [made.sha256]


def test_a_copy_that_was_damaged_here_is_fetched_again(place: Place) -> None:
    made = place.put(1)
    (place.fetch(made) / "model.safetensors").write_bytes(b"rotten")

    verify_files(place.fetch(made), made)


def test_a_copy_of_something_else_is_fetched_again(place: Place) -> None:
    first, second = place.put(1), place.put(2)
    place.fetch(first)
    place.fetch(second)
    (place.directory / first.sha256).rename(place.directory / "aside")
    (place.directory / second.sha256).rename(place.directory / first.sha256)

    verify_files(place.fetch(first), first)


def test_what_cannot_be_fetched_leaves_nothing(place: Place) -> None:
    made = place.put(1)
    place.withdraw(made)
    with pytest.raises(StoreError, match="is not there"):
        place.fetch(made)

    broken = place.put(2)
    with fsspec.open(f"{place.store.uri('v2')}/model.safetensors", "wb") as file:
        file.write(b"rotten")
    with pytest.raises(RegistryError, match="corrupt"):
        place.fetch(broken)
    assert place.kept() == []


def test_what_a_killed_scorer_left_is_removed(place: Place) -> None:
    made = place.put(1)
    left = place.directory / f".{'0' * 64}.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")

    place.fetch(made)

    assert place.kept() == [made.sha256]


def test_the_champion_and_its_predecessor_stay(place: Place) -> None:
    made = [place.put(number) for number in (1, 2, 3)]
    for one in made:
        place.fetch(one)
        place.cache.keep(one.sha256)
    assert place.kept() == sorted(one.sha256 for one in made[1:])

    # Fetched and never loaded: it counts for less than those that scored.
    place.fetch(place.put(4))
    last = place.put(5)
    place.fetch(last)
    place.cache.keep(last.sha256)
    assert place.kept() == sorted([made[2].sha256, last.sha256])

    place.fetch(made[2])
    place.cache.keep(made[2].sha256)
    assert place.kept() == sorted([made[2].sha256, last.sha256])


def test_a_champion_that_was_not_fetched_changes_nothing(place: Place) -> None:
    place.cache.keep("0" * 64)

    assert place.kept() == []


@pytest.mark.parametrize("sha256", ["", "..", "../../escaped", "/etc", "F" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_sha256_never_becomes_a_path(place: Place, sha256: str) -> None:
    made = place.put(1).model_copy(update={"sha256": sha256})

    with pytest.raises(StoreError, match="which is none"):
        place.fetch(made)
    assert not place.directory.exists()


def test_a_folder_that_cannot_be_written_is_named(place: Place) -> None:
    place.directory.parent.mkdir(parents=True)
    place.directory.write_text("a file")

    with pytest.raises(StoreError, match=f"{place.directory}.*no copy of {place.store.uri('v1')} can be kept here"):
        place.fetch(place.put(1))


def test_scorers_of_one_home_fetch_once_and_load_the_same(place: Place) -> None:
    made = place.put(1)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(place.fetch(made))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [place.directory / made.sha256] * 4
    verify_files(found[0], made)
