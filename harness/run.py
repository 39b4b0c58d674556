"""The run itself: plan -> build -> judge -> measure, every step kept as it happens.

Interrupted at any point, by ctrl-C, a kill or a full disk, what was measured stays and the run
can be resumed.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from harness.analysis import engine_key
from harness.asked import Asked
from harness.build import Builder
from harness.cache import Cache
from harness.config import Lab, SweepConfig, load_lab
from harness.draws import Draws
from harness.errors import InputError, Problem, StoreError
from harness.hostlock import only_one
from harness.judging import Judge, Judging, Subject
from harness.plan import Plan, Skipped
from harness.prepare import Prepared, engines_then_and_now, own_version, prepare
from harness.record import BuildRecord, DataUse, EndRecord, ModelUse, RunRecord, Skip
from harness.recovery import Recovery, drop_of
from harness.rounds import Rounds
from harness.runner import Entrant
from harness.stats import Answer
from harness.store import Results, Store, read
from harness.types import Candidate, Engine, EngineKey

FLOOR_BYTES = 200 * 2**20
"""What a worker with a runtime and next to no model takes, at most."""


@dataclass(frozen=True)
class Event:
    """What a run is doing, for whoever shows it.

    stage: ``wait`` (for another run on this host), ``build``, ``accuracy``, ``recover`` (better
    int8 where that failed), ``draw`` (other calibration samples), ``measure``. done and total
    count the stage's steps.
    left_s: the estimated time to the end of the run; None while nothing is known.
    """

    stage: str
    done: int
    total: int
    text: str
    left_s: float | None = None


Listener = Callable[[Event], None]


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
    with cache.scratch() as spool:
        prepared = prepare(config, lab or load_lab(), spool)
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
    with cache.scratch() as spool:
        prepared = prepare(config, lab, spool)
        _same(earlier.run, earlier.builds, prepared)
        store, earlier = Store.resume(path)
        with store:
            planned = replace(prepared, plan=_plan_of(earlier.run))
            return _Sweep(planned, cache, store, listen, earlier).go()


def _plan_of(run: RunRecord) -> Plan:
    """The plan that a run began with."""
    skips = (Skipped(s.candidate, s.status, s.reason, s.fix) for s in run.skips)
    return Plan(run.candidates, tuple(skips), run.baseline)


def subject_of(
    prepared: Prepared, candidates: Sequence[Candidate], baseline: str | None, onnx: str | None
) -> Subject:
    """What the accuracy passes of a run are asked; the baseline stands in for the reference.

    onnx: the model's file, if it can be had as ONNX.
    """
    stand_in = [each for each in candidates if each.id == baseline]
    reference = [prepared.reference] if prepared.reference else []
    return Subject(
        metric=prepared.checked.metric,
        labelled=prepared.checked.data.labelled,
        references=(*reference, *stand_in),
        host_fingerprint=prepared.host.fingerprint(),
        limit=prepared.config.constraints.max_accuracy_drop,
        stop=prepared.config.measure.stop_early,
        onnx=onnx,
    )


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


def _same(run: RunRecord, builds: Sequence[BuildRecord], now: Prepared) -> None:
    """A run goes on only with what it began with."""
    checks = (
        ("the model", run.model.sha256, now.checked.model.sha256),
        ("the data", run.data.sha256, now.checked.data.sha256),
        (
            "the calibration data",
            run.data.calibration_sha256,
            now.checked.calibration.sha256 if now.checked.calibration else None,
        ),
        ("the host", run.host_fingerprint, now.host.fingerprint()),
        ("the backends", run.probes, tuple(known.probe for known in now.knowns)),
        *engines_then_and_now(builds, now),
    )
    changed = [name for name, before, after in checks if before != after]
    if changed:
        raise _changed(run.run_id, *changed)


def _changed(run_id: str, *names: str) -> InputError:
    what = "changed since this run began"
    return InputError([Problem(run_id, f"{name} {what}", "start a new sweep") for name in names])


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
            path=model.source,
            format=model.format,
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
            calibration_sha256=own.sha256 if own else None,
            calibration_samples=len(setup.calibration.indices()) if setup.calibration else 0,
            validation_samples=len(setup.validation.indices()),
            seed=config.seed,
            notes=checked.warnings,
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
        reference=prepared.reference,
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
        added = earlier.added if earlier else ()
        self._builder = Builder(self._setup, cache, added)
        self._candidates = (*self._plan.candidates, *(each.candidate for each in added))
        self._began = monotonic()

    def go(self) -> Results:
        """Run to the end, or as far as the user lets it."""
        why = "done"
        try:
            with only_one(f"run {self._store.path.stem}", self._wait):
                judging = self._judging(self._build())
                entrants = self._judge(judging)
                entrants += self._recover(judging)
                self._draw(judging, entrants)
                why = self._measure(entrants)
        except KeyboardInterrupt:
            why = "interrupted"
        except StoreError as error:
            fix = f"free some space, then: enginepick sweep --resume {self._store.path.stem}"
            raise InputError([Problem(str(self._store.path), str(error), fix)]) from error
        elapsed = monotonic() - self._began
        self._store.append(EndRecord(at=datetime.now(UTC), why=why, elapsed_s=elapsed))
        return read(self._store.path)

    def _wait(self, holder: str) -> None:
        self._listen(Event("wait", 0, 1, f"for {holder}"))

    def _build(self) -> dict[EngineKey, tuple[Engine, str]]:
        """Every engine that can be made, with its address in the cache."""
        earlier = {engine_key(b): b for b in self._earlier.builds} if self._earlier else {}
        reference = [self._prepared.reference] if self._prepared.reference else []
        wanted = {each.engine_key: each for each in (*reference, *self._candidates)}
        engines = {}
        for done, (key, candidate) in enumerate(wanted.items()):
            self._listen(Event("build", done, len(wanted), " ".join(key[:3])))
            made = self._builder.make(candidate)
            before = earlier.get(key)
            if before is None or not before.is_like(made.record):
                self._store.append(made.record)  # of two the last counts
            elif before.ok and before.engine_key != made.record.engine_key:
                raise _changed(self._store.path.stem, f"what makes {' '.join(key[:3])}")
            if made.engine is not None:
                engines[key] = (made.engine, made.record.engine_key)
        self._listen(Event("build", len(wanted), len(wanted), "done"))
        return engines

    def _subject(self) -> Subject:
        plan = self._plan
        return subject_of(self._prepared, plan.candidates, plan.baseline, self._builder.onnx())

    def _judging(self, engines: dict[EngineKey, tuple[Engine, str]]) -> Judging:
        """The reference's pass comes first."""
        return Judging(
            self._setup,
            self._subject(),
            self._cache,
            self._store,
            engines=engines,
            earlier=self._earlier.accuracies if self._earlier else (),
        )

    def _judge(self, judging: Judging) -> list[Entrant]:
        """The candidates that may be timed."""
        entrants = judging.all(
            self._candidates,
            lambda done, total, text: self._listen(Event("accuracy", done, total, text)),
        )
        return [each for each in entrants if self._is_admitted(each.candidate)]

    def _is_admitted(self, candidate: Candidate) -> bool:
        """What an interrupted recovery had added is timed only if it is certified."""
        added = self._earlier.added if self._earlier else ()
        if all(each.candidate != candidate for each in added):
            return True
        drop = drop_of(read(self._store.path), candidate)
        limit = self._prepared.config.constraints.max_accuracy_drop
        return drop is not None and drop.judge(limit) is Answer.MEETS

    def _recover(self, judging: Judging) -> list[Entrant]:
        """Certified mixed precision in place of int8 that failed, where the user asked for it."""
        config, samples = self._prepared.config, self._setup.calibration
        limit = config.constraints.max_accuracy_drop
        if config.recover_s is None or samples is None:
            return []
        subject = self._subject()
        metric = subject.metric if samples.data.labelled or not subject.labelled else "cosine"
        on_calibration = replace(subject, metric=metric, limit=None, stop="never")
        recovery = Recovery(
            self._setup,
            self._store,
            self._builder,
            judging,
            # A stateful model's calibration samples are single steps, with their states.
            Judge(replace(self._setup, sequences=None), on_calibration, self._cache, samples),
            offers=[
                (k.name, each) for k in self._prepared.knowns for each in k.capabilities.offers
            ],
            limit=limit,
            seconds=config.recover_s,
            show=lambda done, total, text: self._listen(Event("recover", done, total, text)),
        )
        return recovery.run()

    def _draw(self, judging: Judging, entrants: Sequence[Entrant]) -> None:
        """Other draws of calibration samples, where the user asked for them."""
        prepared = self._prepared
        seeds = prepared.config.calibration_seeds
        calibrated = {
            (known.name, offer.recipe)
            for known in prepared.knowns
            for offer in known.capabilities.offers
            if offer.calibrated
        }
        results = read(self._store.path)
        base = {each.candidate.recipe: each.recipe for each in results.added}
        chosen = {
            each.candidate.engine_key: each.candidate
            for each in entrants
            if (each.candidate.backend, base.get(each.candidate.recipe, each.candidate.recipe))
            in calibrated
        }
        if not seeds or not chosen:
            return
        subject = self._subject()
        to_the_end = replace(subject, limit=None, stop="never")
        draws = Draws(
            self._setup,
            self._cache,
            self._store,
            judging,
            Judge(self._setup, to_the_end, self._cache, self._setup.validation),
            added=results.added,
            done=results.draws,
            show=lambda done, total, text: self._listen(Event("draw", done, total, text)),
        )
        draws.run([*chosen.values()], seeds)

    def _measure(self, entrants: list[Entrant]) -> str:
        """Why the rounds ended."""
        rounds = Rounds(
            self._setup,
            Asked.of(self._prepared.config),
            self._store,
            entrants,
            baseline=self._plan.baseline,
            show=lambda *shown: self._listen(Event("measure", *shown)),
            earlier=self._earlier,
            floors=self._floor,
        )
        return rounds.run()

    def _floor(self, candidate: Candidate) -> Entrant | None:
        """A launch of the candidate's call without its work; None where that can't be made."""
        made = self._builder.make(candidate.floor)
        if made.engine is None:
            return None
        return Entrant(candidate.floor, made.engine, fixed="", need_bytes=FLOOR_BYTES)
