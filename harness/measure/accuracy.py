"""All validation samples through an open session: the metric, and how close to the reference.

Runs in a worker, on the session and with the options that are timed. Outputs are never held
together: batches stream by, and the reference's are kept in one file, so that every other
candidate is compared on the same samples.
"""

from __future__ import annotations

import base64
import zipfile
from contextlib import ExitStack
from typing import Any, Optional

import numpy as np

from harness import jobs, metrics
from harness.backend import Session
from harness.datasets import Dataset

Array = np.ndarray[Any, Any]


KEPT_BYTES = 256 * 2**20
"""Of the reference's outputs, where labels decide: the first samples then tell of agreement."""


class OutputFile:
    """Outputs of numbered batches in one zip of ``.npy`` members; any name may be an output's."""

    def __init__(self, path: str, mode: Any = "r") -> None:
        self._zip = zipfile.ZipFile(path, mode)

    def write(self, number: int, outputs: dict[str, Array]) -> None:
        """Add a batch."""
        for place, (name, array) in enumerate(outputs.items()):
            member = zipfile.ZipInfo(f"{number}/{place}.npy")
            member.comment = name.encode()
            with self._zip.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)

    def read(self, number: int) -> dict[str, Array]:
        """A batch's outputs by name. Raises KeyError for one that isn't there."""
        outputs: dict[str, Array] = {}
        while f"{number}/{len(outputs)}.npy" in self._zip.NameToInfo:
            member = self._zip.getinfo(f"{number}/{len(outputs)}.npy")
            with self._zip.open(member) as stream:
                outputs[member.comment.decode()] = np.lib.format.read_array(stream)
        if not outputs:
            raise KeyError(number)
        return outputs

    def write_samples(self, first: int, outputs: dict[str, Array], count: int) -> None:
        """Add samples one by one, so that they can be read in batches of another size."""
        for place in range(count):
            one = {name: array[place : place + 1] for name, array in outputs.items()}
            self.write(first + place, one)

    def read_samples(self, first: int, count: int) -> dict[str, Array]:
        """Samples joined along their leading axis; empty where not all of them were kept."""
        if f"{first + count - 1}/0.npy" not in self._zip.NameToInfo:
            return {}
        parts = [self.read(first + place) for place in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Finish the file."""
        self._zip.close()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def judge(session: Session, job: jobs.AccuracyJob) -> jobs.Judged:
    """Run everything once. The caller adds what was executed and the versions.

    Raises ValueError where the metric can't score these outputs.
    """
    data = Dataset(job.samples.data)
    metric = metrics.get(job.metric)
    layout = data.layout(job.inputs, job.batch)
    sanity, comparer = metrics.Sanity(metric.output), metrics.Comparer()
    indices = job.samples.indices()
    labels = data.labels(indices) if metric.needs_labels else None
    scores: list[Array] = []
    done = kept_bytes = 0
    with ExitStack() as stack:
        fixed = stack.enter_context(OutputFile(job.fixed, "w"))
        keep = stack.enter_context(OutputFile(job.keep, "w")) if job.keep else None
        others = stack.enter_context(OutputFile(job.reference)) if job.reference else None
        for number, (feed, chosen) in enumerate(data.feeds(job.inputs, indices, job.batch)):
            session.bind(feed)
            session.run()
            raw = {name: np.array(value) for name, value in session.fetch().items()}
            fed = layout.size if layout.fixed else len(chosen)
            outputs = metrics.by_sample(raw, fed, len(chosen), batched=not layout.whole)
            if number == 0:
                fixed.write(number, raw)
            if keep is not None and (labels is None or kept_bytes < KEPT_BYTES):
                keep.write_samples(done, outputs, len(chosen))
                kept_bytes += sum(array.nbytes for array in outputs.values())
            reference = outputs if others is None else others.read_samples(done, len(chosen))
            sanity.add(outputs)
            if reference:  # outputs that can't be told apart by sample are left out of a batch
                comparer.add(outputs, {name: reference[name] for name in outputs})
            truth = reference if labels is None else labels[done : done + len(chosen)]
            scores.append(metric.scores(outputs, truth))
            done += len(chosen)
    return _judged(metric, scores, comparer.result(), sanity.result())


def _judged(
    metric: metrics.Metric,
    scores: list[Array],
    compared: metrics.Comparison,
    problem: Optional[str],
) -> jobs.Judged:
    joined = np.concatenate(scores) if scores else np.empty(0)
    return jobs.Judged(
        samples=joined.size,
        value=float(joined.mean()) if joined.size else None,
        labelled=metric.needs_labels,
        higher_is_better=metric.higher_is_better,
        scores=base64.b64encode(joined.astype("<f8").tobytes()).decode("ascii"),
        compared=compared.samples,
        cosine_mean=compared.cosine_mean,
        cosine_min=compared.cosine_min,
        sqnr_db=compared.sqnr_db,
        max_abs_error=compared.max_abs_error,
        top1=compared.top1,
        problem=problem,
        executed=None,
        versions=(),
    )
