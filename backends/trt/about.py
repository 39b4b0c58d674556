"""What ``engine.json`` beside an engine says of it, since it is opened by its path alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from harness.types import Executed, Precision, ShapeRange, Share, TensorSpec

ENGINE = "model.engine"
CALIBRATION = "calibration.cache"


@dataclass(frozen=True)
class About:
    """Everything that is known of an engine; nothing but the defaults for one that isn't ours.

    library: the module that made it (``tensorrt``, ``tensorrt_rtx``); version: that module's.
    mode: ``strongly typed``, or ``implicit`` with what calibrated it. tf32: whether float32
    products may be rounded to TF32. compute_capability: of the GPU that it is for (``8.9``).
    driver: of the host that built it. layers: compute layers per type in which they multiply.
    device_memory_bytes: activations and scratch, without weights, inputs and outputs.
    """

    library: Optional[str] = None
    version: Optional[str] = None
    mode: Optional[str] = None
    precision: Optional[Precision] = None
    tf32: Optional[bool] = None
    compute_capability: Optional[str] = None
    driver: Optional[str] = None
    profiles: tuple[tuple[ShapeRange, ...], ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    layers: tuple[Share, ...] = ()
    layers_detail: str = ""
    device_memory_bytes: Optional[int] = None
    weights_bytes: Optional[int] = None
    build_options: tuple[tuple[str, str], ...] = ()

    @property
    def executed(self) -> Optional[Executed]:
        """What the build's log says of the layers, without the device; None where it is unknown."""
        return Executed((), self.layers, self.layers_detail) if self.layers else None
