"""An onnxruntime with NVIDIA's providers that computes on the CPU: the real one does the work.

It keeps the real one's rules: memory of a place is written by ``update_inplace`` and read by
``copy_outputs_to_cpu`` alone, a graph replays the addresses that it captured, providers whose
library is missing are dropped with a line in the log, and the CPU may be forbidden.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as real

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
REFUSED = (
    "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU"
    " EP has been explicitly disabled by the user."
)


class Options:
    """``SessionOptions``, whose entries can be looked at."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.attached: list[tuple[Any, dict[str, str]]] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.attached = [(device, options) for device in devices]

    def real(self) -> Any:
        made = real.SessionOptions()
        for name, value in vars(self).items():
            if name not in ("entries", "attached"):
                setattr(made, name, value)
        recorded = {"session.record_ep_graph_assignment_info": "1"}
        for key, value in {**self.entries, **recorded}.items():
            if key != "session.disable_cpu_ep_fallback":
                made.add_session_config_entry(key, value)
        return made


class Value:
    """``OrtValue`` in a place that isn't the host's."""

    def __init__(self, array: np.ndarray[Any, Any], place: tuple[Any, ...]) -> None:
        assert array.flags.c_contiguous
        self.place = place
        self.memory = array.copy()
        self.value = real.OrtValue.ortvalue_from_numpy(self.memory, "cpu", 0)

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray[Any, Any], *place: Any) -> Value:
        return cls(array, place)

    def update_inplace(self, array: np.ndarray[Any, Any]) -> None:
        assert array.flags.c_contiguous
        if array.shape != self.memory.shape:
            raise RuntimeError("The input size of numpy arrays does not match")
        self.memory[...] = array


class Binding:
    """``IOBinding``."""

    def __init__(self, session: Session) -> None:
        self.real = session.real.io_binding()
        self.places: dict[str, tuple[Any, ...]] = {}
        self.allocated: set[str] = set()
        self.synchronized = 0

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.places[name] = value.place
        self.real.bind_ortvalue_input(name, value.value)

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.places[name] = value.place
        self.allocated.discard(name)
        self.real.bind_ortvalue_output(name, value.value)

    def bind_output(self, name: str, kind: str, number: int) -> None:
        self.places[name] = (kind, number)
        self.allocated.add(name)
        self.real.bind_output(name, "cpu")

    def synchronize_outputs(self) -> None:
        self.synchronized += 1

    def copy_outputs_to_cpu(self) -> list[np.ndarray[Any, Any]]:
        return [np.array(each) for each in self.real.copy_outputs_to_cpu()]


class Session:
    """``InferenceSession``."""

    def __init__(
        self,
        host: FakeOrt,
        model: str | bytes,
        options: Options,
        providers: list[tuple[str, dict[str, str]]],
    ) -> None:
        assert bool(providers) != bool(options.attached), "one way to name providers, not both"
        attached = [(device.ep_name, chosen) for device, chosen in options.attached]
        asked = [*providers, *attached]
        for name, _ in asked:
            if name in host.broken and host.severity <= 3:
                os.write(
                    2, f"[E:ort] Failed to load library with error: {host.broken[name]}\n".encode()
                )
        self.host, self.model, self.options, self.asked = host, model, options, asked
        self.taken = [name for name, _ in asked if name not in host.broken]
        self.real = real.InferenceSession(model, options.real(), providers=[CPU])
        self.graph: Any = None
        host.sessions.append(self)
        confined = options.entries.get("session.disable_cpu_ep_fallback") == "1"
        if confined and any(who == CPU for who, _, inside in self._nodes() if not inside):
            raise real.capi.onnxruntime_pybind11_state.Fail(REFUSED)

    def __getattr__(self, name: str) -> Any:
        if name == "get_provider_graph_assignment_info":
            if not self.host.assigns:
                raise AttributeError(name)
            return self._assignment_info
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        return [*dict.fromkeys([*self.taken, CPU])]

    def _nodes(self) -> list[tuple[str, Any, bool]]:
        found = []
        for part in self.real.get_provider_graph_assignment_info():
            for node in part.get_nodes():
                able = [
                    name for name in self.taken if node.op_type not in self.host.lacks.get(name, ())
                ]
                found.append((able[0] if able else CPU, node, node.op_type in self.host.inside))
        return found

    def _assignment_info(self) -> list[Any]:
        assert self.options.entries.get("session.record_ep_graph_assignment_info") == "1"
        return [
            SimpleNamespace(ep_name=who, get_nodes=lambda node=node: [node])
            for who, node, _ in self._nodes()
        ]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding) -> None:
        graphs = ("enable_cuda_graph", "trt_cuda_graph_enable")
        if any(chosen.get(name) == "1" for _, chosen in self.asked for name in graphs):
            if binding.allocated:
                raise RuntimeError("outputs of a graph need memory of their own")
            self.graph = self.graph or binding
        self.real.run_with_iobinding((self.graph or binding).real)


@dataclass
class FakeOrt:
    """The module. broken: providers whose library lacks one. lacks: operators per provider.

    inside: operators that stand for nodes inside of branches, which the runtime's own check
    leaves out. gpus: how many the plug-in lists. assigns: whether sessions tell who has the nodes,
    as they do since 1.24.1; of ``.ort`` files the real one lists none, and neither does this.
    """

    builtin: list[str]
    broken: dict[str, str] = field(default_factory=dict)
    lacks: dict[str, set[str]] = field(default_factory=dict)
    inside: set[str] = field(default_factory=set)
    gpus: int = 1
    assigns: bool = True
    severity: int = 4
    sessions: list[Session] = field(default_factory=list)
    registered: dict[str, str] = field(default_factory=dict)
    preloaded: int = 0
    __version__: str = "1.32.0"
    __spec__: Any = None

    SessionOptions = Options
    OrtValue = Value
    GraphOptimizationLevel = real.GraphOptimizationLevel
    ExecutionMode = real.ExecutionMode

    def InferenceSession(  # noqa: N802
        self, model: Any, *, sess_options: Any, providers: Any, enable_fallback: int
    ) -> Session:
        assert enable_fallback == 0
        return Session(self, model, sess_options, providers)

    def get_available_providers(self) -> list[str]:
        return self.builtin

    def set_default_logger_severity(self, level: int) -> None:
        self.severity = level

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn.so.9")  # noqa: T201 - as the real one does
        self.preloaded += 1

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if name in self.registered:
            raise RuntimeError(f"library is already registered under {name}")
        if name in self.broken:
            raise RuntimeError(f"Failed to load library {path} with error: {self.broken[name]}")
        self.registered[name] = path

    def get_ep_devices(self) -> list[Any]:
        gpus = reversed(range(self.gpus))  # the plug-in's order is nobody's promise
        listed = [
            SimpleNamespace(ep_name=name, ep_options={"device_id": str(number)})
            for name in self.registered
            for number in gpus
        ]
        return [SimpleNamespace(ep_name=CPU, ep_options={}), *listed]
