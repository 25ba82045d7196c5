"""A scorer's own copies of the versions that it fetched: checked before they are loaded, and few."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from daemon.records import ModelAnnouncement
from daemon.registry import MANIFEST, RegistryError, parse_manifest, verify_files
from daemon.store import StoreError, fetch

log = structlog.get_logger(__name__)

#: Copies that stay: the champion's and its predecessor's, for a rollback.
KEPT = 2


class Cache:
    """The folder `directory` with one folder a version, named by its sha256. Scorers of one home share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fetch(self, announced: ModelAnnouncement) -> Path:
        """The folder of the announced version, every file of it checked; fetched unless it is here and whole.

        Raises:
            StoreError: it cannot be fetched, or kept here.
            RegistryError: what the store has is not whole, or not what was announced.
        """
        # It comes from a topic and becomes the name of a folder.
        if not re.fullmatch("[0-9a-f]{64}", announced.sha256):
            raise StoreError(f"{announced.version}: announced with sha256 {announced.sha256!r}, which is none")
        copy = self._directory / announced.sha256
        try:
            with self._alone():
                if not self._is_whole(copy, announced.version):
                    self._fetch(announced, copy)
        except OSError as error:
            raise StoreError(f"{copy}: no copy of {announced.uri} can be kept here: {error.strerror}") from error
        return copy

    def keep(self, sha256: str) -> None:
        """Note that the version with `sha256` scores now: it and the one before stay, the others go.

        Raises:
            StoreError: they cannot be removed.
        """
        try:
            with self._alone():
                copy = self._directory / sha256
                if copy.is_dir():
                    os.utime(copy)
                for old in sorted(self._copies(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                    shutil.rmtree(old)
        except OSError as error:
            raise StoreError(f"{self._directory}: old copies cannot be removed: {error.strerror}") from error

    def _is_whole(self, copy: Path, version: str) -> bool:
        if not copy.is_dir():
            return False
        try:
            manifest = parse_manifest((copy / MANIFEST).read_bytes(), version, copy / MANIFEST)
            if manifest.sha256 != copy.name:
                raise RegistryError(f"{copy} has sha256 {manifest.sha256}")
            verify_files(copy, manifest)
        except (RegistryError, FileNotFoundError) as error:
            log.warning("copy damaged", version=version, because=str(error))
            shutil.rmtree(copy)
            return False
        return True

    def _fetch(self, announced: ModelAnnouncement, copy: Path) -> None:
        # Nobody else is here, so what is hidden was left by a process that died.
        for left in self._directory.glob(".*.partial"):
            shutil.rmtree(left)
        partial = copy.with_name(f".{copy.name}.partial")
        partial.mkdir()
        try:
            fetch(announced.uri, announced.version, announced.sha256, partial)
            partial.rename(copy)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        # Its age counts from when it scores: one that never loads must not push out the predecessor.
        os.utime(copy, (0, 0))

    def _copies(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if not path.name.startswith(".")]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other scorer of this home is in this block."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
