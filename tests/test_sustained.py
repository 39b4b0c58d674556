"""Whether the ranking of the first minute holds."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NOW, candidate, launch, slices

from harness.record import RoundRecord
from harness.sustained import sustained
from harness.types import Precision

FAST, SLOW = candidate("a"), candidate("b", Precision.INT8)


def stretch(slowdown, parts=10, jitter=0.003, seed=0, gap=1.1, clocks=None):
    """FAST slows down by these factors; SLOW takes ``gap`` times as long and stays."""
    rng = np.random.default_rng(seed)
    launches, rounds, values = [], [], {}
    for part in range(parts):
        mood = rng.normal(0, 0.02)
        for who, level, twin in (
            (FAST, np.log(slowdown(part)), False),
            (FAST, np.log(slowdown(part)), True),
            (SLOW, np.log(gap), False),
        ):
            moved = tuple(
                each.model_copy(update={"started_ns": (part * 60 + n) * 10**9})
                for n, each in enumerate(slices(1e6))
            )
            values[len(launches)] = np.log(1e6) + mood + level + rng.normal(0, jitter)
            launches.append(launch(who, part, phase="sustain", control=twin, slices=moved))
        rounds.append(
            RoundRecord(
                at=NOW,
                round=part,
                phase="sustain",
                elapsed_s=60,
                clock_hz=clocks[part] if clocks else None,
            )
        )
    return sustained(launches, rounds, values)


def test_a_ranking_that_holds():
    found = stretch(lambda part: 1 + 0.002 * part)
    assert (found.ranking, found.best, found.ahead) == ("held", FAST.id, ())
    assert found.minutes[1] - found.minutes[0] == pytest.approx(1)
    assert len(found.control) == 10
    assert max(found.control) < 1.02


def test_a_candidate_that_throttles_is_overtaken():
    found = stretch(lambda part: 1.3 if part > 4 else 1.0, clocks=[4e9] * 5 + [3e9] * 5)
    assert (found.ranking, found.best, found.ahead) == ("changed", FAST.id, (SLOW.id,))
    assert found.change[FAST.id].low > 1
    assert found.clock_hz[-1] == 3e9


def test_noise_as_large_as_the_gap_is_unclear():
    found = stretch(lambda _: 1.0, jitter=0.2, gap=1.02, seed=3)
    assert found.ranking == "unclear"


def test_equal_parts_rarely_change_a_ranking():
    changed = [
        stretch(lambda _: 1.0, gap=1.0, jitter=0.01, seed=seed).ranking for seed in range(200)
    ]
    assert changed.count("changed") <= 10


def test_too_few_parts_say_nothing():
    assert stretch(lambda _: 1.0, parts=4) is None
