"""Models that some runtimes refuse: whatever happens ends in records, and the sweep goes on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.cache import Cache
from harness.config import Lab, Target, load_sweep
from harness.run import sweep
from harness.types import Status


def control_flow_model() -> onnx.ModelProto:
    """x [n, 4] times one of two matrices, by the sign of x's sum."""

    def branch(seed):
        weights = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
        product = helper.make_node("MatMul", ["x", f"w{seed}"], [f"y{seed}"])
        out = helper.make_tensor_value_info(f"y{seed}", TensorProto.FLOAT, ["n", 3])
        held = [numpy_helper.from_array(weights, f"w{seed}")]
        return helper.make_graph([product], f"branch{seed}", [], [out], held)

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch(1), else_branch=branch(2)),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    zero = [numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(nodes, "g", [x], [y], zero)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.slow
def test_control_flow_ends_in_records_on_every_backend(tmp_path):
    onnx.save(control_flow_model(), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    config = load_sweep(
        None,
        {
            "model": str(tmp_path / "m.onnx"),
            "data": str(tmp_path / "d.npz"),
            "out": str(tmp_path / "results"),
            "backends": ["onnxruntime", "openvino"],
            "precisions": ["fp32", "int8", "int8-dynamic"],
            "measure": {"rounds": 1, "passes": 1, "slice_ms": 2, "tail_cap_s": 0},
        },
    )
    results = sweep(config, Lab(targets={"t": Target()}), Cache(tmp_path / "cache"))
    assert results.end.why == "done"
    told = {(each.backend, each.recipe): each for each in results.builds}
    judged = {each.candidate: each for each in results.accuracies}
    for candidate in results.run.candidates:
        build, accuracy = told[candidate.backend, candidate.recipe], judged.get(candidate.id)
        assert build.ok or build.reason
        assert accuracy is None or accuracy.ok or accuracy.reason
    sure = judged[results.run.baseline]
    assert sure.status is Status.OK
    assert sure.value == 1.0
