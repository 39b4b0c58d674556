"""The report for programs: a table, CSV, and the versioned JSON of docs/json-schema.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.certificates import Drop
from harness.ondevice import DevicePhases, Energy
from harness.recommendation import Judgement
from harness.record import DataUse
from harness.report import words
from harness.report.int8_data import one_file_data, recoveries_data
from harness.report.notes import control, noise, notes
from harness.report.numbers import number, plain_interval
from harness.report.value import Report
from harness.tails import Tail
from harness.types import Settings, Share, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "enginepick-report/1"
"""Fields may be added within a version; none is renamed, removed, or given another meaning."""


def frame(report: Report) -> pd.DataFrame:
    """One row per candidate of the objective's scenario, best first; missing: not measured.

    Units are in the columns' names; shares (accuracy, drop, run_delay) are not percentages.
    Intervals are ``name_low`` and ``name_high``, missing where there is too little evidence.
    """
    import pandas as pd

    rows = [_flat(report, each) for each in _ordered(report)]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.astype(dict.fromkeys(_NUMBERS, "float64"))  # also where nothing was measured


def to_csv(report: Report) -> str:
    """The table with a header line."""
    return str(frame(report).to_csv(index=False, lineterminator="\n"))


def to_json(report: Report) -> dict[str, Any]:
    """Everything, as docs/json-schema.md describes it, field by field. None: not known."""
    run, decided = report.run, report.recommendation
    baseline, limits = report.analysis.baseline, decided.limits
    return {
        "schema": SCHEMA,
        "run": {
            "id": run.run_id,
            "file": str(report.results.path),
            "target": run.target,
            "started_at": run.at.isoformat(),
            "ended": report.analysis.finished,
            "rounds": sum(each.phase == "rounds" for each in report.results.rounds),
            "enginepick_version": run.enginepick_version,
            "git_sha": run.git_sha,
        },
        "model": {
            "name": run.model.name,
            "path": run.model.path,
            "format": run.model.format,
            "sha256": run.model.sha256,
            "size_bytes": run.model.size_bytes,
            "opset": run.model.opset,
            "inputs": [_spec(each) for each in run.model.inputs],
            "outputs": [_spec(each) for each in run.model.outputs],
        },
        "data": _data(run.data),
        "metric": {
            "name": report.metric.name,
            "labelled": report.metric.labelled,
            "higher_is_better": report.metric.higher_is_better,
            "is_share": report.metric.share,
        },
        "host": {"fingerprint": run.host_fingerprint, "cpu": _cpu(run.host)},
        "question": {
            "objective": decided.objective,
            "max_accuracy_drop": limits.max_accuracy_drop,
            "max_latency_ns": limits.max_latency_ns,
            "max_memory_bytes": limits.max_memory_bytes,
            "max_size_bytes": limits.max_size_bytes,
        },
        "recommendation": {
            "choice": decided.choice.candidate.id if decided.choice else None,
            "tied": [each.summary.candidate.id for each in decided.placed("tied")],
            "runner_up": decided.runner_up.candidate.id if decided.runner_up else None,
            "baseline": baseline.candidate.id if baseline else None,
            "certainty": decided.certainty,
            "unknown": list(decided.unknown),
            "deploy_code": report.deploy_code,
        },
        "sustained": _sustained(report),
        "one_file": one_file_data(report),
        "recoveries": recoveries_data(report),
        "trust": _trust(report),
        "candidates": [_candidate(report, each) for each in _ordered(report)],
    }


def _ordered(report: Report) -> tuple[Judgement, ...]:
    """The measured ones as they are numbered, then the others."""
    return report.table + report.recommendation.placed("unmeasured", "failed")


def _cpu(host: Mapping[str, Any]) -> str | None:
    cpu = host.get("cpu")
    return cpu.get("model") if isinstance(cpu, dict) else None


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _data(data: DataUse) -> dict[str, Any]:
    return {
        "source": data.source,
        "sha256": data.sha256,
        "samples": data.samples,
        "calibration_source": data.calibration_source,
        "calibration_samples": data.calibration_samples,
        "validation_samples": data.validation_samples,
        "seed": data.seed,
    }


def _trust(report: Report) -> dict[str, Any]:
    compared, measured = report.compared, noise(report)
    return {
        "noise": {
            "tier": measured.tier,
            "run_delay_low": measured.low,
            "run_delay_median": measured.median,
            "run_delay_high": measured.high,
            "steal": measured.steal,
            "throttled": measured.throttled,
        },
        "void": report.recommendation.void,
        "compared_rounds": compared.rounds if compared else 0,
        "margin": math.exp(compared.margin) - 1 if compared else None,
        "null_control": plain_interval(control(report)),
        "notes": [asdict(each) for each in notes(report)],
    }


def _settings(settings: Settings) -> dict[str, Any]:
    return {
        "label": settings.label(),
        "scenario": str(settings.scenario),
        "threads": settings.threads,
        "streams": settings.streams,
        "processes": settings.processes,
        "batch": settings.batch,
        "in_flight": settings.in_flight,
        "options": [{"name": name, "value": value} for name, value in settings.options],
    }


def _shares(shares: tuple[Share, ...]) -> list[dict[str, Any]]:
    return [{"name": share.name, "count": share.count} for share in shares]


def _candidate(report: Report, judgement: Judgement) -> dict[str, Any]:
    summary = judgement.summary
    candidate = summary.candidate
    low, middle, high = summary.quantiles_ns or (None, None, None)
    return {
        "id": candidate.id,
        "name": report.name(summary),
        "number": report.numbers.get(candidate.id),
        "backend": candidate.backend,
        "precision": str(candidate.precision),
        "recipe": candidate.recipe,
        "device": candidate.device,
        "settings": _settings(candidate.settings),
        "place": judgement.place,
        "skipped": candidate.id in report.skipped,
        "status": str(summary.status),
        "reason": summary.reason,
        "fix": summary.fix,
        "dropped": summary.dropped,
        "checks": [
            {"name": each.name, "answer": str(each.answer), "text": each.text}
            for each in judgement.checks
        ],
        "against_best": str(judgement.against_best) if judgement.against_best else None,
        "on_front": judgement.on_front,
        "launches": summary.launches,
        "time_ns": plain_interval(summary.time_ns),
        "p10_ns": low,
        "p50_ns": middle,
        "p90_ns": high,
        "run_only_ns": plain_interval(summary.run_ns),
        "call_floor_ns": plain_interval(summary.floor_ns),
        "throughput_per_s": summary.throughput_per_s,
        "speedup": plain_interval(summary.speedup),
        "accuracy": number(summary.accuracy),
        "drop": _drop(summary.drop),
        "agreement": _agreement(judgement),
        "calibration_draws": [asdict(each) for each in summary.lotteries],
        "memory_bytes": summary.memory_bytes,
        "size_bytes": summary.size_bytes,
        "build_ns": summary.build_ns,
        "open_ns": summary.open_ns,
        "first_ns": summary.first_ns,
        "executed": _executed(judgement),
        "steady": summary.steady,
        "run_delay": summary.run_delay,
        "preempted": summary.preempted,
        "tail": _tail(summary.tail),
        "noise": words.tier(summary.run_delay),
        "notes": list(summary.notes),
        "device_phases": _phases(summary.phases),
        "device_memory_bytes": summary.device_memory.bytes if summary.device_memory else None,
        "device_process_bytes": summary.device_memory.process_bytes
        if summary.device_memory
        else None,
        "energy": _energy(summary.energy),
        "held_down": list(summary.held_down),
    }


def _phases(parts: DevicePhases | None) -> dict[str, Any] | None:
    if parts is None:
        return None
    more = {"latency_ns": parts.latency_ns, "enqueue_bound": parts.enqueue_bound}
    return asdict(parts) | more | {"copy_bound": parts.copy_bound}


def _energy(use: Energy | None) -> dict[str, Any] | None:
    if use is None:
        return None
    source = "unavailable" if use.joules is None else "counter"
    return {"source": source, **asdict(use), "claimed": use.claimed}


def _tail(tail: Tail | None) -> dict[str, Any] | None:
    if tail is None:
        return None
    return {
        "p99_ns": plain_interval(tail.p99_ns),
        "most_ns": tail.most_ns,
        "claimed": tail.claimed,
        "iterations": tail.iterations,
        "launches": tail.launches,
        "missing": tail.missing,
        "noise": str(tail.tier) if tail.tier else None,
    }


def _sustained(report: Report) -> dict[str, Any] | None:
    stretch = report.analysis.sustained
    if stretch is None:
        return None
    return {
        "ranking": stretch.ranking,
        "best": stretch.best,
        "ahead": list(stretch.ahead),
        "minutes": list(stretch.minutes),
        "candidates": [
            {
                "id": name,
                "times_ns": list(own),
                "change": plain_interval(stretch.change[name]),
            }
            for name, own in stretch.times_ns.items()
        ],
        "control": list(stretch.control),
        "clock_hz": list(stretch.clock_hz),
        "throttled": stretch.throttled,
    }


def _agreement(judgement: Judgement) -> dict[str, float | None] | None:
    agreement = judgement.summary.agreement
    if agreement is None:
        return None
    return {
        "samples": agreement.samples,
        "cosine_mean": number(agreement.cosine_mean),
        "cosine_min": number(agreement.cosine_min),
        "sqnr_db": number(agreement.sqnr_db),
        "max_abs_error": number(agreement.max_abs_error),
        "top1": number(agreement.top1),
    }


def _drop(drop: Drop | None) -> dict[str, float | None] | None:
    if drop is None:
        return None
    return {
        "value": number(drop.value),
        "low": number(drop.low),
        "high": number(drop.high),
        "samples": drop.samples,
        "losses": drop.losses,
        "gains": drop.gains,
    }


def _executed(judgement: Judgement) -> dict[str, Any] | None:
    executed = judgement.summary.executed
    if executed is None:
        return None
    return {
        "devices": _shares(executed.devices),
        "precisions": _shares(executed.precisions),
        "detail": executed.detail,
    }


# -- the table -------------------------------------------------------------------------------------

_NUMBERS = (
    *("latency_ns", "latency_low_ns", "latency_high_ns", "p10_ns", "p50_ns", "p90_ns"),
    *("run_only_ns", "throughput_per_s", "speedup", "speedup_low", "speedup_high"),
    *("accuracy", "drop", "drop_low", "drop_high", "cosine", "sqnr_db"),
    *("memory_bytes", "size_bytes", "build_ns", "open_ns", "first_ns", "run_delay"),
    *("p99_ns", "p99_low_ns", "p99_high_ns"),
    *("h2d_ns", "device_compute_ns", "d2h_ns", "enqueue_ns"),
    *("device_memory_bytes", "device_process_bytes", "energy_j", "energy_above_idle_j"),
)
_COLUMNS = (
    *("run", "target", "model", "candidate", "backend", "precision", "recipe", "device"),
    *("settings", "place", "status", "reason", "dropped", "launches"),
    *("latency_ns", "latency_low_ns", "latency_high_ns", "p10_ns", "p50_ns", "p90_ns"),
    *("run_only_ns", "throughput_per_s", "speedup", "speedup_low", "speedup_high"),
    *("metric", "accuracy", "drop", "drop_low", "drop_high", "cosine", "sqnr_db"),
    *("memory_bytes", "size_bytes", "build_ns", "open_ns", "first_ns", "executed"),
    *("run_delay", "steady", "against_best", "on_front", "p99_ns", "p99_low_ns", "p99_high_ns"),
    *("p99_claimed", "h2d_ns", "device_compute_ns", "d2h_ns", "enqueue_ns"),
    *("device_memory_bytes", "device_process_bytes", "energy_j", "energy_above_idle_j"),
    "energy_claimed",
)


def _flat(report: Report, judgement: Judgement) -> dict[str, Any]:
    """``latency_ns`` is the time that is ranked: per sample where the objective is throughput."""
    full, run = _candidate(report, judgement), report.run
    time, speed = full["time_ns"] or {}, full["speedup"] or {}
    drop, agreement = full["drop"] or {}, full["agreement"] or {}
    tails = full["tail"] or {}
    tail = tails.get("p99_ns") or {}
    parts, energy = full["device_phases"] or {}, full["energy"] or {}
    row = {name: full[name] for name in _COLUMNS if name in full}
    return row | {
        "run": run.run_id,
        "target": run.target,
        "model": run.model.name,
        "candidate": full["id"],
        "settings": full["settings"]["label"],
        "latency_ns": time.get("value"),
        "latency_low_ns": time.get("low"),
        "latency_high_ns": time.get("high"),
        "run_only_ns": (full["run_only_ns"] or {}).get("value"),
        "speedup": speed.get("value"),
        "speedup_low": speed.get("low"),
        "speedup_high": speed.get("high"),
        "metric": report.metric.name,
        "drop": drop.get("value"),
        "drop_low": drop.get("low"),
        "drop_high": drop.get("high"),
        "cosine": agreement.get("cosine_mean"),
        "sqnr_db": agreement.get("sqnr_db"),
        "executed": words.executed_text(judgement.summary.executed),
        "p99_ns": tail.get("value"),
        "p99_low_ns": tail.get("low"),
        "p99_high_ns": tail.get("high"),
        "p99_claimed": tails.get("claimed"),
        "h2d_ns": parts.get("h2d_ns"),
        "device_compute_ns": parts.get("compute_ns"),
        "d2h_ns": parts.get("d2h_ns"),
        "enqueue_ns": parts.get("enqueue_ns"),
        "energy_j": energy.get("joules"),
        "energy_above_idle_j": energy.get("above_idle_joules"),
        "energy_claimed": energy.get("claimed"),
    }
