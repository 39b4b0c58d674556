"""Whether a converted model still gives the outputs of the one that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.backend import ConvertRequest, Feed
from harness.errors import BackendError
from harness.outputs import difference as of_sample
from harness.types import Array, Ports, TensorSpec

AGREES = 1e-3
"""Of an output's largest value: float32 in another order of operations stays far below it."""

_DRAWN = 2
_FEWEST = 2  # random indices are below it: every table has as many rows


def samples(request: ConvertRequest) -> tuple[Feed, ...]:
    """The user's first samples; where there are none, two random ones of the request's shapes."""
    if request.samples:
        return request.samples
    rng = np.random.default_rng(0)
    shapes = dict(request.shapes)
    return tuple(
        {spec.name: _random(rng, spec, shapes[spec.name]) for spec in request.inputs}
        for _ in range(_DRAWN)
    )


def _random(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, _FEWEST, shape).astype(dtype)


def to_file(feed: Feed, ports: Ports) -> dict[str, Array]:
    """A feed of the model as the file takes it: its names, its order of axes, its dtypes."""
    return {
        port.name: np.array(np.transpose(feed[port.spec.name], order), port.dtype, order="C")
        for port in ports.inputs
        for order in [port.axes or range(len(port.spec.shape))]
    }


def from_file(outputs: Mapping[str, Array], ports: Ports) -> dict[str, Array]:
    """The file's outputs as the model's."""
    found = {}
    for port in ports.outputs:
        value = np.asarray(outputs[port.name])
        if port.axes:
            value = np.transpose(value, np.argsort(port.axes))
        found[port.spec.name] = value.astype(port.spec.dtype, copy=False)
    return found


def difference(ours: Sequence[Mapping[str, Array]], wanted: Sequence[Mapping[str, Array]]) -> float:
    """The largest of any sample; see :func:`harness.outputs.difference`."""
    return max((of_sample(*both) for both in zip(ours, wanted)), default=0.0)


def note(found: float, tool: str, original: str, count: int) -> str:
    """For the record, where the outputs agree. Raises BackendError where they don't."""
    plural = "sample" if count == 1 else "samples"
    if not found <= AGREES:
        raise BackendError(
            f"what {tool} made gives other outputs than {original}: they differ by {found:.2g} of "
            f"an output's largest value on {count} {plural}"
        )
    if found == 0:
        return f"{tool}: outputs are exactly {original}'s"
    return f"{tool}: outputs within {found:.1g} of {original}'s, of each one's largest value"


def fixed(tool: str, ports: Ports, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """For the record, which of the model's inputs have open axes that the file has not."""
    said = [
        str(port.spec) for port, spec in zip(ports.inputs, inputs) if port.spec.shape != spec.shape
    ]
    return (f"{tool}: axes that were open are fixed: {', '.join(said)}",) if said else ()


__all__ = ["AGREES", "difference", "fixed", "from_file", "note", "samples", "to_file"]
