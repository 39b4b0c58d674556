"""Model files derived from the user's, shared by all backends.

A recipe is resolved in the parent, where its parameters go into cache keys and records, and made
in a child: the libraries that do it are heavy, chatty, and imported inside functions only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

from harness.backend import Calibration
from harness.errors import BackendError, UnsupportedError
from harness.types import FLOOR, Precision

SOURCE = "source"
"""The identity: the user's model itself. It resolves, and is not made."""

RECIPES: Mapping[str, bool] = MappingProxyType(
    {"fp16": False, "qdq": True, "qdq-all": True, "dynamic": False}
)
"""The recipes that :func:`make` knows, and whether each needs calibration samples.

``qdq`` quantizes what has weights and leaves the rest in fp32; ``qdq-all`` quantizes every operator
that the quantizer can. Neither is always the faster, nor always the more accurate.
"""

SHARED = tuple(RECIPES)
DERIVED = (*SHARED, FLOOR)
"""What :func:`make` makes."""

_PRECISION = {
    "fp16": Precision.FP16,
    "qdq": Precision.INT8,
    "qdq-all": Precision.INT8,
    "dynamic": Precision.INT8_DYNAMIC,
}

_EXACT_INT8 = frozenset(
    {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "neon_dotprod", "i8mm"}
)
"""Instructions that add products of bytes in 32 bits. Without them, kernels saturate 16 bits."""

_UNSUPPORTED = re.compile(
    r"is not a registered function/op|No Op registered for|Could not find an implementation for"
    r"|guarantees\W* support for models stamped with|Unsupported model IR version"
)


@dataclass(frozen=True)
class Recipe:
    """What to make. Fully resolved: equal recipes make equivalent files of the same model."""

    name: str
    params: tuple[tuple[str, str], ...] = ()


def resolve(name: str, precision: Precision, *, isa: frozenset[str], device: str) -> Recipe:
    """The recipe with the parameters that suit a host and a device.

    isa: the host's instruction sets, as :data:`harness.host.ISA` names them. Raises
    UnsupportedError for an unknown name, or a precision that the recipe doesn't make.
    """
    if name in (SOURCE, FLOOR):
        return Recipe(name)
    if name not in RECIPES:
        raise UnsupportedError(
            f"no shared recipe is called {name!r} (there are {', '.join(SHARED)})"
        )
    if precision is not _PRECISION[name]:
        raise UnsupportedError(f"the recipe {name} makes {_PRECISION[name]}, not {precision}")
    if name == "fp16":
        return Recipe(name, (("io", "fp32"),))
    if name == "dynamic":
        return Recipe(
            name,
            (
                ("operators", "MatMul,Gemm"),
                ("per_channel", "no"),
                ("reduce_range", "no"),  # 7 bits cost dynamic transformers more than saturation
                ("weights", "int8"),
            ),
        )
    on_cpu = "cpu" in re.split(r"[:,]", device)
    saturates = on_cpu and not isa & _EXACT_INT8
    return Recipe(
        name,
        (
            ("activations", "uint8"),
            ("calibration", "minmax"),
            ("operators", "all" if name == "qdq-all" else "Conv,ConvTranspose,Gemm,MatMul"),
            ("per_channel", "yes"),
            ("reduce_range", "yes" if saturates else "no"),
            ("weights", "int8"),
        ),
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
    from harness.variants import floor, half, quantized
    from harness.variants.quiet import quiet

    params = dict(recipe.params)
    try:
        with quiet():
            if recipe.name == FLOOR:
                return floor.make(source, out)
            if recipe.name == "fp16":
                return half.make(source, out, keep_io=params["io"] == "fp32")
            if recipe.name == "dynamic":
                return quantized.make_dynamic(source, out, params)
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
