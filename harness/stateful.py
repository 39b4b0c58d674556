"""Models that keep a state: outputs of one step that are inputs of the next.

A sample is a sequence: arrays of the other inputs are [samples, steps, ...]. States start at zero,
or at the data's array of that name. A session is wrapped so that the steps of a sequence come one
after the other through ``bind``, ``run`` and ``fetch``: what is timed is one step, its state
carried from host memory to host memory as a user's program would.

Imported by workers: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, TypeVar, Union

import numpy as np

from harness.backend import Feed, Session
from harness.datasets import LABELS, DataRef, Header, headers
from harness.errors import InputError, Problem, suggest
from harness.metrics import Metric, Outputs
from harness.types import Array, Executed, TensorSpec

T = TypeVar("T")

STEPS = "sequence steps"
"""The name of the axis that a sequence's arrays have beyond the model's: no model's own."""


@dataclass(frozen=True)
class Wire:
    """A state: the model's input, and the output that it is fed from at the next step."""

    input: TensorSpec
    output: str


@dataclass(frozen=True)
class Sequences:
    """How sequences feed a model. fed: what the data hold, see :func:`fed`."""

    fed: tuple[TensorSpec, ...]
    wires: tuple[Wire, ...]


def wire(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], state: Mapping[str, str]
) -> tuple[Wire, ...]:
    """The model's states as declared (input: output). Raises InputError with all that is wrong."""
    ins = {spec.name: spec for spec in inputs}
    outs = {spec.name: spec for spec in outputs}
    problems = []
    for source, target in state.items():
        place = f"state.{source}"
        for word, known, kind in ((source, ins, "input"), (target, outs, "output")):
            if word not in known:
                fix = suggest(word, known) or f"its {kind}s are: {', '.join(known)}"
                problems.append(Problem(place, f'the model has no {kind} "{word}"', fix))
        if source in ins and target in outs and not _fit(ins[source], outs[target]):
            what = f"the output {outs[target]} can't be the next step's {ins[source]}"
            problems.append(Problem(place, what, "wire outputs of the input's dtype and shape"))
    if not problems and not set(ins) - set(state):
        problems.append(Problem("state", "every input is a state, so nothing is left to be fed"))
    if problems:
        raise InputError(problems)
    return tuple(Wire(ins[source], target) for source, target in state.items())


def _fit(ours: TensorSpec, theirs: TensorSpec) -> bool:
    """Whether dtype and rank are the same, and the sizes that both of them fix."""
    fixed = [
        (a, b)
        for a, b in zip(ours.shape, theirs.shape)
        if isinstance(a, int) and isinstance(b, int)
    ]
    alike = ours.dtype == theirs.dtype and len(ours.shape) == len(theirs.shape)
    return alike and all(a == b for a, b in fixed)


def fed(
    inputs: Sequence[TensorSpec], wires: Sequence[Wire], table: Mapping[str, Header], where: str
) -> tuple[TensorSpec, ...]:
    """What arrays of sequences feed: the inputs with a steps axis, and the states that are given.

    The steps follow the batch axis; they come first where each step of a sample is a whole input
    (:func:`harness.datasets.layout`). Raises InputError for arrays that aren't sequences.
    """
    states = {each.input.name for each in wires}
    specs, problems = [], []
    for spec in inputs:
        header = table.get(spec.name)
        if spec.name in states:
            specs += [spec] if header is not None else []
            continue
        whole = header is not None and len(header.shape) == len(spec.shape) + 2
        batched = header is None or (spec.shape and len(header.shape) == len(spec.shape) + 1)
        if header is not None and not (whole or batched):
            what = f"{len(header.shape)} axes; a sequence for {spec} is [samples, steps, ...]"
            fix = "save one sequence per sample, its steps along the second axis"
            problems.append(Problem(f"{where}: {spec.name}", what, fix))
        elif header is not None and not header.shape[1]:
            problems.append(Problem(f"{where}: {spec.name}", "sequences without steps"))
        shape = (STEPS, *spec.shape) if whole else (*spec.shape[:1], STEPS, *spec.shape[1:])
        specs.append(TensorSpec(spec.name, spec.dtype, shape))
    if problems:
        raise InputError(problems)
    return tuple(specs)


def steps_of(specs: Sequence[TensorSpec], table: Mapping[str, Header]) -> int:
    """How many steps the sequences of a shard have."""
    name = next(spec.name for spec in specs if STEPS in spec.shape)
    return table[name].shape[1]


def per_step(shape: Sequence[int], steps: int) -> bool:
    """Whether labels [samples, ...] of this shape have one for each step: the second axis."""
    return len(shape) > 1 and shape[1] == steps


class StatefulSession:
    """A session that is bound to sequences, and steps through them with their state.

    Each ``bind`` of a feed takes its next step, with the state that the last ``fetch`` carried;
    after the last step comes the first again, from the start.
    """

    def __init__(self, session: Session, sequences: Sequences) -> None:
        self.inputs = session.inputs
        self.outputs = session.outputs
        self._session = session
        self._fed = sequences.fed
        self._wires = sequences.wires
        self._sequence: Optional[Feed] = None
        self._steps: list[dict[str, Array]] = []
        self._start: dict[str, Array] = {}
        self._carried: dict[str, Array] = {}
        self._at = 0

    @property
    def executed(self) -> Optional[Executed]:
        """As the wrapped session's."""
        return self._session.executed

    def bind(self, feed: Feed) -> None:
        """Bind the next step of these sequences, or the first one of new ones."""
        if feed is not self._sequence:
            self._take(feed)
        if self._at == 0:
            self._carried = self._start
        self._session.bind({**self._steps[self._at], **self._carried})

    def run(self) -> None:
        """One step on what is bound."""
        self._session.run()

    def fetch(self) -> dict[str, Array]:
        """The outputs of the step; the state goes on."""
        outputs = self._session.fetch()
        self._carried = {each.input.name: np.array(outputs[each.output]) for each in self._wires}
        self._at = (self._at + 1) % len(self._steps)
        return outputs

    def close(self) -> None:
        """Release everything."""
        self._session.close()

    def reset(self) -> None:
        """Go back to the first step."""
        self._at = 0

    def through(self, feed: Feed) -> list[dict[str, Array]]:
        """The outputs of each step of these sequences, from their start, outputs in order.

        States come after the other outputs: a metric scores the first.
        """
        self.reset()
        self.bind(feed)
        made = []
        for step in range(len(self._steps)):
            if step:
                self.bind(feed)
            self.run()
            outputs = {name: np.array(value) for name, value in self.fetch().items()}
            made.append(states_last(outputs, self._wires))
        return made

    def _take(self, feed: Feed) -> None:
        axes = {spec.name: spec.shape.index(STEPS) for spec in self._fed if STEPS in spec.shape}
        name, axis = next(iter(axes.items()))
        self._steps = [
            {
                each: np.asarray(np.take(feed[each], step, at), order="C")
                for each, at in axes.items()
            }
            for step in range(feed[name].shape[axis])
        ]
        self._start = _start(self._fed, self._wires, self._steps[0], feed)
        self._sequence, self._at = feed, 0


def _start(
    specs: Sequence[TensorSpec], wires: Sequence[Wire], step: Feed, feed: Feed
) -> dict[str, Array]:
    """The states before the first step: the data's, or zeros.

    An open axis has the size of the other inputs' axis of that name; else the first has the
    batch's, and any other 1.
    """
    sizes: dict[Union[int, str, None], int] = {}
    batch = 1
    for spec in specs:
        if STEPS in spec.shape:
            sizes.update(zip((dim for dim in spec.shape if dim != STEPS), step[spec.name].shape))
            batch = step[spec.name].shape[0] if spec.shape[0] != STEPS else batch
    sizes.pop(None, None)  # axes without a name have nothing to do with each other
    start = {}
    for each in wires:
        name, dims = each.input.name, enumerate(each.input.shape)
        shape = [
            dim if isinstance(dim, int) else sizes.get(dim, 1 if axis else batch)
            for axis, dim in dims
        ]
        start[name] = feed[name] if name in feed else np.zeros(shape, each.input.dtype)
    return start


def states_last(outputs: Mapping[str, T], wires: Sequence[Wire]) -> dict[str, T]:
    """By name, in the model's order, those that are states after all others."""
    states = {each.output for each in wires}
    return {name: outputs[name] for name in sorted(outputs, key=lambda name: name in states)}


def by_sequence(steps: Sequence[Outputs]) -> dict[str, Array]:
    """Outputs [samples, ...] of each step as [samples, steps, ...].

    Those whose shape changes from step to step can't be, and are left out.
    """
    return {
        name: np.stack([outputs[name] for outputs in steps], axis=1)
        for name, first in steps[0].items()
        if all(outputs[name].shape == first.shape for outputs in steps)
    }


def by_step(outputs: Outputs) -> dict[str, Array]:
    """Outputs [samples, steps, ...] as [samples x steps, ...]: each step for itself."""
    return {name: _flat(array) for name, array in outputs.items()}


def _flat(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def rows(metric: Metric, outputs: Outputs, truth: Union[Array, Outputs]) -> Array:
    """What a metric keeps of each sequence: [samples, width].

    outputs: [samples, steps, ...]. truth: labels, or the reference's outputs. Labels of each step
    score every step, and a sequence has their mean; else the last step's outputs are scored.
    Without labels every step is. Raises ValueError as :meth:`harness.metrics.Metric.rows`.
    """
    count, steps = next(iter(outputs.values())).shape[:2]
    if not isinstance(truth, Mapping) and not per_step(truth.shape, steps):
        return metric.rows({name: array[:, -1] for name, array in outputs.items()}, truth)
    if metric.whole:
        raise ValueError(f"{metric.name} needs one label per sequence")
    flat = by_step(truth) if isinstance(truth, Mapping) else _flat(truth)
    each = metric.rows(by_step(outputs), flat)
    mean: Array = each.reshape(count, steps, -1).mean(axis=1)
    return mean


class _Calls:
    """A function of a feed as a session; keeps the last feed."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    executed: Optional[Executed] = None

    def __init__(self, function: Callable[[Feed], dict[str, Array]]) -> None:
        self.feed: Feed = {}
        self._function = function
        self._made: dict[str, Array] = {}

    def bind(self, feed: Feed) -> None:
        self.feed = feed

    def run(self) -> None:
        self._made = self._function(self.feed)

    def fetch(self) -> dict[str, Array]:
        return self._made

    def close(self) -> None:
        pass


def through(
    function: Callable[[Feed], dict[str, Array]], sequences: Sequences, feed: Feed
) -> list[tuple[Feed, dict[str, Array]]]:
    """Step through sequences with a function of all inputs: each step's inputs and outputs."""
    taken: list[Feed] = []

    def call(step: Feed) -> dict[str, Array]:
        taken.append(step)
        return function(step)

    made = StatefulSession(_Calls(call), sequences).through(feed)
    return list(zip(taken, made))


def label_problems(
    ref: DataRef, specs: Sequence[TensorSpec], metric: Metric, where: str
) -> list[Problem]:
    """How labels of steps don't fit sequences of several lengths, or the metric."""
    tables = [headers(shard.path, where) for shard in ref.shards]
    lengths = sorted({steps_of(specs, table) for table in tables})
    problems = []
    if len(lengths) > 1:
        listed = ", ".join(map(str, lengths))
        what = f"labels of each step, and sequences of several lengths: {listed}"
        fix = "pad the sequences to one length, or give one label per sequence"
        problems.append(Problem(f"{where}: {LABELS}", what, fix))
    if metric.whole:
        what = f"{metric.name} is of all samples together; the labels are of each step"
        problems.append(Problem("--metric", what, "give one label per sequence"))
    return problems


def notes(sequences: Sequences, *, last: bool) -> tuple[str, ...]:
    """What a reader must know of a stateful model's numbers. last: the last step is scored."""
    wires = ", ".join(f"{each.output} -> {each.input.name}" for each in sequences.wires)
    timed = "all times are per step, the state carried through host memory"
    script = "an exported script's infer takes the states as inputs too"
    scored = "the last step" if last else "every step, and a sequence has their mean"
    return (
        f"stateful ({wires}): a sample is a sequence, and {timed}; {script}",
        f"the metric scores {scored}; samples that calibrate or are compared are counted in steps",
    )
