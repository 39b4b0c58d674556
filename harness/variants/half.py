"""float16: ONNX Runtime's converter, which keeps a few operators in float32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from harness.errors import UnsupportedError
from harness.variants.excluding import in_floats
from harness.variants.files import check, freeze, inferred, initializers, is_large, save

_LARGEST = 65504.0  # of float16


def make(source: str, out: str, *, keep_io: bool) -> tuple[str, ...]:
    """Convert; inputs and outputs stay float32 if ``keep_io``. Notes as of ``variants.make``."""
    import onnx
    from onnx import TensorProto
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(source, load_external_data=False)
    large = is_large(source, model)
    if large:
        model = inferred(source, Path(out).parent)
    freeze(model)
    floats = [each for each in initializers(model.graph) if each.data_type == TensorProto.FLOAT]
    if not floats:
        raise UnsupportedError("the model has no float32 weights that could become float16")
    clipped = sum(_beyond(tensor) for tensor in floats)
    types = [node.op_type for node in in_floats(model.graph.node)]
    blocked = Counter(each for each in types if each in DEFAULT_OP_BLOCK_LIST)
    del floats
    model = convert_float_to_float16(model, keep_io_types=keep_io, disable_shape_infer=large)
    OnnxModel.graph_topological_sort(model.graph)  # the converter appends its casts at the end
    halves = sum(each.data_type == TensorProto.FLOAT16 for each in initializers(model.graph))
    if not halves:
        raise UnsupportedError("every float32 weight belongs to an operator that stays in float32")
    save(model, out, large=large)
    check(out, source, "the float16 converter")
    notes = []
    if types:  # beside quantized ones, if any
        notes.append(
            f"{len(types) - sum(blocked.values())} of {len(types)} nodes converted to fp16"
        )
    if blocked:
        kept = ", ".join(f"{count} {name}" for name, count in sorted(blocked.items()))
        notes.append(f"{sum(blocked.values())} nodes kept in fp32: {kept}")
    if clipped:
        notes.append(f"{clipped} weights beyond the range of float16 were clipped")
    return tuple(notes)


def _beyond(tensor: Any) -> int:
    """How many finite values of a float32 tensor float16 can't hold."""
    import numpy as np
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    if values.size and -_LARGEST <= values.min() <= values.max() <= _LARGEST:
        return 0  # nearly always, and found without copies
    values = np.abs(values)
    return int(np.count_nonzero((values > _LARGEST) & np.isfinite(values)))
