"""One inference in flight: an execution context, a stream, and memory on both sides.

The way of an inference: the feed is copied into pinned memory, from there to the device, computed,
and copied back into pinned memory. All but the first is queued in one stream, and waited for once.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from backends import feeds
from backends.trt.buffers import Buffer, output_allocator
from backends.trt.cuda import SMALLER, Action, Device
from backends.trt.library import Library
from backends.trt.log import Log, classified
from backends.trt.ports import OPEN, Ports, sizes
from harness.backend import Feed
from harness.errors import BackendError, OutOfMemoryError, UnsupportedError
from harness.types import Array, Phases

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class Loaded:
    """An engine on a device, which its lanes share. cuda_graph: whether graphs are wanted.

    TensorRT wants the engine to end before its runtime, and the runtime before its log.
    """

    library: Library
    engine: trt.ICudaEngine
    runtime: trt.Runtime
    log: Log
    ports: Ports
    device: Device
    cuda_graph: bool

    @property
    def graphs_itself(self) -> bool:
        """TensorRT-RTX captures its graphs itself, since its kernels change with the shapes."""
        return self.library.is_rtx

    def fault(self, what: str) -> BackendError:
        """TensorRT's first error line, classified; the log starts anew."""
        said = self.log.first_error()
        self.log.lines.clear()
        return at_run_time(said or f"TensorRT {what}, and says not why")

    def context(self) -> trt.IExecutionContext:
        """An execution context, with memory for the largest shapes of the engine.

        TensorRT-RTX compiles kernels for new shapes at their first inference, not beside later
        ones, which would make these slower at first and faster at some moment.
        """
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = self.library.module
        engine = self.engine
        if not self.graphs_itself or not hasattr(engine, "create_runtime_config"):
            made = engine.create_execution_context()
        else:
            config = engine.create_runtime_config()
            if hasattr(trt, "CudaGraphStrategy") and hasattr(config, "cuda_graph_strategy"):
                kinds = trt.CudaGraphStrategy
                wanted = kinds.WHOLE_GRAPH_CAPTURE if self.cuda_graph else kinds.DISABLED
                config.cuda_graph_strategy = wanted
            if hasattr(trt, "DynamicShapesKernelSpecializationStrategy") and hasattr(
                config, "dynamic_shapes_kernel_specialization_strategy"
            ):
                eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            made = engine.create_execution_context(config)
        if made is None:
            raise self.fault("made no execution context")
        return made


def at_run_time(text: str) -> BackendError:
    """What a line of TensorRT's means outside of a build: memory is lacking for other reasons."""
    error = classified(text)
    return OutOfMemoryError(str(error), SMALLER) if isinstance(error, OutOfMemoryError) else error


class Lane:
    """Binds feeds, and queues inferences on them.

    stream: one that it shares with other lanes; None: its own.
    """

    def __init__(self, loaded: Loaded, stream: Any = None) -> None:
        device = loaded.device
        self._loaded = loaded
        self._device = device
        self._context = loaded.context()
        self._stream = device.stream() if stream is None else stream
        self._handle = device.handle(self._stream)
        self._done = device.event(timed=False)
        self._marks = [device.event(timed=True) for _ in range(4)]
        self._inputs = [Buffer(port, device) for port in loaded.ports.inputs]
        self._outputs = [Buffer(port, device) for port in loaded.ports.outputs]
        self._allocators: dict[str, Any] = {}
        self._graph: Any = None
        self._warm = False
        self._queued = False
        self._captures = loaded.cuda_graph and not loaded.graphs_itself
        self._note = ""
        if self._captures and not device.captures:
            self._refuse_graph("pycuda can't capture one")
        self._unbind()

    # -- one inference ------------------------------------------------------------------------

    def bind(self, feed: Feed) -> None:
        """Copy a feed in, and queue its way to the device; validate it where its shapes are new.

        A refused feed leaves nothing bound.
        """
        if self._queued:  # pinned memory may still be on its way to the device
            self.wait()
        if not (self._ready and feeds.refill(self._bound, feed)):
            self._rebind(feed)
        self.upload()

    def upload(self) -> None:
        """Queue the inputs' way to the device."""
        self._queued = True
        for copy in self._uploads:
            copy()

    def enqueue(self) -> None:
        """Queue the computation: as a graph from the second time on, where that is possible.

        TensorRT has to run once with new shapes before it can be captured.
        """
        if self._graph is None and self._warm and self._captures and not self._open:
            self._capture()
        self._queued = True
        if self._graph is not None:
            self._device.launch(self._graph, self._stream)
            return
        if not self._ready:
            raise RuntimeError("nothing is bound")
        self._execute()
        self._warm = True

    def download(self) -> None:
        """Queue the outputs' way back. Shapes that depend on data are known by now."""
        for copy in self._downloads:
            copy()
        for buffer in self._open:
            buffer.show(self._allocators[buffer.port.name].found_shape())
            self._views[buffer.port.name] = buffer.view
            self._device.to_host(buffer.view, buffer.address, self._stream)()

    def wait(self) -> None:
        """Until all of it is done."""
        self._device.synchronize(self._stream)
        self._queued = False

    def run(self) -> None:
        """One inference on what is on the device."""
        self.enqueue()
        self.download()
        self.wait()

    def fetch(self) -> dict[str, Array]:
        """Views of the pinned outputs."""
        if not self._ready:
            raise RuntimeError("nothing is bound")
        return dict(self._views)

    # -- in flight, and timed -----------------------------------------------------------------

    def start(self) -> None:
        """Queue all of one inference, the way there included."""
        self.upload()
        self.enqueue()
        self.download()
        self._device.record(self._done, self._stream)

    @property
    def done(self) -> bool:
        """Whether what was started is complete."""
        if self._device.done(self._done):
            self._queued = False
            return True
        return False

    def run_timed(self) -> Phases:
        """One inference from host to host. The marks are where trtexec has its own."""
        device, stream, marks = self._device, self._stream, self._marks
        device.record(marks[0], stream)
        self.upload()
        device.record(marks[1], stream)
        began = perf_counter_ns()
        self.enqueue()
        ended = perf_counter_ns()
        device.record(marks[2], stream)
        self.download()
        device.record(marks[3], stream)
        self.wait()
        parts = [device.elapsed_ns(first, last) for first, last in zip(marks, marks[1:])]
        return Phases(parts[0], parts[1], parts[2], ended - began)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def context(self) -> trt.IExecutionContext:
        """TensorRT's."""
        return self._context

    @property
    def launching(self) -> str:
        """Whether inferences are launched as a graph, and why not although that was wanted."""
        if not self._loaded.cuda_graph:
            return "no CUDA graph"
        if self._loaded.graphs_itself:
            return "CUDA graphs by TensorRT-RTX"
        if self._open:
            return "no CUDA graph: the shapes of outputs depend on the data"
        return self._note or "a CUDA graph from the second inference of the same shapes on"

    @property
    def device_bytes(self) -> int:
        """Of inputs and outputs on the device."""
        return sum(buffer.device_bytes for buffer in (*self._inputs, *self._outputs))

    def close(self) -> None:
        """End the context and let go of everything, whoever still holds the lane."""
        with suppress(BackendError):  # a device that has failed has nothing under way
            self.wait()
            self._unbind()
        self.__dict__.clear()

    # -- inside -------------------------------------------------------------------------------

    def _unbind(self) -> None:
        if self._graph is not None:
            self._device.destroy(self._graph)
        self._graph = None
        self._warm = self._ready = False
        self._bound: list[feeds.Bound] = []
        self._uploads: list[Action] = []
        self._downloads: list[Action] = []
        self._open: list[Buffer] = []
        self._views: dict[str, Array] = {}

    def _rebind(self, feed: Feed) -> None:
        self._unbind()
        ports = self._loaded.ports
        arrays = feeds.checked((port.spec for port in ports.inputs), feed)
        index = ports.profile(arrays)
        if index is not None and index != self._context.active_optimization_profile:
            self._expect(
                self._context.set_optimization_profile_async(index, self._handle),
                f"took no optimization profile {index}",
            )
        for buffer in self._inputs:
            self._bind_input(buffer, arrays[buffer.port.name])
        missing = self._inferred()
        if missing:
            raise UnsupportedError(f"TensorRT misses the shape of {', '.join(missing)}")
        for buffer in self._outputs:
            self._bind_output(buffer)
        if not any(buffer.port.on_host for buffer in self._inputs):
            self._bound = [(b.port.name, b.view, b.view.shape, b.port.dtype) for b in self._inputs]
        self._ready = True

    def _bind_input(self, buffer: Buffer, array: Array) -> None:
        port = buffer.port
        buffer.fit(array.shape)
        buffer.view[...] = array
        self._tell(buffer)
        if port.is_open:
            taken = self._context.set_input_shape(port.name, tuple(array.shape))
            self._expect(taken, f"took no shape {array.shape} for {port.name}")
        if not port.on_host:
            self._uploads.append(self._device.to_device(buffer.address, buffer.view, self._stream))

    def _inferred(self) -> list[str]:
        """The tensors whose shapes are still unknown, after TensorRT has thought."""
        try:
            return list(self._context.infer_shapes())
        except RuntimeError as error:
            raise self._loaded.fault(f"infers no shapes ({error})") from error

    def _bind_output(self, buffer: Buffer) -> None:
        port = buffer.port
        shape = sizes(self._context.get_tensor_shape(port.name))
        if OPEN in shape and port.on_host:
            raise UnsupportedError(f"how many values {port.name} has depends on the data")
        if OPEN in shape:
            allocator = output_allocator(self._loaded.library, buffer)
            self._allocators[port.name] = allocator
            self._open.append(buffer)
            self._views[port.name] = buffer.view
            self._expect(
                self._context.set_output_allocator(port.name, allocator),
                f"took no allocator for {port.name}",
            )
            return
        if self._allocators.pop(port.name, None) is not None:
            self._context.set_output_allocator(port.name, None)
        buffer.fit(shape)
        self._tell(buffer)
        self._views[port.name] = buffer.view
        if not port.on_host:
            self._downloads.append(self._device.to_host(buffer.view, buffer.address, self._stream))

    def _tell(self, buffer: Buffer) -> None:
        taken = self._context.set_tensor_address(buffer.port.name, buffer.seen_by_tensorrt)
        self._expect(taken, f"took no memory for {buffer.port.name}")

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._handle):
            faults = [each.take_fault() for each in self._allocators.values()]
            faults.append(self._loaded.fault("queued nothing"))
            raise next(filter(None, faults))

    def _capture(self) -> None:
        """Make the graph, or note why there is none and go on without."""
        try:
            self._graph = self._device.capture(self._stream, self._execute)
        except BackendError as error:
            self._loaded.log.lines.clear()
            self._refuse_graph(str(error))

    def _refuse_graph(self, why: str) -> None:
        self._captures = False
        self._note = f"no CUDA graph: {why}"

    def _expect(self, taken: Any, what: str) -> None:
        if not taken:
            raise self._loaded.fault(what)
