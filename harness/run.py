"""The run itself: plan -> build -> judge -> measure, every step kept as it happens.

Interrupted at any point, by ctrl-C, a kill or a full disk, what was measured stays and the run
can be resumed.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from harness import jobs
from harness.build import Builder
from harness.cache import Cache, Entry, key_of
from harness.config import Lab, SweepConfig, load_lab
from harness.errors import InputError, Problem, StoreError
from harness.measure import process
from harness.plan import Plan, Skipped
from harness.prepare import Prepared, own_version, prepare
from harness.record import (
    AccuracyRecord,
    Agreement,
    BuildRecord,
    DataUse,
    EndRecord,
    ModelUse,
    RunRecord,
    Skip,
)
from harness.rounds import Asked, Rounds
from harness.runner import Entrant, open_job, silently_replaced
from harness.store import Results, Store, read
from harness.types import Candidate, Engine, Stage, Status

FIXED_FILE = "fixed.zip"
REFERENCE_FILE = "reference.zip"


@dataclass(frozen=True)
class Event:
    """What a run is doing, for whoever shows it.

    stage: ``build``, ``accuracy``, ``measure``. done and total count the stage's steps.
    left_s: the estimated time to the end of the run; None while nothing is known.
    """

    stage: str
    done: int
    total: int
    text: str
    left_s: float | None = None


Listener = Callable[[Event], None]


@dataclass
class _State:
    """What the run has so far: this part's, and what an earlier part left."""

    builds: list[BuildRecord] = field(default_factory=list)
    accuracies: dict[str, AccuracyRecord] = field(default_factory=dict)
    engines: dict[tuple[str, str, str, str], tuple[Engine, str]] = field(default_factory=dict)
    entrants: list[Entrant] = field(default_factory=list)


def sweep(
    config: SweepConfig,
    lab: Lab | None = None,
    cache: Cache | None = None,
    listen: Listener = lambda _: None,
) -> Results:
    """Measure every candidate on this host; everything is kept on disk as it happens.

    Raises InputError before anything is written, and when the disk is full.
    """
    cache = cache or Cache()
    prepared = prepare(config, lab or load_lab(), cache)
    run = head(prepared)
    path = Path(prepared.config.out) / prepared.target_name / f"{run.run_id}.jsonl"
    with Store(path) as store:
        store.append(run)
        return _Sweep(prepared, cache, store, listen).go()


def resume(
    run: str, out: str, lab: Lab, cache: Cache, listen: Listener = lambda _: None
) -> Results:
    """Go on with an interrupted run, in the same file."""
    path = find_run(run, Path(out))
    earlier = read(path)
    config = SweepConfig.from_dict(earlier.run.config, f"{path.name}: config")
    prepared = prepare(config, lab, cache)
    _same(earlier.run, prepared)
    store, earlier = Store.resume(path)
    with store:
        plan = Plan(
            earlier.run.candidates,
            tuple(Skipped(s.candidate, s.status, s.reason, s.fix) for s in earlier.run.skips),
            earlier.run.baseline,
        )
        planned = replace(prepared, plan=plan)
        return _Sweep(planned, cache, store, listen, earlier).go()


def find_run(run: str, out: Path) -> Path:
    """A run by its file, or by its id anywhere below ``out``. Raises InputError."""
    if Path(run).is_file():
        return Path(run)
    found = sorted(out.glob(f"**/{run}.jsonl"))
    if len(found) == 1:
        return found[0]
    known = sorted(out.glob("*/*.jsonl"), key=lambda path: path.stat().st_mtime)
    newest = ", ".join(path.stem for path in known[-3:]) or "none"
    what = f"no run {run} below {out} (the newest there: {newest})"
    raise InputError([Problem("RUN", what, "name its file, or give --out")])


def _same(run: RunRecord, now: Prepared) -> None:
    """A run goes on only with what it began with."""
    checks = (
        ("the model", run.model.sha256, now.checked.model.sha256),
        ("the data", run.data.sha256, now.checked.data.sha256),
        ("the host", run.host_fingerprint, now.host.fingerprint()),
        ("the backends", run.probes, tuple(known.probe for known in now.knowns)),
    )
    problems = [
        Problem(run.run_id, f"{name} changed since this run began", "start a new sweep")
        for name, before, after in checks
        if before != after
    ]
    if problems:
        raise InputError(problems)


def head(prepared: Prepared) -> RunRecord:
    """The run's first record."""
    checked, config = prepared.checked, prepared.config
    model, data, now = checked.model, checked.data, datetime.now(UTC)
    setup = prepared.setup()
    own = checked.calibration
    return RunRecord(
        at=now,
        run_id=f"{model.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        target=prepared.target_name,
        enginepick_version=own_version(),
        git_sha=_git_sha(),
        model=ModelUse(
            name=model.name,
            path=model.path,
            sha256=model.sha256,
            size_bytes=model.size_bytes,
            opset=model.opset,
            inputs=model.inputs,
            outputs=model.outputs,
        ),
        data=DataUse(
            source=data.source,
            sha256=data.sha256,
            samples=data.samples,
            labelled=data.labelled,
            metric=checked.metric,
            calibration_source=own.source if own else None,
            calibration_samples=len(setup.calibration.indices()) if setup.calibration else 0,
            validation_samples=len(setup.validation.indices()),
            seed=config.seed,
        ),
        host=prepared.host.to_dict(),
        host_fingerprint=prepared.host.fingerprint(),
        probes=tuple(known.probe for known in prepared.knowns),
        candidates=prepared.plan.candidates,
        skips=tuple(
            Skip(candidate=s.candidate, status=s.status, reason=s.reason, fix=s.fix)
            for s in prepared.plan.skips
        ),
        baseline=prepared.plan.baseline,
        config=config.to_dict(),
    )


def _git_sha() -> str | None:
    """The commit that this code runs from, when it runs from a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


class _Sweep:
    """One run, or the rest of one."""

    def __init__(
        self,
        prepared: Prepared,
        cache: Cache,
        store: Store,
        listen: Listener,
        earlier: Results | None = None,
    ) -> None:
        self._prepared = prepared
        self._plan = prepared.plan
        self._setup = prepared.setup()
        self._cache = cache
        self._store = store
        self._listen = listen
        self._earlier = earlier
        self._began = monotonic()
        self._state = _State()

    def go(self) -> Results:
        """Run to the end, or as far as the user lets it."""
        why = "done"
        try:
            self._build_all()
            self._judge_all()
            why = self._measure_all()
        except KeyboardInterrupt:
            why = "interrupted"
        except StoreError as error:
            fix = f"free some space, then: enginepick sweep --resume {self._store.path.stem}"
            raise InputError([Problem(str(self._store.path), str(error), fix)]) from error
        elapsed = monotonic() - self._began
        self._store.append(EndRecord(at=datetime.now(UTC), why=why, elapsed_s=elapsed))
        return read(self._store.path)

    # -- build ---------------------------------------------------------------------------------

    def _build_all(self) -> None:
        builder = Builder(self._setup, self._cache)
        known = {_key(b) for b in self._earlier.builds} if self._earlier else set()
        wanted = {each.engine_key: each for each in self._plan.candidates}
        for done, (key, candidate) in enumerate(wanted.items()):
            self._listen(Event("build", done, len(wanted), " ".join(key[:3])))
            made = builder.make(candidate)
            if key not in known:
                self._store.append(made.record)
            if made.engine is not None:
                self._state.engines[key] = (made.engine, made.record.engine_key)
        self._listen(Event("build", len(wanted), len(wanted), "done"))

    # -- accuracy ------------------------------------------------------------------------------

    def _judge_all(self) -> None:
        """The baseline first: the others are compared with its outputs."""
        candidates = sorted(self._plan.candidates, key=lambda c: c.id != self._plan.baseline)
        for record in self._earlier.accuracies if self._earlier else ():
            self._state.accuracies[record.candidate] = record
        judged: dict[tuple[Any, ...], tuple[Entry, int]] = {}
        reference: Entry | None = None
        usable = [each for each in candidates if each.engine_key in self._state.engines]
        for done, candidate in enumerate(usable):
            entry = judged.get(candidate.accuracy_key)
            if entry is None:
                text = " ".join(candidate.engine_key[:3])
                self._listen(Event("accuracy", done, len(usable), text))
                entry = self._judge(candidate, reference)
            if entry is None:  # its own settings may be the reason: the next may do better
                continue
            judged[candidate.accuracy_key] = entry
            if candidate.id == self._plan.baseline:
                reference = entry[0]
            engine, _ = self._state.engines[candidate.engine_key]
            self._state.entrants.append(
                Entrant(candidate, engine, str(entry[0].folder / FIXED_FILE), entry[1])
            )
        self._listen(Event("accuracy", len(usable), len(usable), "done"))

    def _judge(self, candidate: Candidate, reference: Entry | None) -> tuple[Entry, int] | None:
        """One accuracy pass; None when the candidate is out. An earlier one is not repeated."""
        key = self._outputs_key(candidate)
        known = self._state.accuracies.get(candidate.id)
        if known is not None:
            if not known.ok:
                return None
            entry = self._cache.get("outputs", key)
            if entry is not None:
                return entry, known.peak_rss_bytes or 0
        workdir = self._cache.workdir()
        record, numbers = self._ask_judgement(candidate, reference, workdir)
        if known is None:
            if numbers is not None:
                record = record.model_copy(update={"scores": self._store.block(numbers)})
            self._store.append(record)
            self._state.accuracies[candidate.id] = record
        if not record.ok:
            shutil.rmtree(workdir, ignore_errors=True)
            return None
        return self._cache.put("outputs", key, workdir, {}), record.peak_rss_bytes or 0

    def _outputs_key(self, candidate: Candidate) -> str:
        data, samples = self._prepared.checked.data, self._setup.validation
        return key_of(
            {
                "engine": self._state.engines[candidate.engine_key][1],
                "settings": candidate.settings.label(),
                "data": (data.sha256, samples.calibration, samples.seed, samples.limit),
                "host": self._prepared.host.fingerprint(),
            }
        )

    def _ask_judgement(
        self, candidate: Candidate, reference: Entry | None, workdir: Path
    ) -> tuple[AccuracyRecord, np.ndarray[Any, Any] | None]:
        setup, checked = self._setup, self._prepared.checked
        engine, _ = self._state.engines[candidate.engine_key]
        fixed = str(workdir / FIXED_FILE)
        entrant = Entrant(candidate, engine, fixed, 0)
        is_reference = candidate.id == self._plan.baseline
        job = jobs.AccuracyJob(
            samples=setup.validation,
            inputs=setup.inputs,
            batch=candidate.settings.batch,
            metric=checked.metric,
            reference=str(reference.folder / REFERENCE_FILE) if reference else None,
            keep=str(workdir / REFERENCE_FILE) if is_reference else None,
            fixed=fixed,
        )
        answer: jobs.Opened | jobs.Judged | jobs.Refused
        with setup.child(candidate.backend) as child:
            answer = child.ask(open_job(setup, entrant), jobs.Opened, Stage.OPEN, setup.timeout_s)
            if isinstance(answer, jobs.Opened):
                answer = child.ask(job, jobs.Judged, Stage.ACCURACY, self._judging_timeout_s())
            peak = process.peak_rss_bytes(Path(f"/proc/{child.pid}"))
        record = AccuracyRecord(
            at=datetime.now(UTC),
            candidate=candidate.id,
            metric=checked.metric,
            labelled=checked.data.labelled,
            reference=None if is_reference else self._plan.baseline,
            peak_rss_bytes=peak,
        )
        if isinstance(answer, jobs.Refused):
            return record.model_copy(update=_outcome(answer)), None
        assert isinstance(answer, jobs.Judged)
        scores = np.frombuffer(base64.b64decode(answer.scores), "<f8")
        return _judged(record, candidate, answer), scores

    def _judging_timeout_s(self) -> float:
        """All samples may take as long as they need at one second each."""
        return self._setup.timeout_s + len(self._setup.validation.indices())

    # -- measure -------------------------------------------------------------------------------

    def _measure_all(self) -> str:
        def show(done: int, total: int, text: str, left_s: float | None) -> None:
            self._listen(Event("measure", done, total, text, left_s))

        rounds = Rounds(
            self._setup,
            Asked.of(self._prepared.config),
            self._store,
            self._state.entrants,
            baseline=self._plan.baseline,
            began=self._began,
            show=show,
            earlier=self._earlier,
        )
        return rounds.run()


def _judged(record: AccuracyRecord, candidate: Candidate, judged: jobs.Judged) -> AccuracyRecord:
    problem = judged.problem or silently_replaced(candidate, judged.executed)
    update: dict[str, Any] = {
        "labelled": judged.labelled,
        "higher_is_better": judged.higher_is_better,
        "samples": judged.samples,
        "value": judged.value,
        "agreement": Agreement(
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


def _outcome(refused: jobs.Refused) -> dict[str, object]:
    return {name: getattr(refused, name) for name in ("status", "stage", "reason", "fix")}


def _key(build: BuildRecord) -> tuple[str, str, str, str]:
    return (build.backend, build.precision, build.recipe, build.device)
