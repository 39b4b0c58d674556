"""Engines and variants kept between runs, addressed by what they were made from.

An entry is a folder ``<kind>/<key>/`` with the files and a ``manifest.json`` that holds their
checksums. It appears by one rename, so that a crash leaves nothing half-made; an entry that does
not match its manifest is removed and made again. The least recently used go first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
DEFAULT_MAX_BYTES = 20 * 10**9
_CHUNK = 1 << 20


def default_root() -> Path:
    """``$ENGINEPICK_CACHE``, or ``enginepick`` in the user's cache folder."""
    own = os.environ.get("ENGINEPICK_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enginepick"


def key_of(parts: Mapping[str, object]) -> str:
    """A content address: the sha256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The checksum of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def source_sha256(module: str) -> str:
    """Of a module's source, or of all of a package's: what it makes may change with its code."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return "unknown"
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return key_of({str(file.relative_to(origin.parent)): file_sha256(file) for file in files})


@dataclass(frozen=True)
class Entry:
    """What is kept under a key. meta: what the maker wants to know again."""

    folder: Path
    size_bytes: int
    used_at: float
    meta: Mapping[str, Any]


class Cache:
    """A folder of entries. Any number of processes may use it at once."""

    def __init__(self, root: Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.root = (root or default_root()).absolute()
        self.max_bytes = max_bytes
        self._in_use: set[Path] = set()

    def get(self, kind: str, key: str) -> Entry | None:
        """The entry, checked against its manifest, or None. A damaged one is removed."""
        folder = self.root / kind / key
        if not folder.is_dir():
            return None
        entry = _read(folder)
        if entry is None or not _is_intact(folder):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder / MANIFEST)
        self._in_use.add(folder)
        return entry

    def workdir(self) -> Path:
        """An empty folder on the cache's file system, to be given to :meth:`put`."""
        self.root.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="making-", dir=self.root))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the cache's file system that is removed at the end."""
        folder = self.workdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, kind: str, key: str, workdir: Path, meta: Mapping[str, Any]) -> Entry:
        """Keep what was made in ``workdir`` under a key, then evict what is too much."""
        files = {
            str(path.relative_to(workdir)): {
                "size": path.stat().st_size,
                "sha256": file_sha256(path),
            }
            for path in sorted(workdir.rglob("*"))
            if path.is_file()
        }
        (workdir / MANIFEST).write_text(json.dumps({"files": files, "meta": dict(meta)}, indent=1))
        folder = self.root / kind / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            workdir.rename(folder)
        except OSError:  # somebody else made it meanwhile
            shutil.rmtree(workdir, ignore_errors=True)
        self._in_use.add(folder)
        entry = _read(folder)
        if entry is None:
            raise FileNotFoundError(folder)
        self.evict()
        return entry

    def entries(self) -> list[Entry]:
        """All entries, the least recently used first."""
        found = [_read(path.parent) for path in self.root.glob(f"*/*/{MANIFEST}")]
        return sorted((entry for entry in found if entry), key=lambda entry: entry.used_at)

    def evict(self, max_bytes: int | None = None) -> list[Entry]:
        """Remove the least recently used entries over the cap; never those in use here."""
        cap = self.max_bytes if max_bytes is None else max_bytes
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        gone = []
        for entry in entries:
            if total <= cap:
                break
            if entry.folder in self._in_use:
                continue
            shutil.rmtree(entry.folder, ignore_errors=True)
            total -= entry.size_bytes
            gone.append(entry)
        return gone

    def clear(self) -> list[Entry]:
        """Remove everything, also what crashed makers left."""
        entries = self.entries()
        for path in self.root.glob("*"):
            if path.name.startswith("making-") or any(path.glob(f"*/{MANIFEST}")):
                shutil.rmtree(path, ignore_errors=True)
        return entries


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What a manifest that is JSON, and not ours, may raise."""


def _read(folder: Path) -> Entry | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        used_at = (folder / MANIFEST).stat().st_mtime
        size = sum(file["size"] for file in manifest["files"].values())
        return Entry(folder, size, used_at, manifest["meta"])
    except (OSError, *_UNREADABLE):
        return None


def _is_intact(folder: Path) -> bool:
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(
            (folder / name).stat().st_size == file["size"]
            and file_sha256(folder / name) == file["sha256"]
            for name, file in files.items()
        )
    except (OSError, *_UNREADABLE):
        return False
