"""LiteRT's own quantizer: the recipes, and what the user's wishes for them mean there.

Three things differ from the vendor's recipes of the same names. Inputs and outputs stay as the
model has them, not int8, so that one feed serves all candidates. Ranges are the extremes of all
samples. And the weights of BATCH_MATMUL have one scale each where activations are int8: that kernel
reads no more, and gave wrong results in silence for a scale per channel (litert-quantizer 0.11,
ai-edge-litert 2.3). What the file itself needs for it is :mod:`backends.litert.readying`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from backends import feeds
from backends.litert import flatfile, readying
from backends.litert.flatfile import COMPUTE, Graph
from backends.litert.runtime import SETUP, classified, quiet
from backends.litert.slots import Slots
from backends.machine import version_of
from harness.backend import BuildRequest, Calibration
from harness.errors import BackendError, UnavailableError, UnsupportedError

PACKAGE = "litert-quantizer"
FIX = f"pip install {PACKAGE}, or {SETUP}"

WEIGHTED = "CONV_2D,DEPTHWISE_CONV_2D,TRANSPOSE_CONV,FULLY_CONNECTED"
"""Operators that have weights: for a try that leaves all others in floating point."""

_TYPES = {
    "Conv": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "ConvTranspose": ("TRANSPOSE_CONV",),
    "MatMul": ("FULLY_CONNECTED", "BATCH_MATMUL"),
    "Gemm": ("FULLY_CONNECTED", "BATCH_MATMUL"),
    "AveragePool": ("AVERAGE_POOL_2D",),
    "MaxPool": ("MAX_POOL_2D",),
    "GlobalAveragePool": ("MEAN", "AVERAGE_POOL_2D"),
    "ReduceMean": ("MEAN",),
    "ReduceSum": ("SUM",),
    "Concat": ("CONCATENATION",),
    "Sigmoid": ("LOGISTIC",),
    "HardSwish": ("HARD_SWISH",),
    "Gather": ("GATHER", "EMBEDDING_LOOKUP"),
    "Where": ("SELECT", "SELECT_V2"),
    "Resize": ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
}
"""ONNX's operator types that LiteRT has under other names."""

_QUANTIZERS_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""Operators that the quantizer calls otherwise than the file."""

_SCALED_BY_OUTPUT = {
    *("MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2"),
    *("PADV2", "PACK", "CONCATENATION", "DYNAMIC_UPDATE_SLICE"),
}
"""Operators whose inputs get the output's scale."""

_BLOCKS = ("32", "64", "128", "256")
_COMMON = {"include", "exclude", "saturates", "reduce_range"}
_STATIC = {"calibration", "symmetric"}


@dataclass(frozen=True)
class Recipe:
    """bits: of the weights. static: activations are int8 by calibration.

    integer: products are of integers. cast: weights are stored as float16.
    """

    bits: int
    static: bool = False
    integer: bool = True
    cast: bool = False

    @property
    def wishes(self) -> set[str]:
        """The wishes that mean something here."""
        found = _COMMON | (_STATIC if self.static else set())
        found |= {"per_channel"} if not self.cast else set()
        return found | ({"block_size"} if self.bits == 4 else set())  # noqa: PLR2004


RECIPES = {
    "float-casting": Recipe(16, integer=False, cast=True),
    "static-wi8-ai8": Recipe(8, static=True),
    "dynamic-wi8-afp32": Recipe(8),
    "weight-only-wi8-afp32": Recipe(8, integer=False),
    "dynamic-wi4-afp32": Recipe(4),
}


def quantize(request: BuildRequest, slots: Slots) -> tuple[bytes, list[str]]:
    """The quantized file, and notes of what was done.

    Raises:
        UnavailableError: the quantizer isn't installed.
        UnsupportedError: a file that is quantized already, a wish that can't be met, or nothing
            that the recipe quantizes.
    """
    recipe = RECIPES[request.recipe]
    model = flatfile.parse(request.model)
    _refuse_quantized(flatfile.graphs(model))
    wishes = _checked(request, recipe)
    readying.name_apart(model)
    key = slots.signature or readying.sign(model, slots)
    if recipe.static:
        named = (*json.loads(wishes.get("exclude", "[]")), *wishes.get("include", "").split(","))
        readying.fuse(model, {each for name in named for each in (name, *_named(name))})
        readying.end_outputs(model)
    graphs = flatfile.graphs(model)
    tools = _Tools.load()
    content = bytes(tools.utils.convert_object_to_bytearray(model))
    rules = _rules(recipe, wishes, graphs)
    with quiet():
        with _refusals():
            quantizer = tools.quantizer.Quantizer(content, rules)
        ranges = None
        if quantizer.need_calibration:
            samples = {key: _Feeds(_calibration(request), slots)}
            ranges = _calibrated(tools, content, rules, samples)
            _match_ranks(ranges, graphs)
        with _refusals():
            result = quantizer.quantize(ranges, enable_progress_report=False)
    quantized = bytes(result.quantized_model)
    made = flatfile.graphs(tools.utils.read_model_from_bytearray(quantized))
    notes = [f"{PACKAGE} {version_of(PACKAGE)}", *_told(made, recipe, request.recipe)]
    if recipe.static and "include" not in wishes:
        notes += _divisions(graphs)
    return quantized, notes


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the quantizer raises is what it can't do."""
    try:
        yield
    except (ValueError, RuntimeError, NotImplementedError) as fault:
        known = classified(fault)
        if isinstance(known, BackendError):
            raise known from fault
        raise UnsupportedError(f"{PACKAGE}: {fault}") from fault


@dataclass(frozen=True)
class _Tools:
    quantizer: Any
    types: Any
    calibrator: Any
    recipes: Any
    updates: Any
    utils: Any

    @classmethod
    def load(cls) -> _Tools:
        try:
            with quiet():
                from ai_edge_litert.tools import flatbuffer_utils
                from litert_quantizer import calibrator, qtyping, quantizer, recipe_manager
                from litert_quantizer.utils import qsv_utils
        except Exception as fault:  # a broken installation raises anything
            raise UnavailableError(f"{PACKAGE} can't be imported: {fault}", FIX) from fault
        return cls(quantizer, qtyping, calibrator, recipe_manager, qsv_utils, flatbuffer_utils)


class _Feeds:
    """Calibration samples under the names of the file's signature."""

    def __init__(self, calibration: Calibration, slots: Slots) -> None:
        self._calibration = calibration
        self._slots = slots

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for feed in self._calibration.feeds():
            arrays = feeds.checked((slot.spec for slot in self._slots.inputs), feed)
            yield {slot.name: slot.to_file(arrays[slot.spec.name]) for slot in self._slots.inputs}

    def __len__(self) -> int:
        return len(self._calibration)


def _calibration(request: BuildRequest) -> Calibration:
    if request.calibration is None or not len(request.calibration):
        raise UnsupportedError(f"{request.recipe}: needs calibration samples")
    return request.calibration


def _calibrated(tools: _Tools, content: bytes, rules: Any, samples: Mapping[str, Any]) -> Any:
    """The ranges of activations: their extremes, as every backend's by default.

    The quantizer's own is a moving average of the samples' extremes, which depends on their order.
    """
    recipes = tools.recipes.RecipeManager()
    recipes.load_quantization_recipe(rules)
    calibrator = tools.calibrator.Calibrator(
        content, num_threads=os.cpu_count() or 1, qsv_update_func=tools.updates.min_max_update
    )
    try:
        calibrator.calibrate(samples, recipes)
    except (ValueError, RuntimeError) as fault:  # of LiteRT, or of whoever gives the samples
        raise classified(fault) from fault
    return calibrator.get_model_qsvs()


def _match_ranks(ranges: dict[str, Any], graphs: tuple[Graph, ...]) -> None:
    """Give the range of what has a constant beside it that constant's rank.

    The quantizer scales such a constant by its operator's output, and refuses other ranks, as in
    the maximum of a vector and one number. A range is of a whole tensor: its rank means nothing.
    """
    for graph in graphs:
        for operator in graph.operators:
            if operator.name not in _SCALED_BY_OUTPUT:
                continue
            name = graph.tensors[operator.outputs[0]].name
            for each in (graph.tensors[number] for number in operator.inputs):
                if each.constant and each.type == "FLOAT32" and name in ranges:
                    shape = (1,) * each.rank
                    ranges[name] = {key: end.reshape(shape) for key, end in ranges[name].items()}


def _refuse_quantized(graphs: tuple[Graph, ...]) -> None:
    found = Counter(name for graph in graphs for name in graph.quantized)
    if found:
        most = ", ".join(f"{count} {name}" for name, count in found.most_common(3))
        raise UnsupportedError(
            f"the file is quantized already ({most}): litert can't quantize it again",
            "start from the float model; --engine litert=FILE runs the file as it is",
        )


def _checked(request: BuildRequest, recipe: Recipe) -> dict[str, str]:
    """The parameters that count. Raises UnsupportedError where one can't be met."""
    wishes = dict(request.parameters)
    where = request.recipe
    unknown = sorted(set(wishes) - recipe.wishes)
    if unknown:
        raise UnsupportedError(f"{where}: LiteRT's quantizer takes no {', '.join(unknown)} here")
    if wishes.get("calibration", "minmax") != "minmax":
        raise UnsupportedError(f"{where}: has no calibration by {wishes['calibration']}")
    if wishes.get("reduce_range") == "yes":
        raise UnsupportedError(f"{where}: LiteRT's quantizer makes no weights of 7 bits")
    if wishes.get("block_size", _BLOCKS[0]) not in _BLOCKS:
        raise UnsupportedError(f"{where}: blocks may have {', '.join(_BLOCKS)} weights")
    return wishes


# -- the recipe as the quantizer reads it -------------------------------------------------------


def _rules(
    recipe: Recipe, wishes: Mapping[str, str], graphs: tuple[Graph, ...]
) -> list[dict[str, Any]]:
    """Later ones count more; what a rule can't do to an operator is left to those before it."""
    channels = wishes.get("per_channel", "yes") == "yes"
    plain = _settings(recipe, wishes, "CHANNELWISE" if channels else "TENSORWISE")
    wanted = _included(wishes, graphs)
    everything = (".*", "*") if wanted is None else None
    rules = [_rule(*everything, recipe, plain)] if everything else []
    rules += [_rule(".*", name, recipe, plain) for name in wanted or ()]
    if recipe.static:
        if wanted is None or "BATCH_MATMUL" in wanted:
            whole = _settings(recipe, wishes, "TENSORWISE")
            rules.append(_rule(".*", "BATCH_MATMUL", recipe, whole))
        rules += [_none(".*", name) for name in ("INPUT", "OUTPUT")]
        rules += [_none(".*", "DIV")] if wanted is None else []  # see _divisions
    if "block_size" in wishes and (wanted is None or "FULLY_CONNECTED" in wanted):
        blocks = _settings(recipe, wishes, f"BLOCKWISE_{wishes['block_size']}")
        rules.append(_rule(".*", "FULLY_CONNECTED", recipe, blocks))
    for each in json.loads(wishes.get("exclude", "[]")):
        rules += _excluded(each, graphs)
    return rules


def _settings(recipe: Recipe, wishes: Mapping[str, str], granularity: str) -> dict[str, Any]:
    weights = {
        "num_bits": recipe.bits,
        "symmetric": True,
        "granularity": "TENSORWISE" if recipe.cast else granularity,
        "dtype": "FLOAT" if recipe.cast else "INT",
    }
    settings: dict[str, Any] = {
        "weight_tensor_config": weights,
        "compute_precision": "INTEGER" if recipe.integer else "FLOAT",
        "explicit_dequantize": not recipe.integer,
    }
    if recipe.static:
        settings["activation_tensor_config"] = {
            "num_bits": 8,
            "symmetric": wishes.get("symmetric") == "yes",
            "granularity": "TENSORWISE",
            "dtype": "INT",
        }
    return settings


def _rule(regex: str, operator: str, recipe: Recipe, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "regex": regex,
        "operation": operator,
        "algorithm_key": "float_casting" if recipe.cast else "min_max_uniform_quantize",
        "op_config": settings,
    }


def _none(regex: str, operator: str) -> dict[str, Any]:
    return {"regex": regex, "operation": operator, "algorithm_key": "no_quantize"}


def _named(name: str) -> tuple[str, ...]:
    """The operators of LiteRT that an operator type, ONNX's or LiteRT's, stands for."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()
    return _TYPES.get(name, (name if name.isupper() else plain,))


def _included(wishes: Mapping[str, str], graphs: tuple[Graph, ...]) -> Optional[list[str]]:
    if "include" not in wishes:
        return None
    there = {operator.name for graph in graphs for operator in graph.operators}
    wanted = {each for name in wishes["include"].split(",") for each in _named(name)}
    found = sorted(wanted & there)
    if not found:
        raise UnsupportedError(f"include: the model has none of {wishes['include']}")
    return [_QUANTIZERS_NAMES.get(name, name) for name in found]


def _excluded(name: str, graphs: tuple[Graph, ...]) -> list[dict[str, Any]]:
    """Rules for an operator type, or for the operator that makes a value of that name."""
    there = {operator.name for graph in graphs for operator in graph.operators}
    made = {
        graph.tensors[tensor].name
        for graph in graphs
        for operator in graph.operators
        for tensor in operator.outputs
    }
    if name in made:  # the quantizer joins the names of an operator's outputs by semicolons
        return [_none(f"(^|;){re.escape(name)};", "*")]
    types = [each for each in _named(name) if each in there]
    if not types and name not in _TYPES and not set(_named(name)) & set(COMPUTE):
        raise UnsupportedError(
            f"exclude: no operator type or value of the converted model is called {name!r}"
        )
    return [_none(".*", _QUANTIZERS_NAMES.get(each, each)) for each in types]


# -- what came out ------------------------------------------------------------------------------


def _told(graphs: tuple[Graph, ...], recipe: Recipe, name: str) -> list[str]:
    """Raises UnsupportedError where nothing was quantized; float16 is forced in any case."""
    products = [each for graph in graphs for each in _products(graph, recipe)]
    done = sum(quantized for _, quantized in products)
    if not done and not recipe.cast:
        types = ", ".join(sorted({operator for operator, _ in products})) or "none"
        raise UnsupportedError(
            f"{name}: the quantizer quantized nothing (the model's compute operators: {types})"
        )
    return [
        f"{name}: {done} of {len(products)} compute operators have weights of {recipe.bits} bits"
    ]


def _divisions(graphs: tuple[Graph, ...]) -> list[str]:
    """They stay as they are unless the user includes them: int8 would break them."""
    count = sum(operator.name == "DIV" for graph in graphs for operator in graph.operators)
    why = "LiteRT's int8 kernel fails where a divisor rounds to 0"
    return [f"{count} DIV stay in float32: {why}"] if count else []


def _products(graph: Graph, recipe: Recipe) -> Iterator[tuple[str, bool]]:
    """Each compute operator's type, and whether it was quantized."""
    unpacked = {
        each.outputs[0]
        for each in graph.operators
        if each.name == "DEQUANTIZE" and graph.tensors[each.inputs[0]].constant
    }
    for operator in graph.operators:
        precision = graph.precision(operator)
        if precision is not None:
            taken = bool(unpacked & set(operator.inputs))
            yield operator.name, precision != "fp32" if recipe.integer else taken
