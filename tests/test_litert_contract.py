"""LiteRT through the contract suite, from the suite's ONNX by the converter that users get."""

import pytest

from backends.convert.onnx_to_tflite import CONVERTER
from backends.litert import BACKEND
from harness.testing import BackendContract

_LACKS = CONVERTER.probe().problem if BACKEND.probe().problem is None else None


@pytest.mark.skipif(_LACKS is not None, reason=str(_LACKS))
class TestContract(BackendContract):
    backend = BACKEND
    converter = CONVERTER
