"""OpenVINO: Intel's runtime for CPUs (of any make), its GPUs and NPUs."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

from backends import enginefile
from backends.machine import versions_of
from backends.ov import build as building
from backends.ov.device import (
    check_properties,
    device_id,
    parse,
    pinning,
    properties,
    resolve,
)
from backends.ov.runtime import INSTALL, load
from backends.ov.session import OvSession, Source
from harness.backend import API_VERSION, BuildRequest, Capabilities, Offer
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Device, Engine, Precision, Probe, Settings

_CAPABILITIES = {
    "FP32": Precision.FP32,
    "FP16": Precision.FP16,
    "BF16": Precision.BF16,
    "INT8": Precision.INT8,
}

_ALTERNATIVES = (
    (("model_type", "transformer"),),
    (("symmetric", "no"),),
    (("bias_correction", "accurate"),),
    (("smooth_quant", "0.5"),),
    (("calibration", "percentile"),),
    (("model_type", "transformer"), ("max_drop", "")),
    (("max_drop", ""),),
)

OFFERS = (
    Offer(Precision.FP32, "source"),
    Offer(Precision.FP16, "source", native=True),
    Offer(Precision.BF16, "source", native=True),
    Offer(Precision.INT8, "qdq", calibrated=True),
    Offer(Precision.INT8, "qdq-all", calibrated=True),
    Offer(Precision.INT8, "qdq-portable", calibrated=True),
    Offer(Precision.INT8, "nncf", calibrated=True, alternatives=_ALTERNATIVES),
    Offer(Precision.INT8_WEIGHTS, "weights"),
    Offer(Precision.INT8_WEIGHTS, "nncf-weights"),
    Offer(Precision.INT4_WEIGHTS, "weights"),
    Offer(Precision.INT4_WEIGHTS, "nncf-weights"),
)


class OpenVino:
    """The OpenVINO backend.

    Engines are IR: ``model.xml``, ``model.bin`` and ``engine.json``, which says what precision to
    open them with: fp32, fp16 and bf16 are one model, told apart by a hint to the compiler. An
    IR without ``engine.json``, such as a user's own, is opened as it is, at the device's default
    precision and for the shapes that it declares. They are built from ONNX, or from a ``.tflite``,
    whose IR has the model's names in place of the file's; one that is quantized runs so.

    Devices: ``cpu``, ``gpu:0``, ``npu``, and OpenVINO's own ``auto``, ``auto:gpu,cpu``,
    ``hetero:gpu,cpu``, ``multi:...``, ``batch:gpu``.

    Options are OpenVINO's properties by name, in any case (``enable-cpu-pinning=NO``), and

    ``static-shapes``: ``auto``, the default, compiles for the fixed batch of the settings where
    the leading axis is all that is open, as one does for deployment: it saves some 5 us per
    inference. Feeds of another batch are served by a second, dynamic compilation. ``yes``
    compiles for whatever shapes are bound first, for models with other open axes (a sequence's
    length) that are always fed alike. ``no`` never does. ``auto`` leaves int8 engines with
    several matrix products open, since OpenVINO 2026.4.1 may fuse these when shapes are fixed,
    and then answered with zeros for one of our models. A model whose own shapes are fixed can't
    be kept from that but by ``snippets-mode=DISABLE``.
    """

    name = "openvino"
    api = API_VERSION
    capabilities = Capabilities(
        formats=("onnx", "tflite"),
        offers=OFFERS,
        install=INSTALL,
        settings=("threads", "streams", "in_flight"),
        engine_formats=("xml",),
    )

    def probe(self) -> Probe:
        """Versions and devices, or why not."""
        versions = versions_of("openvino", "nncf")
        try:
            core = load().Core()
            devices = tuple(_device(core, name) for name in core.available_devices)
        except UnavailableError as error:
            return Probe(self.name, versions, problem=str(error), fix=error.fix)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
            return Probe(
                self.name, versions, problem=f"openvino doesn't start: {error}", fix=INSTALL
            )
        if not devices:
            return Probe(self.name, versions, problem="openvino finds no device on this host")
        return Probe(self.name, versions, devices)

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Make the IR, or copy the user's; see :mod:`backends.ov.build`."""
        if request.precision is Precision.AS_IS and request.ports is None:
            return building.copy(load(), request, workdir)
        offered = {(offer.precision, offer.recipe) for offer in OFFERS}
        offered.add((Precision.AS_IS, "source"))
        if (request.precision, request.recipe) not in offered:
            raise UnsupportedError(f"openvino makes no {request.precision} from {request.recipe!r}")
        return building.build(load(), request, workdir)

    def open(self, engine: Engine, device: str, settings: Settings) -> OvSession:
        """Compile the IR for the device."""
        core = load().Core()
        target = resolve(device, core.available_devices)
        about = enginefile.beside(building.About, engine)
        wanted = properties(about.precision, target, settings)
        check_properties(core, target, wanted, settings)
        pins = pinning(about.inputs, settings, safe=about.static)
        return OvSession(Source(core, engine.path, target, wanted, pins))

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """A script with the properties and shapes that ``open`` uses. Needs no openvino."""
        about = enginefile.beside(building.About, engine)
        target = parse(device)
        pins = pinning(about.inputs, settings, safe=about.static)
        values: dict[str, Any] = {
            "ENGINE": Path(engine.path).name,
            "DEVICE": target.kind,
            "PARTS": list(target.parts),
            "PROPERTIES": properties(about.precision, target, settings),
            "SHAPES": pins.shapes,
            "FIRST": pins.first,
        }
        head = "\n".join(f"{key} = {pprint.pformat(value)}" for key, value in values.items())
        return _SCRIPT.replace("# VALUES", head)


def _device(core: Any, name: str) -> Device:
    """A device with its native precisions, as far as it answers."""
    try:
        full = str(core.get_property(name, "FULL_DEVICE_NAME")).strip()
        able = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError:
        return Device(device_id(name), name)
    native = tuple(precision for key, precision in _CAPABILITIES.items() if key in able)
    return Device(device_id(name), full, native)


_SCRIPT = '''\
"""Runs an OpenVINO engine exactly as it was measured. Needs openvino and numpy."""

import sys
from pathlib import Path

import numpy as np

sys.modules.setdefault("openvino_telemetry", None)  # else the import sends usage data
import openvino as ov

# VALUES
# SHAPES: what to compile for; feeds of other shapes are served by a second, dynamic compilation.
# FIRST: compile for the shapes of the first feed.


class Session:
    def __init__(self):
        self.core = ov.Core()
        self.device = DEVICE
        there = self.core.available_devices
        parts = PARTS
        if DEVICE in ("HETERO", "MULTI") and not parts:
            parts = sorted(there, key=lambda name: name == "CPU")
        parts = [part for part in parts if self._exists(part, there)]  # others end in an error
        if parts:
            self.device += ":" + ",".join(parts)
        self.shapes = SHAPES
        self.requests = {}
        if not FIRST:
            try:
                self.requests[self.shapes is not None] = self._compile(self.shapes)
            except RuntimeError:
                if self.shapes is None:
                    raise
                self.shapes = None  # the model can't be had for these: leave them open
                self.requests[False] = self._compile(None)

    @staticmethod
    def _exists(part, there):
        name = part.lstrip("-").split("(")[0]
        return name.replace("GPU.0", "GPU") in [known.replace("GPU.0", "GPU") for known in there]

    def _compile(self, shapes):
        model = self.core.read_model(Path(__file__).parent / ENGINE)
        if shapes is not None:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        compiled = self.core.compile_model(model, self.device, PROPERTIES)
        return compiled.create_infer_request()

    def request(self, feed):
        shapes = {name: tuple(array.shape) for name, array in feed.items()}
        if FIRST and self.shapes is None:
            self.shapes = shapes
        pinned = shapes == self.shapes
        if pinned not in self.requests:
            self.requests[pinned] = self._compile(self.shapes if pinned else None)
        return self.requests[pinned]


def names_of(ports):
    """The names that the model has for its inputs or outputs."""
    nodes = [port.get_node().get_friendly_name().rsplit("/sink_port_", 1)[0] for port in ports]
    found = [
        node if node in names or not names else min(names, key=lambda name: (":" in name, name))
        for node, names in zip(nodes, (port.get_names() for port in ports))
    ]
    return [node if found.count(name) > 1 else name for node, name in zip(nodes, found)]


def load():
    return Session()


def infer(session, feed):
    """One inference: arrays by input name -> arrays by output name."""
    request = session.request(feed)
    ports = {name: index for index, name in enumerate(names_of(request.model_inputs))}
    if set(feed) != set(ports):
        raise ValueError(f"the model takes {sorted(ports)}, not {sorted(feed)}")
    for name, array in feed.items():
        tensor = request.get_input_tensor(ports[name])
        if tensor.data.dtype != array.dtype:
            raise ValueError(f"{name}: takes {tensor.data.dtype}, not {array.dtype}")
        if tuple(tensor.shape) != array.shape:
            tensor.shape = list(array.shape)
        tensor.data[...] = array
    request.infer(share_outputs=True)
    return {
        name: np.array(request.get_output_tensor(index).data)
        for index, name in enumerate(names_of(request.model_outputs))
    }
'''

BACKEND = OpenVino()
