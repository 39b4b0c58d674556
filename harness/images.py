"""A folder of images as a data set, through a preprocessing that the user declares.

Nothing about it is guessed: a model that is fed other numbers than in training is wrong in silence.
The images are decoded and resized by Pillow, one at a time, and spooled into shards. What is read
how is documented in ``docs/data.md``.

:class:`Preprocessing` crosses the workers' pipe, so this imports on Python 3.9 with numpy alone.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from harness.datasets import LABELS, ShardWriter
from harness.errors import InputError, Problem, suggest
from harness.types import Array, TensorSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LABEL_FILE = "labels.csv"
COLUMNS = ("file", "label")
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float16", "float32", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
INSTALL = "pip install 'enginepick[images]'"

TABLE = """[images]
    resize = 256                     # the shorter side; or [height, width]
    crop = 224                       # from the centre
    channels = "rgb"
    scale = 255                      # (pixel / scale - mean) / std
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    layout = "nchw\""""
"""What ``sweep.toml`` says for a model trained as most are on ImageNet."""

_SHOWN = 20
"""Bad images that are named one by one."""

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits, which it would clip."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to each image, in this order.

    resize: () not at all, (shorter side,) keeping the proportions, or (height, width).
    interpolation: Pillow's filter, which averages where it shrinks (all but ``nearest``). crop:
    () or (height, width), from the centre. channels: their order, or ``gray``. scale, mean, std:
    ``(value / scale - mean) / std`` in float32; mean and std have one number, or one per channel.
    layout: of the model's input. dtype: None for the model's. classes: the names of subfolders in
    the order of the model's classes, or (classes_file) a file of them, one a line; neither: sorted.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, ...] = ()
    interpolation: str = "bilinear"
    crop: tuple[int, ...] = ()
    channels: str = "rgb"
    layout: str = "nchw"
    dtype: Optional[str] = None
    classes: tuple[str, ...] = ()
    classes_file: Optional[str] = None


@dataclass(frozen=True)
class ImageFile:
    """An image file. label: a class number, or what ``labels.csv`` says; None without labels."""

    path: Path
    label: Any = None


def is_folder(source: str) -> bool:
    """Whether a source is a folder of images: it has some, or a label file, and no shards."""
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.npz")):
        return False
    return (folder / LABEL_FILE).is_file() or next(_images_below(folder), None) is not None


def spool(
    source: str,
    folder: str,
    where: str,
    declared: Optional[Preprocessing],
    inputs: Sequence[TensorSpec],
) -> None:
    """Write the images of ``source`` into ``folder`` as shards.

    The same images and declaration give the same shards. Raises InputError for a folder without
    [images], for a model of several inputs, where Pillow is missing, and for all images that can't
    be read, by name.
    """
    if declared is None:
        what = f"{source} is a folder of images, and nothing says what is done to them"
        fix = f"add to sweep.toml what the model was trained with, such as:\n    {TABLE}"
        raise InputError([Problem("[images]", what, fix)])
    if len(inputs) != 1:
        what = f"a folder of images feeds one input; the model has {len(inputs)}"
        fix = "save arrays for all of them: np.savez(path, **{input_name: array})"
        raise InputError([Problem(where, what, fix)])
    try:
        import PIL  # noqa: F401 - whether it is there
    except ImportError as error:
        problem = Problem(where, "reading images needs Pillow, which isn't installed", INSTALL)
        raise InputError([problem]) from error
    images = find(source, where, declared)
    writer = ShardWriter(folder)
    problems = []
    for image in images:
        try:
            pixels = load(image.path, declared, declared.dtype or inputs[0].dtype)
        except Exception as error:  # noqa: BLE001 - decoders of broken files raise all sorts
            name = os.path.relpath(image.path, source)
            text = (str(error).splitlines() or [type(error).__name__])[0]
            problems.append(Problem(f"{where}: {name}", text.replace(f" '{image.path}'", "")))
            continue
        if not problems:
            arrays = {inputs[0].name: pixels[np.newaxis]}
            if image.label is not None:
                arrays[LABELS] = np.array([image.label])
            writer.add(arrays, f"{where}: {image.path.name}")
    writer.flush()
    if problems:
        more = len(problems) - _SHOWN
        note = [Problem(where, f"and {more} more images that can't be used")] if more > 0 else []
        raise InputError([*problems[:_SHOWN], *note])


def find(source: str, where: str, declared: Preprocessing) -> list[ImageFile]:
    """The images of a folder and their labels, in the order that numbers the samples.

    Labels come from ``labels.csv`` where there is one, else from the subfolders' names; images
    beside no subfolder have none. Raises InputError.
    """
    folder = Path(source)
    classes = _classes(declared)
    if (folder / LABEL_FILE).is_file():
        return _listed(folder, where, classes)
    at_top = [path for path in _sorted(folder) if _is_image(path)]
    subfolders = [path for path in _sorted(folder) if path.is_dir()]
    filled = {path.name: list(_images_below(path)) for path in subfolders}
    if not any(filled.values()):
        return [ImageFile(path) for path in at_top]
    problems = []
    if at_top:
        what = f"{len(at_top)} images beside the subfolders of classes, such as {at_top[0].name}"
        problems.append(Problem(where, what, f"move them, or list all in a {LABEL_FILE}"))
    for name in [name for name in filled if name not in classes] if classes else []:
        fix = suggest(name, classes) or "[images] classes are the subfolders' names"
        problems.append(Problem(f"{where}: {name}", "is none of [images] classes", fix))
    for name in (name for name, paths in filled.items() if not paths) if not classes else ():
        fix = "remove it, or name the model's classes in [images] classes"
        problems.append(Problem(f"{where}: {name}", "a class without images", fix))
    if problems:
        raise InputError(problems)
    numbers = {name: number for number, name in enumerate(classes or sorted(filled))}
    return [ImageFile(path, numbers[name]) for name, paths in filled.items() for path in paths]


def _classes(declared: Preprocessing) -> tuple[str, ...]:
    classes = declared.classes
    if declared.classes_file is not None:
        try:
            text = Path(declared.classes_file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            what = f"{declared.classes_file} can't be read: {error}"
            raise InputError([Problem("[images] classes", what, "one name a line")]) from error
        classes = tuple(line.strip() for line in text.splitlines() if line.strip())
    twice = sorted({each for each in classes if classes.count(each) > 1})
    if twice:
        raise InputError([Problem("[images] classes", f"named twice: {', '.join(twice)}")])
    return classes


def _sorted(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _images_below(folder: Path) -> Iterator[Path]:
    for path in _sorted(folder):
        if path.is_dir():
            yield from _images_below(path)
        elif _is_image(path):
            yield path


def _listed(folder: Path, where: str, classes: Sequence[str]) -> list[ImageFile]:
    """The rows of ``labels.csv``, in its order."""
    place = f"{where}: {LABEL_FILE}"
    try:
        with (folder / LABEL_FILE).open(encoding="utf-8-sig", newline="") as stream:
            header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError([Problem(place, f"can't be read: {error}")]) from error
    if tuple(cell.strip() for cell in header) != COLUMNS:
        what = f"begins with {','.join(header) or 'nothing'}; expected the line file,label"
        raise InputError([Problem(place, what)])
    problems = [
        Problem(f"{place}: line {number}", wrong)
        for number, row in enumerate(rows, start=2)
        if (wrong := _row_problem(folder, row)) is not None
    ]
    if not rows:
        problems.append(Problem(place, "names no images"))
    if problems:
        raise InputError(problems)
    labels = _typed([row[1].strip() for row in rows], classes)
    return [ImageFile(folder / row[0].strip(), label) for row, label in zip(rows, labels)]


def _row_problem(folder: Path, row: Sequence[str]) -> Optional[str]:
    if len(row) != len(COLUMNS):
        return f"{len(row)} columns; expected 2: file,label"
    return None if (folder / row[0].strip()).is_file() else f"no such image: {row[0].strip()}"


def _typed(labels: Sequence[str], classes: Sequence[str]) -> list[Any]:
    """Class numbers where all are classes' names, else whole numbers, numbers, or texts."""
    if classes and set(labels) <= set(classes):
        return [classes.index(label) for label in labels]
    for kind in (int, float):
        try:
            return [kind(label) for label in labels]
        except ValueError:
            continue
    return list(labels)


def load(path: Path, declared: Preprocessing, dtype: str) -> Array:
    """One image as the model's input without its batch axis: [c, h, w] or [h, w, c].

    Raises OSError, ValueError and what else Pillow raises for an image that can't be used.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.mode in _DEEP:
            raise ValueError(f"more than 8 bits a channel ({image.mode}); convert it to 8")
        shown = image.convert("L" if declared.channels == "gray" else "RGB")
    shown = _resized(shown, declared)
    pixels = np.asarray(shown)
    if declared.crop:
        pixels = _cropped(pixels, declared.crop)
    if declared.channels == "gray":
        pixels = pixels[:, :, np.newaxis]
    elif declared.channels == "bgr":
        pixels = pixels[:, :, ::-1]
    values = _normalised(pixels, declared, dtype)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if declared.layout == "nchw" else values)


def _resized(image: Any, declared: Preprocessing) -> Any:
    from PIL import Image

    if not declared.resize:
        return image
    width, height = image.size
    if len(declared.resize) == 1:  # the longer side truncated, as torchvision does
        (side,) = declared.resize
        shorter = min(width, height)
        size = (side * width // shorter, side * height // shorter)
    else:
        size = (declared.resize[1], declared.resize[0])
    return image.resize(size, Image.Resampling[declared.interpolation.upper()])


def _cropped(pixels: Array, crop: Sequence[int]) -> Array:
    height, width = pixels.shape[:2]
    if height < crop[0] or width < crop[1]:
        raise ValueError(f"{height} x {width}, smaller than the crop of {crop[0]} x {crop[1]}")
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return pixels[top : top + crop[0], left : left + crop[1]]


def _normalised(pixels: Array, declared: Preprocessing, dtype: str) -> Array:
    """Whole numbers are rounded; raises ValueError where they don't fit."""
    values = pixels.astype(np.float32) / np.float32(declared.scale)
    values = (values - np.array(declared.mean, "f4")) / np.array(declared.std, "f4")
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        values = np.rint(values)
        limits = np.iinfo(kind)
        if values.min() < limits.min or values.max() > limits.max:
            found = f"{values.min():g}..{values.max():g}"
            raise ValueError(f"becomes {found}, which {dtype} can't hold: see scale, mean and std")
    made: Array = values.astype(kind)
    return made
