"""What lies beside an engine: where the model's inputs and outputs are, and how to open it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from harness.types import Engine, Port, Ports, Precision, TensorSpec

FILE = "engine.json"


@dataclass(frozen=True)
class About:
    """What ``engine.json`` says, since an engine is opened without its candidate.

    precision AS_IS, and no ports: a file that isn't ours. sha256: of the ``.tflite`` file, which
    tells whether this belongs to one that a user brings along.
    """

    precision: Precision = Precision.AS_IS
    ports: Optional[Ports] = None
    sha256: str = ""

    def write(self, folder: Path) -> None:
        """Write it beside the engine."""
        values = {
            "precision": str(self.precision),
            "ports": None if self.ports is None else dataclasses.asdict(self.ports),
            "sha256": self.sha256,
        }
        (folder / FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def beside(cls, path: Path) -> About:
        """Read what lies beside a file, if it is ours."""
        try:
            values = json.loads(path.with_name(FILE).read_text(encoding="utf-8"))
            ports = values["ports"]
            return cls(
                Precision(values["precision"]),
                None if ports is None else Ports(*(_ports(ports[key]) for key in _KINDS)),
                values["sha256"],
            )
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is another's
            return cls()

    @classmethod
    def of(cls, engine: Engine) -> About:
        """That of an engine."""
        return cls.beside(Path(engine.path))


_KINDS = ("inputs", "outputs")


def _ports(values: list[dict[str, Any]]) -> tuple[Port, ...]:
    return tuple(
        Port(
            TensorSpec(
                value["spec"]["name"], value["spec"]["dtype"], tuple(value["spec"]["shape"])
            ),
            value["name"],
            value["dtype"],
            tuple(value["axes"]),
        )
        for value in values
    )


def sha256_of(path: Path) -> str:
    """Of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
