"""A user's own TensorRT engine, taken as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Optional

from backends import enginefile
from backends.trt.about import ENGINE, About
from backends.trt.library import NAMES
from backends.trt.options import parse
from harness.backend import BuildRequest
from harness.types import Engine, Precision

_VERSION_AT = 24  # of an engine's header: where trtexec --getPlanVersionOnly reads it, four bytes


def adopted(request: BuildRequest, folder: Path) -> Engine:
    """A user's engine as it is, with what we said when we made it, or else its header says."""
    shutil.copyfile(request.model, folder / ENGINE)
    about = enginefile.said_of(About, Path(request.model))
    if about is not None:
        told = f"an engine that enginepick built: {about.library} {about.version}, {about.mode}"
        return _kept(about, folder, told)
    with (folder / ENGINE).open("rb") as stream:
        version = _plan_version(stream.read(_VERSION_AT + 4))
    library = _library_of(version) or parse(request.options).library
    about = About(library=library, version=version, precision=Precision.AS_IS)
    made = f"made by {library} {version}" if version else "of an unknown version of TensorRT"
    return _kept(about, folder, f"an engine of the user's, {made}")


def _kept(about: About, folder: Path, note: str) -> Engine:
    enginefile.write(about, folder / ENGINE)
    return enginefile.engine_of(folder, ENGINE, enginefile.FILE, notes=(note,))


def _plan_version(header: bytes) -> Optional[str]:
    """The version in an engine's header (``10.16.1.11``), None for a file that isn't an engine."""
    if header[1:4] != b"trt" or len(header) < _VERSION_AT + 4:
        return None
    return ".".join(str(number) for number in header[_VERSION_AT : _VERSION_AT + 4])


def _library_of(version: Optional[str]) -> Optional[str]:
    """TensorRT-RTX counts from 1; full TensorRT was at 10 by then."""
    if version is None:
        return None
    return NAMES[int(version.partition(".")[0]) < 8]  # noqa: PLR2004
