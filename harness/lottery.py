"""Calibration by lottery: how much a recipe's accuracy depends on the samples drawn. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from harness.record import DrawRecord


@dataclass(frozen=True)
class Lottery:
    """What draws of one size gave. lowest, highest: the metric's; None where all failed."""

    calibrated_on: int
    draws: int
    failed: int
    lowest: Optional[float] = None
    highest: Optional[float] = None

    @property
    def spread(self) -> float:
        """Between the best draw and the worst; 0 where none gave a value."""
        return (self.highest or 0.0) - (self.lowest or 0.0)


def lotteries(records: Iterable[DrawRecord]) -> Mapping[str, tuple[Lottery, ...]]:
    """By candidate id: one for each size, the largest first."""
    by_size: dict[str, dict[int, list[DrawRecord]]] = {}
    for each in records:
        by_size.setdefault(each.candidate, {}).setdefault(each.calibrated_on, []).append(each)
    return {name: tuple(_lotteries(sizes.items())) for name, sizes in by_size.items()}


def _lotteries(sizes: Iterable[tuple[int, list[DrawRecord]]]) -> Iterator[Lottery]:
    for size, records in sorted(sizes, reverse=True):
        values = [each.value for each in records if each.ok and each.value is not None]
        failed = len(records) - len(values)
        low, high = min(values, default=None), max(values, default=None)
        yield Lottery(size, len(values), failed, low, high)
