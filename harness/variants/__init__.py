"""Model files derived from the user's, shared by all backends.

A recipe is resolved in the parent, where its parameters go into cache keys and records, and made
in a child: the libraries that do it are heavy, chatty, and imported inside functions only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata

from harness.backend import Calibration
from harness.cache import source_sha256
from harness.errors import BackendError, UnsupportedError
from harness.types import FLOOR
from harness.variants.recipes import (
    DERIVED,
    PROBE,
    RECIPES,
    SHARED,
    SOURCE,
    TYPED,
    Recipe,
    Wishes,
    own,
    resolve,
)

__all__ = [
    "DERIVED",
    "PROBE",
    "RECIPES",
    "SHARED",
    "SOURCE",
    "Recipe",
    "Wishes",
    "make",
    "maker",
    "own",
    "resolve",
    "tool_versions",
]

_UNSUPPORTED = re.compile(
    r"is not a registered function/op|No Op registered for|Could not find an implementation for"
    r"|guarantees\W* support for models stamped with|Unsupported model IR version"
)


def make(recipe: Recipe, source: str, out: str, calibration: Calibration | None) -> tuple[str, ...]:
    """Write the ONNX ``out`` (and its weights beside it, if large); notes for the record.

    Raises UnsupportedError if the model has nothing for the recipe to change or an operator that
    the tools can't run, and BackendError if they fail otherwise.
    """
    if recipe.name not in DERIVED:
        raise UnsupportedError(f"the recipe {recipe.name} is not made from the model here")
    if RECIPES.get(recipe.name) and (calibration is None or not len(calibration)):
        raise BackendError(f"the recipe {recipe.name} needs calibration samples, and got none")
    from harness.variants import bf16, floor, half, probe, quantized, typed, weights
    from harness.variants.quiet import quiet

    params = dict(recipe.params)
    plain: dict[str, Callable[[], tuple[str, ...]]] = {
        FLOOR: lambda: floor.make(source, out),
        PROBE: lambda: probe.make(out),
        "fp16": lambda: half.make(source, out, keep_io=params["io"] == "fp32"),
        "bf16": lambda: bf16.make(source, out),
        "dynamic": lambda: quantized.make_dynamic(source, out, params),
        "weights": lambda: weights.make(source, out, params),
    }
    try:
        with quiet():
            if recipe.name in plain:
                return plain[recipe.name]()
            assert calibration is not None
            static = typed.make if recipe.name in TYPED else quantized.make_static
            return static(source, out, params, calibration)
    except (BackendError, MemoryError, OSError):
        raise
    except Exception as fault:
        text = " ".join(str(fault).split())[:1000] or type(fault).__name__
        kind = UnsupportedError if _UNSUPPORTED.search(text) else BackendError
        raise kind(f"the recipe {recipe.name} failed: {text}") from fault


def maker() -> tuple[str, tuple[tuple[str, str], ...]]:
    """What a variant depends on beside its model and recipe: this code, and the tools."""
    return source_sha256(__name__), tool_versions()


def tool_versions() -> tuple[tuple[str, str], ...]:
    """The versions of what makes variants, without importing it; part of their cache keys."""
    found = []
    for module, distributions in (
        ("numpy", ("numpy",)),
        ("onnx", ("onnx",)),
        ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
        ("onnx_ir", ("onnx-ir",)),
        ("sympy", ("sympy",)),  # with it, shapes are inferred better
    ):
        versions = (_version(name) for name in distributions)
        found.append((module, next(filter(None, versions), "none")))
    return tuple(found)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
