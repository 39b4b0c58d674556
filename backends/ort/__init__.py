"""ONNX Runtime: the CPU everywhere, and other devices where a provider really works."""

from __future__ import annotations

import shutil
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, Optional

from backends.ort import executed, graph
from backends.ort import session as sessions
from backends.ort.runtime import (
    CUDA,
    INSTALL,
    PROVIDERS,
    Opening,
    import_runtime,
    opening,
    processor_name,
    version_of,
)
from harness.backend import API_VERSION, BuildRequest, Capabilities, Offer, Session
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.types import Device, Engine, Precision, Probe, Settings

FP32, FP16 = Precision.FP32, Precision.FP16
INT8, INT8_DYNAMIC = Precision.INT8, Precision.INT8_DYNAMIC

_MOST_DEVICES = 16

# x + x, as onnx.helper makes it: IR 7, opset 13, float[1]. There is no onnx package in a worker.
_TINY_MODEL = (
    b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class OnnxRuntime:
    """Runs ONNX files, and files in ONNX Runtime's own format (``.ort``), as they are.

    The precision is in the model: every offer but fp32 is built from a shared variant. The engine
    is that file and not the runtime's optimised graph, which holds layouts that only CPUs of the
    building machine's kind have, and which another release may refuse.
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
    )

    def probe(self) -> Probe:
        """Each device is proved by running a tiny model on it and nowhere else."""
        try:
            runtime = import_runtime()
            versions = (("onnxruntime", str(runtime.__version__)),)
            devices = tuple(_devices(runtime))
        except BackendError as error:
            return Probe(self.name, problem=str(error), fix=error.fix or INSTALL)
        except Exception as fault:  # noqa: BLE001 - a probe never raises
            return Probe(self.name, problem=f"onnxruntime is broken: {fault}", fix=INSTALL)
        return Probe(self.name, versions, devices)

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Copy the model and its external data. Raises BackendError if it isn't an ONNX file."""
        if all(
            (offer.precision, offer.recipe) != (request.precision, request.recipe)
            for offer in self.capabilities.offers
        ):
            raise UnsupportedError(
                f"onnxruntime makes no {request.precision} from the recipe {request.recipe!r}"
            )
        source, target = Path(request.model), Path(workdir)
        try:
            external = graph.read(request.model).external
        except ValueError as error:
            raise BackendError(f"{source.name} is not an ONNX model: {error}") from error
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
        """Load the engine with the device's provider alone."""
        runtime = import_runtime()
        how = _opening(runtime, device, settings)
        session = how.session(runtime, engine.path)
        examine = partial(executed.examine, runtime, engine.path, how)
        return sessions.opened(session, how, examine)

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """The script, with the options that fit the version installed here."""
        return _script(_opening(import_runtime(), device, settings), Path(engine.path).name)


def _opening(runtime: Any, device: str, settings: Settings) -> Opening:
    available = runtime.get_available_providers()
    return opening(device, settings, available, version_of(runtime.__version__))


def _devices(runtime: Any) -> list[Device]:
    """Every device of the kinds of :data:`PROVIDERS` that runs the tiny model."""
    available = runtime.get_available_providers()
    problem = _trial(runtime, "cpu")
    if problem is not None:
        raise UnavailableError(f"onnxruntime can't run on the CPU: {problem}", INSTALL)
    devices = [Device("cpu", processor_name(), _cpu_precisions())]
    for kind, providers in PROVIDERS.items():
        if kind == "cpu" or not set(providers) & set(available):
            continue
        numbered = kind == "gpu"
        for number in range(_MOST_DEVICES if numbered else 1):
            device = f"{kind}:{number}" if numbered else kind
            if _trial(runtime, device) is not None:
                break
            devices.append(_accelerator(runtime, device))
    return devices


def _trial(runtime: Any, device: str) -> Optional[str]:
    """Why the device can't run the tiny model, or None when it did."""
    import numpy as np

    try:
        how = _opening(runtime, device, Settings(threads=1))
        session = how.session(runtime, _TINY_MODEL)
        (got,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as fault:  # noqa: BLE001 - any fault at all means that it isn't usable
        return str(fault)
    return None if got[0] == 2 else f"1 + 1 was {got[0]}"  # noqa: PLR2004


def _accelerator(runtime: Any, device: str) -> Device:
    provider = _opening(runtime, device, Settings()).provider
    name = provider.replace("ExecutionProvider", "")
    models = _nvidia_models() if provider == CUDA else set()
    if len(models) == 1:  # of unlike GPUs, the driver's order need not be CUDA's
        name = models.pop()
    # Q/DQ models run on these providers in floating point, if at all: no int8.
    return Device(device, name, (FP32, FP16))


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
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return native
    return (FP32, FP16, *quantized) if "asimdhp" in flags else native


_SCRIPT = '''\
"""Runs {engine} on {device} with ONNX Runtime. Needs onnxruntime and numpy."""

import os

import numpy as np
import onnxruntime as ort

ENGINE = {engine!r}
PROVIDER = {provider!r}


def load():
    """Open the engine, which lies beside this script."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = {threads}{threads_comment}
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
{entries}    session = ort.InferenceSession(
        os.path.join(os.path.dirname(os.path.abspath(__file__)), ENGINE),
        sess_options=options,
        providers=[(PROVIDER, {provider_options!r})],
        enable_fallback=0,
    )
    session.disable_fallback()  # a fault is an error, never a silent run elsewhere
    if PROVIDER not in session.get_providers():
        raise RuntimeError(f"{{PROVIDER}} is not usable here")
    return session


def infer(session, feed):
    """One inference: arrays by input name in, arrays by output name out."""
    names = [output.name for output in session.get_outputs()]
    feed = {{name: np.asarray(array, order="C") for name, array in feed.items()}}
    return dict(zip(names, session.run(names, feed)))


if __name__ == "__main__":
    opened = load()
    for value in (*opened.get_inputs(), *opened.get_outputs()):
        print(value.name, value.type, value.shape)
'''


def _script(how: Opening, engine: str) -> str:
    lines = [
        f"options.add_session_config_entry({key!r}, {value!r})\n" for key, value in how.entries
    ]
    return _SCRIPT.format(
        engine=engine,
        device=how.device,
        provider=how.provider,
        level=how.level,
        threads=how.threads,
        threads_comment="" if how.threads else "  # the runtime's choice",
        entries=textwrap.indent("".join(lines), "    "),
        provider_options=dict(how.provider_options),
    )


BACKEND = OnnxRuntime()
