"""Where small labels go so that they cover neither each other nor the points. Pure geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

RADII = (13.0, 16.0, 21.0, 28.0, 37.0, 48.0, 62.0, 80.0)
MISLEADING = 6.0
"""What each unit costs by which a label is nearer to another point than to its own."""
ANGLES = tuple(math.radians(degrees) for degrees in (45, 135, 315, 225, 90, 270, 0, 180))
"""Tried in this order: beside a point, diagonally, covers the fewest error bars."""


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle by its centre and its full sizes."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        wide = (self.width + other.width) / 2 - abs(self.x - other.x)
        high = (self.height + other.height) / 2 - abs(self.y - other.y)
        wide, high = min(wide, self.width, other.width), min(high, self.height, other.height)
        return max(0.0, wide) * max(0.0, high)

    def outside(self, frame: Box) -> float:
        """The area beyond the frame."""
        return max(0.0, self.width * self.height - self.overlap(frame))


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    markers: Sequence[float],
) -> list[tuple[float, float]]:
    """Offsets of labels from their points, in the points' units.

    points: [n]; sizes: (width, height) of each label; frame: what labels should stay in; markers:
    the points' diameters. Greedy: each label takes the nearest place that is free and nearer to its
    own point than to any other, else the one that costs least.
    """
    taken = [Box(x, y, size, size) for (x, y), size in zip(points, markers, strict=True)]
    offsets = []
    for index, ((x, y), (width, height)) in enumerate(zip(points, sizes, strict=True)):
        others = [point for other, point in enumerate(points) if other != index]
        best, least = (0.0, 0.0), math.inf
        for radius, angle in product(RADII, ANGLES):
            dx, dy = radius * math.cos(angle), radius * math.sin(angle)
            box = Box(x + dx, y + dy, width, height)
            cost = sum(box.overlap(other) for other in taken) + box.outside(frame)
            nearest = min((math.dist((box.x, box.y), other) for other in others), default=math.inf)
            cost += MISLEADING * max(0.0, radius - nearest)
            if cost < least:
                best, least = (dx, dy), cost
            if least == 0:
                break
        offsets.append(best)
        taken.append(Box(x + best[0], y + best[1], width, height))
    return offsets


def log_ticks(low: float, high: float, enough: int = 4) -> list[float]:
    """Round numbers within [low, high] for a logarithmic axis, at least ``enough`` if possible."""
    sets: tuple[tuple[float, ...], ...] = (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
        tuple(round(1 + step / 10, 1) for step in range(90)),
    )
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in sets:
        ticks = [m * 10.0**decade for decade in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= enough:
            break
    return ticks
