"""Execution providers: which can stand for a device, which one is taken, and why one isn't there.

A provider is built into the package, where ``get_available_providers`` lists it whether it works
here or not, or is a plug-in in a package of its own, which has to be registered first.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import tempfile
from collections.abc import Iterable
from typing import Any, Callable, Optional

from harness.errors import UnavailableError, UnsupportedError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"

PROVIDERS = {
    "cpu": (CPU,),
    "gpu": (CUDA, TENSORRT, TENSORRT_RTX, "MIGraphXExecutionProvider", "ROCMExecutionProvider"),
    "npu": ("QNNExecutionProvider", "VitisAIExecutionProvider"),
    "coreml": ("CoreMLExecutionProvider",),
}
"""Which providers can stand for a kind of device, the preferred one first."""

CHOICES = {"cuda": CUDA, "tensorrt": TENSORRT, "tensorrt-rtx": TENSORRT_RTX}
"""The values of the option ``provider``."""

NVIDIA = frozenset(CHOICES.values())
COMPILING = frozenset({TENSORRT, TENSORRT_RTX})
"""Those that turn their nodes into an engine, of strong types: the model file's."""

PLUGINS = {TENSORRT_RTX: "onnxruntime_ep_nv_tensorrt_rtx"}
"""The modules that bring the plug-ins."""

_DISTRIBUTIONS = ("onnxruntime-ep-nv-tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13")
_INSTALL = {
    TENSORRT_RTX: 'pip install "enginepick[tensorrt-rtx-ep]"',
    CUDA: "pip install onnxruntime-gpu",
    TENSORRT: "pip install onnxruntime-gpu",
}
LIBRARIES = {
    CUDA: 'pip install "onnxruntime-gpu[cuda,cudnn]"',
    TENSORRT: "pip install tensorrt_cu12_libs, or _cu13_, of the version that is missing",
}
"""What brings the libraries that built-in providers need."""

DRIVER = "libcuda.so.1"
_ERROR = 3  # of the runtime's levels of logging
_WHY = re.compile(r"Failed to (?:load|create) .*")


def available(ort: Any, device: str = "gpu") -> tuple[str, ...]:
    """What is installed, which proves nothing about this host; plug-ins only for a GPU."""
    plugins = tuple(
        name
        for name, module in PLUGINS.items()
        if device.startswith("gpu")
        and hasattr(ort, "register_execution_provider_library")
        and importlib.util.find_spec(module)
    )
    return (*(name for name in ort.get_available_providers() if name not in plugins), *plugins)


def plugin_versions() -> tuple[tuple[str, str], ...]:
    """Of the plug-ins' packages that are installed."""
    found = []
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    return tuple(found)


def possible(device: str, chosen: Optional[str], installed: Iterable[str]) -> tuple[str, ...]:
    """The installed providers that can stand for a device, the preferred one first.

    chosen: the value of the option ``provider``. Raises UnavailableError if there is none, and
    UnsupportedError for a provider of another kind of device.
    """
    kind, _, number = device.partition(":")
    names = list(installed)
    fitting = PROVIDERS.get(kind, ())
    if chosen is not None:
        wanted = CHOICES.get(chosen)
        if wanted is None:
            raise UnsupportedError(
                f"onnxruntime's option provider can't be {chosen!r}: it is {', '.join(CHOICES)}"
            )
        if wanted not in fitting:
            raise UnsupportedError(f"{device}: provider={chosen} is for a gpu")
        fitting = (wanted,)
    found = tuple(name for name in fitting if name in names)
    if not found or not (number or "0").isdecimal() or (kind == "cpu" and number):
        fix = _INSTALL.get(fitting[0], "enginepick devices") if fitting else "enginepick devices"
        raise UnavailableError(
            f"{device}: this onnxruntime has no {chosen or 'provider for it'}"
            f" (it has {', '.join(names)})",
            fix,
        )
    return found


def preload(ort: Any, provider: str) -> None:
    """Load CUDA, cuDNN and TensorRT from NVIDIA's Python packages, where these are installed.

    A ``libonnxruntime_providers_cuda.so`` doesn't find them there, unless torch was imported.
    """
    load = getattr(ort, "preload_dlls", None)  # since 1.21
    with contextlib.redirect_stdout(io.StringIO()):
        if load is not None:
            with contextlib.suppress(Exception):
                load()  # it prints what it misses; whether that matters the session will tell
        if provider == TENSORRT:
            with contextlib.suppress(Exception):
                importlib.import_module("tensorrt_libs")


def plugin_device(ort: Any, provider: str, number: int) -> Any:
    """The plug-in's device of a number, once its library is registered.

    Raises UnavailableError without a driver, since the plug-in's package loads some 300 MB when it
    is imported, and where the plug-in finds no such device. Other faults are the runtime's.
    """
    if provider not in {each.ep_name for each in ort.get_ep_devices()}:
        try:
            ctypes.CDLL(DRIVER)
        except OSError as fault:
            raise UnavailableError(
                f"gpu:{number}: {provider} needs NVIDIA's driver: {fault}",
                "install the driver, so that nvidia-smi lists the GPU",
            ) from fault
        package = importlib.import_module(PLUGINS[provider])
        try:
            ort.register_execution_provider_library(provider, package.get_library_path())
        except Exception as fault:
            if "already registered" not in str(fault):  # as it stays where it finds no device
                raise
    devices = [each for each in ort.get_ep_devices() if each.ep_name == provider]
    for index, each in enumerate(devices):
        if int(dict(each.ep_options).get("device_id", index)) == number:
            return each
    raise UnavailableError(
        f"gpu:{number}: {provider} finds {len(devices)} GPUs that it supports",
        "enginepick devices",
    )


def complaint(ort: Any, attempt: Callable[[], object], quiet: int) -> str:
    """What ONNX Runtime logs during an attempt in which it drops a provider, or nothing.

    It tells nowhere else which library is missing. quiet: the level of logging to return to.
    """
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        ort.set_default_logger_severity(_ERROR)
        try:
            with contextlib.suppress(Exception):
                attempt()
        finally:
            ort.set_default_logger_severity(quiet)
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        found = _WHY.search(log.read().decode("utf-8", "replace"))
    return re.sub(r"\x1b\[[0-9;]*m", "", found.group()).strip() if found else ""
