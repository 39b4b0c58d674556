"""The script that opens and runs an engine exactly as the backend's session does."""

from __future__ import annotations

from pathlib import Path

from backends.trt import cuda
from backends.trt.about import About
from backends.trt.gpu import index_of
from backends.trt.library import NAMES
from backends.trt.ports import DTYPES
from backends.trt.session import parse
from harness.types import Settings

_HEAD = '''\
"""Runs {engine} on {device} with {library}. Needs {library}, {needs} and numpy."""

import {standard}
import math
import os

import numpy as np
import {library} as trt
{imports}

ENGINE = {engine!r}
GPU = {index}
CUDA_GRAPH = {cuda_graph}
DTYPES = {dtypes!r}


'''

_BINDINGS = '''\
def call(name, *arguments):
    status, *values = getattr(driver, name)(*arguments)
    if status:
        raise RuntimeError(f"{name}: {status.name}")
    return values[0] if len(values) == 1 else values


class Gpu:
    """Memory and one stream of a GPU."""

    captures = True

    def __init__(self):
        call("cuInit", 0)
        self.context = call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", GPU))
        self.activate()
        self.stream = call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self.handle = int(self.stream)

    def activate(self):
        call("cuCtxSetCurrent", self.context)

    def allocate(self, size):
        return int(call("cuMemAlloc", size))

    def free(self, address):
        call("cuMemFree", address)

    def pinned(self, size):
        address = int(call("cuMemAllocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def to_device(self, address, array):
        call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self.stream)

    def to_host(self, array, address):
        call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self.stream)

    def wait(self):
        call("cuStreamSynchronize", self.stream)

    def capture(self, enqueue):
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call("cuStreamBeginCapture", self.stream, mode)
        try:
            enqueue()
        except RuntimeError:
            driver.cuStreamEndCapture(self.stream)
            raise
        graph = call("cuStreamEndCapture", self.stream)
        made = call("cuGraphInstantiate", graph, 0)
        call("cuGraphDestroy", graph)
        return made

    def launch(self, graph):
        call("cuGraphLaunch", graph, self.stream)

    def destroy(self, graph):
        call("cuGraphExecDestroy", graph)


'''

_PYCUDA = '''\
class Gpu:
    """Memory and one stream of a GPU."""

    captures = False  # pycuda can't

    def __init__(self):
        driver.init()
        self.context = driver.Device(GPU).retain_primary_context()
        self.context.push()
        atexit.register(driver.Context.pop)
        self.stream = driver.Stream(1)  # doesn't wait for the default stream
        self.handle = self.stream.handle
        self.held = {}

    def activate(self):
        pass  # one thread

    def allocate(self, size):
        allocation = driver.mem_alloc(size)
        self.held[int(allocation)] = allocation
        return int(allocation)

    def free(self, address):
        self.held.pop(address).free()

    def pinned(self, size):
        return driver.pagelocked_empty(size, np.uint8)

    def to_device(self, address, array):
        driver.memcpy_htod_async(address, array, self.stream)

    def to_host(self, array, address):
        driver.memcpy_dtoh_async(array, address, self.stream)

    def wait(self):
        self.stream.synchronize()


'''

_ENGINE = '''\
class Buffer:
    """Memory of one input or output, on both sides."""

    def __init__(self, gpu, dtype, on_host):
        self.gpu, self.dtype, self.on_host = gpu, dtype, on_host
        self.address = self.size = 0
        self.memory = gpu.pinned(1)

    def hold(self, size):
        if not self.address or size > self.size:
            if self.address:
                self.gpu.free(self.address)
            self.address, self.size = self.gpu.allocate(max(1, size)), size
        return self.address

    def show(self, shape):
        size = math.prod(shape) * self.dtype.itemsize
        if size > self.memory.nbytes:
            self.memory = self.gpu.pinned(size)
        self.view = self.memory[:size].view(self.dtype).reshape(shape)

    def fit(self, shape):
        self.show(shape)
        return self.memory.ctypes.data if self.on_host else self.hold(self.view.nbytes)


class Allocator(trt.IOutputAllocator):
    """Memory for an output whose size TensorRT learns while it runs."""

    def __init__(self, buffer):
        trt.IOutputAllocator.__init__(self)
        self.buffer = buffer
        self.shape = None

    def reallocate_output(self, name, memory, size, alignment):
        return self.buffer.hold(size)

    def reallocate_output_async(self, name, memory, size, alignment, stream):
        return self.buffer.hold(size)

    def notify_shape(self, name, shape):
        self.shape = tuple(shape)


class Runner:
    """An engine, an execution context and their memory."""

    def __init__(self):
        self.gpu = Gpu()
        self.logger = trt.Logger(trt.Logger.WARNING)
        trt.init_libnvinfer_plugins(self.logger, "")
        folder = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(folder, ENGINE), "rb") as stream:
            content = stream.read()
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise RuntimeError(f"{ENGINE} is no engine for this GPU and this TensorRT")
        self.context = self.make_context()
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        is_input = {n: self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.inputs = {n: self.make_buffer(n) for n in names if is_input[n]}
        self.outputs = {n: self.make_buffer(n) for n in names if not is_input[n]}
        self.open = [n for n in self.inputs if -1 in tuple(self.engine.get_tensor_shape(n))]
        self.shapes = self.graph = None

    def make_context(self):
        """TensorRT-RTX captures graphs itself, and compiles kernels for new shapes at once."""
        if not hasattr(trt, "CudaGraphStrategy"):
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        kinds = trt.CudaGraphStrategy
        config.cuda_graph_strategy = kinds.WHOLE_GRAPH_CAPTURE if CUDA_GRAPH else kinds.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        return self.engine.create_execution_context(config)

    def make_buffer(self, name):
        kind = str(self.engine.get_tensor_dtype(name)).rpartition(".")[2]
        on_host = self.engine.get_tensor_location(name) == trt.TensorLocation.HOST
        return Buffer(self.gpu, np.dtype(DTYPES[kind]), on_host)

    def profile(self, shapes):
        """The profile whose tuned shapes are nearest."""
        found = []
        for index in range(self.engine.num_optimization_profiles):
            distance = 0.0
            for name in self.open:
                low, best, high = self.engine.get_tensor_profile_shape(name, index)
                if not all(a <= b <= c for a, b, c in zip(low, shapes[name], high)):
                    break
                ratio = (math.prod(shapes[name]) + 1) / (math.prod(tuple(best)) + 1)
                distance += abs(math.log(ratio))
            else:
                found.append((distance, index))
        if not found:
            raise ValueError(f"no optimization profile of the engine takes {shapes}")
        return min(found)[1]

    def bind(self, feed, shapes):
        """Tell TensorRT the shapes and the memory."""
        if self.graph is not None:
            self.gpu.destroy(self.graph)
        self.shapes = self.graph = None
        self.captures = CUDA_GRAPH and self.gpu.captures and not hasattr(trt, "CudaGraphStrategy")
        self.warm = False
        if self.open:
            index = self.profile(shapes)
            if index != self.context.active_optimization_profile:
                self.context.set_optimization_profile_async(index, self.gpu.handle)
        for name, buffer in self.inputs.items():
            self.context.set_tensor_address(name, buffer.fit(shapes[name]))
            buffer.view[...] = feed[name]
            if name in self.open and not self.context.set_input_shape(name, shapes[name]):
                raise ValueError(f"the engine takes no {name} of shape {shapes[name]}")
        missing = self.context.infer_shapes()
        if missing:
            raise ValueError(f"shapes of {missing} are missing")
        self.unknown = {}
        for name, buffer in self.outputs.items():
            shape = tuple(self.context.get_tensor_shape(name))
            if -1 in shape:
                self.unknown[name] = Allocator(buffer)
                self.context.set_output_allocator(name, self.unknown[name])
            else:
                self.context.set_tensor_address(name, buffer.fit(shape))
        if not any(buffer.on_host for buffer in self.inputs.values()):
            self.shapes = shapes

    def execute(self):
        if not self.context.execute_async_v3(self.gpu.handle):
            raise RuntimeError("TensorRT queued nothing: see its log")

    def enqueue(self):
        """From the second time on as a CUDA graph, where that is possible."""
        if self.captures and self.warm and self.graph is None and not self.unknown:
            try:
                self.graph = self.gpu.capture(self.execute)
            except RuntimeError:
                self.captures = False
        if self.graph is None:
            self.execute()
        else:
            self.gpu.launch(self.graph)
        self.warm = True

    def infer(self, feed):
        self.gpu.activate()
        if set(feed) != set(self.inputs):
            raise ValueError(f"the engine takes {sorted(self.inputs)}, not {sorted(feed)}")
        for name, buffer in self.inputs.items():
            if feed[name].dtype != buffer.dtype:
                raise TypeError(f"{name} is {feed[name].dtype}, the engine takes {buffer.dtype}")
        shapes = {name: feed[name].shape for name in self.inputs}
        if shapes != self.shapes:
            self.bind(feed, shapes)
        for name, buffer in self.inputs.items():
            buffer.view[...] = feed[name]
            if not buffer.on_host and buffer.view.nbytes:
                self.gpu.to_device(buffer.address, buffer.view)
        self.enqueue()
        for name, buffer in self.outputs.items():
            if name in self.unknown:
                buffer.show(self.unknown[name].shape)
            if not buffer.on_host and buffer.view.nbytes:
                self.gpu.to_host(buffer.view, buffer.address)
        self.gpu.wait()
        return {name: buffer.view for name, buffer in self.outputs.items()}


def load():
    """An opened engine."""
    return Runner()


def infer(session, feed):
    """One inference: arrays by input name in, arrays by output name out.

    The outputs are valid until the next inference.
    """
    return session.infer(feed)


if __name__ == "__main__":
    opened = load()
    for name in (*opened.inputs, *opened.outputs):
        engine = opened.engine
        print(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))
'''


def script(about: About, engine_file: str, device: str, settings: Settings) -> str:
    """A complete script; see ``Backend.deploy_code``. engine_file: its name or path.

    It uses the device library that a session uses here.
    """
    options = parse(settings.options)
    by_pycuda = cuda.name_of(options.device_library) == "pycuda"
    head = _HEAD.format(
        engine=Path(engine_file).name,
        device=device,
        library=about.library or NAMES[0],
        needs="pycuda" if by_pycuda else "cuda-bindings",
        standard="atexit" if by_pycuda else "ctypes",
        imports=f"from {'pycuda' if by_pycuda else 'cuda.bindings'} import driver",
        index=index_of(device),
        cuda_graph=options.cuda_graph,
        dtypes=DTYPES,
    )
    return head + (_PYCUDA if by_pycuda else _BINDINGS) + _ENGINE
