"""What is said of candidates on a device with a clock, a memory or a meter of its own."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis import Summary
from harness.ondevice import ENOUGH_SECONDS, ENOUGH_UPDATES
from harness.report import format as fmt
from harness.report.sections import Section
from harness.report.value import Report

PARTS = "On the device: the parts of an inference"
METERS = "On the device: memory and energy"
COUNTED = f"{ENOUGH_SECONDS:g} s and {ENOUGH_UPDATES} steps of the counter"


def device_sections(report: Report) -> tuple[Section, ...]:
    """Those that this run has something for."""
    return (*_parts(report), *_meters(report))


def timed(report: Report) -> list[Summary]:
    """The candidates in the order of the tables whose parts are known."""
    return [s for each in report.table if (s := each.summary).phases is not None]


def _named(report: Report, summary: Summary) -> str:
    return f"{report.numbers[summary.candidate.id]} {report.name(summary)}"


def _parts(report: Report) -> Iterator[Section]:
    rows, bound, least = [], [], 0
    for summary in timed(report):
        parts = summary.phases
        assert parts is not None
        bound += [report.name(summary)] if parts.enqueue_bound else []
        least = min(least or parts.launches, parts.launches)
        values = (parts.h2d_ns, parts.compute_ns, parts.d2h_ns, parts.latency_ns, parts.enqueue_ns)
        rows.append((_named(report, summary), *(fmt.duration(value) for value in values)))
    if not rows:
        return
    lead = "The device computes for longer than the host takes to hand the work over."
    if bound:
        lead = f"Bound by the host's handing work over, not by the device: {', '.join(bound)}."
    remark = (
        "H2D and D2H: copying inputs to the device and outputs back. Enqueue: the host's time to"
        " hand the work over, which overlaps the rest. By the device's own events, one inference"
        f" at a time, medians of at least {least} launch{'' if least == 1 else 'es'}; the"
        " definitions are trtexec's, whose latency is the sum. What is ranked is the whole way from"
        " host memory to host memory by the host's clock."
    )
    heads = ("Candidate", "H2D", "Compute", "D2H", "Sum", "Enqueue")
    yield Section(PARTS, lead, heads, tuple(rows), (remark,))


# -- memory and energy -----------------------------------------------------------------------------


def _meters(report: Report) -> Iterator[Section]:
    shown = [
        s
        for each in report.table
        if (s := each.summary).device_memory is not None or s.energy is not None
    ]
    if not shown:
        return
    metered = [s for s in shown if s.energy is not None and s.energy.joules is not None]
    lead = "Memory of the device, beside the host's in the table of candidates."
    heads: tuple[str, ...] = ("Candidate", "Memory (runtime)", "Memory (driver)")
    rows: list[tuple[str, ...]] = [(_named(report, s), *_memory(s)) for s in shown]
    told = (
        "Memory as the runtime says: weights, activations, inputs and outputs; as the driver says:"
        " all that the process has there. Limits of memory are judged by the host's."
    )
    remarks: tuple[str, ...] = (told,)
    if any(s.energy is not None for s in shown):
        heads += ("Energy per sample", "Above idle", "Power", "Idle")
        rows = [(*row, *_energy(s)) for row, s in zip(rows, shown, strict=True)]
        counted = (
            "Energy: by the device's own counter (NVML), of the whole device, with nothing else"
            f" measured at the time, over at least {COUNTED}. Idle: the engine open and nothing"
            " running."
        )
        missing = "Energy: unavailable; this device has no counter that can be read here."
        remarks += (counted if metered else missing,)
    yield Section(METERS, lead, heads, tuple(rows), remarks)


def _memory(summary: Summary) -> tuple[str, str]:
    memory = summary.device_memory
    if memory is None:
        return fmt.NONE, fmt.NONE
    return fmt.size(memory.bytes), fmt.size(memory.process_bytes)


def _energy(summary: Summary) -> tuple[str, str, str, str]:
    use = summary.energy
    if use is None:
        return (fmt.NONE,) * 4
    if use.joules is None:
        return "unavailable", fmt.NONE, fmt.NONE, fmt.NONE
    short = "" if use.claimed else " (too short to claim)"
    joules = f"{fmt.energy(use.joules)}{short}"
    return (
        joules,
        fmt.energy(use.above_idle_joules),
        fmt.power(use.watts),
        fmt.power(use.idle_watts),
    )


def energy_text(report: Report, summary: Summary) -> str | None:
    """The energy of a sample, beside the baseline's; None where it wasn't metered."""
    use = summary.energy
    if use is None or use.joules is None or not use.claimed:
        return None
    above = use.above_idle_joules
    own = "" if above is None else f", {fmt.energy(above)} of it above idle"
    text = f"{report.name(summary)}: {fmt.energy(use.joules)} per sample{own}"
    baseline = report.analysis.baseline
    known = baseline.energy if baseline is not None else None
    if known is None or not known.joules or not known.claimed or report.is_baseline(summary):
        return text
    return f"{text}; {fmt.percent(use.joules / known.joules)} of the baseline's"
