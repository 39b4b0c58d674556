"""OpenVINO's device strings and properties: what is asked of the runtime, decided without it.

Everything here but :func:`check_properties` is pure, so that the deployed script and the session
are made from the same values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from harness.errors import UnavailableError, UnsupportedError
from harness.types import Precision, Scenario, Settings, TensorSpec

META = ("AUTO", "BATCH", "HETERO", "MULTI")
"""OpenVINO's devices that stand for others."""

STATIC_SHAPES = "static-shapes"
"""Our own option; every other one is an OpenVINO property."""

_KINDS = {
    "CPU",
    "GPU",
    "NPU",
}  # what a list may name on a host without it: the rest are typing errors

_UNLISTED = "SNIPPETS_MODE"  # the CPU takes it without listing it; DISABLE turns off fused kernels

_HINTS = {Precision.FP32: "f32", Precision.FP16: "f16", Precision.BF16: "bf16"}


@dataclass(frozen=True)
class Target:
    """A device as OpenVINO spells it: ``kind`` alone (``GPU.1``), or with ``parts`` (``AUTO``).

    A part keeps what OpenVINO allows around a name: ``-GPU`` (not this one), ``CPU(4)``.
    """

    kind: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}:{','.join(self.parts)}" if self.parts else self.kind

    @property
    def meta(self) -> bool:
        """Whether the device stands for others."""
        return self.kind in META

    @property
    def types(self) -> frozenset[str]:
        """The kinds of device that it can run on (``CPU``, ``GPU``), empty for a bare ``AUTO``."""
        names = self.parts if self.meta else (self.kind,)
        return frozenset(bare(name).split(".")[0] for name in names if not name.startswith("-"))


def bare(part: str) -> str:
    """A device's name without what may stand around it: ``-GPU`` and ``(CPU)`` and ``CPU(4)``."""
    return re.sub(r"^[-(]|\(\d*\)$|\)$", "", part.strip())


def parse(device: str) -> Target:
    """Our device id, or OpenVINO's own string in any case, as a :class:`Target`."""
    kind, _, rest = device.strip().upper().partition(":")
    if kind in META:
        return Target(kind, tuple(part.strip() for part in rest.split(",") if part.strip()))
    return Target(f"{kind}.{rest}" if rest else kind)


def device_id(name: str) -> str:
    """OpenVINO's name of a device as our id: ``GPU.1`` is ``gpu:1``, ``GPU`` is ``gpu:0``."""
    kind, _, index = bare(name).lower().partition(".")
    if kind == "gpu":
        return f"gpu:{index or 0}"
    return f"{kind}:{index}" if index else kind


def resolve(device: str, available: Sequence[str]) -> Target:
    """The target on a host with these devices.

    OpenVINO fails, or says nothing, where a list names a device that isn't there. We leave such
    out of ``auto``, ``hetero`` and ``multi``, whose lists are lists of candidates, and the
    session says what it runs on.

    Raises:
        UnavailableError: none of the devices asked for is there.
        UnsupportedError: ``batch`` without the device that it batches for.
    """
    target = parse(device)
    known = {device_id(name) for name in available}
    if not target.meta:
        if device_id(target.kind) not in known:
            raise UnavailableError(_absent(device, available))
        return target
    if target.kind == "BATCH" and not target.parts:
        raise UnsupportedError(f"{device}: says no device; write batch:cpu, for example")
    parts = target.parts
    if target.kind in ("HETERO", "MULTI"):  # these take no empty list; AUTO does
        parts = parts or tuple(sorted(available, key=lambda name: name == "CPU"))
    kept = tuple(part for part in parts if device_id(part) in known)
    dropped = {bare(part).split(".")[0] for part in parts if part not in kept}
    asked = {device_id(part) for part in parts if not part.startswith("-")} or known
    excluded = {device_id(part) for part in parts if part.startswith("-")}
    if not (asked & known) - excluded or not dropped <= _KINDS:
        raise UnavailableError(_absent(device, available))
    return Target(target.kind, kept)


def _absent(device: str, available: Sequence[str]) -> str:
    found = ", ".join(device_id(name) for name in available) or "none"
    return f"OpenVINO finds no device {device!r} on this host; it finds: {found}"


def properties(
    precision: Optional[Precision], target: Target, settings: Settings
) -> dict[str, str]:
    """What the model is compiled with.

    INFERENCE_PRECISION_HINT is always given, since a CPU with bf16 would otherwise run fp32
    models in bf16 and call it the default; in an int8 engine it is the precision of what is not
    quantized (f32 on a CPU; f16 on a GPU or NPU, which have no fast f32). ``precision`` None is
    an engine that isn't ours: it keeps the device's default.

    NUM_STREAMS is ``settings.streams``, but for throughput with one stream the runtime's hint
    chooses it for ``settings.in_flight`` requests, as it is meant to be used.

    Raises:
        UnsupportedError: a setting or an option that no device of the target has.
    """
    asked = dict(settings.options)
    asked.pop(STATIC_SHAPES, None)
    throughput = settings.scenario is Scenario.THROUGHPUT
    found: dict[str, str] = {}
    if target.kind != "BATCH":  # passes its hint on by itself and refuses some
        found["PERFORMANCE_HINT"] = "THROUGHPUT" if throughput else "LATENCY"
    if throughput and settings.in_flight > 1 and target.kind != "BATCH":
        found["PERFORMANCE_HINT_NUM_REQUESTS"] = str(settings.in_flight)
    if precision is not None:
        off_cpu = bool(target.types) and "CPU" not in target.types
        found["INFERENCE_PRECISION_HINT"] = _HINTS.get(precision, "f16" if off_cpu else "f32")
    if settings.threads is not None:
        if target.types and "CPU" not in target.types:
            raise UnsupportedError(f"threads: {target} has no CPU threads to set")
        found["INFERENCE_NUM_THREADS"] = str(settings.threads)
    if settings.streams > 1 or not throughput:
        if target.types != {"NPU"}:
            found["NUM_STREAMS"] = str(settings.streams)
        elif settings.streams > 1:
            raise UnsupportedError(f"streams: {target} has no streams to set")
    found.update({property_name(name): value for name, value in asked.items()})
    return found


def property_name(option: str) -> str:
    """OpenVINO's spelling of an option's name."""
    return option.upper().replace("-", "_")


def check_properties(
    core: Any, target: Target, wanted: Mapping[str, str], settings: Settings
) -> None:
    """Refuse a property that no device of the target can be given; OpenVINO ignores some.

    Raises:
        UnsupportedError: with the name, and those there are.
    """
    names = [target.kind, *(bare(part) for part in target.parts)] if target.meta else [target.kind]
    if target.meta and not target.parts:
        names += list(core.available_devices)
    writable = {_UNLISTED} if "CPU" in names else set()
    for name in names:
        for key, mode in dict(core.get_property(name, "SUPPORTED_PROPERTIES")).items():
            writable |= {str(key)} if str(mode) != "RO" else set()
    as_written = {property_name(name): name for name, _ in settings.options}
    for name in wanted:
        if name not in writable:
            raise UnsupportedError(
                f"{as_written.get(name, name)}: {target} has no such property; "
                f"it has {', '.join(sorted(writable))}"
            )


@dataclass(frozen=True)
class Pinning:
    """The input shapes to compile for; see :class:`backends.ov.OpenVino`.

    shapes: known at once, None where not. first: those of the first feed will be.
    """

    shapes: Optional[dict[str, tuple[int, ...]]] = None
    first: bool = False


def pinning(inputs: Sequence[TensorSpec], settings: Settings, *, safe: bool = True) -> Pinning:
    """What the option ``static-shapes`` means for a model with these inputs.

    safe: whether ``auto`` may pin the batch.
    """
    mode = static_mode(settings)
    if not inputs:  # unknown, of an IR that isn't ours
        return Pinning(first=mode == "yes")
    open_axes = {
        axis for spec in inputs for axis, dim in enumerate(spec.shape) if not isinstance(dim, int)
    }
    if mode == "no" or not open_axes or (mode == "auto" and not safe):
        return Pinning()
    if open_axes != {0}:
        return Pinning(first=mode == "yes")
    return Pinning(
        {
            spec.name: tuple(dim if isinstance(dim, int) else settings.batch for dim in spec.shape)
            for spec in inputs
        }
    )


def static_mode(settings: Settings) -> str:
    """The option ``static-shapes``: ``auto`` (the default), ``yes`` or ``no``.

    Raises:
        UnsupportedError: any other value.
    """
    mode = dict(settings.options).get(STATIC_SHAPES, "auto")
    if mode not in ("auto", "yes", "no"):
        raise UnsupportedError(f"{STATIC_SHAPES}={mode}: is auto, yes or no")
    return mode
