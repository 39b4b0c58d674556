"""An opened TensorRT engine."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from backends.trt import cuda, layers
from backends.trt.about import About
from backends.trt.gpu import index_of
from backends.trt.lane import Lane, Loaded, at_run_time
from backends.trt.library import Library
from backends.trt.log import Log, uncollected
from backends.trt.ports import Ports
from harness.backend import Feed
from harness.errors import BackendError, UnsupportedError
from harness.types import Executed, Phases, Settings, Share, TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

OPTIONS = {
    "cuda-graph": "on or off: launch an inference as one CUDA graph (default: on)",
    "device-library": f"{' or '.join(cuda.NAMES)} (default: the first of these that is there)",
}


@dataclass(frozen=True)
class Options:
    """Understood options. device_library: None for the first that is there."""

    cuda_graph: bool = True
    device_library: Optional[str] = None


def parse(given: Iterable[tuple[str, str]]) -> Options:
    """What the user's options mean.

    Raises:
        UnsupportedError: an unknown option, or a value that it hasn't.
    """
    options = Options()
    for name, value in given:
        if name == "cuda-graph" and value in {"on", "off"}:
            options = replace(options, cuda_graph=value == "on")
        elif name == "device-library" and value in cuda.NAMES:
            options = replace(options, device_library=value)
        elif name in OPTIONS:
            raise UnsupportedError(f"{name} = {value!r}: {OPTIONS[name]}")
        else:
            raise UnsupportedError(f"option {name!r}: known are {', '.join(OPTIONS)}")
    return options


def opened(
    library: Library, about: About, path: str, device: str, settings: Settings
) -> TrtSession:
    """Load an engine on a GPU.

    Raises:
        UnavailableError: no driver, or no such GPU.
        UnsupportedError: an engine of another version or GPU, or a file that is none.
        OutOfMemoryError: it doesn't fit.
    """
    options = parse(settings.options)
    place = cuda.load(options.device_library).open(index_of(device))
    try:
        loaded = _loaded(library, about, path, place, options)
        return TrtSession(loaded, about, device, settings.streams)
    except Exception:
        place.close()
        raise


def _loaded(
    library: Library, about: About, path: str, place: cuda.Device, options: Options
) -> Loaded:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module
    log = Log(library)
    with uncollected():
        trt.init_libnvinfer_plugins(log.logger, "")
        runtime = trt.Runtime(log.logger)
        engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        raise _refusal(library, about, log)
    ports = Ports.of(library, engine, about)
    return Loaded(library, engine, runtime, log, ports, place, options.cuda_graph)


def _refusal(library: Library, about: About, log: Log) -> BackendError:
    """Why TensorRT took no engine, with what is known of that."""
    made = f"{about.library or 'TensorRT'} {about.version}" if about.version else ""
    where = f"compute capability {about.compute_capability}" if about.compute_capability else ""
    known = " for ".join(filter(None, (made, where)))
    error = at_run_time(log.first_error() or f"{library} took no engine, and says not why")
    told = f"{error} (the engine was made by {known}, this is {library})" if known else str(error)
    return type(error)(told, error.fix)


class TrtSession:
    """One lane for ``run``, and one for each slot of the queue, which take turns in ``streams``.

    ``bind`` copies into pinned memory and queues the copy to the device, ``run`` computes, copies
    back and waits: together they go from host memory to host memory. An inference of the queue
    does all of it each time.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, loaded: Loaded, about: About, device: str, streams: int) -> None:
        self.inputs = tuple(port.spec for port in loaded.ports.inputs)
        self.outputs = tuple(port.spec for port in loaded.ports.outputs)
        self._about = about
        self._device_id = device
        self._loaded: Optional[Loaded] = loaded
        self._lane: Optional[Lane] = Lane(loaded)
        self._streams = [loaded.device.stream() for _ in range(streams)]
        self._slots: list[Lane] = []
        self._started: list[int] = []

    def bind(self, feed: Feed) -> None:
        """See :meth:`backends.trt.lane.Lane.bind`."""
        self._opened().bind(feed)

    def run(self) -> None:
        """One inference on what is bound; the outputs are in pinned memory then."""
        self._opened().run()

    def fetch(self) -> dict[str, np.ndarray[Any, Any]]:
        """Views of the pinned memory."""
        return self._opened().fetch()

    def run_timed(self) -> Phases:
        """One inference on what is bound, in trtexec's parts."""
        return self._opened().run_timed()

    def close(self) -> None:
        """Free everything; arrays that were fetched stay readable."""
        if self._loaded is None:
            return
        device = self._loaded.device
        with suppress(BackendError):  # closing works on a device that has failed, too
            device.activate()
        # contexts first, then the engine, then the memory: TensorRT looks at it until the end
        for lane in (self._lane, *self._slots):
            if lane is not None:
                lane.close()
        self._lane, self._slots, self._streams, self._loaded = None, [], [], None
        device.close()

    # -- in flight ----------------------------------------------------------------------------

    def bind_slots(self, feed: Feed, in_flight: int) -> None:
        """Prepare ``in_flight`` lanes, each with its own copy of the feed."""
        self._opened()
        loaded = self._get_loaded()
        while self._started:
            self.wait_any()
        for slot in range(len(self._slots), in_flight):
            self._slots.append(Lane(loaded, self._streams[slot % len(self._streams)]))
        for lane in self._slots[:in_flight]:
            lane.bind(feed)

    def start(self, slot: int) -> None:
        """Queue one inference in a slot's stream."""
        self._get_loaded().device.activate()
        self._slots[slot].start()
        self._started.append(slot)

    def wait_any(self) -> int:
        """The slot whose inference completes first. It polls, as CUDA itself does while waiting."""
        if not self._started:
            raise RuntimeError("no slot is started")
        self._get_loaded().device.activate()
        while True:
            for position, slot in enumerate(self._started):
                if self._slots[slot].done:
                    return self._started.pop(position)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def executed(self) -> Optional[Executed]:
        """From the engine inspector; from the build where the engine holds no details."""
        lane, loaded = self._opened(), self._get_loaded()
        found = self._inspected(loaded, lane)
        devices = (Share(self._device_id, max(1, loaded.engine.num_layers)),)
        if found is None or not found.precisions:
            built = self._about.executed
            detail = "no details of the layers in the engine"
            found = replace(built, devices=devices) if built else Executed(devices, (), detail)
        return replace(found, detail=f"{found.detail}; {lane.launching}")

    def _inspected(self, loaded: Loaded, lane: Lane) -> Optional[Executed]:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = loaded.library.module
        inspector = loaded.engine.create_engine_inspector()
        inspector.execution_context = lane.context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        found = layers.from_inspector(text, tf32=bool(self._about.tf32)) if text else None
        if found is None:
            return None
        told = found.executed(self._device_id)
        unsure = self._about.tf32 is None  # an engine that isn't ours
        return (
            replace(told, detail=f"{told.detail}; whether TF32 is allowed is unknown")
            if unsure
            else told
        )

    @property
    def device_bytes(self) -> Optional[int]:
        """Weights once; activations, inputs and outputs of each lane. None where it isn't told."""
        lane, loaded = self._opened(), self._get_loaded()
        lanes = [lane, *self._slots]
        scratch, weights = _scratch_bytes(loaded.engine), self._weights_bytes(loaded)
        if scratch is None or weights is None:
            return None
        return weights + len(lanes) * scratch + sum(each.device_bytes for each in lanes)

    def _weights_bytes(self, loaded: Loaded) -> Optional[int]:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = loaded.library.module
        if hasattr(loaded.engine, "get_engine_stat") and hasattr(trt, "EngineStat"):
            return int(loaded.engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return self._about.weights_bytes

    # -- inside -------------------------------------------------------------------------------

    def _opened(self) -> Lane:
        """The lane of ``run``, its device current in this thread."""
        if self._lane is None or self._loaded is None:
            raise RuntimeError("the session is closed")
        self._loaded.device.activate()
        return self._lane

    def _get_loaded(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("the session is closed")
        return self._loaded


def _scratch_bytes(engine: trt.ICudaEngine) -> Optional[int]:
    """What an execution context takes for activations."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    if hasattr(engine, "device_memory_size"):
        return int(engine.device_memory_size)
    return None


__all__ = ["OPTIONS", "Options", "TrtSession", "opened", "parse"]
