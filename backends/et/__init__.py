"""ExecuTorch: PyTorch's runtime for devices at the edge, with XNNPACK on CPUs."""

from __future__ import annotations

from backends.et import build as building
from backends.et import deploy
from backends.et.runtime import INSTALL, XNNPACK, load
from backends.et.session import EtSession
from backends.machine import cpu_flags, processor_name, versions_of
from harness.backend import API_VERSION, BuildRequest, Capabilities, Offer
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Device, Engine, Environment, Precision, Probe, Settings

OFFERS = (
    Offer(Precision.FP32, "source"),
    Offer(Precision.FP16, "half", native=True),
    Offer(
        Precision.INT8,
        "pt2e-static",
        calibrated=True,
        alternatives=(
            (("include", "Conv,Gemm,MatMul"),),  # no sums and products of activations
            (("calibration", "minmax"),),
            (("symmetric", "yes"),),
        ),
    ),
    Offer(Precision.INT8_DYNAMIC, "pt2e-dynamic"),
)

ENVIRONMENT = Environment(
    requirements=(
        # One release of torch is what executorch's libraries were linked with, and it doesn't say.
        "executorch==1.5.1",
        "torch==2.13.0",
        "torchao>=0.18,<0.19",
        # The converters that live here, and what they check by.
        "onnx>=1.17,<2",
        "onnxscript>=0.5,<1",
        "onnxruntime>=1.22,<2",
        "onnx2fx==0.0.1",
        "numpy>=2,<3",
    ),
    python=">=3.11,<3.15",
)


class ExecuTorch:
    """The ExecuTorch backend.

    Engines are ``model.pte`` and ``engine.json``, which says the model's own names, and the shapes
    that memory is planned for. A ``.pte`` of the user's is opened as it is.

    All sessions of a process share one pool of threads, so that they are opened with as many
    threads each; XNNPACK runs one of them at a time.
    """

    name = "executorch"
    api = API_VERSION
    capabilities = Capabilities(
        formats=("pt2",),
        offers=OFFERS,
        install=INSTALL,
        settings=("threads",),
        modules=("torch", "executorch.extension.pybindings._C"),
        engine_formats=("pte",),
        ranges=True,
        environment=ENVIRONMENT,
    )

    def probe(self) -> Probe:
        """Versions and the CPU, or why not."""
        versions = versions_of("executorch", "torch", "torchao")
        try:
            runtime = load()
            there = runtime._get_registered_backend_names()  # noqa: SLF001
        except UnavailableError as error:
            return Probe(self.name, versions, problem=str(error), fix=error.fix)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return Probe(self.name, versions, problem=f"executorch: {error}", fix=INSTALL)
        if XNNPACK not in there:
            return Probe(self.name, versions, problem="executorch has no XNNPACK", fix=INSTALL)
        cpu = Device("cpu", f"{processor_name()} (XNNPACK)", _precisions())
        return Probe(self.name, versions, (cpu,))

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Make the program, or copy the user's; see :mod:`backends.et.build`."""
        if request.precision is Precision.AS_IS:
            return building.copy(request, workdir)
        offered = {(offer.precision, offer.recipe) for offer in OFFERS}
        if (request.precision, request.recipe) not in offered:
            raise UnsupportedError(
                f"executorch makes no {request.precision} from {request.recipe!r}"
            )
        return building.build(request, workdir)

    def open(self, engine: Engine, device: str, settings: Settings) -> EtSession:
        """Load the program."""
        if device != "cpu":
            raise UnavailableError(f"executorch runs on the cpu here, not on {device}")
        for option, _ in settings.options:
            raise UnsupportedError(f"executorch has no option {option}")
        return EtSession(load(), engine, settings.threads)

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """A script with the threads and names that ``open`` uses. Needs no executorch."""
        if device != "cpu":
            raise UnavailableError(f"executorch runs on the cpu here, not on {device}")
        return deploy.script(engine, settings.threads)


def _precisions() -> tuple[Precision, ...]:
    """Those that XNNPACK has kernels for; x86 without AVX512-FP16 adds in float32."""
    flags = cpu_flags() or frozenset()
    half = {"avx2", "f16c"} <= flags or "asimdhp" in flags
    native = (Precision.FP32, Precision.INT8, Precision.INT8_DYNAMIC)
    return (*native, Precision.FP16) if half else native


BACKEND = ExecuTorch()
