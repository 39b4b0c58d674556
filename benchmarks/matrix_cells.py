"""What a run's records say of each way to deploy a model, or why it can't be deployed so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness import registry
from harness.analysis import Summary, analyse
from harness.report.words import executed_text
from harness.stats import Interval
from harness.store import Results
from harness.types import Executed, Probe, Stage, Status


@dataclass(frozen=True)
class Cell:
    """One way to deploy one model, or why it can't be.

    precision, recipe: empty where the backend offers nothing here. stage: where it ended, of what
    isn't ok. converted: whether the backend reads another format than the model's. values are None
    where they aren't known. executed: the precisions of the compute operations, and
    where the operations ran; detail: how that is known, in the backend's words.
    """

    model: str
    backend: str
    precision: str
    recipe: str
    status: Status
    stage: Stage | None = None
    reason: str = ""
    converted: bool = False
    max_abs_error: float | None = None
    cosine_min: float | None = None
    metric: float | None = None
    drop: float | None = None
    time_ns: Interval | None = None
    executed: str = ""
    detail: str = ""
    size_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def ran(self) -> bool:
        """Whether it computed outputs, right or wrong."""
        return self.metric is not None


def cells_of(model: str, results: Results) -> Iterator[Cell]:
    """What a run's records say of each candidate."""
    given = results.run.model.format
    for summary in analyse(results).summaries:
        reads = _formats(summary.candidate.backend)
        yield _cell(model, summary, converted=bool(reads) and given not in reads)


def _formats(backend: str) -> tuple[str, ...]:
    """What it builds from; none where it isn't installed any more, or is broken."""
    plug_in = registry.safe_load(backend) if backend in registry.names() else None
    return () if plug_in is None or isinstance(plug_in, Probe) else plug_in.capabilities.formats


def _cell(model: str, summary: Summary, *, converted: bool) -> Cell:
    stage, reason = _why(summary)
    agreement, drop = summary.agreement, summary.drop
    return Cell(
        model=model,
        backend=summary.candidate.backend,
        precision=str(summary.candidate.precision),
        recipe=summary.candidate.recipe,
        status=summary.status,
        stage=stage,
        reason=reason,
        converted=converted,
        max_abs_error=agreement.max_abs_error if agreement else None,
        cosine_min=agreement.cosine_min if agreement else None,
        metric=summary.accuracy,
        drop=drop.value if drop else None,
        time_ns=summary.time_ns,
        executed=_what_ran(summary.executed) if summary.executed else "",
        detail=summary.executed.detail if summary.executed else "",
        size_bytes=summary.size_bytes,
        notes=summary.notes,
    )


def _what_ran(executed: Executed) -> str:
    """``int8 18/18; on cpu:xnnpack 42, cpu 1``: where they didn't run, most of all."""
    places = ", ".join(f"{share.name} {share.count}" for share in executed.devices)
    return f"{executed_text(executed)}; on {places}" if places else executed_text(executed)


def _why(summary: Summary) -> tuple[Stage | None, str]:
    """The stage that a reason begins with, and the rest."""
    reason = summary.reason or ""
    stage, _, text = reason.partition(": ")
    known = {each.value for each in Stage}
    return (Stage(stage), text) if stage in known else (None, reason)
