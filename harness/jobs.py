"""What a worker can be asked, and what it answers: one frozen dataclass each.

The parent sends a job as one JSON line and gets one JSON line back (:mod:`harness.wire`). A worker
serves many jobs in order; the measuring ones follow an :class:`OpenJob`. Python 3.9, standard
library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from harness.backend import Converted, Program
from harness.datasets import DataRef, draw, split, stages
from harness.errors import Problem
from harness.images import Preprocessing
from harness.measure.energy import Metered
from harness.stateful import Sequences, Wire
from harness.types import (
    Engine,
    Executed,
    LayerNoise,
    Ports,
    Precision,
    Settings,
    ShapeRange,
    Stage,
    Status,
    TensorSpec,
    Tried,
)


@dataclass(frozen=True)
class Location:
    """Where a backend's object is: ``module:attribute``."""

    module: str
    attribute: str


@dataclass(frozen=True)
class Samples:
    """Some samples of a dataset: all validation or all calibration samples, or one.

    The parent never holds the index lists: they follow from (calibration, seed), see
    :func:`harness.datasets.split`. use: ``calibration``, ``validation``, or ``all`` (of data that
    were given for one purpose only). excluded: numbers that are left out of these. limit: so many
    of the rest, drawn by the seed; lot: which draw, where there are several. The fixed sample that
    is timed is the first to validate.
    """

    data: DataRef
    use: str
    calibration: int
    seed: int
    limit: Optional[int] = None
    excluded: tuple[int, ...] = ()
    lot: int = 0

    def indices(self) -> tuple[int, ...]:
        """The sample numbers, in the order in which they are used."""
        return tuple(number for stage in self.stages() for number in stage)

    def stages(self) -> tuple[tuple[int, ...], ...]:
        """The same, parted so that what comes before each end is a random draw of all."""
        if self.use == "all":
            part = tuple(range(self.data.samples))
        else:
            both = split(self.data.samples, self.calibration, self.seed)
            part = both[0] if self.use == "calibration" else both[1]
        if self.excluded:
            left_out = frozenset(self.excluded)
            part = tuple(number for number in part if number not in left_out)
        if self.limit is not None:
            part = tuple(part[place] for place in draw(len(part), self.limit, self.seed + self.lot))
        return stages(part, self.seed) if self.use == "validation" else (part,)

    def key(self) -> tuple[object, ...]:
        """What tells these samples from others, for addresses in the cache."""
        samples = (self.use, self.calibration, self.seed, self.limit, self.excluded, self.lot)
        return (self.data.sha256, *samples)


@dataclass(frozen=True)
class ProbeJob:
    """Ask a backend what it finds here. Answer: :class:`harness.types.Probe`."""

    backend: Location


@dataclass(frozen=True)
class CheckJob:
    """Check the user's model and data. Answer: :class:`harness.checks.Checked`.

    program: what was read of a model that only its own framework reads.
    """

    model: str
    data: Optional[str]
    metric: Optional[str]
    calibration: Optional[str]
    spool: str
    calibration_samples: int
    seed: int
    images: Optional[Preprocessing]
    state: tuple[tuple[str, str], ...]
    program: Optional[Program] = None


@dataclass(frozen=True)
class ReadJob:
    """Read a program into ``folder``. Answer: :class:`harness.backend.Program`."""

    source: Location
    program: str
    folder: str


@dataclass(frozen=True)
class ConvertJob:
    """Convert a model into ``workdir``. Answer: :class:`Conversion`.

    The rest is as in :class:`harness.backend.ConvertRequest`; samples: to take the first ones of.
    """

    converter: Location
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    samples: Optional[Samples]
    workdir: str
    ports: Optional[Ports] = None


@dataclass(frozen=True)
class Conversion:
    """A finished conversion."""

    converted: Converted
    took_ns: int


@dataclass(frozen=True)
class UnrollJob:
    """Make calibration data of sequences in ``folder``, a new one. Answer: a DataRef.

    keep: how many steps at most.
    """

    model: str
    samples: Samples
    inputs: tuple[TensorSpec, ...]
    wires: tuple[Wire, ...]
    keep: int
    folder: str


@dataclass(frozen=True)
class VariantJob:
    """Make a shared variant. Answer: :class:`Noted`."""

    recipe: str
    parameters: tuple[tuple[str, str], ...]
    source: str
    out: str
    inputs: tuple[TensorSpec, ...]
    calibration: Optional[Samples]


@dataclass(frozen=True)
class Noted:
    """A step's notes for the record."""

    notes: tuple[str, ...]
    took_ns: int


@dataclass(frozen=True)
class BuildJob:
    """Build an engine in ``workdir``. Answer: :class:`Built`."""

    backend: Location
    model: str
    precision: Precision
    recipe: str
    device: str
    inputs: tuple[TensorSpec, ...]
    calibration: Optional[Samples]
    workdir: str
    parameters: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    profiles: tuple[tuple[ShapeRange, ...], ...] = ()
    compute_capability: Optional[str] = None
    ports: Optional[Ports] = None


@dataclass(frozen=True)
class Built:
    """A finished build."""

    engine: Engine
    took_ns: int


@dataclass(frozen=True)
class OpenJob:
    """Open an engine and bind the fixed sample. Answer: :class:`Opened`.

    inputs: what the data feed; with ``sequences``, these. gpu: CUDA's number of the NVIDIA GPU that
    ``device`` is; None: it is none.
    """

    backend: Location
    engine: Engine
    device: str
    settings: Settings
    sample: Samples
    inputs: tuple[TensorSpec, ...]
    sequences: Optional[Sequences] = None
    gpu: Optional[int] = None


@dataclass(frozen=True)
class Opened:
    """open_ns: loading the engine; first_ns: the first inference, bind to fetch.

    device_timed: whether a :class:`PhasesJob` can be asked. counts_energy: whether a slice can be
    metered.
    """

    open_ns: int
    first_ns: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device_timed: bool = False
    counts_energy: bool = False


@dataclass(frozen=True)
class WarmJob:
    """Warm up. ``iterations``: a count found earlier; None: by the steadiness rule."""

    iterations: Optional[int]
    min_iterations: int
    min_ns: int
    max_iterations: int
    max_ns: int


@dataclass(frozen=True)
class Warmed:
    """How the warm-up went; ``steady`` is None where a count was given."""

    iterations: int
    steady: Optional[bool]


@dataclass(frozen=True)
class SliceJob:
    """Measure for at least ``min_ns`` and ``min_iterations``. Answer: :class:`Sliced`.

    rest_s: before it, meter the device for so long with nothing running, and the slice too; None:
    no metering.
    """

    timed: str
    min_ns: int
    min_iterations: int
    rest_s: Optional[float] = None


@dataclass(frozen=True)
class Sliced:
    """Raw durations (``end-to-end``, ``run``) or gaps between completions (``throughput``).

    numbers: base64 of little-endian uint64 nanoseconds. started_ns: on the monotonic clock, which
    processes of one host share. energy, rest: of the slice and of the rest before it, where these
    were metered.
    """

    timed: str
    started_ns: int
    numbers: str
    settling: int
    run_delay_ns: Optional[int]
    involuntary_switches: Optional[int]
    cpu_ns: Optional[int]
    energy: Optional[Metered] = None
    rest: Optional[Metered] = None


@dataclass(frozen=True)
class PhasesJob:
    """Time inferences by the device's own events. Answer: :class:`Phased`.

    After ``warm_ns``: at least ``min_ns`` and ``min_iterations``, and no more than the maxima.
    """

    warm_ns: int = 200_000_000
    min_ns: int = 100_000_000
    min_iterations: int = 50
    max_iterations: int = 1_000
    max_ns: int = 2_000_000_000


@dataclass(frozen=True)
class Phased:
    """numbers: H2D, compute, D2H and enqueue of each inference, base64 of [4, n] uint64 ns."""

    numbers: str


@dataclass(frozen=True)
class FinishJob:
    """End a launch: read memory, compare the fixed sample's output.

    explain: say also what really ran, and with what code a user's program runs it.
    """

    expected: Optional[str]
    explain: bool


@dataclass(frozen=True)
class Finished:
    """The end of a launch. output_error, held_down: as in :class:`harness.record.LaunchRecord`.

    device_bytes: of the device's memory, as the runtime says; device_process_bytes: as its driver
    says of this process.
    """

    peak_rss_bytes: Optional[int]
    import_only_bytes: Optional[int]
    pss_bytes: Optional[int]
    output_error: Optional[float]
    executed: Optional[Executed]
    deploy_code: Optional[str]
    versions: tuple[tuple[str, str], ...]
    device_bytes: Optional[int] = None
    device_process_bytes: Optional[int] = None
    held_down: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccuracyJob:
    """Run all validation samples through the session that an OpenJob opened.

    reference: the folder that the reference's pass left, on the same samples; None: these outputs
    are the reference. out: the folder for the fixed sample's output, which launches are compared
    with. keep: leave all outputs and scores there too. limit, stop: see
    :class:`harness.judging.Subject`.
    """

    samples: Samples
    inputs: tuple[TensorSpec, ...]
    batch: int
    metric: str
    reference: Optional[str]
    out: str
    keep: bool
    limit: Optional[float] = None
    stop: str = "never"


@dataclass(frozen=True)
class Judged:
    """What the metric keeps of all samples: rows of ``width`` numbers, in validation order.

    scores: the rows one after another, base64 of little-endian float64.
    problem: why the outputs can't be right (NaN, constant ...), or None. stopped: why not all
    samples were needed, or None.
    """

    samples: int
    width: int
    labelled: bool
    higher_is_better: bool
    scores: str
    compared: int
    cosine_mean: Optional[float]
    cosine_min: Optional[float]
    sqnr_db: Optional[float]
    max_abs_error: Optional[float]
    top1: Optional[float]
    problem: Optional[str]
    executed: Optional[Executed]
    versions: tuple[tuple[str, str], ...]
    stopped: Optional[str] = None


@dataclass(frozen=True)
class CrossCheckJob:
    """Compare the first outputs that the reference's pass kept with onnx's reference evaluator."""

    model: str
    samples: Samples
    inputs: tuple[TensorSpec, ...]
    kept: str
    sequences: Optional[Sequences] = None


@dataclass(frozen=True)
class CrossChecked:
    """worst: the largest difference over all outputs, relative to each one's largest value."""

    samples: int
    worst: float
    agrees: bool


@dataclass(frozen=True)
class SearchJob:
    """Find out why static int8 fails, and what does better. Answer: :class:`Searched`.

    parameters: of the recipe that failed. limit: the largest drop of the metric.
    """

    recipe: str
    parameters: tuple[tuple[str, str], ...]
    source: str
    inputs: tuple[TensorSpec, ...]
    calibration: Samples
    metric: str
    limit: float
    seconds: float
    threads: int


@dataclass(frozen=True)
class Searched:
    """How a search went. proposals: places in ``steps``, the safest first. stopped: as for a pass.

    metric: what the drops are of; where the samples have no labels, closeness to fp32.
    """

    samples: int
    metric: str
    steps: tuple[Tried, ...]
    sensitivity: tuple[LayerNoise, ...]
    proposals: tuple[int, ...]
    stopped: Optional[str]


@dataclass(frozen=True)
class Refused:
    """A job that failed: the classified exception. Any job may be answered by it."""

    status: Status
    stage: Stage
    reason: str
    fix: Optional[str]

    def outcome(self) -> dict[str, object]:
        """The fields that a record takes over."""
        return {name: getattr(self, name) for name in ("status", "stage", "reason", "fix")}


@dataclass(frozen=True)
class Problems:
    """All that is wrong with the user's model and data."""

    problems: tuple[Problem, ...]
