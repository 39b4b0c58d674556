"""ExecuTorch on programs of PyTorch's own: what is built, what runs, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("executorch")

import torch
from torch import nn

from backends.convert.pt2 import quiet
from backends.et import BACKEND, half, pte
from backends.et import build as building
from backends.et import program as programs
from backends.et.rewriting import rewrite
from backends.et.runtime import load
from harness.backend import BuildRequest
from harness.errors import BackendError, UnsupportedError
from harness.testing_models import MemoryCalibration
from harness.types import Engine, Port, Ports, Precision, Settings, ShapeRange, TensorSpec

Feed = dict[str, Any]


class Cnn(nn.Module):
    """Convolutions with batch normalization, depthwise ones among them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6()),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        )
        for each in self.layers:
            if isinstance(each, nn.BatchNorm2d):
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.layers(x)


class FromOnnx(nn.Module):
    """What importers from ONNX make: products with constants, and limits that are tensors."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.randn(5, 12))
        self.register_buffer("b", torch.randn(12))
        self.register_buffer("v", torch.randn(12, 4))
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(6.0))

    def forward(self, x):
        hidden = torch.clamp(torch.matmul(x, self.w) * 1.0 + self.b, self.low, self.high)
        return torch.mm(hidden, self.v.T.T)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        q, k, v = (
            each(x).unflatten(-1, (2, 8)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.norm(x + mixed.transpose(1, 2).flatten(2))


class Normalized(nn.Module):
    """Activations whose squares are beyond float16's range."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4)

    def forward(self, x):
        return self.last(self.norm(self.first(x) * 400.0))


class Cumulative(nn.Module):
    def __init__(self):
        super().__init__()
        self.product = nn.Linear(6, 6)

    def forward(self, x):
        return torch.cumsum(self.product(x), 1)


class Rectified(nn.Module):
    """Convolutions with rectifiers behind, in place or not, and normalization between."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
            *(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5), nn.ReLU()),
        )

    def forward(self, x):
        return self.layers(x)


class Branched(nn.Module):
    """A residual block with a projection: unlike convolutions of one input."""

    def __init__(self):
        super().__init__()
        self.body, self.short = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(8 * 8 * 8, 5)

    def forward(self, x):
        return self.head((self.body(x) + self.short(x)).flatten(1))


class Structured(nn.Module):
    """Takes a dict and a keyword."""

    def forward(self, parts, *, scale):
        return parts["b"] - parts["a"] * scale


class HiddenByMin(nn.Module):
    """Hides positions as transformers do: by the least float32, added and filled in."""

    def forward(self, x, mask):
        least = torch.finfo(torch.float32).min
        hidden = x + (1.0 - mask) * least
        return hidden.softmax(-1) + x.masked_fill(mask == 0, least).softmax(-1)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


SHAPES = {
    Plain: (6,),
    Cnn: (3, 8, 8),
    FromOnnx: (5,),
    Attention: (7, 16),
    Normalized: (16,),
    Cumulative: (6,),
    Rectified: (3, 8, 8),
    Branched: (3, 8, 8),
}


@functools.cache
def module(kind: type) -> Any:
    torch.manual_seed(0)
    return kind().eval()


def feed(kind: type, batch: int = 1, seed: int = 1) -> Feed:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, *SHAPES[kind])).astype(np.float32)}


def calibration(kind: type) -> MemoryCalibration:
    return MemoryCalibration([feed(kind, seed=100 + index) for index in range(8)])


def exported(kind: type, *, most: int | None = 16) -> Any:
    dynamic = ({0: torch.export.Dim("n", min=1, max=most)},)
    with quiet(), torch.no_grad():
        return torch.export.export(
            module(kind), (torch.randn(2, *SHAPES[kind]),), dynamic_shapes=dynamic
        )


def ports(kind: type, batch: Any = "batch") -> Ports:
    out = module(kind)(torch.zeros(1, *SHAPES[kind])).shape[1:]
    ins = TensorSpec("x", "float32", (batch, *SHAPES[kind]))
    outs = TensorSpec("y", "float32", (batch, *out))
    return Ports((Port(ins, "x", "float32"),), (Port(outs, "y", "float32"),))


def request(kind: type, path: Path, precision: Precision, recipe: str, **more: Any) -> BuildRequest:
    shape = SHAPES[kind]
    profile = (ShapeRange("x", (1, *shape), (1, *shape), (4, *shape)),)
    known: dict[str, Any] = {
        "calibration": calibration(kind) if recipe == "pt2e-static" else None,
        "profiles": (profile,),
        "ports": ports(kind),
        **more,
    }
    with quiet():
        torch.export.save(exported(kind), path)
    return BuildRequest(str(path), precision, recipe, "cpu", **known)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Engines by module and recipe, each built once."""

    @functools.cache
    def made(kind: type, precision: Precision, recipe: str, parameters: Any = ()) -> Engine:
        root = tmp_path_factory.mktemp(recipe)
        (root / "engine").mkdir()
        wanted = request(kind, root / "model.pt2", precision, recipe, parameters=parameters)
        return BACKEND.build(wanted, str(root / "engine"))

    return made


@contextlib.contextmanager
def opened(engine: Engine, threads: int | None = 1) -> Iterator[Any]:
    with contextlib.closing(BACKEND.open(engine, "cpu", Settings(threads=threads))) as session:
        yield session


def infer(session: Any, given: Feed) -> Any:
    session.bind(given)
    session.run()
    return np.array(session.fetch()["y"])


def eager(kind: type, given: Feed) -> Any:
    with torch.no_grad():
        return module(kind)(torch.from_numpy(given["x"])).numpy()


def kinds_of(executed: Any) -> dict[str, int]:
    return {share.name: share.count for share in executed.precisions}


# -- outputs ---------------------------------------------------------------------------------


def lowered(program: Any, samples: Sequence[Any]) -> Any:
    """ExecuTorch's own API, by hand: lower, load, run."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        buffer = edge.to_executorch().buffer
        method = Runtime.get().load_program(bytes(buffer)).load_method("forward")
        return [method.execute((torch.from_numpy(each["x"]),))[0].numpy() for each in samples]


def by_hand(kind: type, recipe: str, samples: Sequence[Feed]) -> Any:
    """The vendors' recipes, from PyTorch's and ExecuTorch's own documentation."""
    dynamic = ({0: torch.export.Dim("n", min=1, max=4)},)
    example = (torch.zeros(4, *SHAPES[kind]),)

    def export(graph: Any) -> Any:
        with quiet(), torch.no_grad():
            return torch.export.export(graph, example, dynamic_shapes=dynamic)

    if recipe == "source":
        return lowered(export(module(kind)), samples)
    if recipe == "half":

        class Half(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = copy.deepcopy(module(kind)).half()

            def forward(self, x):
                return self.inner(x.half()).float()

        return lowered(export(Half().eval()), samples)
    with quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(
            is_per_channel=True, is_dynamic=recipe == "pt2e-dynamic"
        )
        prepared = prepare_pt2e(
            export(module(kind)).module(), XNNPACKQuantizer().set_global(config)
        )
        fed = [torch.from_numpy(each["x"]) for each in calibration(kind).feeds()]
        for batch in (torch.cat(fed[:4]), torch.cat(fed[4:])):
            prepared(batch)
        return lowered(export(convert_pt2e(prepared)), samples)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("kind", "precision", "recipe"),
    [
        (Cnn, Precision.FP32, "source"),
        (Plain, Precision.FP16, "half"),
        (Cnn, Precision.INT8, "pt2e-static"),
        (Cnn, Precision.INT8_DYNAMIC, "pt2e-dynamic"),
    ],
)
def test_outputs_are_those_of_the_vendors_api_by_hand(make, kind, precision, recipe):
    samples = [feed(kind, batch, seed) for seed, batch in enumerate((1, 3, 4))]
    with opened(make(kind, precision, recipe), None) as session:
        got = [infer(session, each) for each in samples]
    for ours, theirs in zip(got, by_hand(kind, recipe, samples), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_cnn_in_fp32(make):
    with opened(make(Cnn, Precision.FP32, "source")) as session:
        for batch in (1, 4, 2):
            given = feed(Cnn, batch, batch)
            np.testing.assert_allclose(infer(session, given), eager(Cnn, given), atol=1e-5)
        executed = session.executed
    assert kinds_of(executed) == {"fp32": 3}
    assert [share.name for share in executed.devices] == ["cpu:xnnpack"]


@pytest.mark.parametrize(
    ("precision", "recipe", "ran"),
    [
        (Precision.INT8, "pt2e-static", {"int8": 3}),
        (Precision.INT8_DYNAMIC, "pt2e-dynamic", {"fp32": 1, "int8": 2}),
    ],
)
@pytest.mark.exhaustive
def test_int8_folds_batch_normalization_and_comes_close(make, precision, recipe, ran):
    with opened(make(Cnn, precision, recipe)) as session:
        given = feed(Cnn, 4, 5)
        got, wanted = infer(session, given), eager(Cnn, given)
        assert kinds_of(session.executed) == ran, "depthwise ones stay in floating point"
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.exhaustive
def test_convolutions_before_rectifiers_become_int8_dynamic(make):
    with opened(make(Rectified, Precision.INT8_DYNAMIC, "pt2e-dynamic")) as session:
        given = feed(Rectified, 3)
        got, wanted = infer(session, given), eager(Rectified, given)
        assert kinds_of(session.executed) == {"int8": 3}
    assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.exhaustive
def test_convolutions_that_share_an_input_are_not_computed_wrongly(make):
    with opened(make(Branched, Precision.INT8_DYNAMIC, "pt2e-dynamic")) as session:
        given = feed(Branched, 3)
        got, wanted = infer(session, given), eager(Branched, given)
        assert kinds_of(session.executed) == {"fp32": 2, "int8": 1}
    assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.exhaustive
def test_in_float16_what_overflows_stays_in_float32(make):
    engine = make(Normalized, Precision.FP16, "half")
    with opened(engine) as session:
        given = feed(Normalized, 4)
        got, wanted = infer(session, given), eager(Normalized, given)
        assert kinds_of(session.executed) == {"fp16": 2}
    assert "1 normalizations and reductions kept in float32" in engine.notes
    assert np.abs(got - wanted).max() < 0.01 * np.abs(wanted).max()


@pytest.mark.exhaustive
def test_what_importers_write_becomes_int8(make):
    engine = make(FromOnnx, Precision.INT8_DYNAMIC, "pt2e-dynamic")
    assert "2 products to linear" in engine.notes
    with opened(engine) as session:
        given = feed(FromOnnx, 3)
        assert kinds_of(session.executed) == {"int8": 2}
        wanted = eager(FromOnnx, given)
        assert np.abs(infer(session, given) - wanted).max() < 0.03 * np.abs(wanted).max()


def test_what_falls_back_is_named(make):
    with opened(make(Cumulative, Precision.FP32, "source")) as session:
        executed = session.executed
    assert {share.name for share in executed.devices} == {"cpu:kernels", "cpu:xnnpack"}
    assert "cumsum" in executed.detail


def test_arguments_may_be_structures_and_keywords(tmp_path):
    one, two, three = (torch.full((1, 2), value) for value in (1.0, 2.0, 3.0))
    with quiet():
        program = torch.export.export(
            Structured().eval(), ({"b": three, "a": two},), {"scale": one}, strict=False
        )
        torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "engine").mkdir()
    wanted = BuildRequest(str(tmp_path / "model.pt2"), Precision.FP32, "source", "cpu")
    with opened(BACKEND.build(wanted, str(tmp_path / "engine"))) as session:
        values = [np.full((1, 2), value, np.float32) for value in (3, 2, 2)]  # b, a, scale
        session.bind({f"input_{index}": value for index, value in enumerate(values)})
        session.run()
        assert session.fetch()["output_0"].tolist() == [[-1.0, -1.0]]


# -- rewriting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (FromOnnx, {"products to linear": 2, "clamps by tensors": 1}),
        (Attention, {"attentions spelled out": 1}),
    ],
)
def test_rewriting_changes_no_output(kind, made):
    program = programs.of(exported(kind))
    found = rewrite(program)
    assert made.items() <= found.items()
    given = feed(kind, 3)
    (got,) = program.graph(torch.from_numpy(given["x"]))
    np.testing.assert_allclose(got.detach().numpy(), eager(kind, given), rtol=1e-4, atol=1e-5)


class Written(nn.Module):
    """Tensors that are constant until they are written to."""

    def __init__(self):
        super().__init__()
        self.register_buffer("template", torch.zeros(2, 5))
        self.register_buffer("bias", torch.ones(3))

    def forward(self, x):
        placed = self.template.clone()
        placed[:, :3] = x
        made = torch.tensor([0.0, 0.0])
        made[0] = x.mean()
        added = self.bias.clone()
        added += x[0]
        parts = self.template.clone().split(1)
        parts[0][:, :3] += x[0]
        moved = x * 1.0
        moved += 1
        whole = torch.cat([x, x])
        kept = whole.view(-1) * 1.0
        whole += 1
        return placed, made, added, parts[0] + parts[1], x + moved, whole, kept


def test_what_is_written_to_is_not_folded():
    x = torch.randn(2, 3)
    program = programs.of(torch.export.export(Written(), (x,)))
    rewrite(program)
    wanted = Written()(x)
    for _ in range(2):
        for got, want in zip(program.graph(x.clone()), wanted, strict=True):
            assert torch.equal(got, want)


def test_weights_beyond_float16_are_clipped_and_said():
    big = nn.Linear(2, 2)
    with torch.no_grad():
        big.weight[0, 0] = 1e6
        program = programs.of(torch.export.export(big, (torch.ones(1, 2),)))
    assert half.convert(program) == ["1 constants clipped to float16's range"]


def test_numbers_beyond_float16_are_clipped_so_that_masks_work():
    x, mask = torch.randn(1, 6), torch.tensor([[1.0, 1, 1, 0, 0, 1]])
    program = programs.of(torch.export.export(HiddenByMin(), (x, mask)))
    assert half.convert(program) == ["2 constants clipped to float16's range"]
    (got,) = program.graph(x, mask)
    np.testing.assert_allclose(got.numpy(), HiddenByMin()(x, mask).numpy(), atol=2e-3)


@pytest.mark.parametrize("square", [lambda x: x.pow(2), lambda x: x * x])
@pytest.mark.parametrize("times", [1e-4, 300])
def test_normalizations_in_parts_stay_in_float32_from_part_to_part(square, times):
    class Normalizing(nn.Module):
        def forward(self, x):
            inner = x - x.mean(-1, keepdim=True)
            deviation = torch.sqrt(square(inner).mean(-1, keepdim=True) + 1e-12)
            return inner / deviation, torch.rsqrt(square(x).mean(-1, keepdim=True) + 1e-12) * x

    x = times * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    program = programs.of(torch.export.export(Normalizing(), (x,)))
    half.convert(program)
    for got, wanted in zip(program.graph(x), Normalizing()(x), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=5e-3, atol=5e-3)


def test_normalizations_read_inputs_and_give_outputs_as_they_are():
    x = 1e6 * torch.randn(4, 64)
    norm = nn.LayerNorm(64, elementwise_affine=False)
    program = programs.of(torch.export.export(norm, (x,)))
    half.convert(program)
    np.testing.assert_array_equal(program.graph(x)[0].numpy(), norm(x).numpy())


@pytest.mark.parametrize(("window", "notes"), [(7, 0), (16, 1)])
def test_averages_of_many_values_stay_in_float32(window, notes):
    example = (torch.rand(1, 2, 16, 16),)
    program = programs.of(torch.export.export(nn.AvgPool2d(window), example))
    assert len(half.convert(program)) == notes


def test_replaced_weights_leave_the_program():
    program = programs.of(exported(FromOnnx))
    rewrite(program)
    half.convert(program)
    made = programs.exported(program, "half")
    kept = {name for name in made.state_dict if made.state_dict[name].dtype is torch.float32}
    assert not kept


# -- shapes ----------------------------------------------------------------------------------


def test_shapes_beyond_the_profile_are_refused_by_name(make):
    with opened(make(Cnn, Precision.FP32, "source")) as session:
        with pytest.raises(UnsupportedError, match=r"input x.*at most 4"):
            session.bind(feed(Cnn, 5))
        with pytest.raises(UnsupportedError, match=r"input x"):
            session.bind({"x": np.zeros((1, 3, 8, 9), np.float32)})


def test_an_axis_without_bound_needs_a_profile():
    program = programs.of(exported(Cumulative, most=None))
    wanted = BuildRequest("", Precision.FP32, "source", "cpu", ports=ports(Cumulative))
    with pytest.raises(UnsupportedError, match=r"input x.*no upper bound"):
        programs.bounded(program, wanted)


def test_more_than_the_program_takes_is_refused():
    program = programs.of(exported(Cumulative, most=3))
    profile = (ShapeRange("x", (1, 6), (4, 6), (4, 6)),)
    wanted = BuildRequest(
        "", Precision.FP32, "source", "cpu", profiles=(profile,), ports=ports(Cumulative)
    )
    with pytest.raises(UnsupportedError, match=r"input x.*at most 3.*4 was asked"):
        programs.bounded(program, wanted)


def test_less_than_the_program_takes_is_refused(tmp_path):
    dynamic = ({0: torch.export.Dim("n", min=3, max=9)},)
    with quiet():
        program = torch.export.export(
            module(Cumulative), (torch.zeros(5, 6),), dynamic_shapes=dynamic
        )
        torch.export.save(program, tmp_path / "model.pt2")
    profile = (ShapeRange("x", (1, 6), (2, 6), (2, 6)),)
    known = {"ports": ports(Cumulative)}
    wanted = BuildRequest("", Precision.FP32, "source", "cpu", profiles=(profile,), **known)
    with pytest.raises(UnsupportedError, match=r"input x.*at least 3 there, not 2"):
        programs.bounded(programs.of(program), wanted)
    (tmp_path / "engine").mkdir()
    wanted = BuildRequest(str(tmp_path / "model.pt2"), Precision.FP32, "source", "cpu", **known)
    engine = BACKEND.build(wanted, str(tmp_path / "engine"))
    assert "memory is planned for x: [9, 6], whatever is fed" in engine.notes
    with opened(engine) as session:
        infer(session, feed(Cumulative, 3))
        with pytest.raises(UnsupportedError, match=r"input x.*at least 3"):
            session.bind(feed(Cumulative, 2))


@pytest.mark.parametrize(
    ("precision", "recipe"),
    [(Precision.FP32, "source"), (Precision.INT8_DYNAMIC, "pt2e-dynamic")],
)
def test_a_program_that_needs_a_least_size(precision, recipe, tmp_path):
    net = nn.Sequential(nn.Conv1d(2, 3, 4), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2))
    length = torch.export.Dim("length", min=5, max=16)
    with quiet():
        program = torch.export.export(
            net.eval(), (torch.ones(1, 2, 8),), dynamic_shapes=({2: length},)
        )
        torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "engine").mkdir()
    wanted = BuildRequest(str(tmp_path / "model.pt2"), precision, recipe, "cpu")
    with opened(BACKEND.build(wanted, str(tmp_path / "engine"))) as session:
        for size in (5, 16):
            session.bind({"input_0": np.ones((1, 2, size), np.float32)})
            session.run()


def test_a_program_that_is_refused_at_its_first_inference_is_not_built(tmp_path, monkeypatch):
    def call(values, **_):
        assert [tuple(each.shape) for each in values] == [(4, 6)], "the largest"
        raise RuntimeError("method->execute() failed with error 0x10")

    monkeypatch.setattr(building, "opened", lambda *_: (None, SimpleNamespace(call=call)))
    (tmp_path / "engine").mkdir()
    wanted = request(Cumulative, tmp_path / "model.pt2", Precision.FP32, "source")
    with pytest.raises(
        UnsupportedError, match=r"source: the first inference failed: not supported"
    ):
        BACKEND.build(wanted, str(tmp_path / "engine"))


def test_an_axis_that_is_only_ever_one_is_fixed():
    profile = (ShapeRange("x", (1, 6), (1, 6), (1, 6)),)
    wanted = BuildRequest(
        "", Precision.FP32, "source", "cpu", profiles=(profile,), ports=ports(Cumulative)
    )
    assert programs.bounded(programs.of(exported(Cumulative)), wanted).shapes == ((1, 6),)


# -- wishes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "parameters", "says"),
    [
        ("pt2e-static", (("calibration", "entropy"),), "entropy"),
        ("pt2e-static", (("reduce_range", "yes"),), "never saturate"),
        ("pt2e-static", (("smooth_quant", "0.5"),), "smooth_quant"),
        ("pt2e-static", (("exclude", '["Nonsense"]'),), "Nonsense"),
        ("pt2e-dynamic", (("per_channel", "no"),), "per output channel"),
        ("pt2e-dynamic", (("symmetric", "yes"),), "zero point"),
        ("pt2e-dynamic", (("exclude", '["MatMul", "Gemm"]'),), "nothing in the model"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(make, recipe, parameters, says):
    precision = Precision.INT8 if recipe == "pt2e-static" else Precision.INT8_DYNAMIC
    with pytest.raises(UnsupportedError, match=says):
        make(Cumulative, precision, recipe, parameters)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("parameters", "ran"),
    [
        ((("exclude", '["Gemm"]'),), {"fp32": 1, "int8": 2}),
        ((("include", "Gemm"),), {"fp32": 2, "int8": 1}),
        ((("exclude", '["layers.8"]'),), {"fp32": 1, "int8": 2}),
        ((("calibration", "minmax"), ("per_channel", "no"), ("symmetric", "yes")), {"int8": 3}),
    ],
)
def test_wishes_are_met(make, parameters, ran):
    with opened(make(Cnn, Precision.INT8, "pt2e-static", parameters)) as session:
        assert kinds_of(session.executed) == ran


# -- engines of the user's own ---------------------------------------------------------------


def adopt(source: Path, workdir: Path) -> Engine:
    workdir.mkdir()
    return BACKEND.build(BuildRequest(str(source), Precision.AS_IS, "mine", "cpu"), str(workdir))


def test_a_program_of_the_users_own_is_opened_as_it_is(make, tmp_path):
    built = make(Cnn, Precision.FP32, "source")
    mine = tmp_path / "mine.pte"
    mine.write_bytes(Path(built.path).read_bytes())
    given = feed(Cnn, 2)
    with opened(adopt(mine, tmp_path / "as-is")) as session:
        assert [str(each) for each in session.inputs] == ["input_0: float32[?, ?, ?, ?]"]
        assert [each.name for each in session.outputs] == ["output_0"]
        session.bind({"input_0": given["x"]})
        session.run()
        got = np.array(session.fetch()["output_0"])
        assert session.executed.share("fp32") == 1
    np.testing.assert_allclose(got, eager(Cnn, given), atol=1e-5)


def test_one_that_we_made_keeps_its_names_until_it_is_another(make, tmp_path):
    built = Path(make(Cnn, Precision.FP32, "source").path)
    for name in ("model.pte", "engine.json"):
        (tmp_path / name).write_bytes(built.with_name(name).read_bytes())
    assert adopt(tmp_path / "model.pte", tmp_path / "same").files == ("model.pte", "engine.json")
    other = make(Cumulative, Precision.FP32, "source")
    (tmp_path / "model.pte").write_bytes(Path(other.path).read_bytes())
    assert adopt(tmp_path / "model.pte", tmp_path / "other").files == ("model.pte",)


def test_pytorchs_own_archives_are_told_apart(tmp_path):
    traced, saved = tmp_path / "old.ptl", tmp_path / "model.pt2"
    with quiet():
        script = torch.jit.trace(module(Cumulative), torch.zeros(1, 6))
        script._save_for_lite_interpreter(str(traced))
        torch.export.save(exported(Cumulative), saved)
    with pytest.raises(UnsupportedError, match=r"old\.ptl.*PyTorch Mobile") as refused:
        adopt(traced, tmp_path / "first")
    assert "torch.export.export(" in (refused.value.fix or "")
    with pytest.raises(UnsupportedError, match=r"model\.pt2.*exported program"):
        adopt(saved, tmp_path / "second")


def test_a_broken_program_is_an_error_and_never_a_crash(make, tmp_path):
    data = Path(make(Cnn, Precision.FP32, "source").path).read_bytes()
    path = tmp_path / "broken.pte"
    for length in range(0, len(data), 61):
        path.write_bytes(data[:length])
        with contextlib.suppress(BackendError):
            pte.read(str(path))
    for place in range(0, min(len(data), 4000), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with contextlib.suppress(BackendError):
            pte.read(str(path))


# -- threads ---------------------------------------------------------------------------------


def test_threads_are_the_processs_and_said_to_be_that(make):
    engine = make(Cnn, Precision.FP32, "source")
    runtime = load()
    for threads in (2, 1):
        with opened(engine, threads):
            assert runtime._threadpool_get_thread_count() == threads
            with (
                pytest.raises(BackendError, match="one pool of threads per process"),
                opened(engine, threads + 1),
            ):
                pass
            with opened(engine, threads), opened(engine, None):
                pass
