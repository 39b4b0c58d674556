"""Rounds of launches: order, spawn, take turns, give up on what fails, append.

A round launches every candidate once, in random order. Where their memory allows, the round's
processes live together and take turns in short slices, exactly one active at a time, the others
blocked on their pipe: neighbours then share the host's mood, and their differences are the
candidates' own. Where memory does not allow it, each launch runs from start to end, in random
order, and every second round reverses the order before it (A B, B A). The parent sleeps while a
child measures.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from harness import jobs
from harness.child import Child
from harness.gpu import cuda_ordinal
from harness.record import EnergyUse, LaunchRecord, Memory, Phase, PhaseTimes, Slice
from harness.setup import Setup
from harness.store import Store
from harness.types import Candidate, Engine, Executed, Precision, Scenario, Stage, Status

OUTPUT_TOLERANCE = 1e-3
"""How far a timed launch's output may be from the accuracy pass's, relative to its magnitude."""


@dataclass(frozen=True)
class Rules:
    """How a round measures. Times are per slice; a slice has at least ``min_iterations``."""

    passes: int = 4
    slice_ns: int = 100_000_000
    min_iterations: int = 10
    warmup_iterations: int = 10
    warmup_ns: int = 200_000_000
    warmup_cap_iterations: int = 300
    warmup_cap_ns: int = 10_000_000_000
    live_memory_fraction: float = 0.6

    def turn(self, scenario: Scenario) -> tuple[jobs.SliceJob, ...]:
        """What one turn measures."""
        if scenario is Scenario.THROUGHPUT:
            return (jobs.SliceJob("throughput", self.slice_ns, self.min_iterations),)
        return (
            jobs.SliceJob("end-to-end", self.slice_ns, self.min_iterations),
            jobs.SliceJob("run", self.slice_ns // 4, self.min_iterations),
        )


@dataclass(frozen=True)
class Entrant:
    """A candidate that may be launched.

    fixed: the file with its accuracy pass's output on the fixed sample; empty: none to compare.
    need_bytes: the memory of one of its processes. control: a second, hidden launch of the same
    candidate, which shows what differences this host makes of nothing. setup: of another run that
    it comes from; None: the runner's.
    """

    candidate: Candidate
    engine: Engine
    fixed: str
    need_bytes: int
    control: bool = False
    setup: Setup | None = None


@dataclass(frozen=True)
class Round:
    """How one round is measured.

    passes: turns of each launch; None: as the rules say. turns: by candidate id, what one turn of
    it measures; where it isn't in, as the rules say. alone: no two processes live at once. began:
    the first round of the same processes, where they live through several.
    """

    number: int
    phase: Phase = "rounds"
    passes: int | None = None
    turns: Mapping[str, tuple[jobs.SliceJob, ...]] = field(default_factory=dict)
    alone: bool = False
    began: int | None = None


@dataclass
class _Launch:
    """A launch under way. ``refusal`` is set at its first fault; then it takes no more turns."""

    entrant: Entrant
    position: int
    children: list[Child] = field(default_factory=list)
    opened: jobs.Opened | None = None
    warmed: jobs.Warmed | None = None
    slices: list[Slice] = field(default_factory=list)
    durations: list[np.ndarray[Any, Any]] = field(default_factory=list)
    energy: EnergyUse | None = None
    refusal: jobs.Refused | None = None

    def forget(self) -> None:
        """Let go of what has been kept."""
        self.slices, self.durations = [], []


class Runner:
    """Runs rounds and keeps their records.

    on_turn: called between slices with (candidate id, what is done); the place to draw.
    """

    def __init__(
        self,
        setup: Setup,
        rules: Rules,
        store: Store,
        rng: random.Random,
        on_turn: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._setup = setup
        self._rules = rules
        self._store = store
        self._rng = rng
        self._on_turn = on_turn
        self._warmups: dict[str, int] = {}
        self._places: dict[tuple[str, bool], int] = {}
        self._explained: set[tuple[str, bool]] = set()

    def remember(self, launches: Iterable[LaunchRecord]) -> None:
        """Take over what an earlier part of the run found: warm-up counts, and what ran."""
        for launch in launches:
            if launch.deploy_code is not None:
                self._explained.add((launch.candidate, launch.control))
            if launch.warmup_iterations is not None:
                self._warmups.setdefault(launch.candidate, launch.warmup_iterations)

    def round(self, round_: Round | int, entrants: Sequence[Entrant], free_bytes: int) -> list[str]:
        """Launch every entrant once. Returns the ids of those that failed."""
        round_ = Round(round_) if isinstance(round_, int) else round_
        together = not round_.alone and self.fit_together(entrants, free_bytes)
        order = self._order(entrants, mirrored=round_.number % 2 == 1 and not together)
        groups = [order] if together else [[each] for each in order]
        failed = []
        position = 0
        for group in groups:
            launches = [_Launch(each, position + place) for place, each in enumerate(group)]
            position += len(group)
            with self._lives(launches):
                self._measure(round_, launches, interleaved=together)
            failed += _failed(launches)
        return failed

    def fit_together(self, entrants: Sequence[Entrant], free_bytes: int) -> bool:
        """Whether the memory allows all of them to live at once."""
        need = sum(each.need_bytes * each.candidate.settings.processes for each in entrants)
        return need <= self._rules.live_memory_fraction * free_bytes

    def sustain(
        self, first: int, entrants: Sequence[Entrant], part_s: float, parts: int
    ) -> Iterator[list[str]]:
        """One launch of each, taking turns without a pause, kept in ``parts`` of ``part_s`` each.

        Yields after every part, numbered from ``first``, the ids of those that failed in it.
        """
        launches = [_Launch(each, place) for place, each in enumerate(self._order(entrants))]
        with self._lives(launches):
            self._begin(launches)
            for part in range(parts):
                round_ = Round(first + part, "sustain", began=first)
                end = monotonic() + part_s
                while monotonic() < end and len(_failed(launches)) < len(launches):
                    self._pass(round_, launches)
                for launch in launches:
                    self._finish(round_, launch, interleaved=True, ends=part == parts - 1)
                    launch.forget()
                yield _failed(launches)
                launches = [each for each in launches if each.refusal is None]
                if not launches:
                    return

    def _order(self, entrants: Sequence[Entrant], *, mirrored: bool = False) -> list[Entrant]:
        """At random; ``mirrored``: the last round's order backwards, for those that were in it."""
        order = list(entrants)
        self._rng.shuffle(order)
        if mirrored:
            order.sort(key=lambda each: self._places.get((each.candidate.id, each.control), 0))
            order.reverse()
        self._places = {(each.candidate.id, each.control): at for at, each in enumerate(order)}
        return order

    @contextmanager
    def _lives(self, launches: Sequence[_Launch]) -> Iterator[None]:
        """Launches that live together; whatever happens, their processes end here."""
        try:
            yield
        except BaseException:
            for child in (child for launch in launches for child in launch.children):
                child.kill()
            raise
        finally:
            for child in (child for launch in launches for child in launch.children):
                child.close()

    def _measure(self, round_: Round, launches: list[_Launch], *, interleaved: bool) -> None:
        """Open all, warm all, take turns, finish all."""
        self._begin(launches)
        for _ in range(round_.passes or self._rules.passes):
            self._pass(round_, launches)
        for launch in launches:
            self._say(launch, "closing")
            self._finish(round_, launch, interleaved=interleaved)

    def _begin(self, launches: Sequence[_Launch]) -> None:
        for launch in launches:
            self._say(launch, "opening")
            self._open(launch)
        for launch in launches:
            self._say(launch, "warming up")
            self._warm(launch)

    def _pass(self, round_: Round, launches: Sequence[_Launch]) -> None:
        """A turn of each, in random order."""
        turn = [launch for launch in launches if launch.refusal is None]
        self._rng.shuffle(turn)
        for launch in turn:
            self._say(launch, "measuring")
            self._take_turn(round_, launch)

    def _say(self, launch: _Launch, doing: str) -> None:
        if launch.refusal is None:
            self._on_turn(launch.entrant.candidate.id, doing)

    def _each(self, launch: _Launch, job: object, kind: type[Any], stage: Stage) -> list[Any]:
        """Ask all processes of a launch at once; [] if any refuses."""
        if launch.refusal is not None:
            return []
        for child in launch.children:
            child.send(job)
        timeout_s = self._setup_of(launch).timeout_s
        answers = [child.receive(kind, stage, timeout_s) for child in launch.children]
        refusals = [answer for answer in answers if isinstance(answer, jobs.Refused)]
        if refusals:
            launch.refusal = refusals[0]
            return []
        return answers

    def _setup_of(self, launch: _Launch) -> Setup:
        return launch.entrant.setup or self._setup

    def _open(self, launch: _Launch) -> None:
        candidate, setup = launch.entrant.candidate, self._setup_of(launch)
        for _ in range(candidate.settings.processes):
            launch.children.append(setup.child(candidate.backend))
        answers = self._each(launch, open_job(setup, launch.entrant), jobs.Opened, Stage.OPEN)
        launch.opened = answers[0] if answers else None
        self._settle(launch)

    def _warm(self, launch: _Launch) -> None:
        rules = self._rules
        job = jobs.WarmJob(
            iterations=self._warmups.get(launch.entrant.candidate.id),
            min_iterations=rules.warmup_iterations,
            min_ns=rules.warmup_ns,
            max_iterations=rules.warmup_cap_iterations,
            max_ns=rules.warmup_cap_ns,
        )
        answers = self._each(launch, job, jobs.Warmed, Stage.WARMUP)
        if answers:
            launch.warmed = answers[0]
            self._warmups.setdefault(launch.entrant.candidate.id, answers[0].iterations)
        self._settle(launch)

    def _take_turn(self, round_: Round, launch: _Launch) -> None:
        candidate = launch.entrant.candidate
        usual = self._rules.turn(candidate.settings.scenario)
        for job in round_.turns.get(candidate.id, usual):
            if job.rest_s is not None and launch.opened and not launch.opened.counts_energy:
                launch.energy = EnergyUse(source="unavailable")
                continue
            answers: list[jobs.Sliced] = self._each(launch, job, jobs.Sliced, Stage.MEASURE)
            if answers:
                kept, durations = _joined(answers, candidate.settings.batch)
                launch.slices.append(kept)
                launch.durations.append(durations)
                launch.energy = _energy(job, answers[0])
        self._settle(launch)

    def _phases(self, round_: Round, launch: _Launch) -> PhaseTimes | None:
        """One process of the launch alone, timed by its device where it has a clock."""
        wanted = round_.phase == "rounds" and not launch.entrant.control
        if not wanted or launch.refusal is not None:
            return None
        if launch.opened is None or not launch.opened.device_timed:
            return None
        timeout_s = self._setup_of(launch).timeout_s
        answer = launch.children[0].ask(jobs.PhasesJob(), jobs.Phased, Stage.MEASURE, timeout_s)
        if isinstance(answer, jobs.Refused):  # a runtime that can't time this engine is no fault
            launch.refusal = None if answer.status is Status.UNSUPPORTED else answer
            return None
        parts = np.frombuffer(base64.b64decode(answer.numbers), "<u8").reshape(4, -1)
        quantiles = np.quantile(parts, (0.1, 0.5, 0.9), axis=1).T.tolist()
        names = ("h2d_ns", "compute_ns", "d2h_ns", "enqueue_ns")
        return PhaseTimes(
            iterations=parts.shape[1],
            raw=self._store.block(parts.ravel()),
            **dict(zip(names, map(tuple, quantiles), strict=True)),
        )

    def _settle(self, launch: _Launch) -> None:
        """The next child starts only when this one's threads have stopped."""
        if launch.refusal is None:
            for child in launch.children:
                child.wait_until_quiet()

    def _finish(
        self, round_: Round, launch: _Launch, *, interleaved: bool, ends: bool = True
    ) -> None:
        """Keep what was measured. ends: the launch does."""
        entrant = launch.entrant
        key = (entrant.candidate.id, entrant.control)  # said once; then outputs are compared
        answers: list[jobs.Finished] = []
        phases = self._phases(round_, launch) if ends else None
        if ends:
            job = jobs.FinishJob(entrant.fixed or None, explain=key not in self._explained)
            answers = self._each(launch, job, jobs.Finished, Stage.MEASURE)
        record = LaunchRecord(
            at=datetime.now(UTC),
            candidate=entrant.candidate.id,
            round=round_.number,
            phase=round_.phase,
            began=round_.began,
            position=launch.position,
            control=entrant.control,
            interleaved=interleaved,
            open_ns=launch.opened.open_ns if launch.opened else None,
            first_ns=launch.opened.first_ns if launch.opened else None,
            warmup_iterations=launch.warmed.iterations if launch.warmed else None,
            steady=launch.warmed.steady if launch.warmed else None,
            slices=tuple(launch.slices),
            phases=phases,
            energy=launch.energy,
        )
        if answers:
            launch.refusal = _mismatch(entrant.candidate, answers)
            last = answers[0]
            self._explained.add(key)
            record = record.model_copy(
                update={
                    "memory": _memory(answers),
                    "executed": last.executed,
                    "deploy_code": last.deploy_code,
                    "output_error": last.output_error,
                    "versions": last.versions,
                    "held_down": tuple(
                        dict.fromkeys(why for each in answers for why in each.held_down)
                    ),
                }
            )
        if launch.durations:
            block = self._store.block(np.concatenate(launch.durations))
            record = record.model_copy(update={"durations": block})
        if launch.refusal is not None:
            record = record.model_copy(update=launch.refusal.outcome())
        self._store.append(record)


def _failed(launches: Iterable[_Launch]) -> list[str]:
    return [each.entrant.candidate.id for each in launches if each.refusal is not None]


def open_job(setup: Setup, entrant: Entrant) -> jobs.OpenJob:
    """Open a candidate with the fixed sample; the same for accuracy and for timing."""
    candidate = entrant.candidate
    return jobs.OpenJob(
        backend=setup.homes[candidate.backend].location,
        engine=entrant.engine,
        device=candidate.device,
        settings=candidate.settings,
        sample=setup.validation,
        inputs=setup.fed,
        sequences=setup.sequences,
        gpu=nvidia_place(setup, candidate),
    )


def nvidia_place(setup: Setup | None, candidate: Candidate) -> int | None:
    """CUDA's number of the GPU that a candidate runs on; None: it is no NVIDIA GPU."""
    probe = setup.probes.get(candidate.backend) if setup else None
    device = probe.device(candidate.device) if probe else None
    return cuda_ordinal(candidate.device, device.name if device else "")


def silently_replaced(candidate: Candidate, executed: Executed | None) -> str | None:
    """Why what ran is not what was asked, or None. Unknown is not replaced.

    A precision counts as kept when any compute operation runs in it; how many do is in the report.
    Of an engine as it is, no precision is asked.
    """
    if executed is None:
        return None
    asked, as_is = candidate.precision.runs_as, candidate.precision is Precision.AS_IS
    if executed.precisions and executed.share(asked) == 0 and not as_is:
        ran = ", ".join(f"{share.count} in {share.name}" for share in executed.precisions)
        return f"asked for {asked}, but the compute operations ran: {ran} ({executed.detail})"
    kind = candidate.device.split(":")[0]
    if kind in ("auto", "multi", "hetero", "batch") or not executed.devices:
        return None
    if not any(share.name.split(":")[0] == kind for share in executed.devices):
        ran = ", ".join(f"{share.count} on {share.name}" for share in executed.devices)
        return f"asked for {candidate.device}, but it ran: {ran}"
    return None


def _mismatch(candidate: Candidate, answers: Sequence[jobs.Finished]) -> jobs.Refused | None:
    """Whether a timed launch computed something else than the accuracy pass."""
    replaced = silently_replaced(candidate, answers[0].executed)
    if replaced is not None:
        return jobs.Refused(Status.INVALID, Stage.MEASURE, replaced, None)
    errors = [each.output_error for each in answers if each.output_error is not None]
    if errors and max(errors) > OUTPUT_TOLERANCE:
        reason = (
            f"the timed launch's output differs from the accuracy pass's by {max(errors):.2g}"
            f" of its magnitude (allowed: {OUTPUT_TOLERANCE:g})"
        )
        return jobs.Refused(Status.INVALID, Stage.MEASURE, reason, None)
    return None


def _memory(answers: Sequence[jobs.Finished]) -> Memory:
    """Summed over the launch's processes; None where any of them is unknown."""

    def total(name: str) -> int | None:
        values = [getattr(answer, name) for answer in answers]
        return None if None in values else sum(values)

    return Memory(
        peak_rss_bytes=total("peak_rss_bytes"),
        import_only_bytes=total("import_only_bytes"),
        pss_bytes=total("pss_bytes"),
        device_bytes=total("device_bytes"),
        device_process_bytes=total("device_process_bytes"),
    )


def _energy(job: jobs.SliceJob, answer: jobs.Sliced) -> EnergyUse | None:
    """What was metered; all processes of a launch share the device, so that one tells of all."""
    if job.rest_s is None:
        return None
    if answer.energy is None:
        return EnergyUse(source="unavailable")
    rest = answer.rest
    return EnergyUse(
        source="counter",
        joules=answer.energy.joules,
        seconds=answer.energy.seconds,
        updates=answer.energy.updates,
        idle_watts=rest.joules / rest.seconds if rest else None,
    )


def _joined(answers: Sequence[jobs.Sliced], batch: int) -> tuple[Slice, np.ndarray[Any, Any]]:
    """One slice of a launch from its processes' answers.

    Completions of several processes are merged on the host's monotonic clock, and only the
    stretch in which all of them were running counts.
    """
    numbers = [np.frombuffer(base64.b64decode(each.numbers), "<u8") for each in answers]
    started = max(each.started_ns for each in answers)
    if len(answers) == 1:
        gaps = numbers[0]
    else:
        marks = [
            each.started_ns + np.concatenate([[0], np.cumsum(gap)])
            for each, gap in zip(answers, numbers, strict=True)
        ]
        end = min(int(each[-1]) for each in marks)
        merged = np.sort(np.concatenate(marks))
        merged = merged[(merged >= started) & (merged <= end)]
        gaps = np.diff(merged).astype("<u8")
    settling = answers[0].settling
    kept = gaps[settling:]
    low, middle, high = np.quantile(kept, (0.1, 0.5, 0.9)) if kept.size else (0.0, 0.0, 0.0)
    record = Slice(
        timed=answers[0].timed,  # type: ignore[arg-type]
        started_ns=started,
        span_ns=int(gaps.sum()),
        iterations=int(gaps.size),
        settling=settling,
        samples_per_iteration=batch,
        quantiles_ns=(float(low), float(middle), float(high)),
        run_delay_ns=_sum(each.run_delay_ns for each in answers),
        involuntary_switches=_sum(each.involuntary_switches for each in answers),
        cpu_ns=_sum(each.cpu_ns for each in answers),
    )
    return record, gaps


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(each for each in known if each is not None)


def free_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """MemAvailable. Where the host doesn't say, 0: launches then never live together."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 0
    found: Mapping[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else 0
