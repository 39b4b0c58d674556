"""Sweeps through the null backend: the whole pipeline in real processes, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from harness.cache import Cache
from harness.config import Lab, SweepConfig, Target, load_sweep
from harness.run import sweep
from harness.store import Results
from harness.testing_models import mlp_model

LAB = Lab(targets={"bench": Target(description="a test")})
SMALL = {"tail_cap_s": 0, "rounds": 2, "passes": 1, "slice_ms": 2, "calibration_samples": 8}


def write_inputs(folder: Path, samples: int = 40) -> dict[str, str]:
    """A tiny model and labelled data for it, as files."""
    model = mlp_model()
    onnx.save(model, folder / "model.onnx")
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(0)
    arrays = {
        model.graph.input[0].name: rng.standard_normal((samples, *shape)).astype(np.float32),
        "labels": rng.integers(0, 2, samples),
    }
    np.savez(folder / "data.npz", **arrays)
    return {"model": str(folder / "model.onnx"), "data": str(folder / "data.npz")}


def configure(folder: Path, **wishes: Any) -> SweepConfig:
    """A small sweep on the null backend; ``options`` are its behaviours to try."""
    # Slow enough that the call alone isn't measured beside it.
    options = {"latency_us": ["120"], **wishes.pop("options", {})}
    measure = {**SMALL, **wishes.pop("measure", {})}
    precisions = wishes.pop("precisions", ["fp32"])
    candidates = {**wishes.pop("candidates", {}), "options": {"null": options}}
    return load_sweep(
        None,
        {
            **write_inputs(folder),
            "out": str(folder / "results"),
            "backends": ["null"],
            "precisions": precisions,
            "candidates": candidates,
            "measure": measure,
            **wishes,
        },
    )


def run(folder: Path, **wishes: Any) -> Results:
    """Sweep, with a cache of its own."""
    return sweep(configure(folder, **wishes), LAB, Cache(folder / "cache"))
