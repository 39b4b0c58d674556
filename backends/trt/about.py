"""What ``engine.json`` beside an engine says of it, since it is opened by its path alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from harness.types import Engine, Executed, Precision, ShapeRange, Share, TensorSpec

ENGINE = "model.engine"
ABOUT = "engine.json"
CALIBRATION = "calibration.cache"


@dataclass(frozen=True)
class About:
    """Everything that is known of an engine; nothing but the defaults for one that isn't ours.

    library: the module that made it (``tensorrt``, ``tensorrt_rtx``); version: that module's.
    mode: ``strongly typed``, or ``implicit`` with what calibrated it. tf32: whether float32
    products may be rounded to TF32. compute_capability: of the GPU that it is for (``8.9``).
    driver: of the host that built it. layers: compute layers per type in which they multiply.
    device_memory_bytes: activations and scratch, without weights, inputs and outputs. sha256: of
    the engine, which tells whether this belongs to an engine that was moved.
    """

    library: Optional[str] = None
    version: Optional[str] = None
    mode: Optional[str] = None
    precision: Optional[Precision] = None
    tf32: Optional[bool] = None
    compute_capability: Optional[str] = None
    driver: Optional[str] = None
    profiles: tuple[tuple[ShapeRange, ...], ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    layers: tuple[Share, ...] = ()
    layers_detail: str = ""
    device_memory_bytes: Optional[int] = None
    weights_bytes: Optional[int] = None
    build_options: tuple[tuple[str, str], ...] = ()
    sha256: Optional[str] = None

    @property
    def executed(self) -> Optional[Executed]:
        """What the build's log says of the layers, without the device; None where it is unknown."""
        return Executed((), self.layers, self.layers_detail) if self.layers else None

    def write(self, folder: Path) -> None:
        """Write it into the engine's folder."""
        values = asdict(self)
        text = json.dumps(values, indent=1, default=str)
        (folder / ABOUT).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def beside(cls, engine: Engine) -> About:
        """Read it, if it is there."""
        path = Path(engine.path).with_name(ABOUT)
        if not path.is_file():
            return cls()
        return cls.decoded(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def decoded(cls, values: dict[str, Any]) -> About:
        """From what :meth:`write` wrote."""
        precision = values["precision"]
        return cls(
            **{
                **values,
                "precision": None if precision is None else Precision(precision),
                "profiles": tuple(
                    tuple(_range(each) for each in profile) for profile in values["profiles"]
                ),
                "inputs": tuple(_spec(each) for each in values["inputs"]),
                "outputs": tuple(_spec(each) for each in values["outputs"]),
                "layers": tuple(Share(each["name"], each["count"]) for each in values["layers"]),
                "build_options": tuple((key, value) for key, value in values["build_options"]),
            }
        )


def _spec(values: dict[str, Any]) -> TensorSpec:
    return TensorSpec(values["name"], values["dtype"], tuple(values["shape"]))


def _range(values: dict[str, Any]) -> ShapeRange:
    low, best, high = (tuple(values[key]) for key in ("min", "opt", "max"))
    return ShapeRange(values["name"], low, best, high)


def engine_of(folder: Path, notes: tuple[str, ...]) -> Engine:
    """The engine that lies in a folder, with all of its files."""
    files = tuple(name for name in (ENGINE, ABOUT, CALIBRATION) if (folder / name).is_file())
    size = sum((folder / name).stat().st_size for name in files)
    return Engine(str(folder / ENGINE), files, size, notes)


def sha256_of(path: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
