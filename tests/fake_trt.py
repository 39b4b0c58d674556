"""TensorRT's runtime without a GPU, on the fake driver: its engines are ONNX models.

They are run by ``onnx.reference`` on what lies at the addresses that the context was given, when
the stream gets there. It refuses what TensorRT refuses, and says so in the log.
"""

from __future__ import annotations

import json
import sys
import types
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
from fake_cuda import FakeDriver, Fault, Op

MAGIC = b"ftrt"
VERSION = "10.16.1.11"
COMPUTE_NS = 50_000
SCRATCH_BYTES = 4096
WEIGHTS_BYTES = 1000
ALIGNMENT = 256

Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
DataType = Enum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "BOOL", "UINT8"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
TensorFormat = Enum("TensorFormat", ["LINEAR", "CHW4"])
LayerInformationFormat = Enum("LayerInformationFormat", ["ONELINE", "JSON"])
EngineStat = Enum("EngineStat", ["TOTAL_WEIGHTS_SIZE"])
CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
DynamicShapesKernelSpecializationStrategy = Enum(
    "DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"]
)

_KINDS = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "uint8": "UINT8",
    "int32": "INT32", "int64": "INT64", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a file says beside its model.

    profiles: [min, opt, max] by input, for each. unknown: outputs whose first axis depends on data.
    on_host: tensors of shapes. kinds, formats: of tensors that aren't plain. layers: the
    inspector's. capturable: whether a graph can be captured.
    """

    capability: str = "8.9"
    profiles: tuple[dict[str, list[list[int]]], ...] = ()
    unknown: tuple[str, ...] = ()
    on_host: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()
    formats: tuple[tuple[str, str], ...] = ()
    layers: tuple[Any, ...] = ()
    capturable: bool = True

    def write(self, path: Path, model: Any) -> None:
        """A file of magic, this, and the model."""
        head = json.dumps(asdict(self)).encode()
        path.write_bytes(MAGIC + len(head).to_bytes(4, "little") + head + model.SerializeToString())


def read(content: bytes) -> tuple[Plan, Any]:
    import onnx

    length = int.from_bytes(content[4:8], "little")
    values = json.loads(content[8 : 8 + length])
    return Plan(**values), onnx.load_from_string(content[8 + length :])


class ILogger:
    def __init__(self) -> None:
        self.made = True

    def fault(self, text: str) -> None:
        assert self.made, "the base class has to be initialized"
        self.log(Severity.ERROR, text)  # type: ignore[attr-defined]


class Logger(ILogger):
    """The library's own, which scripts use."""

    WARNING = Severity.WARNING

    def __init__(self, severity: Severity) -> None:
        super().__init__()
        self.severity = severity
        self.said: list[str] = []

    def log(self, severity: Severity, text: str) -> None:
        self.said.append(f"{severity}: {text}")


class IOutputAllocator:
    def __init__(self) -> None:
        self.made = True


def tensorrt(driver: FakeDriver, *, rtx: bool = False, old: bool = False) -> types.ModuleType:
    """The module. old: without what TensorRT got after 10.3."""
    made = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    made.__spec__ = ModuleSpec(made.__name__, None)
    made.__version__ = "1.7.1.116" if rtx else "10.3.0" if old else VERSION  # type: ignore[attr-defined]
    rest = {CudaGraphStrategy, DynamicShapesKernelSpecializationStrategy} if not rtx else set()
    rest |= {EngineStat} if old else set()
    for name, value in globals().items():
        vendor = isinstance(value, type) and value.__module__ == __name__
        if vendor and value not in rest and value is not Plan:
            setattr(made, name, value)
    made.Runtime = partial(Runtime, driver, rtx, old)  # type: ignore[attr-defined]
    made.init_libnvinfer_plugins = lambda *_: True  # type: ignore[attr-defined]
    return made


def install(patch: Any, module: types.ModuleType) -> None:
    """Stand in for the real one, by pytest's monkeypatch."""
    patch.setitem(sys.modules, module.__name__, module)


class Runtime:
    def __init__(self, driver: FakeDriver, rtx: bool, old: bool, logger: Any) -> None:
        self.driver, self.logger, self.rtx, self.old = driver, logger, rtx, old

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        if content[:4] != MAGIC:
            self.logger.fault("Serialization assertion header.magicTag == kEXPECTED failed.")
            return None
        plan, model = read(content)
        major, minor = self.driver.current_gpu.capability
        if plan.capability != f"{major}.{minor}":
            self.logger.fault(
                "The engine plan file is generated on an incompatible device, expecting compute "
                f"{major}.{minor} got compute {plan.capability}, please rebuild."
            )
            return None
        kind = RtxEngine if self.rtx else OldEngine if self.old else NewEngine
        return kind(self, plan, model)


class Engine:
    def __init__(self, runtime: Runtime, plan: Plan, model: Any) -> None:
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        self.runtime, self.plan = runtime, plan
        self.driver, self.logger = runtime.driver, runtime.logger
        self.evaluator = ReferenceEvaluator(model)
        self.shapes, self.dtypes = {}, {}
        for value in (*model.graph.input, *model.graph.output):
            kind = value.type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
            self.shapes[value.name] = tuple(dims)
            self.dtypes[value.name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.num_io_tensors = len(self.shapes)
        self.num_optimization_profiles = max(1, len(plan.profiles))
        self.num_layers = len(model.graph.node)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[dict(self.plan.kinds).get(name, _KINDS[self.dtypes[name].name])]

    def get_tensor_format(self, name: str) -> Any:
        return TensorFormat[dict(self.plan.formats).get(name, "LINEAR")]

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.HOST if name in self.plan.on_host else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return self.plan.profiles[index][name]

    def create_engine_inspector(self) -> Any:
        return Inspector(self.plan)

    def context(self) -> Any:
        try:
            return Context(self)
        except Fault as fault:
            self.logger.fault(f"createExecutionContext: Cuda Runtime (out of memory: {fault})")
            return None

    create_execution_context = context


class OldEngine(Engine):
    device_memory_size = SCRATCH_BYTES


class NewEngine(Engine):
    device_memory_size_v2 = SCRATCH_BYTES

    def get_engine_stat(self, stat: Any) -> int:
        assert stat is EngineStat.TOTAL_WEIGHTS_SIZE
        return WEIGHTS_BYTES


class RuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY


class RtxEngine(NewEngine):
    config: Any = None

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig) -> Any:
        type(self).config = config
        return self.context()


class Inspector:
    execution_context: Any = None

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def get_engine_information(self, kind: Any) -> str:
        assert kind is LayerInformationFormat.JSON
        assert self.execution_context is not None
        return json.dumps({"Layers": list(self.plan.layers), "Bindings": []})


class Context:
    """An execution context; its scratch is the driver's."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.driver = engine, engine.driver
        self._scratch = int(self.driver.cuMemAlloc(SCRATCH_BYTES))
        self.active_optimization_profile = 0
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.warm: Any = None
        self.runs = 0

    def __del__(self) -> None:
        if hasattr(self, "_scratch") and not self.driver.sticky:
            self.driver.cuMemFree(self._scratch)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.driver.queue(stream, Op(lambda: None))
        self.active_optimization_profile = index
        self.inputs = {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.plan.profiles[self.active_optimization_profile][name]
        if not all(least <= size <= most for least, size, most in zip(low, shape, high)):
            self.engine.logger.fault(f"IExecutionContext::setInputShape: {name} isn't satisfied")
            return False
        self.inputs[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        size = 1 if name in self.engine.outputs else max(1, self._size(name))
        self.driver.bytes_at(address, size, pinned=name in self.engine.plan.on_host)
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        assert allocator is None or allocator.made, "the base class has to be initialized"
        self.allocators[name] = allocator
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if -1 in self._shape(name)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.engine.inputs:
            return self._shape(name)
        found = self._run(self._zeros())[self.engine.outputs.index(name)].shape
        return (-1, *found[1:]) if name in self.engine.plan.unknown else found

    def execute_async_v3(self, stream: int) -> bool:
        say = self.engine.logger.fault
        for name in (*self.engine.inputs, *self.engine.outputs):
            if name not in self.addresses and not self.allocators.get(name):
                say(f"IExecutionContext::enqueueV3: the address of {name} isn't set")
                return False
        state = (dict(self.inputs), dict(self.addresses))
        if self.driver.capturing(stream) and (
            self.warm != state or not self.engine.plan.capturable
        ):
            say("IExecutionContext::enqueueV3: operation not permitted when stream is capturing")
            return False
        if self.engine.plan.unknown:
            return self._execute_unknown(stream)
        self.warm, addresses = state, state[1]
        shapes = {name: self._shape(name) for name in self.engine.inputs}

        def compute() -> None:
            self.runs += 1
            values = self._run({name: self._read(name, shapes, addresses) for name in shapes})
            for name, value in zip(self.engine.outputs, values):
                self._write(name, value, addresses[name])

        self.driver.queue(stream, Op(compute, COMPUTE_NS))
        return True

    def _execute_unknown(self, stream: int) -> bool:
        """TensorRT waits in the middle, asks for memory, and goes on."""
        self.driver.drain(stream)
        shapes = {name: self._shape(name) for name in self.engine.inputs}
        values = self._run({name: self._read(name, shapes, self.addresses) for name in shapes})
        for name, value in zip(self.engine.outputs, values):
            address = self.addresses.get(name, 0)
            allocator = self.allocators.get(name)
            if allocator is not None:
                address = allocator.reallocate_output_async(
                    name, address, max(1, value.nbytes), ALIGNMENT, stream
                )
                if not address:
                    self.engine.logger.fault(f"the allocator returned nothing for {name}")
                    return False
                allocator.notify_shape(name, value.shape)
            self.driver.queue(
                stream, Op(lambda n=name, v=value, a=address: self._write(n, v, a), COMPUTE_NS)
            )
        return True

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.inputs.get(name, self.engine.shapes[name])

    def _size(self, name: str) -> int:
        shape = self._shape(name)
        return 0 if -1 in shape else int(np.prod(shape)) * self.engine.dtypes[name].itemsize

    def _zeros(self) -> dict[str, Any]:
        shapes = {name: self._shape(name) for name in self.engine.inputs}
        return {
            name: self._read(name, shapes, self.addresses)
            if name in self.engine.plan.on_host
            else np.zeros(shape, self.engine.dtypes[name])
            for name, shape in shapes.items()
        }

    def _run(self, feed: dict[str, Any]) -> list[Any]:
        return [np.asarray(value) for value in self.engine.evaluator.run(None, feed)]

    def _read(self, name: str, shapes: dict[str, Any], addresses: dict[str, int]) -> Any:
        dtype, shape = self.engine.dtypes[name], shapes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        pinned = name in self.engine.plan.on_host
        if not size:
            return np.zeros(shape, dtype)
        data = bytes(self.driver.bytes_at(addresses[name], size, pinned=pinned))
        return np.frombuffer(data, dtype).reshape(shape)

    def _write(self, name: str, value: Any, address: int) -> None:
        data = np.ascontiguousarray(value, self.engine.dtypes[name]).tobytes()
        pinned = name in self.engine.plan.on_host
        if data:
            self.driver.bytes_at(address, len(data), pinned=pinned)[:] = data
