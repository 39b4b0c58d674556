"""From the user's wishes to a plan: host, target, backends, model and data, all checked first.

Every mistake is found here, all of them at once, before anything is built or written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from harness import datasets, homes, jobs, ownengines, profiles, registry, routes
from harness.backend import Capabilities, Program
from harness.child import Child
from harness.config import Lab, SweepConfig, Target, find_target, for_target
from harness.errors import EnginePickError, InputError, Problem
from harness.host import Host, probe_host
from harness.plan import Known, Plan, Wishes, make_plan, reference_backend
from harness.record import BuildRecord
from harness.reference import reference_candidate
from harness.setup import Home, Setup, ask_parent_side
from harness.types import Candidate, Precision, Probe, Scenario, Stage
from harness.variants import DERIVED

T = TypeVar("T")
R = TypeVar("R")

CHECK_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Prepared:
    """A sweep that can start.

    checked: what :mod:`harness.checks` found of model and data. referee: the backend of the
    reference, which may be none of those that are compared; None where it can't run the model.
    unrolled: what calibrates a stateful model, see :mod:`harness.unrolling`. profiles, engines,
    compute_capability, tools, shapes: see :class:`harness.setup.Setup`.
    """

    config: SweepConfig
    target_name: str
    target: Target
    host: Host
    checked: Any
    knowns: tuple[Known, ...]
    homes: Mapping[str, Home]
    plan: Plan
    referee: Known | None = None
    unrolled: datasets.DataRef | None = None
    profiles: Mapping[str, tuple[profiles.Profile, ...]] = field(default_factory=dict)
    engines: Mapping[str, ownengines.OwnEngine] = field(default_factory=dict)
    compute_capability: str | None = None
    tools: tuple[routes.Tool, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def reference(self) -> Candidate | None:
        """The fp32 that all outputs are compared with; None: the plan's baseline is."""
        cores, model = cores_of(self.host), self.checked.model
        return reference_candidate(cores, model) if self.referee else None

    @property
    def calibration_count(self) -> int:
        """How many samples are split off for calibration; 0 when they have data of their own."""
        if self.checked.calibration is not None or self.checked.data is None:
            return 0
        return datasets.split_off(self.config.calibration_pool, self.checked.data.samples)

    @property
    def calibrating(self) -> jobs.Samples:
        """The samples that calibrate; of a stateful model, the sequences."""
        own, excluded, seed = self.checked.calibration, self.checked.excluded, self.config.seed
        limit = self.config.measure.calibration_samples
        if own is not None:
            return jobs.Samples(own, "all", 0, seed, limit, excluded)
        data, count = self.checked.data or _NO_DATA, self.calibration_count
        return jobs.Samples(data, "calibration", count, seed, limit, excluded)

    @property
    def calibration(self) -> jobs.Samples | None:
        """What builds read: these samples, or the steps of these sequences; None if there are none.

        None also where the sequences have not been stepped through.
        """
        chosen: jobs.Samples | None = self.calibrating
        if self.checked.sequences is not None:
            steps = self.unrolled
            chosen = jobs.Samples(steps, "all", 0, self.config.seed) if steps is not None else None
        return chosen if chosen is not None and chosen.indices() else None

    def setup(self) -> Setup:
        """What the steps of the run need to know."""
        checked, config = self.checked, self.config
        knowns = (*self.knowns, *([self.referee] if self.referee else []))
        validation = jobs.Samples(
            checked.data or _NO_DATA,
            "validation",
            self.calibration_count,
            config.seed,
            config.measure.validation_samples,
        )
        return Setup(
            model=checked.model.path,
            model_sha256=checked.model.sha256,
            inputs=checked.model.inputs,
            validation=validation,
            calibration=self.calibration,
            homes=self.homes,
            probes={known.name: known.probe for known in knowns},
            isa=frozenset(self.host.cpu.isa),
            timeout_s=config.measure.timeout_s,
            memory_limit_bytes=config.measure.memory_limit_bytes,
            quantization=config.quantization.wishes(),
            sequences=checked.sequences,
            profiles=self.profiles,
            engines=self.engines,
            compute_capability=self.compute_capability,
            outputs=checked.model.outputs,
            model_format=checked.model.format,
            ports=checked.model.ports,
            formats={known.name: known.capabilities.formats for known in knowns},
            tools=self.tools,
            shapes=self.shapes,
        )


_NO_DATA = datasets.DataRef("none", (), labelled=False, sha256="")
"""Of a build without any."""


def prepare(config: SweepConfig, lab: Lab, spool: Path) -> Prepared:
    """Check everything and plan. Raises InputError with all problems.

    spool: where the data of a ``module:function`` are written; they are needed until the run ends.
    """
    host = probe_host()
    problems: list[Problem] = []
    try:
        target_name, target = find_target(lab, host, config.target)
        config = for_target(config, target)
    except InputError as error:
        problems += error.problems
        target_name, target = "", Target()
    if target.reach != "local":
        what = f"the target {target_name} is reached by {target.reach}; a sweep runs on this host"
        problems.append(Problem("--target", what, f"run the same command on {target_name}"))
    problems += unwritable(Path(config.out))
    names, unknown = _chosen_backends(config)
    problems += unknown
    if config.state and config.objective == "throughput":
        what = "a stateful model's steps wait for each other, so none can be in flight together"
        fix = "measure latency; to serve more sequences, run a process for each"
        problems.append(Problem("--objective", what, fix))
    checked = check_input(config, spool, problems)
    problems += engine_problems(config, names)
    if problems:
        raise InputError(problems)
    homes = {name: find_home(name, config.python) for name in names}
    knowns = find_backends(names, config.python)
    tools, tool_homes = find_tools(knowns, checked.model.format, config.python)
    referee = _referee(knowns, checked.model.format, tools, config.python)
    if referee is not None and referee.name not in homes:
        homes[referee.name] = find_home(referee.name, config.python)
    prepared = Prepared(
        config=config,
        target_name=target_name,
        target=target,
        host=host,
        checked=checked,
        knowns=knowns,
        homes=tool_homes | {name: home for name, home in homes.items() if home is not None},
        plan=Plan((), (), None),
        referee=referee,
        tools=tools,
        engines=ownengines.find(config.engines),
    )
    return planned(unroll(prepared, spool))


def _referee(
    knowns: Iterable[Known],
    model_format: str,
    tools: Sequence[routes.Tool],
    python: Mapping[str, str],
) -> Known | None:
    """The backend that computes the reference, if it is usable here and the model can be had so."""
    if all(known.capabilities.simulated for known in knowns):
        return None
    name = reference_backend(model_format)
    chosen = [known for known in knowns if known.name == name]
    known = chosen[0] if chosen else _find_named(name, python)
    if known is None or known.probe.problem is not None or known.probe.device("cpu") is None:
        return None
    route = routes.find(model_format, known.capabilities.formats, tools)
    return None if isinstance(route, routes.NoRoute) else known


def _find_named(name: str, python: Mapping[str, str]) -> Known | None:
    """A backend that wasn't asked for; None where no such plug-in is installed."""
    return find_backend(name, find_home(name, python)) if name in registry.names() else None


def find_tools(
    knowns: Iterable[Known], model_format: str, python: Mapping[str, str]
) -> tuple[tuple[routes.Tool, ...], dict[str, Home]]:
    """The converters that may be gone through, and their homes, by name.

    ONNX is wanted for the reference and for shared recipes, whoever is compared.
    """
    every = registry.sound(registry.CONVERTERS)
    theirs = [set(known.capabilities.formats) for known in knowns]
    wanted = set().union(*(each for each in theirs if not {model_format, "onnx"} <= each), {"onnx"})
    untried = [routes.Tool(each.name, each.source, each.target, Probe(each.name)) for each in every]
    names = routes.on_the_way(model_format, wanted, untried)
    chosen = [each for each in every if each.name in names]
    places = {each.name: registry.location(each.name, registry.CONVERTERS) for each in chosen}
    homes_of = {each.name: _home(places[each.name], each.home, python) for each in chosen}
    probes = _together(lambda each: ask_probe(each.name, homes_of[each.name], each.home), chosen)
    tools = (
        routes.Tool(each.name, each.source, each.target, probe)
        for each, probe in zip(chosen, probes, strict=True)
    )
    return tuple(tools), homes_of


def _together(probe: Callable[[T], R], these: Iterable[T]) -> tuple[R, ...]:
    """Probe them all at the same time: most of it is importing runtimes."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(probe, these))


def read_program(
    model: str, spool: Path, python: Mapping[str, str], problems: list[Problem]
) -> Program | None:
    """What a source of programs makes of the model, if it is one's; its problems are added."""
    for source in registry.sound(registry.SOURCES):
        if not source.claims(model):
            continue
        home = _home(registry.location(source.name, registry.SOURCES), source.home, python)
        probe = ask_probe(source.name, home, source.home)
        if probe.problem is not None:
            problems.append(Problem(model, probe.problem, probe.fix))
            return None
        folder = spool / "program"
        folder.mkdir(parents=True)
        job = jobs.ReadJob(home.location, model, str(folder))
        with _child(home) as child:
            answer = child.ask(job, Program, Stage.PLAN, CHECK_TIMEOUT_S)
        if isinstance(answer, jobs.Problems):
            problems += answer.problems
        elif isinstance(answer, jobs.Refused):
            problems.append(Problem(model, f"could not be read: {answer.reason}", answer.fix))
        else:
            return answer
        return None
    return None


def _home(place: registry.PlugInLocation, lives_in: str, python: Mapping[str, str]) -> Home:
    """Of a converter or a source, which may live with a backend."""
    return Home(jobs.Location(place.module, place.attribute), interpreter_of(lives_in, python))


def _child(home: Home) -> Child:
    return Child(python=home.python, packages=("harness", home.package))


def engine_problems(config: SweepConfig, names: Iterable[str]) -> list[Problem]:
    """What is wrong with the user's own engines."""
    there = [name for name in names if config.engines and name in registry.names()]
    backends = {name: registry.safe_load(name) for name in there}
    known = {n: each.capabilities for n, each in backends.items() if not isinstance(each, Probe)}
    return ownengines.problems(config.engines, known)


def engines_then_and_now(
    builds: Iterable[BuildRecord], now: Prepared
) -> list[tuple[str, str, str]]:
    """What each of the user's engines was when a run used it, and is now: (name, then, now)."""
    return [
        (f"the engine {each.recipe}", each.parent_sha256, now.engines[each.recipe].sha256)
        for each in builds
        if each.precision == Precision.AS_IS and each.recipe in now.engines
    ]


def unroll(prepared: Prepared, spool: Path) -> Prepared:
    """With single steps to calibrate a stateful model on, where something is calibrated."""
    checked, config = prepared.checked, prepared.config
    wanted = any(
        offer.calibrated and (not config.precisions or offer.precision in config.precisions)
        for known in prepared.knowns
        for offer in known.capabilities.offers
    )
    if checked.sequences is None or not wanted or not prepared.calibrating.indices():
        return prepared
    job = jobs.UnrollJob(
        model=checked.model.path,
        samples=prepared.calibrating,
        inputs=checked.model.inputs,
        wires=checked.sequences.wires,
        keep=config.measure.calibration_samples,
        folder=str(spool / "steps"),
    )
    answer = ask_parent_side(job, datasets.DataRef, Stage.PLAN, CHECK_TIMEOUT_S)
    if isinstance(answer, jobs.Refused):
        fix = answer.fix or "pip install 'enginepick[onnxruntime]'"
        note = f"nothing is calibrated: its sequences can't be run ({answer.reason}; {fix})"
        return replace(prepared, checked=replace(checked, warnings=(*checked.warnings, note)))
    return replace(prepared, unrolled=answer)


def planned(prepared: Prepared) -> Prepared:
    """With its plan, and the shapes that engines are built for. Raises InputError."""
    config, checked = prepared.config, prepared.checked
    paths = {name: each.path for name, each in prepared.engines.items()}
    ahead = prepared.compute_capability
    wishes = replace(wishes_of(config, prepared.host), engines=paths, compute_capability=ahead)
    calibration = prepared.calibration
    calibrating = len(calibration.indices()) if calibration is not None else 0
    without_data = checked.data is None and checked.calibration is None
    plan = make_plan(
        prepared.knowns,
        wishes,
        checked.model.inputs,
        checked.model.format,
        None if without_data else calibrating,
        tools=prepared.tools,
        quantized=checked.model.quantized,
    )
    broken = [known.probe for known in prepared.knowns if not known.capabilities.offers]
    broken += registry.broken(registry.CONVERTERS)
    if not plan.candidates:
        said = [
            Problem(each.backend, each.problem or "offers nothing", each.fix) for each in broken
        ]
        raise InputError([*said, *_nothing_to_do(plan)])
    notes = [f"{each.backend} takes no part: {each.problem}" for each in broken if each.problem]
    checked = replace(checked, warnings=(*checked.warnings, *notes))
    made = replace(prepared, checked=checked, plan=plan, profiles=_profiles(prepared, plan))
    return replace(made, shapes=_usual_shapes(made)) if prepared.tools else made


def _usual_shapes(prepared: Prepared) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Of one inference, by input: what most samples have."""
    checked, config = prepared.checked, prepared.config
    given = {name: each.range(name) for name, each in config.shapes.items()}
    inputs = checked.model.inputs
    (profile,) = profiles.derive(inputs, checked.shapes, [1], given, config.state)
    return tuple((each.name, each.opt) for each in profile)


def _profiles(prepared: Prepared, plan: Plan) -> dict[str, tuple[profiles.Profile, ...]]:
    """By backend, for those that want them: one for each batch size, that of calibration too."""
    checked, found = prepared.checked, {}
    given = {name: each.range(name) for name, each in prepared.config.shapes.items()}
    for known in prepared.knowns:
        own = {(o.precision, o.recipe): o.calibrated for o in known.capabilities.offers}
        planned = [each for each in plan.candidates if each.backend == known.name]
        if not known.capabilities.ranges or not planned:
            continue
        batches = {each.settings.batch for each in planned}
        if any(own.get((c.precision, c.recipe)) and c.recipe not in DERIVED for c in planned):
            batches.add(1)
        inputs, states = checked.model.inputs, prepared.config.state
        found[known.name] = profiles.derive(inputs, checked.shapes, batches, given, states)
    return found


def wishes_of(config: SweepConfig, host: Host) -> Wishes:
    """The plan's part of the configuration."""
    tried = config.candidates
    return Wishes(
        scenario=Scenario.THROUGHPUT if config.objective == "throughput" else Scenario.LATENCY,
        devices=tried.devices,
        cores=cores_of(host),
        precisions=tuple(Precision(each) for each in config.precisions),
        threads=tried.threads,
        streams=tried.streams,
        processes=tried.processes,
        batch=tried.batch,
        in_flight=tried.in_flight,
        options=tried.options,
    )


def cores_of(host: Host) -> int:
    """The cores that a process may fill."""
    return min(host.cpu.physical_cores or 1, host.cpu.available_cpus or 1)


def _nothing_to_do(plan: Plan) -> list[Problem]:
    reasons = {(skip.reason, skip.fix) for skip in plan.skips}
    if not reasons:
        return [Problem("--precision", "no backend offers any of these precisions")]
    return [Problem("plan", f"nothing can run: {reason}", fix) for reason, fix in sorted(reasons)]


def _chosen_backends(config: SweepConfig) -> tuple[list[str], list[Problem]]:
    """All that aren't hidden, or those asked for."""
    if not config.backends:
        return [name for name in registry.names() if not registry.hidden(name)], []
    problems: list[Problem] = []
    for name in config.backends:
        try:
            registry.location(name)
        except InputError as error:
            problems += error.problems
        except EnginePickError:
            pass  # a broken plug-in: a warning says so
    return list(dict.fromkeys(config.backends)), problems


def find_home(name: str, python: Mapping[str, str]) -> Home | None:
    """Where a backend's workers live; None for a plug-in that can't be located."""
    try:
        place = registry.location(name)
    except EnginePickError:
        return None
    return Home(jobs.Location(place.module, place.attribute), interpreter_of(name, python))


def interpreter_of(name: str, python: Mapping[str, str]) -> str | None:
    """The interpreter that a backend or converter lives in; None: the parent's."""
    return homes.interpreter_of(name, python)[0]


def find_backend(name: str, home: Home | None) -> Known:
    """Capabilities and probe; a backend that can't be loaded has a probe that says why."""
    backend = registry.safe_load(name)
    if isinstance(backend, Probe) or home is None:
        problem = backend if isinstance(backend, Probe) else Probe(name, problem="not found")
        return Known(name, Capabilities(("onnx",), (), ""), problem)
    return Known(name, backend.capabilities, ask_probe(name, home))


def ask_probe(name: str, home: Home, lives_in: str | None = None) -> Probe:
    """Probe in a child: the parent never loads a runtime. lives_in: whose interpreter it is."""
    fix = homes.mending(lives_in or name, home.python)
    with _child(home) as child:
        return homes.probe(child, name, home.location, fix)


def find_backends(names: Iterable[str], python: Mapping[str, str]) -> tuple[Known, ...]:
    """Every one of these, usable or not."""
    return _together(lambda name: find_backend(name, find_home(name, python)), names)


def check_input(config: SweepConfig, spool: Path, problems: list[Problem]) -> Any:
    """Model and data, checked in a child. Its problems are added."""
    from harness.checks import Checked

    found = len(problems)
    program = read_program(config.model, spool, config.python, problems)
    if program is None and len(problems) > found:
        return None
    if program is not None and config.state:
        what = "a stateful model's sequences are stepped through as ONNX alone"
        fix = "torch.onnx.export(program, dynamo=True), and sweep the ONNX file"
        problems.append(Problem("state", what, fix))
    job = jobs.CheckJob(
        model=config.model,
        data=config.data,
        metric=config.metric,
        calibration=config.calibration,
        spool=str(spool),
        calibration_samples=config.calibration_pool,
        seed=config.seed,
        images=config.images.preprocessing() if config.images else None,
        state=tuple(config.state.items()),
        program=program,
    )
    answer: Any = ask_parent_side(job, Checked, Stage.PLAN, CHECK_TIMEOUT_S)
    if isinstance(answer, jobs.Problems):
        problems += answer.problems
    elif isinstance(answer, jobs.Refused):
        problems.append(Problem(config.model, f"could not be checked: {answer.reason}"))
    else:
        given = {name: each.range(name) for name, each in config.shapes.items()}
        problems += profiles.problems_of(given, answer.model.inputs)
    return answer


def unwritable(folder: Path) -> list[Problem]:
    """Whether results can be written there; leaves nothing behind."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    fix = "choose another folder with --out"
    if not existing.is_dir():
        return [Problem("--out", f"{existing} is not a folder", fix)]
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what = f"{existing} can't be written to ({error.strerror})"
        return [Problem("--out", what, fix)]
    return [] if os.access(existing, os.X_OK) else [Problem("--out", f"{existing}: no access", fix)]


def own_version() -> str:
    """The version of this project."""
    return metadata.version("enginepick")
