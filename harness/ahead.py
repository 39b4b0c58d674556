"""Engines of one precision without a measurement: for a device here, or for a GPU elsewhere.

What a library can build without the GPU is built for its compute capability, handed out with a
manifest, and measured where the GPU is: ``enginepick sweep MODEL --engine FILE``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from harness import wire
from harness.build import Builder, Made
from harness.cache import Cache, file_sha256
from harness.config import Lab, SweepConfig, Target, find_target, for_target, load_lab
from harness.errors import InputError, Problem
from harness.host import Host, probe_host
from harness.hostlock import only_one
from harness.plan import Known, Plan, Skipped
from harness.prepare import (
    Prepared,
    check_input,
    find_backend,
    find_home,
    find_tools,
    own_version,
    planned,
    unroll,
    unwritable,
)
from harness.profiles import Profile
from harness.record import BuildRecord
from harness.registry import hidden, location, names
from harness.types import ASKED, Candidate, Engine, Precision

MANIFEST = "enginepick.json"
ELSEWHERE = "gpu:0"
"""The device of an engine that is built for a GPU by its compute capability."""

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Wanted:
    """What :func:`build_engines` was asked."""

    config: SweepConfig
    to: Path
    recipe: str | None
    compute_capability: str | None
    options: Mapping[str, str]
    device: str | None


@dataclass(frozen=True)
class BuiltEngine:
    """One engine, or why there is none. file: the main one, in a folder of its own; None if not."""

    candidate: Candidate
    record: BuildRecord
    file: Path | None


@dataclass(frozen=True)
class Built:
    """What became of a build.

    model: the file. place: what the engines are for, in words. target: the one that was named.
    compute_capability: None for the device here. skips: what was left out before. notes: what the
    user should know of the data.
    """

    model: str
    place: str
    target: str | None
    compute_capability: str | None
    profiles: tuple[Profile, ...]
    engines: tuple[BuiltEngine, ...]
    skips: tuple[Skipped, ...]
    notes: tuple[str, ...]


def build_engines(
    config: SweepConfig,
    to: Path,
    *,
    recipe: str | None = None,
    compute_capability: str | None = None,
    options: Mapping[str, str] | None = None,
    device: str | None = None,
    lab: Lab | None = None,
    cache: Cache | None = None,
    show: Show = lambda *_: None,
) -> Built:
    """Build every engine of the configuration's one backend and one precision into ``to``.

    Each has a folder of its own there, with a manifest. recipe: only this one. compute_capability:
    of a GPU that isn't here; else the target's, where that one isn't this host or its device isn't
    found here. options: of the build. device: that the user named, which is in the configuration
    too. Raises InputError with all problems, before anything is built; what the backend refuses is
    in the result.
    """
    cache = cache or Cache()
    with cache.scratch() as spool:
        wanted = _Wanted(config, to, recipe, compute_capability, options or {}, device)
        prepared, place = _prepare(wanted, lab or load_lab(), spool)
        chosen = {each.engine_key: each for each in prepared.plan.candidates}
        folders = {each: to / _folder_name(prepared, each) for each in chosen.values()}
        problems = [problem for each in folders.values() for problem in _in_the_way(each)]
        if problems:
            raise InputError(problems)
        builder, engines = Builder(prepared.setup(), cache), []
        with only_one("a build", lambda holder: show(0, len(chosen), f"waiting for {holder}")):
            for done, (candidate, folder) in enumerate(folders.items()):
                show(done, len(chosen), candidate.label)
                made = builder.make(candidate)
                engines.append(_handed_out(prepared, candidate, made, folder))
        show(len(chosen), len(chosen), "done")
    return Built(
        model=prepared.checked.model.source,
        place=place,
        target=config.target,
        compute_capability=prepared.compute_capability,
        profiles=prepared.profiles.get(prepared.knowns[0].name, ()),
        engines=tuple(engines),
        skips=prepared.plan.skips,
        notes=prepared.checked.warnings if prepared.checked.data else (),
    )


def _prepare(wanted: _Wanted, lab: Lab, spool: Path) -> tuple[Prepared, str]:
    """What is built, and for what in words. Raises InputError."""
    config, ahead = wanted.config, wanted.compute_capability
    name, precision = _one_of_each(config)
    host, named = probe_host(), config.target is not None
    target_name, target = _target(config, lab, host, ahead)
    asked = config.candidates.devices
    config = for_target(config, target)
    home = find_home(name, config.python)
    known = _of(find_backend(name, home), precision, wanted.recipe)
    problems = [*unwritable(wanted.to), *_option_problems(known, wanted.options)]
    if (
        ahead is None
        and named
        and not (target.matches(host) and known.probe.device(target.device) is not None)
    ):
        ahead = target.compute_capability
        problems += _not_ahead(target_name, target, wanted.device)
    problems += _nothing_here(known) if ahead is None else []
    problems += _stateful_calibration(config)
    checked = check_input(config, spool, problems)
    if problems:
        raise InputError(problems)
    devices = (target.device,) if ahead else asked or _devices(known, target, named=named)
    tools, homes = find_tools([known], checked.model.format, config.python)
    prepared = Prepared(
        config=_changed(config, devices, name, wanted.options),
        target_name=target_name,
        target=target,
        host=host,
        checked=checked,
        knowns=(known,),
        homes=homes | ({name: home} if home else {}),
        plan=Plan((), (), None),
        compute_capability=ahead,
        tools=tools,
    )
    place = f"GPUs of compute capability {ahead}" if ahead else f"{devices[0]} of this host"
    place += f" (target {target_name})" if named else ""
    return planned(unroll(prepared, spool)), place


def _changed(
    config: SweepConfig, devices: tuple[str, ...], backend: str, options: Mapping[str, str]
) -> SweepConfig:
    """The configuration with these devices and options, and without engines as they are."""
    tried = config.candidates
    given = {name: (value,) for name, value in options.items()}
    merged = {**tried.options, backend: {**tried.options.get(backend, {}), **given}}
    changed = tried.model_copy(update={"devices": devices, "options": merged})
    return config.model_copy(update={"candidates": changed, "engines": ()})


def _one_of_each(config: SweepConfig) -> tuple[str, Precision]:
    """The backend and the precision. Raises InputError."""
    problems = [
        Problem(where, f"{len(chosen) or 'none'} named; a build is of one", f"one of {listed}")
        for where, chosen, listed in (
            ("--backend", config.backends, ", ".join(each for each in names() if not hidden(each))),
            ("--precision", config.precisions, ", ".join(map(str, ASKED))),
        )
        if len(chosen) != 1
    ]
    if problems:
        raise InputError(problems)
    location(config.backends[0])
    return config.backends[0], config.precisions[0]


def _target(
    config: SweepConfig, lab: Lab, host: Host, compute_capability: str | None
) -> tuple[str, Target]:
    if compute_capability is not None and config.target is not None:
        what = "both a target and a compute capability are named"
        raise InputError([Problem("--compute-capability", what, "name one of them")])
    if compute_capability is not None:
        try:
            return "", Target(device=ELSEWHERE, compute_capability=compute_capability)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise InputError([Problem("--compute-capability", what)]) from None
    name, target = find_target(lab, host, config.target)
    # The interpreters of a target elsewhere are over there.
    return name, target if target.matches(host) else target.model_copy(update={"python": {}})


def _of(known: Known, precision: Precision, recipe: str | None) -> Known:
    """The backend with the offers that are wanted alone. Raises InputError where it has none."""
    offers = known.capabilities.offers
    wanted = [o for o in offers if o.precision is precision and recipe in {None, o.recipe}]
    if not offers:
        raise InputError([Problem("--backend", str(known.probe.problem), known.probe.fix)])
    if wanted:
        return replace(known, capabilities=replace(known.capabilities, offers=tuple(wanted)))
    named = f"{precision} by the recipe {recipe}" if recipe else str(precision)
    listed = ", ".join(f"{each.precision} ({each.recipe})" for each in offers)
    where = "--recipe" if any(o.precision is precision for o in offers) else "--precision"
    raise InputError([Problem(where, f"{known.name} has no {named}", f"it has: {listed}")])


def _option_problems(known: Known, given: Mapping[str, object]) -> list[Problem]:
    options = known.capabilities.build_options
    listed = ", ".join(options) or "it has none"
    return [
        Problem("--option", f'"{each}" is no option of builds by {known.name}', f"these: {listed}")
        for each in given
        if each not in options
    ]


def _not_ahead(name: str, target: Target, device: str | None) -> list[Problem]:
    """Whether a target that isn't here, or whose device isn't, says what to build for.

    device: the one that the user named.
    """
    if target.compute_capability is not None:
        if device in {None, target.device}:
            return []
        what = f"{device} is named, but the device of {name}, which isn't here, is {target.device}"
        return [Problem("--device", what, "leave one of --device and --target out")]
    if target.reach == "local":
        return []
    what = f"it is reached by {target.reach}, and devices.toml has no compute_capability for it"
    fix = f"add it to [targets.{name}], or run the same command on {name}"
    return [Problem(f"--target {name}", what, fix)]


def _nothing_here(known: Known) -> list[Problem]:
    """What this host lacks, where the library alone could build for another."""
    probe = known.probe
    if not (known.capabilities.ahead and probe.versions) or probe.devices:
        return []
    what = probe.problem or f"{known.name} finds no device here"
    fixes = [probe.fix] if probe.fix else []
    if not any("--compute-capability" in each for each in fixes):
        fixes.append("for a GPU that is elsewhere: --compute-capability 8.9, or --target NAME")
    return [Problem("--backend", what, "; ".join(fixes))]


def _stateful_calibration(config: SweepConfig) -> list[Problem]:
    if not config.state or config.data or not config.calibration:
        return []
    what = "what calibrates a stateful model is found by stepping through sequences"
    return [Problem("--calibration", what, "give these sequences as --data")]


def _devices(known: Known, target: Target, *, named: bool) -> tuple[str, ...]:
    """The target's; where none is named, one that the backend has."""
    found = known.probe.devices
    if named or known.probe.device(target.device) is not None or not found:
        return (target.device,)
    return (found[0].id,)


def _folder_name(prepared: Prepared, candidate: Candidate) -> str:
    """``model-tensorrt-int8-qdq-sm89``."""
    ahead = prepared.compute_capability
    plain = candidate.recipe in {"source", str(candidate.precision)}
    parts = [prepared.checked.model.name, candidate.backend, str(candidate.precision)]
    parts += [] if plain else [candidate.recipe]
    parts += [f"{name}={value}" for name, value in candidate.settings.build]
    parts += [f"sm{ahead.replace('.', '')}" if ahead else candidate.device.replace(":", "")]
    return re.sub(r"[^\w.=-]+", "_", "-".join(parts))


def _in_the_way(folder: Path) -> list[Problem]:
    """An engine that was built before is replaced; anything else is kept."""
    if not folder.exists() or (folder / MANIFEST).is_file():
        return []
    if folder.is_dir() and not any(folder.iterdir()):
        return []
    return [Problem("--out", f"{folder} is there and holds no engine", "choose another folder")]


def _handed_out(prepared: Prepared, candidate: Candidate, made: Made, folder: Path) -> BuiltEngine:
    engine = made.engine
    if engine is None:
        return BuiltEngine(candidate, made.record, None)
    fresh, former = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "former"))
    for each in (fresh, former):  # of a build that was killed
        shutil.rmtree(each, ignore_errors=True)
    for file in engine.files:
        (fresh / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(engine.path).parent / file, fresh / file)
    facts = _manifest(prepared, candidate, engine, made.record)
    (fresh / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")
    if folder.exists():
        folder.rename(former)
    fresh.rename(folder)
    shutil.rmtree(former, ignore_errors=True)
    return BuiltEngine(candidate, made.record, folder / Path(engine.path).name)


def _manifest(
    prepared: Prepared, candidate: Candidate, engine: Engine, record: BuildRecord
) -> dict[str, object]:
    """What the engine is, for whoever gets the folder."""
    model, setup = prepared.checked.model, prepared.setup()
    samples, files = setup.calibration, Path(engine.path).parent
    key = (candidate.precision, candidate.recipe)
    offers = prepared.knowns[0].capabilities.offers
    calibrated = any(each.calibrated for each in offers if (each.precision, each.recipe) == key)
    return {
        "schema": "enginepick-engine/1",
        "enginepick_version": own_version(),
        "built_at": record.at.isoformat(),
        "engine": Path(engine.path).name,
        "files": {
            name: {"size_bytes": (files / name).stat().st_size, "sha256": file_sha256(files / name)}
            for name in engine.files
        },
        "model": {"name": model.name, "sha256": model.sha256},
        "inputs": wire.encode(model.inputs),
        "outputs": wire.encode(model.outputs),
        "backend": candidate.backend,
        "precision": str(candidate.precision),
        "recipe": candidate.recipe,
        "recipe_parameters": dict(record.recipe_parameters),
        "options": dict(record.options),
        "compute_capability": prepared.compute_capability,
        "device": None if prepared.compute_capability else candidate.device,
        "versions": dict(record.versions),
        "profiles": wire.encode(prepared.profiles.get(candidate.backend, ())),
        "calibration": {
            "source": samples.data.source,
            "sha256": samples.data.sha256,
            "samples": len(samples.indices()),
        }
        if samples is not None and calibrated
        else None,
        "notes": list(record.notes),
    }
