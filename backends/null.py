"""A deterministic fake that serves any model in microseconds: the whole pipeline is tested on it.

Its outputs are a fixed pseudo-random projection of the inputs, so they differ from sample to
sample, and lower precisions are a little off. How it behaves, and misbehaves, is a
:class:`Behaviour`, set in a ``.null`` model file, per precision where wanted::

    {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
     "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
     "behaviour": {"latency_us": 50},
     "by_precision": {"int8": {"latency_us": 20, "error": 0.3}}}

and overridden by the options of :class:`~harness.types.Settings`, where it concerns a session. An
ONNX model is only asked for its inputs and outputs. An engine takes the shapes that it was built
for alone, and is built for any GPU. Python 3.9 and numpy; ``onnx`` to build from ONNX.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import random
import shutil
import signal
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from harness.backend import API_VERSION, BuildRequest, Capabilities, Feed, Offer, Session
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError
from harness.types import (
    Array,
    Device,
    Engine,
    Executed,
    Phases,
    Precision,
    Probe,
    Settings,
    Share,
    TensorSpec,
)

MEBIBYTE = 1 << 20
EXCEPTIONS: Mapping[str, type[Exception]] = {
    "unsupported": UnsupportedError,
    "unavailable": UnavailableError,
    "out-of-memory": OutOfMemoryError,
    "backend": BackendError,
    "runtime": RuntimeError,
    "memory": MemoryError,
}
STAGES = ("", "build", "open", "run")
ERRORS = {"fp32": 0.0, "fp16": 0.0005, "bf16": 0.004, "int8": 0.01, "int8-dynamic": 0.01}
"""How far a precision's outputs are from float32's, relative to their size."""
WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int8-dynamic": 1}
ENGINE, WEIGHTS = "engine.nullengine", "engine.bin"


@dataclass(frozen=True)
class Behaviour:
    """What an engine does besides answering.

    latency_us: busy for that long in each run, times exp(normal x jitter), from a fixed seed.
    fail_at, crash_at, hang_at: ``build``, ``open`` or ``run``; raise one of :data:`EXCEPTIONS`
    by its name in ``exception``, die of SIGSEGV, or sleep for ``hang_s`` seconds; ``run`` only
    after so many of a session's runs went well (``good_runs``).
    allocate_mb: held by an open session, in MiB, every page touched.
    error: distance from the float32 outputs, relative; negative means the precision's own.
    wrong_output: the outputs of another model. nan: the first value is not a number.
    constant: the same outputs for every input. nondeterministic: outputs differ from run to run.
    executed: the precision that is reported, ``none`` for a runtime that can't tell, empty for
    the precision that was asked; executed_device likewise. print: text that goes to file
    descriptor 1 at each stage, as noisy runtimes do. queue: offer an asynchronous queue.
    device_clock: offer timing as by a device's events: latency_us of computation between copies
    of h2d_us and d2h_us, handed over in enqueue_us. device_mb: of that device's memory, in MiB.
    """

    latency_us: float = 0.0
    jitter: float = 0.0
    fail_at: str = ""
    exception: str = "runtime"
    crash_at: str = ""
    hang_at: str = ""
    hang_s: float = 3600.0
    good_runs: int = 0
    allocate_mb: int = 0
    error: float = -1.0
    wrong_output: bool = False
    nan: bool = False
    constant: bool = False
    nondeterministic: bool = False
    executed: str = ""
    executed_device: str = ""
    print: str = ""
    queue: bool = False
    device_clock: bool = False
    h2d_us: float = 0.0
    d2h_us: float = 0.0
    enqueue_us: float = 0.0
    device_mb: int = 0

    def __post_init__(self) -> None:
        for name in ("fail_at", "crash_at", "hang_at"):
            if getattr(self, name) not in STAGES:
                raise BackendError(f"null: {name} is one of {', '.join(STAGES[1:])}")
        if self.exception not in EXCEPTIONS:
            raise BackendError(f"null: exception is one of {', '.join(EXCEPTIONS)}")

    def but(self, changes: Mapping[str, Any]) -> Behaviour:
        """The same with ``changes``, whose values may be text.

        Raises:
            BackendError: a key is unknown, or a value does not fit it.
        """
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        typed: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in fields:
                raise BackendError(f"null: unknown behaviour {name}; known: {', '.join(fields)}")
            typed[name] = _typed(name, value, type(fields[name]))
        return dataclasses.replace(self, **typed)

    def act(self, stage: str) -> None:
        """Misbehave, if this is the stage for it."""
        if self.print:
            os.write(1, self.print.encode())
        if self.hang_at == stage:
            time.sleep(self.hang_s)
        if self.crash_at == stage:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fail_at == stage:
            raise EXCEPTIONS[self.exception](f"null: told to fail at {stage}")


class Null:
    """The backend. On no host is it unavailable."""

    name = "null"
    api = API_VERSION
    capabilities = Capabilities(
        formats=("onnx", "null"),
        offers=(
            Offer(Precision.FP32, "source"),
            Offer(Precision.FP16, "source"),
            Offer(Precision.BF16, "source", native=True),  # the device doesn't list it
            Offer(Precision.INT8, "null-int8", calibrated=True),
            Offer(Precision.INT8_DYNAMIC, "source"),
        ),
        install="pip install enginepick",
        simulated=True,
        build_options=("weights",),
        engine_formats=("nullengine",),
        ranges=True,
        ahead=True,
    )

    def probe(self) -> Probe:
        """One device, which has everything but bf16."""
        native = (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT8_DYNAMIC)
        device = Device("cpu", "the null device", native)
        return Probe(self.name, (("numpy", np.__version__),), (device,))

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Write the specs and the behaviour down. The option ``weights``: so many are made up."""
        if request.precision is Precision.AS_IS:
            return _copied(Path(request.model), Path(workdir))
        model = _read_model(request.model)
        behaviour = Behaviour().but(model.get("behaviour", {}))
        behaviour = behaviour.but(model.get("by_precision", {}).get(str(request.precision), {}))
        behaviour.act("build")
        offers = {(offer.precision, offer.recipe): offer for offer in self.capabilities.offers}
        offer = offers.get((request.precision, request.recipe))
        if offer is None:
            raise UnsupportedError(f"null: no offer of {request.precision} by {request.recipe}")
        notes = [f"calibrated on {_calibrate(request, model)} samples"] if offer.calibrated else []
        target = request.compute_capability
        notes += [f"for GPUs of compute capability {target}"] if target else []
        content = {
            "precision": str(request.precision),
            "inputs": model["inputs"],
            "outputs": model["outputs"],
            "behaviour": dataclasses.asdict(behaviour),
            "profiles": [[dataclasses.asdict(each) for each in p] for p in request.profiles],
        }
        folder = Path(workdir)
        count = _typed("weights", dict(request.options).get("weights", "1024"), int)
        (folder / ENGINE).write_text(json.dumps(content), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(bytes(count * WEIGHT_BYTES[str(request.precision)]))
        return _engine(folder, ENGINE, tuple(notes))

    def open(self, engine: Engine, device: str, settings: Settings) -> Session:
        """Read it back; ``settings.options`` override its behaviour."""
        content = _read_engine(engine, device, settings)
        Behaviour(**content["behaviour"]).act("open")
        behaviour = content["behaviour"]
        if behaviour["device_clock"]:
            return DeviceSession(content)
        return QueueSession(content) if behaviour["queue"] else NullSession(content)

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """A script with the very functions that a session computes with."""
        behaviour = _read_engine(engine, device, settings)["behaviour"]
        functions = "\n\n".join(inspect.getsource(part) for part in (_features, project))
        return _DEPLOY.format(file=Path(engine.path).name, behaviour=behaviour, functions=functions)


class NullSession:
    """An opened engine."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._behaviour = Behaviour(**content["behaviour"])
        self._rng = random.Random(zlib.crc32(content["precision"].encode()))
        self._held: Optional[Array] = None
        if self._behaviour.allocate_mb:
            self._held = np.ones(self._behaviour.allocate_mb * MEBIBYTE, np.uint8)
        self._feed: Optional[dict[str, Array]] = None
        self._results: Optional[dict[str, Array]] = None
        self._runs = 0
        self.inputs = _specs(content["inputs"])
        self.outputs = _specs(content["outputs"])

    @property
    def executed(self) -> Optional[Executed]:
        """What was asked, unless the behaviour says otherwise."""
        asked = Precision(self._content["precision"]).runs_as
        precision = self._behaviour.executed or asked
        if precision == "none":
            return None
        count = len(self.outputs)
        device = self._behaviour.executed_device or "cpu"
        return Executed((Share(device, count),), (Share(precision, count),), "as it was told")

    def bind(self, feed: Feed) -> None:
        """Validate and copy in."""
        specs = {spec.name: spec for spec in self.inputs}
        for name in [*specs, *feed]:
            if name not in feed or name not in specs:
                raise UnsupportedError(
                    f"null: {'missing' if name in specs else 'extra'} input {name}"
                )
            _check_input(specs[name], feed[name])
        _check_profiles(self._content.get("profiles", []), feed)
        self._feed = {name: np.array(value, order="C") for name, value in feed.items()}
        self._results = None

    def run(self) -> None:
        """Compute, and be busy for as long as the behaviour says."""
        end = time.perf_counter() + self._latency_s()
        if self._feed is None:
            raise BackendError("null: nothing is bound")
        if self._runs >= self._behaviour.good_runs:
            self._behaviour.act("run")
        self._runs += 1
        self._results = project(self._content, self._feed)
        if self._behaviour.nondeterministic:
            factor = 1 + 0.1 * self._runs
            self._results = {name: value * factor for name, value in self._results.items()}
        while time.perf_counter() < end:
            pass

    def fetch(self) -> dict[str, Array]:
        """The outputs of the last run."""
        if self._results is None:
            raise BackendError("null: nothing has run since the last bind")
        return dict(self._results)

    def close(self) -> None:
        """Release what was allocated."""
        self._held = self._feed = self._results = None

    def _latency_s(self) -> float:
        jitter = self._behaviour.jitter
        factor = np.exp(self._rng.gauss(0.0, jitter)) if jitter else 1.0
        return float(self._behaviour.latency_us * factor) / 1e6


class DeviceSession(NullSession):
    """A session that tells the parts of an inference, as if by the events of a device."""

    def run_timed(self) -> Phases:
        """Run, and say what the behaviour says."""
        self.run()
        told = self._behaviour
        parts = (told.h2d_us, told.latency_us, told.d2h_us, told.enqueue_us)
        return Phases(*(round(each * 1e3) for each in parts))

    @property
    def device_bytes(self) -> Optional[int]:
        """What the behaviour says."""
        return self._behaviour.device_mb * MEBIBYTE


class QueueSession(NullSession):
    """A session with a queue that completes its slots first in, first out."""

    def bind_slots(self, feed: Feed, in_flight: int) -> None:
        """All slots have the same feed, so one copy serves them."""
        self.bind(feed)
        self._slots = range(in_flight)
        self._started: list[int] = []

    def start(self, slot: int) -> None:
        """Queue a slot."""
        if slot not in self._slots or slot in self._started:
            raise BackendError(f"null: slot {slot} is busy or isn't there")
        self._started.append(slot)

    def wait_any(self) -> int:
        """Run the slot that was started first."""
        if not self._started:
            raise BackendError("null: no slot was started")
        self.run()
        return self._started.pop(0)


def project(engine: Mapping[str, Any], feed: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name: a fixed random projection of the inputs, whose seed is the output's name.

    engine: ``inputs``, ``outputs`` (each a list of name, dtype, shape), ``precision``,
    ``behaviour``. An open axis takes the size of the input's axis of that name; a first axis, the
    batch. Rows are independent of each other where the output has the batch's size.
    """
    behaviour = engine["behaviour"]
    sizes: dict[Any, int] = {}
    batch = max([value.shape[0] for value in feed.values() if value.ndim] or [1])
    features = np.zeros((batch, 64))
    for spec in engine["inputs"]:
        value = feed[spec["name"]]
        sizes.update(zip(spec["shape"], value.shape))
        features += _features(spec["name"], value, batch)
    if behaviour["constant"]:
        features = np.ones_like(features)
    outputs = {}
    for spec in engine["outputs"]:
        shape = [
            dim if isinstance(dim, int) else sizes.get(dim, 1) if axis else batch
            for axis, dim in enumerate(spec["shape"])
        ]
        by_row = bool(shape) and shape[0] == batch
        rows = features if by_row else features.sum(axis=0, keepdims=True)
        width = int(np.prod(shape[1:] if by_row else shape))
        salt = "!" if behaviour["wrong_output"] else ""
        rng = np.random.default_rng(zlib.crc32((spec["name"] + salt).encode()))
        exact, off = rng.normal(size=(2, 64, min(max(width, 1), 1024)))
        values = rows @ (exact + behaviour["error"] * off) / 8.0
        values = np.stack([np.resize(row, width) for row in values]).reshape(shape)
        if behaviour["nan"] and values.size:
            values.flat[0] = np.nan
        integer = np.issubdtype(np.dtype(spec["dtype"]), np.integer)
        values = np.rint(np.nan_to_num(10.0 * values)) if integer else values
        outputs[spec["name"]] = values.astype(spec["dtype"])
    return outputs


def _features(name: str, value: Array, batch: int) -> Array:
    """64 numbers per sample, [batch, 64], to which every element of the input contributes."""
    rows = value if value.ndim and value.shape[0] == batch else value[np.newaxis]
    flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
    weights = np.cos(np.arange(1, flat.shape[1] + 1) * (1.0 + zlib.crc32(name.encode()) % 97))
    folded = np.pad(flat * weights, ((0, 0), (0, -flat.shape[1] % 64)))
    scale = np.sqrt(64.0 / max(flat.shape[1], 64))  # the variance of a feature is an element's
    features: Array = folded.reshape(rows.shape[0], -1, 64).sum(axis=1) * scale
    return features


_DEPLOY = '''"""Runs {file} as EnginePick's null backend does."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray

BEHAVIOUR = {behaviour!r}


{functions}


def load():
    engine = json.loads(Path(__file__).with_name({file!r}).read_text(encoding="utf-8"))
    return {{**engine, "behaviour": BEHAVIOUR}}


def infer(session, feed):
    return project(session, feed)
'''


def _typed(name: str, value: Any, kind: type) -> Any:
    """``value``, or the value that its text means, as ``kind``."""
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if isinstance(value, str) and kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass  # refused below, by name
    if isinstance(value, bool) == (kind is bool):
        if kind is float and isinstance(value, int):
            return float(value)
        if isinstance(value, kind):
            return value
    raise BackendError(f"null: {name} is a {kind.__name__}, not {value!r}")


def _read_model(path: str) -> dict[str, Any]:
    """The ``.null`` description of a model file."""
    suffix = Path(path).suffix
    if suffix == ".onnx":
        return _read_onnx(path)
    if suffix != ".null":
        raise UnsupportedError(f"null: reads .onnx and .null, not {Path(path).name}")
    try:
        model: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        _specs([*model["inputs"], *model["outputs"]])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"null: {path} is no .null model: {error!r}") from error
    unknown = set(model) - {"inputs", "outputs", "behaviour", "by_precision"}
    if unknown:
        raise BackendError(f"null: {path}: unknown keys {', '.join(sorted(unknown))}")
    return model


def _read_onnx(path: str) -> dict[str, Any]:
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise UnsupportedError("null: onnx isn't installed here", "pip install onnx") from error
    graph = onnx.load(path, load_external_data=False).graph
    if not graph.output:
        raise BackendError(f"null: {path} is no ONNX model: it has no outputs")
    held = {tensor.name for tensor in graph.initializer}

    def described(values: Iterable[Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "dtype": np.dtype(
                    helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                ).name,
                "shape": [
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                    for dim in value.type.tensor_type.shape.dim
                ],
            }
            for value in values
            if value.name not in held
        ]

    return {"inputs": described(graph.input), "outputs": described(graph.output)}


def _read_engine(engine: Engine, device: str, settings: Settings) -> dict[str, Any]:
    """The engine's content, its behaviour completed by the settings' options."""
    if device != "cpu":
        raise UnavailableError(f"null: there is no device {device}; it has cpu")
    try:
        content: dict[str, Any] = json.loads(Path(engine.path).read_text(encoding="utf-8"))
        behaviour = Behaviour(**content["behaviour"]).but(dict(settings.options))
        own_error = ERRORS[content["precision"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"null: {engine.path} is no engine: {error!r}") from error
    error_size = behaviour.error if behaviour.error >= 0 else own_error
    behaviour = dataclasses.replace(behaviour, error=error_size)
    return {**content, "behaviour": dataclasses.asdict(behaviour)}


def _engine(folder: Path, main: str, notes: tuple[str, ...] = ()) -> Engine:
    files = tuple(sorted(file.name for file in folder.iterdir()))
    size = sum((folder / file).stat().st_size for file in files)
    return Engine(str(folder / main), files, size, notes)


def _copied(engine: Path, folder: Path) -> Engine:
    """A user's engine, with its weights."""
    for file in (engine, engine.with_suffix(Path(WEIGHTS).suffix)):
        shutil.copy(file, folder)
    return _engine(folder, engine.name)


def _check_profiles(profiles: Sequence[Sequence[Mapping[str, Any]]], feed: Feed) -> None:
    """Whether one of them takes these shapes; without any, all are taken."""
    shapes = {name: list(value.shape) for name, value in feed.items()}

    def takes(each: Mapping[str, Any]) -> bool:
        sizes = zip(each["min"], shapes[each["name"]], each["max"])
        return all(low <= size <= high for low, size, high in sizes)

    if profiles and not any(all(map(takes, profile)) for profile in profiles):
        raise UnsupportedError(f"null: no profile takes {shapes}", "[shapes] in sweep.toml")


def _specs(described: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(item["name"], np.dtype(item["dtype"]).name, tuple(item["shape"]))
        for item in described
    )


def _check_input(spec: TensorSpec, value: Array) -> None:
    fits = value.ndim == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, value.shape)
    )
    if not fits or value.dtype.name != spec.dtype:
        raise UnsupportedError(f"null: {spec} can't take {value.dtype}{list(value.shape)}")


def _calibrate(request: BuildRequest, model: Mapping[str, Any]) -> int:
    """Read the samples as a real calibrator does; how many there were."""
    if request.calibration is None:
        raise BackendError("null: this recipe needs calibration samples", "--calibration DATA")
    specs = {spec.name: spec for spec in _specs(model["inputs"])}
    count = 0
    for feed in request.calibration.feeds():
        for name, spec in specs.items():
            _check_input(spec, feed[name])
        count += 1
    return count


BACKEND = Null()
