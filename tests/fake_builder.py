"""A small fake of TensorRT 10's builder, with what 11 and RTX have lost: flags and calibrators.

It parses nothing: the network has the inputs that the module is made with. ``build`` calibrates as
TensorRT does, and answers what it was told as the engine's bytes.
"""

from __future__ import annotations

import enum
import types
from typing import Any


class Flags(enum.IntEnum):
    FP16 = 0
    INT8 = 1
    TF32 = 2


class Tensor:
    is_shape_tensor = False
    dtype = "DataType.FLOAT"

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape

    def get_dimension_name(self, axis: int) -> str:
        return "batch" if axis == 0 else ""


class Network:
    num_inputs = num_outputs = num_layers = 1

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def get_input(self, _index: int) -> Tensor:
        return Tensor("x", (-1, 2))

    def get_output(self, _index: int) -> Tensor:
        return Tensor("y", (-1, 2))


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self.shapes[name] = (least, usual, most)


class Config:
    """int8_calibrator and set_calibration_profile are what TensorRT 10 has, and 11 hasn't."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.flags = {Flags.TF32}
        self.pools: dict[str, int] = {}
        self.profiles: list[Profile] = []
        self.calibration_profile: Profile | None = None
        self.int8_calibrator: Any = None
        self.timings: bytes | None = None

    def set_flag(self, flag: Flags) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Flags) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profiles.append(profile)

    def set_calibration_profile(self, profile: Profile) -> None:
        self.calibration_profile = profile

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, _ignore_mismatch: bool) -> bool:
        if cache == b"damaged":
            self.logger.log("Severity.ERROR", "Serialization assertion failed: the timing cache")
            return False
        self.timings = cache
        return True

    def get_timing_cache(self) -> Any:
        known = self.timings or b""
        return types.SimpleNamespace(serialize=lambda: known + b"!")


class Builder:
    """says: the error lines with which it fails; none, and it builds."""

    made: Builder

    def __init__(self, logger: Any) -> None:
        self.logger, self.says = logger, list(Builder.fails)
        Builder.made = self

    fails: tuple[str, ...] = ()

    def create_network(self, flags: int) -> Network:
        self.network = Network(flags)
        return self.network

    def create_builder_config(self) -> Config:
        self.config = Config(self.logger)
        return self.config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, _network: Network, config: Config) -> bytes | None:
        for line in self.says:
            self.logger.log("Severity.ERROR", line)
        if self.says:
            return None
        calibrator = config.int8_calibrator
        if calibrator is not None and calibrator.read_calibration_cache() is None:
            self.batches = 0
            while calibrator.get_batch(["x"]) is not None:
                self.batches += 1
            calibrator.write_calibration_cache(memoryview(b"scales"))
        return b"plan"


class Parser:
    num_errors = 0

    def __init__(self, _network: Network, _logger: Any) -> None:
        pass

    def parse_from_file(self, _path: str) -> bool:
        return True


class Base:
    """Of loggers and calibrators."""

    def __init__(self) -> None:
        pass


def module(version: str = "10.3.0", fails: tuple[str, ...] = ()) -> Any:
    """``tensorrt`` of that version, whose builder fails with these lines."""
    Builder.fails = fails
    made = types.ModuleType("tensorrt")
    made.__dict__.update(
        __version__=version,
        Builder=Builder,
        OnnxParser=Parser,
        ILogger=Base,
        IInt8EntropyCalibrator2=type("Entropy", (Base,), {}),
        IInt8MinMaxCalibrator=type("MinMax", (Base,), {}),
        BuilderFlag=Flags,
        NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
        ProfilingVerbosity=types.SimpleNamespace(DETAILED="detailed"),
        MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
        init_libnvinfer_plugins=lambda _logger, _namespace: True,
    )
    return made
