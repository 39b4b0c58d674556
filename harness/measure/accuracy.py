"""All validation samples through an open session: the metric, and how close to the reference.

Runs in a worker, on the session and with the options that are timed. Outputs are never held
together: batches stream by, and the reference's are kept in one file, so that every other
candidate is compared on the same samples.
"""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

from harness import jobs, metrics, stateful
from harness.backend import Feed, Session
from harness.datasets import Dataset
from harness.evalues import COSINE_SCALE, Watch, scale_of, shuffled
from harness.stateful import StatefulSession
from harness.types import Array

KEPT_BYTES = 256 * 2**20
"""Of the reference's outputs, where labels decide: the first samples then tell of agreement."""

FIXED_FILE = "fixed.zip"
REFERENCE_FILE = "reference.zip"
SCORES_FILE = "scores.npy"
"""What a pass leaves in its folder: one output, the reference's outputs, and its scores."""


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
        """Samples joined along their leading axis; empty where not all of them were kept.

        Without the outputs whose shape changes from sample to sample.
        """
        if f"{first + count - 1}/0.npy" not in self._zip.NameToInfo:
            return {}
        parts = [self.read(first + place) for place in range(count)]
        joined = {}
        for name in parts[0]:
            arrays = [part[name] for part in parts if name in part]
            if len(arrays) == count and len({array.shape for array in arrays}) == 1:
                joined[name] = np.concatenate(arrays)
        return joined

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
    stages = job.samples.stages()
    indices = [number for stage in stages for number in stage]
    labels = data.labels(indices) if metric.needs_labels else None
    if labels is not None:
        metric = metric.prepare(labels)
    sequences = isinstance(session, StatefulSession)
    each, score = (stateful.by_step, stateful.rows) if sequences else (dict, metrics.Metric.rows)
    rows: list[Array] = []
    stopping = _Stopping(job, metric)
    done = kept_bytes = 0
    with ExitStack() as stack:
        out, given = Path(job.out), Path(job.reference) if job.reference else None
        fixed = stack.enter_context(OutputFile(str(out / FIXED_FILE), "w"))
        keep = stack.enter_context(OutputFile(str(out / REFERENCE_FILE), "w")) if job.keep else None
        others = stack.enter_context(OutputFile(str(given / REFERENCE_FILE))) if given else None
        for feed, chosen in stopping.feeds(data, stages, rows):
            raws = _forward(session, feed)
            fed = layout.size if layout.fixed else len(chosen)
            steps = [
                metrics.by_sample(raw, fed, len(chosen), batched=layout.batched) for raw in raws
            ]
            outputs = stateful.by_sequence(steps) if sequences else steps[0]
            if not done:
                metric = metric.of(raws[0])
                fixed.write(0, raws[0])
            if keep is not None and (labels is None or kept_bytes < KEPT_BYTES):
                keep.write_samples(done, outputs, len(chosen))
                kept_bytes += sum(array.nbytes for array in outputs.values())
            reference = outputs if others is None else others.read_samples(done, len(chosen))
            sanity.add(each(outputs))
            comparer.add(each(outputs), each(reference))
            truth = reference if labels is None else labels[done : done + len(chosen)]
            rows.append(score(metric, outputs, truth))
            done += len(chosen)
    if job.keep:
        np.save(out / SCORES_FILE, metrics.join(rows))
    judged = _judged(metric, rows, comparer.result(), sanity.result())
    return replace(judged, stopped=stopping.why)


def _forward(session: Session, feed: Feed) -> list[dict[str, Array]]:
    """A copy of the outputs of each step: of one, but for a stateful model's."""
    if isinstance(session, StatefulSession):
        return session.through(feed)
    session.bind(feed)
    session.run()
    return [{name: np.array(value) for name, value in session.fetch().items()}]


class _Stopping:
    """Ends a pass between two stages once its question is answered.

    why: the answer, and after how many samples; None while there is none.
    """

    def __init__(self, job: jobs.AccuracyJob, metric: metrics.Metric) -> None:
        self.why: Optional[str] = None
        self._job = job
        self._metric = metric
        self._watch: Optional[Watch] = None
        self._theirs = np.empty(0)
        if job.stop != "never" and job.reference and job.limit is not None and not metric.whole:
            self._theirs = np.load(Path(job.reference) / SCORES_FILE)[:, 0]
            scale = scale_of(self._theirs, higher_is_better=metric.higher_is_better)
            scale = COSINE_SCALE if metric.base == "cosine" else scale
            self._watch = Watch(job.limit, metric.higher_is_better, scale=scale)

    def feeds(
        self, data: Dataset, stages: Sequence[Sequence[int]], rows: Sequence[Array]
    ) -> Iterator[tuple[Feed, Array]]:
        """Yield (feed, sample numbers), stage by stage. rows: the caller's, so far."""
        total, seen = sum(map(len, stages)), 0
        for stage in stages:
            yield from data.feeds(self._job.inputs, stage, self._job.batch)
            if self._watch is not None and rows:
                new = metrics.join(rows)[seen:, 0]
                order = shuffled(len(new))  # a stage is sorted, and the test looks at every sample
                self._watch.add(self._theirs[seen : seen + len(new)][order], new[order])
                seen += len(new)
                self.why = self._answer(seen, total) if seen < total else None
                if self.why is not None:
                    return

    def _answer(self, seen: int, total: int) -> Optional[str]:
        watch = self._watch
        if watch is not None and watch.refused:
            return f"refused after {seen} of {total} samples"
        # An error can grow by any amount, so that no scale is sound for a certificate.
        may = self._job.stop == "decided" and self._metric.higher_is_better
        if watch is not None and watch.certified and may:
            return f"certified after {seen} of {total} samples"
        return None


def _judged(
    metric: metrics.Metric,
    rows: list[Array],
    compared: metrics.Comparison,
    problem: Optional[str],
) -> jobs.Judged:
    joined = metrics.join(rows)
    return jobs.Judged(
        samples=len(joined),
        width=joined.shape[1],
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
