"""How an engine is opened on a device: what the settings and the engine's precision come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from backends.litert.building import About
from backends.litert.compiled import Target
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Precision, Settings

DELEGATES = ("xnnpack", "none")
_OPTIONS = {"delegate": DELEGATES, "cpu-fallback": ("on", "off")}
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
        """LiteRT's default is one thread. An option that means nothing on a device is left out.

        Raises UnavailableError for devices that it never has, and UnsupportedError for options.
        """
        kind = _DEVICES.get(device)
        if kind is None:
            raise UnavailableError(f"{device}: LiteRT has no such device", "enginepick devices")
        options = dict(settings.options)
        _check(options)
        threads = settings.threads or 1
        half = about.precision is Precision.FP16
        delegate = options.get("delegate", DELEGATES[0])
        if kind == "cpu" and not half:
            return cls(device, threads, delegate)
        if kind == "cpu" and delegate != DELEGATES[0]:
            raise UnsupportedError("delegate=none: only XNNPACK computes in float16")
        fallback = kind != "cpu" and options.get("cpu-fallback") == "on"
        return cls(device, threads, target=Target(kind, threads, half, fallback))


def _check(options: Mapping[str, str]) -> None:
    for name, value in options.items():
        if name not in _OPTIONS:
            raise UnsupportedError(f"litert has no option {name}; it has {', '.join(_OPTIONS)}")
        if value not in _OPTIONS[name]:
            raise UnsupportedError(f"{name}={value}: expected {' or '.join(_OPTIONS[name])}")
