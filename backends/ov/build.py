"""Making an OpenVINO engine: the IR, what it was made for, and NNCF's quantization."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from backends.ov.device import Target, parse
from backends.ov.runtime import INSTALL, classified, quiet, read, specs
from harness.backend import BuildRequest, Calibration
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Engine, Precision, TensorSpec

MODEL = "model.xml"
ABOUT = "engine.json"

_FUSED_FROM = 2  # matrix products that OpenVINO may fuse into one kernel

_INT8_DOT = {"avx512_vnni", "avx_vnni", "amx_int8"}


@dataclass(frozen=True)
class About:
    """What ``engine.json`` beside the IR says, since an engine is opened without its candidate.

    precision None, and no inputs: an IR that isn't ours. static: whether fixed shapes are safe.
    """

    precision: Optional[Precision] = None
    inputs: tuple[TensorSpec, ...] = ()
    static: bool = True

    def write(self, folder: Path) -> None:
        """Write it beside the IR."""
        values = {
            "precision": str(self.precision),
            "inputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in self.inputs],
            "static": self.static,
        }
        (folder / ABOUT).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def beside(cls, engine: Engine) -> About:
        """Read it, if it is there."""
        path = Path(engine.path).with_name(ABOUT)
        if not path.is_file():
            return cls()
        values = json.loads(path.read_text(encoding="utf-8"))
        inputs = tuple(
            TensorSpec(name, dtype, tuple(dims)) for name, dtype, dims in values["inputs"]
        )
        return cls(Precision(values["precision"]), inputs, values["static"])


def build(openvino: Any, request: BuildRequest, workdir: str) -> Engine:
    """Build one of the offers; see :class:`backends.ov.OpenVino`."""
    model = read(openvino.Core(), request.model)
    inputs = specs(model.inputs)
    specs(model.outputs)  # refuses what no session could hand out
    notes: list[str] = []
    if request.recipe == "nncf":
        model, notes = quantize(model, request)
    if request.precision is Precision.INT8:
        notes.append(_quantized(model))
    # float16 weights change nothing for a run in float16, which rounds them anyway; for bf16
    # they would (less range), so these stay float32
    compress = request.precision is Precision.FP16
    notes += ["weights stored as float16"] if compress else []
    folder = Path(workdir)
    with classified():
        openvino.save_model(model, str(folder / MODEL), compress_to_fp16=compress)
    static = request.precision is not Precision.INT8 or _matrix_products(model) < _FUSED_FROM
    notes += [] if static else ["shapes left open: several int8 matrix products"]
    About(request.precision, inputs, static).write(folder)
    files = tuple(sorted(path.name for path in folder.iterdir()))
    size = sum((folder / name).stat().st_size for name in files)
    return Engine(str(folder / MODEL), files, size, tuple(notes))


def _matrix_products(model: Any) -> int:
    return sum(op.get_type_name() == "MatMul" for op in model.get_ops())


def _quantized(model: Any) -> str:
    """How many quantizers the model has; NNCF can return a model with none and say nothing."""
    count = sum(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    if not count:
        raise UnsupportedError("nothing in the model was quantized: it has no operation for it")
    return f"{count} quantizers"


class _Feeds:
    """Calibration samples as NNCF reads them: more than once, one at a time."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for feed in self._calibration.feeds():
            yield dict(feed)

    def __len__(self) -> int:
        return len(self._calibration)


def quantize(model: Any, request: BuildRequest) -> tuple[Any, list[str]]:
    """NNCF's post-training quantization; the model, and what was chosen.

    Raises:
        UnavailableError: NNCF isn't installed.
        UnsupportedError: no calibration samples, or a model that NNCF refuses.
    """
    if request.calibration is None or not len(request.calibration):
        raise UnsupportedError("nncf: needs calibration samples")
    nncf = _nncf()
    target = parse(request.device)
    fix = needs_overflow_fix(target, cpu_flags())
    transformer = looks_like_transformer(model)
    fixes = nncf.OverflowFix
    notes = [f"nncf overflow fix {'on' if fix else 'off'}"]
    notes += ["nncf model type transformer"] if transformer else []
    try:
        with quiet(), classified():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(_Feeds(request.calibration)),
                subset_size=len(request.calibration),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                target_device=_nncf_device(nncf, target),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=fixes.ENABLE if fix else fixes.DISABLE
                ),
            )
    except (nncf.UnsupportedModelError, nncf.ValidationError) as error:
        raise UnsupportedError(f"nncf: {error}") from error
    return quantized, notes


def _nncf() -> Any:
    try:
        with quiet():
            import nncf

            nncf.set_log_level(logging.ERROR)
    except Exception as error:  # a broken installation raises anything
        raise UnavailableError(f"nncf can't be imported: {error}", fix=INSTALL) from error
    return nncf


def _nncf_device(nncf: Any, target: Target) -> Any:
    """NNCF's set of rules for the device; ANY (those of a CPU) where it can be several."""
    only = next(iter(target.types)) if len(target.types) == 1 else "ANY"
    return getattr(nncf.TargetDevice, only, nncf.TargetDevice.ANY)


def cpu_flags() -> Optional[frozenset[str]]:
    """The CPU's features as Linux names them; None where unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return None


def needs_overflow_fix(target: Target, flags: Optional[frozenset[str]]) -> bool:
    """Whether int8 products may saturate: x86 CPUs without an int8 dot product add in int16.

    Weights of 7 bits are then exact, at no cost. Where nothing is known of the CPU: yes.
    """
    if target.types and "CPU" not in target.types:
        return False
    if flags is None:
        return True
    if not {"sse2", "avx", "avx2"} & flags:  # not x86; the kernels of other CPUs widen to int32
        return False
    return not flags & _INT8_DOT


def looks_like_transformer(model: Any) -> bool:
    """Whether the graph has attention (a matrix product of a softmax) and layer normalization."""
    kinds = {op.get_type_name() for op in model.get_ops()}
    normalized = "MVN" in kinds or {"ReduceMean", "SquaredDifference"} <= kinds
    normalized = normalized or ("ReduceMean" in kinds and bool({"Sqrt", "Power"} & kinds))
    if "ScaledDotProductAttention" in kinds:
        return True
    softmax = [op for op in model.get_ops() if op.get_type_name() in ("Softmax", "SoftMax")]
    return normalized and any(_feeds_matmul(op) for op in softmax)


def _feeds_matmul(op: Any, depth: int = 4) -> bool:
    """Whether an operation's result goes into a matrix product, perhaps through a reshape."""
    through = {
        "Convert",
        "FakeQuantize",
        "Identity",
        "Multiply",
        "Reshape",
        "Select",
        "Squeeze",
        "Transpose",
    }
    for consumer in (
        port.get_node() for output in op.outputs() for port in output.get_target_inputs()
    ):
        kind = consumer.get_type_name()
        if kind == "MatMul" or (depth and kind in through and _feeds_matmul(consumer, depth - 1)):
            return True
    return False
