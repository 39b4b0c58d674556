"""What a run's rounds are for: the part of the configuration that says when enough is known."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config import SweepConfig
from harness.recommendation import Limits, Objective
from harness.runner import Rules


@dataclass(frozen=True)
class Asked:
    """The question, and how much may be spent on it."""

    objective: Objective
    limits: Limits
    fixed_rounds: int | None
    budget_s: float | None
    seed: int
    rules: Rules
    tail_cap_s: float = 0.0
    sustain_s: float | None = None

    @classmethod
    def of(cls, config: SweepConfig) -> Asked:
        """From the configuration."""
        measure, limits = config.measure, config.constraints
        return cls(
            objective=config.objective,
            limits=limits_of(limits),
            fixed_rounds=measure.rounds,
            budget_s=config.budget_s,
            seed=config.seed,
            tail_cap_s=measure.tail_cap_s,
            sustain_s=config.sustain_s,
            rules=Rules(
                passes=measure.passes,
                slice_ns=measure.slice_ms * 1_000_000,
                warmup_iterations=measure.warmup_iterations,
                warmup_cap_ns=int(measure.warmup_cap_s * 1e9),
                live_memory_fraction=measure.live_memory_fraction,
            ),
        )


def limits_of(constraints: object) -> Limits:
    """The constraints of a configuration as the recommendation takes them."""
    names = ("max_accuracy_drop", "max_latency_ns", "max_memory_bytes", "max_size_bytes")
    return Limits(**{name: getattr(constraints, name) for name in names})
