"""What the command line shows besides the report: this host, its backends, a plan, the cache.

Values in, rich renderables or JSON-able data out; nothing here prints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness import environments, homes, routes, wire
from harness.cache import Cache, Entry
from harness.host import Host, advice
from harness.noise import Tier
from harness.plan import Known, Skipped
from harness.prepare import Prepared
from harness.selftest import SelfTest
from harness.tails import ENOUGH_LAUNCHES
from harness.types import Candidate

BUILD_S = {True: 12.0, False: 2.0}
"""Rough seconds of a build with and without calibration, for the estimate before any is known."""
MARGIN = 0.02
"""Smaller differences are ties."""

ROUNDS = 6
"""Rough number of launches that a decision takes."""
LAUNCH_S = 1.2
"""Rough seconds for a worker to start and load a runtime."""
TAIL_S = 1.5
"""Rough seconds that a launch for the tails measures."""


def size_text(size: float | None) -> str:
    """Bytes for people."""
    if size is None:
        return "unknown"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def tilde(path: Path | str) -> str:
    """A path, short where it is below the user's home folder."""
    path, home = Path(path), Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def memory_text(size: float | None) -> str:
    """Memory and caches for people, in the binary units that hardware comes in."""
    if size is None:
        return "unknown"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def grid() -> Table:
    """Rows of a name and what there is to say of it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def host_view(host: Host, target: str) -> RenderableType:
    """The host, as far as inference cares."""
    cpu, clock, memory = host.cpu, host.clock, host.memory
    caches = (
        ("L1d", cpu.caches.l1d_bytes),
        ("L2", cpu.caches.l2_bytes),
        ("L3", cpu.caches.l3_bytes),
    )
    table = grid()
    table.add_row("Target", target)
    if host.machine:
        table.add_row("Machine", host.machine)
    table.add_row("CPU", f"{cpu.model or 'unknown'} ({cpu.architecture or 'unknown'})")
    table.add_row(
        "Cores",
        f"{cpu.physical_cores or '?'} physical, {cpu.logical_cpus or '?'} logical,"
        f" {cpu.available_cpus or '?'} usable here; NUMA nodes: {cpu.numa_nodes or '?'}",
    )
    table.add_row("Instructions", " ".join(cpu.isa) or "none that matter")
    table.add_row(
        "Caches", ", ".join(f"{name} {memory_text(size)}" for name, size in caches if size) or "?"
    )
    table.add_row(
        "Memory",
        f"{memory_text(memory.total_bytes)}, {memory_text(memory.usable_bytes)} usable now",
    )
    frequency = f", up to {clock.max_hz / 1e9:.2f} GHz" if clock.max_hz else ""
    governor = clock.governor or "not visible (often so in a virtual machine)"
    table.add_row("Governor", governor + frequency)
    for gpu in host.gpus:
        detail = f"{memory_text(gpu.memory_bytes)}, compute capability {gpu.compute_capability}"
        table.add_row("NVIDIA GPU", f"{gpu.name}: {detail}, driver {gpu.driver}")
    if not host.gpus:
        table.add_row("NVIDIA GPU", "none found")
    system = f"{host.os or '?'}, kernel {host.kernel or '?'}"
    table.add_row("System", system + (", virtual machine" if host.virtualised else ""))
    return table


def backends_view(knowns: Sequence[Known]) -> RenderableType:
    """A row for every backend, usable or not, and one for every device that it finds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Backend", "Version", "Device", "Name", "Native precisions"):
        table.add_column(name, overflow="fold")
    problems = []
    for known in knowns:
        probe = known.probe
        if probe.problem is not None:
            table.add_row(known.name, Text("unusable", "red"), "-", probe.problem, "")
            problems += [f"{known.name}: {probe.fix}"] if probe.fix else []
            continue
        versions = dict(probe.versions)
        version = versions.get(known.name) or next(iter(versions.values()), "?")
        for place, device in enumerate(probe.devices):
            first = (known.name, version) if place == 0 else ("", "")
            native = " ".join(str(each) for each in device.precisions) or "not said"
            table.add_row(*first, device.id, device.name, native)
    fixes = [Text("\nTo make the others usable:", "bold"), *(Text(f"  {p}") for p in problems)]
    return Group(table, *(fixes if problems else []))


def elsewhere_view(knowns: Sequence[Known], python: Mapping[str, str]) -> list[RenderableType]:
    """Which backends live in interpreters of their own, and which of these are out of date."""
    table, old = grid(), [each.name for each in knowns if outdated(each)]
    for known in knowns:
        path, where = homes.interpreter_of(known.name, python)
        if path is not None:
            own = where is homes.Where.OWN
            place = environments.folder(known.name) if own else path
            maker = "enginepick setup" if own else "devices.toml"
            table.add_row(f"  {known.name}", Text(f"{tilde(place)} ({maker})"))
    parts: list[RenderableType] = []
    if table.row_count:
        parts += [Text("\nIn interpreters of their own:", "bold"), table]
    if old:
        parts += [Text("\nMade for another version of enginepick; to make them anew:", "bold")]
        parts += [Text(f"  enginepick setup {' '.join(old)}")]
    return parts


def outdated(known: Known) -> bool:
    """Whether the environment that was made for it has other packages than it asks for now."""
    made, wanted = environments.made(known.name), known.capabilities.environment
    return made is not None and wanted is not None and not made.serves(wanted)


def devices_view(
    host: Host, target: str, knowns: Sequence[Known], python: Mapping[str, str]
) -> RenderableType:
    """``enginepick devices``."""
    tips = advice(host)
    parts: list[RenderableType] = [host_view(host, target), Text(), backends_view(knowns)]
    parts += elsewhere_view(knowns, python)
    if tips:
        parts.append(Text("\nFor steadier measurements:", "bold"))
        bullets = Table.grid(padding=(0, 1))
        for tip in tips:
            bullets.add_row(" -", tip)
        parts.append(bullets)
    return Group(*parts)


def devices_data(
    host: Host, target: str, knowns: Sequence[Known], python: Mapping[str, str]
) -> dict[str, Any]:
    """``enginepick devices --json``."""
    return {
        "schema": "enginepick-devices/1",
        "target": target,
        "host": host.to_dict(),
        "backends": [
            {
                "name": known.name,
                "usable": known.probe.problem is None,
                "install": known.capabilities.install,
                "python": homes.interpreter_of(known.name, python)[0],
                "outdated": outdated(known),
                **{k: v for k, v in wire.encode(known.probe).items() if k != "backend"},
            }
            for known in knowns
        ],
        "advice": list(advice(host)),
    }


def estimate(prepared: Prepared) -> tuple[float, float]:
    """Rough (seconds, bytes) of a sweep, before anything is known of the model's speed."""
    plan, measure = prepared.plan, prepared.config.measure
    calibrated = {
        (known.name, offer.precision, offer.recipe): offer.calibrated
        for known in prepared.knowns
        for offer in known.capabilities.offers
    }
    engines = {each.engine_key: each for each in plan.candidates}
    build = sum(
        BUILD_S[calibrated.get((e.backend, e.precision, e.recipe), False)] for e in engines.values()
    )
    turn = measure.passes * measure.slice_ms * 1.25e-3 + 0.4
    launches = sum(each.settings.processes for each in plan.candidates) * (measure.rounds or ROUNDS)
    seconds = build + launches * (LAUNCH_S + turn) + (prepared.config.sustain_s or 0.0)
    if measure.tail_cap_s and prepared.config.objective != "throughput":
        seconds += ENOUGH_LAUNCHES * (LAUNCH_S + min(measure.tail_cap_s, TAIL_S))
    return seconds, len(engines) * prepared.checked.model.size_bytes


def plan_view(prepared: Prepared) -> RenderableType:
    """``enginepick sweep --dry-run``."""
    plan, checked = prepared.plan, prepared.checked
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Candidate", "Precision", "Recipe", "Device", "Settings"):
        table.add_column(name, overflow="fold")
    for each in plan.candidates:
        mark = " (baseline)" if each.id == plan.baseline else ""
        settings = each.settings.label() or "-"
        table.add_row(each.backend + mark, each.precision, each.recipe, each.device, settings)
    seconds, size = estimate(prepared)
    head = grid()
    head.add_row(
        "Model",
        f"{checked.model.source} ({size_text(checked.model.size_bytes)})",
    )
    setup = prepared.setup()
    calibration = len(setup.calibration.indices()) if setup.calibration else 0
    head.add_row(
        "Data",
        f"{checked.data.source}: {checked.data.samples} samples, {calibration} to calibrate,"
        f" {len(setup.validation.indices())} to validate; metric {checked.metric}",
    )
    head.add_row("Target", f"{prepared.target_name} ({prepared.host.cpu.model})")
    rounds = prepared.config.measure.rounds or "3 to 20"
    head.add_row("Plan", f"{len(plan.candidates)} candidates, {rounds} launches each")
    about = f"{seconds:.0f} s" if seconds < 2 * 60 else f"{seconds / 60:.0f} min"
    head.add_row("Estimate", f"about {about}, {size_text(size)} of engines; nothing has been run")
    for text in _conversions(prepared):
        head.add_row("Converted", text)
    for note in checked.warnings:
        head.add_row("Note", note)
    parts: list[RenderableType] = [head, Text(), table]
    if plan.skips:
        parts += [Text("\nLeft out:", "bold"), _skips(plan.skips, plan.candidates)]
    return Group(*parts)


def _conversions(prepared: Prepared) -> list[str]:
    """Which tools the model goes through, and for whom."""
    given = prepared.checked.model.format
    planned = {each.backend for each in prepared.plan.candidates}
    users: dict[str, list[str]] = {}
    for known in (each for each in prepared.knowns if each.name in planned):
        route = routes.find(given, known.capabilities.formats, prepared.tools)
        if route and not isinstance(route, routes.NoRoute):
            way = ", then ".join(f"to {tool.target} by {tool.name}" for tool in route)
            users.setdefault(way, []).append(known.name)
    return [f"{way}, for {', '.join(names)}" for way, names in users.items()]


def _skips(skips: Sequence[Skipped], planned: Sequence[Candidate]) -> Table:
    """Equal reasons together; a backend of which nothing is left, by its name alone."""
    grouped: dict[tuple[str, str | None], list[Candidate]] = {}
    for skip in skips:
        grouped.setdefault((skip.reason, skip.fix), []).append(skip.candidate)
    there = Counter(each.backend for each in planned)
    there.update(each.candidate.backend for each in skips)
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for (reason, fix), candidates in grouped.items():
        here = Counter(each.backend for each in candidates)
        names = (
            f"{each.backend}, all {here[each.backend]}"
            if here[each.backend] == there[each.backend] > 1
            else each.id
            for each in candidates
        )
        why = Text(reason + (f"\n-> {fix}" if fix else ""))  # [x] is no markup
        table.add_row(Text("\n".join(dict.fromkeys(names))), why)
    return table


def plan_data(prepared: Prepared) -> dict[str, Any]:
    """``enginepick sweep --dry-run --json``."""
    seconds, size = estimate(prepared)
    return {
        "schema": "enginepick-plan/1",
        "target": prepared.target_name,
        "baseline": prepared.plan.baseline,
        "candidates": [{"id": each.id, **wire.encode(each)} for each in prepared.plan.candidates],
        "skips": [{"id": each.candidate.id, **wire.encode(each)} for each in prepared.plan.skips],
        "estimated_seconds": seconds,
        "estimated_bytes": size,
    }


def selftest_view(found: SelfTest) -> RenderableType:
    """``enginepick selftest``: what this host can resolve, in plain words."""
    head = grid()
    head.add_row("Backend", f"{found.backend}, {found.rounds} rounds in {found.elapsed_s:.0f} s")
    head.add_row("In short", summary_of(found))
    if found.control is not None:
        away = (found.control.value - 1) * 100
        head.add_row("Equal engines", f"{found.control_verdict}: {away:+.2f} % apart")
    head.add_row("Host", host_words(found))
    trials = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Slow-down of real work", "Measured", "95 %", "Verdict"):
        trials.add_column(name)
    for trial in found.trials:
        ratio = trial.ratio
        bounds = "no interval yet"
        if ratio.high < float("inf"):
            bounds = f"{(ratio.low - 1) * 100:+.1f} to {(ratio.high - 1) * 100:+.1f} %"
        truth = f"{(trial.true_ratio - 1) * 100:+.0f} % ({trial.name})"
        trials.add_row(truth, f"{(ratio.value - 1) * 100:+.1f} %", bounds, trial.verdict)
    gaps = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("A difference of", "is decided in", "per pair of candidates"):
        gaps.add_column(name)
    for each in found.resolutions:
        rounds = f"{each.rounds} rounds" if each.rounds else "more than 20 rounds"
        seconds = f"about {each.seconds:.0f} s" if each.seconds is not None else "-"
        gaps.add_row(f"{each.gap * 100:g} %", rounds, seconds)
    return Group(head, Text(), trials, Text(), gaps)


CLAIMS = {
    Tier.GREEN: "can be claimed",
    Tier.AMBER: "can be claimed as medians, tails can't",
    Tier.RED: "can't be claimed, only ratios can",
}


def host_words(found: SelfTest) -> str:
    """What absolute latencies are worth here, and why."""
    if found.run_delay is None:
        return "unknown: this kernel doesn't say how long threads wait for a CPU"
    waited = f"ready threads waited for a CPU {found.run_delay * 100:.2g} % of the time"
    return f"{found.tier}: absolute latencies {CLAIMS[found.tier]}, because {waited}"


def summary_of(found: SelfTest) -> str:
    """One sentence."""
    if not found.passed:
        return "equal or slower engines were called faster here: do not trust verdicts of this host"
    able = [each for each in found.resolutions if each.seconds is not None and each.gap >= MARGIN]
    if not able:
        return "not even differences of 20 % can be decided here within 20 rounds"
    least = able[0]
    return (
        f"differences of {least.gap * 100:g} % and more can be decided here in about"
        f" {least.seconds:.0f} s each"
    )


def selftest_data(found: SelfTest) -> dict[str, Any]:
    """``enginepick selftest --json``."""
    return {
        "schema": "enginepick-selftest/1",
        "summary": summary_of(found),
        "passed": found.passed,
        **finite(asdict(found)),
    }


def finite(value: Any) -> Any:
    """JSON has no infinity: None stands for "no bound yet"."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cache_view(cache: Cache, entries: Sequence[Entry]) -> RenderableType:
    """``enginepick cache``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Kind", "Entry", "Size", "Last used"):
        table.add_column(name)
    for entry in entries:
        used = datetime.fromtimestamp(entry.used_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        row = (entry.folder.parent.name, entry.folder.name[:12], size_text(entry.size_bytes), used)
        table.add_row(*row)
    total = size_text(sum(entry.size_bytes for entry in entries))
    return Group(Text(f"{cache.root}: {len(entries)} entries, {total}", "bold"), table)
