"""Engines that the user brings along, to be compared as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.backend import Capabilities
from harness.cache import file_sha256, key_of
from harness.errors import Problem

RECIPE = "as-is"
"""What a backend is asked to make of it: a copy."""

ABOUT = "engine.json"
"""Where adapters write down what the engine beside it is."""

MODELS = {".onnx", ".tflite", ".pt2", ".ptl", ".pt", ".pth", ".npz"}
"""What an engine may have been made of, and isn't part of it."""


@dataclass(frozen=True)
class OwnEngine:
    """path: absolute, of the main file. sha256: over that file and its companions."""

    path: str
    sha256: str


def find(files: Iterable[str]) -> dict[str, OwnEngine]:
    """The engines by the names that stand for them, see :func:`names`. The files exist."""
    return {name: OwnEngine(path, _sha256(Path(path))) for name, path in names(files).items()}


def names(files: Iterable[str]) -> dict[str, str]:
    """Absolute paths by the shortest ends of them that tell them apart: ``model.engine``."""
    paths = [Path(each).absolute() for each in dict.fromkeys(files)]
    named: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        others = [each for each in paths if each != path]
        ends = ("/".join(path.parts[-count:]) for count in range(1, len(path.parts)))
        alone = (end for end in ends if all(not f"/{o}".endswith(f"/{end}") for o in others))
        named[next(alone, str(path))] = str(path)
    return named


def companions(path: Path) -> list[Path]:
    """The file and those beside it that may belong to it.

    They have its stem, as OpenVINO's ``.bin`` does, or begin with its name, as weights of large
    ONNX files do, or say what it is.
    """
    return sorted(
        each
        for each in path.parent.iterdir()
        if each.suffix not in MODELS - {path.suffix}
        and (each.stem == path.stem or each.name.startswith(path.name) or each.name == ABOUT)
        and each.is_file()
    )


def _sha256(path: Path) -> str:
    return key_of({each.name: file_sha256(each) for each in companions(path)})


def takes(capabilities: Capabilities, path: str) -> bool:
    """Whether a backend reads such a file, by its suffix."""
    suffix = Path(path).suffix.lower()
    return bool(suffix) and suffix in _suffixes(capabilities)


def problems(
    files: Sequence[str], known: Mapping[str, Capabilities], where: str = "--engine"
) -> list[Problem]:
    """Files that aren't there, or that none of these backends reads."""
    found = []
    for each in files:
        if not Path(each).is_file():
            what = "a folder" if Path(each).is_dir() else "no such file"
            found.append(Problem(where, f"{each}: {what}", "name the engine's main file"))
        elif not any(takes(one, each) for one in known.values()):
            kinds = [f"{' '.join(_suffixes(c))} ({name})" for name, c in known.items()]
            kinds = [kind for kind in kinds if kind.startswith(".")]
            what = f"{each}: none of the chosen backends reads such engines"
            fix = f"they read: {', '.join(kinds) or 'none at all'}"
            if Path(each).suffix.lower() in MODELS:
                fix += f"; is it the model? enginepick sweep {each}"
            found.append(Problem(where, what, fix))
    return found


def _suffixes(capabilities: Capabilities) -> tuple[str, ...]:
    return tuple(f".{each.lstrip('.').lower()}" for each in capabilities.engine_formats)
