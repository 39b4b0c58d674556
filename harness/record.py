"""The records: what is kept of a run, one JSON line each, immutable and versioned.

A run's file begins with its :class:`RunRecord`; every build, accuracy pass and launch adds one
line, whatever its outcome. Statistics are derived by :mod:`harness.analysis`, never stored: a
launch keeps its raw durations in a binary sidecar (:class:`Block`) and its slices' quantiles here.
None means "not measured".
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from harness.gpu import GpuState
from harness.types import (
    Candidate,
    Device,
    Engine,
    Executed,
    LayerNoise,
    Probe,
    Settings,
    Share,
    Stage,
    Status,
    TensorSpec,
    Tried,
)

# The shared dataclasses are read here by pydantic, which would skip fields that it does not know.
for _shared in (
    Candidate,
    Device,
    Engine,
    Executed,
    GpuState,
    LayerNoise,
    Probe,
    Settings,
    Share,
    TensorSpec,
    Tried,
):
    setattr(_shared, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010 - not theirs


Phase = Literal["screen", "rounds", "tail", "energy", "sustain"]
"""What a round is for. Only those of ``rounds`` are evidence for the ranking.

A screen's launches are short, and decide only who goes on. A tail's are alone on the host, and so
are those whose energy is metered. A
sustained stretch is one launch of each candidate, kept in parts, one round each.
"""


class _Frozen(BaseModel):
    # An infinite error is a finding; as JSON's null it would read "not measured".
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="strings"
    )


class Block(_Frozen):
    """A stretch of the sidecar: ``count`` numbers of ``dtype`` (little-endian) at ``offset``."""

    offset: int
    count: int
    dtype: Literal["uint32", "uint64", "float32"]
    crc32: int


class Outcome(_Frozen):
    """What became of a step; ``reason`` and ``fix`` are for people."""

    status: Status = Status.OK
    stage: Optional[Stage] = None
    reason: Optional[str] = None
    fix: Optional[str] = None

    @property
    def ok(self) -> bool:
        """Whether the step has a result."""
        return self.status is Status.OK

    def is_like(self, other: Outcome) -> bool:
        """Whether the same became of both."""
        fields = Outcome.model_fields
        return all(getattr(self, name) == getattr(other, name) for name in fields)


class ModelUse(_Frozen):
    """The user's model. path: as they named it. sha256 covers its external data too.

    opset: of ONNX; else 0.
    """

    name: str
    path: str
    format: str = "onnx"
    sha256: str
    size_bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class DataUse(_Frozen):
    """The user's data, and how it was split.

    The calibration and validation samples are a function of the data and the configuration, and
    disjoint, by content too. calibration_source names data of its own, then nothing is split off.
    notes: what the user should know of the data.
    """

    source: str
    sha256: str
    samples: int
    labelled: bool
    metric: str
    calibration_source: Optional[str] = None
    calibration_sha256: Optional[str] = None
    calibration_samples: int
    validation_samples: int
    seed: int
    notes: tuple[str, ...] = ()


class Skip(_Frozen):
    """A combination that was left out of the plan, and why."""

    candidate: Candidate
    status: Status
    reason: str
    fix: Optional[str] = None


class RunRecord(_Frozen):
    """The head of a run: everything that was decided before anything was measured.

    baseline: the fp32 candidate that speed-ups refer to. reference: what computes the outputs and
    scores that all others are compared with, and is never timed; None where the baseline does.
    """

    kind: Literal["run"] = "run"
    schema_version: Literal[1] = 1
    at: datetime
    run_id: str
    target: str
    enginepick_version: str
    git_sha: Optional[str]
    model: ModelUse
    data: DataUse
    host: dict[str, Any]
    host_fingerprint: str
    probes: tuple[Probe, ...]
    candidates: tuple[Candidate, ...]
    skips: tuple[Skip, ...]
    baseline: Optional[str]
    reference: Optional[Candidate] = None
    config: dict[str, Any]


class BuildRecord(Outcome):
    """One engine made, found in the cache, or refused.

    recipe: its name and resolved parameters. options: of the build. engine_key: the cache's.
    """

    kind: Literal["build"] = "build"
    schema_version: Literal[1] = 1
    at: datetime
    backend: str
    precision: str
    recipe: str
    device: str
    recipe_parameters: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    parent_sha256: str
    engine_key: str
    cached: bool = False
    build_ns: Optional[int] = None
    size_bytes: Optional[int] = None
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


class Agreement(_Frozen):
    """How close the outputs are to the fp32 reference's on the same samples.

    samples: how many were compared; where labels decide, only the first outputs are kept.
    """

    samples: int = 0
    cosine_mean: Optional[float]
    cosine_min: Optional[float]
    sqnr_db: Optional[float]
    max_abs_error: Optional[float]
    top1: Optional[float]


class AccuracyRecord(Outcome):
    """All validation samples through one candidate's session, by the same adapter and options.

    value: the metric over ``samples``. scores: ``width`` numbers per sample, in validation
    order, so that candidates are compared on the same samples; mostly one, and the value is their
    mean (else see :mod:`harness.aggregates`). labelled False: the metric is agreement with the
    reference, not accuracy. reference: the candidate whose outputs these were compared with; None
    for that one itself. stopped: why the pass ended before all samples. notes: what else is known
    of the outputs.
    """

    kind: Literal["accuracy"] = "accuracy"
    schema_version: Literal[1] = 1
    at: datetime
    candidate: str
    metric: str
    higher_is_better: bool = True
    labelled: bool
    reference: Optional[str] = None
    samples: int = 0
    value: Optional[float] = None
    width: int = 1
    scores: Optional[Block] = None
    agreement: Optional[Agreement] = None
    executed: Optional[Executed] = None
    peak_rss_bytes: Optional[int] = None
    versions: tuple[tuple[str, str], ...] = ()
    stopped: Optional[str] = None
    notes: tuple[str, ...] = ()


class AddRecord(_Frozen):
    """A candidate that the run came up with itself, to mend ``origin``, which had failed.

    recipe, recipe_parameters: what its own recipe's name stands for.
    """

    kind: Literal["add"] = "add"
    schema_version: Literal[1] = 1
    at: datetime
    candidate: Candidate
    origin: str
    recipe: str
    recipe_parameters: tuple[tuple[str, str], ...]


class RecoveryRecord(Outcome):
    """The search for what to do about a recipe of static int8 that failed the accuracy budget.

    recipe, backend: whose; backend None: a shared file's. metric, samples: what the drops are of,
    and on how many calibration samples. proposals: places in ``steps`` that were validated, in this
    order, until one wasn't certified. stopped: why it ended before its end.
    """

    kind: Literal["recovery"] = "recovery"
    schema_version: Literal[1] = 1
    at: datetime
    recipe: str
    backend: Optional[str] = None
    metric: str = ""
    samples: int = 0
    steps: tuple[Tried, ...] = ()
    sensitivity: tuple[LayerNoise, ...] = ()
    proposals: tuple[int, ...] = ()
    stopped: Optional[str] = None
    elapsed_s: float = 0.0


class DrawRecord(Outcome):
    """A candidate's engine calibrated anew on another draw of samples, judged and never timed.

    lot: which draw of ``calibrated_on`` samples. value: the metric over ``samples`` to validate.
    """

    kind: Literal["draw"] = "draw"
    schema_version: Literal[1] = 1
    at: datetime
    candidate: str
    lot: int
    calibrated_on: int
    value: Optional[float] = None
    samples: int = 0


class Slice(_Frozen):
    """A short stretch of iterations inside a launch.

    timed: ``end-to-end`` is bind + run + fetch, ``run`` is compute alone, ``throughput`` counts
    completions. settling: how many of the first iterations are kept but left out of the
    statistics. quantiles_ns: the 10th, 50th, 90th percentile of the rest. span_ns: from the
    first to the last completion. run_delay_ns: time runnable but not running, all threads.
    """

    timed: Literal["end-to-end", "run", "throughput"]
    started_ns: int
    span_ns: int
    iterations: int
    settling: int
    samples_per_iteration: int = 1
    quantiles_ns: tuple[float, float, float]
    run_delay_ns: Optional[int] = None
    involuntary_switches: Optional[int] = None
    cpu_ns: Optional[int] = None


class Memory(_Frozen):
    """Peak resident set (VmHWM) of the worker, and of a worker that only imported the runtime.

    device_bytes: of a device's own memory, as the runtime says. device_process_bytes: all that the
    process has there, its context too, as the driver says; a container may hide it.
    """

    peak_rss_bytes: Optional[int]
    import_only_bytes: Optional[int]
    pss_bytes: Optional[int] = None
    device_bytes: Optional[int] = None
    device_process_bytes: Optional[int] = None

    @property
    def net_bytes(self) -> Optional[int]:
        """What opening and running the engine added; the figure that is ranked."""
        if self.peak_rss_bytes is None or self.import_only_bytes is None:
            return None
        return max(0, self.peak_rss_bytes - self.import_only_bytes)


class PhaseTimes(_Frozen):
    """Inferences one at a time on a device, in trtexec's parts, by the device's own events.

    Each part has its 10th, 50th and 90th percentile; h2d, compute and d2h are those of
    :class:`harness.types.Phases`. raw: the parts of all ``iterations``, one part after another.
    """

    iterations: int
    h2d_ns: tuple[float, float, float]
    compute_ns: tuple[float, float, float]
    d2h_ns: tuple[float, float, float]
    enqueue_ns: tuple[float, float, float]
    raw: Block


class EnergyUse(_Frozen):
    """What the device took during the launch's slices, of which there is one.

    source: ``counter``, the device's own of all that it does; or why there is no value. joules,
    seconds: from one step of the counter to the last, so many ``updates`` later. idle_watts: the
    engine open and nothing running, before it.
    """

    source: Literal["counter", "unavailable"]
    joules: Optional[float] = None
    seconds: Optional[float] = None
    updates: int = 0
    idle_watts: Optional[float] = None


class LaunchRecord(Outcome):
    """One fresh process (or ``settings.processes`` of them) that opened one candidate.

    round: launches of a round belong together, and are compared as pairs if the round was
    finished (:class:`RoundRecord`). interleaved: they took turns while all were alive. position:
    its place in the round's random order. began: the first round of the same process, where it
    lived through several. control: the null control, a hidden duplicate that is
    compared with its twin and never ranked. durations: the slices' raw durations in order.
    output_error: the largest difference, relative to the largest magnitude,
    between this launch's output on the fixed sample and the accuracy pass's. executed and
    deploy_code (the script that runs this in the user's program): of the candidate's first launch.
    held_down: what held the GPU's clocks down at the end of slices.
    """

    kind: Literal["launch"] = "launch"
    schema_version: Literal[1] = 1
    at: datetime
    candidate: str
    round: int
    phase: Phase = "rounds"
    began: Optional[int] = None
    position: int
    control: bool = False
    interleaved: bool = True
    open_ns: Optional[int] = None
    first_ns: Optional[int] = None
    warmup_iterations: Optional[int] = None
    steady: Optional[bool] = None
    slices: tuple[Slice, ...] = ()
    durations: Optional[Block] = None
    memory: Optional[Memory] = None
    executed: Optional[Executed] = None
    deploy_code: Optional[str] = None
    output_error: Optional[float] = None
    versions: tuple[tuple[str, str], ...] = ()
    phases: Optional[PhaseTimes] = None
    energy: Optional[EnergyUse] = None
    held_down: tuple[str, ...] = ()


class RoundRecord(_Frozen):
    """The end of a round: its launches may be paired only if this line exists.

    steal, stalled: parts of the round's time that a hypervisor took, and that some task waited for
    a CPU (PSI). throttled: thermal events. clock_hz: the CPUs' mean frequency at its end. gpus:
    what happened to each NVIDIA GPU that was measured on.
    """

    kind: Literal["round"] = "round"
    schema_version: Literal[1] = 1
    at: datetime
    round: int
    phase: Phase = "rounds"
    elapsed_s: float
    steal: Optional[float] = None
    stalled: Optional[float] = None
    throttled: Optional[int] = None
    clock_hz: Optional[float] = None
    gpus: tuple[GpuState, ...] = ()


class DropRecord(_Frozen):
    """A candidate that is not launched again, after which round and on what evidence."""

    kind: Literal["drop"] = "drop"
    schema_version: Literal[1] = 1
    at: datetime
    candidate: str
    round: int
    reason: str


class EndRecord(_Frozen):
    """Why the run stopped: ``done``, ``interrupted``, ``budget``, ``disk-full``."""

    kind: Literal["end"] = "end"
    schema_version: Literal[1] = 1
    at: datetime
    why: str
    elapsed_s: float


Record = Annotated[
    Union[
        RunRecord,
        BuildRecord,
        AccuracyRecord,
        AddRecord,
        RecoveryRecord,
        DrawRecord,
        LaunchRecord,
        RoundRecord,
        DropRecord,
        EndRecord,
    ],
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Record)


def to_json(record: _Frozen) -> str:
    """One line, without the line break."""
    return record.model_dump_json()


def from_json(line: Union[str, bytes]) -> Any:
    """Read one line. Raises pydantic.ValidationError (a ValueError) for anything unknown."""
    return _ADAPTER.validate_json(line)
