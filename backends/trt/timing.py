"""The builder's measurements of kernels, kept between builds: TensorRT's timing cache."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backends.trt.library import Library

if TYPE_CHECKING:
    import tensorrt as trt


def file_for(library: Library, gpu: str) -> Path:
    """Where the measurements of a library's version on a GPU model are kept.

    gpu: its name with its compute capability.
    """
    own = os.environ.get("ENGINEPICK_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enginepick"
    name = re.sub(r"[^a-z0-9.]+", "-", f"{library.name}-{library.version}-{gpu}".lower())
    return (Path(own) if own else user) / "tensorrt" / f"{name.strip('-')}.timing"


def use(config: trt.IBuilderConfig, file: Path) -> bool:
    """Give the builder what is known, and room for more; whether the file was of use.

    A file that is damaged, of another device, or that can't be read is left aside: TensorRT checks
    it.
    """
    known = b""
    with suppress(OSError):
        known = file.read_bytes()
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return bool(content)
    return False


def keep(config: trt.IBuilderConfig, file: Path) -> None:
    """Write what is known now; builds side by side don't disturb each other.

    Where that can't be written, the next build takes its time again, no more.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(cache.serialize())
            Path(name).replace(file)
        except OSError:
            Path(name).unlink(missing_ok=True)
