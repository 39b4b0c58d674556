"""Recipes and their parameters, chosen for a host and by the user's wishes. Pure: nothing is made.

All that a recipe does follows from its parameters, which go into cache keys and records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Optional

from harness.errors import UnsupportedError
from harness.types import FLOOR, Precision

SOURCE = "source"
"""The identity: the user's model itself. It resolves, and is not made."""

RECIPES: Mapping[str, bool] = MappingProxyType(
    {
        "fp16": False,
        "bf16": False,
        "qdq": True,
        "qdq-all": True,
        "qdq-portable": True,
        "qdq-fp16": True,
        "fp8": True,
        "dynamic": False,
        "weights": False,
    }
)
"""The shared recipes, and whether each needs calibration samples.

``qdq`` quantizes what has weights and leaves the rest in fp32; ``qdq-all`` quantizes every operator
that the quantizer can. Neither is always the faster, nor always the more accurate.
``qdq-portable`` is the Q/DQ file that every runtime takes, TensorRT too: symmetric int8, biases in
floating point, every quantized tensor with a pair of its own, additions left alone (int8 ones cost
a classifier of files all its accuracy, and OpenVINO 2026.4.1 crashed on them). ``qdq-fp16`` is that
with float16 between the products, ``fp8`` the same with products of float8e4m3fn; like ``bf16``,
they are for runtimes that compute in the types that a file gives. ``weights`` packs the weights of
matrix products by blocks, and the products stay in floating point.
"""

PROBE = "saturation-probe"
"""Of no candidate: a model of our own, see :mod:`harness.saturation`."""

SHARED = tuple(RECIPES)
DERIVED = (*SHARED, FLOOR, PROBE)
"""What :func:`harness.variants.make` makes."""

_PRECISIONS = {
    "fp16": (Precision.FP16,),
    "bf16": (Precision.BF16,),
    "qdq": (Precision.INT8,),
    "qdq-all": (Precision.INT8,),
    "qdq-portable": (Precision.INT8,),
    "qdq-fp16": (Precision.INT8,),
    "fp8": (Precision.FP8,),
    "dynamic": (Precision.INT8_DYNAMIC,),
    "weights": (Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS),
}

_OPERATORS = {
    "qdq": "Conv,ConvTranspose,Gemm,MatMul",
    "qdq-all": "all",
    "qdq-portable": "Conv,ConvTranspose,Gemm,MatMul",
    "qdq-fp16": "Conv,Gemm,MatMul",
    "fp8": "Conv,Gemm,MatMul",
    "dynamic": "Gemm,MatMul",
    "weights": "Gemm,MatMul",
}

TYPED = ("qdq-fp16", "fp8")
"""Recipes of quantized products between float16."""

_TYPED_OPSET = "21"
"""Q/DQ of float16 came with 19, and with 21 of every type that there is."""

BLOCK_SIZE = 32
"""Weights of an output that share a scale, by default: runtimes have kernels for it everywhere."""

PERCENTILE = 99.99
"""Of the absolute values, or of each tail: what the percentile calibration keeps by default."""

_EXACT_INT8 = frozenset(
    {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "neon_dotprod", "i8mm"}
)
"""Instructions that add products of bytes in 32 bits. Without them, kernels saturate 16 bits."""


@dataclass(frozen=True)
class Wishes:
    """How the user wants quantization done. None or empty: what suits the recipe and the host.

    calibration: ``minmax``, ``entropy`` or ``percentile``. symmetric: the activations. include:
    operator types to quantize. exclude: operator types, nodes or values (by name) that stay in
    floating point. block_size: weights that share a scale, of weight-only quantization.
    """

    calibration: Optional[str] = None
    percentile: Optional[float] = None
    per_channel: Optional[bool] = None
    symmetric: Optional[bool] = None
    reduce_range: Optional[bool] = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    block_size: Optional[int] = None


@dataclass(frozen=True)
class Recipe:
    """What to make. Fully resolved: equal recipes make equivalent files of the same model.

    params: text by name, in the order of the names. Truths are ``yes`` and ``no``, operator types
    are joined by commas, and ``exclude`` is a JSON list, since names may hold anything.
    """

    name: str
    params: tuple[tuple[str, str], ...] = ()


def resolve(
    name: str,
    precision: Precision,
    *,
    isa: frozenset[str],
    device: str,
    wishes: Optional[Wishes] = None,
    saturates: Optional[bool] = None,
) -> Recipe:
    """A shared recipe with the parameters that suit a host, a device and the user.

    isa: the host's instruction sets, as :data:`harness.host.ISA` names them. saturates: whether
    int8 products were seen to saturate on the device; None: to be told from ``isa``. Raises
    UnsupportedError for an unknown name, or what the recipe doesn't make.
    """
    if name in (SOURCE, FLOOR, PROBE):
        return Recipe(name)
    if name not in RECIPES:
        raise UnsupportedError(
            f"no shared recipe is called {name!r} (there are {', '.join(SHARED)})"
        )
    if precision not in _PRECISIONS[name]:
        makes = " and ".join(_PRECISIONS[name])
        raise UnsupportedError(f"the recipe {name} makes {makes}, not {precision}")
    wishes = wishes or Wishes()
    if name in ("fp16", "bf16"):
        return _recipe(name, {"io": "fp32"})
    if name == "dynamic":
        return _recipe(name, _dynamic(wishes))
    if name == "weights":
        return _recipe(name, _weights(wishes, 8 if precision is Precision.INT8_WEIGHTS else 4))
    if saturates is None:
        saturates = "cpu" in re.split(r"[:,]", device) and not isa & _EXACT_INT8
    return _recipe(name, _static(name, wishes, saturates=saturates))


def own(name: str, precision: Precision, wishes: Wishes, *, saturates: Optional[bool]) -> Recipe:
    """A recipe of a backend's own, with the wishes as they are: the backend makes sense of them.

    ``saturates`` is there when it was measured. What isn't quantized has no parameters.
    """
    if name == SOURCE or precision in (Precision.FP32, Precision.FP16, Precision.BF16):
        return Recipe(name)
    params = {
        "calibration": wishes.calibration,
        "percentile": _number(wishes.percentile),
        "per_channel": _truth(wishes.per_channel),
        "symmetric": _truth(wishes.symmetric),
        "reduce_range": _truth(wishes.reduce_range),
        "include": ",".join(wishes.include) or None,
        "exclude": _names(wishes.exclude),
        "block_size": _number(wishes.block_size),
        "saturates": _truth(saturates),
    }
    return _recipe(name, params)


def _static(name: str, wishes: Wishes, *, saturates: bool) -> dict[str, Optional[str]]:
    portable = name in ("qdq-portable", *TYPED)
    if portable and wishes.symmetric is False:
        raise UnsupportedError(f"the recipe {name} is symmetric: TensorRT takes no other")
    if name == "qdq-all" and wishes.include:
        raise UnsupportedError(f"the recipe {name} takes no choice of operators: qdq does")
    if name == "fp8" and wishes.reduce_range:
        raise UnsupportedError(f"the recipe {name} has no 7-bit weights: reduce_range is of int8")
    calibration = wishes.calibration or "minmax"
    percentile = wishes.percentile or PERCENTILE
    weights = "fp8" if name == "fp8" else "int8"
    return {
        "activations": weights if portable else "uint8",
        "calibration": calibration,
        "exclude": _names(wishes.exclude),
        "opset": _TYPED_OPSET if name in TYPED else None,
        "operators": _types(wishes.include) or _OPERATORS[name],
        "per_channel": _truth(_either(wishes.per_channel, name != "fp8")),
        "percentile": _number(percentile) if calibration == "percentile" else None,
        "portable": _truth(portable),
        "reduce_range": _truth(_either(wishes.reduce_range, saturates and name != "fp8")),
        "rest": "fp16" if name in TYPED else None,
        "symmetric": _truth(_either(wishes.symmetric, portable)),
        "weights": weights,
    }


def _dynamic(wishes: Wishes) -> dict[str, Optional[str]]:
    return {
        "exclude": _names(wishes.exclude),
        "operators": _types(wishes.include) or _OPERATORS["dynamic"],
        "per_channel": _truth(wishes.per_channel is True),
        # 7 bits cost dynamic transformers more than saturation
        "reduce_range": _truth(wishes.reduce_range is True),
        "weights": "int8",
    }


def _weights(wishes: Wishes, bits: int) -> dict[str, Optional[str]]:
    return {
        "bits": str(bits),
        "block_size": str(wishes.block_size or BLOCK_SIZE),
        "exclude": _names(wishes.exclude),
        "operators": _types(wishes.include) or _OPERATORS["weights"],
        "symmetric": "no",  # the wish is about activations
    }


def _recipe(name: str, params: Mapping[str, Optional[str]]) -> Recipe:
    given = ((key, value) for key, value in params.items() if value is not None)
    return Recipe(name, tuple(sorted(given)))


def _either(wish: Optional[bool], default: bool) -> bool:
    return default if wish is None else wish


def _truth(value: Optional[bool]) -> Optional[str]:
    return None if value is None else "yes" if value else "no"


def _number(value: Optional[float]) -> Optional[str]:
    return None if value is None else f"{value:g}"


def _types(names: Iterable[str]) -> str:
    return ",".join(sorted(set(names)))


def _names(names: Iterable[str]) -> Optional[str]:
    found = sorted(set(names))
    return json.dumps(found) if found else None
