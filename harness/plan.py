"""Which candidates there are: model x backend x precision x recipe x device x settings.

Pure: the same capabilities, probes and wishes give the same plan. What can't run is left out with
its reason, so that nothing is ever silently absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from harness import routes
from harness.backend import Capabilities, Offer
from harness.ownengines import takes
from harness.types import (
    Candidate,
    Precision,
    Probe,
    Scenario,
    Settings,
    Status,
    TensorSpec,
)
from harness.variants import SHARED, SOURCE

DEFAULT_BATCH = 8
DEFAULT_DEVICES = ("cpu", "gpu:0", "gpu")
_AS_IT_IS = Offer(Precision.AS_IS, SOURCE)
"""Of a model that is quantized."""
_REFERENCES = {"tflite": "litert"}
"""By format, where it isn't ONNX Runtime."""


def reference_backend(model_format: str) -> str:
    """The backend that computes the reference of models in a format."""
    return _REFERENCES.get(model_format, "onnxruntime")


@dataclass(frozen=True)
class Known:
    """A backend as the plan sees it: what it can do at all, and what it found here."""

    name: str
    capabilities: Capabilities
    probe: Probe


@dataclass(frozen=True)
class Wishes:
    """What the user asks to be compared. Empty: the defaults for this host and scenario.

    options: per backend, the values to try of each of its options. engines: the user's own, by the
    recipe that stands for each: their files. compute_capability: build only, for such a GPU, which
    need not be here.
    """

    scenario: Scenario
    devices: tuple[str, ...]
    cores: int
    precisions: tuple[Precision, ...] = ()
    threads: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()
    processes: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    in_flight: tuple[int, ...] = ()
    options: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)
    compute_capability: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A combination that is left out. status: unsupported or unavailable."""

    candidate: Candidate
    status: Status
    reason: str
    fix: str | None = None


@dataclass(frozen=True)
class Plan:
    """What will be built and measured. baseline: the id of the fp32 that speed-ups refer to."""

    candidates: tuple[Candidate, ...]
    skips: tuple[Skipped, ...]
    baseline: str | None


def make_plan(
    backends: Iterable[Known],
    wishes: Wishes,
    inputs: tuple[TensorSpec, ...],
    model_format: str = "onnx",
    calibration_samples: int | None = 1,
    *,
    tools: Sequence[routes.Tool] = (),
    quantized: bool = False,
) -> Plan:
    """Combine everything, and sort out what can't run.

    calibration_samples: None without data. tools: the converters. quantized: whether the model is,
    so that it is compared as it is.
    """
    candidates: list[Candidate] = []
    skips: list[Skipped] = []
    for known in backends:
        offers = [*_offers(known, wishes), *([_AS_IT_IS] if quantized else [])]
        for offer, device in product(offers, _devices(known, wishes)):
            built = offer.precision is not Precision.AS_IS
            for settings in settings_for(known, wishes, built=built):
                candidate = Candidate(known.name, offer.precision, offer.recipe, device, settings)
                unread = _refuse_format(known, offer, model_format, tools)
                refusal = (
                    (unread if unread and unread[0] is Status.UNSUPPORTED else None)
                    or _refuse_backend(known, wishes.compute_capability)
                    or unread
                    or _refuse_quantized(offer, quantized=quantized)
                    or _refuse_device(known, offer, device, wishes.compute_capability)
                    or _refuse_settings(settings, inputs)
                    or _refuse_calibration(offer, calibration_samples)
                )
                if refusal is None:
                    candidates.append(candidate)
                else:
                    skips.append(Skipped(candidate, *refusal))
    return Plan(tuple(candidates), tuple(skips), find_baseline(candidates, model_format))


def find_baseline(candidates: Iterable[Candidate], model_format: str = "onnx") -> str | None:
    """The fp32 candidate that speed-ups and accuracy drops refer to.

    That of the reference's backend where there is one, since that is what most users of the format
    deploy from; else the first.
    """
    first = reference_backend(model_format)
    fp32 = [candidate for candidate in candidates if candidate.precision is Precision.FP32]
    fp32.sort(key=lambda candidate: candidate.backend != first)
    return fp32[0].id if fp32 else None


def _devices(known: Known, wishes: Wishes) -> tuple[str, ...]:
    """Those asked for, or else the CPU and the first GPU, as far as the backend finds them."""
    if wishes.devices:
        return wishes.devices
    there = [device.id for device in known.probe.devices if device.id in DEFAULT_DEVICES]
    return tuple(there) or DEFAULT_DEVICES[:1]


def _offers(known: Known, wishes: Wishes) -> Iterator[Offer]:
    for offer in known.capabilities.offers:
        if not wishes.precisions or offer.precision in wishes.precisions:
            yield offer
    for recipe, path in wishes.engines.items():
        if takes(known.capabilities, path):
            yield Offer(Precision.AS_IS, recipe)


def settings_for(known: Known, wishes: Wishes, *, built: bool = True) -> Iterator[Settings]:
    """All settings to try with one backend. built: whether we build the engine, by our options."""
    own = known.capabilities.build_options
    given = wishes.options.get(known.name, {})
    options = {name: values for name, values in given.items() if built or name not in own}
    for chosen in product(*options.values()):
        pairs = tuple(zip(options, chosen, strict=True))
        build = tuple(pair for pair in pairs if pair[0] in own)
        pairs = tuple(pair for pair in pairs if pair not in build)
        if wishes.scenario is Scenario.LATENCY:
            for threads in _threads(known, wishes, wishes.cores):
                yield Settings(Scenario.LATENCY, threads=threads, options=pairs, build=build)
        else:
            for settings in _throughput_settings(known, wishes):
                yield replace(settings, options=pairs, build=build)


def _threads(known: Known, wishes: Wishes, usual: int) -> tuple[int | None, ...]:
    """The thread counts to try; none where the backend has no use for them."""
    if "threads" not in known.capabilities.settings:
        return (None,)
    return wishes.threads or (usual,)


def _throughput_settings(known: Known, wishes: Wishes) -> Iterator[Settings]:
    """Streams x processes x batch; all the host's cores are shared out among them.

    A backend with streams of its own gets a process's cores in one session; for the others each
    stream is a session with its part of them.
    """
    cores = wishes.cores
    if wishes.streams or wishes.processes or wishes.batch:
        combinations = list(
            product(wishes.streams or (1,), wishes.processes or (1,), wishes.batch or (1,))
        )
    else:  # one of everything; then fill the cores each way that is usual
        combinations = [(1, 1, 1), (cores, 1, 1), (cores, 1, DEFAULT_BATCH), (1, cores, 1)]
    own_streams = "streams" in known.capabilities.settings
    seen = set()
    for streams, processes, batch in combinations:
        share = cores // processes if own_streams else cores // (processes * streams)
        for threads, in_flight in product(
            _threads(known, wishes, max(1, share)), wishes.in_flight or (streams,)
        ):
            settings = Settings(Scenario.THROUGHPUT, threads, streams, processes, batch, in_flight)
            if settings not in seen:
                seen.add(settings)
                yield settings


_Refusal = tuple[Status, str, str | None]


def _refuse_backend(known: Known, compute_capability: str | None) -> _Refusal | None:
    """Building for a GPU that isn't here takes the library alone, whatever else is missing."""
    if compute_capability is not None and not known.capabilities.ahead:
        reason = f"{known.name} builds engines only on the machine that runs them"
        return Status.UNSUPPORTED, reason, "run enginepick build there"
    alone = compute_capability is not None and bool(known.probe.versions)
    if known.probe.problem is not None and not alone:
        return Status.UNAVAILABLE, known.probe.problem, known.probe.fix
    return None


def _refuse_format(
    known: Known, offer: Offer, model_format: str, tools: Sequence[routes.Tool]
) -> _Refusal | None:
    if offer.precision is Precision.AS_IS and offer != _AS_IT_IS:
        return None  # an engine of the user's
    wanted = known.capabilities.formats
    ways = [(known.name, model_format, wanted)]
    if offer.recipe in SHARED:
        ways += [("this recipe's quantizer", model_format, ("onnx",)), (known.name, "onnx", wanted)]
    for reader, given, formats in ways:
        route = routes.find(given, formats, tools)
        if isinstance(route, routes.NoRoute):
            return route.status, f"{reader} {route.reason}", route.fix
    return None


def _refuse_quantized(offer: Offer, *, quantized: bool) -> _Refusal | None:
    if not quantized or offer.precision is Precision.AS_IS:
        return None
    reason = "the model's products are of integers already; it is compared as it is"
    return Status.UNSUPPORTED, reason, "for other precisions, give the float32 model"


def _refuse_device(
    known: Known, offer: Offer, device_id: str, compute_capability: str | None
) -> _Refusal | None:
    """Compound strings (``auto:...``, ``hetero:...``) are the runtime's own to judge."""
    if compute_capability is not None:
        return None
    compound = device_id.split(":", maxsplit=1)[0] in ("auto", "hetero", "multi", "batch")
    device = known.probe.device(device_id)
    if device is None and not compound:
        found = ", ".join(device.id for device in known.probe.devices) or "none"
        reason = f"{known.name} finds no device {device_id} here (it finds: {found})"
        others = known.probe.devices
        fix = f"--device {others[0].id}; to see all: " if others else ""
        return Status.UNAVAILABLE, reason, f"{fix}enginepick devices"
    if offer.native and device is not None and offer.precision not in device.precisions:
        native = ", ".join(str(precision) for precision in device.precisions) or "not said"
        reason = f"{device.name} does not execute {offer.precision} natively (it does: {native})"
        return Status.UNSUPPORTED, reason, None
    return None


def _refuse_settings(settings: Settings, inputs: tuple[TensorSpec, ...]) -> _Refusal | None:
    if settings.batch == 1:
        return None
    for spec in inputs:
        if not spec.shape or (isinstance(spec.shape[0], int) and spec.shape[0] != settings.batch):
            first = spec.shape[0] if spec.shape else "none"
            reason = f"batch {settings.batch}: the leading dimension of {spec.name} is {first}"
            return Status.UNSUPPORTED, reason, "export the model with a dynamic batch axis"
    return None


def _refuse_calibration(offer: Offer, samples: int | None) -> _Refusal | None:
    if offer.calibrated and samples is None:
        reason = f"{offer.precision} by {offer.recipe} is calibrated on samples, and there are none"
        return Status.UNSUPPORTED, reason, "--data DATA, or --calibration DATA"
    if offer.calibrated and not samples:
        reason = "no calibration samples: all the data validates"
        return Status.UNSUPPORTED, reason, "set measure.calibration_samples or give --calibration"
    return None
