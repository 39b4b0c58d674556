"""What calibrates a stateful model: the inputs of single steps, with states as they really are.

Runs in a child on the parent's interpreter; ONNX Runtime is imported inside the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import jobs
from harness.backend import Feed
from harness.datasets import DataRef, Dataset, ShardWriter, headers, resolve
from harness.stateful import Sequences, fed, steps_of, through
from harness.types import TensorSpec


def unroll(job: jobs.UnrollJob) -> DataRef:
    """Go through the calibration sequences with the fp32 model, and keep steps as a data set.

    Fed as the model takes them, its samples are the feeds of single steps. ``keep`` of all steps at
    most are kept, spread evenly. One thread computes, so that the same data give the same bytes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(job.model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    ref, indices = job.samples.data, job.samples.indices()
    specs = fed(job.inputs, job.wires, headers(ref.shards[0].path), ref.source)
    data = Dataset(ref)
    size = data.layout(specs).size
    total, keep = (-(-count // size) for count in (_count_steps(ref, indices, specs), job.keep))
    Path(job.folder).mkdir(parents=True)
    writer = ShardWriter(job.folder)
    done = 0
    for feed, _ in data.feeds(specs, indices):
        steps = through(
            lambda step: dict(zip(names, session.run(names, dict(step)), strict=True)),
            Sequences(specs, job.wires),
            feed,
        )
        for step, _ in steps:
            if (done + 1) * keep // total > done * keep // total:
                writer.add(_rows(step, size), f"{ref.source}: step {done}")
            done += 1
    writer.flush()
    return resolve(job.folder, ref.source)


def _rows(step: Feed, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """A feed as rows of a data set that feeds it again: whole inputs have an axis more."""
    arrays = {name: np.asarray(value) for name, value in step.items()}
    batched = {name for name, value in arrays.items() if value.shape[:1] == (size,)}
    if size > 1 and len(batched) < len(arrays):
        batched = set()
    return {name: array if name in batched else array[None] for name, array in arrays.items()}


def _count_steps(ref: DataRef, indices: Sequence[int], specs: Sequence[TensorSpec]) -> int:
    ends = np.cumsum([shard.samples for shard in ref.shards])
    lengths = np.array([steps_of(specs, headers(shard.path)) for shard in ref.shards])
    return int(lengths[np.searchsorted(ends, np.asarray(indices), side="right")].sum())
