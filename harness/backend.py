"""The boundary between the harness and an inference runtime, a converter, or a kind of program.

A plug-in needs this module, :mod:`harness.types` and :mod:`harness.errors`, and nothing else of
the harness. It offers one object with the members of :class:`Backend` under the entry-point group
``enginepick.backends``, and must pass :mod:`harness.testing`; a :class:`Converter` under
``enginepick.converters``, and a :class:`ProgramSource` under ``enginepick.sources``. Vendor
packages are imported inside functions: listing backends and reading capabilities work without them.

The harness owns every clock and every process: a backend never times, never spawns, never prints.
It raises the classified errors of :mod:`harness.errors` where it knows better than "failed".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional, Protocol, runtime_checkable

import numpy as np

from harness.types import (
    Device,
    Engine,
    Environment,
    Executed,
    Phases,
    Port,
    Ports,
    Precision,
    Probe,
    Settings,
    ShapeRange,
    TensorSpec,
)

API_VERSION = 1

Feed = Mapping[str, "np.ndarray[Any, Any]"]
"""One inference's inputs by name; the leading axis is the batch where the model has one."""


@dataclass(frozen=True)
class Offer:
    """One way in which a backend makes a precision.

    recipe: the shared variant that the engine is built from (see :mod:`harness.variants`:
    ``source``, ``fp16``, ``qdq``, ``qdq-portable``, ``dynamic`` ...), or a name of the backend's
    own (``nncf``), which is built from the source. calibrated: whether the build reads
    calibration samples.
    native: whether the device must have the precision natively (``Device.precisions``) for this
    to be worth a try. alternatives: further parameters of a recipe of the backend's own, each a
    way to try when the plain one costs too much accuracy, the simplest first. An empty value
    stands for the largest drop of the metric.
    """

    precision: Precision
    recipe: str
    calibrated: bool = False
    native: bool = False
    alternatives: tuple[tuple[tuple[str, str], ...], ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do at all; what this host adds to that is its :class:`Probe`.

    formats: model files that it builds from (``onnx``, ``tflite``, ``pt2``), the best first; what a
    user has in another format is converted before. Shared recipes are made of ONNX. install: the
    command that makes it usable. environment: what it takes to run in an interpreter of its own;
    None: it can't be had from packages alone. settings: the names of :class:`Settings` that it
    honours. modules: what the runtime consists of; memory is counted from the moment when these are
    imported (``a|b``: the first of these that is there). simulated: its outputs aren't the model's,
    so that they are compared with its own fp32 alone. build_options: the options that ``build``
    gets, not ``open``; engines are made for each of their values. engine_formats: files (by suffix)
    of engines that a user may bring along: ``build`` gets them with the precision ``as-is``.
    ranges: whether engines are made for ranges of shapes, so that ``build`` gets profiles. ahead:
    whether ``build`` makes engines for a GPU that isn't here, by its compute capability.
    """

    formats: tuple[str, ...]
    offers: tuple[Offer, ...]
    install: str
    settings: tuple[str, ...] = ("threads",)
    modules: tuple[str, ...] = ()
    simulated: bool = False
    build_options: tuple[str, ...] = ()
    engine_formats: tuple[str, ...] = ()
    ranges: bool = False
    ahead: bool = False
    environment: Optional[Environment] = None


class Calibration(Protocol):
    """Samples for calibration, never those that validate."""

    def feeds(self) -> Iterator[Feed]:
        """Yield one feed per sample, in a fixed order, from the start at each call."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class BuildRequest:
    """What to build. ``model`` is the variant's file when the recipe is a shared one.

    parameters: the recipe's. Of a recipe of the backend's own these are the user's wishes for
    quantization, by the names of ``[quantization]`` in ``sweep.toml`` (truths are ``yes`` and
    ``no``, ``include`` is joined by commas, ``exclude`` is a JSON list), and ``saturates``: whether
    int8 products were seen to saturate on the device. What a backend can't do, it refuses.
    options: those of ``Capabilities.build_options`` that were chosen. profiles: the shapes that
    sessions will bind, one profile per batch size, each with a range for every input; empty where
    they are unknown. compute_capability: of the GPU to build for (``8.9``); None: ``device``, here.
    With precision ``as-is``, ``model`` is the user's engine, to be copied with all its files, or,
    with ports, a quantized model, to be run as it is. ports: what the model's inputs and outputs
    are in ``model``; None where that is ONNX, which has the model's own names and layout, or an
    engine. Calibration samples have these, too.
    """

    model: str
    precision: Precision
    recipe: str
    device: str
    calibration: Optional[Calibration] = None
    parameters: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    profiles: tuple[tuple[ShapeRange, ...], ...] = ()
    compute_capability: Optional[str] = None
    ports: Optional[Ports] = None


class Session(Protocol):
    """An opened engine. Used by one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def executed(self) -> Optional[Executed]:
        """What really runs; None where the runtime can't tell. May be slow: never timed."""
        ...

    def bind(self, feed: Feed) -> None:
        """Validate names, dtypes and shapes, allocate if the shapes are new, copy in."""
        ...

    def run(self) -> None:
        """One inference on what is bound; returns when the outputs are complete."""
        ...

    def fetch(self) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs of the last run, by name. Valid until the next ``run`` or ``bind``."""
        ...

    def close(self) -> None:
        """Release everything. Safe to call twice."""
        ...


@runtime_checkable
class Queue(Protocol):
    """Optional, for a session whose runtime has an asynchronous queue of its own.

    The harness keeps ``in_flight`` slots busy: it starts a slot, waits for any to complete, and
    starts that one again. Each slot has its inputs bound before.
    """

    def bind_slots(self, feed: Feed, in_flight: int) -> None:
        """Prepare ``in_flight`` slots, each with its own copy of the feed."""
        ...

    def start(self, slot: int) -> None:
        """Start one inference in a slot; returns at once."""
        ...

    def wait_any(self) -> int:
        """Block until some started slot completes; its number."""
        ...


@runtime_checkable
class DeviceTimed(Protocol):
    """Optional, for a session on a device that has memory and a clock of its own."""

    def run_timed(self) -> Phases:
        """One inference on what is bound, from host memory to host memory, in its parts."""
        ...


@runtime_checkable
class DeviceMemory(Protocol):
    """Optional, for a session that knows how much memory of the device it takes."""

    @property
    def device_bytes(self) -> Optional[int]:
        """Weights, activations, inputs and outputs there, as the runtime says."""
        ...


class Backend(Protocol):
    """A runtime."""

    name: str
    api: int
    capabilities: Capabilities

    def probe(self) -> Probe:
        """Versions and devices, or the problem and the command that fixes it. Never raises."""
        ...

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Make the engine's files in ``workdir``, an empty folder that becomes the cache entry."""
        ...

    def open(self, engine: Engine, device: str, settings: Settings) -> Session:
        """Load an engine on a device. Raises UnavailableError for a device that isn't there."""
        ...

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """The Python code that opens and runs this engine exactly as ``open`` does.

        A complete script that needs only the runtime and numpy: it takes the engine's file name
        relative to itself, and defines ``load()`` and ``infer(session, feed) -> dict``.
        """
        ...


@dataclass(frozen=True)
class ConvertRequest:
    """What to convert.

    model: the file. inputs, outputs: the model's own. ports: where these are in the file; None
    where it is ONNX. shapes: of one inference, by input, where open axes must be fixed. samples:
    the first of the user's own, none where there are no data, to check the outputs on.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    samples: tuple[Feed, ...] = ()
    ports: Optional[Ports] = None


@dataclass(frozen=True)
class Converted:
    """A converted model. path: its main file; all its files are in the work folder.

    ports: None where it is ONNX, which must have the model's own names and layout. notes: for the
    record, how far its outputs were from the original's among them.
    """

    path: str
    ports: Optional[Ports] = None
    notes: tuple[str, ...] = ()


class Converter(Protocol):
    """A tool that turns a model's format into another: name, and ``source`` into ``target``.

    home: the backend or converter whose interpreter it runs in, its own name where it has its own.
    environment: what that one takes; None where the home says so.
    """

    name: str
    api: int
    source: str
    target: str
    home: str
    environment: Optional[Environment]

    def probe(self) -> Probe:
        """Versions, or the problem and the command that fixes it; no devices. Never raises."""
        ...

    def convert(self, request: ConvertRequest, workdir: str) -> Converted:
        """Make the file in ``workdir``, an empty folder that becomes the cache entry.

        Raises UnsupportedError, which names the operators that it can't convert, and BackendError
        where the outputs aren't the original's.
        """
        ...


@dataclass(frozen=True)
class Program:
    """A model that was read from a program.

    path: its file, as ``format``. sha256: the same whenever the same program is read again.
    inputs, outputs: names that every format of the model gets. size_bytes: of the weights.
    operators: (type, how many), the most frequent first. notes: what the user should know.
    """

    name: str
    path: str
    format: str
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ports: Ports
    operators: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


class ProgramSource(Protocol):
    """A kind of models that only their own framework can read: PyTorch's.

    home, environment: as a :class:`Converter`'s.
    """

    name: str
    api: int
    home: str
    environment: Optional[Environment]

    def claims(self, source: str) -> bool:
        """Whether what the user named as the model is of this kind. Needs no framework."""
        ...

    def probe(self) -> Probe:
        """As a :class:`Converter`'s."""
        ...

    def read(self, source: str, folder: str) -> Program:
        """Read it, and write its file into ``folder`` where it has none.

        Raises InputError with all that is wrong with it.
        """
        ...


__all__ = [
    "API_VERSION",
    "Backend",
    "BuildRequest",
    "Calibration",
    "Capabilities",
    "ConvertRequest",
    "Converted",
    "Converter",
    "Device",
    "DeviceMemory",
    "DeviceTimed",
    "Engine",
    "Environment",
    "Executed",
    "Feed",
    "Offer",
    "Phases",
    "Port",
    "Ports",
    "Precision",
    "Probe",
    "Program",
    "ProgramSource",
    "Queue",
    "Session",
    "Settings",
    "ShapeRange",
    "TensorSpec",
]
