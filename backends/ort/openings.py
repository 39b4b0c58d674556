"""What a session is opened with.

The settings are worked out as plain data first (:class:`Opening`), so that ``open``, the session
that is examined and the script for deployment all say the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

from backends.ort.operators import PRODUCTS, QDQ
from backends.ort.providers import (
    CHOICES,
    CPU,
    CUDA,
    DRIVER,
    LIBRARIES,
    NVIDIA,
    PLUGINS,
    TENSORRT,
    complaint,
    plugin_device,
    possible,
    preload,
)
from backends.ort.runtime import FALLBACK, GET_DRIVER, LET_THEM, QUIET, classified
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.types import Settings

LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}

OPTIONS = {
    "graph-optimization": f"one of {', '.join(LEVELS)} (default: all)",
    "spin": "microseconds that idle threads spin, or default, the runtime's (default: 200)",
    "cpu-fallback": "on or off: may nodes that another device lacks run on the CPU (default: off)",
    "tf32": "on or off: may an NVIDIA GPU round float32 products to TF32 (default: off)",
    "provider": f"{', '.join(CHOICES)}: what runs it on an NVIDIA GPU (default: the first usable)",
    "cuda-graph": (
        "on or off: launch an NVIDIA GPU's work as one CUDA graph; then each change of the shapes"
        " opens the model anew, and the TensorRTs build an engine each time (default: off)"
    ),
}
"""The options of ``Settings.options`` that are understood."""

DEFAULT_SPIN_US = 200
_SPIN_DURATION_SINCE = (1, 27)  # older ones ignore the key; threads there spin tens of ms
_TF32 = "NVIDIA_TF32_OVERRIDE"  # read by TensorRT, cuBLAS and cuDNN alike: 0 forbids TF32
_MOST_NAMES = 5
_NVIDIA_VENDOR = 0x10DE  # of PCI
_CONFINED = ("session.disable_cpu_ep_fallback", "1")
_RECORDED = ("session.record_ep_graph_assignment_info", "1")
_UPGRADE = "upgrade onnxruntime-gpu, or onnxruntime for a plug-in, to 1.24.1 or later"
_ASSIGNMENT = "get_provider_graph_assignment_info"  # since 1.24.1

# x + x, as onnx.helper makes it: IR 7, opset 13, float[1]. There is no onnx package in a worker.
TINY_MODEL = (
    b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@dataclass(frozen=True)
class Opening:
    """All that a session is opened with.

    provider: the one asked for. provider_options: its own. level: of graph optimisation, by the
    runtime's name. threads: intra-op, 0 for the runtime's choice. entries: of the session's
    configuration, in order. companions: providers for nodes that the first can't run, on the same
    device. environment: variables that NVIDIA's libraries read, since no option says the same;
    None: unset.
    """

    device: str
    provider: str
    provider_options: tuple[tuple[str, str], ...]
    level: str
    threads: int
    entries: tuple[tuple[str, str], ...]
    companions: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    environment: tuple[tuple[str, Optional[str]], ...] = ()

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """As ``InferenceSession`` takes them."""
        every = ((self.provider, self.provider_options), *self.companions)
        return [(name, dict(options)) for name, options in every]

    @property
    def number(self) -> int:
        """The device's among those of its kind."""
        return int(self.device.partition(":")[2] or "0")

    @property
    def place(self) -> Union[tuple[str, int], tuple[str, int, int]]:
        """Where ``OrtValue`` puts what an NVIDIA GPU reads.

        Memory of a plug-in's is found by the vendor; ``cuda`` stands for what is built in.
        """
        if self.provider in PLUGINS:
            return "gpu", self.number, _NVIDIA_VENDOR
        return "cuda", self.number

    @property
    def cuda_graph(self) -> bool:
        """Whether runs replay a graph, whose inputs and outputs lie where they did at first."""
        return bool(
            {"enable_cuda_graph", "trt_cuda_graph_enable"} & dict(self.provider_options).keys()
        )

    @property
    def confined(self) -> bool:
        """Whether nodes may run on the device alone."""
        return _CONFINED in self.entries

    def options(self, ort: Any) -> Any:
        """A fresh ``SessionOptions``."""
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, self.level)
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        for key, value in self.entries:
            options.add_session_config_entry(key, value)
        return options

    def session(self, ort: Any, model: Union[str, bytes], options: Optional[Any] = None) -> Any:
        """An ``InferenceSession`` with the provider asked for and no other.

        model: its file, or its bytes. options: those of :meth:`options`, changed. Raises
        classified errors.
        """
        try:
            session = self.create(ort, model, self.options(ort) if options is None else options)
        except Exception as fault:
            known = classified(fault, self.device)
            if FALLBACK in str(fault):
                known = self._left_over(ort, model) or known
            raise known from fault
        session.disable_fallback()
        problem = self._problem(model, session)
        if problem is not None:
            raise problem
        return session

    def create(self, ort: Any, model: Union[str, bytes], options: Any) -> Any:
        """The session as it comes, with the runtime's own errors."""
        for name, value in self.environment:
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        providers = self.providers
        if self.provider in PLUGINS:
            device = plugin_device(ort, self.provider, self.number)
            options.add_provider_for_devices([device], dict(self.provider_options))
            providers = []
        elif self.provider in NVIDIA:
            preload(ort, self.provider)
        if self.provider != CPU:
            options.add_session_config_entry(*_RECORDED)
        return ort.InferenceSession(
            model,
            sess_options=options,
            providers=providers,
            enable_fallback=0,  # else a fault of the provider silently gives the CPU
        )

    def _problem(self, model: Union[str, bytes], session: Any) -> Optional[BackendError]:
        """Whether the provider isn't there, or runs nothing much, or the CPU what it may not.

        The runtime's own check leaves out the nodes inside of branches and loops, and files in its
        own format as a whole.
        """
        if self.provider not in session.get_providers():
            return self._absent(session)
        nodes = [] if self.provider == CPU else assigned(session)
        if not nodes and self.provider != CPU:
            return self._unverified(model, session)
        there = {provider for provider, _ in nodes}
        if self.confined and CPU in there:
            return self._strays(nodes)
        for what, operators in (("products", PRODUCTS), ("Q/DQ nodes", QDQ)):
            there = {provider for provider, node in nodes if node.split()[0] in operators}
            if there and self.provider not in there:
                went = ", ".join(sorted(there))
                return UnsupportedError(
                    f"{self.provider} takes none of the model's {what}; they went to {went}"
                )
        return None

    def _absent(self, session: Any) -> UnavailableError:
        got = ", ".join(session.get_providers())
        return UnavailableError(
            f"{self.device}: {self.provider} was asked for, but ONNX Runtime took {got}",
            "enginepick devices",
        )

    def _unverified(self, model: Union[str, bytes], session: Any) -> Optional[BackendError]:
        """For a session that lists no nodes: None if the runtime's own check will do."""
        if hasattr(session, _ASSIGNMENT) or (isinstance(model, str) and model.endswith(".ort")):
            return UnsupportedError(
                f"{self.device}: ONNX Runtime lists no nodes of this model: where the nodes of a"
                " .ort file run can't be verified",
                "give the .onnx file",
            )
        if self.provider in NVIDIA:
            return UnavailableError(
                f"{self.device}: this onnxruntime doesn't tell where nodes run, so that can't be"
                " verified",
                _UPGRADE,
            )
        return None

    def explained(self, ort: Any, problem: UnavailableError) -> UnavailableError:
        """An error of :meth:`session` with the library that is missing, as the log names it."""
        if self.provider in PLUGINS:
            return problem
        why = complaint(ort, lambda: self.create(ort, TINY_MODEL, self.options(ort)), QUIET)
        if not why:
            return problem
        fix = GET_DRIVER if DRIVER in why else LIBRARIES.get(self.provider, problem.fix)
        return UnavailableError(f"{problem}: {why}", fix)

    def _strays(self, nodes: list[tuple[str, str]]) -> UnsupportedError:
        names = [node for provider, node in nodes if provider == CPU]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return UnsupportedError(
            f"{self.device} can't run every node of this model: {len(names)} of {len(nodes)} would"
            f" run on the CPU: {', '.join(names[:_MOST_NAMES])}{more}",
            LET_THEM,
        )

    def _left_over(self, ort: Any, model: Union[str, bytes]) -> Optional[BackendError]:
        """What is behind a refusal of the runtime's, which says that nodes are on the CPU.

        It names none of them, and says the same where the provider itself couldn't be loaded.
        """
        entries = tuple(entry for entry in self.entries if entry != _CONFINED)
        lax = replace(self, entries=entries)
        with contextlib.suppress(Exception):
            tiny = lax.create(ort, TINY_MODEL, lax.options(ort))  # another provider may be next
            if self.provider not in tiny.get_providers():
                return self._absent(tiny)
            nodes = assigned(lax.create(ort, model, lax.options(ort)))
            return self._strays(nodes) if nodes else None
        return None


def assigned(session: Any) -> list[tuple[str, str]]:
    """Every node's provider and its operator with its name; empty if the runtime is too old.

    Known of sessions that were told to record it.
    """
    ask = getattr(session, _ASSIGNMENT, None)
    parts = () if ask is None else ask()
    return [
        (str(part.ep_name), f"{node.op_type} {node.name}".strip())
        for part in parts
        for node in part.get_nodes()
    ]


def opening(
    device: str,
    settings: Settings,
    available: Iterable[str],
    version: tuple[int, int],
    provider: Optional[str] = None,
) -> Opening:
    """Work out a session's settings.

    available: the providers that are installed. provider: the one to take, else that of the option
    ``provider``, else the first that fits. version: the runtime's. Raises UnsupportedError for an
    unknown option or value and UnavailableError for an unknown device.
    """
    chosen = dict(settings.options)
    unknown = sorted(set(chosen) - set(OPTIONS))
    if unknown:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in OPTIONS.items())
        raise UnsupportedError(f"onnxruntime has no option {unknown[0]!r}; it has {known}")
    available = tuple(available)
    provider = provider or possible(device, chosen.get("provider"), available)[0]
    level = chosen.get("graph-optimization", "all")
    if level not in LEVELS:
        raise _bad_value("graph-optimization", level)
    entries = _spin_entries(chosen.get("spin", str(DEFAULT_SPIN_US)), version)
    switches = ("cpu-fallback", "tf32", "cuda-graph")
    fallback, tf32, cuda_graph = (_switch(name, chosen) for name in switches)
    if provider != CPU and not fallback:
        entries.append(_CONFINED)
    if cuda_graph and provider not in NVIDIA:
        raise UnsupportedError(f"cuda-graph: {device} is no NVIDIA GPU")
    own = _provider_options(provider, device, tf32=tf32, cuda_graph=cuda_graph)
    # What TensorRT can't run, CUDA can; with CUDA graphs all has to be in one.
    joined = provider == TENSORRT and CUDA in available and not cuda_graph
    with_cuda = (CUDA, _provider_options(CUDA, device, tf32=tf32, cuda_graph=False))
    return Opening(
        device=device,
        provider=provider,
        provider_options=own,
        level=LEVELS[level],
        threads=settings.threads or 0,
        entries=tuple(entries),
        companions=(with_cuda,) if joined else (),
        environment=((_TF32, None if tf32 else "0"),) if provider in NVIDIA else (),
    )


def _provider_options(
    provider: str, device: str, *, tf32: bool, cuda_graph: bool
) -> tuple[tuple[str, str], ...]:
    """A provider's own options.

    TensorRT's get no precision: without ``trt_fp16_enable`` and the like the provider makes
    strongly typed networks, in which each layer has the type that the model file gives it. Nor a
    cache: engines are built anew at each opening, since TensorRT's own cache goes by the graph's
    names and would hand out an engine with another model's weights.
    """
    found = []
    if provider != CPU and ":" in device and provider not in PLUGINS:  # plug-ins get a device
        found.append(("device_id", device.partition(":")[2]))
    if provider == CUDA:
        found.append(("use_tf32", str(int(tf32))))
    if cuda_graph:
        found.append(
            ("trt_cuda_graph_enable" if provider == TENSORRT else "enable_cuda_graph", "1")
        )
    return tuple(found)


def _spin_entries(spin: str, version: tuple[int, int]) -> list[tuple[str, str]]:
    """How long idle threads spin.

    By default ONNX Runtime's threads spin for some 20 to 50 ms after a run, which steals from
    whatever is measured next, and turns bimodal where cores are contended.
    """
    if spin == "default":
        return []
    if not spin.isdecimal():
        raise _bad_value("spin", spin)
    if not int(spin):
        return [("session.intra_op.allow_spinning", "0")]
    entries = [("session.intra_op.spin_duration_us", spin)]
    if version < _SPIN_DURATION_SINCE:
        entries.append(("session.force_spinning_stop", "1"))
    return entries


def _switch(name: str, chosen: dict[str, str]) -> bool:
    value = chosen.get(name, "off")
    if value not in ("on", "off"):
        raise _bad_value(name, value)
    return value == "on"


def _bad_value(name: str, value: str) -> UnsupportedError:
    return UnsupportedError(f"onnxruntime's option {name} can't be {value!r}: {OPTIONS[name]}")
