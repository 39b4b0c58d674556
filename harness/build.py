"""candidate -> engine: shared variants and engines, each made once in a child and cached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness import jobs, ownengines, registry, saturation, variants, wire
from harness.cache import Cache, Entry, key_of
from harness.errors import UnsupportedError
from harness.forms import Form, Forms
from harness.profiles import Profile
from harness.record import AddRecord, BuildRecord
from harness.setup import Setup, ask_parent_side
from harness.types import FLOOR, Candidate, Engine, Precision, Probe, Stage, Status

FORMAT = 1
"""Raised when engines made by an earlier version of this project must not be used again."""

_SEEN: Mapping[bool | None, tuple[str, ...]] = {
    True: ("int8 products saturate here (measured): weights of 7 bits",),
    False: ("int8 products are exact here (measured)",),
    None: (),
}

VARIANT_FILE = "model.onnx"
OWN_FILES = "files"


@dataclass(frozen=True)
class Made:
    """An engine ready to be opened, or None, and the record of how it came about."""

    engine: Engine | None
    record: BuildRecord


class Builder:
    """Makes each distinct engine of a run once.

    added: what the recipes stand for that a run came up with itself.
    """

    def __init__(self, setup: Setup, cache: Cache, added: Iterable[AddRecord] = ()) -> None:
        self._setup = setup
        self._cache = cache
        self._added = {each.candidate.engine_key: _recipe_of(each) for each in added}
        self._forms = Forms(setup, cache)
        self._variants: dict[tuple[str, tuple[tuple[str, str], ...]], Form | jobs.Refused] = {}
        self._saturating: dict[tuple[str, str], bool | None] = {}

    def add(self, added: AddRecord) -> None:
        """Know what a new candidate's recipe stands for."""
        self._added[added.candidate.engine_key] = _recipe_of(added)

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
        form = self._form(candidate, recipe)
        if isinstance(form, jobs.Refused):
            return _refused(form, record)
        notes = (*form.notes, *_SEEN[self._saturates(candidate)])
        record = record.model_copy(update={"notes": notes, "build_ns": form.took_ns})
        own = variants.SOURCE if recipe.name == FLOOR else recipe.name
        return self._build(candidate, form, own, self._calibration(candidate, recipe), record)

    def onnx(self) -> str | None:
        """The user's model as ONNX; None where it can't be had so."""
        form = self._forms.onnx()
        return None if isinstance(form, jobs.Refused) else form.path

    def _form(self, candidate: Candidate, recipe: variants.Recipe) -> Form | jobs.Refused:
        """The file that the backend builds from."""
        engine = self._engine(candidate)
        if engine is not None:
            return Form(engine.path, "", engine.sha256)
        source: Form | jobs.Refused = self._forms.source
        if recipe.name in variants.DERIVED:
            source = self._variant(recipe)
        if isinstance(source, jobs.Refused):
            return source
        return self._forms.get(source, self._setup.reads(candidate.backend))

    def _record(self, candidate: Candidate, recipe: variants.Recipe) -> BuildRecord:
        """The record of a build that has not begun."""
        return BuildRecord(
            at=datetime.now(UTC),
            backend=candidate.backend,
            precision=candidate.precision,
            recipe=candidate.recipe,
            device=candidate.device,
            recipe_parameters=recipe.params,
            options=candidate.settings.build,
            parent_sha256=self._parent(candidate),
            engine_key=key_of(self._parts(candidate, recipe)),
            versions=self._setup.probes[candidate.backend].versions,
        )

    def _recipe(self, candidate: Candidate) -> variants.Recipe:
        """Resolved for this host. Raises UnsupportedError for wishes that it can't meet."""
        if candidate.engine_key in self._added:
            return self._added[candidate.engine_key]
        name, precision, wishes = candidate.recipe, candidate.precision, self._setup.quantization
        if precision is Precision.AS_IS:
            own = self._engine(candidate) is not None
            return variants.Recipe(ownengines.RECIPE if own else name)
        saturates = self._saturates(candidate)
        if name not in variants.DERIVED:
            return variants.own(name, precision, wishes, saturates=saturates)
        return variants.resolve(
            name,
            precision,
            isa=self._setup.isa,
            device=candidate.device,
            wishes=wishes,
            saturates=saturates,
        )

    def _saturates(self, candidate: Candidate) -> bool | None:
        """Whether int8 products do, seen on this host; None where unknown or of no account.

        The portable file is one for all backends: it suffices that one's products saturate.
        """
        recipe = candidate.recipe
        wished = self._setup.quantization.reduce_range is not None
        elsewhere = self._setup.compute_capability is not None
        if candidate.precision is not Precision.INT8 or recipe == variants.SOURCE or wished:
            return None
        if elsewhere:
            return None
        backends = self._setup.probes if recipe == "qdq-portable" else (candidate.backend,)
        found = {self._seen_to_saturate(backend, candidate.device) for backend in backends}
        return True if True in found else False if False in found else None

    def _seen_to_saturate(self, backend: str, device: str) -> bool | None:
        if (backend, device) not in self._saturating:
            usable = self._setup.probes[backend].device(device) is not None
            usable = usable and "onnx" in self._setup.reads(backend)  # as the probe is
            self._saturating[backend, device] = (
                saturation.find(self._setup, backend, device, self._cache) if usable else None
            )
        return self._saturating[backend, device]

    def _parts(self, candidate: Candidate, recipe: variants.Recipe) -> dict[str, object]:
        """All that the engine depends on."""
        setup = self._setup
        probe = setup.probes[candidate.backend]
        device = probe.device(candidate.device)
        ahead, profiles = setup.compute_capability, self._profiles(candidate)
        parts: dict[str, object] = {
            "format": FORMAT,
            "model": self._parent(candidate),
            "backend": candidate.backend,
            "adapter": setup.homes[candidate.backend].code,
            "versions": probe.versions,
            "precision": candidate.precision.value,
            "recipe": (recipe.name, recipe.params),
            "device": (candidate.device, device.name if device else None),
            "isa": sorted(setup.isa),
            "options": candidate.settings.build,
            "calibration": _key(self._calibration(candidate, recipe)),
        }
        # What others are built from stays as it was: their engines are used again.
        parts |= {"variant": variants.maker()} if recipe.name in variants.DERIVED else {}
        converted = self._conversions(candidate, recipe)
        parts |= {"converted": converted} if converted else {}
        parts |= {"compute capability": ahead, "device": candidate.device} if ahead else {}
        return parts | ({"profiles": wire.encode(profiles)} if profiles else {})

    def _conversions(self, candidate: Candidate, recipe: variants.Recipe) -> list[object]:
        """What tells the file that is built from, beside the model and the recipe."""
        if self._engine(candidate) is not None:
            return []
        setup, identity = self._setup, self._forms.identity
        given, wanted = setup.model_format, setup.reads(candidate.backend)
        if recipe.name not in variants.DERIVED:
            return identity(given, wanted)
        return [*identity(given, ("onnx",)), *identity("onnx", wanted)]

    def _parent(self, candidate: Candidate) -> str:
        """The sha256 of what it is made from: the user's model, or the user's engine."""
        engine = self._engine(candidate)
        return engine.sha256 if engine is not None else self._setup.model_sha256

    def _engine(self, candidate: Candidate) -> ownengines.OwnEngine | None:
        """The user's engine that a candidate is, if it is one."""
        as_is = candidate.precision is Precision.AS_IS
        return self._setup.engines.get(candidate.recipe) if as_is else None

    def _profiles(self, candidate: Candidate) -> tuple[Profile, ...]:
        as_is = candidate.precision is Precision.AS_IS
        return () if as_is else self._setup.profiles.get(candidate.backend, ())

    def _calibration(self, candidate: Candidate, recipe: variants.Recipe) -> jobs.Samples | None:
        """The samples that the engine depends on: what isn't calibrated is the same for all."""
        if recipe.name in variants.DERIVED:
            calibrated = variants.RECIPES.get(recipe.name, False)
        else:
            backend = registry.safe_load(candidate.backend)
            offers = () if isinstance(backend, Probe) else backend.capabilities.offers
            calibrated = any(
                (each.precision, each.recipe) == (candidate.precision, recipe.name)
                for each in offers
                if each.calibrated
            )
        return self._setup.calibration if calibrated else None

    def _variant(self, recipe: variants.Recipe) -> Form | jobs.Refused:
        known = self._variants.get((recipe.name, recipe.params))
        if known is None:
            known = self._make_variant(recipe)
            self._variants[recipe.name, recipe.params] = known
        return known

    def _make_variant(self, recipe: variants.Recipe) -> Form | jobs.Refused:
        setup, source = self._setup, self._forms.onnx()
        if isinstance(source, jobs.Refused):
            return source
        calibration = setup.calibration if variants.RECIPES.get(recipe.name) else None
        key = key_of(
            {
                "format": FORMAT,
                "model": source.address,
                "maker": variants.maker(),
                "recipe": (recipe.name, recipe.params),
                "calibration": _key(calibration),
            }
        )
        entry = self._cache.get("variants", key)
        if entry is not None:
            return _variant_form(entry, source, key)
        with self._cache.scratch() as workdir:
            job = jobs.VariantJob(
                recipe=recipe.name,
                parameters=recipe.params,
                source=source.path,
                out=str(workdir / VARIANT_FILE),
                inputs=setup.inputs,
                calibration=calibration,
            )
            answer = ask_parent_side(job, jobs.Noted, Stage.VARIANT, setup.timeout_s)
            if isinstance(answer, jobs.Refused):
                return answer
            meta = {"notes": answer.notes, "took_ns": answer.took_ns}
            return _variant_form(self._cache.put("variants", key, workdir, meta), source, key)

    def _build(
        self,
        candidate: Candidate,
        form: Form,
        recipe: str,
        calibration: jobs.Samples | None,
        record: BuildRecord,
    ) -> Made:
        """Build what the record describes; it has the variant's notes and time already."""
        setup = self._setup
        with self._cache.scratch() as workdir:
            own = workdir / OWN_FILES
            own.mkdir()
            job = jobs.BuildJob(
                backend=setup.homes[candidate.backend].location,
                model=form.path,
                precision=candidate.precision,
                recipe=recipe,
                device=candidate.device,
                inputs=setup.inputs,
                calibration=calibration,
                workdir=str(own),
                parameters=record.recipe_parameters,
                options=record.options,
                profiles=self._profiles(candidate),
                compute_capability=setup.compute_capability,
                ports=form.ports,
            )
            answer = setup.ask_once(candidate.backend, job, jobs.Built, Stage.BUILD)
            if isinstance(answer, jobs.Refused):
                return _refused(answer, record)
            engine = replace(
                answer.engine,
                path=str(Path(answer.engine.path).relative_to(own)),
                notes=(*record.notes, *answer.engine.notes),
            )
            meta = {
                "engine": wire.encode(engine),
                "took_ns": (record.build_ns or 0) + answer.took_ns,
            }
            entry = self._cache.put("engines", record.engine_key, workdir, meta)
            return _made(entry, record, cached=False)


def _variant_form(entry: Entry, source: Form, key: str) -> Form:
    """A variant in the cache; what made its source ONNX counts as well."""
    return Form(
        path=str(entry.folder / VARIANT_FILE),
        format="onnx",
        address=key,
        notes=(*source.notes, *entry.meta["notes"]),
        took_ns=source.took_ns + entry.meta["took_ns"],
    )


def _key(samples: jobs.Samples | None) -> object:
    return None if samples is None else samples.key()


def _recipe_of(added: AddRecord) -> variants.Recipe:
    return variants.Recipe(added.recipe, added.recipe_parameters)


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
