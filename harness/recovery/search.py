"""Why static int8 fails, and what to leave in floating point: tried on calibration samples alone.

Runs in a child on the parent's interpreter. The model is prepared and its ranges are found once;
every variant is then quantized and run in memory by ONNX Runtime, on the kernels of this host.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any, Optional

import numpy as np

from harness import jobs, metrics
from harness.aggregates import value_of
from harness.datasets import Dataset
from harness.errors import UnsupportedError
from harness.recovery import ladder
from harness.recovery.ladder import Quality, quality_of
from harness.types import Array, LayerNoise, Tried
from harness.variants import inmemory
from harness.variants.excluding import excluded
from harness.variants.files import is_large, nodes_of
from harness.variants.quantized import oldest_opset, prepared_model
from harness.variants.quiet import quiet

CALIBRATIONS: tuple[Mapping[str, str], ...] = (
    {"calibration": "minmax"},
    {"calibration": "percentile", "percentile": "99.99"},
    {"calibration": "percentile", "percentile": "99.9"},
    {"calibration": "entropy"},
)
REDUCED: Mapping[str, str] = {"reduce_range": "yes"}
SENSITIVITY_SHARE = 0.5
"""Of the time, for one layer at a time; the rest is for the ladder."""
FEWEST_SAMPLES = 8
BLOCKS = 12
"""Of neighbouring layers, each left out as a whole."""
MOST_BYTES = 512 * 2**20
"""Of feeds and fp32 outputs, which stay in memory; fewer samples where that is too little."""


def search(job: jobs.SearchJob, metric: metrics.Metric) -> jobs.Searched:
    """Look for variants that keep the accuracy, as long as ``job.seconds`` allow.

    metric: the one that the job names. Raises UnsupportedError for models beyond one protobuf,
    which can't be quantized in memory.
    """
    if is_large(job.source):
        raise UnsupportedError("the model is too large to be searched in memory")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "model.onnx")
        oldest = oldest_opset(dict(job.parameters))
        with prepared_model(job.source, out, large=False, oldest=oldest) as (model, _):
            found = _Search(job, metric, model, monotonic() + job.seconds)
            stopped = found.run()
    tried = found.tried
    known = [(len(each.layers), quality_of(each)) for each in tried]
    failed = known[0][1] if known else None
    samples = found.bench.samples
    return jobs.Searched(
        samples=samples,
        metric=found.bench.metric.name,
        steps=tuple(tried),
        sensitivity=tuple(found.sensitivity),
        proposals=tuple(ladder.proposals(known, job.limit, failed, samples)),
        stopped=stopped,
    )


class _OutOfTimeError(Exception):
    """The search's time is over."""


class _Search:
    """One search. tried and sensitivity: what it saw, in order."""

    def __init__(
        self, job: jobs.SearchJob, metric: metrics.Metric, prepared: str, deadline: float
    ) -> None:
        import onnx

        self.tried: list[Tried] = []
        self.sensitivity: list[LayerNoise] = []
        self._job = job
        self._deadline = deadline
        self._params = dict(job.parameters)
        self._prepared = prepared
        self._model = onnx.load(prepared)
        self._ranges: dict[tuple[str, str], Any] = {}
        self.bench = _Bench.of(job, metric, prepared)

    def run(self) -> Optional[str]:
        """Why it stopped before its end, or None."""
        try:
            best = self._calibrations()
            self._params = dict(best.parameters)
            order = self._order()
            whole = list(self.tried)
            failed, limit = quality_of(self.tried[0]), self._job.limit
            samples = self.bench.samples
            if ladder.enough(quality_of(best), limit, failed, samples):
                self._widen(())
                return None
            fewest = ladder.climb(order, limit, self._left_out, failed, samples)
            if fewest is not None:
                self._polish(ladder.first(order, fewest), whole)
                self._widen(ladder.first(order, fewest))
        except _OutOfTimeError:
            return f"its time of {self._job.seconds:.0f} s was over"
        return None

    def _calibrations(self) -> Tried:
        """Everything in int8: as it was asked for, then by other calibrations; the best of them."""
        self._evaluate("as it failed", self._params)
        for other in CALIBRATIONS:
            params = self._calibrated(other)
            if params != self._params:
                self._evaluate(" ".join(other.values()), params)
        best = min(self.tried, key=_rank)
        if self._params["reduce_range"] == "no":
            self._evaluate(f"7-bit weights, {best.what}", {**dict(best.parameters), **REDUCED})
        return min(self.tried, key=_rank)

    def _calibrated(self, change: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in self._params.items() if k not in ("calibration", "percentile")}
        return {**kept, **change}

    def _polish(self, layers: tuple[str, ...], whole: Sequence[Tried]) -> None:
        """Calibrate anew what is left: what was best for everything had to cope with the worst."""
        for each in whole:
            if dict(each.parameters) != self._params:
                what = f"{_layers(layers)} in fp32, {each.what}"
                self._evaluate(what, each.parameters, layers)
        best = min((each for each in self.tried if each.layers == layers), key=_rank)
        self._params = {k: v for k, v in best.parameters if k != "exclude"}
        self._params |= {k: v for k, v in self._job.parameters if k == "exclude"}

    def _widen(self, layers: tuple[str, ...]) -> None:
        """Safer variants, in case the first isn't certified: what helps most beside these layers.

        Layers that are harmless alone may not be so together, and a value between two layers stays
        in int8 as long as one of them is. So everything is in int8 here but these layers and a
        block of neighbours, or all layers of one type.
        """
        few = self.bench.fewer(FEWEST_SAMPLES)
        rest = {name: kind for name, kind in self._layers().items() if name not in layers}
        kinds = [tuple(n for n in rest if rest[n] == kind) for kind in sorted({*rest.values()})]
        blocks = ladder.grouped([*rest], BLOCKS)
        groups = dict.fromkeys(g for g in (*blocks, *kinds) if 2 * len(g) <= len(rest))
        noise = {}
        for group in groups:
            self._check_time()
            quality, _ = few.quality(self._quantized(self._without((*layers, *group)), ()))
            noise[group] = quality.noise
        helpful = sorted(noise, key=lambda group: (noise[group], len(group)))
        for rung in ladder.doubling(len(helpful)):
            wider = (*layers, *ladder.first(helpful, rung))
            if wider != self.tried[-1].layers and len(wider) < len(self._layers()):
                self._left_out(wider)

    def _without(
        self, layers: Iterable[str], params: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """The parameters that leave these layers in floating point too."""
        given = self._params if params is None else params
        names = {*json.loads(given.get("exclude", "[]")), *layers}
        return {**given, "exclude": json.dumps(sorted(names))} if names else dict(given)

    def _left_out(self, layers: tuple[str, ...]) -> Quality:
        return quality_of(self._evaluate(f"{_layers(layers)} in fp32", self._params, layers))

    def _evaluate(
        self,
        what: str,
        parameters: Mapping[str, str] | Iterable[tuple[str, str]],
        layers: tuple[str, ...] = (),
    ) -> Tried:
        self._check_time()
        start = perf_counter_ns()
        params = self._without(layers, dict(parameters))
        quality, time_ns = self.bench.quality(self._quantized(params, ()))
        tried = Tried(
            what=what,
            parameters=tuple(sorted(params.items())),
            layers=layers,
            drop=quality.drop if math.isfinite(quality.drop) else None,
            sqnr_db=quality.sqnr_db,
            time_ns=time_ns,
            took_ns=perf_counter_ns() - start,
        )
        self.tried.append(tried)
        return tried

    def _order(self) -> list[tuple[str, ...]]:
        """Groups of layers from the most harmful on, by quantizing one group at a time."""
        layers = [*self._layers()]
        start = monotonic()
        few = self.bench.fewer(FEWEST_SAMPLES)
        self._sense(few, layers[:1])
        each_s = monotonic() - start
        seconds = SENSITIVITY_SHARE * (self._deadline - monotonic())
        groups = ladder.grouped(layers, max(2, int(seconds / each_s)))
        self.sensitivity.clear()
        harm = {group: self._sense(few, group) for group in groups}
        return ladder.ranked(harm)

    def _sense(self, bench: _Bench, group: Sequence[str]) -> Optional[float]:
        """The outputs' SQNR with only these layers in int8; None without any error."""
        self._check_time()
        if not group:
            return None
        quality, _ = bench.quality(self._quantized(self._params, group))
        self.sensitivity.append(LayerNoise(tuple(group), quality.sqnr_db))
        return -math.inf if math.isinf(quality.drop) else quality.sqnr_db

    def _layers(self) -> dict[str, str]:
        """The layers that the recipe quantizes, with their types, in the graph's order."""
        types, skipped = self._types(), self._excluded()
        nodes = nodes_of(self._prepared)
        fixed = {name for node in nodes if node.op_type == "Constant" for name in node.output}
        return {
            node.name: node.op_type
            for node in nodes
            if node.op_type in types and node.name not in skipped and not set(node.input) <= fixed
        }

    def _types(self) -> frozenset[str]:
        return frozenset(inmemory.operators(self._params))

    def _excluded(self) -> frozenset[str]:
        return frozenset(excluded(self._job.source, self._prepared, self._params))

    def _quantized(self, params: Mapping[str, str], only: Sequence[str]) -> bytes:
        ranges = self._range(params)
        skipped = excluded(self._job.source, self._prepared, params)
        return inmemory.quantized(self._model, params, ranges, only=only, exclude=skipped)

    def _range(self, params: Mapping[str, str]) -> Any:
        """The ranges by this way of calibrating, found once."""
        key = (params["calibration"], params.get("percentile", ""))
        if key not in self._ranges:
            self._ranges[key] = inmemory.find_ranges(self._prepared, params, self.bench.feeds)
        return self._ranges[key]

    def _check_time(self) -> None:
        if monotonic() > self._deadline:
            raise _OutOfTimeError


def _layers(layers: Sequence[str]) -> str:
    return f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"


def _rank(tried: Tried) -> tuple[float, float]:
    return quality_of(tried).rank


@dataclass(frozen=True)
class _Bench:
    """Calibration samples with the fp32 outputs, and the metric that judges others by them.

    truth: the labels, or None where outputs are compared with fp32's. value: fp32's own.
    """

    metric: metrics.Metric
    feeds: list[Mapping[str, Array]]
    outputs: list[dict[str, Array]]
    truth: Optional[list[Array]]
    fed: list[tuple[int, int]]
    batched: bool
    threads: int
    value: float = 0.0

    @classmethod
    def of(cls, job: jobs.SearchJob, metric: metrics.Metric, model: str) -> _Bench:
        """Run fp32 over the calibration samples."""
        data = Dataset(job.calibration.data)
        labelled = data.ref.labelled and metric.needs_labels
        indices = job.calibration.indices()
        if metric.needs_labels and not labelled:
            metric = metrics.get("cosine")
        if labelled:
            metric = metric.prepare(data.labels(indices))
        layout = data.layout(job.inputs)
        session = _session(Path(model).read_bytes(), job.threads)
        feeds: list[Mapping[str, Array]] = []
        outputs, truth, fed, held = [], [], [], 0
        for feed, chosen in data.feeds(job.inputs, indices):
            size = (layout.size if layout.fixed else len(chosen), len(chosen))
            found = _run(session, feed)
            held += sum(a.nbytes for a in (*feed.values(), *found.values()))
            if held > MOST_BYTES and feeds:
                break
            feeds.append(feed)
            outputs.append(metrics.by_sample(found, *size, batched=layout.batched))
            fed.append(size)
            truth += [data.labels(chosen.tolist())] if labelled else []
        bench = cls(
            metric, feeds, outputs, truth if labelled else None, fed, layout.batched, job.threads
        )
        if math.isnan(bench.own_value()):  # AUC without positives, say: then by closeness to fp32
            bench = replace(bench, metric=metrics.get("cosine"), truth=None)
        return replace(bench, value=bench.own_value())

    def own_value(self) -> float:
        """The metric of fp32's own outputs; NaN where these samples have none."""
        rows = [self._rows(place, each) for place, each in enumerate(self.outputs)]
        return _value(self.metric, rows)

    @property
    def samples(self) -> int:
        """How many there are: a feed of a fixed batch holds several."""
        return sum(real for _, real in self.fed)

    def fewer(self, samples: int) -> _Bench:
        """The first feeds alone."""
        truth = None if self.truth is None else self.truth[:samples]
        part = replace(self, feeds=self.feeds[:samples], outputs=self.outputs[:samples])
        return replace(part, truth=truth, fed=self.fed[:samples])

    def quality(self, model: bytes) -> tuple[Quality, float]:
        """Of a model's outputs, and the median time of one inference in ns."""
        session = _session(model, self.threads)
        comparer, rows, took = metrics.Comparer(), [], []
        for place, feed in enumerate(self.feeds):
            start = perf_counter_ns()
            raw = _run(session, feed)
            took.append(perf_counter_ns() - start)
            outputs = metrics.by_sample(raw, *self.fed[place], batched=self.batched)
            comparer.add(outputs, self.outputs[place])
            rows.append(self._rows(place, outputs))
        compared = comparer.result()
        worse = self.value - _value(self.metric, rows)
        drop = worse if self.metric.higher_is_better else -worse
        if compared.broken or math.isnan(drop):
            drop = math.inf
        return Quality(drop, compared.sqnr_db), float(np.median(took))

    def _rows(self, place: int, outputs: dict[str, Array]) -> Array:
        truth = self.outputs[place] if self.truth is None else self.truth[place]
        return self.metric.rows(outputs, truth)


def _value(metric: metrics.Metric, rows: Sequence[Array]) -> float:
    value = value_of(metric.name, np.concatenate(rows))
    return float("nan") if value is None else value


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))
