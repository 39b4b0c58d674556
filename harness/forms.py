"""The user's model in the formats that backends read: each conversion made once, and cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import jobs, routes, wire
from harness.cache import Cache, Entry, key_of
from harness.routes import NoRoute, Route, Tool
from harness.setup import Setup
from harness.types import Ports, Stage

FORMAT = 1
"""Raised when what earlier versions of this project converted must not be used again."""


@dataclass(frozen=True)
class Form:
    """A model file. address: what it depends on, as a content address.

    ports: where the model's inputs and outputs are in it; None for ONNX. notes, took_ns: of the
    conversions that made it.
    """

    path: str
    format: str
    address: str
    ports: Ports | None = None
    notes: tuple[str, ...] = ()
    took_ns: int = 0


class Forms:
    """Converts for one run."""

    def __init__(self, setup: Setup, cache: Cache) -> None:
        self._setup = setup
        self._cache = cache
        self._made: dict[str, Form | jobs.Refused] = {}

    @property
    def source(self) -> Form:
        """The user's model as it is."""
        setup = self._setup
        return Form(setup.model, setup.model_format, setup.model_sha256, setup.ports)

    def onnx(self) -> Form | jobs.Refused:
        """The user's model as ONNX, of which shared recipes are made."""
        return self.get(self.source, ("onnx",))

    def get(self, form: Form, wanted: Sequence[str]) -> Form | jobs.Refused:
        """The same model in one of the formats that are wanted, the best first."""
        route = routes.find(form.format, wanted, self._setup.tools)
        if isinstance(route, NoRoute):
            reason = f"what is wanted {route.reason}"
            return jobs.Refused(route.status, Stage.CONVERT, reason, route.fix)
        found: Form | jobs.Refused = form
        for tool in route:
            if isinstance(found, jobs.Refused):
                break
            found = self._converted(found, tool)
        return found

    def identity(self, given: str, wanted: Sequence[str]) -> list[object]:
        """All that :meth:`get` depends on but for the file; empty where nothing is converted."""
        route = routes.find(given, wanted, self._setup.tools)
        tools: Route = () if isinstance(route, NoRoute) else route
        return [self._tool(tool) for tool in tools]

    def _tool(self, tool: Tool) -> object:
        home = self._setup.homes[tool.name]
        setup = self._setup
        return {
            "format": FORMAT,
            "tool": (tool.name, tool.probe.versions),
            "adapter": home.code,
            "model": wire.encode((setup.inputs, setup.outputs)),
            "shapes": setup.shapes,
            "checked on": setup.checking.data.sha256 if setup.checking else None,
        }

    def _converted(self, form: Form, tool: Tool) -> Form | jobs.Refused:
        key = key_of({"model": form.address, "by": self._tool(tool)})
        if key not in self._made:
            entry = self._cache.get("forms", key)
            made = entry if entry is not None else self._convert(form, tool, key)
            self._made[key] = made if isinstance(made, jobs.Refused) else _form(made, tool, key)
        found = self._made[key]
        if isinstance(found, jobs.Refused):
            return found
        return replace(
            found, notes=(*form.notes, *found.notes), took_ns=form.took_ns + found.took_ns
        )

    def _convert(self, form: Form, tool: Tool, key: str) -> Entry | jobs.Refused:
        setup = self._setup
        with self._cache.scratch() as workdir:
            own = workdir / "files"
            own.mkdir()
            job = jobs.ConvertJob(
                converter=setup.homes[tool.name].location,
                model=form.path,
                inputs=setup.inputs,
                outputs=setup.outputs,
                shapes=setup.shapes,
                samples=setup.checking,
                workdir=str(own),
                ports=form.ports,
            )
            answer = setup.ask_once(tool.name, job, jobs.Conversion, Stage.CONVERT)
            if isinstance(answer, jobs.Refused):
                return replace(answer, reason=f"{tool.name}: {answer.reason}")
            made = answer.converted
            meta = {
                "path": str(Path(made.path).relative_to(own)),
                "ports": wire.encode(made.ports),
                "notes": made.notes,
                "took_ns": answer.took_ns,
            }
            return self._cache.put("forms", key, workdir, meta)


def _form(entry: Entry, tool: Tool, key: str) -> Form:
    meta = entry.meta
    return Form(
        path=str(entry.folder / "files" / meta["path"]),
        format=tool.target,
        address=key,
        ports=wire.decode(Ports, meta["ports"]) if meta["ports"] is not None else None,
        notes=tuple(meta["notes"]),
        took_ns=meta["took_ns"],
    )
