"""Records by hand, with exact numbers: what the tests of the analysis and of the choice read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.record import (
    AccuracyRecord,
    BuildRecord,
    DataUse,
    EndRecord,
    LaunchRecord,
    Memory,
    ModelUse,
    RoundRecord,
    RunRecord,
    Slice,
)
from harness.store import Results, Store, read
from harness.types import Candidate, Precision, Scenario, Settings, TensorSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FP32, INT8 = Precision.FP32, Precision.INT8
MB = 1_000_000
IMPORTED_BYTES = 60 * MB


def candidate(
    backend: str = "a",
    precision: Precision = FP32,
    recipe: str = "source",
    threads: int | None = None,
    scenario: Scenario = Scenario.LATENCY,
    batch: int = 1,
) -> Candidate:
    settings = Settings(scenario, threads=threads, batch=batch)
    return Candidate(backend, precision, recipe, "cpu", settings)


def head(candidates: Iterable[Candidate], rounds: int | None = None, **changes: Any) -> RunRecord:
    """A run of these candidates; the first is the baseline. rounds: None is until it is known."""
    planned = tuple(candidates)
    values = {
        "at": NOW,
        "run_id": "m-1",
        "target": "bench",
        "enginepick_version": "0",
        "git_sha": None,
        "model": ModelUse(
            name="m",
            path="m.onnx",
            sha256="a",
            size_bytes=1,
            opset=17,
            inputs=(TensorSpec("x", "float32", ("n", None, 3)),),
            outputs=(),
        ),
        "data": DataUse(
            source="d.npz",
            sha256="b",
            samples=10,
            labelled=True,
            metric="top1",
            calibration_samples=1,
            validation_samples=9,
            seed=0,
        ),
        "host": {},
        "host_fingerprint": "h",
        "probes": (),
        "candidates": planned,
        "skips": (),
        "baseline": planned[0].id if planned else None,
        "config": {"measure": {"rounds": rounds}},
    }
    return RunRecord(**{**values, **changes})


def slices(
    time_ns: float, timed: str = "end-to-end", count: int = 2, batch: int = 1
) -> tuple[Slice, ...]:
    """Slices of 100 iterations that take ``time_ns`` each, with the quantiles one tenth apart."""
    one = Slice.model_validate(
        {
            "timed": timed,
            "started_ns": 0,
            "span_ns": int(time_ns * 100),
            "iterations": 100,
            "settling": 2,
            "samples_per_iteration": batch,
            "quantiles_ns": (0.9 * time_ns, time_ns, 1.1 * time_ns),
            "run_delay_ns": 0,
            "cpu_ns": int(time_ns * 100),
        }
    )
    return (one,) * count


def launch(
    who: Candidate, number: int, time_ns: float | None = 1e6, **changes: Any
) -> LaunchRecord:
    """A launch in round ``number``; no slices for a time of None."""
    throughput = who.settings.scenario is Scenario.THROUGHPUT
    timed = "throughput" if throughput else "end-to-end"
    values = {
        "at": NOW,
        "candidate": who.id,
        "round": number,
        "position": 0,
        "slices": () if time_ns is None else slices(time_ns, timed, batch=who.settings.batch),
        "memory": Memory(peak_rss_bytes=IMPORTED_BYTES + 10 * MB, import_only_bytes=IMPORTED_BYTES),
        "open_ns": 5,
        "first_ns": 7,
    }
    return LaunchRecord(**{**values, **changes})


def memory(net_mb: float) -> Memory:
    """So much more than the import."""
    return Memory(
        peak_rss_bytes=IMPORTED_BYTES + int(net_mb * MB), import_only_bytes=IMPORTED_BYTES
    )


def rounds(*numbers: int) -> list[RoundRecord]:
    """These rounds were finished."""
    return [RoundRecord(at=NOW, round=number, elapsed_s=1.0) for number in numbers]


def end(why: str = "done") -> EndRecord:
    return EndRecord(at=NOW, why=why, elapsed_s=1.0)


def build(who: Candidate, **changes: Any) -> BuildRecord:
    values = {
        "at": NOW,
        "backend": who.backend,
        "precision": str(who.precision),
        "recipe": who.recipe,
        "device": who.device,
        "parent_sha256": "a",
        "engine_key": format(zlib.crc32(repr(who.engine_key).encode()), "08x"),
        "build_ns": 9,
        "size_bytes": 1000,
    }
    return BuildRecord(**{**values, **changes})


def accuracy(
    store: Store, who: Candidate, scores: np.ndarray[Any, Any] | None, **changes: Any
) -> AccuracyRecord:
    """An accuracy pass with these scores per sample; None: it has none. "a" is the reference."""
    reference = candidate("a").id
    values = {
        "at": NOW,
        "candidate": who.id,
        "metric": "top1",
        "labelled": True,
        "reference": None if who.id == reference else reference,
        "samples": 0 if scores is None else len(scores),
        "value": float(scores.mean()) if scores is not None and scores.size else None,
        "scores": None if scores is None else store.block(scores),
    }
    return AccuracyRecord(**{**values, **changes})


def right(samples: int, wrong: int = 0) -> np.ndarray[Any, Any]:
    """Scores of a classifier that errs on the first ``wrong`` samples."""
    scores = np.ones(samples)
    scores[:wrong] = 0.0
    return scores


def write(folder: Path, records: Iterable[Any], name: str = "m-1") -> Results:
    """Keep records in order and read them back."""
    path = folder / f"{name}.jsonl"
    with Store(path) as store:
        for record in records:
            store.append(record(store) if callable(record) else record)
    return read(path)


def timed_run(
    folder: Path,
    times_ns: dict[Candidate, list[float]],
    *,
    judged: dict[Candidate, np.ndarray[Any, Any]] | None = None,
    net_mb: dict[Candidate, float] | None = None,
    size_bytes: dict[Candidate, int] | None = None,
    more: Iterable[Any] = (),
    **changes: Any,
) -> Results:
    """A run whose candidates took these times in rounds 0, 1, 2 ...

    By default everyone is right on 1,000 samples, adds 10 MB and has an engine of 1,000 bytes.
    """
    count = max(len(times) for times in times_ns.values())
    scores = judged if judged is not None else {}
    sizes, extra = size_bytes or {}, net_mb or {}

    def records() -> Iterable[Any]:
        yield head(times_ns, count, **changes)
        for who in times_ns:
            yield build(who, size_bytes=sizes.get(who, 1000))
            given = scores.get(who, right(1000))
            yield lambda store, who=who, given=given: accuracy(store, who, given)
        for number in range(count):
            for who, times in times_ns.items():
                if number < len(times):
                    yield launch(who, number, times[number], memory=memory(extra.get(who, 10)))
            yield from rounds(number)
        yield from more
        yield end()

    return write(folder, records())
