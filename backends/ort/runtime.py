"""What a session is opened with, and what ONNX Runtime's faults mean.

The settings are worked out as plain data first (:class:`Opening`), so that ``open``, the session
that is examined and the script for deployment all say the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional, Union

from harness.errors import (
    BackendError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.types import Settings, TensorSpec

INSTALL = 'pip install "enginepick[onnxruntime]"'
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

PROVIDERS = {
    "cpu": (CPU,),
    "gpu": (CUDA, "MIGraphXExecutionProvider", "ROCMExecutionProvider"),
    "npu": ("QNNExecutionProvider", "VitisAIExecutionProvider"),
    "coreml": ("CoreMLExecutionProvider",),
}
"""Which providers can stand for a kind of device, the preferred one first."""

LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}

OPTIONS = {
    "graph-optimization": f"one of {', '.join(LEVELS)} (default: all)",
    "spin": "microseconds that idle threads spin, or default, the runtime's (default: 200)",
    "cpu-fallback": "on or off: may nodes that another device lacks run on the CPU (default: off)",
    "tf32": "on or off: may a CUDA GPU round float32 products to TF32 (default: off)",
}
"""The options of ``Settings.options`` that are understood."""

DEFAULT_SPIN_US = 200
_SPIN_DURATION_SINCE = (1, 27)  # older ones ignore the key; threads there spin tens of ms
_QUIET = 4  # fatal faults only: what matters is raised as well
_WORST_TEXT = 1500

_DTYPES = {
    "float": "float32", "float16": "float16", "double": "float64", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip
"""The element types that numpy has too."""


@dataclass(frozen=True)
class Opening:
    """All that a session is opened with.

    provider: the one asked for. provider_options: its own. level: of graph optimisation, by the
    runtime's name. threads: intra-op, 0 for the runtime's choice. entries: of the session's
    configuration, in order.
    """

    device: str
    provider: str
    provider_options: tuple[tuple[str, str], ...]
    level: str
    threads: int
    entries: tuple[tuple[str, str], ...]

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """As ``InferenceSession`` takes them."""
        return [(self.provider, dict(self.provider_options))]

    def options(self, ort: Any) -> Any:
        """A fresh ``SessionOptions``."""
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, self.level)
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        for key, value in self.entries:
            options.add_session_config_entry(key, value)
        return options

    def session(self, ort: Any, model: Union[str, bytes], options: Optional[Any] = None) -> Any:
        """An ``InferenceSession`` with the provider asked for and no other.

        model: its file, or its bytes. options: those of :meth:`options`, changed. Raises
        classified errors.
        """
        try:
            session = ort.InferenceSession(
                model,
                sess_options=self.options(ort) if options is None else options,
                providers=self.providers,
                enable_fallback=0,  # else a fault of the provider silently gives the CPU
            )
        except Exception as fault:
            raise classified(fault, self.device) from fault
        session.disable_fallback()
        if self.provider not in session.get_providers():
            got = ", ".join(session.get_providers())
            raise UnavailableError(
                f"{self.device}: {self.provider} was asked for, but ONNX Runtime took {got}"
            )
        return session


def import_runtime() -> Any:
    """The ``onnxruntime`` module, silenced. Raises UnavailableError with the reason."""
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_QUIET)
    except Exception as fault:  # broken installations raise much more than ImportError
        raise UnavailableError(f"onnxruntime can't be imported: {fault}", INSTALL) from fault
    return onnxruntime


def version_of(text: str) -> tuple[int, int]:
    """(1, 32) of "1.32.0"."""
    numbers = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (0, 0)


def provider_for(device: str, available: Iterable[str]) -> tuple[str, int]:
    """The provider for a device, and the device's number.

    available: what the package was built with, which proves nothing about this host. Raises
    UnavailableError if none of it fits.
    """
    kind, _, number = device.partition(":")
    names = list(available)
    found = next((name for name in PROVIDERS.get(kind, ()) if name in names), None)
    if found is None or not (number or "0").isdecimal() or (kind == "cpu" and number):
        raise UnavailableError(
            f"{device}: this onnxruntime has no provider for it (it has {', '.join(names)})",
            "pip install onnxruntime-gpu" if kind == "gpu" else "enginepick devices",
        )
    return found, int(number or "0")


def opening(
    device: str, settings: Settings, available: Iterable[str], version: tuple[int, int]
) -> Opening:
    """Work out a session's settings.

    available: the providers that the package was built with. version: the runtime's. Raises
    UnsupportedError for an unknown option or value and UnavailableError for an unknown device.
    """
    provider, number = provider_for(device, available)
    chosen = dict(settings.options)
    unknown = sorted(set(chosen) - set(OPTIONS))
    if unknown:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in OPTIONS.items())
        raise UnsupportedError(f"onnxruntime has no option {unknown[0]!r}; it has {known}")
    level = chosen.get("graph-optimization", "all")
    if level not in LEVELS:
        raise _bad_value("graph-optimization", level)
    entries = _spin_entries(chosen.get("spin", str(DEFAULT_SPIN_US)), version)
    fallback, tf32 = (_switch(name, chosen) for name in ("cpu-fallback", "tf32"))
    if provider != CPU and not fallback:
        entries.append(("session.disable_cpu_ep_fallback", "1"))
    provider_options = []
    if provider != CPU and ":" in device:
        provider_options.append(("device_id", str(number)))
    if provider == CUDA:
        provider_options.append(("use_tf32", str(int(tf32))))
    return Opening(
        device=device,
        provider=provider,
        provider_options=tuple(provider_options),
        level=LEVELS[level],
        threads=settings.threads or 0,
        entries=tuple(entries),
    )


def _spin_entries(spin: str, version: tuple[int, int]) -> list[tuple[str, str]]:
    """How long idle threads spin.

    By default ONNX Runtime's threads spin for some 20 to 50 ms after a run, which steals from
    whatever is measured next, and turns bimodal where cores are contended.
    """
    if spin == "default":
        return []
    if not spin.isdecimal():
        raise _bad_value("spin", spin)
    if not int(spin):
        return [("session.intra_op.allow_spinning", "0")]
    entries = [("session.intra_op.spin_duration_us", spin)]
    if version < _SPIN_DURATION_SINCE:
        entries.append(("session.force_spinning_stop", "1"))
    return entries


def _switch(name: str, chosen: dict[str, str]) -> bool:
    value = chosen.get(name, "off")
    if value not in ("on", "off"):
        raise _bad_value(name, value)
    return value == "on"


def _bad_value(name: str, value: str) -> UnsupportedError:
    return UnsupportedError(f"onnxruntime's option {name} can't be {value!r}: {OPTIONS[name]}")


def specs(arguments: Iterable[Any], kind: str) -> tuple[TensorSpec, ...]:
    """The specs of a session's inputs or outputs (``kind``, for the message).

    Raises UnsupportedError for what isn't a tensor of one of numpy's types.
    """
    found = []
    for argument in arguments:
        match = re.fullmatch(r"tensor\((\w+)\)", argument.type)
        dtype = _DTYPES.get(match.group(1)) if match else None
        if dtype is None:
            raise UnsupportedError(
                f"{kind} {argument.name} is {argument.type}, which has no numpy equivalent here"
            )
        shape = tuple(dim if isinstance(dim, (int, str)) else None for dim in argument.shape or ())
        found.append(TensorSpec(argument.name, dtype, shape))
    return tuple(found)


_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory|bad_alloc|out of memory|ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_UNAVAILABLE = re.compile(
    r"Failed to create \w+ExecutionProvider|invalid device ordinal|no CUDA-capable device"
    r"|driver version is insufficient|CUDA failure (35|100|101)\b|Error loading .*providers"
    r"|LoadLibrary failed|Failed to load library",
    re.IGNORECASE,
)
_FALLBACK = "assigned to the default CPU EP"
_UNSUPPORTED = re.compile(
    r"is not a registered function/op|No Op registered for|Could not find an implementation for"
    r"|Failed to find kernel for|guarantees\W* support for models stamped with"
    r"|under development and support for this is limited|Unsupported model IR version"
    r"|NOT_IMPLEMENTED|" + re.escape(_FALLBACK)
)


def classified(fault: Exception, device: str) -> Exception:
    """What a fault of the runtime means: one of our errors, or itself where it is just a fault.

    ONNX Runtime's classes derive from Exception alone and say little: the text decides.
    """
    if isinstance(fault, BackendError):
        return fault
    text = " ".join(str(fault).split())[:_WORST_TEXT]
    if isinstance(fault, MemoryError) or _OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(text or "out of memory")
    if _UNAVAILABLE.search(text):
        return UnavailableError(f"{device}: {text}", "enginepick devices")
    if _FALLBACK in text:
        return UnsupportedError(
            f"{device} can't run every node of this model: {text}",
            "set the option cpu-fallback=on to let those nodes run on the CPU",
        )
    if _UNSUPPORTED.search(text):
        return UnsupportedError(text)
    return fault


def processor_name() -> str:
    """The CPU's name as the system gives it."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or os.name
