"""Model versions on disk: written once, checked by sha256, never rewritten."""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from daemon.errors import RelearndError
from learners.disk import fsync
from learners.methods.names import PRIORS

MANIFEST = "manifest.json"

#: Read size while hashing: large enough that Python's overhead is lost in the hashing.
CHUNK = 1 << 20


#: The name of a file in a version's folder: never a path out of it, and never a hidden file.
FileName = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00][^/\\\x00]*$", max_length=255)]


class RegistryError(RelearndError):
    """A version is missing or not what its manifest says; the message says which file and what to do."""


class Manifest(BaseModel):
    """What a version is and where it came from. `sha256` is over the names and hashes of all its files.

    It was judged beside `parent`, and learned on from that, or from what learned its weights where that only follows
    the label mix; or else from `challenger`, a candidate that never went live. To one that only follows the label mix
    each label is so much likelier as `odds` say than to what learned its weights.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    parent: str | None
    challenger: str | None = None
    created_at: AwareDatetime
    job: str
    trigger: str
    method: str
    labels: list[str]
    data_sha256: str
    seed: int
    files: dict[FileName, str]
    sha256: str
    decision: dict[str, Any]
    odds: dict[str, float] | None = None


class Registry:
    """The folder `models/`: one folder a version, each with a manifest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, version: str) -> Path:
        return self.directory / version

    def manifests(self) -> list[Manifest]:
        """All versions, oldest first."""
        return sorted(
            map(self.manifest, self._versions()),
            key=lambda manifest: (manifest.created_at, len(manifest.version), manifest.version),
        )

    def manifest(self, version: str) -> Manifest:
        """Where `version` came from.

        Raises:
            RegistryError: there is no such version, or its manifest is not one.
        """
        # A version comes from people too (`models promote`): it is looked up, never made a path of.
        if version not in self._versions():
            known = ", ".join(sorted(self._versions())) or "none"
            raise RegistryError(f"{version!r}: no such version in {self.directory}; there are: {known}")
        path = self.path(version) / MANIFEST
        return parse_manifest(path.read_bytes(), version, path)

    def has(self, version: str) -> bool:
        return version in self._versions()

    def holds(self, version: str, sha256: str) -> bool:
        """Whether `version` is here and is the one announced as `sha256`."""
        return self.has(version) and self.manifest(version).sha256 == sha256

    def alike(self, version: str) -> Iterator[str]:
        """The version, and those that it came of by doing nothing but following the label mix: it has their weights."""
        yield version
        while self.has(version) and (made := self.manifest(version)).method == PRIORS:
            version = made.parent or ""
            yield version

    def learned(self, version: str) -> str:
        """The version, still here, that learned what this one knows: itself, unless it only follows the label mix."""
        *_, learned = filter(self.has, self.alike(version))
        return learned

    def _versions(self) -> list[str]:
        # Hidden folders are copies that were not finished.
        return [path.parent.name for path in self.directory.glob(f"[!.]*/{MANIFEST}")]

    def add(
        self,
        candidate: Path,
        *,
        version: str,
        parent: str | None,
        challenger: str | None = None,
        created_at: datetime,
        job: str,
        trigger: str,
        method: str,
        labels: list[str],
        data_sha256: str,
        seed: int,
        decision: dict[str, Any],
        odds: dict[str, float] | None = None,
    ) -> Manifest:
        """Move the folder `candidate` in as `version`; a second call for the same job finds it done.

        Raises:
            RegistryError: another job's model has that version already.
        """
        target = self.path(version)
        if target.exists():
            existing = self.manifest(version)
            if existing.job != job:
                raise RegistryError(f"{version} exists already, from {existing.job}; versions are never rewritten")
            return existing
        files = {path.name: sha256_of(path) for path in sorted(candidate.iterdir()) if path.name != MANIFEST}
        manifest = Manifest(
            version=version,
            parent=parent,
            challenger=challenger,
            created_at=created_at,
            job=job,
            trigger=trigger,
            method=method,
            labels=labels,
            data_sha256=data_sha256,
            seed=seed,
            files=files,
            sha256=_digest(files),
            decision=decision,
            odds=odds,
        )
        (candidate / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        self.directory.mkdir(parents=True, exist_ok=True)
        _move_in(candidate, target)
        return manifest

    def verify(self, version: str, sha256: str | None = None) -> Path:
        """The version's folder, once every file in it is what the manifest says.

        Raises:
            RegistryError: a file is missing or changed, or the version is not the one announced as `sha256`.
        """
        manifest = self.manifest(version)
        if sha256 is not None and manifest.sha256 != sha256:
            raise RegistryError(f"{version}: announced with sha256 {sha256}, the registry has {manifest.sha256}")
        verify_files(self.path(version), manifest)
        return self.path(version)


def parse_manifest(content: bytes, version: str, where: object) -> Manifest:
    """The manifest of `version`, read at `where`: sound in itself, its files not looked at.

    Raises:
        RegistryError: it is none, or another version's.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise RegistryError(f"{where} is corrupt: {field}: {first['msg']}; restore it or its folder") from error
    if manifest.version != version:
        raise RegistryError(f"{where} is of version {manifest.version!r}; a version's folder has its name")
    return manifest


def verify_files(directory: Path, manifest: Manifest, where: object = None) -> None:
    """Every file in `directory` is what `manifest` says, and so is the manifest; they came from `where`.

    Raises:
        RegistryError: a file is missing or changed, or the manifest's sha256 is not that of its files.
    """
    where = where or directory
    if _digest(manifest.files) != manifest.sha256:
        raise RegistryError(
            f"{where}/{MANIFEST} is corrupt (its sha256 is not that of its files); restore it or its folder"
        )
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise RegistryError(f"{where}/{name} is missing; restore it or promote another version")
        if sha256_of(path) != expected:
            raise RegistryError(f"{where}/{name} is corrupt (sha256 differs); restore it or promote another version")


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(files: dict[str, str]) -> str:
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _move_in(candidate: Path, target: Path) -> None:
    """Rename within a file system; across two, copy beside the target first, so that it appears whole.

    It is on the disk before it has its name, and has that before the state that names it is committed.
    """
    _flush_files(candidate)
    try:
        candidate.rename(target)
    except OSError:
        aside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(candidate, aside)
        _flush_files(aside)
        aside.rename(target)
    fsync(target.parent)


def _flush_files(directory: Path) -> None:
    for path in [*directory.iterdir(), directory]:
        fsync(path)
