"""Promoted versions at a URL, for scorers on other machines: put there by the controller, fetched by scorers.

Any place that fsspec reaches will do: a shared folder, S3, Google Cloud Storage. A version is a folder `URL/VERSION/`
like the registry's own, whose manifest is written last: where there is a manifest, the version is whole.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from daemon.config import Config
from daemon.errors import RelearndError
from daemon.registry import MANIFEST, Manifest, RegistryError, parse_manifest, verify_files
from learners.disk import fsync, sync


class StoreError(RelearndError):
    """A version cannot be put into the store or fetched from it; the message says which URL and why."""


class Store:
    """The folder `url` of versions.

    Raises:
        StoreError: nothing can be stored at such a URL.
    """

    def __init__(self, url: str) -> None:
        self._files, self._root = _open(url)
        self._local = isinstance(self._files, LocalFileSystem)
        # A local path may be given without a protocol, or from where we are; scorers are elsewhere.
        self.url = Path(self._root).as_uri() if self._local else url.rstrip("/")

    def uri(self, version: str) -> str:
        return f"{self.url}/{version}"

    def put(self, directory: Path, manifest: Manifest) -> None:
        """Copy the version in `directory` here, unless it is here already.

        Raises:
            StoreError: the store cannot be written, or has something else under that version.
        """
        uri, folder = self.uri(manifest.version), f"{self._root}/{manifest.version}"
        ours = (directory / MANIFEST).read_bytes()
        with _reaching(uri):
            there = self._files.exists(f"{folder}/{MANIFEST}")
            found = self._files.cat_file(f"{folder}/{MANIFEST}") if there else b""
        if found == ours:
            return
        # The head of our own is what a copy that was cut short leaves.
        if not ours.startswith(found):
            raise StoreError(
                f"{uri} is another model of that name, and versions are never rewritten; "
                "set registry.url to a folder of this home's own"
            )
        with _reaching(uri):
            if self._local:
                Path(folder).mkdir(parents=True, exist_ok=True)
            self._copy(directory, manifest.files, folder)
            self._copy(directory, [MANIFEST], folder)

    def check(self) -> None:
        """Raises StoreError when the folder cannot be listed; one that is not there yet will be made."""
        with _reaching(self.url):
            if self._files.exists(self._root):
                self._files.ls(self._root)

    def _copy(self, directory: Path, names: Iterable[str], folder: str) -> None:
        for name in names:
            self._files.put_file(str(directory / name), f"{folder}/{name}")
        if self._local:
            # The announcement of this version will outlive a power cut, so its files must too.
            sync(Path(folder))
            fsync(Path(folder))


def open_store(config: Config) -> Store | None:
    """Where promoted versions are put; None when that is the registry's own folder, where they are already.

    Raises:
        StoreError: nothing can be stored at `registry.url`.
    """
    if not config.registry.url:
        return None
    store, own = Store(config.registry.url), config.home / "models"
    return None if store.url in (own.absolute().as_uri(), own.resolve().as_uri()) else store


def fetch(uri: str, version: str, sha256: str, to: Path) -> None:
    """Fetch `version` from `uri` into the folder `to`, and check every file of it.

    Raises:
        StoreError: it cannot be fetched.
        RegistryError: it is not whole, or not the one announced as `sha256`.
    """
    files, root = _open(uri)
    with _reaching(uri):
        content = files.cat_file(f"{root}/{MANIFEST}")
    manifest = parse_manifest(content, version, f"{uri}/{MANIFEST}")
    if manifest.sha256 != sha256:
        raise RegistryError(f"{version}: announced with sha256 {sha256}, {uri} has {manifest.sha256}")
    (to / MANIFEST).write_bytes(content)
    for name in manifest.files:
        with _reaching(f"{uri}/{name}"):
            files.get_file(f"{root}/{name}", str(to / name))
    verify_files(to, manifest, uri)


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `url` and the path in it."""
    if "::" in url:
        raise StoreError(f"{url}: name the folder itself; chained URLs are not followed")
    with _reaching(url):
        parts = urlsplit(url)
    if parts.password:
        raise StoreError(
            f"registry.url at {parts.hostname} holds a password, and it is announced on the models topic; "
            "leave it to the environment or to fsspec's own configuration"
        )
    # fsspec takes the path of a file URL as it stands; what is escaped in one is a file's name all the same.
    place = unquote(parts.path) if parts.scheme == "file" else url
    with _reaching(url):
        files, root = fsspec.url_to_fs(place)
    return files, root.rstrip("/")


@contextmanager
def _reaching(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{where} is not there ({error})") from error
    except Exception as error:
        # Every file system raises errors of its own; what they have in common is that the store is not to be had now.
        raise StoreError(f"{where} cannot be reached: {type(error).__name__}: {error}") from error
