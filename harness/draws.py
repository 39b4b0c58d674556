"""How much int8 accuracy depends on which samples calibrated: other draws, and smaller ones.

Every calibrated engine is built and judged again for each draw, on the same validation samples, and
never timed. What differs between the draws of a recipe is luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from harness import jobs
from harness.build import Builder
from harness.cache import Cache
from harness.judging import Judge, Judging
from harness.record import AddRecord, DrawRecord
from harness.setup import Setup
from harness.store import Store
from harness.types import Candidate

SMALLER = 4
"""One draw in two is so many times smaller, to see whether more samples would help."""
LEAST = 4

Show = Callable[[int, int, str], None]


def lots(samples: jobs.Samples, seeds: int) -> list[jobs.Samples]:
    """The draws: ``seeds`` of each size, of the same pool that the run's own samples come from.

    A draw holds no more than half of the pool, or draws would be much the same. None where the pool
    is too small for that.
    """
    pool = len(replace(samples, limit=None).indices())
    most = min(samples.limit or pool, pool // 2)
    if most < LEAST:
        return []
    sizes = dict.fromkeys((most, max(LEAST, most // SMALLER)))
    return [replace(samples, limit=size, lot=lot) for size in sizes for lot in range(1, seeds + 1)]


class Draws:
    """Judges every draw of every calibrated candidate, and keeps the records."""

    def __init__(
        self,
        setup: Setup,
        cache: Cache,
        store: Store,
        judging: Judging,
        judge: Judge,
        *,
        added: Iterable[AddRecord],
        done: Iterable[DrawRecord],
        show: Show,
    ) -> None:
        """judge: on the validation samples, to the end. done: of an interrupted part of the run."""
        self._setup = setup
        self._cache = cache
        self._store = store
        self._judging = judging
        self._judge = judge
        self._added = tuple(added)
        self._done = {(each.candidate, each.lot, each.calibrated_on) for each in done}
        self._show = show

    def run(self, candidates: Sequence[Candidate], seeds: int) -> None:
        """Judge the draws of these, one candidate for each engine."""
        samples, reference = self._setup.calibration, self._judging.on(self._judge)
        if samples is None or reference is None:
            return
        steps = [(lot, each) for lot in lots(samples, seeds) for each in candidates]
        builders: dict[jobs.Samples, Builder] = {}
        for done, (lot, candidate) in enumerate(steps):
            count = len(lot.indices())
            if (candidate.id, lot.lot, count) in self._done:
                continue
            self._show(done, len(steps), f"{candidate.label}, draw {lot.lot} of {count} samples")
            builder = builders.setdefault(
                lot, Builder(replace(self._setup, calibration=lot), self._cache, self._added)
            )
            record = DrawRecord(
                at=datetime.now(UTC), candidate=candidate.id, lot=lot.lot, calibrated_on=count
            )
            made = builder.make(candidate)
            outcome: dict[str, object] = {
                name: getattr(made.record, name) for name in ("status", "stage", "reason", "fix")
            }
            if made.engine is not None:
                judged = self._judge.candidate(
                    candidate, made.engine, made.record.engine_key, reference.as_reference
                )
                names = ("status", "stage", "reason", "fix", "value", "samples")
                outcome = {name: getattr(judged.record, name) for name in names}
            self._store.append(record.model_copy(update=outcome))
        self._show(len(steps), len(steps), "done")
