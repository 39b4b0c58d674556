"""ONNX to TFLite by onnx2tf's writer of flatbuffers, which needs no TensorFlow.

The tool's layout passes, and what it makes of open axes, are heuristics. So nothing that it says of
a file is believed: one is taken when its outputs are the original's, at several batch sizes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from backends.convert import checking, onnx2tf_tool, onnx_original, tflite_layout
from backends.convert.onnx_original import Case, Original
from harness.backend import API_VERSION, Converted, ConvertRequest
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.types import Array, Environment, Port, Ports, Probe, TensorSpec

_FILE = "model.tflite"
_SETUP = "enginepick setup onnx2tf"
_PACKAGES = ("onnx2tf", "ai-edge-litert", "onnx", "onnxruntime")


class OnnxToTflite:
    """A :class:`harness.backend.Converter`, to float32 only: quantizing is the backend's."""

    name = "onnx2tf"
    api = API_VERSION
    source = "onnx"
    target = "tflite"
    home = "onnx2tf"
    environment: Optional[Environment] = Environment(
        requirements=(
            *("ai-edge-litert>=2.1,<3", "flatbuffers>=24.3", "numpy>=1.26,<3", "onnx>=1.17,<2"),
            *("onnxruntime>=1.22,<2", "psutil>=5.9"),
        ),
        alone=("onnx2tf==2.6.9",),
        python=">=3.10,<3.14",
    )

    def probe(self) -> Probe:
        """Whether the tool, and the runtimes that its outputs are checked with, are here."""
        try:
            onnx2tf_tool.load()
            tflite_layout.load()
            versions = tuple((package, version(package)) for package in _PACKAGES)
        except Exception as fault:  # noqa: BLE001 - a probe never raises
            return Probe(self.name, problem=str(fault), fix=_SETUP)
        return Probe(self.name, versions)

    def convert(self, request: ConvertRequest, workdir: str) -> Converted:
        """See :class:`harness.backend.Converter`; the file is ``model.tflite``.

        Open axes get the request's sizes, as the ports' shapes then say. The batch stays open,
        unless every way to leave it open gives other outputs.
        """
        probe = self.probe()
        if probe.problem:
            raise UnavailableError(f"onnx2tf can't be used: {probe.problem}", fix=_SETUP)
        with tempfile.TemporaryDirectory(dir=workdir) as scratch:
            original = onnx_original.read(request)
            taken = _Search(original, Path(scratch)).best()
            notes = _notes(original, taken)
            path = shutil.move(taken.path, Path(workdir) / _FILE)
        return Converted(str(path), taken.ports, notes)


@dataclass(frozen=True)
class _Made:
    """A file as the tool wrote it.

    last: inputs that it was told to take channels-last. opened: whether the batch was open then.
    """

    path: Path
    last: frozenset[str]
    opened: bool
    graph: tflite_layout.Graph


@dataclass(frozen=True)
class _Taken:
    """A file, its ports, and how far its outputs are from the original's.

    opened: whether its batch is open, which the difference then covers.
    """

    path: Path
    ports: Ports
    difference: float
    opened: bool

    @property
    def right(self) -> bool:
        """Whether the outputs are the original's."""
        return self.difference <= checking.AGREES


class _Search:
    """Ways to convert one model, from the one that should run best."""

    def __init__(self, original: Original, scratch: Path) -> None:
        self._original = original
        self._scratch = scratch
        self._faults: list[BackendError] = []
        self._models: dict[bool, Any] = {}

    def best(self) -> _Taken:
        """The first file that is right at every batch, else the first that is at the request's.

        Where none is right, it is the least wrong. Raises the first fault where there is no file.
        """
        tried = []
        for made in self._made():
            try:
                taken = self._checked(made)
            except BackendError as fault:
                self._faults.append(fault)
                continue
            if taken.right and taken.opened == bool(self._original.larger):
                return taken
            tried.append(taken)
        if not tried:
            raise self._faults[0]
        right = [taken for taken in tried if taken.right]
        return right[0] if right else min(tried, key=lambda taken: taken.difference)

    def _made(self) -> Iterator[_Made]:
        """Files of fixed shapes, those that transpose the least first, and files left open.

        With an open batch the tool computes shapes at run time, and delegates take less of that.
        """
        plain = self._make(frozenset(), opened=False)
        last = plain.graph.made_last() if plain else self._images()
        turned = self._make(last, opened=False) if last else None
        fixed = [made for made in (plain, turned) if made]
        fixed.sort(key=lambda made: made.graph.transposes())
        yield from fixed
        if self._original.larger:
            layouts = [made.last for made in fixed] or [last, frozenset()]
            opened = (self._make(layout, opened=True) for layout in layouts)
            yield from (made for made in opened if made)

    def _images(self) -> frozenset[str]:
        specs = self._original.request.inputs
        return frozenset(spec.name for spec in specs if len(spec.shape) in tflite_layout.LAST)

    def _make(self, last: frozenset[str], *, opened: bool) -> Optional[_Made]:
        """None where the tool refuses, which is kept."""
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        names = [spec.name for spec in self._original.request.inputs]
        try:
            if opened not in self._models:
                self._models[opened] = self._original.shaped(folder, opened=opened)
            path = onnx2tf_tool.write(self._models[opened], folder, names, last)
            graph = tflite_layout.Graph(path)
            if graph.custom():
                kinds = ", ".join(graph.custom())
                raise UnsupportedError(f"onnx2tf made operators that LiteRT lacks: {kinds}")
        except BackendError as fault:
            self._faults.append(fault)
            return None
        return _Made(path, last, opened, graph)

    def _checked(self, made: _Made) -> _Taken:
        """With its batch opened where that gives the original's outputs. Raises BackendError."""
        own, larger = self._original.own, self._original.larger
        if larger:
            path = made.path if made.opened else self._opened(made)
            try:
                taken = self._compared(path, made, (*own, *larger), opened=True)
            except BackendError:  # LiteRT refuses the shapes that it leads to
                taken = None
            if taken and taken.right:
                return taken
        return self._compared(made.path, made, own, opened=False)

    def _opened(self, made: _Made) -> Path:
        """A copy whose batch is open."""
        name = next(iter(self._original.batch))
        made.graph.open_batch(dict(self._original.request.shapes)[name][0])
        path = made.path.with_name("opened.tflite")
        path.write_bytes(made.graph.data)
        return path

    def _compared(self, path: Path, made: _Made, cases: Sequence[Case], *, opened: bool) -> _Taken:
        inputs = self._original.inputs(opened=opened)
        outputs = self._original.outputs(opened=opened)
        try:
            runner = tflite_layout.Runner(path)
            tflite_layout.same_number("onnx2tf", inputs, runner.inputs, "inputs")
            tflite_layout.same_number("onnx2tf", outputs, runner.outputs, "outputs")
            taking = tuple(
                Port(spec, name, dtype, _axes(spec) if spec.name in made.last else ())
                for spec, (name, dtype) in zip(inputs, runner.inputs)
            )
            got = [runner.run(checking.to_file(case.feed, Ports(taking, ()))) for case in cases]
        except (RuntimeError, ValueError) as fault:
            raise BackendError(f"LiteRT can't run what onnx2tf made: {fault}") from fault
        giving = tuple(
            _output(spec, name, dtype, [each[name] for each in got], cases)
            for spec, (name, dtype) in zip(outputs, runner.outputs)
        )
        ports = Ports(taking, giving)
        wanted = [case.wanted for case in cases]
        difference = checking.difference([checking.from_file(o, ports) for o in got], wanted)
        return _Taken(path, ports, difference, opened)


def _axes(spec: TensorSpec) -> tuple[int, ...]:
    return tflite_layout.LAST.get(len(spec.shape), ())


def _output(
    spec: TensorSpec, name: str, dtype: str, values: Sequence[Array], cases: Sequence[Case]
) -> Port:
    """In the order of axes that comes nearest to what is wanted; the model's own where both do.

    Shapes alone don't tell: all axes of a square image with as many channels are alike.
    """
    wanted = [{spec.name: case.wanted[spec.name]} for case in cases]

    def difference(port: Port) -> float:
        ports = Ports((), (port,))
        return checking.difference(
            [checking.from_file({name: value}, ports) for value in values], wanted
        )

    orders = [()] + [axes for axes in [_axes(spec)] if axes and values[0].ndim == len(axes)]
    return min((Port(spec, name, dtype, axes) for axes in orders), key=difference)


def _notes(original: Original, taken: _Taken) -> tuple[str, ...]:
    """Raises BackendError where the outputs aren't the original's."""
    count = len(original.own)
    found = [checking.note(taken.difference, "onnx2tf", "the ONNX model", count)]
    turned = [p.spec.name for p in (*taken.ports.inputs, *taken.ports.outputs) if p.axes]
    if turned:
        found.append(f"onnx2tf: channels come last in the file in {', '.join(turned)}")
    found += checking.fixed("onnx2tf", taken.ports, original.request.inputs)
    if original.larger and not taken.opened:
        found.append("onnx2tf: with other batches, what it makes fails or gives other outputs")
    return tuple(found)


CONVERTER = OnnxToTflite()
