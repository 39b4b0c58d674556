"""ONNX Runtime: the CPU everywhere, and other devices where a provider really works."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any, Optional

from backends.machine import cpu_flags, processor_name
from backends.ort import deploy, executed, graph
from backends.ort.cuda import OrtCudaSession
from backends.ort.openings import TINY_MODEL, Opening, opening
from backends.ort.providers import (
    CHOICES,
    COMPILING,
    CPU,
    NVIDIA,
    PROVIDERS,
    available,
    plugin_versions,
    possible,
)
from backends.ort.runtime import INSTALL, import_runtime, version_of
from backends.ort.session import OrtDeviceSession, OrtSession
from harness.backend import API_VERSION, BuildRequest, Capabilities, Offer, Session
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.types import Device, Engine, Precision, Probe, Settings

FP32, FP16 = Precision.FP32, Precision.FP16
INT8, INT8_DYNAMIC = Precision.INT8, Precision.INT8_DYNAMIC

_MOST_DEVICES = 16


class OnnxRuntime:
    """Runs ONNX files, and files in ONNX Runtime's own format (``.ort``), as they are.

    The precision is in the model: every offer but fp32 is built from a shared variant. The engine
    is that file and not the runtime's optimised graph, which holds layouts that only CPUs of the
    building machine's kind have, and which another release may refuse.

    Devices: ``cpu``, ``gpu:0``, ``npu``, ``coreml``. On an NVIDIA GPU the option ``provider``
    chooses between ``cuda``, ``tensorrt`` (which leaves to CUDA what it can't run) and
    ``tensorrt-rtx``, a plug-in; by default it is the first that works here. All of them keep the
    precisions of the model file. The two TensorRTs build their engines whenever a session is
    opened, or at the first run where shapes are open. ``cuda-graph=on`` replays the work as one
    graph. For the other options see :data:`backends.ort.openings.OPTIONS`.
    """

    name = "onnxruntime"
    api = API_VERSION
    capabilities = Capabilities(
        formats=("onnx",),
        offers=(
            Offer(FP32, "source"),
            Offer(FP16, "fp16", native=True),
            Offer(INT8, "qdq", calibrated=True, native=True),
            Offer(INT8, "qdq-all", calibrated=True, native=True),
            Offer(INT8, "qdq-portable", calibrated=True, native=True),
            Offer(INT8_DYNAMIC, "dynamic", native=True),
            Offer(Precision.INT8_WEIGHTS, "weights"),
            Offer(Precision.INT4_WEIGHTS, "weights"),
        ),
        install=INSTALL,
        settings=("threads",),
        modules=("onnxruntime",),
        engine_formats=("ort", "onnx"),
    )

    def probe(self) -> Probe:
        """Each device is proved by running a tiny model on it and nowhere else."""
        try:
            runtime = import_runtime()
            versions = (("onnxruntime", str(runtime.__version__)), *plugin_versions())
            devices = tuple(_devices(runtime))
        except BackendError as error:
            return Probe(self.name, problem=str(error), fix=error.fix or INSTALL)
        except Exception as fault:  # noqa: BLE001 - a probe never raises
            return Probe(self.name, problem=f"onnxruntime is broken: {fault}", fix=INSTALL)
        return Probe(self.name, versions, devices)

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Copy the model and its external data. Raises BackendError if it isn't an ONNX file.

        A user's own may be in ONNX Runtime's format too, or hold the engines of a provider.
        """
        as_is = request.precision is Precision.AS_IS
        if not as_is and all(
            (offer.precision, offer.recipe) != (request.precision, request.recipe)
            for offer in self.capabilities.offers
        ):
            raise UnsupportedError(
                f"onnxruntime makes no {request.precision} from the recipe {request.recipe!r}"
            )
        source, target = Path(request.model), Path(workdir)
        external: list[str] = []
        if not (as_is and source.suffix == ".ort"):
            try:
                external = graph.read(request.model).external
            except ValueError as error:
                raise BackendError(f"{source.name} is not an ONNX model: {error}") from error
        elif not graph.is_ort_format(source):
            raise BackendError(
                f"{source.name} is not in ONNX Runtime's format",
                "python -m onnxruntime.tools.convert_onnx_models_to_ort MODEL.onnx makes one",
            )
        files = (source.name, *external)
        for name in files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UnsupportedError(f"{source.name} keeps data outside its folder, in {name}")
            # A copy, not a link: the cache must not change when the user's file does.
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, target / name)
        size = sum((target / name).stat().st_size for name in files)
        return Engine(str(target / source.name), files, size)

    def open(self, engine: Engine, device: str, settings: Settings) -> Session:
        """Load the engine with the device's provider alone: the first that is usable here."""
        runtime = import_runtime()
        how, session = _opened(runtime, engine.path, device, settings)
        examine = partial(executed.examine, runtime, engine.path, how)
        if how.provider in NVIDIA:
            reopen = partial(how.session, runtime, engine.path)
            return OrtCudaSession(session, how, examine, runtime.OrtValue, reopen)
        kind = OrtSession if how.provider == CPU else OrtDeviceSession
        return kind(session, how, examine)

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """The script, with the provider and the options that fit what is installed here."""
        runtime = import_runtime()
        installed = available(runtime, device)
        found = possible(device, dict(settings.options).get("provider"), installed)
        tried = found if len(found) > 1 else ()
        usable = (name for name in tried if _trial(runtime, device, name, installed) is None)
        how = _opening(runtime, device, settings, next(usable, found[0]), installed)
        return deploy.script(how, Path(engine.path).name)


def _opened(runtime: Any, path: str, device: str, settings: Settings) -> tuple[Opening, Any]:
    """The session, and how it was opened. Where no provider is usable the preferred one says why.

    No trial comes before, since it would count as time and memory of opening.
    """
    installed = available(runtime, device)
    failed = []
    for provider in possible(device, dict(settings.options).get("provider"), installed):
        how = _opening(runtime, device, settings, provider, installed)
        try:
            return how, how.session(runtime, path)
        except UnavailableError as error:
            failed.append((how, error))
    how, problem = failed[0]
    raise how.explained(runtime, problem) from problem


def _opening(
    runtime: Any, device: str, settings: Settings, provider: str, installed: tuple[str, ...]
) -> Opening:
    return opening(device, settings, installed, version_of(runtime.__version__), provider)


def _devices(runtime: Any) -> list[Device]:
    """Every device of the kinds of :data:`PROVIDERS` that runs the tiny model."""
    installed = available(runtime)
    problem = _trial(runtime, "cpu", CPU, installed)
    if problem is not None:
        raise UnavailableError(f"onnxruntime can't run on the CPU: {problem}", INSTALL)
    devices = [Device("cpu", processor_name(), _cpu_precisions())]
    for kind, providers in PROVIDERS.items():
        if kind == "cpu":
            continue
        numbered = kind == "gpu"
        for number in range(_MOST_DEVICES if numbered else 1):
            device = f"{kind}:{number}" if numbered else kind
            usable = tuple(
                name
                for name in providers
                if name in installed and _trial(runtime, device, name, installed) is None
            )
            if not usable:
                break
            devices.append(_accelerator(device, usable))
    return devices


def _trial(runtime: Any, device: str, provider: str, installed: tuple[str, ...]) -> Optional[str]:
    """Why the device can't run the tiny model with a provider, or None when it did."""
    import numpy as np

    try:
        how = _opening(runtime, device, Settings(threads=1), provider, installed)
        session = how.session(runtime, TINY_MODEL)
        (got,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as fault:  # noqa: BLE001 - any fault at all means that it isn't usable
        return str(fault)
    return None if got[0] == 2 else f"1 + 1 was {got[0]}"  # noqa: PLR2004


def _accelerator(device: str, usable: tuple[str, ...]) -> Device:
    """usable: the providers that run on it, the preferred one first.

    Q/DQ models run in int8 where TensorRT compiles them, elsewhere in floating point, if at all.
    """
    names = [provider.replace("ExecutionProvider", "") for provider in usable]
    models = _nvidia_models() if set(usable) & NVIDIA else set()
    if len(models) == 1:  # of unlike GPUs, the driver's order need not be CUDA's
        choices = [choice for choice, provider in CHOICES.items() if provider in usable]
        names = [f"{models.pop()} ({', '.join(choices)})"]
    native = (FP32, FP16, INT8) if set(usable) & COMPILING else (FP32, FP16)
    return Device(device, names[0], native)


def _nvidia_models() -> set[str]:
    models = set()
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                models.add(value.strip())
    return models


def _cpu_precisions() -> tuple[Precision, ...]:
    """Those with kernels of their own: on x86, float16 is cast to float32 node by node."""
    import platform

    quantized = (INT8, INT8_DYNAMIC, Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS)
    native = (FP32, *quantized)
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return native
    return (FP32, FP16, *quantized) if "asimdhp" in (cpu_flags() or ()) else native


BACKEND = OnnxRuntime()
