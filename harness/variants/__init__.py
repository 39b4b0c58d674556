"""Model files derived from the user's, shared by all backends.

A recipe is resolved in the parent, where its parameters go into cache keys and records, and made
in a child: the libraries that do it are heavy, chatty, and imported inside functions only.
"""

from __future__ import annotations

import re
from importlib import metadata

from harness.backend import Calibration
from harness.errors import BackendError, UnsupportedError
from harness.types import FLOOR
from harness.variants.recipes import (
    DERIVED,
    PROBE,
    RECIPES,
    SHARED,
    SOURCE,
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
    from harness.variants import floor, half, probe, quantized, weights
    from harness.variants.quiet import quiet

    params = dict(recipe.params)
    try:
        with quiet():
            if recipe.name == FLOOR:
                return floor.make(source, out)
            if recipe.name == PROBE:
                return probe.make(out)
            if recipe.name == "fp16":
                return half.make(source, out, keep_io=params["io"] == "fp32")
            if recipe.name == "dynamic":
                return quantized.make_dynamic(source, out, params)
            if recipe.name == "weights":
                return weights.make(source, out, params)
            assert calibration is not None
            return quantized.make_static(source, out, params, calibration)
    except (BackendError, MemoryError, OSError):
        raise
    except Exception as fault:
        text = " ".join(str(fault).split())[:1000] or type(fault).__name__
        kind = UnsupportedError if _UNSUPPORTED.search(text) else BackendError
        raise kind(f"the recipe {recipe.name} failed: {text}") from fault


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
