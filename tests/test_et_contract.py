"""ExecuTorch against the contract suite: every offer, and fp32 in all its breadth."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("executorch")

from backends.convert.onnx_to_torch import CONVERTER
from backends.et import BACKEND
from harness.testing import BackendContract


@pytest.mark.exhaustive
class TestContract(BackendContract):
    backend = BACKEND
    converter = CONVERTER
