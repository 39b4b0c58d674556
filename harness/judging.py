"""One accuracy pass per engine and batch size, before anything is timed.

The reference comes first, and is kept from run to run: the others' outputs and scores are compared
with its own. What can't be right, or isn't what was asked for, is out here and never timed.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness import jobs
from harness.aggregates import value_of
from harness.cache import Cache, Entry, file_sha256, key_of, source_sha256
from harness.functions import is_function
from harness.measure import process
from harness.measure.accuracy import FIXED_FILE, REFERENCE_FILE, SCORES_FILE
from harness.metrics import parse
from harness.record import AccuracyRecord, Agreement, from_json, to_json
from harness.runner import Entrant, open_job, silently_replaced
from harness.setup import Setup, ask_parent_side
from harness.store import Store
from harness.types import Array, Candidate, Engine, EngineKey, Stage, Status

Engines = Mapping[EngineKey, tuple[Engine, str]]
"""By the candidates' engine key: the engine and its address in the cache."""

CODE = ("datasets", "measure", "metrics", "record", "reference", "stateful")
"""The modules that make the scores of a reference."""

CROSS_CHECK_S = 60.0
"""What onnx's reference evaluator, which is slow, may take for a few samples."""


@dataclass(frozen=True)
class Subject:
    """What is judged: by which metric, against which candidate, on which host.

    references: the first of them that passes is what the others are compared with. limit: the
    largest drop that is allowed; a pass ends early once that is exceeded, or decided, as ``stop``
    says. onnx: the model's file, if it can be had as ONNX.
    """

    metric: str
    labelled: bool
    references: tuple[Candidate, ...]
    host_fingerprint: str
    limit: float | None = None
    stop: Literal["never", "refused", "decided"] = "never"
    onnx: str | None = None


@dataclass(frozen=True)
class Reference:
    """What the others are compared with: a candidate's id, and the folder that its pass left."""

    candidate: str
    folder: Path


@dataclass(frozen=True)
class Judged:
    """One pass: its record, the scores per sample (None if there are none), and what it left.

    entry: in the cache; None when the candidate is out.
    """

    record: AccuracyRecord
    scores: Array | None = None
    entry: Entry | None = None

    @property
    def as_reference(self) -> Reference | None:
        """What others are compared with, where this is one."""
        return Reference(self.record.candidate, self.entry.folder) if self.entry else None

    def worse_than(self, reference: Judged) -> float | None:
        """How much lower the metric's value is (higher, for errors); None where one has none."""
        ours, theirs = self.record.value, reference.record.value
        if not self.record.ok or ours is None or theirs is None:
            return None
        return theirs - ours if self.record.higher_is_better else ours - theirs


def metric_files(metric: str) -> list[str]:
    """The checksums of the files that a metric's options name."""
    options = {} if is_function(metric) else parse(metric).options
    values = (str(value) for value in options.values() if isinstance(value, str))
    return [file_sha256(path) for value in values if (path := Path(value)).is_file()]


class Judge:
    """Runs accuracy passes of a setup's engines on some samples."""

    def __init__(self, setup: Setup, subject: Subject, cache: Cache, samples: jobs.Samples) -> None:
        self.metric = subject.metric
        self._setup = setup
        self._subject = subject
        self._cache = cache
        self._samples = samples

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self._samples.indices())

    def key(self, candidate: Candidate, address: str) -> str:
        """The address of what a pass leaves: it depends on all of these."""
        return key_of(
            {
                "engine": address,
                "settings": candidate.settings.label(),
                "data": self._samples.key(),
                "inputs": (self._setup.fed, self._setup.sequences),
                "host": self._subject.host_fingerprint,
                "metric": (self.metric, metric_files(self.metric)),
            }
        )

    def reference(self, candidate: Candidate, engine: Engine, address: str) -> Judged:
        """The reference's own pass, or what is kept of it."""
        key = self.key(candidate, address)
        # A user's function may score otherwise today.
        kept_too = not is_function(self.metric)
        # What is kept depends on the code that computes, scores and checks it.
        code = [source_sha256(f"harness.{name}") for name in CODE]
        code += [] if kept_too else [secrets.token_hex()]
        key = key_of({"pass": key, "code": code})
        entry = self._cache.get("references", key) if kept_too else None
        if entry is not None:
            kept = from_json(entry.meta["record"])
            scores = np.load(entry.folder / SCORES_FILE)
            return Judged(kept.model_copy(update={"at": datetime.now(UTC)}), scores, entry)
        return self._pass(candidate, engine, None, "references", key)

    def candidate(
        self, candidate: Candidate, engine: Engine, address: str, reference: Reference | None
    ) -> Judged:
        """A candidate's pass, compared with the reference's."""
        return self._pass(candidate, engine, reference, "outputs", self.key(candidate, address))

    def _pass(
        self,
        candidate: Candidate,
        engine: Engine,
        reference: Reference | None,
        kind: str,
        key: str,
    ) -> Judged:
        with self._cache.scratch() as workdir:
            record, scores = self._ask(
                candidate, engine, reference, workdir, keep=kind == "references"
            )
            if not record.ok or scores is None:
                return Judged(record, scores)
            meta = {}
            if kind == "references":
                kept = workdir / REFERENCE_FILE
                note = cross_check(self._setup, self._subject.onnx, self._samples, kept)
                record = record.model_copy(update={"notes": (*record.notes, note)})
                meta = {"record": to_json(record)}
            return Judged(record, scores, self._cache.put(kind, key, workdir, meta))

    def _ask(
        self,
        candidate: Candidate,
        engine: Engine,
        reference: Reference | None,
        workdir: Path,
        *,
        keep: bool,
    ) -> tuple[AccuracyRecord, Array | None]:
        """The record, and the scores per sample."""
        setup, subject = self._setup, self._subject
        job = jobs.AccuracyJob(
            samples=self._samples,
            inputs=setup.fed,
            batch=candidate.settings.batch,
            metric=subject.metric,
            reference=str(reference.folder) if reference else None,
            out=str(workdir),
            keep=keep,
            limit=subject.limit,
            stop=subject.stop,
        )
        # Samples may take a second each, beside what any step may take.
        timeout_s = setup.timeout_s + len(self._samples.indices())
        answer: jobs.Opened | jobs.Judged | jobs.Refused
        with setup.child(candidate.backend) as child:
            fixed = str(workdir / FIXED_FILE)
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
            reference=reference.candidate if reference else None,
            peak_rss_bytes=peak,
        )
        if isinstance(answer, jobs.Judged):
            rows = np.frombuffer(base64.b64decode(answer.scores), "<f8").reshape(-1, answer.width)
            return _judged(record, candidate, answer, rows), rows
        assert isinstance(answer, jobs.Refused)
        return record.model_copy(update=answer.outcome()), None


def cross_check(setup: Setup, onnx: str | None, samples: jobs.Samples, kept: Path) -> str:
    """What onnx's reference evaluator says of the first outputs that were kept, for the record.

    onnx: the model's file; None where there is none.
    """
    if onnx is None:
        return "was not checked by onnx's reference evaluator: the model isn't ONNX"
    job = jobs.CrossCheckJob(onnx, samples, setup.fed, str(kept), setup.sequences)
    answer = ask_parent_side(job, jobs.CrossChecked, Stage.ACCURACY, CROSS_CHECK_S)
    if isinstance(answer, jobs.Refused):
        return f"was not checked by onnx's reference evaluator: {answer.reason[:300]}"
    return (
        f"{'agrees with' if answer.agrees else 'DIFFERS FROM'} onnx's reference evaluator on"
        f" {answer.samples} samples (largest difference {answer.worst:.2g} of the largest value)"
    )


def _judged(
    record: AccuracyRecord, candidate: Candidate, judged: jobs.Judged, rows: Array
) -> AccuracyRecord:
    problem = judged.problem or silently_replaced(candidate, judged.executed)
    update: dict[str, Any] = {
        "labelled": judged.labelled,
        "higher_is_better": judged.higher_is_better,
        "samples": judged.samples,
        "value": value_of(record.metric, rows),
        "width": judged.width,
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
        "stopped": judged.stopped,
    }
    if problem is not None:
        update |= {"status": Status.INVALID, "stage": Stage.ACCURACY, "reason": problem}
    return record.model_copy(update=update)


class Judging:
    """Judges a run's candidates on the validation samples, and keeps the records.

    earlier: the records of an interrupted part of the run; these passes are not repeated.
    """

    def __init__(
        self,
        setup: Setup,
        subject: Subject,
        cache: Cache,
        store: Store,
        *,
        engines: Engines,
        earlier: Iterable[AccuracyRecord] = (),
    ) -> None:
        self._subject = subject
        self._cache = cache
        self._store = store
        self._engines = dict(engines)
        self._known = {record.candidate: record for record in earlier}
        self._judge = Judge(setup, subject, cache, setup.validation)
        self._passed: dict[tuple[Any, ...], tuple[Entry, int]] = {}
        self._referee: Candidate | None = None
        self._reference = self._find_reference()

    def all(
        self, candidates: Sequence[Candidate], show: Callable[[int, int, str], None]
    ) -> list[Entrant]:
        """Judge those that have an engine; the ones that may be timed."""
        usable = [each for each in candidates if each.engine_key in self._engines]
        entrants = []
        for done, candidate in enumerate(usable):
            if candidate.accuracy_key not in self._passed:
                show(done, len(usable), " ".join(candidate.engine_key[:3]))
            entrants += self.one(candidate)
        show(len(usable), len(usable), "done")
        return entrants

    def one(self, candidate: Candidate, made: tuple[Engine, str] | None = None) -> list[Entrant]:
        """Judge one candidate: an entrant, or none when it is out. made: a new engine."""
        if made is not None:
            self._engines[candidate.engine_key] = made
        engine, address = self._engines[candidate.engine_key]
        passed = self._passed.get(candidate.accuracy_key)
        if passed is None:
            passed = self._earlier(candidate, address) or self._new(candidate, engine, address)
        if passed is None:  # its own settings may be the reason: the next may do better
            return []
        self._passed[candidate.accuracy_key] = passed
        return [Entrant(candidate, engine, str(passed[0].folder / FIXED_FILE), passed[1])]

    def _find_reference(self) -> Reference | None:
        """The reference's pass, before all others; None where none of them passes."""
        for each in self._subject.references:
            known = self._known.get(each.id)
            if each.engine_key not in self._engines or (known is not None and not known.ok):
                continue
            judged = self._judge.reference(each, *self._engines[each.engine_key])
            if known is None:
                self._keep(judged)
            if judged.entry is not None:
                peak = judged.record.peak_rss_bytes or 0
                self._passed[each.accuracy_key] = (judged.entry, peak)
                self._referee = each
                return judged.as_reference
        return None

    def on(self, judge: Judge) -> Judged | None:
        """The reference's pass on other samples; None where it has none."""
        if self._referee is None:
            return None
        judged = judge.reference(self._referee, *self._engines[self._referee.engine_key])
        return judged if judged.entry is not None else None

    def _earlier(self, candidate: Candidate, address: str) -> tuple[Entry, int] | None:
        known = self._known.get(candidate.id)
        if known is None or not known.ok:
            return None
        entry = self._cache.get("outputs", self._judge.key(candidate, address))
        return (entry, known.peak_rss_bytes or 0) if entry is not None else None

    def _new(self, candidate: Candidate, engine: Engine, address: str) -> tuple[Entry, int] | None:
        known = self._known.get(candidate.id)
        if known is not None and not known.ok:
            return None
        judged = self._judge.candidate(candidate, engine, address, self._reference)
        if known is None:
            self._keep(judged)
        if judged.entry is None:
            return None
        return judged.entry, judged.record.peak_rss_bytes or 0

    def _keep(self, judged: Judged) -> None:
        record = judged.record
        if judged.scores is not None:
            record = record.model_copy(update={"scores": self._store.block(judged.scores)})
        self._store.append(record)
        self._known[record.candidate] = record
