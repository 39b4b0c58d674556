"""Every precision of TensorRT on models of every kind, for two GPUs: types and weights asserted.

Engines are built with TensorRT-RTX for GPUs that aren't here; nothing is run.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import onnx
import pytest

from backends.trt import layers
from harness.types import Precision

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import trt_matrix  # noqa: E402
import trt_models  # noqa: E402

sys.path.remove(BENCHMARKS)

pytestmark = pytest.mark.exhaustive
pytest.importorskip("tensorrt_rtx", exc_type=ImportError)

TARGETS = ("8.6", "12.0")
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
LEAST = {
    "cnn": 1.0,
    "mobile": 1.0,
    "transformer": 1.0,
    "recurrent": 2 / 40,  # the quantizer leaves loops alone, and their turns count one by one
    "branching": 0.3,  # nor does it quantize inside of branches and loops
    "magika": 1.0,
    "ocr-recognition": 0.9,
    "ocr-detection": 0.9,
}
"""The part of the products that has to be int8 or fp8; the others are as wide as the recipe."""

LEAST_FP8 = {
    **LEAST,  # depthwise convolutions, and those of few channels, have no fp8 kernels: fp16
    "cnn": 0.8,
    "mobile": 0.6,
    "ocr-recognition": 0.75,
    "ocr-detection": 0.6,
}

WEIGHTS = {
    Precision.FP32: (0.99, 1.01),
    Precision.TF32: (0.99, 1.01),
    Precision.FP16: (0.49, 0.53),
    Precision.BF16: (0.49, 0.53),
}
"""The part of float32's weights that an engine's take."""

PACKED = {
    "cnn": 0.27,
    "mobile": 0.36,
    "transformer": 0.40,  # of which the embedding, never quantized, is 0.14
    "recurrent": 0.95,
    "branching": 0.9,
    "magika": 0.28,
    "ocr-recognition": 0.30,
    "ocr-detection": 0.32,
}
"""At most, of quantized ones: scales and what stays wide are on top of a quarter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def case_of(folder):
    found = {case.name: case for case in (*trt_models.made(folder), *trt_models.real())}

    def case(name: str) -> trt_models.Case:
        if name not in found:
            pytest.skip(f"the package of {name} isn't installed")
        return found[name]

    return case


@pytest.fixture(scope="module")
def built(folder):
    return functools.cache(lambda *asked: trt_matrix.build(*asked, folder))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "offer", trt_matrix.OFFERS, ids=lambda offer: f"{offer.precision}-{offer.recipe}"
)
@pytest.mark.parametrize("name", LEAST)
def test_products_and_weights_are_of_the_precision(case_of, built, name, offer, target):
    case = case_of(name)
    cell = built(case, offer, target)
    precision = offer.precision
    if precision is Precision.FP8 and target == "8.6":
        assert "8.6 has no fp8" in cell.why_not
        return
    assert not cell.why_not
    plain = built(case, trt_matrix.OFFERS[0], target)
    total = sum(share.count for share in cell.layers)
    ran = sum(share.count for share in cell.layers if share.name == precision.runs_as)
    part = cell.weights_bytes / plain.weights_bytes
    if (name, precision) == ("recurrent", Precision.BF16):  # whose GRU stays in fp32
        assert ran / total > 0.6
        assert part < 0.65
        return
    if precision in WEIGHTS:
        assert ran == total > 0
        least, most = WEIGHTS[precision]
        assert least <= part <= most
        return
    assert ran / total >= (LEAST_FP8 if precision is Precision.FP8 else LEAST)[name]
    wide = {"qdq-fp16": {"fp16"}, "fp8": {"fp16", "fp32"}}.get(offer.recipe, {"fp32"})
    assert {share.name for share in cell.layers} <= {precision.runs_as, *wide}
    assert part <= (min(PACKED[name], 0.53) if offer.recipe == "qdq-fp16" else PACKED[name])


@pytest.mark.parametrize(
    "offer", trt_matrix.OFFERS, ids=lambda offer: f"{offer.precision}-{offer.recipe}"
)
@pytest.mark.parametrize("name", ["cnn", "mobile", "transformer", "magika", "ocr-detection"])
def test_every_product_of_the_model_is_in_a_layer_that_counts(
    case_of, folder, monkeypatch, name, offer
):
    logs: list[str] = []
    from_log = layers.from_log

    def kept(text: str, *, tf32: bool) -> layers.Layers | None:
        logs.append(text)
        return from_log(text, tf32=tf32)

    monkeypatch.setattr(layers, "from_log", kept)
    cell = trt_matrix.build(case_of(name), offer, "12.0", folder)
    assert not cell.why_not
    model = onnx.load(trt_matrix.variant(case_of(name), offer, folder), load_external_data=False)
    products = {node.name for node in model.graph.node if node.op_type in PRODUCTS}
    counted = [
        line
        for line in logs[0].splitlines()
        if (found := from_log(line, tf32=False)) and found.products
    ]
    assert products
    assert not {each for each in products if not any(each in line for line in counted)}


def test_the_table_has_a_row_for_each_offer_and_tells_refusals(case_of, folder):
    cells = list(trt_matrix.matrix([case_of("branching")], ("8.6", "9.0"), folder))
    lines = list(trt_matrix.table(cells))
    assert len(lines) >= 2 + len(trt_matrix.OFFERS)
    assert lines[2].startswith("| branching | fp32 | source | 8.6 | 5 fp32 |")
    assert "| 9.0 | none: TensorRT-RTX" in lines[3]
