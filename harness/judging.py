"""One accuracy pass per engine and batch size, before anything is timed.

The fp32 baseline comes first: the others' outputs are compared with its own. What can't be right,
or isn't what was asked for, is out here and never timed.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness import jobs
from harness.cache import Cache, Entry, key_of
from harness.measure import process
from harness.record import AccuracyRecord, Agreement
from harness.runner import Entrant, open_job, silently_replaced
from harness.setup import Setup
from harness.store import Store
from harness.types import Candidate, Engine, Stage, Status

FIXED_FILE = "fixed.zip"
REFERENCE_FILE = "reference.zip"


@dataclass(frozen=True)
class Subject:
    """What is judged: the metric, the baseline that is the reference, and where it runs."""

    metric: str
    labelled: bool
    baseline: str | None
    host_fingerprint: str


class Judging:
    """Judges candidates and keeps the records.

    engines: by the candidates' engine key, the engine and its address in the cache. earlier: the
    records of an interrupted part of the run; these passes are not repeated.
    """

    def __init__(
        self,
        setup: Setup,
        subject: Subject,
        cache: Cache,
        store: Store,
        *,
        engines: Mapping[tuple[str, str, str, str], tuple[Engine, str]],
        earlier: Iterable[AccuracyRecord] = (),
    ) -> None:
        self._setup = setup
        self._subject = subject
        self._cache = cache
        self._store = store
        self._engines = engines
        self._known = {record.candidate: record for record in earlier}

    def all(
        self, candidates: Sequence[Candidate], show: Callable[[int, int, str], None]
    ) -> list[Entrant]:
        """Judge those that have an engine; the ones that may be timed."""
        usable = [each for each in candidates if each.engine_key in self._engines]
        usable.sort(key=lambda each: each.id != self._subject.baseline)
        judged: dict[tuple[Any, ...], tuple[Entry, int]] = {}
        reference: Entry | None = None
        entrants = []
        for done, candidate in enumerate(usable):
            entry = judged.get(candidate.accuracy_key)
            if entry is None:
                show(done, len(usable), " ".join(candidate.engine_key[:3]))
                entry = self._judge(candidate, reference)
            if entry is None:  # its own settings may be the reason: the next may do better
                continue
            judged[candidate.accuracy_key] = entry
            if candidate.id == self._subject.baseline:
                reference = entry[0]
            engine, _ = self._engines[candidate.engine_key]
            fixed = str(entry[0].folder / FIXED_FILE)
            entrants.append(Entrant(candidate, engine, fixed, entry[1]))
        show(len(usable), len(usable), "done")
        return entrants

    def _judge(self, candidate: Candidate, reference: Entry | None) -> tuple[Entry, int] | None:
        """One pass; None when the candidate is out."""
        key = self._outputs_key(candidate)
        known = self._known.get(candidate.id)
        if known is not None:
            if not known.ok:
                return None
            entry = self._cache.get("outputs", key)
            if entry is not None:
                return entry, known.peak_rss_bytes or 0
        workdir = self._cache.workdir()
        record, scores = self._ask(candidate, reference, workdir)
        if known is None:
            if scores is not None:
                record = record.model_copy(update={"scores": self._store.block(scores)})
            self._store.append(record)
        if not record.ok:
            shutil.rmtree(workdir, ignore_errors=True)
            return None
        return self._cache.put("outputs", key, workdir, {}), record.peak_rss_bytes or 0

    def _outputs_key(self, candidate: Candidate) -> str:
        samples = self._setup.validation
        return key_of(
            {
                "engine": self._engines[candidate.engine_key][1],
                "settings": candidate.settings.label(),
                "data": (samples.data.sha256, samples.calibration, samples.seed, samples.limit),
                "host": self._subject.host_fingerprint,
                "reference": candidate.id == self._subject.baseline,
                "metric": self._subject.metric,
            }
        )

    def _ask(
        self, candidate: Candidate, reference: Entry | None, workdir: Path
    ) -> tuple[AccuracyRecord, np.ndarray[Any, Any] | None]:
        """The record, and the scores per sample."""
        setup, subject = self._setup, self._subject
        engine, _ = self._engines[candidate.engine_key]
        fixed = str(workdir / FIXED_FILE)
        is_reference = candidate.id == subject.baseline
        job = jobs.AccuracyJob(
            samples=setup.validation,
            inputs=setup.inputs,
            batch=candidate.settings.batch,
            metric=subject.metric,
            reference=str(reference.folder / REFERENCE_FILE) if reference else None,
            keep=str(workdir / REFERENCE_FILE) if is_reference else None,
            fixed=fixed,
        )
        # Samples may take a second each, beside what any step may take.
        timeout_s = setup.timeout_s + len(setup.validation.indices())
        answer: jobs.Opened | jobs.Judged | jobs.Refused
        with setup.child(candidate.backend) as child:
            opening = open_job(setup, Entrant(candidate, engine, fixed, 0))
            answer = child.ask(opening, jobs.Opened, Stage.OPEN, setup.timeout_s)
            if isinstance(answer, jobs.Opened):
                answer = child.ask(job, jobs.Judged, Stage.ACCURACY, timeout_s)
            peak = process.peak_rss_bytes(Path(f"/proc/{child.pid}"))
        record = AccuracyRecord(
            at=datetime.now(UTC),
            candidate=candidate.id,
            metric=subject.metric,
            labelled=subject.labelled,
            reference=None if is_reference else subject.baseline,
            peak_rss_bytes=peak,
        )
        if isinstance(answer, jobs.Judged):
            scores = np.frombuffer(base64.b64decode(answer.scores), "<f8")
            return _judged(record, candidate, answer), scores
        assert isinstance(answer, jobs.Refused)
        return record.model_copy(update=answer.outcome()), None


def _judged(record: AccuracyRecord, candidate: Candidate, judged: jobs.Judged) -> AccuracyRecord:
    problem = judged.problem or silently_replaced(candidate, judged.executed)
    update: dict[str, Any] = {
        "labelled": judged.labelled,
        "higher_is_better": judged.higher_is_better,
        "samples": judged.samples,
        "value": judged.value,
        "agreement": Agreement(
            samples=judged.compared,
            cosine_mean=judged.cosine_mean,
            cosine_min=judged.cosine_min,
            sqnr_db=judged.sqnr_db,
            max_abs_error=judged.max_abs_error,
            top1=judged.top1,
        ),
        "executed": judged.executed,
        "versions": judged.versions,
    }
    if problem is not None:
        update |= {"status": Status.INVALID, "stage": Stage.ACCURACY, "reason": problem}
    return record.model_copy(update=update)
