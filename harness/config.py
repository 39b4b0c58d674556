"""``sweep.toml`` and ``devices.toml`` as typed values, and every mistake in them at once.

A key is named as the user writes it (``max_latency = "5ms"``); the attribute carries the unit
(``max_latency_ns``). Every mistake becomes a :class:`harness.errors.Problem` whose ``where`` is the
file and the key path, or the command line's option; all of them are raised in one
:class:`harness.errors.InputError`.

Precedence: the command line, then ``sweep.toml``, then the target in ``devices.toml``, then the
defaults below. Only the parent imports this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args

import tomllib
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.config_keys import KeyPath, explain
from harness.config_values import (
    DURATION,
    LATENCY,
    SIZE,
    Reader,
    choice,
    did_you_mean,
    file_or_names,
    found,
    listed,
    number,
    numbers,
    parse_duration,
    parse_latency,
    parse_size,
    power_of_two,
    sides,
    some,
    text_like,
    truth,
    whole,
    wrong,
)
from harness.errors import InputError, Problem
from harness.functions import is_function
from harness.host import Host
from harness.images import CHANNELS, DTYPES, INTERPOLATIONS, LAYOUTS, Preprocessing
from harness.metrics import anchored
from harness.types import ASKED, Precision, ShapeRange
from harness.variants import Wishes

__all__ = [
    "BuildConfig",
    "Candidates",
    "Constraints",
    "Images",
    "Lab",
    "Match",
    "Measure",
    "Objective",
    "Quantization",
    "Shape",
    "SweepConfig",
    "Target",
    "find_target",
    "for_target",
    "load_lab",
    "load_sweep",
    "merge",
    "parse_duration",
    "parse_latency",
    "parse_size",
]

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_Count = Annotated[int, whole(1, 4096)]
_Samples = Annotated[int, whole(1)]
_Backend = Annotated[str, text_like("a backend's name, such as onnxruntime", _NAME)]
_Option = Annotated[str, text_like('text in quotes, such as "3"', r"[^\0]*")]
_File = Annotated[str, text_like("a path")]
_Source = Annotated[str, text_like("a path, or module:function")]
_Words = Annotated[str, text_like("text", r"[^\0]*")]
_Part = Annotated[str, text_like("text, not empty")]
_Python = Annotated[str, text_like("the path of a Python interpreter")]
_TargetName = Annotated[str, text_like("a name of letters, digits, '.', '-' and '_'", _NAME)]
_Device = Annotated[
    str,
    text_like(
        "a device in lower case: cpu, gpu, gpu:0, npu, auto, or a runtime's own name",
        r"[a-z][a-z0-9_]*(:[a-z0-9_.,:()-]+)?",
    ),
]
_Precision = Annotated[Precision, choice(*(str(one) for one in ASKED), make=Precision)]
_Calibration = Annotated[str, choice("minmax", "entropy", "percentile")]
_Operator = Annotated[str, text_like("an operator type, such as Conv", r"[A-Za-z_][A-Za-z0-9_]*")]
_Latency = Annotated[int, Reader(LATENCY, parse_latency, lambda value: f"{value}ns")]
_Size = Annotated[int, Reader(SIZE, parse_size, lambda value: f"{value}B")]
# repr of a float may be 1e+16, which is no duration
_Duration = Annotated[
    float, Reader(DURATION, parse_duration, lambda value: f"{Decimal(str(value)):f}s")
]
_Seconds = Annotated[float, number(0, 86_400, above=True)]
_Counts = Annotated[tuple[_Count, ...], AfterValidator(some)]
_Devices = Annotated[tuple[_Device, ...], AfterValidator(some)]
_Values = Annotated[tuple[_Option, ...], BeforeValidator(listed), AfterValidator(some)]
_Options = Mapping[str, Mapping[str, _Values]]
_Sizes = tuple[Annotated[int, whole(0)], ...]

Objective = Literal["latency", "throughput", "memory", "size"]
_Objective = Annotated[Objective, choice(*get_args(Objective))]

_StopEarly = choice("never", "refused", "decided")

POOL = 2
"""Of several draws: so many times the samples of one are set aside."""

_REACH = '"local" or "ssh://user@host" or "ssh://user@host:port"'
# neither part may begin with "-": ssh would take it for an option
_SSH = r"ssh://([A-Za-z0-9_][\w.-]*@)?([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(:([0-9]{1,5}))?"


def _read_reach(value: object) -> str:
    if value == "local":
        return "local"
    match = re.fullmatch(_SSH, value) if isinstance(value, str) else None
    if match is None:
        raise wrong(value, _REACH)
    if match[4] is not None and not 1 <= int(match[4]) <= 65_535:  # noqa: PLR2004
        raise wrong(value, _REACH, "a port is a number from 1 to 65535")
    return match[0]


_Reach = Annotated[str, Reader(_REACH, _read_reach)]
_Capability = Annotated[
    str, text_like('a compute capability in quotes, such as "8.7"', r"[0-9]{1,2}\.[0-9]")
]


# ---------------------------------------------------------------------------------------------
# The two files


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constraints(_Table):
    """What a recommendation must meet. None: no such limit."""

    max_accuracy_drop: Annotated[float, number(0)] = Field(
        default=0.01,
        description="largest drop of the metric against the fp32 reference, in its unit; 0.01 of "
        "a share is a point",
    )
    max_latency_ns: Optional[_Latency] = Field(
        default=None,
        alias="max_latency",
        description="longest median latency, host memory to host memory",
    )
    max_memory_bytes: Optional[_Size] = Field(
        default=None, alias="max_memory", description="largest peak memory of the process"
    )
    max_size_bytes: Optional[_Size] = Field(
        default=None, alias="max_size", description="largest size of the engine's files"
    )


class Candidates(_Table):
    """Settings to try. Empty: the plan's defaults for the host."""

    threads: _Counts = Field(default=(), description="CPU threads of one session")
    streams: _Counts = Field(
        default=(), description="sessions side by side in one process (throughput)"
    )
    batch: _Counts = Field(default=(), description="samples per inference (throughput)")
    processes: _Counts = Field(default=(), description="processes side by side (throughput)")
    in_flight: _Counts = Field(
        default=(), description="inferences in flight in one process (throughput)"
    )
    devices: _Devices = Field(default=(), description="devices to try; else the target's device")
    options: _Options = Field(
        default_factory=dict,
        description="values to try of each option of a backend's runtime, "
        "as [candidates.options.BACKEND]",
    )


class Measure(_Table):
    """How much is measured, and what a measurement may take."""

    rounds: Optional[Annotated[int, whole(1, 100)]] = Field(
        default=None,
        description="launches of each candidate; none: as many as the decision takes, 3 to 20",
    )
    passes: Annotated[int, whole(1, 100)] = Field(
        default=4, description="turns of each process within a round"
    )
    slice_ms: Annotated[int, whole(1, 60_000)] = Field(
        default=100, description="shortest time of one turn, in milliseconds"
    )
    warmup_iterations: Annotated[int, whole(10, 1_000_000)] = Field(
        default=10, description="fewest iterations before timing"
    )
    warmup_cap_s: _Seconds = Field(
        default=10.0,
        description="longest warm-up, in seconds; beyond it a launch counts as non-steady",
    )
    calibration_samples: _Samples = Field(
        default=128, description="samples that quantization may look at, never validated on"
    )
    validation_samples: Optional[_Samples] = Field(
        default=None,
        description="samples that accuracy is computed on; all that are left when absent",
    )
    timeout_s: _Seconds = Field(
        default=300.0, description="longest time of one step (a build, a load, a slice), in seconds"
    )
    memory_limit_bytes: Optional[_Size] = Field(
        default=None, alias="memory_limit", description="memory that a worker process may use"
    )
    live_memory_fraction: Annotated[float, number(0, 1, above=True)] = Field(
        default=0.6,
        description="part of the available memory that processes alive together may fill",
    )
    stop_early: Annotated[Literal["never", "refused", "decided"], _StopEarly] = Field(
        default="refused",
        description="when an accuracy pass may end before all samples: never, once the candidate "
        "is refused, or once it is decided",
    )
    tail_cap_s: Annotated[float, number(0, 86_400)] = Field(
        default=10.0,
        description="longest time of one of the launches that measure the best ones' p99, in "
        "seconds; 0: none",
    )
    allow_throttling: Annotated[bool, truth] = Field(
        default=False,
        description="the device will run throttled anyway: a session in which it was isn't void",
    )


class Quantization(_Table):
    """How precisions of 8 bits and fewer are made. None: what suits the recipe and the host."""

    calibration: Optional[_Calibration] = Field(
        default=None, description="how ranges of activations are found; else minmax"
    )
    percentile: Optional[Annotated[float, number(50, 100, above=True)]] = Field(
        default=None, description="which one, where calibration is percentile; else 99.99"
    )
    per_channel: Optional[Annotated[bool, truth]] = Field(
        default=None, description="a scale for each channel of weights; else static int8 has it"
    )
    symmetric: Optional[Annotated[bool, truth]] = Field(
        default=None, description="ranges of activations around zero; else where a runtime needs it"
    )
    reduce_range: Optional[Annotated[bool, truth]] = Field(
        default=None,
        description="weights of 7 bits; else where int8 products saturate, for static int8",
    )
    include: Annotated[tuple[_Operator, ...], AfterValidator(some)] = Field(
        default=(), description="operator types to quantize; else the recipe's"
    )
    exclude: Annotated[tuple[_Words, ...], AfterValidator(some)] = Field(
        default=(),
        description="operator types, nodes or values (by name) that stay in floating point",
    )
    block_size: Optional[Annotated[int, power_of_two(16, 256)]] = Field(
        default=None, description="weights that share a scale, of weight-only quantization; else 32"
    )

    @model_validator(mode="after")
    def _fit(self) -> Quantization:
        """What would be left aside silently is a mistake."""
        if self.percentile is not None and self.calibration != "percentile":
            what = f'percentile means nothing to calibration = "{self.calibration or "minmax"}"'
            what += '; did you mean calibration = "percentile"?'
            raise PydanticCustomError("reader", "{what}", {"what": what})
        return self

    def wishes(self) -> Wishes:
        """The same for :mod:`harness.variants`."""
        return Wishes(**{name: getattr(self, name) for name in type(self).model_fields})


class Images(_Table):
    """What is done to the images of a folder before the model: (pixel / scale - mean) / std."""

    scale: Annotated[float, number(0, 65_535, above=True)] = Field(
        description="pixels are divided by it: 255, or 1 to leave them"
    )
    mean: Annotated[tuple[float, ...], numbers(-65_535, 65_535)] = Field(
        description="subtracted then"
    )
    std: Annotated[tuple[float, ...], numbers(0, 65_535, above=True)] = Field(
        description="divided by then"
    )
    resize: Optional[Annotated[tuple[int, ...], sides]] = Field(
        default=None, description="the shorter side, or both; else images keep their size"
    )
    interpolation: Annotated[str, choice(*INTERPOLATIONS)] = Field(
        default="bilinear", description="how Pillow resizes"
    )
    crop: Optional[Annotated[tuple[int, ...], sides]] = Field(
        default=None, description="what is kept of the centre, a square or both sides; else all"
    )
    channels: Annotated[str, choice(*CHANNELS)] = Field(
        default="rgb", description="the channels in the model's order"
    )
    layout: Annotated[str, choice(*LAYOUTS)] = Field(
        default="nchw", description="the order of the input's axes"
    )
    dtype: Optional[Annotated[str, choice(*DTYPES)]] = Field(
        default=None, description="of the array; else the input's"
    )
    classes: Optional[Annotated[Union[str, tuple[str, ...]], file_or_names]] = Field(
        default=None,
        description="the subfolders' names in the order of the model's classes, or a file that "
        "has one a line; else they are sorted",
    )

    @model_validator(mode="after")
    def _fit(self) -> Images:
        """One number per channel, or one for all."""
        for name in ("mean", "std"):
            given, channels = len(getattr(self, name)), CHANNELS[self.channels]
            if given not in {1, channels}:
                what = f"{name} has {given} numbers; {self.channels} has {channels} channels"
                raise PydanticCustomError("reader", "{what}", {"what": what})
        return self

    def preprocessing(self) -> Preprocessing:
        """The same for :mod:`harness.images`."""
        plain = {name: getattr(self, name) for name in type(self).model_fields if name != "classes"}
        crop, classes = self.crop or (), self.classes or ()
        named = {"classes_file" if isinstance(classes, str) else "classes": classes}
        sized = {"resize": self.resize or (), "crop": crop * 2 if len(crop) == 1 else crop}
        return Preprocessing(**plain | sized | named)


class Shape(_Table):
    """The shapes of one input that engines are built for, batch axis included."""

    min: _Sizes = Field(description="the smallest sizes of that input, the batch's first")
    opt: _Sizes = Field(description="the sizes that the engine is tuned for")
    max: _Sizes = Field(description="the largest sizes")

    @model_validator(mode="after")
    def _fit(self) -> Shape:
        """One size for each axis, in order."""
        low, usual, high = self.min, self.opt, self.max
        if not len(low) == len(usual) == len(high):
            what = f"min, opt and max have {len(low)}, {len(usual)} and {len(high)} sizes"
            what += "; expected as many in each"
            raise PydanticCustomError("reader", "{what}", {"what": what})
        for axis, (a, b, c) in enumerate(zip(low, usual, high)):
            if not a <= b <= c:
                what = f"axis {axis} has min {a}, opt {b}, max {c}; expected min <= opt <= max"
                raise PydanticCustomError("reader", "{what}", {"what": what})
        return self

    def range(self, name: str) -> ShapeRange:
        """The same for :mod:`harness.profiles`."""
        return ShapeRange(name, self.min, self.opt, self.max)


class SweepConfig(_Table):
    """All of ``sweep.toml`` after the command line's overrides."""

    model: _Source = Field(
        description="the model (or the command line's MODEL): an .onnx, .tflite or .pt2 file, or "
        "PyTorch's module:function"
    )
    data: _Source = Field(
        description="the data: an .npz, a folder of them or of images, or module:function"
    )
    calibration: Optional[_Source] = Field(
        default=None, description="data for calibration only; else a seeded part of data"
    )
    metric: Optional[_Part] = Field(
        default=None,
        description="the accuracy metric's name, or module:function; else chosen by the data",
    )
    target: Optional[_Part] = Field(
        default=None,
        description="the target in devices.toml; else the first that matches this host",
    )
    out: _File = Field(default="results", description="the folder that keeps the results")
    backends: Annotated[tuple[_Backend, ...], AfterValidator(some)] = Field(
        default=(), description="backends to compare; else all that are usable"
    )
    precisions: Annotated[tuple[_Precision, ...], AfterValidator(some)] = Field(
        default=(), description="precisions to compare; else all that a backend offers"
    )
    engines: Annotated[tuple[_File, ...], AfterValidator(some)] = Field(
        default=(),
        description="files of engines of your own, compared as they are with the backends that "
        "read them",
    )
    objective: _Objective = Field(
        default="latency", description="what the recommendation makes best"
    )
    budget_s: Optional[_Duration] = Field(
        default=None,
        alias="budget",
        description="longest time of the measurement, beside builds and accuracy passes; "
        "unlimited when absent",
    )
    sustain_s: Optional[_Duration] = Field(
        default=None,
        alias="sustain",
        description="how long the best are kept under load after the decision, beside the budget",
    )
    recover_s: Optional[_Duration] = Field(
        default=None,
        alias="recover",
        description="how long to look for certified mixed precision where int8 fails, beside the "
        "budget; not at all when absent",
    )
    calibration_seeds: Annotated[int, whole(0, 100)] = Field(
        default=0,
        description="draws of calibration samples, to see how much int8 accuracy depends on them; "
        "0: none",
    )
    seed: Annotated[int, whole(0, 2**32 - 1)] = Field(
        default=0, description="seed of every random choice: splits and orders"
    )
    constraints: Constraints = Field(default_factory=Constraints)
    candidates: Candidates = Field(default_factory=Candidates)
    measure: Measure = Field(default_factory=Measure)
    quantization: Quantization = Field(default_factory=Quantization)
    images: Optional[Images] = Field(
        default=None, description="how the images of a folder become the model's input"
    )
    state: Mapping[str, _Part] = Field(
        default_factory=dict,
        description="the output that each state input is fed from at the next step, as INPUT = "
        '"OUTPUT"; its data are sequences',
    )
    shapes: Mapping[str, Shape] = Field(
        default_factory=dict,
        description="shapes of an input that engines are built for, as INPUT = { min, opt, max }; "
        "else those of the data",
    )
    python: Mapping[str, _Python] = Field(
        default_factory=dict,
        description="the interpreter of a backend that has an environment of its own",
    )

    @property
    def calibration_pool(self) -> int:
        """How many samples are set aside for calibration; several draws need more to draw from."""
        return self.measure.calibration_samples * (POOL if self.calibration_seeds else 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON values under the file's keys; :meth:`from_dict` gives an equal value back."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for table in (plain["candidates"], plain["quantization"], plain):
            for name in [name for name, value in table.items() if value == []]:
                del table[name]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "config") -> SweepConfig:
        """The value that :meth:`to_dict` described. Raises InputError."""
        return _validated(cls, data, source)


class BuildConfig(SweepConfig):
    """The same for building alone, which can do without data."""

    data: Optional[_Source] = None  # type: ignore[assignment]


class Match(_Table):
    """How a host is recognised as a target: all that is given must hold, in any case of letters."""

    hostname: Optional[_Part] = Field(
        default=None, description="its host name, with or without domain"
    )
    cpu: Optional[_Part] = Field(default=None, description="a part of the CPU's name")
    machine: Optional[_Part] = Field(default=None, description="a part of the product's name")
    gpu: Optional[_Part] = Field(default=None, description="a part of the name of an NVIDIA GPU")

    def holds(self, host: Host) -> Optional[bool]:
        """Whether all that is given holds; None when nothing is given."""
        name = (host.hostname or "").lower()
        checks = (
            []
            if self.hostname is None
            else [self.hostname.lower() in {name, name.partition(".")[0]}]
        )
        for part, texts in (
            (self.cpu, [host.cpu.model]),
            (self.machine, [host.machine]),
            (self.gpu, [gpu.name for gpu in host.gpus]),
        ):
            if part is not None:
                checks.append(any(part.lower() in text.lower() for text in texts if text))
        return all(checks) if checks else None


class Target(_Table):
    """One machine of the lab and the device on it to deploy on."""

    device: _Device = Field(
        default="cpu",
        description="the device: cpu, gpu:0, npu, auto ...; where none is given, a sweep takes "
        "the CPU and the first GPU",
    )
    description: _Words = Field(default="", description="what the machine is, for the report")
    reach: _Reach = Field(
        default="local", description="how to get there: local, or ssh://user@host:port"
    )
    threads: Annotated[_Counts, BeforeValidator(listed)] = Field(
        default=(), description="CPU threads to try here, one number or a list"
    )
    compute_capability: Optional[_Capability] = Field(
        default=None, description="the GPU's, for building its engines on another machine"
    )
    options: _Options = Field(
        default_factory=dict,
        description="options of a backend's runtime here, as [targets.NAME.options.BACKEND]",
    )
    notes: _Words = Field(default="", description="anything worth remembering")
    match: Match = Field(default_factory=Match)
    constraints: Constraints = Field(default_factory=Constraints)
    python: Mapping[str, _Python] = Field(
        default_factory=dict,
        description="the interpreter of a backend that has an environment of its own",
    )

    @property
    def says_device(self) -> bool:
        """Whether the device was given."""
        return "device" in self.model_fields_set

    def matches(self, host: Host) -> bool:
        """Whether that host is this target. Without ``match``, a local target is any host."""
        holds = self.match.holds(host)
        return self.reach == "local" if holds is None else holds


def _any_target(targets: Mapping[str, Target]) -> Mapping[str, Target]:
    if not targets:
        what = "no target is defined; expected at least one, such as [targets.local]"
        raise PydanticCustomError("reader", "{what}", {"what": what})
    return targets


class Lab(_Table):
    """All of ``devices.toml``, targets in the file's order."""

    targets: Annotated[Mapping[_TargetName, Target], AfterValidator(_any_target)]


# ---------------------------------------------------------------------------------------------
# Reading the files

_Model = TypeVar("_Model", bound=BaseModel)


def load_sweep(
    path: Union[str, os.PathLike[str], None] = None,
    overrides: Optional[Mapping[str, object]] = None,
    table: type[SweepConfig] = SweepConfig,
) -> SweepConfig:
    """Read a ``sweep.toml``, or none, with the command line's overrides on top.

    table: :class:`BuildConfig` where data aren't needed.
    overrides: by key path (``"constraints.max_latency"``), as typed (``"5ms"``); nested mappings do
    as well. None and empty lists are options that weren't given. Relative paths in a file are
    relative to it, and must exist; those of overrides are left as they are.
    Raises InputError with every mistake of the file and the overrides.
    """
    data = {} if path is None else _read_toml(Path(path))
    given = _overlay(data, overrides or {})
    problems = _absent_files(data, Path(path), given) if path is not None else []
    try:
        config = table.model_validate(data)
    except ValidationError as error:
        source = None if path is None else str(path)
        found_too = explain(error, table, data, source, given)
        raise InputError([*found_too, *problems]) from None
    if problems:
        raise InputError(problems)
    return config if path is None else _anchored(config, Path(path).parent, given)


def load_lab(path: Union[str, os.PathLike[str], None] = None) -> Lab:
    """Read a ``devices.toml``.

    None: ``./devices.toml``, or where there is none a lab of one target, ``local``, on the CPU.
    Relative interpreters of local targets are relative to the file; those of others are theirs.
    Raises InputError with every mistake of the file.
    """
    if path is None and not Path("devices.toml").exists():
        return Lab(targets={"local": Target(description="this machine")})
    file = Path("devices.toml" if path is None else path)
    lab = _validated(Lab, _read_toml(file), str(file))
    targets = {
        name: target.model_copy(update={"python": _interpreters(target.python, file.parent)})
        if target.reach == "local"
        else target
        for name, target in lab.targets.items()
    }
    return lab.model_copy(update={"targets": targets})


def find_target(
    lab: Lab, host: Host, name: Optional[str] = None, where: str = "--target"
) -> tuple[str, Target]:
    """The target of that name; without one, the target that this host is.

    The first whose ``match`` recognises the host, then the first local one without ``match``.
    where: what named the target, for the error. Raises InputError when there is none.
    """
    listing = f"the targets are: {', '.join(lab.targets)}"
    if name is not None:
        if name in lab.targets:
            return name, lab.targets[name]
        hint = did_you_mean(name, lab.targets)
        what = f"no target {found(name)} in the lab" + (f"; {hint}" if hint else "")
        raise InputError([Problem(where, what, listing)])
    fitting = [(key, target) for key, target in lab.targets.items() if target.matches(host)]
    # a target that recognises the host says more than one that takes any
    fitting.sort(key=lambda item: item[1].match.holds(host) is None)
    if fitting:
        return fitting[0]
    parts = (host.hostname, host.machine, host.cpu.model)
    known = ", ".join(filter(None, parts)) or "an unknown one"
    what = f"no target of the lab matches this host ({known})"
    fix = f"add [targets.local] to devices.toml, or name one with --target; {listing}"
    raise InputError([Problem(where, what, fix)])


def merge(
    target: Constraints, sweep: Constraints, cli: Optional[Constraints] = None
) -> Constraints:
    """What holds: each limit from the last of these that sets it. Defaults set nothing."""
    merged: dict[str, object] = {}
    for level in (target, sweep, *([cli] if cli else [])):
        merged |= {name: getattr(level, name) for name in level.model_fields_set}
    return Constraints().model_copy(update=merged)


def for_target(config: SweepConfig, target: Target) -> SweepConfig:
    """The sweep on a target: what the sweep leaves open is filled in from the target."""
    tried = config.candidates
    chosen = {
        "threads": tried.threads or target.threads,
        "devices": tried.devices or ((target.device,) if target.says_device else ()),
        "options": {
            name: {**target.options.get(name, {}), **tried.options.get(name, {})}
            for name in (*target.options, *(o for o in tried.options if o not in target.options))
        },
    }
    return config.model_copy(
        update={
            "constraints": merge(target.constraints, config.constraints),
            "candidates": tried.model_copy(update=chosen),
            "python": {**target.python, **config.python},
        }
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError([Problem(str(path), "no such file")]) from None
    except OSError as error:
        problem = Problem(str(path), f"can't be read: {error.strerror or error}")
        raise InputError([problem]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = "not UTF-8 text, which TOML files are"
        raise InputError([Problem(f"{path}: line {line}", what)]) from None
    except RecursionError:
        raise InputError([Problem(str(path), "nested too deeply")]) from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        at = re.search(r" \(at (line \d+, column \d+|end of document)\)$", str(error))
        place, text = (f": {at[1]}", str(error)[: at.start()]) if at else ("", str(error))
        fix = "text is written in quotes, a list as [1, 2], a table as [name]"
        raise InputError([Problem(f"{path}{place}", f"not TOML: {text}", fix)]) from None


def _overlay(data: dict[str, Any], overrides: Mapping[str, object]) -> set[KeyPath]:
    """Put the overrides into ``data``; the paths of those that were given."""
    given: set[KeyPath] = set()
    for path, value in _flat(overrides):
        table: Any = data
        for part in path[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):  # else the file has a value for a table, which is reported
            table[path[-1]] = list(value) if isinstance(value, tuple) else value
            given.add(path)
    return given


def _flat(
    overrides: Mapping[str, object], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in overrides.items():
        path = (*above, key) if above else tuple(key.split("."))
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif value is not None and not (isinstance(value, (list, tuple)) and not value):
            yield path, value


def _resolved(text: str, folder: Path) -> str:
    # Path.resolve would follow a virtual environment's link to the interpreter below it, and
    # Path.expanduser raises for unknown users
    return os.path.abspath(os.path.join(folder, os.path.expanduser(text)))  # noqa: PTH100, PTH111, PTH118


_FILES = ("model", "data", "calibration", "out")


def _absent_files(data: Mapping[str, Any], file: Path, given: set[KeyPath]) -> list[Problem]:
    problems = []
    for key in _FILES[:-1]:
        text = data.get(key)
        if not isinstance(text, str) or not text or (key,) in given or is_function(text):
            continue
        # Path.exists raises for a name that is too long
        if not os.path.exists(_resolved(text, file.parent)):  # noqa: PTH110
            what = f"no such file or folder: {_resolved(text, file.parent)}"
            problems.append(Problem(f"{file}: {key}", what, "paths are relative to this file"))
    return problems


def _anchored(config: SweepConfig, folder: Path, given: set[KeyPath]) -> SweepConfig:
    """Paths of the file made absolute; those of the command line stay as they are."""
    changed: dict[str, object] = {}
    for key in _FILES:
        text = getattr(config, key)
        in_file = key in config.model_fields_set and (key,) not in given
        if in_file and not (key != "out" and is_function(text)):
            changed[key] = _resolved(text, folder)
    if config.engines and ("engines",) not in given:
        changed["engines"] = tuple(_resolved(each, folder) for each in config.engines)
    if config.metric is not None and ("metric",) not in given:
        changed["metric"] = anchored(config.metric, str(folder))
    own = {name: path for name, path in config.python.items() if ("python", name) not in given}
    changed["python"] = {**config.python, **_interpreters(own, folder)}
    if config.images is not None and isinstance(config.images.classes, str):
        names = _resolved(config.images.classes, folder)
        changed["images"] = config.images.model_copy(update={"classes": names})
    return config.model_copy(update=changed)


def _interpreters(python: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A bare command (``python3.9``) is looked up on the PATH, when it is used."""
    return {name: _resolved(path, folder) if "/" in path else path for name, path in python.items()}


def _validated(model: type[_Model], data: Mapping[str, Any], source: str) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(error, model, data, source, set())) from None
