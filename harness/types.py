"""Frozen values that the parent, the workers and the backends share.

Everything here crosses the worker's pipe as JSON (:mod:`harness.wire`), and is imported by workers
in interpreters of their own: the standard library of Python 3.9 only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Optional, Union

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any  # numpy before 1.22 (a Jetson's) can't be subscripted

EngineKey = tuple[str, str, str, str, tuple[tuple[str, str], ...]]
"""Backend, precision, recipe, device and the options of the build."""

FLOOR = "call-floor"
"""The recipe of no candidate: the user's inputs and outputs without the work between them."""


class _Text(str, Enum):
    """A string enum whose ``str()`` is its value on every Python version."""

    def __str__(self) -> str:
        return str(self.value)


class Precision(_Text):
    """What is asked of a build. Whether it really ran is what :class:`Executed` says."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_WEIGHTS = "int8-weights"
    INT4_WEIGHTS = "int4-weights"
    AS_IS = "as-is"
    """Whatever an engine holds that the user made: nothing is asked of it."""

    @property
    def runs_as(self) -> str:
        """What :class:`Executed` calls it: int8 products are int8, statically scaled or not."""
        return "int8" if self is Precision.INT8_DYNAMIC else self.value


ASKED = tuple(each for each in Precision if each is not Precision.AS_IS)
"""What a user can ask for."""


class Status(_Text):
    """What became of a step. Everything but ``ok`` carries a reason."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"
    INVALID = "invalid"


class Stage(_Text):
    """The step at which something happened, in the order of the pipeline."""

    PROBE = "probe"
    PLAN = "plan"
    CONVERT = "convert"
    VARIANT = "variant"
    BUILD = "build"
    OPEN = "open"
    ACCURACY = "accuracy"
    WARMUP = "warmup"
    MEASURE = "measure"


class Scenario(_Text):
    """What a candidate is tuned for and how it is timed.

    latency: one inference at a time, host memory to host memory.
    throughput: a constant number of inferences in flight.
    """

    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    dtype: numpy's name (``float32``). shape: an int where fixed, the dimension's name where
    symbolic, None where unknown.
    """

    name: str
    dtype: str
    shape: tuple[Union[int, str, None], ...]

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True)
class Port:
    """Where one of the model's inputs or outputs is in a file that was converted, or isn't ONNX.

    spec: the model's own name, dtype and shape, which feeds and outputs keep. name, dtype: the
    file's. axes: the model's axis that each axis of the file is, so that what the file holds is
    ``np.transpose(value, axes)``; empty where both have the same order. The files have inputs and
    outputs in the model's order.
    """

    spec: TensorSpec
    name: str
    dtype: str
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ports:
    """All inputs and outputs, in the model's order, which is the file's."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Environment:
    """What an interpreter of its own must have, as ``enginepick setup`` installs it.

    requirements: as pip takes them. alone: further ones, installed without their dependencies and
    whatever Python they declare, since these are pinned more tightly than need be. python: the
    versions it takes, such as ``>=3.10,<3.14``; empty: those of the workers.
    """

    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()
    python: str = ""


@dataclass(frozen=True)
class Device:
    """One place where an engine can run, as a backend's probe found it.

    id: ours, lower case: ``cpu``, ``gpu:0``, ``npu``, or a runtime's own string such as
    ``hetero:gpu,cpu``. precisions: those that the device executes natively, as the runtime says.
    """

    id: str
    name: str
    precisions: tuple[Precision, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How a session is opened and loaded. None: the runtime's default, which the report says.

    threads: intra-op CPU threads of one session. streams: sessions, or the runtime's own streams,
    side by side in one process. processes: worker processes side by side. batch: samples per
    inference. in_flight: inferences in flight in one process (1 for latency).
    options: further options of the backend, (name, value) in order. build: the same, of those that
    the engine is built with.
    """

    scenario: Scenario = Scenario.LATENCY
    threads: Optional[int] = None
    streams: int = 1
    processes: int = 1
    batch: int = 1
    in_flight: int = 1
    options: tuple[tuple[str, str], ...] = ()
    build: tuple[tuple[str, str], ...] = ()

    def label(self) -> str:
        """The settings that differ from the plain ones, as ``threads=2,batch=8``."""
        parts = [] if self.scenario is Scenario.LATENCY else [str(self.scenario)]
        parts += [f"threads={self.threads}"] if self.threads is not None else []
        for name in ("streams", "processes", "batch", "in_flight"):
            value = getattr(self, name)
            parts += [f"{name.replace('_', '-')}={value}"] if value != 1 else []
        parts += [f"{name}={value}" for name, value in (*self.build, *self.options)]
        return ",".join(parts)


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that an engine is built for. opt: the one it is tuned for."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Phases:
    """One inference on a device with memory of its own, by the device's own events.

    h2d_ns, d2h_ns: copying inputs there and outputs back. compute_ns: between the two. enqueue_ns:
    the host's time to hand the work over, by its own clock; it overlaps the others. These are
    trtexec's definitions.
    """

    h2d_ns: int
    compute_ns: int
    d2h_ns: int
    enqueue_ns: int


@dataclass(frozen=True)
class Candidate:
    """Model x backend x precision x recipe x device x settings: one thing that could be deployed.

    recipe: which variant of the model is built (``source``, ``fp16``, ``qdq``, ``nncf`` ...).
    The model is the run's. Equal candidates have equal ids, and only they.
    """

    backend: str
    precision: Precision
    recipe: str
    device: str
    settings: Settings = field(default_factory=Settings)

    @property
    def id(self) -> str:
        """A readable key: ``openvino/int8/nncf/cpu/threads=2``."""
        parts = (self.backend, str(self.precision), self.recipe, self.device, self.settings.label())
        return "/".join(part for part in parts if part)

    @property
    def floor(self) -> Candidate:
        """The same call without the work: identity in place of the model."""
        return replace(self, precision=Precision.FP32, recipe=FLOOR)

    @property
    def label(self) -> str:
        """How people name it: backend, precision, and the recipe where that tells something."""
        plain = self.recipe in ("source", "dynamic", "weights", str(self.precision))
        name = f"{self.backend} {self.precision}"
        return name if plain else f"{name} ({self.recipe})"

    @property
    def engine_key(self) -> EngineKey:
        """What the candidate's engine depends on; other settings are applied when it is opened."""
        precision = str(self.precision)
        return (self.backend, precision, self.recipe, self.device, self.settings.build)

    @property
    def accuracy_key(self) -> tuple[EngineKey, int, tuple[tuple[str, str], ...]]:
        """Candidates that share it share one accuracy pass: options may change the arithmetic."""
        return (self.engine_key, self.settings.batch, self.settings.options)


@dataclass(frozen=True)
class Share:
    """A part of the whole: how many of the model's operations ran as ``name``."""

    name: str
    count: int


@dataclass(frozen=True)
class Executed:
    """What really runs, as the runtime itself reports it.

    devices: operations per device or provider. precisions: compute operations (convolutions,
    matrix products) per precision; empty where the runtime can't tell. detail: how it is known.
    """

    devices: tuple[Share, ...]
    precisions: tuple[Share, ...]
    detail: str = ""

    def share(self, precision: str) -> float:
        """The part of the compute operations that runs in ``precision``; 0 when none is known."""
        total = sum(share.count for share in self.precisions)
        ran = sum(share.count for share in self.precisions if share.name == precision)
        return ran / total if total else 0.0


@dataclass(frozen=True)
class Probe:
    """What a backend found on this host. ``problem`` is None when it is usable."""

    backend: str
    versions: tuple[tuple[str, str], ...] = ()
    devices: tuple[Device, ...] = ()
    problem: Optional[str] = None
    fix: Optional[str] = None

    def device(self, device_id: str) -> Optional[Device]:
        """The device of that id, or None."""
        return next((device for device in self.devices if device.id == device_id), None)


@dataclass(frozen=True)
class Engine:
    """A built artifact.

    path: its main file. size_bytes: all that has to be deployed. files: every file it consists
    of, relative to ``path``'s folder. notes: what the backend wants the record to say.
    """

    path: str
    files: tuple[str, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tried:
    """A variant that was tried on calibration samples.

    what: in words. layers: those left in floating point beside what the recipe excludes. drop: of
    the metric against fp32, positive is worse; None for outputs that can't be scored. sqnr_db: None
    where there is no error, or nothing to compare. time_ns: of one inference, roughly.
    """

    what: str
    parameters: tuple[tuple[str, str], ...]
    layers: tuple[str, ...]
    drop: Optional[float]
    sqnr_db: Optional[float]
    time_ns: Optional[float]
    took_ns: int


@dataclass(frozen=True)
class LayerNoise:
    """The outputs' SQNR when these layers alone are quantized; None without any error."""

    layers: tuple[str, ...]
    sqnr_db: Optional[float]
