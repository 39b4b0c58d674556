"""Analysis x constraints x objective -> the choice, and why. Pure.

Nothing is chosen on a guess: a candidate that isn't certified to meet a constraint is listed apart
with what it would take to know, and candidates that can't be told apart are a tie, resolved by
less memory and then by the higher precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis import Analysis, Summary
from harness.evidence import Evidence
from harness.noise import Tier, tier
from harness.stats import Answer, Interval, Verdict, judge_limit
from harness.types import Precision, Scenario, Status

Objective = Literal["latency", "throughput", "memory", "size"]

MEMORY_TIE = 1.05
"""Peak memory of equal engines differs by some percent from launch to launch."""

ENERGY_TIE = 1.05

BY_PRECISION = (
    Precision.FP32,
    Precision.TF32,
    Precision.BF16,
    Precision.FP16,
    Precision.INT8_WEIGHTS,
    Precision.FP8,
    Precision.INT8_DYNAMIC,
    Precision.INT8,
    Precision.INT4_WEIGHTS,
    Precision.AS_IS,
)


@dataclass(frozen=True)
class Limits:
    """The user's constraints. None: no such limit."""

    max_accuracy_drop: float | None = 0.01
    max_latency_ns: float | None = None
    max_memory_bytes: float | None = None
    max_size_bytes: float | None = None


@dataclass(frozen=True)
class Check:
    """One constraint against one candidate. text: for people, with the figures."""

    name: str
    answer: Answer
    text: str


@dataclass(frozen=True)
class Judgement:
    """One candidate under the constraints.

    place: ``choice``, ``tied`` (with the best), ``admissible``, ``unresolved`` (a constraint isn't
    decided), ``refused`` (a constraint is missed), ``dropped`` (out before the end, on the evidence
    that its summary states), ``failed`` (no valid result) or ``unmeasured``.
    against_best: its verdict against the fastest admissible candidate.
    """

    summary: Summary
    place: str
    checks: tuple[Check, ...] = ()
    against_best: Verdict | None = None
    on_front: bool = False

    @property
    def why(self) -> str:
        """Why it is where it is, in one line."""
        if self.place == "failed":
            return f"{self.summary.status}: {self.summary.reason}"
        if self.place == "dropped":
            return self.summary.dropped or ""
        wanted = {"refused": Answer.MISSES, "unresolved": Answer.UNRESOLVED}.get(self.place)
        return "; ".join(check.text for check in self.checks if check.answer is wanted)


@dataclass(frozen=True)
class Recommendation:
    """The choice for one target. choice None: no candidate is certified to meet the constraints.

    runner_up: the best admissible candidate that isn't tied with the choice. certainty: in words.
    unknown: what has to be measured to answer this question fully, with the command. void: why
    nothing may be concluded from this session, and so nothing is chosen.
    """

    objective: Objective
    limits: Limits
    choice: Summary | None
    runner_up: Summary | None
    judgements: tuple[Judgement, ...]
    certainty: str
    unknown: tuple[str, ...] = ()
    void: str | None = None

    def placed(self, *places: str) -> tuple[Judgement, ...]:
        """The judgements in these places, in order."""
        return tuple(each for each in self.judgements if each.place in places)


def recommend(
    analysis: Analysis, limits: Limits | None = None, objective: Objective = "latency"
) -> Recommendation:
    """Decide."""
    limits = limits or Limits()
    scenario = Scenario.THROUGHPUT if objective == "throughput" else Scenario.LATENCY
    compared = analysis.comparisons.get(scenario)
    own = [s for s in analysis.summaries if s.candidate.settings.scenario is scenario]
    checks = {s.candidate.id: check_limits(s, limits) for s in own}
    going = [s for s in own if _is_known(s, objective) and s.dropped is None]
    admissible = [s for s in going if _all_meet(checks[s.candidate.id])]
    best = min(admissible, key=lambda s: _cost(s, objective), default=None)
    tied = _tie_set(best, admissible, compared, objective) if best and not analysis.void else []
    choice = _resolve(tied)
    front = {s.candidate.id for s in pareto_front([s for s in own if _is_measured(s)])}
    judgements = tuple(
        Judgement(
            summary=s,
            place=_place(s, choice, tied, checks[s.candidate.id], objective),
            checks=checks[s.candidate.id],
            against_best=compared.verdict(s.candidate.id, best.candidate.id)
            if compared and best and _is_measured(s)
            else None,
            on_front=s.candidate.id in front,
        )
        for s in sorted(own, key=lambda s: _cost(s, objective))
    )
    others = [s for s in admissible if s not in tied]
    runner_up = min(others, key=lambda s: _cost(s, objective), default=None) if choice else None
    return Recommendation(
        objective=objective,
        limits=limits,
        choice=choice,
        runner_up=runner_up,
        judgements=judgements,
        certainty=_certainty(analysis, choice, tied, runner_up, objective),
        unknown=_unknown(analysis, own, judgements, objective),
        void=analysis.void,
    )


def check_limits(summary: Summary, limits: Limits) -> tuple[Check, ...]:
    """Every constraint that is set, in a fixed order."""
    checks = []
    if limits.max_accuracy_drop is not None:
        checks.append(_check_accuracy(summary, limits.max_accuracy_drop))
    if limits.max_latency_ns is not None:
        checks.append(_check_latency(summary, limits.max_latency_ns))
    if limits.max_memory_bytes is not None:
        checks.append(_check_bytes("memory", summary.memory_bytes, limits.max_memory_bytes))
    if limits.max_size_bytes is not None:
        checks.append(_check_bytes("size", summary.size_bytes, limits.max_size_bytes))
    return tuple(checks)


def _check_accuracy(summary: Summary, limit: float) -> Check:
    drop = summary.drop
    if drop is None:
        return Check("accuracy", Answer.UNRESOLVED, "accuracy drop not measured")
    answer = drop.judge(limit)
    if drop.losses == 0 and drop.gains == 0 and answer is Answer.UNRESOLVED:
        seen = f"no difference in {drop.samples} samples"
    else:
        seen = f"accuracy drop {drop.value:+.4g} (95 % bounds {drop.low:+.4g} to {drop.high:+.4g})"
    text = f"{seen}, limit {limit:g}"
    more = drop.more_samples(limit) if answer is Answer.UNRESOLVED else None
    if more is not None:
        text += f"; about {more} more samples would certify it"
    return Check("accuracy", answer, text)


def _check_latency(summary: Summary, limit_ns: float) -> Check:
    value = summary.time_ns
    if value is None or summary.candidate.settings.scenario is Scenario.THROUGHPUT:
        return Check("latency", Answer.UNRESOLVED, "latency not measured")
    text = (
        f"latency {value.value / 1e6:.4g} ms (95 % {value.low / 1e6:.4g} to"
        f" {value.high / 1e6:.4g}), limit {limit_ns / 1e6:g} ms"
    )
    answer = judge_limit(value, limit_ns)
    if answer is Answer.MEETS and tier(summary.run_delay) is Tier.RED:
        text += "; this host is too busy to certify a time (threads often wait for a CPU)"
        answer = Answer.UNRESOLVED
    return Check("latency", answer, text)


def _check_bytes(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name, Answer.UNRESOLVED, f"{name} not measured")
    text = f"{name} {value / 1e6:.4g} MB, limit {limit / 1e6:g} MB"
    return Check(name, Answer.MEETS if value <= limit else Answer.MISSES, text)


def _is_measured(summary: Summary) -> bool:
    return summary.status is Status.OK and summary.time_ns is not None


def _is_known(summary: Summary, objective: Objective) -> bool:
    """Whether the objective itself was measured too: memory isn't on every host."""
    return _is_measured(summary) and math.isfinite(_cost(summary, objective)[0])


def _all_meet(checks: Iterable[Check]) -> bool:
    return all(check.answer is Answer.MEETS for check in checks)


def _cost(summary: Summary, objective: Objective) -> tuple[float, float]:
    """What the objective makes least, then time; infinite where unknown."""
    time = summary.time_ns.value if summary.time_ns else math.inf
    if summary.status is not Status.OK:
        return math.inf, math.inf
    if objective == "memory":
        return (math.inf if summary.memory_bytes is None else summary.memory_bytes), time
    if objective == "size":
        return (math.inf if summary.size_bytes is None else summary.size_bytes), time
    return time, time


def _tie_set(
    best: Summary,
    admissible: Sequence[Summary],
    compared: Evidence | None,
    objective: Objective,
) -> list[Summary]:
    """Those that the objective can't tell from the best. UNRESOLVED is not a tie."""
    if objective in ("memory", "size"):
        factor = MEMORY_TIE if objective == "memory" else 1.0
        top = _cost(best, objective)[0] * factor
        return [s for s in admissible if _cost(s, objective)[0] <= top]
    if compared is None:
        return [best]
    return [
        s
        for s in admissible
        if s is best or compared.verdict(s.candidate.id, best.candidate.id) is Verdict.TIED
    ]


def _resolve(tied: Sequence[Summary]) -> Summary | None:
    """Less memory, then less energy where all know it, the higher precision, less time."""
    if not tied:
        return None
    known = [s.memory_bytes for s in tied if s.memory_bytes is not None]
    least = min(known, default=0.0)
    lean = [s for s in tied if s.memory_bytes is not None and s.memory_bytes <= least * MEMORY_TIE]
    left = lean or list(tied)
    joules = [s.energy.joules for s in left if s.energy and s.energy.claimed]
    used = [value for value in joules if value is not None]
    if len(used) == len(left):
        most = min(used) * ENERGY_TIE
        left = [s for s, value in zip(left, used, strict=True) if value <= most]
    return min(
        left,
        key=lambda s: (
            BY_PRECISION.index(s.candidate.precision),
            s.time_ns.value if s.time_ns else math.inf,
        ),
    )


def _place(
    summary: Summary,
    choice: Summary | None,
    tied: Sequence[Summary],
    checks: Sequence[Check],
    objective: Objective,
) -> str:
    if summary.status is not Status.OK:
        return "failed"
    if summary.dropped is not None and not _is_measured(summary):
        return "dropped"
    if not _is_known(summary, objective):
        return "unmeasured"
    if summary in tied:
        return "choice" if summary is choice else "tied"
    if summary.dropped is not None:
        return "dropped"
    return _place_by([check.answer for check in checks])


def _place_by(answers: Sequence[Answer]) -> str:
    if Answer.MISSES in answers:
        return "refused"
    return "unresolved" if Answer.UNRESOLVED in answers else "admissible"


def pareto_front(summaries: Sequence[Summary]) -> list[Summary]:
    """Those that no other beats in time, accuracy, memory and size together (point estimates)."""

    def costs(s: Summary) -> tuple[float, ...]:
        drop = s.drop.value if s.drop else math.inf
        memory = math.inf if s.memory_bytes is None else s.memory_bytes
        size = math.inf if s.size_bytes is None else float(s.size_bytes)
        return (s.time_ns.value if s.time_ns else math.inf, drop, memory, size)

    points = [costs(s) for s in summaries]

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in points
        )

    return [s for s, mine in zip(summaries, points, strict=True) if not beaten(mine)]


def _may_win(each: Judgement, best: Judgement | None, objective: Objective) -> bool:
    return best is None or _cost(each.summary, objective) < _cost(best.summary, objective)


def _percent(ratio: Interval) -> str:
    return f"{ratio.value:.2f}x (95 % {ratio.low:.2f} to {ratio.high:.2f})"


def _certainty(
    analysis: Analysis,
    choice: Summary | None,
    tied: Sequence[Summary],
    runner_up: Summary | None,
    objective: Objective,
) -> str:
    if analysis.void:
        return f"this session is void: {analysis.void}"
    if choice is None:
        return "no candidate is certified to meet every constraint"
    compared = analysis.comparisons.get(choice.candidate.settings.scenario)
    parts = []
    if len(tied) > 1:
        names = ", ".join(analysis.name(s) for s in tied if s is not choice)
        known = all(each.energy and each.energy.claimed for each in tied)
        energy = "less energy, then for " if known else ""
        why = f"chosen for less memory, then for {energy}the higher precision"
        parts.append(f"tied with {names}; {why}")
    timed = objective in ("latency", "throughput") and compared is not None
    if runner_up is not None and timed and compared is not None:
        against = compared.verdict(choice.candidate.id, runner_up.candidate.id)
        known = {choice.candidate.id, runner_up.candidate.id} <= set(compared.logs)
        ratio = (
            _percent(compared.ratio(choice.candidate.id, runner_up.candidate.id)) if known else "?"
        )
        other = analysis.name(runner_up)
        words = {
            Verdict.FASTER: f"{ratio} faster than the runner-up, {other}",
            Verdict.SLOWER: f"{ratio} of the speed of the runner-up, {other}",
            Verdict.TIED: f"within the margin of the runner-up, {other}",
            Verdict.UNRESOLVED: f"not yet told apart from {other}: {ratio}",
        }
        parts.append(words[against])
    elif runner_up is None and len(tied) == 1:
        parts.append("the only candidate that meets every constraint")
    if compared is None:
        parts.append("no round was finished, so nothing was compared")
    if timed and compared is not None:
        parts.append(f"{compared.rounds} round{'s' if compared.rounds != 1 else ''}")
    return "; ".join(parts)


def _unknown(
    analysis: Analysis,
    own: Sequence[Summary],
    judgements: Sequence[Judgement],
    objective: Objective,
) -> tuple[str, ...]:
    """What this question needs and this run doesn't have."""
    run = analysis.run
    sweep = f"enginepick sweep {run.model.path} --data {run.data.source}"
    unknown = []
    if not own:
        unknown.append(f"{objective} was not measured: {sweep} --objective {objective}")
    best = next((each for each in judgements if each.place == "choice"), None)
    for each in judgements:
        if each.place == "dropped" and _all_meet(each.checks) and _may_win(each, best, objective):
            candidate, name = each.summary.candidate, analysis.name(each.summary)
            unknown.append(
                f"{name} was dropped early under other constraints, and may be the choice under"
                f" these: {sweep} --backend {candidate.backend}"
                f" --precision {candidate.precision}"
            )
        if each.place == "unresolved":
            unknown.append(f"{analysis.name(each.summary)}: {each.why}")
        elif each.place == "unmeasured" and _is_measured(each.summary):
            unknown.append(f"{analysis.name(each.summary)}: its {objective} was not measured")
        elif each.place == "unmeasured":
            unknown.append(
                f"{analysis.name(each.summary)} was planned, and not measured in a finished round:"
                f" enginepick sweep --resume {run.run_id}"
            )
    return tuple(unknown)
