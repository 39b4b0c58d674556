"""A realistic run, written record by record through the store: what the report's tests read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.analysis import analyse
from harness.recommendation import Limits, Objective, recommend
from harness.record import (
    AccuracyRecord,
    AddRecord,
    Agreement,
    BuildRecord,
    DataUse,
    DrawRecord,
    DropRecord,
    EndRecord,
    EnergyUse,
    LaunchRecord,
    Memory,
    ModelUse,
    PhaseTimes,
    RecoveryRecord,
    RoundRecord,
    RunRecord,
    Skip,
    Slice,
)
from harness.report import Report
from harness.store import Results, Store, read
from harness.types import (
    FLOOR,
    Candidate,
    Device,
    Executed,
    LayerNoise,
    Precision,
    Probe,
    Scenario,
    Settings,
    Share,
    Stage,
    Status,
    TensorSpec,
    Tried,
)

BEGAN = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
DEPLOY = "import openvino\nprint('runs the engine')\n"
OPERATIONS = 5
DROP_AFTER = 2
EVERY_ROUND = 1000


@dataclass(frozen=True)
class Cast:
    """One candidate's part: true latency, samples lost and gained, memory, size, what ran."""

    backend: str
    precision: Precision
    recipe: str
    time_us: float
    lost: int = 0
    gained: int = 0
    memory_mb: float = 12.0
    size_kb: float = 150.0
    kept: int = OPERATIONS
    status: Status = Status.OK
    stage: Stage | None = None
    reason: str | None = None
    fix: str | None = None
    threads: int | None = 2
    dropped: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    device: str = "cpu"
    on_gpu: GpuPart | None = None


@dataclass(frozen=True)
class GpuPart:
    """What a device says of a part: us of H2D, compute, D2H, enqueue; MB there; its power in W."""

    phases_us: tuple[float, float, float, float]
    device_mb: float | None = 90.0
    process_mb: float | None = 410.0
    watts: float | None = 180.0
    held_down: tuple[str, ...] = ()


CAST = (
    Cast("onnxruntime", Precision.FP32, "source", 37.7, memory_mb=14.2, size_kb=231),
    Cast(
        "onnxruntime", Precision.FP16, "fp16", 46.1, lost=1, gained=1, size_kb=118,
        dropped="slower than the best by a factor of 2.21, and not better in anything else",
    ),
    Cast("onnxruntime", Precision.INT8, "qdq", 28.8, lost=2, memory_mb=12.6, size_kb=71),
    Cast("onnxruntime", Precision.INT8_DYNAMIC, "dynamic", 39.9, lost=31, size_kb=66, kept=2),
    Cast(
        "onnxruntime", Precision.INT8, "nncf", 59.0, status=Status.INVALID, stage=Stage.MEASURE,
        reason="asked for int8, but the compute operations ran: 5 in fp32 (optimised model)",
    ),
    Cast("openvino", Precision.FP32, "source", 38.1, memory_mb=41.0, size_kb=233),
    Cast("openvino", Precision.BF16, "source", 36.2, lost=1, memory_mb=40.2, size_kb=233),
    Cast("openvino", Precision.INT8, "qdq", 21.2, memory_mb=38.8, size_kb=64, kept=4),
    Cast("openvino", Precision.INT8, "nncf", 20.9, memory_mb=36.1, size_kb=62),
    Cast(
        "openvino", Precision.INT8, "accuracy-control", 0, status=Status.FAILED,
        stage=Stage.BUILD, reason="nncf: the returned model holds no FakeQuantize",
        fix="enginepick sweep --precision int8 with more calibration samples",
    ),
)  # fmt: skip
GPU_CAST = (
    Cast("onnxruntime", Precision.FP32, "source", 1900, memory_mb=310, size_kb=102_000),
    Cast("onnxruntime", Precision.FP32, "source", 420, memory_mb=780, size_kb=102_000,
         device="gpu:0", on_gpu=GpuPart((21, 301, 12, 262), watts=None)),
    Cast("tensorrt", Precision.TF32, "source", 245, memory_mb=520, size_kb=104_000,
         device="gpu:0", on_gpu=GpuPart((21, 172, 12, 44))),
    Cast("tensorrt", Precision.FP16, "fp16", 148, lost=1, memory_mb=510, size_kb=52_000,
         device="gpu:0", on_gpu=GpuPart((20, 83, 12, 71), 48.0, None)),
    Cast("tensorrt", Precision.INT8, "qdq", 119, lost=2, memory_mb=505, size_kb=27_000,
         device="gpu:0", on_gpu=GpuPart((21, 19, 12, 70), 31.0, 402.0, 131.0, ("power cap",))),
)  # fmt: skip
SKIPS = (
    ("openvino", Precision.FP16, "source", Status.UNSUPPORTED,
     "AMD EPYC 9B45 does not execute fp16 natively (it does: fp32, bf16, int8)", None),
    ("tensorrt", Precision.FP32, "source", Status.UNAVAILABLE,
     "no NVIDIA driver on this host", "enginepick devices"),
    ("tensorrt", Precision.FP16, "source", Status.UNAVAILABLE,
     "no NVIDIA driver on this host", "enginepick devices"),
    ("tensorrt", Precision.INT8, "qdq", Status.UNAVAILABLE,
     "no NVIDIA driver on this host", "enginepick devices"),
)  # fmt: skip


def make_results(  # noqa: C901 - one run, in the order of its records
    folder: Path,
    cast: Sequence[Cast] = CAST,
    *,
    rounds: int = 5,
    samples: int = 1200,
    labelled: bool = True,
    metric: str = "top1",
    scenario: Scenario = Scenario.LATENCY,
    run_delay: float | None = 0.004,
    skips: bool = True,
    steady: bool = True,
    interleaved: bool = True,
    end: str | None = "done",
    torn: bool = False,
    target: str = "lab-epyc",
    model: str = "digits",
    spread: float = 0.004,
    steal: float | None = 0.0,
    throttled: int | None = 0,
    tails: int = 0,
    sustained: Sequence[float] = (),
    recovered: bool = False,
    metered: bool = False,
) -> Results:
    """Write a run below ``folder`` and read it back. Equal arguments give equal numbers.

    tails: so many launches of everyone alone. recovered: the first int8 failed, was searched, and
    its mixed precision is certified; its draws are kept. sustained: a stretch of load in so many
    parts, each with the factor by which the first candidate is slower in it. metered: the energy of
    those on a GPU.
    """
    rng = np.random.default_rng(7)
    path = folder / target / f"{model}-20260504-093000-ab12.jsonl"
    candidates = [_candidate(each, scenario) for each in cast]
    with Store(path) as store:
        head = _head(
            candidates, samples, labelled, metric, scenario, target, model, skips, rounds, path
        )
        store.append(head)
        for role, candidate in zip(cast, candidates, strict=True):
            store.append(_build(role, candidate))
        for role, candidate in zip(cast, candidates, strict=True):
            if role.stage is not Stage.BUILD:
                judged = _accuracy(store, role, candidate, samples, labelled, metric)
                reference = None if candidate.id == head.baseline else head.baseline
                store.append(judged.model_copy(update={"reference": reference}))
        if recovered:
            cast, candidates = _append_recovery(store, head, cast, candidates, samples)
        for number in range(rounds):
            floor = replace(cast[0], precision=Precision.FP32, time_us=4.1, recipe=FLOOR)
            quiet = np.random.default_rng(number)
            twin_of = _candidate(floor, scenario)
            store.append(_launch(store, quiet, floor, twin_of, number, 99, 0.0, run_delay))
            drift = rng.normal(0, 0.03)
            measured = [p for p in zip(cast, candidates, strict=True) if p[0].time_us]
            control = [(*measured[0], True)] if measured else []
            everyone = [*((*pair, False) for pair in measured), *control]
            for position, place in enumerate(rng.permutation(len(everyone))):
                role, candidate, twin = everyone[place]
                if number >= _rounds_of(role):
                    continue
                level = drift + rng.normal(0, spread)
                launch = _launch(store, rng, role, candidate, number, position, level, run_delay)
                update = {"control": twin, "steady": steady, "interleaved": interleaved}
                store.append(launch.model_copy(update=update))
            store.append(
                RoundRecord(
                    at=_at(number + 9),
                    round=number,
                    elapsed_s=21.5,
                    steal=steal,
                    stalled=0.01,
                    throttled=throttled,
                    clock_hz=4.1e9,
                )
            )
            if number == DROP_AFTER - 1:
                for each in _drops(cast, candidates, number):
                    store.append(each)
        _append_tails(store, rng, cast, candidates, range(rounds, rounds + tails), run_delay)
        _append_sustained(store, rng, cast, candidates, rounds + tails, sustained)
        if metered:
            _append_energy(store, rng, cast, candidates, rounds + tails + len(sustained))
        if end is not None:
            store.append(EndRecord(at=_at(60), why=end, elapsed_s=140.0))
    if torn:
        with path.open("ab") as stream:
            stream.write(b'{"kind": "laun')
    return read(path)


LAYERS = tuple(f"encoder/block_{n}/{kind}" for n in range(12) for kind in ("MatMul", "Softmax"))


def _append_recovery(
    store: Store,
    head: RunRecord,
    cast: Sequence[Cast],
    candidates: Sequence[Candidate],
    samples: int,
) -> tuple[list[Cast], list[Candidate]]:
    """A search with its steps, a certified variant that it found, and draws of everyone's."""
    found = [n for n, each in enumerate(candidates) if each.recipe == "qdq"]
    origin, role = candidates[found[0]], cast[found[0]]

    def step(count: int, drop: float | None, sqnr: float | None) -> Tried:
        params = (("calibration", "minmax"), ("exclude", json.dumps(LAYERS[:count])))
        what = f"{count} layers in fp32" if count else "as it failed"
        time_ns = role.time_us * 1e3 * (1 + count / 20)
        return Tried(what, params[: 1 + bool(count)], LAYERS[:count], drop, sqnr, time_ns, 9)

    steps = (step(0, 0.31, 2.1), step(0, None, None), step(1, 0.11, 7.5), step(4, 0.004, 19.0))
    steps = (*steps, step(8, 0.001, 24.0))
    store.append(
        RecoveryRecord(
            at=_at(3),
            recipe="qdq",
            metric="top1",
            samples=128,
            steps=steps,
            sensitivity=tuple(LayerNoise((each,), 3.0 + n) for n, each in enumerate(LAYERS)),
            proposals=(4, 3),
            elapsed_s=41.0,
        )
    )
    new = replace(role, recipe="qdq-keep8", lost=0, gained=0, dropped=None)
    mixed = _candidate(new, origin.settings.scenario)
    store.append(
        AddRecord(
            at=_at(4),
            candidate=mixed,
            origin=origin.id,
            recipe="qdq",
            recipe_parameters=steps[4].parameters,
        )
    )
    store.append(_build(new, mixed))
    judged = _accuracy(store, new, mixed, samples, head.data.labelled, head.data.metric)
    store.append(judged.model_copy(update={"reference": head.baseline}))
    for lot, value in enumerate((0.985, 0.961, 0.979), start=1):
        for size in (128, 32):
            store.append(
                DrawRecord(
                    at=_at(5),
                    candidate=origin.id,
                    lot=lot,
                    calibrated_on=size,
                    value=value - 0.01 * (size == 32),
                    samples=samples,
                )
            )
    return [*cast, new], [*candidates, mixed]


def _append_tails(
    store: Store,
    rng: np.random.Generator,
    cast: Sequence[Cast],
    candidates: Sequence[Candidate],
    numbers: range,
    run_delay: float | None,
) -> None:
    for number in numbers:
        for role, candidate in zip(cast, candidates, strict=True):
            if role.status is Status.OK and not role.dropped:
                launch = _launch(store, rng, role, candidate, number, 0, 0.0, run_delay)
                calm = tuple(
                    each.model_copy(update={"involuntary_switches": 0}) for each in launch.slices
                )
                store.append(launch.model_copy(update={"phase": "tail", "slices": calm}))
        store.append(RoundRecord(at=_at(number + 9), round=number, phase="tail", elapsed_s=3.0))


def _append_sustained(
    store: Store,
    rng: np.random.Generator,
    cast: Sequence[Cast],
    candidates: Sequence[Candidate],
    first: int,
    factors: Sequence[float],
) -> None:
    """The first candidate has a twin, and is slower by these factors, part by part."""
    shown = [n for n, each in enumerate(cast) if each.status is Status.OK and not each.dropped]
    for part, factor in enumerate(factors):
        for place, twin in ((0, True), *((n, False) for n in shown)):
            level = rng.normal(0, 0.002) + (math.log(factor) if place == 0 else 0.0)
            role, number = cast[place], first + part
            launch = _launch(store, rng, role, candidates[place], number, 0, level, 0.001)
            moved = tuple(
                each.model_copy(update={"started_ns": (part * 60 + n) * 10**9})
                for n, each in enumerate(launch.slices)
            )
            update = {"phase": "sustain", "slices": moved, "control": twin, "began": first}
            store.append(launch.model_copy(update=update))
        clock = 4.1e9 - 5e7 * part
        store.append(
            RoundRecord(
                at=_at(first + part + 9),
                round=first + part,
                phase="sustain",
                elapsed_s=60.0,
                clock_hz=clock,
            )
        )


def _append_energy(
    store: Store,
    rng: np.random.Generator,
    cast: Sequence[Cast],
    candidates: Sequence[Candidate],
    number: int,
) -> None:
    """One launch of each that is on a GPU, with its counter read; of one it isn't there."""
    for role, candidate in zip(cast, candidates, strict=True):
        if role.on_gpu is None:
            continue
        launch = _launch(store, rng, role, candidate, number, 0, 0.0, 0.001)
        use = EnergyUse(source="unavailable")
        if role.on_gpu.watts is not None:
            joules = role.on_gpu.watts * 11.5
            use = EnergyUse(
                source="counter", joules=joules, seconds=11.5, updates=410, idle_watts=62.0
            )
        slices = () if role.on_gpu.watts is None else launch.slices
        update = {"phase": "energy", "energy": use, "slices": slices}
        store.append(launch.model_copy(update=update))
    store.append(RoundRecord(at=_at(number + 9), round=number, phase="energy", elapsed_s=50.0))


def _phases(store: Store, part: GpuPart | None, level: float) -> PhaseTimes | None:
    if part is None:
        return None
    middle = [each * 1e3 * math.exp(level) for each in part.phases_us]
    h2d, compute, d2h, enqueue = ((0.97 * each, each, 1.1 * each) for each in middle)
    raw = np.repeat(np.array(middle).astype(np.uint64), 60)
    return PhaseTimes(
        iterations=60,
        h2d_ns=h2d,
        compute_ns=compute,
        d2h_ns=d2h,
        enqueue_ns=enqueue,
        raw=store.block(raw),
    )


def _mb(value: float | None) -> int | None:
    return None if value is None else int(value * 1e6)


def make_run(
    folder: Path,
    cast: Sequence[Cast] = CAST,
    limits: Limits | None = None,
    objective: Objective = "latency",
    **how: Any,
) -> Report:
    """A run's report under some constraints; ``how`` as in :func:`make_results`."""
    if objective == "throughput":
        how.setdefault("scenario", Scenario.THROUGHPUT)
    results = make_results(folder, cast, **how)
    analysis = analyse(results)
    return Report(results, analysis, recommend(analysis, limits, objective))


def many(count: int) -> tuple[Cast, ...]:
    """``count`` candidates of four backends, some of them close together, with long names."""
    backends = ("onnxruntime", "openvino", "litert", "executorch")
    precisions = tuple(Precision)
    return tuple(
        Cast(
            backends[n % 4],
            precisions[(n // 4) % 5] if n else Precision.FP32,
            ("source", "qdq", "nncf-accuracy-control")[n // 20 % 3],
            900 * 1.11 ** (n % 13) * (1 + 0.004 * n),
            lost=(n * n) % 11,
            gained=n % 3,
            memory_mb=20 + 7 * (n % 9),
            size_kb=14_000 / (1 + n % 4),
            threads=1 + n // 20,
        )
        for n in range(count)
    )


def _rounds_of(role: Cast) -> int:
    """How many rounds a candidate is launched in: a faulty one once, a dropped one twice."""
    if role.status is not Status.OK:
        return 1
    return DROP_AFTER if role.dropped else EVERY_ROUND


def _drops(
    cast: Sequence[Cast], candidates: Sequence[Candidate], number: int
) -> Iterator[DropRecord]:
    for role, candidate in zip(cast, candidates, strict=True):
        if role.dropped:
            yield DropRecord(
                at=_at(number + 9), candidate=candidate.id, round=number, reason=role.dropped
            )


def _at(minutes: float) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def _candidate(role: Cast, scenario: Scenario) -> Candidate:
    settings = Settings(scenario, threads=role.threads, options=role.options)
    if scenario is Scenario.THROUGHPUT:
        settings = replace(settings, streams=2, in_flight=2, batch=8)
    return Candidate(role.backend, role.precision, role.recipe, role.device, settings)


def _head(
    candidates: Sequence[Candidate],
    samples: int,
    labelled: bool,
    metric: str,
    scenario: Scenario,
    target: str,
    model: str,
    skips: bool,
    rounds: int,
    path: Path,
) -> RunRecord:
    baseline = next((c.id for c in candidates if c.precision is Precision.FP32), None)
    settings = Settings(scenario, threads=2)
    left_out = [
        Skip(candidate=Candidate(b, p, r, "cpu", settings), status=s, reason=why, fix=fix)
        for b, p, r, s, why, fix in (SKIPS if skips else ())
    ]
    return RunRecord(
        at=BEGAN,
        run_id=path.stem,
        target=target,
        enginepick_version="0.1.0",
        git_sha="0123abc",
        model=ModelUse(
            name=model,
            path=f"{model}.onnx",
            sha256="a" * 64,
            size_bytes=231_000,
            opset=17,
            inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
            outputs=(TensorSpec("scores", "float32", ("batch", 10)),),
        ),
        data=DataUse(
            source="digits.npz",
            sha256="b" * 64,
            samples=samples + 300,
            labelled=labelled,
            metric=metric,
            calibration_samples=300,
            validation_samples=samples,
            seed=0,
        ),
        host={"cpu": {"model": "AMD EPYC 9B45", "available_cpus": 2}, "os": "Debian 12"},
        host_fingerprint="c" * 16,
        probes=(Probe("openvino", (("openvino", "2026.4.1"),), (Device("cpu", "CPU"),)),),
        candidates=tuple(candidates),
        skips=tuple(left_out),
        baseline=baseline,
        config={
            "model": f"{model}.onnx",
            "data": "digits.npz",
            "objective": str(scenario),
            "measure": {"rounds": rounds},
        },
    )


def _build(role: Cast, candidate: Candidate) -> BuildRecord:
    failed = role.stage is Stage.BUILD
    return BuildRecord(
        at=_at(1),
        status=role.status if failed else Status.OK,
        stage=role.stage if failed else None,
        reason=role.reason if failed else None,
        fix=role.fix if failed else None,
        backend=candidate.backend,
        precision=str(candidate.precision),
        recipe=candidate.recipe,
        device=candidate.device,
        parent_sha256="a" * 64,
        engine_key=format(zlib.crc32(candidate.id.encode()), "08x"),
        build_ns=None if failed else 1_480_000_000,
        size_bytes=None if failed else int(role.size_kb * 1000),
        notes=("calibrated on 300 samples",) if role.precision is Precision.INT8 else (),
    )


def _executed(role: Cast) -> Executed:
    asked = "int8" if role.precision is Precision.INT8_DYNAMIC else str(role.precision)
    if role.status is Status.INVALID:
        asked = "fp32"
    rest = OPERATIONS - role.kept
    shares = (Share(asked, role.kept), *((Share("fp32", rest),) if rest else ()))
    return Executed((Share(role.device, 12),), shares, "optimised model")


def _accuracy(
    store: Store, role: Cast, candidate: Candidate, samples: int, labelled: bool, metric: str
) -> AccuracyRecord:
    """The reference is wrong on the first 1 % of the samples; each part loses and gains others."""
    wrong = samples // 100
    scores = np.ones(samples)
    scores[:wrong] = 0.0 if labelled else 1.0
    scores[: role.gained] = 1.0
    scores[wrong : wrong + role.lost] = 0.0
    lower = metric in ("mae", "mse")
    if lower:
        scores = 0.02 + 0.003 * np.sin(np.arange(samples)) + 0.0001 * role.lost
    return AccuracyRecord(
        at=_at(2),
        candidate=candidate.id,
        metric=metric,
        higher_is_better=not lower,
        labelled=labelled,
        samples=samples,
        value=float(scores.mean()),
        scores=store.block(scores),
        agreement=Agreement(
            samples=samples,
            cosine_mean=1 - role.lost / 3000,
            cosine_min=1 - role.lost / 600,
            sqnr_db=60 - 10 * math.log10(1 + role.lost),
            max_abs_error=0.01 * role.lost,
            top1=1 - role.lost / samples,
        ),
        executed=_executed(role),
        peak_rss_bytes=int(role.memory_mb * 1e6) + 60_000_000,
        versions=((candidate.backend, "1.32.0"),),
    )


def _slice(
    rng: np.random.Generator, timed: str, time_ns: float, batch: int, run_delay: float | None
) -> tuple[Slice, np.ndarray[Any, Any]]:
    iterations, settling = 160, 6
    durations = time_ns * rng.lognormal(0.0, 0.05, iterations)
    durations[rng.random(iterations) < 0.03] *= 1.9  # preempted now and then
    durations[:settling] *= 3
    durations = durations.astype(np.int64)
    low, middle, high = np.quantile(durations[settling:], (0.1, 0.5, 0.9))
    cpu = int(durations.sum())
    kind: Literal["end-to-end", "run", "throughput"] = timed  # type: ignore[assignment]
    made = Slice(
        timed=kind,
        started_ns=0,
        span_ns=cpu,
        iterations=iterations,
        settling=settling,
        samples_per_iteration=batch,
        quantiles_ns=(low, middle, high),
        run_delay_ns=None if run_delay is None else int(cpu * run_delay * rng.uniform(0.5, 1.5)),
        involuntary_switches=1,
        cpu_ns=cpu,
    )
    return made, durations


def _launch(
    store: Store,
    rng: np.random.Generator,
    role: Cast,
    candidate: Candidate,
    number: int,
    position: int,
    level: float,
    run_delay: float | None,
) -> LaunchRecord:
    fault: dict[str, Any] = {}
    if role.status is not Status.OK:
        fault = {"status": role.status, "stage": role.stage, "reason": role.reason}
    time_ns = role.time_us * 1e3 * math.exp(level)
    batch = candidate.settings.batch
    kinds = ("end-to-end", "run") if batch == 1 else ("throughput",)
    taken = [
        _slice(rng, kind, time_ns * batch * (0.8 if kind == "run" else 1.0), batch, run_delay)
        for _ in range(4)
        for kind in kinds
    ]
    return LaunchRecord(
        at=_at(3 + number),
        candidate=candidate.id,
        round=number,
        position=position,
        open_ns=41_000_000,
        first_ns=int(time_ns * 30),
        warmup_iterations=900,
        slices=tuple(each for each, _ in taken),
        durations=store.block(np.concatenate([each for _, each in taken])),
        memory=Memory(
            peak_rss_bytes=int((role.memory_mb * (1 + rng.normal(0, 0.004)) + 60) * 1e6),
            import_only_bytes=60_000_000,
            device_bytes=_mb(role.on_gpu.device_mb) if role.on_gpu else None,
            device_process_bytes=_mb(role.on_gpu.process_mb) if role.on_gpu else None,
        ),
        phases=_phases(store, role.on_gpu, level),
        held_down=role.on_gpu.held_down if role.on_gpu else (),
        executed=_executed(role) if number == 0 else None,
        deploy_code=DEPLOY if number == 0 else None,
        output_error=0.0,
        versions=((candidate.backend, "1.32.0"),),
        **fault,
    )
