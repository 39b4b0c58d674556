"""Whether the user's model, data and metric fit together, before anything is measured.

Runs in a child process: it reads every sample once, shard by shard. All problems are collected,
so that the user mends them in one go.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, TypeVar

import numpy as np

from harness import datasets, fitting, images, metrics, modelfile, profiles, sources, stateful
from harness.backend import Program
from harness.datasets import LABELS, DataRef, Dataset, Header, Layout
from harness.errors import InputError, Problem, suggest
from harness.fitting import Labels, Seen
from harness.images import Preprocessing
from harness.metrics import Metric
from harness.modelfile import ModelInfo
from harness.sources import Source
from harness.stateful import Sequences, Wire
from harness.types import TensorSpec

T = TypeVar("T")

_FILE_DTYPES = frozenset("biufcUS")
"""Kinds of dtypes that an ``.npz`` can hold; bfloat16 and the like are saved as raw bytes."""


@dataclass(frozen=True)
class Checked:
    """Input that fits together.

    data, calibration: None where none was given. metric: the name asked for, or the one chosen
    by the labels and the first output. warnings: what the user should know all the same. excluded:
    the samples (of ``calibration``, else of ``data``) that don't calibrate, since they validate.
    sequences: how the data feed a stateful model; None for any other. shapes: those of the samples
    of both, as the model is fed with them.
    """

    model: ModelInfo
    data: Optional[DataRef]
    calibration: Optional[DataRef]
    metric: str
    warnings: tuple[str, ...]
    excluded: tuple[int, ...] = ()
    sequences: Optional[Sequences] = None
    shapes: tuple[profiles.Samples, ...] = ()


def check(
    model_path: str,
    data_source: Optional[str],
    metric_name: Optional[str] = None,
    batch: int = 1,
    calibration_source: Optional[str] = None,
    *,
    spool_folder: Optional[str] = None,
    calibration_samples: int = 0,
    seed: int = 0,
    declared: Optional[Preprocessing] = None,
    state: Optional[Mapping[str, str]] = None,
    program: Optional[Program] = None,
) -> Checked:
    """Check everything the user brings. Raises InputError with all problems at once.

    data_source, calibration_source: see :mod:`harness.sources`; what isn't shards is spooled into a
    new folder within ``spool_folder``, images by what is ``declared``. batch: samples per inference
    asked for. calibration_samples, seed: of the split, where there are no data for calibration
    only. program: what was read of the model, where only its own framework reads it. state: the
    output that feeds each state input (:mod:`harness.stateful`). Without a metric's name: ``top1``
    for integer labels and class scores, ``mae`` for floating labels, else agreement with the
    reference (``agreement`` for class scores, ``cosine``).
    """
    problems: list[Problem] = []
    model = _collect(problems, lambda: _inspected(model_path, program))
    inputs = () if model is None else model.inputs
    named = (("--data", data_source), ("--calibration", calibration_source))
    data, calibration = (
        _find(problems, Source(name, where, inputs, declared, spool_folder)) if name else None
        for where, name in named
    )
    metric = _collect(problems, lambda: metrics.get(metric_name)) if metric_name else None
    same = data is not None and calibration is not None and data.sha256 == calibration.sha256
    if same:
        problems.append(
            Problem("--calibration", f"the same content as --data, {data_source}", _OWN_SAMPLES)
        )
    if model is None:
        raise InputError(problems)
    outputs = model.outputs
    wires: tuple[Wire, ...] = ()
    if state:
        found = _collect(problems, lambda: stateful.wire(inputs, outputs, state))
        if found is None:
            raise InputError(problems)
        wires = found
        outputs = tuple(stateful.states_last({each.name: each for each in outputs}, wires).values())
    refs = {"--data": data, "--calibration": calibration}
    scans = {where: _scanned(problems, ref, where, inputs, wires) for where, ref in refs.items()}
    scan = scans["--data"]
    problems += _batch_problems(inputs, scan, batch)
    if metric is None and not metric_name:
        seen = None if scan is None else scan.seen()
        metric = metrics.get(fitting.default_metric(outputs, seen))
    if metric is not None:
        problems += _metric_problems(metric, outputs, scan)
    if problems or metric is None:
        raise InputError(problems)
    warnings = [*(program.notes if program else ()), *_warnings(metric, metric_name, scan)]
    shapes = _shapes(each for each in scans.values() if each is not None)
    if scan is None:
        return Checked(model, data, calibration, metric.name, tuple(warnings), shapes=shapes)
    excluded, noted = _overlap(scan, scans["--calibration"], calibration_samples, seed)
    sequences = None
    if wires:
        sequences = Sequences(scan.specs, wires)
        noted += stateful.notes(sequences, last=metric.needs_labels and not scan.per_step)
    warnings += noted
    return Checked(
        model, data, calibration, metric.name, tuple(warnings), excluded, sequences, shapes
    )


def _inspected(named: str, program: Optional[Program]) -> ModelInfo:
    if program is None:
        return modelfile.inspect(named)
    return ModelInfo(
        path=program.path,
        name=program.name,
        format=program.format,
        sha256=program.sha256,
        size_bytes=program.size_bytes,
        opset=0,
        inputs=program.inputs,
        outputs=program.outputs,
        operators=program.operators,
        ports=program.ports,
        named=named,
    )


def _shapes(scans: Iterable[_Scan]) -> tuple[profiles.Samples, ...]:
    counts: Counter[tuple[tuple[str, tuple[int, ...]], ...]] = Counter()
    for scan in scans:
        counts.update(scan.shapes)
    return tuple(profiles.Samples(count, shapes) for shapes, count in counts.items())


def _metric_problems(
    metric: Metric, outputs: tuple[TensorSpec, ...], scan: Optional[_Scan]
) -> list[Problem]:
    if scan is None:
        return fitting.problems(metric, outputs, None)
    problems = fitting.problems(metric, outputs, scan.seen())
    if scan.per_step:
        problems += stateful.label_problems(scan.ref, scan.specs, metric, "--data")
    return problems


def _collect(problems: list[Problem], step: Callable[[], T]) -> Optional[T]:
    """The step's result; None when it raises InputError, whose problems are kept."""
    try:
        return step()
    except InputError as error:
        problems.extend(error.problems)
        return None


def _find(problems: list[Problem], source: Source) -> Optional[DataRef]:
    """The data set; None also for images for an unknown model, whose problems say enough."""
    if not source.inputs and images.is_folder(source.name):
        return None
    return _collect(problems, lambda: sources.find(source))


def _scanned(
    problems: list[Problem],
    ref: Optional[DataRef],
    where: str,
    inputs: tuple[TensorSpec, ...],
    wires: tuple[Wire, ...],
) -> Optional[_Scan]:
    """One reading of a data set; its problems are added. None without one that can be read."""
    if ref is None:
        return None
    if wires:
        table = datasets.headers(ref.shards[0].path, where)
        fed = _collect(problems, lambda: stateful.fed(inputs, wires, table, where))
        if fed is None:
            return None
        scan = _Scan(ref, where, fed, sequences=True)
    else:
        scan = _Scan(ref, where, inputs)
    problems += scan.run()
    return scan


class _Scan:
    """One reading of a data set against the model's inputs."""

    def __init__(
        self, ref: DataRef, where: str, specs: tuple[TensorSpec, ...], *, sequences: bool = False
    ) -> None:
        self.ref = ref
        self.specs = specs
        self.layout: Optional[Layout] = None
        self.labels: Optional[Labels] = None
        self.samples: list[bytes] = []
        self.shapes: Counter[tuple[tuple[str, tuple[int, ...]], ...]] = Counter()
        self._where = where
        self._sequences = sequences
        self._table = datasets.headers(ref.shards[0].path, where)
        self._not_finite: dict[str, tuple[int, int, str]] = {}

    def run(self) -> list[Problem]:
        """Read the set; all that is wrong with it."""
        place = f"{self._where}: {Path(self.ref.shards[0].path).name}"
        present = [spec for spec in self.specs if spec.name in self._table]
        problems = _name_problems(self.specs, self._table, place)
        for spec in present:
            problems += _dtype_problems(spec, self._table[spec.name], place)
        ranks = {spec.name: len(self._table[spec.name].shape) for spec in present}
        # Only ranks matter here: whether the batch asked for can be fed is not the data's fault.
        layout = _collect(problems, lambda: datasets.layout(present, ranks, 1, place))
        if layout is not None and len(present) == len(self.specs):
            self.layout = layout
        problems += self._dimension_problems(present)
        problems += self._value_problems([spec.name for spec in present])
        return problems

    @cached_property
    def per_step(self) -> bool:
        """Whether there is a label for each step of a sequence, in any shard."""
        if not self._sequences or not self.ref.labelled:
            return False
        tables = [datasets.headers(shard.path, self._where) for shard in self.ref.shards]
        return any(
            stateful.per_step(table[LABELS].shape, stateful.steps_of(self.specs, table))
            for table in tables
        )

    def _label_header(self) -> Header:
        """That of one label, whether of a sample or of a step."""
        header = self._table[LABELS]
        shape = header.shape[:1] + header.shape[2:] if self.per_step else header.shape
        return Header(header.dtype, shape)

    def seen(self) -> Seen:
        """What a metric has to fit."""
        place = f"{self._where}: {Path(self.ref.shards[0].path).name}: {LABELS}"
        whole = self.layout is not None and not self.layout.batched
        return Seen(self.ref.source, self.ref.labelled, self.labels, whole, place)

    def _dimension_problems(self, specs: Sequence[TensorSpec]) -> list[Problem]:
        """Sizes that the model doesn't take, each axis reported for the first shard that has it."""
        problems: dict[tuple[str, int], Problem] = {}
        for shard in self.ref.shards:
            place = f"{self._where}: {Path(shard.path).name}"
            table = datasets.headers(shard.path, self._where)
            for key, problem in _unlike_dimensions(specs, table, place):
                problems.setdefault(key, problem)
            self.shapes[self._sample_shapes(specs, table)] += shard.samples
        return list(problems.values())

    def _sample_shapes(
        self, specs: Sequence[TensorSpec], table: dict[str, Header]
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Of one sample, or of one step of a sequence, by input."""
        first = {spec.name: 2 if stateful.STEPS in spec.shape else 1 for spec in specs}
        return tuple((name, table[name].shape[axis:]) for name, axis in first.items())

    def _value_problems(self, names: list[str]) -> list[Problem]:
        wanted = [*names, *([LABELS] if self.ref.labelled and LABELS not in names else [])]
        read = 0
        try:
            for shard, first, arrays in Dataset(self.ref).scan(wanted):
                self._look(Path(shard.path).name, first, arrays, names)
                read += 1
                del arrays  # the next shard is loaded only once this one is released
        except datasets.DAMAGE as error:
            place = f"{self._where}: {Path(self.ref.shards[read].path).name}"
            what = f"a damaged .npz: {str(error).splitlines()[0] if str(error) else 'cut short'}"
            return [Problem(place, what, "save it again with np.savez, or copy it again")]
        return [
            Problem(
                f"{self._where}: {file}: {name}",
                f"NaN or infinity in {count} samples, first in sample {sample}",
                "mend or leave out those samples: np.isfinite(array)",
            )
            for name, (sample, count, file) in self._not_finite.items()
        ]

    def _look(self, file: str, first: int, arrays: dict[str, Any], names: list[str]) -> None:
        for name in names:
            odd = _not_finite(arrays[name])
            if odd.size:
                place = (first + int(odd[0]), 0, file)
                sample, count, origin = self._not_finite.get(name, place)
                self._not_finite[name] = (sample, count + odd.size, origin)
        if self.ref.labelled and LABELS in arrays:
            self._add_labels(first, arrays[LABELS])
        for row in range(len(arrays[names[0]]) if names else 0):
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(names):
                digest.update(arrays[name][row].tobytes())
            self.samples.append(digest.digest())

    def _add_labels(self, first: int, labels: Any) -> None:
        before = self.labels or Labels(self._label_header(), np.inf, -np.inf, None)
        if labels.dtype.kind not in "iubf" or not labels.size:
            self.labels = before
            return
        odd = _not_finite(labels)
        high = labels.max()
        low = labels.min()
        below = float(labels.max(where=labels < high, initial=low)) if low < high else -np.inf
        known = {before.largest, before.below, float(high), below}
        self.labels = Labels(
            before.header,
            min(before.smallest, float(low)),
            max(known),
            first + int(odd[0]) if odd.size and before.not_finite is None else before.not_finite,
            below=max(known - {max(known)}, default=-np.inf),
        )


def _not_finite(array: Any) -> Any:
    """The rows that hold a NaN or an infinity; none in what isn't floating."""
    if array.dtype.kind not in "fc":
        return np.empty(0, dtype=np.int64)
    odd = ~np.isfinite(array)
    return np.flatnonzero(odd.any(axis=tuple(range(1, array.ndim))))


def _name_problems(
    specs: Sequence[TensorSpec], table: dict[str, Header], place: str
) -> list[Problem]:
    """Inputs without an array, and arrays that are no input."""
    known = [spec.name for spec in specs]
    missing = [spec for spec in specs if spec.name not in table]
    extra = [name for name in table if name not in known and name != LABELS]
    problems = []
    for spec in missing:
        near = suggest(spec.name, extra)
        if near is None and len(missing) == len(extra) == 1:
            near = f'rename the array "{extra[0]}" to "{spec.name}"'
        found = ", ".join(table)
        what = f"no array for the model's input {spec}; the arrays are: {found}"
        fix = near or f'save it as "{spec.name}": np.savez(path, **{{"{spec.name}": array}})'
        problems.append(Problem(f"{place}: {spec.name}", what, fix))
    for name in extra:
        near = suggest(name, [spec.name for spec in missing])
        what = f"the model has no such input; its inputs are: {', '.join(known)}"
        problems.append(Problem(f"{place}: {name}", what, near or "leave this array out"))
    return problems


def _dtype_problems(spec: TensorSpec, header: Header, place: str) -> list[Problem]:
    if header.kind == spec.dtype:
        return []
    what = f"dtype {header.kind}; the model's input is {spec}"
    if spec.dtype in ("str", "bool"):
        fix = f"array.astype({spec.dtype})"
    elif np.dtype(_plain(spec.dtype)).kind in _FILE_DTYPES and _plain(spec.dtype) == spec.dtype:
        fix = f"array.astype(np.{spec.dtype})"
    else:
        fix = f"numpy files can't hold {spec.dtype}: export the model with a float32 input"
    return [Problem(f"{place}: {spec.name}", what, fix)]


def _plain(dtype: str) -> str:
    """The dtype's name if numpy itself has it, else ``void``."""
    try:
        return np.dtype(dtype).name
    except TypeError:
        return "void"


def _unlike_dimensions(
    specs: Sequence[TensorSpec], table: dict[str, Header], place: str
) -> Iterator[tuple[tuple[str, int], Problem]]:
    """Yield ((input, axis), problem) for one shard, beyond the samples' axis.

    A symbolic dimension may differ from shard to shard, but within one it has one size.
    """
    sizes: dict[str, tuple[str, int]] = {}
    for spec in specs:
        shape = table[spec.name].shape
        # One rank less than the array: each sample is a whole input, see datasets.layout.
        dims = spec.shape if len(shape) == len(spec.shape) + 1 else spec.shape[1:]
        if len(dims) + 1 != len(shape):
            continue  # the rank is a problem of its own
        for axis, (dim, size) in enumerate(zip(dims, shape[1:]), start=1):
            where = f"{place}: {spec.name}"
            if isinstance(dim, int) and dim != size:
                what = f"axis {axis} of the array has the size {size}; the model's {spec} has {dim}"
                fix = f"resize or pad the samples to {dim}, or export that axis as dynamic"
                yield (spec.name, axis), Problem(where, what, fix)
            elif isinstance(dim, str):
                other, first = sizes.setdefault(dim, (spec.name, size))
                if first != size:
                    what = f'"{dim}" is {size} here and {first} in {other}; expected one size'
                    yield (spec.name, axis), Problem(where, what, "pad both to one size")


def _batch_problems(
    specs: Sequence[TensorSpec], scan: Optional[_Scan], batch: int
) -> list[Problem]:
    if batch < 1:
        return [Problem("batch", f"{batch}; expected 1 or more")]
    if scan is None or scan.layout is None or batch == 1:
        return []
    if scan.layout.whole:
        what = f"{batch} samples asked for, but the input {scan.layout.whole[0]} has no batch axis"
        return [Problem("batch", what, "use a batch of 1, or export the model with a batch axis")]
    if scan.layout.fixed and batch != scan.layout.size:
        shown = "; ".join(str(spec) for spec in specs)
        what = f"{batch} samples asked for; the model's is fixed at {scan.layout.size}: {shown}"
        fix = f"use a batch of {scan.layout.size}, or export that axis as dynamic"
        return [Problem("batch", what, fix)]
    return []


def _warnings(metric: Metric, asked: Optional[str], scan: Optional[_Scan]) -> list[str]:
    if scan is None:
        return []
    notes = []
    if scan.layout is not None and scan.layout.fixed and scan.layout.size > 1:
        notes.append(
            f"the model's batch is fixed at {scan.layout.size}:"
            f" {scan.layout.size} samples are fed at a time, the last feed padded"
        )
    if not metric.needs_labels:
        unused = scan.ref.labelled and asked is None
        why = (
            "the default metrics don't use these labels: name one with --metric"
            if unused
            else "without labels"
        )
        notes.append(
            f"{metric.name} is agreement with the fp32 reference, not accuracy"
            + (f" ({why})" if unused or not scan.ref.labelled else "")
        )
    return notes


_OWN_SAMPLES = (
    "give --calibration samples of its own, or leave it out: a split of --data is then taken"
)


def _overlap(
    data: _Scan, own: Optional[_Scan], calibrating: int, seed: int
) -> tuple[tuple[int, ...], list[str]]:
    """The numbers of calibration samples that validation has too, by content, and a note on them.

    own: the data for calibration only, all of which is compared with all of ``data``; raises
    InputError where none of them would be left. Without them ``calibrating`` samples at most are
    split off; where none is left, nothing is calibrated.
    """
    if own is not None:
        chosen, validating = tuple(range(len(own.samples))), set(data.samples)
    else:
        count = datasets.split_off(calibrating, len(data.samples))
        chosen, rest = datasets.split(len(data.samples), count, seed)
        validating = {data.samples[each] for each in rest}
    samples = data.samples if own is None else own.samples
    shared = tuple(number for number in chosen if samples[number] in validating)
    if not shared:
        return (), []
    if own is not None and len(shared) == len(chosen):
        what = f"all {len(shared)} calibration samples are also validation samples"
        raise InputError([Problem("--calibration", f"{what}, in {data.ref.source}", _OWN_SAMPLES)])
    note = (
        f"{len(shared)} of {len(chosen)} calibration samples were left out:"
        " validation has the same ones"
    )
    return shared, [note]
