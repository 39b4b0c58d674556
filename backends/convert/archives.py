"""What a file of PyTorch's is, by what is in it. Nothing is unpickled, and torch isn't needed."""

from __future__ import annotations

import json
import pickletools
import zipfile
from pathlib import Path
from typing import Optional

from harness.errors import InputError, Problem

EXPORT = (
    "in Python, with the nn.Module: torch.export.save(torch.export.export(model.eval(), "
    "(example,)), 'model.pt2'); or name a function module:function that returns "
    "(model, (example,))"
)
"""The next step from anything that isn't a program."""

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save's magic number, pickled
_PLAIN = ("torch", "collections", "numpy", "builtins", "__builtin__")
"""The packages of which a pickle of tensors, and no module, names anything."""

_KINDS = (
    (
        "bytecode.pkl",
        (
            "a PyTorch Mobile file (for its lite interpreter), which nothing maintained reads: "
            "ExecuTorch has replaced it, and starts from the nn.Module"
        ),
    ),
    ("constants.pkl", "a TorchScript archive (torch.jit.save), which holds no ExportedProgram"),
)
"""What an archive is by one of its members, the most particular first."""


def check(path: str) -> None:
    """Raise InputError for a file that holds no ExportedProgram, saying what it is instead."""
    problem = _problem(path)
    if problem:
        raise InputError([Problem(path, *problem)])


def written_by(path: str) -> Optional[str]:
    """The version of torch that wrote a program, which its errors don't tell; None: unknown."""
    try:
        with zipfile.ZipFile(path) as archive:
            model = next(name for name in archive.namelist() if "/models/" in name)
            return str(json.loads(archive.read(model))["torch_version"])
    except (StopIteration, OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return None


def _problem(path: str) -> Optional[tuple[str, Optional[str]]]:
    file = Path(path)
    if not file.is_file():
        return ("no such file", None)
    if not zipfile.is_zipfile(path):
        return _other(file)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.partition("/")[2] or name for name in archive.namelist()]
            return _archive(members, archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as fault:
        return (f"the archive is damaged: {fault}", EXPORT)


def _other(file: Path) -> tuple[str, Optional[str]]:
    with file.open("rb") as stream:
        start = stream.read(len(_LEGACY))
    if start.startswith(_LEGACY) or start[:1] == b"\x80":
        return ("a pickle of torch.save, which has no graph", EXPORT)
    return ("neither an archive nor a pickle of PyTorch: damaged, or of another kind", EXPORT)


def _archive(members: list[str], archive: zipfile.ZipFile) -> Optional[tuple[str, Optional[str]]]:
    """What is wrong with an archive of these members (without the folder they are all in)."""
    if any(name.startswith("models/") and name.endswith(".json") for name in members):
        return None
    if "serialized_exported_program.json" in archive.namelist():  # before PyTorch 2.8
        return None
    if any("aotinductor" in name or name.endswith(".so") for name in members):
        what = "compiled for one machine by AOTInductor: no ExportedProgram is in it"
        return (what, "give what was compiled: the .pt2 that torch.export.save wrote")
    for member, what in _KINDS:
        if member in members:
            return (what, EXPORT)
    pickle = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
    what = _pickled(archive.read(pickle)) if pickle else "an archive without an ExportedProgram"
    return (what, EXPORT)


def _pickled(data: bytes) -> str:
    """What a pickle of ``torch.save`` is, by the classes that it names; it isn't executed."""
    named = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                named.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                named.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError as fault:
        return f"a damaged pickle of torch.save: {fault}"
    foreign = [name for name in named if name.split(".")[0] not in _PLAIN]
    modules = [name for name in named if name.startswith("torch.nn.modules.")]
    if modules:
        return f"a pickled module ({[*foreign, *modules][0]}), which has no graph"
    if foreign:
        return f"a pickle of other objects ({foreign[0]}) around weights, which has no graph"
    return "weights alone (a state_dict): the model's code isn't in it"


__all__ = ["EXPORT", "check", "written_by"]
