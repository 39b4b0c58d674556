"""In which types an engine multiplies, by TensorRT's own lists of layers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.trt import (
    layers,
)
from harness.types import Executed, Share


def line(name: str, kind: str, inputs: str, constants: str = "") -> str:
    """As the builder's log has it; tensors as ``1,2:Float`` with spaces between."""

    def tensors(text: str) -> str:
        return ", ".join(
            f"{{ Name: t, Dimensions: [{dims}], Strides: [1,1], Datatype: {dtype}, "
            "Format: (Linear) Row major linear format }"
            for dims, dtype in (each.split(":") for each in text.split())
        )

    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensors(inputs)}], "
        f"Constants: [ {tensors(constants)}], Outputs: [ {tensors('1,9:Float')}], "
        "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: a]"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (line("a", "gemm", "-1,8:Float", "8,9:Float 1:Float"), "fp32"),
        (line("a", "correlation", "-1,3,8,8:Half", "8,3,3,3:Half 1:Float"), "fp16"),
        (line("a", "correlation", "-1,3,8,8:Int8", "8,3,3,3:Int8 1,8,1,1:Float"), "int8"),
        (line("a", "gemm", "-1,8:BFloat16", "8,9:BFloat16"), "bf16"),
        (line("a", "gemm", "-1,8:FP8", "8,9:FP8 1,9:Float"), "fp8"),
        (line("weights only", "gemm", "-1,8:Half", "8,9:Int8 1,9:Half"), "fp16"),
        (line("a residual", "gemm", "-1,9:Float -1,8:Int8", "8,9:Int8 1,9:Float"), "int8"),
        (line("two inputs", "gemm", "-1,8:Int8 8,-1:Int8", "1:Float 1:Float"), "int8"),
        (line("_gemm_mha_v2_myl0_6", "kgen", "1,8:Half 1,8:Half 1,8:Half"), "fp16"),
        (line("__myl_FcAddRelu_myl0_9", "runtime_fusion", "-1,8:Half", "8,9:Half"), "fp16"),
        (line("__myl_DecoCast_myl0_185", "runtime_fusion", "1,8:Half", "8,9:Half"), "fp16"),
        (line("__myl_MulAddConc_myl0_9", "kgen", "-1,8:Half", "1,9:Half"), None),
        (line("of unknown types", "gemm", "1,8:Odd", "8,9:Odd"), None),
        (line("pool", "maxpool", "-1,8:Half"), None),
        (line("move", "kgen", "-1,8:Half"), None),
    ],
)
def test_a_layer_counts_by_the_type_in_which_it_multiplies(text, kind):
    found = layers.from_log(f"Layers:\n{text}\n\nBindings:", tf32=False)
    assert found is not None
    assert found.total == 1
    assert found.products == (() if kind is None else (Share(kind, 1),))


def test_floats_count_as_tf32_where_that_is_allowed():
    text = "\n".join(
        (line("a", "gemm", "1,8:Float", "8,9:Float"), line("b", "gemm", "1,8:Half", "8,9:Half"))
    )
    found = layers.from_log(text, tf32=True)
    assert found is not None
    assert set(found.products) == {Share("tf32", 1), Share("fp16", 1)}
    told = "build log: 2 of 2 layers multiply; TF32 is allowed, whether a kernel uses it isn't told"
    assert str(found) == f"{told} (1 in tf32, 1 in fp16)"
    assert found.executed("gpu:0") == Executed((Share("gpu:0", 2),), found.products, told)


def full_tensorrt(kind: str, tensor: str) -> str:
    """A convolution in the log of full TensorRT: as in issue 3583 of NVIDIA/TensorRT, shortened."""
    ends = f"{{ Name: t, Location: Device, Dimensions: [1,3,8,8], Format/Datatype: {tensor} }}"
    return (
        f"Name: conv1, LayerType: CaskConvolution, Inputs: [ {ends}], Outputs: [ {ends}], "
        "ParameterType: Convolution, Kernel: [3,3], "
        f'Weights: {{"Type": "{kind}", "Count": 432}}, Bias: {{"Type": "Float", "Count": 16}}, '
        "TacticName: sm80_xmma_fprop, TacticValue: 0x1"
    )


@pytest.mark.parametrize(
    ("kind", "tensor", "share"),
    [
        ("Float", "Channel major FP32 format where channel % 4 == 0", Share("fp32", 1)),
        ("Half", "Sixteen wide channel vectorized row major FP16 format", Share("fp16", 1)),
        ("Int8", "Thirty-two wide channel vectorized row major Int8 format", Share("int8", 1)),
    ],
)
def test_full_tensorrt_says_types_in_other_words(kind, tensor, share):
    found = layers.from_log(full_tensorrt(kind, tensor), tf32=False)
    assert found is not None
    assert found.products == (share,)


def test_layers_of_types_that_arent_told_are_said_to_multiply():
    found = layers.from_log(line("a", "gemm", "1,8:Odd", "8,9:Odd"), tf32=False)
    assert str(found) == (
        "build log: 1 of 1 layers multiply, 1 of them in types that it doesn't tell"
    )
    assert layers.from_inspector("{broken", tf32=False) is None


def test_a_log_without_layers_tells_nothing():
    assert layers.from_log("Name: nobody\nTotal Weights Memory: 5 bytes", tf32=False) is None


def test_the_inspectors_json_counts_alike():
    def tensor(dtype: str) -> dict[str, Any]:
        return {"Name": "t", "Dimensions": [1, 8, 4, 4], "Format/Datatype": dtype}

    listed = [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor("Thirty-two wide channel vectorized row major Int8 format")],
            "Weights": {"Type": "Int8", "Count": 2304},
        },
        {
            "Name": "fc",
            "LayerType": "gemm",
            "Inputs": [tensor("Row major linear FP16 format")],
            "Constants": [{"Name": "w", "Dimensions": [8, 8], "Format/Datatype": "Half"}],
        },
        {"Name": "pool", "LayerType": "CaskPooling", "Inputs": [tensor("Int8")]},
    ]
    found = layers.from_inspector(json.dumps({"Layers": listed}), tf32=False)
    assert found is not None
    assert set(found.products) == {Share("int8", 1), Share("fp16", 1)}
    assert found.total == 3
    names_only = json.dumps({"Layers": ["conv", "pool"]})
    assert layers.from_inspector(names_only, tf32=False) is None
