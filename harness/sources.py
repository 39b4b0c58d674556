"""What ``--data`` and ``--calibration`` can name, and how each kind becomes a data set on disk.

Runs in a child process: functions are the user's, and images need Pillow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from harness import datasets, images
from harness.datasets import DataRef
from harness.functions import is_function
from harness.images import Preprocessing
from harness.types import TensorSpec


@dataclass(frozen=True)
class Source:
    """What the user named, and what it takes to read it.

    where: the option that problems name. inputs: the model's, which images are made for.
    declared: the preprocessing of images, if any. spool_folder: where data are written.
    """

    name: str
    where: str
    inputs: Sequence[TensorSpec]
    declared: Optional[Preprocessing] = None
    spool_folder: Optional[str] = None


def _function(source: Source, folder: str) -> None:
    datasets.spool(source.name, folder, source.where)


def _images(source: Source, folder: str) -> None:
    images.spool(source.name, folder, source.where, source.declared, source.inputs)


SPOOLED: tuple[tuple[Callable[[str], bool], Callable[[Source, str], None]], ...] = (
    (is_function, _function),
    (images.is_folder, _images),
)
"""(is it this kind, write it into a folder as shards). All else is an .npz or a folder of them."""


def find(source: Source) -> DataRef:
    """The data set of that name; spooled first, into a folder of its own, where it isn't one.

    Raises InputError with all that is wrong with it, ValueError where there is no spool folder.
    """
    for is_kind, spool in SPOOLED:
        if is_kind(source.name):
            if source.spool_folder is None:
                raise ValueError(f"{source.name} needs a folder to be spooled into")
            Path(source.spool_folder).mkdir(parents=True, exist_ok=True)
            prefix = f"{source.where.strip('-')}-"
            folder = tempfile.mkdtemp(prefix=prefix, dir=source.spool_folder)
            spool(source, folder)
            return replace(datasets.resolve(folder, source.where), source=source.name)
    return datasets.resolve(source.name, source.where)
