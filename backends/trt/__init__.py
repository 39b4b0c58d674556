"""TensorRT: NVIDIA's runtime for its GPUs, as TensorRT 10 or 11 or as TensorRT-RTX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from backends import enginefile
from backends.trt.about import About
from backends.trt.library import INSTALL, beside, find
from backends.trt.options import OPTIONS
from harness.backend import API_VERSION, BuildRequest, Capabilities, Offer
from harness.errors import BackendError, UnsupportedError
from harness.types import Engine, Precision, Probe, Settings

OFFERS = (
    Offer(Precision.FP32, "source"),
    Offer(Precision.TF32, "source", native=True),
    Offer(Precision.FP16, "fp16", native=True),
    Offer(Precision.FP16, "implicit", native=True),
    Offer(Precision.BF16, "bf16", native=True),
    Offer(Precision.INT8, "qdq-portable", calibrated=True, native=True),
    Offer(Precision.INT8, "qdq-fp16", calibrated=True, native=True),
    Offer(Precision.INT8, "implicit-entropy", calibrated=True, native=True),
    Offer(Precision.INT8, "implicit-minmax", calibrated=True, native=True),
    Offer(Precision.FP8, "fp8", calibrated=True, native=True),
)


class TensorRt:
    """The TensorRT backend.

    Engines are ``model.engine`` and ``engine.json``, which says what made it and what it holds
    (:class:`~backends.trt.about.About`), with ``calibration.cache`` where TensorRT calibrated. Any
    other engine is opened as it is.

    Networks are strongly typed: every type is the model's, and the precision is its recipe's. The
    implicit recipes, by which TensorRT 10 chooses types itself, ended with it. TF32 is off but for
    the precision that is called so.

    Devices are ``gpu:0``, ``gpu:1`` ... TensorRT-RTX also builds for a GPU that isn't here, by its
    compute capability.
    """

    name = "tensorrt"
    api = API_VERSION
    capabilities = Capabilities(
        formats=("onnx",),
        offers=OFFERS,
        install=INSTALL["tensorrt_rtx"],
        settings=("streams", "in_flight"),
        modules=("tensorrt|tensorrt_rtx",),
        build_options=tuple(OPTIONS),
        engine_formats=("engine", "plan"),
        ranges=True,
        ahead=True,
    )

    def probe(self) -> Probe:
        """The library, the driver and the GPUs, or what is missing."""
        try:
            library = find()
        except BackendError as error:
            return Probe(self.name, problem=str(error), fix=error.fix)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
            return Probe(self.name, problem=f"TensorRT doesn't start: {error}")
        from backends.trt.gpu import probe

        found = probe(self.name, library)
        return replace(found, versions=(*found.versions, *beside(library)))

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Make an engine; see :mod:`backends.trt.build`."""
        from backends.trt.build import build

        offered = {(offer.precision, offer.recipe) for offer in OFFERS}
        asked = (request.precision, request.recipe)
        if request.precision is not Precision.AS_IS and asked not in offered:
            raise UnsupportedError(f"tensorrt makes no {request.precision} from {request.recipe!r}")
        return build(request, workdir)

    def open(self, engine: Engine, device: str, settings: Settings) -> Any:
        """Load an engine on a GPU; see :mod:`backends.trt.session`."""
        from backends.trt.session import opened

        about = enginefile.beside(About, engine)
        return opened(find(about.library), about, engine.path, device, settings)

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """A script that runs the engine as ``open`` does. Needs no TensorRT."""
        from backends.trt.deploy import script

        return script(enginefile.beside(About, engine), Path(engine.path).name, device, settings)


BACKEND = TensorRt()
