"""``CompiledModel``: LiteRT's way to GPUs and NPUs, and to XNNPACK's float16 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Optional, Union

import numpy as np

from backends.litert import tiny
from backends.litert.runtime import classified
from backends.litert.session import LiteRtSession
from backends.litert.slots import Shape, Slot, Slots
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Array, Executed

FORCE_FP16 = 4
"""``TFLITE_XNNPACK_DELEGATE_FLAG_FORCE_FP16``: float32 operators are computed in float16, or the
delegate fails."""

_DIRECT = {"float32", "float16", "int32", "int8", "uint8", "bool"}
"""Types that the Python interface of buffers takes; others go as bytes."""


@dataclass(frozen=True)
class Target:
    """How a model is compiled. kind: ``cpu``, ``gpu`` or ``npu``. fallback: the CPU runs the rest.

    fp16: on a CPU it is forced, on a GPU it is allowed.
    """

    kind: str
    threads: int = 1
    fp16: bool = False
    fallback: bool = False

    def options(self) -> Any:
        """As LiteRT takes them."""
        from ai_edge_litert.compiled_model import (
            CpuOptions,
            GpuOptions,
            HardwareAccelerator,
            Options,
        )

        accelerators = HardwareAccelerator[self.kind.upper()]
        if self.fallback:
            accelerators |= HardwareAccelerator.CPU
        cpu = CpuOptions(num_threads=self.threads)
        if self.kind == "cpu" and self.fp16:
            cpu = CpuOptions(num_threads=self.threads, xnnpack_flags=FORCE_FP16)
        gpu = GpuOptions(enforce_f32=not self.fp16) if self.kind == "gpu" else None
        return Options(hardware_accelerators=accelerators, cpu_options=cpu, gpu_options=gpu)

    def compile(self, model: Union[str, bytes]) -> Any:
        """Compile a file, by its path, or its content. Raises what LiteRT raises."""
        from ai_edge_litert.compiled_model import CompiledModel

        if isinstance(model, bytes):
            return CompiledModel.from_buffer(model, options=self.options())
        return CompiledModel.from_file(model, options=self.options())


class CompiledSession(LiteRtSession):
    """One ``CompiledModel`` with buffers of its own, made anew where shapes are."""

    def __init__(
        self,
        model: Any,
        slots: Slots,
        device: str,
        examine: Callable[[Sequence[Shape]], Optional[Executed]],
    ) -> None:
        super().__init__(slots, device, examine)
        self._model = model
        self._signature = key_of(slots)
        self._place = _place(model, self._signature)
        self._buffers: tuple[list[Any], list[Any]] = ([], [])

    def _allocate(self, shapes: list[Shape]) -> tuple[list[Any], list[Any], Callable[[], None]]:
        model = self._model
        inputs = _places(model.get_input_tensor_details(self._signature))
        outputs = _places(model.get_output_tensor_details(self._signature))
        if shapes != self._shapes:
            for slot, shape in zip(self._slots.inputs, shapes):
                if slot.open:
                    model.resize_input_tensor(inputs[slot.index], list(shape), self._place)
            self._shapes = shapes
        ins = model.create_input_buffers(self._place)
        outs = model.create_output_buffers(self._place)
        self._buffers = (ins, outs)
        puts = [_put(slot, ins[inputs[slot.index]]) for slot in self._slots.inputs]
        takes = [_take(slot, outs[outputs[slot.index]]) for slot in self._slots.outputs]
        return puts, takes, partial(model.run_by_index, self._place, ins, outs)

    def _unbind(self, run: Callable[[], None]) -> None:
        super()._unbind(run)
        self._buffers = ([], [])

    def _release(self) -> None:
        self._model.close()
        self._model = None


def key_of(slots: Slots) -> str:
    """The key of the model's signature. LiteRT makes one up for a file that has no signatures."""
    return slots.signature or _MADE_UP


_MADE_UP = "<placeholder signature>"


def _place(model: Any, key: str) -> int:
    place = int(model.get_signature_index(key))
    if place < 0:
        raise UnsupportedError(
            "none of the file's signatures is the model's: CompiledModel runs signatures alone",
            "convert the model again with a signature of its first subgraph",
        )
    return place


def _places(details: dict[str, Any]) -> dict[int, int]:
    """A tensor's place among the buffers, by its number."""
    return {int(each["index"]): place for place, each in enumerate(details.values())}


def _put(slot: Slot, buffer: Any) -> Callable[[Array], None]:
    if slot.dtype in _DIRECT:
        return lambda array: buffer.write(slot.to_file(array))

    def put(array: Array) -> None:
        buffer.write(np.ascontiguousarray(slot.to_file(array)).reshape(-1).view(np.uint8))

    return put


def _take(slot: Slot, buffer: Any) -> Callable[[], Array]:
    shape: Sequence[int] = buffer.get_tensor_details()["shape"]
    dtype = np.dtype(slot.dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if slot.dtype in _DIRECT:
        return lambda: slot.from_file(buffer.read(count, dtype).reshape(shape))
    size = count * dtype.itemsize
    return lambda: slot.from_file(buffer.read(size, np.uint8).view(dtype).reshape(shape))


def trial(target: Target) -> Optional[str]:
    """Why a target can't run a tiny model, or None when it did.

    The model adds its input to itself. In float16 a tenth has another double, which tells whether
    a CPU really computes in it.
    """
    try:
        (got,) = once(target, tiny.content(), [np.full((1, 4), _TENTH, np.float32)])
    except Exception as fault:  # noqa: BLE001 - any fault at all means that it isn't usable
        return str(classified(fault, target.kind))
    wanted = 2 * np.float32(np.float16(_TENTH)) if target.fp16 else 2 * np.float32(_TENTH)
    off = float(np.abs(got.view(np.float32) - wanted).max())
    fits = off == 0 if target.kind == "cpu" else off <= _HALF_STEP
    return None if fits else f"0.1 + 0.1 was off by {off:.2g}"


_TENTH, _HALF_STEP = 0.1, 1e-3


def once(
    target: Target, model: Union[str, bytes], inputs: Sequence[Array], key: str = _MADE_UP
) -> list[Array]:
    """The outputs, as bytes, of one inference on inputs in the file's order and shapes.

    That order is the signature's (``key``) as well: LiteRT sorts what a signature names by it.
    """
    compiled = target.compile(model)
    place = _place(compiled, key)
    details = compiled.get_input_tensor_details(key).values()
    for number, (each, value) in enumerate(zip(details, inputs)):
        if tuple(each["shape"]) != value.shape:
            compiled.resize_input_tensor(number, list(value.shape), place)
    ins, outs = compiled.create_input_buffers(place), compiled.create_output_buffers(place)
    for buffer, value in zip(ins, inputs):
        buffer.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    compiled.run_by_index(place, ins, outs)
    sizes = [
        compiled.get_output_buffer_requirements(number, place)["buffer_size"]
        for number in range(len(outs))
    ]
    return [buffer.read(size, np.uint8) for buffer, size in zip(outs, sizes)]


def reduced(path: str, slots: Slots, shapes: Sequence[Shape], threads: int) -> bool:
    """Whether forcing float16 changes what the model gives for random inputs."""
    rng = np.random.default_rng(0)
    inputs = [
        rng.standard_normal(shape).astype(slot.dtype)
        if np.dtype(slot.dtype).kind == "f"
        else np.ones(shape, slot.dtype)
        for slot, shape in zip(slots.inputs, shapes)
    ]
    key = key_of(slots)
    plain, forced = (
        once(Target("cpu", threads, fp16), path, inputs, key) for fp16 in (False, True)
    )
    return any(left.tobytes() != right.tobytes() for left, right in zip(plain, forced))


def absent(device: str, problem: str) -> UnavailableError:
    """For a device that isn't there."""
    return UnavailableError(
        f"{device}: LiteRT can't use such a device: {problem}", "enginepick devices"
    )
