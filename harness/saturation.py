"""Whether int8 products saturate on this host, by running some whose exact sums are known.

The instruction sets tell what a CPU could do; what a runtime's kernels do with it is seen only by
asking them. Weights of 7 bits are exact everywhere and cost accuracy, so they should be chosen
where they are needed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harness import datasets, jobs, variants
from harness.cache import Cache, key_of
from harness.measure.accuracy import OutputFile
from harness.setup import Setup, ask_parent_side
from harness.types import Precision, Settings, Stage, TensorSpec
from harness.variants.probe import EXACT, FEED

TIMEOUT_S = 60.0
SATURATED = 0.25
"""Relative error from which on sums saturated: they lose about half, and rounding next to none."""
EXACT_WITHIN = 0.05

_INPUTS = tuple(TensorSpec(name, str(array.dtype), array.shape) for name, array in FEED.items())


def find(setup: Setup, backend: str, device: str, cache: Cache) -> bool | None:
    """Whether a backend's int8 products saturate on a device; None where that can't be seen.

    Kept by all that it depends on, the code included: runtimes choose their kernels by the CPU, and
    oneDNN by its environment variables too.
    """
    probe = setup.probes[backend]
    place = probe.device(device)
    key = key_of(
        {
            "backend": (backend, setup.homes[backend].code, probe.versions),
            "variant": variants.maker(),
            "device": (device, place.name if place else None, sorted(setup.isa)),
            "environment": sorted(
                pair for pair in os.environ.items() if pair[0].startswith(("ONEDNN_", "DNNL_"))
            ),
        }
    )
    entry = cache.get("saturation", key)
    if entry is not None:
        return bool(entry.meta["saturates"])
    with cache.scratch() as folder:
        found = judge(_ask(setup, backend, device, folder))
    if found is not None:
        cache.put("saturation", key, cache.workdir(), {"saturates": found})
    return found


def judge(finished: jobs.Finished | None) -> bool | None:
    """What a run of the probe tells: nothing unless some product ran in int8 and is plain."""
    if finished is None or finished.output_error is None or finished.executed is None:
        return None
    if not finished.executed.share(str(Precision.INT8)):
        return None
    if finished.output_error >= SATURATED:
        return True
    return False if finished.output_error <= EXACT_WITHIN else None


def _ask(setup: Setup, backend: str, device: str, folder: Path) -> jobs.Finished | None:
    """Make the probe and run it once in the backend; None when anything fails."""
    model, data, exact = folder / "probe.onnx", folder / "data.npz", folder / "exact.zip"
    engine = folder / "engine"
    engine.mkdir()
    np.savez(data, **{name: array[np.newaxis] for name, array in FEED.items()})  # type: ignore[arg-type]
    with OutputFile(str(exact), "w") as kept:
        kept.write(0, dict(EXACT))
    making = jobs.VariantJob(variants.PROBE, (), "", str(model), _INPUTS, None)
    made = ask_parent_side(making, jobs.Noted, Stage.VARIANT, TIMEOUT_S)
    if isinstance(made, jobs.Refused):
        return None
    location, plain = setup.homes[backend].location, variants.SOURCE
    building = jobs.BuildJob(
        location, str(model), Precision.FP32, plain, device, _INPUTS, None, str(engine)
    )
    with setup.child(backend) as child:
        built = child.ask(building, jobs.Built, Stage.BUILD, TIMEOUT_S)
        if isinstance(built, jobs.Refused):
            return None
        sample = jobs.Samples(datasets.resolve(str(data)), "all", 0, 0)
        opening = jobs.OpenJob(location, built.engine, device, Settings(threads=1), sample, _INPUTS)
        opened = child.ask(opening, jobs.Opened, Stage.OPEN, TIMEOUT_S)
        if isinstance(opened, jobs.Refused):
            return None
        ending = jobs.FinishJob(str(exact), explain=True)
        finished = child.ask(ending, jobs.Finished, Stage.MEASURE, TIMEOUT_S)
    return None if isinstance(finished, jobs.Refused) else finished
