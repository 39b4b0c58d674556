"""Make the file-type example: magika's own classifier, and this machine's files as its data.

The model comes out of the installed ``magika`` package. A sample is what magika itself looks at:
the first and the last 1024 bytes of a file, as token numbers. The label is the content type that
the file's extension says it has, for extensions that say it without doubt.

    python examples/filetypes/make_data.py [--out FOLDER] [--per-class 40] [--seed 0]

On one machine the same arguments give the same files, as long as the files there stay the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
MODEL_FOLDER = Path("models", "standard_v3_3")
MIN_PER_CLASS = 5
"""A type with fewer files than this on the machine is left out."""

EXTENSIONS = {
    "bash": "shell",
    "bat": "batch",
    "c": "c",
    "cmake": "cmake",
    "css": "css",
    "f90": "fortran",
    "gif": "gif",
    "gz": "gzip",
    "html": "html",
    "jar": "jar",
    "jpg": "jpeg",
    "js": "javascript",
    "json": "json",
    "m4": "m4",
    "md": "markdown",
    "npy": "npy",
    "npz": "npz",
    "pem": "pem",
    "php": "php",
    "png": "png",
    "ps1": "powershell",
    "py": "python",
    "pyc": "pythonbytecode",
    "pyi": "python",
    "rst": "rst",
    "sh": "shell",
    "svg": "svg",
    "tcl": "tcl",
    "toml": "toml",
    "ttf": "ttf",
    "wav": "wav",
    "xml": "xml",
    "yaml": "yaml",
    "yml": "yaml",
}
"""Extension -> magika's label. Not here: those of several types (.pl, .txt, .h, .so, .crt)."""

C_HEADERS = ("/usr/include/linux/", "/usr/include/asm-generic/")
"""Where a ``.h`` is certainly C, not C++."""

BROKEN = "invalid"
"""Folders of that name hold tests' broken files, which are not of their extension's type."""


@dataclass(frozen=True)
class Config:
    """What magika's ``config.min.json`` says of its features."""

    beg_size: int
    end_size: int
    block_size: int
    padding_token: int
    min_file_size: int
    labels: tuple[str, ...]


def package_folder() -> Path:
    """Where magika is installed; it is not imported, which would load its runtime."""
    spec = find_spec("magika")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("magika is not installed\n    -> pip install magika==1.0.3")
    return Path(next(iter(spec.submodule_search_locations)))


def read_config(folder: Path) -> Config:
    """The configuration beside the model. Only the features of its version 3 are known here."""
    raw = json.loads((folder / "config.min.json").read_text(encoding="utf-8"))
    if raw["mid_size"] or raw["use_inputs_at_offsets"]:
        raise SystemExit(f"{folder}: features of another kind; this script knows magika 1.0.3's")
    return Config(
        beg_size=raw["beg_size"],
        end_size=raw["end_size"],
        block_size=raw["block_size"],
        padding_token=raw["padding_token"],
        min_file_size=raw["min_file_size_for_dl"],
        labels=tuple(raw["target_labels_space"]),
    )


def features(path: Path, config: Config) -> np.ndarray[Any, Any] | None:
    """What magika feeds its model for a file, int32 [beg_size + end_size].

    As ``Magika._extract_features_from_seekable``: white space is stripped from a block at each
    end, and what is missing is padded. None for a file that magika doesn't ask its model about,
    because too little is left.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        block = min(config.block_size, size)
        stream.seek(0)
        beg = stream.read(block).lstrip()[: config.beg_size]
        stream.seek(size - block)
        end = stream.read(block).rstrip()[-config.end_size :]
    if len(beg) < config.min_file_size:
        return None
    row = np.full(config.beg_size + config.end_size, config.padding_token, dtype=np.int32)
    row[: len(beg)] = np.frombuffer(beg, np.uint8)
    if end:
        row[-len(end) :] = np.frombuffer(end, np.uint8)
    return row


def label_of(path: str, modules: str) -> str | None:
    """The content type that a file's name says it has, or None where it leaves a doubt."""
    extension = path.rpartition(".")[2].lower()
    if extension == "h" and path.startswith(C_HEADERS):
        return "c"
    if extension == "so" and path.startswith(modules):
        return "elf"  # Python's own modules are never the linker's text files of that name
    return EXTENSIONS.get(extension)


def find_files() -> Iterator[tuple[str, str]]:
    """Yield (label, path) for the files of Python and of the system, links left out."""
    stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
    roots = (stdlib, sysconfig.get_path("purelib"), "/usr/share", "/usr/include", "/usr/lib")
    seen: set[str] = set()
    for root in roots:
        for folder, folders, names in os.walk(os.path.realpath(root)):
            folders[:] = [
                each for each in folders if each != BROKEN and f"{folder}/{each}" not in seen
            ]
            seen.update(f"{folder}/{each}" for each in folders)
            for name in names:
                path = f"{folder}/{name}"
                label = label_of(path, stdlib)
                if label is not None and path not in seen and not Path(path).is_symlink():
                    seen.add(path)
                    yield label, path


def draw(seed: int, path: str) -> str:
    """A file's place in the draw: a hash, so that one new file displaces no more than one."""
    return hashlib.sha256(f"{seed}/{path}".encode(errors="surrogateescape")).hexdigest()


def choose(
    config: Config, per_class: int, seed: int
) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """(path, label, features) of up to ``per_class`` different files of each type, shuffled."""
    files: dict[str, list[str]] = {}
    for label, path in find_files():
        files.setdefault(label, []).append(path)
    chosen: list[tuple[str, str, np.ndarray[Any, Any]]] = []
    contents: set[bytes] = set()
    for label in sorted(files):
        own: list[tuple[str, str, np.ndarray[Any, Any]]] = []
        for path in sorted(files[label], key=lambda path: draw(seed, path)):
            if len(own) == per_class:
                break
            try:
                row = features(Path(path), config)
            except OSError:  # unreadable, or gone meanwhile
                continue
            if row is not None and row.tobytes() not in contents:  # copies are no new evidence
                contents.add(row.tobytes())
                own.append((path, label, row))
        if len(own) >= min(MIN_PER_CLASS, per_class):
            chosen += own
    # Shuffled, so that any first part of the samples has all types.
    return sorted(chosen, key=lambda sample: draw(seed + 1, sample[0]))


def make(out: Path, per_class: int, seed: int) -> None:
    """Write ``magika.onnx``, ``filetypes.npz`` and the list of the files, ``filetypes.txt``."""
    folder = package_folder() / MODEL_FOLDER
    config = read_config(folder)
    samples = choose(config, per_class, seed)
    if not samples:
        raise SystemExit("no files of a known type were found on this machine")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "model.onnx", out / "magika.onnx")
    index = {label: number for number, label in enumerate(config.labels)}
    labels = np.array([index[label] for _, label, _ in samples], dtype=np.int64)
    rows = np.stack([row for _, _, row in samples])
    np.savez_compressed(out / "filetypes.npz", bytes=rows, labels=labels)
    lines = [f"{label}\t{path}\n" for path, label, _ in samples]
    (out / "filetypes.txt").write_text("".join(lines), "utf-8", errors="surrogateescape")
    print(f"{out}: {len(labels)} files of {len(set(labels.tolist()))} types")


def main() -> int:
    """Parse the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "data", help="default: data, here")
    parser.add_argument("--per-class", type=int, default=40, help="most files of a type")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    args = parser.parse_args()
    if args.per_class < 1:
        parser.error("--per-class: expected 1 or more")
    make(args.out, args.per_class, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
