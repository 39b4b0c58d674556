"""What every step of a run needs to know, and how steps start workers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from harness import jobs
from harness.cache import source_sha256
from harness.child import Child
from harness.ownengines import OwnEngine
from harness.profiles import Profile
from harness.routes import Tool
from harness.stateful import Sequences
from harness.types import Ports, Probe, Stage, TensorSpec
from harness.variants import Wishes

T = TypeVar("T")


@dataclass(frozen=True)
class Home:
    """Where the workers of a backend, a converter or a source of programs live.

    location: its object. package: the top-level package that an interpreter of its own must see.
    python: that interpreter, or None for the parent's.
    """

    location: jobs.Location
    python: str | None = None

    @property
    def package(self) -> str:
        """The adapter's top-level package."""
        return self.location.module.partition(".")[0]

    @property
    def code(self) -> str:
        """The address of all the source that may decide what the adapter makes."""
        return source_sha256(self.package)


@dataclass(frozen=True)
class Setup:
    """One run's fixed facts.

    inputs: the model's. sequences: how the data feed a stateful model; None for any other.
    calibration is None when nothing can be calibrated. Every worker that loads the model has
    ``memory_limit_bytes``; a job that takes longer than ``timeout_s`` is killed.
    profiles: of the backends whose engines are made for ranges of shapes. engines: the user's own,
    by the recipe that stands for each. compute_capability: of the GPU that engines are built for,
    where it isn't the candidate's device here.
    model_format, ports: of the user's model. formats: what each backend reads, ONNX where nothing
    is said. tools: the converters, which have homes too. shapes: of one inference, by input, where
    open axes must be fixed.
    """

    model: str
    model_sha256: str
    inputs: tuple[TensorSpec, ...]
    validation: jobs.Samples
    calibration: jobs.Samples | None
    homes: Mapping[str, Home]
    probes: Mapping[str, Probe]
    isa: frozenset[str]
    timeout_s: float
    memory_limit_bytes: int | None = None
    quantization: Wishes = field(default_factory=Wishes)
    rng: random.Random = field(default_factory=random.Random)
    sequences: Sequences | None = None
    profiles: Mapping[str, tuple[Profile, ...]] = field(default_factory=dict)
    engines: Mapping[str, OwnEngine] = field(default_factory=dict)
    compute_capability: str | None = None
    outputs: tuple[TensorSpec, ...] = ()
    model_format: str = "onnx"
    ports: Ports | None = None
    formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def checking(self) -> jobs.Samples | None:
        """Samples that feed the model by its inputs' names, where there are any."""
        found = self.validation if self.sequences is None else self.calibration
        return found if found is not None and found.indices() else None

    def reads(self, backend: str) -> tuple[str, ...]:
        """The formats that a backend builds from, the best first."""
        return self.formats.get(backend, ("onnx",))

    @property
    def fed(self) -> tuple[TensorSpec, ...]:
        """What the validation data feed: the model's inputs, or sequences of them."""
        return self.inputs if self.sequences is None else self.sequences.fed

    def child(self, backend: str) -> Child:
        """A fresh worker for one backend."""
        home = self.homes[backend]
        return Child(
            python=home.python,
            packages=("harness", home.package),
            memory_limit_bytes=self.memory_limit_bytes,
            rng=self.rng,
        )

    def ask_once(self, backend: str, job: object, kind: type[T], stage: Stage) -> T | jobs.Refused:
        """One job in a worker of its own."""
        with self.child(backend) as child:
            return child.ask(job, kind, stage, self.timeout_s)


def ask_parent_side(job: object, kind: type[T], stage: Stage, timeout_s: float) -> T | jobs.Refused:
    """One job in a worker on the parent's interpreter, with the parent's packages."""
    with Child() as child:
        return child.ask(job, kind, stage, timeout_s)
