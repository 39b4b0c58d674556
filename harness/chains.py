"""Chains of equal dense layers: real work of which a known share more can be had.

A chain of 51 layers is 2 % more work than one of 50, so the truth about the two is known without
trusting a clock. What a host can resolve is found out with them, by the real protocol.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from harness import datasets, jobs
from harness.analysis import RANKED, launch_value
from harness.build import Builder
from harness.cache import Cache
from harness.errors import EnginePickError
from harness.evidence import Evidence, Look
from harness.record import LaunchRecord
from harness.runner import Entrant, Rules, Runner, free_memory_bytes
from harness.setup import Home, Setup
from harness.store import Store
from harness.types import Candidate, Precision, Probe, Settings, TensorSpec

ROWS, WIDTH = 512, 64
"""Small weights: all fit into a core's cache, else a longer chain takes more than its share."""
SAMPLES = 4
TIMEOUT_S = 120.0
NEED_BYTES = 200 * 2**20
CONTROL = "control"


class Kept(Store):
    """A store whose launches can be read back as they come."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.launches: list[LaunchRecord] = []

    def append(self, record: Any) -> None:
        """Write one record and sync it."""
        if isinstance(record, LaunchRecord):
            self.launches.append(record)
        super().append(record)


@dataclass(frozen=True)
class Chains:
    """Engines of chains of these lengths, in one runtime. The first has a hidden duplicate."""

    setup: Setup
    entrants: tuple[Entrant, ...]

    @classmethod
    def build(
        cls,
        backend: str,
        home: Home,
        probe: Probe,
        lengths: Sequence[int],
        folder: Path,
        *,
        cache: Cache | None = None,
        isa: frozenset[str] = frozenset(),
        width: int = WIDTH,
    ) -> Chains:
        """Write the models into ``folder`` and build them for one CPU thread.

        Raises EnginePickError when the backend can't build them.
        """
        setup = _setup(backend, home, probe, folder, isa=isa, width=width)
        entrants = []
        for layers in lengths:
            path = folder / f"chain-{layers}.onnx"
            write_chain(path, layers, width=width)
            entrants.append(_entrant(setup, cache or Cache(), backend, path, layers))
        return cls(setup, (*entrants, replace(entrants[0], control=True)))

    def rounds(
        self,
        store: Kept,
        seed: int = 0,
        rules: Rules | None = None,
        show: Callable[[str, str], None] = lambda *_: None,
    ) -> Iterator[float]:
        """Measure round after round, as long as it is asked for more; yields what each took, in s.

        Raises EnginePickError when a launch fails.
        """
        runner = Runner(self.setup, rules or Rules(), store, random.Random(seed), show)
        number = 0
        while True:
            began = monotonic()
            if runner.round(number, self.entrants, free_memory_bytes()):
                raise EnginePickError(_first_fault(store.launches))
            number += 1
            yield monotonic() - began


def name_of(launch: LaunchRecord) -> str:
    """``chain-50``, or ``control``."""
    return CONTROL if launch.control else launch.candidate.split("/")[2]


def evidence(launches: Iterable[LaunchRecord], looks: tuple[Look, ...]) -> Evidence:
    """The launches of finished rounds, by :func:`name_of`; the control is one of the compared."""
    logs: dict[str, dict[int, float]] = {}
    for each in launches:
        value = launch_value(each, RANKED)
        if value is not None:
            logs.setdefault(name_of(each), {})[each.round] = value
    numbers = sorted({number for values in logs.values() for number in values})
    return Evidence(logs, tuple(numbers), looks, len(logs))


def write_chain(path: Path, layers: int, rows: int = ROWS, width: int = WIDTH) -> None:
    """A chain of equal dense layers with ReLU: input ``x`` float32 [rows, width], output ``y``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        matrix = rng.standard_normal((width, width)) * math.sqrt(2 / width)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{layer}"))
        result = "y" if layer == layers - 1 else f"r{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [result]))
        last = result
    value, shape = helper.make_tensor_value_info, [rows, width]
    inputs, outputs = (value(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "chain", [inputs], [outputs], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def _setup(
    backend: str, home: Home, probe: Probe, folder: Path, *, isa: frozenset[str], width: int
) -> Setup:
    data = folder / "data.npz"
    rng = np.random.default_rng(1)
    np.savez(data, x=rng.standard_normal((SAMPLES, ROWS, width)).astype(np.float32))
    return Setup(
        model="",
        model_sha256="",
        inputs=(TensorSpec("x", "float32", (ROWS, width)),),
        validation=jobs.Samples(datasets.resolve(str(data)), "all", 0, 0),
        calibration=None,
        homes={backend: home},
        probes={backend: probe},
        isa=isa,
        timeout_s=TIMEOUT_S,
    )


def _entrant(setup: Setup, cache: Cache, backend: str, path: Path, layers: int) -> Entrant:
    """Built from its own model; the recipe tells the chains apart in ids."""
    sha256 = datasets.resolve(setup.validation.data.source).sha256 + str(layers)
    own = replace(setup, model=str(path), model_sha256=sha256)
    candidate = Candidate(backend, Precision.FP32, "source", "cpu", Settings(threads=1))
    made = Builder(own, cache).make(candidate)
    if made.engine is None:
        raise EnginePickError(f"{backend}: {made.record.reason}")
    named = replace(candidate, recipe=f"chain-{layers}")
    return Entrant(named, made.engine, fixed="", need_bytes=NEED_BYTES)


def _first_fault(launches: Sequence[LaunchRecord]) -> str:
    return next(f"{each.candidate}: {each.reason}" for each in launches if not each.ok)
