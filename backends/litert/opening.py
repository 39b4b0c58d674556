"""How an engine is opened on a device: what the settings and the engine's precision come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from backends.litert.building import About
from backends.litert.compiled import Target
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.types import Precision, Settings

DELEGATES = ("xnnpack", "none")
_SWITCH = ("on", "off")
_OPTIONS = {"cpu": {"delegate": DELEGATES}, "gpu": {"cpu-fallback": _SWITCH}}
_OPTIONS["npu"] = _OPTIONS["gpu"]
_DEVICES = {"cpu": "cpu", "gpu:0": "gpu", "npu": "npu"}


@dataclass(frozen=True)
class Opening:
    """delegate: of the interpreter. target: for ``CompiledModel``; None: the interpreter runs."""

    device: str
    threads: int
    delegate: str = "xnnpack"
    target: Optional[Target] = None

    @classmethod
    def of(cls, device: str, settings: Settings, about: About) -> Opening:
        """LiteRT's default is one thread.

        Raises UnavailableError for devices that it never has, and BackendError for options.
        """
        kind = _DEVICES.get(device)
        if kind is None:
            raise UnavailableError(f"{device}: LiteRT has no such device", "enginepick devices")
        options = dict(settings.options)
        _check(options, kind)
        threads = settings.threads or 1
        half = about.precision is Precision.FP16
        delegate = options.get("delegate", DELEGATES[0])
        if kind == "cpu" and not half:
            return cls(device, threads, delegate)
        if delegate != DELEGATES[0]:
            raise UnsupportedError("delegate=none: only XNNPACK computes in float16")
        fallback = options.get("cpu-fallback") == "on"
        return cls(device, threads, delegate, Target(kind, threads, half, fallback))


def _check(options: Mapping[str, str], kind: str) -> None:
    known = _OPTIONS[kind]
    for name, value in options.items():
        if name not in known:
            raise BackendError(
                f"litert has no option {name} on the {kind}; it has {', '.join(known)}"
            )
        if value not in known[name]:
            raise BackendError(f"{name}={value}: expected {' or '.join(known[name])}")
