"""How long variants take to make, against the library alone, on models of growing size.

The library's calls are made in a fresh process, as by a script of the user's: the same calls with
the same options, and nothing of this project. Ours is the same job as in a sweep: a worker that
starts, makes the variant and ends. Both count from the start of the process to its end, in turns.
Run: .venv/bin/python benchmarks/variants.py [--repeats 5] [--megabytes 1 8 64] [--recipe R ...]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from harness import datasets, jobs, variants
from harness.errors import EnginePickError
from harness.setup import ask_parent_side
from harness.types import Precision, Stage, TensorSpec

SAMPLES = 16
LAYERS = 8
IMAGE = 16
"""Height and width of what the convolutions see: activations small beside the weights."""
TIMEOUT_S = 600.0

LIBRARY = {
    "fp16": """
import onnx
from onnx.checker import check_model
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
OnnxModel.graph_topological_sort(model.graph)
onnx.save_model(model, out)
check_model(out, full_check=True)
""",
    "qdq": """
import numpy as np
from onnx.checker import check_model
from onnxruntime import quantization as q
from onnxruntime.quantization.shape_inference import quant_pre_process
class Reader(q.CalibrationDataReader):
    def __init__(self):
        self.rows = iter(np.load(data)["x"])
    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {"x": row[np.newaxis]}
quant_pre_process(source, "prepared.onnx")
q.quantize_static("prepared.onnx", out, Reader(), quant_format=q.QuantFormat.QDQ,
    op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
    activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, per_channel=True)
check_model(out, full_check=True)
""",
    "dynamic": """
from onnx.checker import check_model
from onnxruntime import quantization as q
from onnxruntime.quantization.shape_inference import quant_pre_process
quant_pre_process(source, "prepared.onnx")
q.quantize_dynamic("prepared.onnx", out, op_types_to_quantize=["Gemm", "MatMul"],
    weight_type=q.QuantType.QInt8)
check_model(out, full_check=True)
""",
    "weights": """
import onnx
from onnx.checker import check_model
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
quant_pre_process(source, "prepared.onnx")
model = ONNXModel(onnx.load("prepared.onnx"))
model.replace_gemm_with_matmul()
quantizer = MatMulNBitsQuantizer(model.model, bits=4, block_size=32,
    op_types_to_quantize=("MatMul",))
quantizer.process()
quantizer.model.save_model_to_file(out)
check_model(out, full_check=True)
""",
}
"""What a user would write, checking the result as we do."""

PRECISIONS = {
    "fp16": Precision.FP16,
    "qdq": Precision.INT8,
    "dynamic": Precision.INT8_DYNAMIC,
    "weights": Precision.INT4_WEIGHTS,
}


def write_model(kind: str, megabytes: float, path: Path) -> tuple[int, ...]:
    """A chain of equal layers with about that much weight; the shape of one sample."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    taps = 1 if kind == "mlp" else 9
    width = max(8, round((megabytes * 1e6 / 4 / LAYERS / taps) ** 0.5 / 8) * 8)
    shape = (width,) if kind == "mlp" else (width, IMAGE, IMAGE)
    rng, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for layer in range(LAYERS):
        result = "y" if layer == LAYERS - 1 else f"r{layer}"
        form = (width, width) if kind == "mlp" else (width, width, 3, 3)
        values = rng.standard_normal(form, np.float32) * np.float32((2 / width / taps) ** 0.5)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        if kind == "mlp":
            nodes.append(
                helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"], f"m{layer}")
            )
        else:
            pads = [1, 1, 1, 1]
            nodes.append(
                helper.make_node("Conv", [last, f"w{layer}"], [f"m{layer}"], f"m{layer}", pads=pads)
            )
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [result], f"r{layer}"))
        last = result
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, ["batch", *shape]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return shape


def library(recipe: str, source: Path, data: Path, folder: Path) -> None:
    """The library's calls in a fresh process. Raises CalledProcessError."""
    head = f"source, data, out = {str(source)!r}, {str(data)!r}, 'out.onnx'\n"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + LIBRARY[recipe]],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def ours(recipe: str, source: Path, samples: jobs.Samples, shape: Any, folder: Path) -> None:
    """The same by a worker. Raises EnginePickError."""
    isa = frozenset({"avx512_vnni"})
    made = variants.resolve(recipe, PRECISIONS[recipe], isa=isa, device="cpu")
    spec = TensorSpec("x", "float32", ("batch", *shape))
    job = jobs.VariantJob(
        recipe, made.params, str(source), str(folder / "out.onnx"), (spec,), samples
    )
    answer = ask_parent_side(job, jobs.Noted, Stage.VARIANT, TIMEOUT_S)
    if isinstance(answer, jobs.Refused):
        raise EnginePickError(answer.reason)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = perf_counter()
    work()
    return perf_counter() - began


def compare(kind: str, megabytes: float, recipe: str, repeats: int, folder: Path) -> str:
    """One row of the table: medians in seconds, and the ratio's median and range over turns."""
    source, data = folder / "source.onnx", folder / "data.npz"
    shape = write_model(kind, megabytes, source)
    rows = np.random.default_rng(1).standard_normal((SAMPLES, *shape), np.float32)
    np.savez(data, x=rows)
    samples = jobs.Samples(datasets.resolve(str(data)), "all", 0, 0)

    def alone() -> None:
        library(recipe, source, data, folder)

    def here() -> None:
        ours(recipe, source, samples, shape, folder)

    pairs = []
    for turn in range(repeats):
        order = (alone, here) if turn % 2 else (here, alone)
        took = {work: timed(work) for work in order}
        pairs.append((took[alone], took[here]))
    ratios = sorted(mine / theirs for theirs, mine in pairs)
    theirs, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
    size = source.stat().st_size / 1e6
    return (
        f"| {kind} {size:.0f} MB | {recipe} | {theirs:.2f} | {mine:.2f} "
        f"| {statistics.median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} |"
    )


def main() -> None:
    """Print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 8, 64])
    parser.add_argument("--recipe", nargs="+", choices=tuple(LIBRARY), default=tuple(LIBRARY))
    args = parser.parse_args()
    print("| model | recipe | library, s | ours, s | ratio | of each turn |")
    print("|---|---|---|---|---|---|")
    for kind in ("mlp", "conv"):
        for megabytes in args.megabytes:
            for recipe in args.recipe:
                if kind == "conv" and recipe in ("dynamic", "weights"):
                    continue  # they leave convolutions alone
                with tempfile.TemporaryDirectory() as folder:
                    row = compare(kind, megabytes, recipe, args.repeats, Path(folder))
                print(row, flush=True)


if __name__ == "__main__":
    main()
