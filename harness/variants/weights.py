"""Weight-only int8 and int4: ONNX Runtime's quantizer of matrix products by blocks.

The products stay in floating point; each unpacks its weights (``MatMulNBits``). OpenVINO reads the
same file, and does the same. Q/DQ of the weights instead would serve it less: the quantizer makes
that for 4 bits only, and OpenVINO refuses blocks that are longer than a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import UnavailableError, UnsupportedError
from harness.variants.excluding import excluded
from harness.variants.files import check, is_large, nodes_of
from harness.variants.quantized import FROM_GEMM, prepared_model, told


def make(source: str, out: str, params: Mapping[str, str]) -> tuple[str, ...]:
    """Write the model with packed weights. Notes as of :func:`harness.variants.make`."""
    operators = params["operators"].split(",")
    if not any(node.op_type in operators for node in nodes_of(source)):
        raise UnsupportedError(
            f"weight-only quantization covers {' and '.join(operators)}, and the model has none"
        )
    large = is_large(source)
    with prepared_model(source, out, large=large) as (prepared, notes):
        nodes = nodes_of(prepared)
        stay = {node.name for node in nodes if node.op_type not in operators}
        stay.update(excluded(source, prepared, params))
        quantized = _quantize(prepared, params, [*stay, *(name + FROM_GEMM for name in stay)])
        quantized.save_model_to_file(out, large)
        check(out, prepared, "the weight-only quantizer")
    left = {node.name.removesuffix(FROM_GEMM) for node in nodes_of(out)}
    before = [node for node in nodes if node.op_type in operators]
    return (*notes, *told(before, [node for node in before if node.name in left]))


def _quantize(prepared: str, params: Mapping[str, str], stay: list[str]) -> Any:
    """The quantizer's model. Raises UnavailableError without a package that it needs."""
    import onnx
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.onnx_model import ONNXModel

    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    except ImportError as fault:
        raise UnavailableError(
            f"weight-only quantization needs the package {fault.name}", "pip install onnx-ir"
        ) from fault
    model = ONNXModel(onnx.load(prepared))
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        model.model,
        bits=int(params["bits"]),
        block_size=int(params["block_size"]),
        is_symmetric=params["symmetric"] == "yes",
        nodes_to_exclude=stay,
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    return quantizer.model
