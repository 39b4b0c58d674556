"""The fp32 reference: what every candidate's outputs and scores are compared with.

ONNX Runtime computes it on the CPU without any graph optimisation, LiteRT that of a TensorFlow Lite
file without its delegate; once, and it is kept from run to run. A second, unrelated implementation,
onnx's own reference evaluator, checks the first outputs of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness import jobs, metrics, stateful
from harness.backend import Feed
from harness.datasets import Dataset
from harness.errors import UnsupportedError
from harness.measure.accuracy import OutputFile
from harness.modelfile import ModelInfo
from harness.outputs import difference
from harness.plan import reference_backend
from harness.stateful import Sequences
from harness.types import Array, Candidate, Precision, Settings

CHECKED_SAMPLES = 3
AGREES = 1e-3
"""Of an output's largest value: float32 in another order of operations stays far below it."""
_PLAIN = {
    "onnxruntime": (("graph-optimization", "disabled"),),
    "litert": (("delegate", "none"),),
}
"""The options with which a backend computes a model as it is written."""
LARGEST_BYTES = 500_000_000
"""Of a model that is checked: the evaluator is plain numpy, and holds every intermediate value."""


def reference_candidate(threads: int, model: ModelInfo) -> Candidate:
    """The settings of the reference. It is judged like a candidate, and never timed."""
    backend = reference_backend(model.format)
    settings = Settings(threads=threads, options=_PLAIN[backend])
    precision = Precision.AS_IS if model.quantized else Precision.FP32
    return Candidate(backend, precision, "source", "cpu", settings)


def cross_check(job: jobs.CrossCheckJob) -> jobs.CrossChecked:
    """Run the first samples through onnx's reference evaluator.

    Raises UnsupportedError for a model that is too large for it, and whatever it raises itself.
    """
    from pathlib import Path

    import onnx
    from onnx.reference import ReferenceEvaluator

    if Path(job.model).stat().st_size > LARGEST_BYTES:
        raise UnsupportedError("the model is too large for it")
    evaluator = ReferenceEvaluator(onnx.load(job.model), new_ops=[_batch_normalization()])
    names = list(evaluator.output_names)

    def run(feed: Feed) -> dict[str, Array]:
        return dict(zip(names, evaluator.run(None, dict(feed)), strict=True))

    data = Dataset(job.samples.data)
    layout = data.layout(job.inputs)
    done, worst = 0, 0.0
    with OutputFile(job.kept) as kept:
        for feed, chosen in data.feeds(job.inputs, job.samples.indices()[:CHECKED_SAMPLES]):
            fed = layout.size if layout.fixed else len(chosen)
            steps = [
                metrics.by_sample(found, fed, len(chosen), batched=layout.batched)
                for found in _forward(run, feed, job.sequences)
            ]
            ours = stateful.by_sequence(steps) if job.sequences else steps[0]
            worst = max(worst, difference(ours, kept.read_samples(done, len(chosen))))
            done += len(chosen)
    return jobs.CrossChecked(done, worst, worst <= AGREES)


def _forward(
    run: Callable[[Feed], dict[str, Array]], feed: Feed, sequences: Sequences | None
) -> list[dict[str, Array]]:
    """The outputs of each step: of one, but for a stateful model's."""
    if sequences is None:
        return [run(feed)]
    return [outputs for _, outputs in stateful.through(run, sequences, feed)]


def _batch_normalization() -> Any:
    """Of inference: onnx 1.23's own, of opsets before 14, mixes the batch's statistics in."""
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):  # type: ignore[misc]
        def _run(  # noqa: PLR0917 - as the evaluator calls it
            self, x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float, **_: Any
        ) -> tuple[Any]:
            ones = (1,) * (x.ndim - 2)
            scale, bias, mean, var = (v.reshape(-1, *ones) for v in (scale, bias, mean, var))
            return ((scale * (x - mean) / np.sqrt(var + epsilon) + bias).astype(x.dtype),)

    return BatchNormalization
