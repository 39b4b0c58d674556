"""The shapes that engines are built for, where a runtime wants to know them before: pure.

A profile has a range for every input, and there is one per batch size. Ranges come from the shapes
of the data's samples, from ``[shapes]`` in ``sweep.toml``, or, without either, from the model's own
fixed sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Union

from harness.errors import InputError, Problem
from harness.types import ShapeRange, TensorSpec

Profile = tuple[ShapeRange, ...]
_Sizes = tuple[int, int, int]
"""Of one axis: the smallest, the usual and the largest."""
_Axes = tuple[_Sizes, ...]


@dataclass(frozen=True)
class Samples:
    """So many samples of the data have these shapes, by input, the samples' axis left out."""

    count: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...]


def derive(
    inputs: Sequence[TensorSpec],
    seen: Sequence[Samples],
    batches: Iterable[int],
    given: Mapping[str, ShapeRange],
    states: Collection[str] = (),
) -> tuple[Profile, ...]:
    """One profile per batch size, the smallest first; alike ones are one.

    An open batch axis goes from one sample, since the last feed may be smaller, to the batch size.
    The usual shape is that of most samples; without one, the median of each axis. given: ranges
    that go before. states: inputs that may be fed from outputs; what the data don't tell of their
    open axes is 1, as at the first step. Raises InputError for an open axis of which nothing is
    known, and for data outside of what is given.
    """
    problems: list[Problem] = []
    profiles = []
    for batch in sorted(set(batches)):
        known = {spec.name: _from_data(spec, seen, batch) for spec in inputs}
        problems += _outside(inputs, known, given)
        axes = known | {name: _axes(each) for name, each in given.items()}
        sizes = _by_name(inputs, axes)
        ranges = []
        for spec in inputs:
            found = axes[spec.name] or _from_model(spec, sizes, batch, state=spec.name in states)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                low, usual, high = zip(*found) if found else ((), (), ())
                ranges.append(ShapeRange(spec.name, tuple(low), tuple(usual), tuple(high)))
        profiles.append(tuple(ranges))
    if problems:
        raise InputError(dict.fromkeys(problems))
    return tuple(dict.fromkeys(profiles))


def problems_of(
    given: Mapping[str, ShapeRange], inputs: Sequence[TensorSpec], where: str = "shapes"
) -> list[Problem]:
    """How given ranges don't fit the model's inputs."""
    specs = {spec.name: spec for spec in inputs}
    problems = []
    for name, each in given.items():
        place = f"{where}.{name}"
        if name not in specs:
            what = f'the model has no input "{name}"'
            problems.append(Problem(place, what, f"its inputs are: {', '.join(specs)}"))
            continue
        shape = specs[name].shape
        if len(shape) != len(each.opt):
            what = f"{len(each.opt)} sizes; the model's input is {specs[name]}"
            problems.append(Problem(place, what, f"give {len(shape)} sizes, the batch's included"))
            continue
        for axis, (dim, sizes) in enumerate(zip(shape, _axes(each))):
            if isinstance(dim, int) and sizes != (dim, dim, dim):
                what = f"axis {axis} is fixed at {dim} in the model: {specs[name]}"
                problems.append(Problem(place, what, f"give {dim} there in min, opt and max"))
    return problems


def _axes(given: ShapeRange) -> _Axes:
    return tuple(zip(given.min, given.opt, given.max))


def _from_data(spec: TensorSpec, seen: Sequence[Samples], batch: int) -> Optional[_Axes]:
    """The axes of an input that the data hold; None where they don't."""
    holding = [each for each in seen if spec.name in dict(each.shapes)]
    if not holding:
        return None
    usual = _usual(spec.name, holding)
    columns = zip(*(dict(each.shapes)[spec.name] for each in holding))
    axes = tuple((min(sizes), usual[axis], max(sizes)) for axis, sizes in enumerate(columns))
    whole = len(usual) == len(spec.shape)  # each sample is a whole input
    return axes if whole else (_batch_axis(spec, batch), *axes)


def _batch_axis(spec: TensorSpec, batch: int) -> _Sizes:
    first = spec.shape[0]
    return (first, first, first) if isinstance(first, int) else (1, batch, batch)


def _usual(name: str, seen: Sequence[Samples]) -> tuple[int, ...]:
    """The shape of most samples; where several have as many, the (lower) median of each axis."""
    counts: Counter[tuple[tuple[str, tuple[int, ...]], ...]] = Counter()
    for each in seen:
        counts[each.shapes] += each.count
    most = max(counts.values())
    first, *others = [shapes for shapes, count in counts.items() if count == most]
    if not others:
        return dict(first)[name]
    columns = zip(*(dict(shapes)[name] for shapes in counts))
    return tuple(_median(list(zip(sizes, counts.values()))) for sizes in columns)


def _median(weighted: Sequence[tuple[int, int]]) -> int:
    """The smallest value with at least half of the weight at or below it."""
    half, below = sum(count for _, count in weighted) / 2, 0
    for value, count in sorted(weighted):
        below += count
        if below >= half:
            return value
    raise ValueError("no values")


def _by_name(
    inputs: Sequence[TensorSpec], axes: Mapping[str, Optional[_Axes]]
) -> dict[str, _Sizes]:
    """What is known of the model's named axes."""
    return {
        dim: sizes
        for spec in inputs
        for dim, sizes in zip(spec.shape, axes[spec.name] or ())
        if isinstance(dim, str)
    }


def _from_model(
    spec: TensorSpec, sizes: Mapping[str, _Sizes], batch: int, *, state: bool
) -> Union[_Axes, Problem]:
    """The axes of an input without data: fixed ones, those of a known name, and the batch."""
    axes: list[_Sizes] = []
    for place, dim in enumerate(spec.shape):
        if isinstance(dim, int):
            axes.append((dim, dim, dim))
        elif isinstance(dim, str) and dim in sizes:
            axes.append(sizes[dim])
        elif place == 0:
            axes.append((1, batch, batch))
        elif state:
            axes.append((1, 1, 1))
        else:
            name = f'"{dim}"' if dim else "without a name"
            what = f"axis {place} ({name}) is open, and nothing says what sizes it will have"
            fix = (
                f"--data DATA, or in sweep.toml: [shapes] {spec.name} = {{ min = [...], "
                "opt = [...], max = [...] }"
            )
            return Problem(str(spec), what, fix)
    return tuple(axes)


def _outside(
    inputs: Sequence[TensorSpec],
    known: Mapping[str, Optional[_Axes]],
    given: Mapping[str, ShapeRange],
) -> Iterator[Problem]:
    """Where the data's sizes are outside of a given range."""
    for spec in inputs:
        axes = known[spec.name]
        if axes is None or spec.name not in given:
            continue
        for place, (ours, theirs) in enumerate(zip(axes, _axes(given[spec.name]))):
            low, high = ours[0], ours[2]
            if theirs[0] <= low and high <= theirs[2]:
                continue
            has = f"{low}" if low == high else f"{low} to {high}"
            batched = place == 0 and not isinstance(spec.shape[0], int)
            what = f"axis {place} is {has} in the {'feeds' if batched else 'data'}"
            what += f"; the range given is {theirs[0]} to {theirs[2]}"
            fix = "widen the range: the last feed may have one sample" if batched else "widen it"
            yield Problem(f"shapes.{spec.name}", what, fix)
