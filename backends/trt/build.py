"""Making a TensorRT engine: here, or ahead for a GPU that is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from backends import enginefile
from backends.trt import calibrator, layers, network, targets, timing
from backends.trt.about import CALIBRATION, ENGINE, About
from backends.trt.adopted import adopted
from backends.trt.gpu import Place, Uploads, place
from backends.trt.library import Library, find
from backends.trt.log import AHEAD, Log, classified, uncollected
from backends.trt.options import Options, parse
from harness.backend import BuildRequest
from harness.errors import BackendError, OutOfMemoryError, UnsupportedError
from harness.types import Engine, Precision

if TYPE_CHECKING:
    import tensorrt as trt

Choosing = tuple[tuple[str, ...], Optional[str]]
"""The builder's flags, and the kind of calibrator, if any."""

IMPLICIT: Mapping[tuple[Precision, str], Choosing] = {
    (Precision.FP16, "implicit"): (("FP16",), None),
    (Precision.INT8, "implicit-entropy"): (("INT8", "FP16"), "entropy"),
    (Precision.INT8, "implicit-minmax"): (("INT8", "FP16"), "minmax"),
}
"""Recipes by which TensorRT chooses types itself."""

_INSTEAD = {Precision.FP16: "fp16", Precision.INT8: "qdq-portable or qdq-fp16"}


@dataclass(frozen=True)
class Job:
    """A build that is understood and possible: what, with which library, for which GPU."""

    request: BuildRequest
    options: Options
    library: Library
    place: Place

    @property
    def implicit(self) -> Choosing:
        """The flags and the calibrator, none for a strongly typed network."""
        return IMPLICIT.get((self.request.precision, self.request.recipe), ((), None))

    @property
    def mode(self) -> str:
        """How types are decided, in words."""
        flags, kind = self.implicit
        if not flags:
            return "strongly typed"
        return f"implicit, {'+'.join(flags)}" + (f", {kind} calibrator" if kind else "")


def build(request: BuildRequest, workdir: str) -> Engine:
    """Build one of the offers, or take a user's engine as it is.

    Raises:
        BackendError: one of its classes where the reason is known, with TensorRT's first line.
    """
    if request.precision is Precision.AS_IS:
        return adopted(request, Path(workdir))
    options = parse(request.options)
    library = find(options.library)
    _refuse_impossible(request, options, library)
    job = Job(request, options, library, place(request.device, request.compute_capability))
    _refuse_precision(request.precision, job.place.compute_capability)
    with job.place.current() as device:
        return _Build(job, Path(workdir), device).run()


class _Build:
    """One build, step by step. device: memory of the GPU that calibrates, None without one."""

    def __init__(self, job: Job, folder: Path, device: Optional[Uploads]) -> None:
        self.job, self.folder, self.device = job, folder, device
        self.log = Log(job.library, verbose=True)
        self.notes: list[str] = []

    def run(self) -> Engine:
        """From the model to the engine's files."""
        request, library, log = self.job.request, self.job.library, self.log
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = library.module
        with _classified(log), uncollected():
            trt.init_libnvinfer_plugins(log.logger, "")
            builder = trt.Builder(log.logger)
            typed = not self.job.implicit[0]
            parsed = network.parse(library, builder, log, request.model, typed=typed)
            config = builder.create_builder_config()
            self._configure(config)
            network.add_profiles(library, builder, config, parsed, request.profiles)
            calibrating = self._calibrate(builder, config, parsed)
            measured = self._timing(config)
            serialized = builder.build_serialized_network(parsed.definition, config)
            if calibrating is not None and calibrating.fault is not None:
                raise calibrating.fault
            if serialized is None:
                raise classified(log.first_error() or "TensorRT built nothing, and says not why")
            (self.folder / ENGINE).write_bytes(serialized)
        if measured is not None:
            timing.keep(config, measured)
        return self._finished(parsed)

    def _configure(self, config: trt.IBuilderConfig) -> None:
        options, library = self.job.options, self.job.library
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = library.module
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if self.job.request.precision is Precision.TF32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
        for name in self.job.implicit[0]:
            config.set_flag(getattr(trt.BuilderFlag, name))
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if library.is_rtx:
            targets.aim(library, config, self.job.place.compute_capability)

    def _timing(self, config: trt.IBuilderConfig) -> Optional[Path]:
        """The file of measurements, if they are kept: TensorRT-RTX measures nothing."""
        if self.job.library.is_rtx or self.job.options.timing_cache is False:
            return None
        file = timing.file_for(self.job.library, self.job.place.gpu)
        said = len(self.log.lines)
        if timing.use(config, file):
            self.notes.append("timing cache of earlier builds")
        else:
            del self.log.lines[said:]  # what is wrong with the cache is no fault of the build
        return file

    def _calibrate(
        self, builder: trt.Builder, config: trt.IBuilderConfig, parsed: network.Network
    ) -> Any:
        """The calibrator, which has to live as long as the build; None where nothing calibrates."""
        kind = self.job.implicit[1]
        if kind is None or self.device is None:
            return None
        library, request = self.job.library, self.job.request
        found = calibrator.batches(request.calibration, parsed.inputs, request.profiles)
        base = getattr(library.module, calibrator.BASES[kind])
        cache = self.folder / CALIBRATION
        made = calibrator.make_calibrator(
            base, found.feeds(), found.batch, self.device.upload, cache
        )
        profile = network.profile_of(library, builder, parsed, found.profile())
        if hasattr(config, "int8_calibrator") and hasattr(config, "set_calibration_profile"):
            config.int8_calibrator = made
            config.set_calibration_profile(profile)
        self.notes.append(f"calibrated by {found.count} samples in batches of {found.batch}")
        if found.skipped:
            self.notes.append(f"{found.skipped} calibration samples of other shapes left out")
        return made

    def _finished(self, parsed: network.Network) -> Engine:
        job, text = self.job, self.log.text()
        tf32 = job.request.precision is Precision.TF32
        found = layers.from_log(text, tf32=tf32)
        about = About(
            library=job.library.name,
            version=job.library.version,
            mode=job.mode,
            precision=job.request.precision,
            tf32=tf32,
            compute_capability=job.place.compute_capability,
            driver=job.place.driver,
            profiles=job.request.profiles,
            inputs=parsed.inputs,
            outputs=parsed.outputs,
            layers=found.products if found else (),
            layers_detail=found.detail if found else "",
            device_memory_bytes=_most(text, r"Total Activation Memory: (\d+) bytes"),
            weights_bytes=_most(text, r"Total Weights Memory: (\d+) bytes"),
            build_options=job.request.options,
        )
        enginefile.write(about, self.folder / ENGINE)
        cached = [CALIBRATION] if (self.folder / CALIBRATION).is_file() else []
        notes = (*_told(about, job, found), *self.notes)
        return enginefile.engine_of(self.folder, ENGINE, enginefile.FILE, *cached, notes=notes)


def _refuse_impossible(request: BuildRequest, options: Options, library: Library) -> None:
    recipe, precision = request.recipe, request.precision
    if (precision, recipe) in IMPLICIT and (library.is_rtx or library.major > 10):  # noqa: PLR2004
        raise UnsupportedError(
            f"{library} has no implicit precision or calibrator: types are the model's",
            f"use the recipe {_INSTEAD[precision]}",
        )
    if request.compute_capability is not None and not library.is_rtx:
        raise UnsupportedError(
            f"{library} builds only for the GPU that it runs on: build on the target itself, or "
            "with TensorRT-RTX, which needs no GPU for it",
            f"{AHEAD} --option library=tensorrt_rtx",
        )
    if options.timing_cache and library.is_rtx:
        raise UnsupportedError(f"{library} measures no kernels: it has no timing cache")


def _refuse_precision(precision: Precision, compute_capability: str) -> None:
    able = targets.precisions(compute_capability)
    if precision not in able:
        names = ", ".join(map(str, able))
        raise UnsupportedError(
            f"a GPU of compute capability {compute_capability} has no {precision}, only {names}"
        )


@contextmanager
def _classified(log: Log) -> Iterator[None]:
    """Faults of the bindings become what TensorRT's first error line says."""
    try:
        yield
    except BackendError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(log.first_error() or str(error) or "no memory left") from error
    except (RuntimeError, TypeError) as error:  # a factory that failed raises TypeError
        raise classified(log.first_error() or str(error)) from error


def _told(about: About, job: Job, found: Optional[layers.Layers]) -> Iterator[str]:
    """What the record says of an engine."""
    yield f"{job.library}, {about.mode}, TF32 {'on' if about.tf32 else 'off'}"
    yield f"for compute capability {about.compute_capability}"
    if found:
        yield str(found)
    if about.weights_bytes is not None:
        yield f"{about.weights_bytes / 1e6:.2f} MB of weights"
    if about.device_memory_bytes is not None:
        yield f"{about.device_memory_bytes / 1e6:.2f} MB of device memory for activations"


def _most(text: str, pattern: str) -> Optional[int]:
    return max(map(int, re.findall(pattern, text)), default=None)
