"""``engine.json``: what a backend says of its engine, beside it, since engines are opened by path.

A dataclass of defaults that hold for an engine that isn't ours. With the engine's checksum, which
tells whether it belongs to a file that was moved.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Optional, TypeVar

from harness.errors import BackendError
from harness.types import Engine
from harness.wire import decode, encode

FILE = "engine.json"

T = TypeVar("T")


def write(about: object, engine: Path) -> None:
    """Write a dataclass beside an engine's file, which is there already."""
    values = {"sha256": _sha256(engine), "about": encode(about)}
    text = json.dumps(values, indent=1)
    engine.with_name(FILE).write_text(text + "\n", encoding="utf-8")


def beside(kind: type[T], engine: Engine) -> T:
    """What was written beside an engine, else the defaults. Raises BackendError."""
    path = Path(engine.path).with_name(FILE)
    if not path.is_file():
        return kind()
    try:
        return decode(kind, json.loads(path.read_text(encoding="utf-8"))["about"])
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"{path} is of another version of EnginePick: {error}") from error


def said_of(kind: type[T], file: Path) -> Optional[T]:
    """What was written for this very file, wherever it came from; None if nothing was."""
    try:
        values = json.loads(file.with_name(FILE).read_text(encoding="utf-8"))
        return decode(kind, values["about"]) if values["sha256"] == _sha256(file) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def adopt(kind: type[T], source: Path, folder: Path, *more: Path) -> Engine:
    """A user's own engine, unchanged, with ``more`` of its files and what we said of it, if so."""
    found = [source, *more]
    if said_of(kind, source) is not None:
        found.append(source.with_name(FILE))
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return engine_of(folder, *(path.name for path in found))


def engine_of(folder: Path, *files: str, notes: tuple[str, ...] = ()) -> Engine:
    """The engine that these files in a folder are; the first is the one that is opened."""
    size = sum((folder / name).stat().st_size for name in files)
    return Engine(str(folder / files[0]), files, size, notes)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
