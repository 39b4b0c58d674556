"""candidate -> engine: shared variants and engines, each made once in a child and cached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from harness import jobs, variants, wire
from harness.cache import Cache, Entry, file_sha256, key_of
from harness.errors import UnsupportedError
from harness.record import BuildRecord
from harness.setup import Setup, ask_parent_side
from harness.types import FLOOR, Candidate, Engine, Stage, Status

FORMAT = 1
"""Raised when engines made by an earlier version of this project must not be used again."""

VARIANT_FILE = "model.onnx"
OWN_FILES = "files"


@dataclass(frozen=True)
class Made:
    """An engine ready to be opened, or None, and the record of how it came about."""

    engine: Engine | None
    record: BuildRecord


class Builder:
    """Makes each distinct engine of a run once."""

    def __init__(self, setup: Setup, cache: Cache) -> None:
        self._setup = setup
        self._cache = cache
        self._variants: dict[tuple[str, tuple[tuple[str, str], ...]], Entry | jobs.Refused] = {}

    def make(self, candidate: Candidate) -> Made:
        """The candidate's engine: from the cache, or built now."""
        try:
            recipe = self._recipe(candidate)
        except UnsupportedError as error:
            refusal = jobs.Refused(Status.UNSUPPORTED, Stage.VARIANT, str(error), error.fix)
            return _refused(refusal, self._record(candidate, variants.Recipe(candidate.recipe)))
        record = self._record(candidate, recipe)
        key = record.engine_key
        entry = self._cache.get("engines", key)
        if entry is not None:
            return _made(entry, record, cached=True)
        model = self._setup.model
        notes: tuple[str, ...] = ()
        took_ns = 0
        if candidate.recipe in variants.DERIVED:
            variant = self._variant(recipe)
            if isinstance(variant, jobs.Refused):
                return _refused(variant, record)
            model = str(variant.folder / VARIANT_FILE)
            notes, took_ns = tuple(variant.meta["notes"]), variant.meta["took_ns"]
        record = record.model_copy(update={"notes": notes, "build_ns": took_ns})
        return self._build(candidate, model, record)

    def _record(self, candidate: Candidate, recipe: variants.Recipe) -> BuildRecord:
        """The record of a build that has not begun."""
        return BuildRecord(
            at=datetime.now(UTC),
            backend=candidate.backend,
            precision=candidate.precision,
            recipe=candidate.recipe,
            device=candidate.device,
            recipe_parameters=recipe.params,
            parent_sha256=self._setup.model_sha256,
            engine_key=key_of(self._parts(candidate, recipe)),
            versions=self._setup.probes[candidate.backend].versions,
        )

    def _recipe(self, candidate: Candidate) -> variants.Recipe:
        """Resolved for this host. Raises UnsupportedError for wishes that it can't meet."""
        name, precision, wishes = candidate.recipe, candidate.precision, self._setup.quantization
        if name not in variants.DERIVED:
            return variants.own(name, precision, wishes, saturates=None)
        isa = self._setup.isa
        return variants.resolve(name, precision, isa=isa, device=candidate.device, wishes=wishes)

    def _parts(self, candidate: Candidate, recipe: variants.Recipe) -> dict[str, object]:
        """All that the engine depends on."""
        setup = self._setup
        probe = setup.probes[candidate.backend]
        device = probe.device(candidate.device)
        return {
            "format": FORMAT,
            "model": setup.model_sha256,
            "backend": candidate.backend,
            "adapter": source_sha256(setup.homes[candidate.backend].location.module),
            "versions": probe.versions,
            "precision": candidate.precision.value,
            "recipe": (recipe.name, recipe.params),
            "device": (candidate.device, device.name if device else None),
            "isa": sorted(setup.isa),
            "calibration": self._calibration_parts(),
        }

    def _calibration_parts(self) -> object:
        samples = self._setup.calibration
        return None if samples is None else samples.key()

    def _variant(self, recipe: variants.Recipe) -> Entry | jobs.Refused:
        known = self._variants.get((recipe.name, recipe.params))
        if known is None:
            known = self._make_variant(recipe)
            self._variants[recipe.name, recipe.params] = known
        return known

    def _make_variant(self, recipe: variants.Recipe) -> Entry | jobs.Refused:
        setup = self._setup
        key = key_of(
            {
                "format": FORMAT,
                "model": setup.model_sha256,
                "maker": source_sha256(variants.__name__),
                "recipe": (recipe.name, recipe.params),
                "tools": variants.tool_versions(),
                "calibration": self._calibration_parts(),
            }
        )
        entry = self._cache.get("variants", key)
        if entry is not None:
            return entry
        workdir = self._cache.workdir()
        job = jobs.VariantJob(
            recipe=recipe.name,
            parameters=recipe.params,
            source=setup.model,
            out=str(workdir / VARIANT_FILE),
            inputs=setup.inputs,
            calibration=setup.calibration,
        )
        answer = ask_parent_side(job, jobs.Noted, Stage.VARIANT, setup.timeout_s)
        if isinstance(answer, jobs.Refused):
            shutil.rmtree(workdir, ignore_errors=True)
            return answer
        meta = {"notes": answer.notes, "took_ns": answer.took_ns}
        return self._cache.put("variants", key, workdir, meta)

    def _build(
        self,
        candidate: Candidate,
        model: str,
        record: BuildRecord,
    ) -> Made:
        """Build what the record describes; it has the variant's notes and time already."""
        setup = self._setup
        workdir = self._cache.workdir()
        own = workdir / OWN_FILES
        own.mkdir()
        job = jobs.BuildJob(
            backend=setup.homes[candidate.backend].location,
            model=model,
            precision=candidate.precision,
            recipe=variants.SOURCE if candidate.recipe == FLOOR else candidate.recipe,
            device=candidate.device,
            inputs=setup.inputs,
            calibration=setup.calibration,
            workdir=str(own),
            parameters=record.recipe_parameters,
        )
        answer = setup.ask_once(candidate.backend, job, jobs.Built, Stage.BUILD)
        if isinstance(answer, jobs.Refused):
            shutil.rmtree(workdir, ignore_errors=True)
            return _refused(answer, record)
        engine = replace(
            answer.engine,
            path=str(Path(answer.engine.path).relative_to(own)),
            notes=(*record.notes, *answer.engine.notes),
        )
        meta = {"engine": wire.encode(engine), "took_ns": (record.build_ns or 0) + answer.took_ns}
        entry = self._cache.put("engines", record.engine_key, workdir, meta)
        return _made(entry, record, cached=False)


def source_sha256(module: str) -> str:
    """Of a module's source, or of all of a package's: what it makes may change with its code."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return "unknown"
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return key_of({str(file.relative_to(origin.parent)): file_sha256(file) for file in files})


def _made(entry: Entry, record: BuildRecord, *, cached: bool) -> Made:
    """The engine's path is kept relative in the cache, which may be moved."""
    engine = wire.decode(Engine, entry.meta["engine"])
    update = {
        "cached": cached,
        "build_ns": entry.meta["took_ns"],
        "size_bytes": engine.size_bytes,
        "notes": engine.notes,
    }
    placed = replace(engine, path=str(entry.folder / OWN_FILES / engine.path))
    return Made(placed, record.model_copy(update=update))


def _refused(refusal: jobs.Refused, record: BuildRecord) -> Made:
    return Made(None, record.model_copy(update=refusal.outcome()))
