"""Which layers to leave in floating point: a ladder from all in int8 to safety. Pure.

Layers are ranked by the harm that each does alone, and the worst are left out one after the other:
first in doubling steps until the outputs are good enough, then by halving back to the fewest. What
is good enough is asked of calibration samples only; validation samples certify, and choose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, TypeVar

from harness.types import Tried

T = TypeVar("T")

STEP = 2
MOST_PROPOSALS = 5
CLEARLY_DB = 1.0
QUIETER_DB = 2.0


@dataclass(frozen=True)
class Quality:
    """How good outputs are on calibration samples.

    drop: of the metric against fp32; positive is worse. sqnr_db: of the outputs, None where there
    is no error at all.
    """

    drop: float
    sqnr_db: Optional[float]

    @property
    def noise(self) -> float:
        """Of the outputs, in dB over their signal; smaller is better, broken ones are the worst."""
        if math.isinf(self.drop):
            return math.inf
        return -math.inf if self.sqnr_db is None else -self.sqnr_db

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: first the drop, then the noise."""
        return self.drop, self.noise


def quality_of(step: Tried) -> Quality:
    """Of a step; outputs that can't be scored are as bad as can be."""
    return Quality(math.inf if step.drop is None else step.drop, step.sqnr_db)


def enough(
    quality: Quality, limit: float, failed: Optional[Quality] = None, samples: int = 0
) -> bool:
    """Whether a variant is worth validating: half of the limit leaves the certificate its room.

    failed: of what the validation samples refused. Few calibration samples may not show its drop,
    but its noise is known, and there must be clearly less. samples: of calibration; one of them
    may be lost, as that is the least that can be.
    """
    quieter = failed is None or quality.noise <= failed.noise - QUIETER_DB
    one = 1 / samples if samples else 0.0
    return quality.drop <= max(limit / 2, min(limit, one)) and quieter


def grouped(layers: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """At most ``most`` groups of neighbouring layers, of about equal size."""
    count = max(1, min(most, len(layers)))
    ends = [round(place * len(layers) / count) for place in range(count + 1)]
    return [tuple(layers[a:b]) for a, b in zip(ends, ends[1:], strict=False) if b > a]


def ranked(harm: Mapping[T, Optional[float]]) -> list[T]:
    """The groups from the most harmful (the least SQNR when it alone is in int8) to the least."""
    known = {key: float("inf") if value is None else value for key, value in harm.items()}
    return sorted(known, key=lambda key: known[key])


def climb(
    order: Sequence[tuple[str, ...]],
    limit: float,
    evaluate: Callable[[tuple[str, ...]], Quality],
    failed: Optional[Quality] = None,
    samples: int = 0,
) -> Optional[int]:
    """How few of the worst groups in floating point are enough; None where none of the rungs is.

    order: from the most harmful group on. evaluate: of the layers left in floating point; what it
    saw is the caller's to keep.
    """
    bad, good = 0, None
    last = len(order) - 1
    for rung in dict.fromkeys((*doubling(len(order)), *((last,) if last > 0 else ()))):
        if enough(evaluate(first(order, rung)), limit, failed, samples):
            good = rung
            break
        bad = rung
    while good is not None and good - bad > 1:
        middle = (good + bad) // 2
        if enough(evaluate(first(order, middle)), limit, failed, samples):
            good = middle
        else:
            bad = middle
    return good


def first(order: Sequence[tuple[str, ...]], count: int) -> tuple[str, ...]:
    """The layers of the first groups."""
    return tuple(dict.fromkeys(layer for group in order[:count] for layer in group))


def doubling(count: int) -> list[int]:
    """1, 2, 4 ... below ``count``."""
    rungs, rung = [], 1
    while rung < count:
        rungs.append(rung)
        rung *= STEP
    return rungs


def proposals(
    tried: Iterable[tuple[int, Quality]],
    limit: float,
    failed: Optional[Quality] = None,
    samples: int = 0,
) -> list[int]:
    """Which tried variants to validate, the safest first.

    tried: (layers in floating point, quality) each. Of those that are good enough, the one with
    the fewest layers, and up to four that have clearly less noise for more layers, the quietest
    among them. Validation goes from the safest on and stops at the first that isn't certified, so
    that the error of all certificates together is that of one (a fixed sequence; Westfall and
    Krishen 2001).
    """
    known = list(tried)
    good = [place for place, each in enumerate(known) if enough(each[1], limit, failed, samples)]
    chain: list[int] = []
    for place in sorted(good, key=lambda place: (known[place][0], known[place][1].noise)):
        if not chain or known[place][1].noise <= known[chain[-1]][1].noise - CLEARLY_DB:
            chain.append(place)
    if len(chain) > MOST_PROPOSALS:
        steps = [round(n * (len(chain) - 1) / (MOST_PROPOSALS - 1)) for n in range(MOST_PROPOSALS)]
        chain = [chain[step] for step in steps]
    return chain[::-1]
