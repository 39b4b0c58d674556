"""What is reported: one run, what its records say, and what follows for the question asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from harness.analysis import Analysis, Summary
from harness.evidence import Evidence
from harness.metrics import short
from harness.recommendation import Judgement, Recommendation
from harness.record import RunRecord
from harness.report.format import clean
from harness.store import Results
from harness.types import Candidate, Scenario, Settings

AGREEMENT = "agreement with fp32, not accuracy"
MEASURED = ("choice", "tied", "admissible", "unresolved", "refused", "dropped")
"""The places of candidates with figures, in the order of the tables."""

SHARES = ("top1", "top5", "agreement")
"""Metrics whose value is a share of the samples, so that drops are percentage points."""


@dataclass(frozen=True)
class MetricUse:
    """The metric, as far as words depend on it.

    labelled False: the outputs were compared with the fp32 reference's, and that is said.
    share: its value is a share of the samples.
    """

    name: str
    labelled: bool
    higher_is_better: bool

    @property
    def base(self) -> str:
        """Without output and options."""
        return self.name.partition("@")[0].partition("(")[0]

    @property
    def shown(self) -> str:
        """The name as people read it."""
        return clean(short(self.name))

    @property
    def share(self) -> bool:
        """Whether differences are percentage points."""
        return self.base in SHARES

    @property
    def noun(self) -> str:
        """What its value is called in a sentence."""
        if not self.labelled:
            return "agreement with fp32"
        return "accuracy" if self.base == "top1" else self.shown

    @property
    def title(self) -> str:
        """What stands at an axis."""
        if not self.labelled:
            return f"{AGREEMENT} ({self.shown})"
        if self.share:
            return f"accuracy ({self.shown})"
        return self.shown if self.higher_is_better else f"{self.shown} (lower is better)"

    @property
    def heading(self) -> str:
        """What stands over a column."""
        if not self.labelled:
            return "Agreement"
        return "Accuracy" if self.share else self.shown


@dataclass(frozen=True)
class Report:
    """Everything the renderings need. results: for the raw durations of the plots."""

    results: Results
    analysis: Analysis
    recommendation: Recommendation

    @property
    def run(self) -> RunRecord:
        """The run's head."""
        return self.analysis.run

    @property
    def scenario(self) -> Scenario:
        """What the objective is judged by."""
        throughput = self.recommendation.objective == "throughput"
        return Scenario.THROUGHPUT if throughput else Scenario.LATENCY

    @property
    def compared(self) -> Evidence | None:
        """All pairs of the scenario's candidates."""
        return self.analysis.comparisons.get(self.scenario)

    @property
    def deploy_code(self) -> str | None:
        """The script that runs the choice in the user's program."""
        choice = self.recommendation.choice
        return choice.deploy_code if choice else None

    @cached_property
    def metric(self) -> MetricUse:
        """As the accuracy passes used it; what the run asked for where there was none."""
        data = self.run.data
        judged = next((each for each in self.results.accuracies if each.ok), None)
        if judged is None:
            return MetricUse(data.metric, data.labelled, higher_is_better=True)
        return MetricUse(judged.metric, judged.labelled, judged.higher_is_better)

    @cached_property
    def names(self) -> dict[str, str]:
        """By candidate id: what people call it, unique within the run."""
        summaries = list({s.candidate.id: s for s in self.analysis.summaries}.values())
        return {s.candidate.id: name for s, name in zip(summaries, _names(summaries), strict=True)}

    @cached_property
    def table(self) -> tuple[Judgement, ...]:
        """The measured candidates: the choice, its ties, the other admissible, then the rest.

        Within each by the objective. Their order numbers them in tables and plots alike.
        """
        placed = [each for place in MEASURED for each in self.recommendation.placed(place)]
        return tuple(each for each in placed if each.summary.time_ns is not None)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """By candidate id: its number in tables and plots, from 1."""
        return {each.summary.candidate.id: n for n, each in enumerate(self.table, start=1)}

    @cached_property
    def skipped(self) -> frozenset[str]:
        """The ids that were left out of the plan."""
        return frozenset(skip.candidate.id for skip in self.run.skips)

    @property
    def devices(self) -> str:
        """Where the reported candidates run."""
        measured = [each.summary.candidate.device for each in self.table]
        planned = [each.device for each in self.run.candidates]
        return ", ".join(dict.fromkeys(measured or planned)) or "no device"

    @property
    def subject(self) -> str:
        """Model, target and device."""
        return clean(f"{self.run.model.name} on {self.run.target} ({self.devices})")

    def name(self, summary: Summary) -> str:
        """What people call it."""
        return self.names[summary.candidate.id]

    def is_baseline(self, summary: Summary) -> bool:
        """Whether speed-ups and drops refer to it."""
        return summary.candidate.id == self.run.baseline


def _names(summaries: list[Summary]) -> list[str]:
    """Labels, with the device and the settings where the label alone isn't unique."""
    labels = [clean(s.label) for s in summaries]
    labels = _distinguish(labels, (f" on {s.candidate.device}" for s in summaries))
    plain = _common([s.candidate for s in summaries])
    settings = (_settings(s.candidate.settings, plain) for s in summaries)
    labels = _distinguish(labels, (f", {each}" for each in settings))
    return _distinguish(labels, (f" {s.candidate.id}" for s in summaries))


def _distinguish(labels: list[str], more: Iterable[str]) -> list[str]:
    """Add what tells equal labels apart."""
    extras = [clean(each) for each in more]
    seen = Counter(labels)
    told = {
        label: {e for la, e in zip(labels, extras, strict=True) if la == label} for label in seen
    }
    return [
        f"{label}{extra}" if seen[label] > 1 and len(told[label]) > 1 else label
        for label, extra in zip(labels, extras, strict=True)
    ]


def _common(candidates: list[Candidate]) -> frozenset[str]:
    """The parts of the settings that all candidates have: they tell nothing apart."""
    parts = [frozenset(_parts(each.settings)) for each in candidates]
    return frozenset.intersection(*parts) if parts else frozenset()


def _parts(settings: Settings) -> Iterator[str]:
    return iter(part for part in settings.label().split(",") if part)


def _settings(settings: Settings, plain: frozenset[str]) -> str:
    return ", ".join(part for part in _parts(settings) if part not in plain) or "plain"
