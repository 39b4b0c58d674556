"""One process, one candidate: serves jobs from the parent, one JSON line each way.

The only place that turns exceptions into outcomes. Whatever the runtime prints goes to the log
(file descriptors 1 and 2), never into the answers. The worker dies with its parent: by the
kernel's parent-death signal, and by the end of its input. Python 3.9, the standard library, numpy
and the runtime.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import traceback
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from typing import IO, Any, Optional

import numpy as np

from harness import jobs, wire
from harness.backend import (
    Backend,
    BuildRequest,
    Calibration,
    Converter,
    ConvertRequest,
    DeviceMemory,
    DeviceTimed,
    Feed,
    ProgramSource,
    Queue,
    Session,
)
from harness.datasets import CalibrationSet, DataRef, Dataset
from harness.errors import (
    BackendError,
    InputError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.measure import device, energy, nvml, process, slices, warmup
from harness.measure.accuracy import OutputFile, judge
from harness.outputs import difference
from harness.stateful import StatefulSession
from harness.types import Array, Probe, Scenario, Stage, Status, TensorSpec

PR_SET_PDEATHSIG = 1
REST_PAUSE_S = 1.0
"""After work, before the device counts as at rest."""
CHECKED_SAMPLES, AMONG = 2, 64
"""That a conversion is checked on, and the user's first ones, among which they are found."""
SLOT_ROUNDS = 2
"""Untimed inferences of each slot: some runtimes make ready at the first, others capture graphs at
the second."""


@dataclass
class Launch:
    """An opened candidate. ``sessions`` are more than one only for threads side by side.

    engine: the backend's own session, below one that steps through sequences. held_down: what held
    the GPU's clocks down in slices, so far.
    """

    backend: Backend
    job: jobs.OpenJob
    feed: Feed
    sessions: list[Session]
    import_only_bytes: Optional[int]
    engine: Session
    gpu: Optional[nvml.Gpu]
    held_down: dict[str, None] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        """The one that latency and accuracy use."""
        return self.sessions[0]

    @property
    def queue(self) -> Optional[Queue]:
        """The runtime's own queue, where it has one."""
        session = self.session
        return session if isinstance(session, Queue) else None


class Worker:
    """Serves jobs. Holds at most one launch."""

    def __init__(self) -> None:
        self._launch: Optional[Launch] = None
        self._handlers: dict[type, tuple[Stage, Callable[[Any], object]]] = {
            jobs.ProbeJob: (Stage.PROBE, self._probe),
            jobs.CheckJob: (Stage.PLAN, self._check),
            jobs.ReadJob: (Stage.PLAN, self._read),
            jobs.ConvertJob: (Stage.CONVERT, self._convert),
            jobs.UnrollJob: (Stage.PLAN, self._unroll),
            jobs.VariantJob: (Stage.VARIANT, self._variant),
            jobs.BuildJob: (Stage.BUILD, self._build),
            jobs.OpenJob: (Stage.OPEN, self._open),
            jobs.WarmJob: (Stage.WARMUP, self._warm),
            jobs.SliceJob: (Stage.MEASURE, self._slice),
            jobs.PhasesJob: (Stage.MEASURE, self._phases),
            jobs.FinishJob: (Stage.MEASURE, self._finish),
            jobs.AccuracyJob: (Stage.ACCURACY, self._accuracy),
            jobs.CrossCheckJob: (Stage.ACCURACY, self._cross_check),
            jobs.SearchJob: (Stage.VARIANT, self._search),
        }

    def serve(self, line: str) -> str:
        """One job in, one answer out. Never raises: a fault is an answer too."""
        message = json.loads(line)
        kind = getattr(jobs, message["job"])
        stage, handle = self._handlers[kind]
        try:
            answer = handle(wire.decode(kind, message["body"]))
        except BaseException as error:  # noqa: BLE001 - this is where outcomes are made
            answer = refusal(error, stage)
        return json.dumps({"answer": type(answer).__name__, "body": wire.encode(answer)})

    @property
    def _opened(self) -> Launch:
        if self._launch is None:
            raise RuntimeError("no engine is open in this worker")
        return self._launch

    def _probe(self, job: jobs.ProbeJob) -> Probe:
        probe: Probe = load(job.backend).probe()
        return probe

    def _check(self, job: jobs.CheckJob) -> object:
        from harness import checks

        try:
            return checks.check(
                job.model,
                job.data,
                job.metric,
                calibration_source=job.calibration,
                spool_folder=job.spool,
                calibration_samples=job.calibration_samples,
                seed=job.seed,
                declared=job.images,
                state=dict(job.state),
                program=job.program,
            )
        except InputError as error:
            return jobs.Problems(error.problems)

    def _read(self, job: jobs.ReadJob) -> object:
        source: ProgramSource = load(job.source)
        try:
            return source.read(job.program, job.folder)
        except InputError as error:
            return jobs.Problems(error.problems)

    def _convert(self, job: jobs.ConvertJob) -> jobs.Conversion:
        converter: Converter = load(job.converter)
        request = ConvertRequest(
            model=job.model,
            inputs=job.inputs,
            outputs=job.outputs,
            shapes=job.shapes,
            samples=tuple(checking_feeds(job)),
            ports=job.ports,
        )
        start = perf_counter_ns()
        with scratch():
            converted = converter.convert(request, job.workdir)
        require_inside(converted.path, job.workdir)
        return jobs.Conversion(converted, perf_counter_ns() - start)

    def _unroll(self, job: jobs.UnrollJob) -> DataRef:
        from harness.unrolling import unroll

        return unroll(job)

    def _variant(self, job: jobs.VariantJob) -> jobs.Noted:
        from harness import variants

        start = perf_counter_ns()
        with scratch():
            notes = variants.make(
                variants.Recipe(job.recipe, job.parameters),
                job.source,
                job.out,
                calibration(job.calibration, job.inputs),
            )
        return jobs.Noted(notes, perf_counter_ns() - start)

    def _build(self, job: jobs.BuildJob) -> jobs.Built:
        backend: Backend = load(job.backend)
        request = BuildRequest(
            model=job.model,
            precision=job.precision,
            recipe=job.recipe,
            device=job.device,
            calibration=calibration(job.calibration, job.inputs),
            parameters=job.parameters,
            options=job.options,
            profiles=job.profiles,
            compute_capability=job.compute_capability,
            ports=job.ports,
        )
        start = perf_counter_ns()
        with scratch():
            engine = backend.build(request, job.workdir)
        require_inside(engine.path, job.workdir)
        return jobs.Built(engine, perf_counter_ns() - start)

    def _open(self, job: jobs.OpenJob) -> jobs.Opened:
        backend: Backend = load(job.backend)
        feed = first_feed(job)
        for modules in backend.capabilities.modules:
            import_first(modules, dict(job.settings.build).values())
        watched = job.gpu is not None and nvml.start()
        process.reset_peak()
        import_only = process.peak_rss_bytes()
        start = perf_counter_ns()
        session = engine = backend.open(job.engine, job.device, job.settings)
        opened = perf_counter_ns()
        if job.sequences is not None:
            session = StatefulSession(session, job.sequences)
        session.bind(feed)
        session.run()
        session.fetch()
        first = perf_counter_ns()
        gpu = nvml.find(job.gpu) if watched else None
        self._launch = Launch(backend, job, feed, [session], import_only, engine, gpu)
        if job.settings.scenario is Scenario.THROUGHPUT:
            self._prepare_throughput()
        return jobs.Opened(
            open_ns=opened - start,
            first_ns=first - opened,
            inputs=session.inputs,
            outputs=session.outputs,
            device_timed=isinstance(engine, DeviceTimed),
            counts_energy=gpu is not None and gpu.counts_energy(),
        )

    def _prepare_throughput(self) -> None:
        """Bind every slot, or open one more session per further thread."""
        launch = self._opened
        settings = launch.job.settings
        if launch.queue is not None:
            launch.queue.bind_slots(launch.feed, settings.in_flight)
            return
        for _ in range(settings.in_flight - 1):
            session = launch.backend.open(launch.job.engine, launch.job.device, settings)
            session.bind(launch.feed)
            launch.sessions.append(session)

    def _warm(self, job: jobs.WarmJob) -> jobs.Warmed:
        launch = self._opened
        session, feed, clock = launch.session, launch.feed, perf_counter_ns

        def step() -> int:
            start = clock()
            session.bind(feed)
            session.run()
            session.fetch()
            return clock() - start

        limits = warmup.Limits(job.min_iterations, job.min_ns, job.max_iterations, job.max_ns)
        read = launch.gpu.clock_mhz if launch.gpu else lambda: None
        with slices.no_collector():
            iterations, steady = warmup.warm_up(step, limits, job.iterations, read)
        if launch.job.settings.scenario is Scenario.THROUGHPUT:
            self._warm_slots()
        return jobs.Warmed(iterations, steady)

    def _warm_slots(self) -> None:
        """What is made ready in a slot, or in a session beside the first, is untimed."""
        launch = self._opened
        for _ in range(SLOT_ROUNDS):
            if launch.queue is None:
                for session in launch.sessions[1:]:
                    session.run()
                continue
            in_flight = range(launch.job.settings.in_flight)
            for slot in in_flight:
                launch.queue.start(slot)
            for _ in in_flight:
                launch.queue.wait_any()

    def _slice(self, job: jobs.SliceJob) -> jobs.Sliced:
        gpu = self._opened.gpu
        if job.rest_s is None or gpu is None:
            sliced = self._plain_slice(job)
        else:
            rest = energy.at_rest(gpu.energy_mj, REST_PAUSE_S, job.rest_s)
            with energy.Meter(gpu.energy_mj).running() as meter:
                sliced = self._plain_slice(job)
            sliced = replace(sliced, energy=meter.reading, rest=rest)
        if gpu is not None:
            self._opened.held_down.update(dict.fromkeys(gpu.held_down()))
        return sliced

    def _plain_slice(self, job: jobs.SliceJob) -> jobs.Sliced:
        launch = self._opened
        before = process.scheduled()
        started = perf_counter_ns()
        if job.timed == "end-to-end":
            numbers = slices.end_to_end(launch.session, launch.feed, job.min_ns, job.min_iterations)
            settled = slices.settling(numbers)
        elif job.timed == "run":
            numbers = slices.run_only(launch.session, job.min_ns, job.min_iterations)
            settled = slices.settling(numbers)
        else:
            marks = self._completions(job)
            started, settled = marks[0], 0
            numbers = array("Q", np.diff(np.asarray(marks)).tolist())
        after = process.scheduled()
        noise = after.since(before) if after and before else None
        return jobs.Sliced(
            timed=job.timed,
            started_ns=started,
            numbers=_base64(np.asarray(numbers, "<u8")),
            settling=settled,
            run_delay_ns=noise.run_delay_ns if noise else None,
            involuntary_switches=noise.involuntary_switches if noise else None,
            cpu_ns=noise.cpu_ns if noise else None,
        )

    def _phases(self, job: jobs.PhasesJob) -> jobs.Phased:
        launch = self._opened
        if not isinstance(launch.engine, DeviceTimed):
            raise UnsupportedError("this session isn't timed by a device")
        if isinstance(launch.session, StatefulSession):
            launch.session.reset()
        launch.session.bind(launch.feed)
        limits = device.Limits(
            job.warm_ns, job.min_ns, job.min_iterations, job.max_iterations, job.max_ns
        )
        found = device.timed_stretch(launch.engine, limits)
        rows = [[each.h2d_ns, each.compute_ns, each.d2h_ns, each.enqueue_ns] for each in found]
        return jobs.Phased(_base64(np.array(rows, "<u8").T))

    def _completions(self, job: jobs.SliceJob) -> array[int]:
        launch = self._opened
        if launch.queue is None:
            return slices.thread_completions(launch.sessions, job.min_ns, job.min_iterations)
        in_flight = launch.job.settings.in_flight
        return slices.queue_completions(launch.queue, in_flight, job.min_ns, job.min_iterations)

    def _finish(self, job: jobs.FinishJob) -> jobs.Finished:
        launch = self._opened
        peak = process.peak_rss_bytes()
        pss = process.pss_bytes()
        process_bytes = launch.gpu.process_bytes() if launch.gpu else None
        if isinstance(launch.session, StatefulSession):
            launch.session.reset()
        launch.session.bind(launch.feed)
        launch.session.run()
        outputs = {name: np.array(value) for name, value in launch.session.fetch().items()}
        error = None if job.expected is None else output_error(outputs, job.expected)
        finished = jobs.Finished(
            peak_rss_bytes=peak,
            import_only_bytes=launch.import_only_bytes,
            pss_bytes=pss,
            output_error=error,
            executed=launch.session.executed if job.explain else None,
            deploy_code=deploy_code(launch) if job.explain else None,
            versions=versions(launch.backend),
            device_bytes=device_bytes([launch.engine, *launch.sessions[1:]]),
            device_process_bytes=process_bytes,
            held_down=tuple(launch.held_down),
        )
        for session in launch.sessions:
            session.close()
        self._launch = None
        return finished

    def _search(self, job: jobs.SearchJob) -> jobs.Searched:
        from harness import metrics
        from harness.recovery.search import search

        metric = metrics.get(job.metric)  # its files and modules are found from where we are now
        with scratch():
            return search(job, metric)

    def _cross_check(self, job: jobs.CrossCheckJob) -> jobs.CrossChecked:
        from harness.reference import cross_check

        return cross_check(job)

    def _accuracy(self, job: jobs.AccuracyJob) -> jobs.Judged:
        launch = self._opened
        judged = judge(launch.session, job)
        return replace(judged, executed=launch.session.executed, versions=versions(launch.backend))


@contextmanager
def scratch() -> Iterator[None]:
    """Work in a folder that is removed: quantizers leave files in the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="enginepick-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def load(location: jobs.Location) -> Any:
    """A plug-in: its module is imported here, its vendor's package by its methods."""
    return getattr(importlib.import_module(location.module), location.attribute)


def import_first(modules: str, chosen: Collection[str] = ()) -> str:
    """Import one of ``a|b``: the one that was chosen, or else the first that works; its name.

    What the last of them raises says what is wrong.
    """
    names = [name for name in modules.split("|") if name in chosen] or modules.split("|")
    for name in names[:-1]:
        with suppress(Exception):  # a broken installation raises anything
            importlib.import_module(name)
            return name
    importlib.import_module(names[-1])
    return names[-1]


def versions(backend: Backend) -> tuple[tuple[str, str], ...]:
    """Versions of the interpreter, numpy and the runtime's packages, from their metadata."""
    found = [("python", ".".join(str(part) for part in sys.version_info[:3]))]
    modules = [name for each in backend.capabilities.modules for name in each.split("|")]
    there = [name for name in modules if importlib.util.find_spec(name) is not None]
    packages = dict.fromkeys(name.partition(".")[0] for name in there)
    for name in ("numpy", *packages):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            module = sys.modules.get(name)
            found.append((name, str(getattr(module, "__version__", "unknown"))))
    return tuple(found)


def deploy_code(launch: Launch) -> str:
    """The script that runs what was opened, outside of this project."""
    job = launch.job
    code = launch.backend.deploy_code(job.engine, job.device, job.settings)
    if job.sequences is None:
        return code
    state = {each.input.name: each.output for each in job.sequences.wires}
    return (
        f"{code}\n\n# The inputs that are states: zeros (or a start of your own) at first, then"
        f" these outputs of the step before.\nSTATE = {state!r}\n"
    )


def calibration(
    samples: Optional[jobs.Samples], inputs: tuple[TensorSpec, ...]
) -> Optional[Calibration]:
    """The calibration samples as backends and recipes read them."""
    if samples is None:
        return None
    return CalibrationSet(samples.data, inputs, samples.indices())


def require_inside(made: str, folder: str) -> None:
    """That a plug-in made its file where it was told to; what lies elsewhere isn't kept."""
    if Path(folder) not in Path(made).parents:
        raise BackendError(f"made {made}, which isn't in the folder that it was given")


def checking_feeds(job: jobs.ConvertJob) -> Iterator[Feed]:
    """The user's first samples that have the shapes that are converted for."""
    if job.samples is None:
        return
    shapes = dict(job.shapes)
    feeds = Dataset(job.samples.data).feeds(job.inputs, job.samples.indices()[:AMONG])
    alike = (feed for feed, _ in feeds if {n: a.shape for n, a in feed.items()} == shapes)
    yield from islice(alike, CHECKED_SAMPLES)


def first_feed(job: jobs.OpenJob) -> Feed:
    """The fixed sample: the first feed of the accuracy pass, filled up to ``batch`` samples."""
    data, batch = Dataset(job.sample.data), job.settings.batch
    form = data.layout(job.inputs, batch)
    feed, chosen = next(data.feeds(job.inputs, job.sample.stages()[0][: form.size], batch))
    if form.fixed or len(chosen) == batch:  # what a fixed batch lacks is padded
        return feed
    # Too few samples, or the next ones are of another shape.
    feed, _ = next(data.feeds(job.inputs, np.resize(chosen, batch).tolist(), batch))
    return feed


def device_bytes(sessions: Iterable[Session]) -> Optional[int]:
    """What all sessions take of the device's memory; None where any doesn't know."""
    known = [each.device_bytes if isinstance(each, DeviceMemory) else None for each in sessions]
    return None if None in known else sum(each or 0 for each in known)


def output_error(outputs: dict[str, Array], expected: str) -> Optional[float]:
    """The largest difference over all outputs, relative to the largest expected magnitude.

    Rows beyond the expected ones (a larger batch) are left out; None if the shapes can't be
    compared (they depend on the data); infinity when the outputs can't be those of one model, as
    a NaN that isn't expected.
    """
    with OutputFile(expected) as kept:
        reference = kept.read(0)
    if set(reference) != set(outputs):
        return float("inf")
    ours = {name: _cut(outputs[name], want) for name, want in reference.items()}
    if any(ours[name].shape != want.shape for name, want in reference.items()):
        return None
    return difference(ours, reference)


def _cut(got: Array, want: Array) -> Array:
    return got[: len(want)] if got.ndim and got.shape[1:] == want.shape[1:] else got


def refusal(error: BaseException, stage: Stage) -> jobs.Refused:
    """Classify what a job raised."""
    fix = getattr(error, "fix", None)
    if isinstance(error, InputError):
        first = error.problems[0]
        return jobs.Refused(Status.FAILED, stage, f"{first.where}: {first.what}", first.fix)
    if isinstance(error, UnsupportedError):
        status = Status.UNSUPPORTED
    elif isinstance(error, UnavailableError):
        status = Status.UNAVAILABLE
    elif isinstance(error, (OutOfMemoryError, MemoryError)) or "bad_alloc" in str(error):
        status = Status.OUT_OF_MEMORY
    elif isinstance(error, ImportError):
        status = Status.UNAVAILABLE
    else:
        status = Status.FAILED
        traceback.print_exception(type(error), error, error.__traceback__)
    text = str(error).strip() or type(error).__name__
    reason = (
        text
        if isinstance(error, (UnsupportedError, UnavailableError))
        else (f"{type(error).__name__}: {text}")
    )
    return jobs.Refused(status, stage, reason[:2000], fix)


def _base64(numbers: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def limit_memory(limit_bytes: int) -> None:
    """Cap the process's data segment; RLIMIT_AS would count what runtimes only reserve."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent is gone (Linux); elsewhere end of input does."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def take_answers() -> IO[str]:
    """Keep the pipe to the parent for answers alone; what libraries print goes to the log."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Serve until the input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's business
    answers = take_answers()
    limit = os.environ.get("ENGINEPICK_MEMORY_LIMIT")
    if limit:
        limit_memory(int(limit))
    worker = Worker()
    for line in sys.stdin:
        answers.write(worker.serve(line) + "\n")
        answers.flush()
    os._exit(0)  # runtimes' own clean-up may hang or crash, and there is nothing left to save


if __name__ == "__main__":
    main()
