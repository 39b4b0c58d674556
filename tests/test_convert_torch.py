"""PyTorch as the source: what is read, and what each converter makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest

# ruff: noqa: E402 - what follows needs torch
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import programs
from torch.nn import functional

from backends.convert import onnx_to_torch, pt2, torch_to_onnx
from backends.convert.onnx_to_torch import CONVERTER as TO_TORCH
from backends.convert.program import SOURCE
from backends.convert.torch_to_onnx import CONVERTER as TO_ONNX
from backends.convert.torch_to_tflite import CONVERTER as TO_TFLITE
from harness import testing_models
from harness.backend import ConvertRequest, Program
from harness.errors import BackendError, InputError, OutOfMemoryError, UnsupportedError
from harness.types import TensorSpec

HERE = Path(__file__).resolve().parent
MODELS = ("cnn", "mobilenet", "encoder", "lstm", "two", "masked")
QUICK = ("two", "masked")
ODD = ("returning",)
ABOUT = 1e-5
"""Of an output's largest value: what another order of float32 operations changes at most here."""


def models(*quick: str):
    """All models; those that aren't quick only among the exhaustive tests."""
    slow = pytest.mark.exhaustive
    return [name if name in quick else pytest.param(name, marks=slow) for name in MODELS]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Programs by the function's name, each read once."""
    found: dict[str, Program] = {}

    def get(name):
        if name not in found:
            found[name] = SOURCE.read(f"programs:{name}", str(tmp_path_factory.mktemp(name)))
        return found[name]

    return get


def request_of(path, inputs, outputs, ports=None, samples=(), batch=1):
    shapes = tuple(
        (spec.name, tuple(batch if isinstance(dim, str) else dim for dim in spec.shape))
        for spec in inputs
    )
    return ConvertRequest(str(path), inputs, outputs, shapes, samples, ports)


def asked(program, **more):
    return request_of(program.path, program.inputs, program.outputs, program.ports, **more)


def feed_of(specs, batch, seed=7):
    return testing_models.random_feed(specs, batch, seed)


def eager(program, feed):
    """What PyTorch gives, called as its documentation says."""
    module = torch.export.load(program.path).module()
    values = {name: torch.from_numpy(value) for name, value in feed.items()}
    with torch.no_grad():
        outputs = module(*values.values()) if not _by_name(program) else module(**values)
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {spec.name: value.numpy() for spec, value in zip(program.outputs, outputs, strict=True)}


def _by_name(program):
    return "mask" in [spec.name for spec in program.inputs]


def by_onnxruntime(path, feed):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def assert_near(got, wanted):
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape, name
        assert got[name].dtype == value.dtype, name
        scale = float(np.abs(value).max()) or 1.0
        assert float(np.abs(got[name] - value).max()) <= ABOUT * scale, name


class _Product(torch.nn.Module):
    def forward(self, x, weights, scale):
        return (x @ weights) @ (weights * scale)


class _InPlace(torch.nn.Module):
    def forward(self, x):
        return x.add_(1) * 2


def problems_of(source, folder):
    with pytest.raises(InputError) as caught:
        SOURCE.read(str(source), str(folder))
    return "\n".join(str(problem) for problem in caught.value.problems)


class TestClaims:
    @pytest.mark.parametrize("source", ["a.pt2", "not/there.PTL", "a.pt", "b.pth", "pkg.nets:make"])
    def test_what_is_pytorchs(self, source):
        assert SOURCE.claims(source)

    @pytest.mark.parametrize("source", ["a.onnx", "a.tflite", "folder", "C:\\models\\a", "a:b:c"])
    def test_what_is_not(self, source):
        assert not SOURCE.claims(source)

    def test_a_path_that_looks_like_a_function(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("nets:make").write_text("")
        assert not SOURCE.claims("nets:make")

    def test_needs_no_torch(self):
        code = (
            "import sys; from backends.convert.program import SOURCE; "
            "assert SOURCE.claims('a.pt2'); assert SOURCE.probe().versions; "
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestRead:
    def test_names_shapes_and_facts(self, read):
        found = read("masked")
        assert found.inputs == (
            TensorSpec("ids", "int64", ("batch", 9)),
            TensorSpec("mask", "float32", ("batch", 9)),
        )
        assert found.outputs == (
            TensorSpec("logits", "float32", ("batch", 3)),
            TensorSpec("hidden", "float32", ("batch", 9, 8)),
        )
        assert found.format == "pt2"
        assert found.name == "programs.masked"
        assert found.size_bytes == 4 * (50 * 8 + 8 * 3 + 3)
        assert ("aten.embedding", 1) in found.operators
        assert found.notes == ()

    def test_outputs_without_keys_are_numbered(self, read):
        assert [spec.name for spec in read("two").outputs] == ["output_0", "output_1"]
        assert [spec.name for spec in read("cnn").outputs] == ["output"]

    def test_a_class_of_the_users_is_flattened(self, read):
        found = read("structured")
        assert [spec.name for spec in found.outputs] == ["x", "y_0", "y_1"]
        code = f"import torch; print(torch.export.load({found.path!r}).call_spec.out_spec)"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)

    def test_an_output_is_not_called_like_an_input(self, read):
        found = read("returning")
        assert [spec.name for spec in found.inputs] == ["features"]
        assert [spec.name for spec in found.outputs] == [
            "output_features", "rest_a b/c:d_features", "rest_a b/c:d_rest",
        ]  # fmt: skip

    def test_training_mode_is_left_and_told(self, read):
        assert any("training mode" in note for note in read("mobilenet").notes)

    def test_an_axis_that_is_no_batch_stays_fixed(self, read):
        found = read("sequence_first")
        assert found.inputs[0].shape == (5, 2)
        assert any("isn't one of independent samples" in note for note in found.notes)

    def test_a_batch_whose_samples_depend_on_each_other_stays_fixed(self, read):
        found = read("whitened")
        assert found.inputs[0].shape == (6, 4)
        assert any("isn't one of independent samples" in note for note in found.notes)

    @pytest.mark.parametrize("name", ["whitened_zeros", "centred"])
    def test_examples_that_are_all_alike_hide_no_dependence(self, name, read):
        assert any("isn't one of independent samples" in note for note in read(name).notes)

    def test_arguments_of_any_number_and_keywords_alone(self, read):
        found = read("summed")
        assert [spec.shape for spec in found.inputs] == [("batch", 4)] * 3
        assert found.notes == ()

    def test_shapes_of_the_users_own(self, read):
        first, second = read("own_shapes").inputs[0].shape
        assert first == 3
        assert isinstance(second, str)

    def test_an_exported_program_as_it_is(self, read):
        assert read("exported").inputs[0].shape == (1, 6)

    def test_a_file_says_the_same(self, read, tmp_path):
        first = read("lstm")
        again = SOURCE.read(first.path, str(tmp_path))
        assert again.path == first.path
        assert (again.inputs, again.outputs, again.ports) == (
            first.inputs, first.outputs, first.ports,
        )  # fmt: skip
        assert (again.sha256, again.operators) == (first.sha256, first.operators)

    def test_the_same_in_a_fresh_process(self, read, tmp_path):
        code = (
            "import sys; from backends.convert.program import SOURCE; "
            f"print(SOURCE.read('programs:encoder', {str(tmp_path)!r}).sha256)"
        )
        asked_again = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            check=True, capture_output=True, text=True, cwd=HERE,
        )  # fmt: skip
        assert asked_again.stdout == read("encoder").sha256 + "\n"

    def test_other_weights_are_another_model(self, tmp_path):
        paths = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            layer = torch.nn.Linear(3, 3).eval()
            paths.append(tmp_path / f"{seed}.pt2")
            torch.export.save(torch.export.export(layer, (torch.ones(1, 3),)), paths[-1])
        first, second = (SOURCE.read(str(path), str(tmp_path)).sha256 for path in paths)
        assert first != second


class TestRefused:
    def test_all_that_is_wrong_at_once(self, tmp_path):
        text = problems_of("programs:nothing_given", tmp_path)
        for word in ("'a model'", "inputs[0]", "None, no tensor", "inputs[1]", "3, no tensor"):
            assert word in text

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("programs:scaled", "3.0, no tensor"),
            ("programs:bare_tensor", "return (model, (x,))"),
            ("programs:module_alone", "expected (model, inputs)"),
            ("programs:broken", "raised RuntimeError: no weights here"),
            ("programs:branching", "torch.export.export raised"),
            ("programs:counting", "forward() changes calls"),
            ("programs:one_too_few", "missing 1 required positional argument: 'right'"),
            ("programs:without_values", "device meta"),
            ("programs:nowhere", "no function nowhere"),
            ("programs.py:cnn", "import does: programs:cnn"),
            ("no_such_module_here:make", "no module no_such_module_here"),
            ("missing.pt2", "no such file"),
        ],
    )
    def test_what_it_says(self, source, words, tmp_path):
        assert words in problems_of(source, tmp_path)

    @pytest.mark.parametrize("decomposed", [False, True])
    @pytest.mark.parametrize("name", ["calls", "x"])
    def test_what_a_call_changes(self, name, decomposed, tmp_path):
        made, inputs = programs.counting()
        module = made if name == "calls" else _InPlace()
        program = torch.export.export(module, inputs)
        with pt2.quiet():
            program = program.run_decompositions() if decomposed else program
            torch.export.save(program, tmp_path / "m.pt2")
        assert f"forward() changes {name}" in problems_of(tmp_path / "m.pt2", tmp_path)

    @pytest.mark.parametrize("active", [True, False])
    @pytest.mark.parametrize(
        "drop",
        [
            functional.dropout,
            lambda x, *given: functional.dropout(x * 1, *given, inplace=True),
            functional.dropout1d,
            functional.alpha_dropout,
            functional.feature_alpha_dropout,
            lambda x, *given: torch.native_dropout(x, *given)[0],
            lambda x, p, on: functional.scaled_dot_product_attention(x, x, x, dropout_p=p * on),
            lambda x, p, on: torch.nn.LSTM(4, 4, 2, dropout=p).train(on)(x)[0],
        ],
    )
    def test_dropout_that_is_active(self, drop, active, tmp_path):
        class Dropping(torch.nn.Module):
            def forward(self, x):
                return drop(x, 0.5, active)

        program = torch.export.export(Dropping(), (torch.ones(1, 2, 4),))
        torch.export.save(program, tmp_path / "m.pt2")
        if active:
            assert "export model.eval()" in problems_of(tmp_path / "m.pt2", tmp_path)
        else:
            SOURCE.read(str(tmp_path / "m.pt2"), str(tmp_path))

    def test_weights_without_values(self, tmp_path):
        with torch.device("meta"):
            program = torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),))
        torch.export.save(program, tmp_path / "m.pt2")
        assert "device meta" in problems_of(tmp_path / "m.pt2", tmp_path)

    def test_a_type_without_an_equivalent(self, tmp_path):
        program = torch.export.export(torch.nn.Identity(), (torch.ones(2, dtype=torch.bfloat16),))
        torch.export.save(program, tmp_path / "m.pt2")
        assert "bfloat16" in problems_of(tmp_path / "m.pt2", tmp_path)

    def test_files_of_other_kinds_by_their_content(self, tmp_path):
        layer = torch.nn.Linear(2, 2)
        with pt2.quiet():
            scripted = torch.jit.trace(layer, torch.ones(1, 2))
            scripted.save(str(tmp_path / "script.pt"))
            scripted._save_for_lite_interpreter(str(tmp_path / "mobile.ptl"))
        torch.save(layer.state_dict(), tmp_path / "weights.pth")
        torch.save(layer, tmp_path / "module.pt")
        torch.save(layer, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        torch.save({"options": Namespace(), **layer.state_dict()}, tmp_path / "checkpoint.pth")
        (tmp_path / "text.pt2").write_text("not a model")
        expected = {
            "script.pt": "TorchScript", "mobile.ptl": "PyTorch Mobile", "old.pt": "a pickle of",
            "weights.pth": "weights alone", "module.pt": "torch.nn.modules.linear.Linear",
            "text.pt2": "neither an archive", "checkpoint.pth": "objects (argparse.Namespace)",
        }  # fmt: skip
        for name, words in expected.items():
            text = problems_of(tmp_path / name, tmp_path)
            assert words in text
            assert "torch.export.save(torch.export.export(model.eval()" in text

    def test_pickles_are_not_executed(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        torch.save(Bomb(), tmp_path / "bomb.pt")
        problems_of(tmp_path / "bomb.pt", tmp_path)
        assert not (tmp_path / "ran").exists()

    def test_a_damaged_program(self, tmp_path, read):
        data = Path(read("two").path).read_bytes()
        (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
        problems_of(tmp_path / "cut.pt2", tmp_path)

    def test_a_program_of_another_version_of_torch(self, tmp_path, read):
        path = edited(read("two").path, tmp_path / "newer.pt2", {
            '"major": 8': '"major": 99',
            f'"torch_version": "{torch.__version__}"': '"torch_version": "9.9.1"',
        })  # fmt: skip
        assert "what torch 9.9.1 wrote" in problems_of(path, tmp_path)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="what is on a GPU can be loaded here")
    def test_a_program_on_a_gpu(self, tmp_path, read):
        path = edited(read("two").path, tmp_path / "gpu.pt2", {'"cpu"': '"cuda"'})
        assert "model.cpu()" in problems_of(path, tmp_path)

    def test_a_program_under_another_suffix(self, tmp_path, read):
        (tmp_path / "program.pt").write_bytes(Path(read("two").path).read_bytes())
        assert SOURCE.read(str(tmp_path / "program.pt"), str(tmp_path)).inputs


def edited(source, target, swaps):
    """A copy of a program, with other text in its descriptions."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".json"):
                text = json.dumps(json.loads(data))
                for before, after in swaps.items():
                    text = text.replace(before, after)
                data = text.encode()
            new.writestr(name, data)
    return target


class TestToOnnx:
    @pytest.mark.parametrize("name", [*models(*QUICK, "cnn", "encoder"), *ODD])
    def test_outputs_are_eager_pytorchs(self, name, read, tmp_path):
        program = read(name)
        made = TO_ONNX.convert(asked(program), str(tmp_path))
        assert made.ports is None
        assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
        assert testing_models.model_specs(onnx.load(made.path)) == (
            program.inputs, program.outputs,
        )  # fmt: skip
        for batch in (1, 3):
            feed = feed_of(program.inputs, batch)
            assert_near(by_onnxruntime(made.path, feed), eager(program, feed))

    def test_the_same_file_twice(self, read, tmp_path):
        files = []
        for folder in (tmp_path / "a", tmp_path / "b"):
            folder.mkdir()
            made = TO_ONNX.convert(asked(read("two")), str(folder))
            files.append(Path(made.path).read_bytes())
        assert files[0] == files[1]

    def test_weights_beyond_protobufs_limit_lie_beside(self, read, tmp_path, monkeypatch):
        monkeypatch.setattr(torch_to_onnx, "_MOST_BYTES", 10)
        program = read("two")
        (tmp_path / "onnx").mkdir()
        (tmp_path / "back").mkdir()
        made = TO_ONNX.convert(asked(program), str(tmp_path / "onnx"))
        assert {file.name for file in (tmp_path / "onnx").iterdir()} == {
            "model.onnx", "model.onnx.data",
        }  # fmt: skip
        feed = feed_of(program.inputs, 3)
        assert_near(by_onnxruntime(made.path, feed), eager(program, feed))
        request = request_of(made.path, program.inputs, program.outputs)
        assert TO_TORCH.convert(request, str(tmp_path / "back")).ports

    def test_nothing_is_printed(self, read, tmp_path, capfd):
        TO_ONNX.convert(asked(read("two")), str(tmp_path))
        assert capfd.readouterr().out == ""

    def test_an_operator_without_onnx_is_named(self, read, tmp_path):
        with pytest.raises(UnsupportedError, match="bessel_j0"):
            TO_ONNX.convert(asked(read("windowed")), str(tmp_path))

    def test_other_outputs_are_an_error(self, read, tmp_path, monkeypatch):
        real = pt2.original
        monkeypatch.setattr(
            pt2, "original", lambda *given: [{k: v + 1 for k, v in f.items()} for f in real(*given)]
        )
        with pytest.raises(BackendError, match="other outputs than PyTorch"):
            TO_ONNX.convert(asked(read("two")), str(tmp_path))

    def test_the_users_samples_are_what_is_compared(self, read, tmp_path, monkeypatch):
        program = read("two")
        sample = feed_of(program.inputs, 4)
        compared = []
        real = pt2.original
        monkeypatch.setattr(
            pt2, "original", lambda *given: compared.append(given[2]) or real(*given)
        )
        TO_ONNX.convert(asked(program, samples=(sample,)), str(tmp_path))
        assert compared == [(sample,)]

    def test_scalars_pass(self, tmp_path):
        class Doubled(torch.nn.Module):
            def forward(self, x):
                return x * 2

        torch.export.save(torch.export.export(Doubled(), (torch.tensor(1.5),)), tmp_path / "m.pt2")
        program = SOURCE.read(str(tmp_path / "m.pt2"), str(tmp_path))
        assert program.inputs[0].shape == ()
        TO_ONNX.convert(asked(program), str(tmp_path))

    @pytest.mark.parametrize(
        ("between", "kind", "says"),
        [
            (
                "Error when translating node %a : call[target=torch.ops.aten.sort.stable](",
                UnsupportedError,
                "can't translate aten.sort.stable: KeyError: 'axis'",
            ),
            ("\x1b[96mstep 2/3\x1b[0m", BackendError, "failed: KeyError: 'axis'"),
        ],
    )
    def test_the_first_of_the_exporters_faults_is_told(
        self, between, kind, says, read, tmp_path, monkeypatch
    ):
        def failing(*_: object, **__):
            outer = RuntimeError("Failed to convert. \x1b[96mThis is step 3/3\x1b[0m")
            outer.__cause__ = ValueError(between)
            outer.__cause__.__cause__ = KeyError("axis")
            raise outer

        monkeypatch.setattr(torch.onnx, "export", failing)
        with pytest.raises(BackendError) as caught:
            TO_ONNX.convert(asked(read("two")), str(tmp_path))
        assert type(caught.value) is kind
        assert str(caught.value) == f"torch.onnx.export {says}"


class TestMemory:
    """What lacked memory is told as that, wherever it did."""

    @pytest.mark.parametrize(
        "fault",
        [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")],
    )
    @pytest.mark.parametrize(
        ("where", "convert"),
        [
            ("export.load", lambda given, to: TO_ONNX.convert(asked(given), to)),
            ("onnx.export", lambda given, to: TO_ONNX.convert(asked(given), to)),
            ("export.export", lambda _, to: SOURCE.read("programs:two", to)),
            ("export.save", lambda _, to: SOURCE.read("programs:two", to)),
            ("export.load", lambda given, to: SOURCE.read(given.path, to)),
            ("export.export", lambda _, to: TO_TORCH.convert(relu_of(Path(to)), to)),
        ],
    )
    def test_it_stays_what_it_is(self, where, convert, fault, read, tmp_path, monkeypatch):
        program = read("two")

        def failing(*_: object, **__):
            raise RuntimeError("something failed") from fault

        module, name = where.split(".")
        monkeypatch.setattr(getattr(torch, module), name, failing)
        with pytest.raises(OutOfMemoryError):
            convert(program, str(tmp_path))


class TestToTorch:
    @pytest.mark.parametrize("name", models(*QUICK, "cnn"))
    def test_there_and_back(self, name, read, tmp_path):
        program = read(name)
        (tmp_path / "onnx").mkdir()
        (tmp_path / "back").mkdir()
        there = TO_ONNX.convert(asked(program), str(tmp_path / "onnx"))
        request = request_of(there.path, program.inputs, program.outputs)
        back = TO_TORCH.convert(request, str(tmp_path / "back"))
        ports = back.ports
        assert tuple(port.spec for port in ports.inputs) == program.inputs
        assert tuple(port.spec for port in ports.outputs) == program.outputs
        made = pt2.load(back.path)
        for batch in (1, 3):
            feed = feed_of(program.inputs, batch)
            assert_near(pt2.original(made, ports, [feed])[0], eager(program, feed))

    @pytest.mark.parametrize("name", testing_models.MODELS)
    def test_the_contracts_models(self, name, tmp_path):
        model = testing_models.MODELS[name]()
        inputs, outputs = testing_models.model_specs(model)
        onnx.save(model, tmp_path / "m.onnx")
        made = TO_TORCH.convert(request_of(tmp_path / "m.onnx", inputs, outputs), str(tmp_path))
        assert tuple(port.spec for port in made.ports.inputs) == inputs
        feed = feed_of(inputs, 5)
        wanted = by_onnxruntime(tmp_path / "m.onnx", feed)
        assert_near(pt2.original(pt2.load(made.path), made.ports, [feed])[0], wanted)

    def test_an_unknown_operator_is_named(self, tmp_path):
        node = onnx.helper.make_node("FancyOp", ["x"], ["y"], domain="acme")
        save(tmp_path / "m.onnx", [node], {"x": ["batch", 2]}, {"y": ["batch", 2]}, domain="acme")
        specs = (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("b", 2)),)
        with pytest.raises(UnsupportedError, match=r"acme\.FancyOp"):
            TO_TORCH.convert(request_of(tmp_path / "m.onnx", *specs), str(tmp_path))

    @pytest.mark.parametrize(
        ("dtype", "says"),
        [("STRING", "Cast: .*dtype: 8"), ("FLOAT8E4M3FN", "Cast: .*FLOAT8E4M3FN")],
    )
    def test_what_it_lacks_of_an_operator_is_named(self, dtype, says, tmp_path):
        nodes = [
            onnx.helper.make_node("Cast", ["x"], ["s"], to=getattr(onnx.TensorProto, dtype)),
            onnx.helper.make_node("Cast", ["s"], ["y"], to=onnx.TensorProto.FLOAT),
        ]
        save(tmp_path / "m.onnx", nodes, {"x": ["batch", 2]}, {"y": ["batch", 2]}, opset=19)
        specs = tuple((TensorSpec(name, "float32", ("batch", 2)),) for name in ("x", "y"))
        with pytest.raises(UnsupportedError, match=says):
            TO_TORCH.convert(request_of(tmp_path / "m.onnx", *specs), str(tmp_path))

    def test_what_fails_without_a_batch_is_told(self, tmp_path, monkeypatch):
        def failing(_torch, _model, _feed, batched):
            raise ValueError("the batch" if batched else "the reason")

        def missing(*_: object):
            raise NotImplementedError("no such pooling")

        request = relu_of(tmp_path)
        monkeypatch.setattr(onnx_to_torch, "_exported", failing)
        monkeypatch.setattr(onnx_to_torch, "_traced", missing)
        with pytest.raises(BackendError, match="onnx2fx: the reason"):
            TO_TORCH.convert(request, str(tmp_path))
        monkeypatch.setattr(onnx_to_torch, "_exported", missing)
        with pytest.raises(UnsupportedError, match="onnx2fx: no such pooling"):
            TO_TORCH.convert(request, str(tmp_path))

    def test_an_invalid_model_is_refused_first(self, tmp_path):
        node = onnx.helper.make_node("Relu", ["absent"], ["y"])
        save(tmp_path / "m.onnx", [node], {"x": ["batch", 2]}, {"y": ["batch", 2]})
        specs = (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("b", 2)),)
        with pytest.raises(BackendError, match="no valid ONNX"):
            TO_TORCH.convert(request_of(tmp_path / "m.onnx", *specs), str(tmp_path))

    def test_constants_that_are_told_apart_by_a_dot(self, tmp_path):
        nodes = [
            onnx.helper.make_node("Add", ["x", "a.b"], ["s"]),
            onnx.helper.make_node("Mul", ["s", "a_b"], ["y"]),
        ]
        weights = {"a.b": np.float32([1, 2]), "a_b": np.float32([3, 4])}
        save(tmp_path / "m.onnx", nodes, {"x": ["batch", 2]}, {"y": ["batch", 2]}, weights)
        specs = tuple((TensorSpec(name, "float32", ("batch", 2)),) for name in ("x", "y"))
        made = TO_TORCH.convert(request_of(tmp_path / "m.onnx", *specs), str(tmp_path))
        got = pt2.original(pt2.load(made.path), made.ports, [{"x": np.float32([[1, 1]])}])[0]
        assert got["y"].tolist() == [[6.0, 12.0]]

    def test_constants_that_are_inputs_as_in_old_files(self, tmp_path):
        node = onnx.helper.make_node("Add", ["x", "1"], ["y"])
        shapes = {"x": ["batch", 2], "1": [2]}
        save(tmp_path / "m.onnx", [node], shapes, {"y": ["batch", 2]}, {"1": np.float32([3, 4])})
        specs = tuple((TensorSpec(name, "float32", ("batch", 2)),) for name in ("x", "y"))
        made = TO_TORCH.convert(request_of(tmp_path / "m.onnx", *specs), str(tmp_path))
        got = pt2.original(pt2.load(made.path), made.ports, [{"x": np.float32([[1, 1]])}])[0]
        assert got["y"].tolist() == [[4.0, 5.0]]

    def test_other_open_axes_are_fixed_and_told(self, tmp_path):
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        save(tmp_path / "m.onnx", [node], {"x": ["batch", "time"]}, {"y": ["batch", "time"]})
        inputs = (TensorSpec("x", "float32", ("batch", "time")),)
        outputs = (TensorSpec("y", "float32", ("batch", "time")),)
        request = ConvertRequest(str(tmp_path / "m.onnx"), inputs, outputs, (("x", (1, 6)),))
        made = TO_TORCH.convert(request, str(tmp_path))
        assert made.ports.inputs[0].spec.shape == ("batch", 6)
        assert made.ports.outputs[0].spec.shape == ("batch", 6)
        assert "fixed: x: float32[batch, 6]" in made.notes[-1]


def relu_of(folder):
    """A request for an ONNX file of a single node."""
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    save(folder / "m.onnx", [node], {"x": ["batch", 2]}, {"y": ["batch", 2]})
    specs = tuple((TensorSpec(name, "float32", ("batch", 2)),) for name in ("x", "y"))
    return request_of(folder / "m.onnx", *specs)


def save(path, nodes, inputs, outputs, weights=None, domain="", opset=17):
    """An ONNX file of float32 values."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes, "g",
        *(
            [helper.make_tensor_value_info(n, 1, dims) for n, dims in values.items()]
            for values in (inputs, outputs)
        ),
        [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


class TestToTflite:
    @pytest.mark.parametrize("name", models(*QUICK))
    def test_outputs_are_eager_pytorchs(self, name, read, tmp_path, capfd):
        pytest.importorskip("litert_torch")
        program = read(name)
        made = TO_TFLITE.convert(asked(program), str(tmp_path))
        assert capfd.readouterr().out == ""
        assert [port.spec.name for port in made.ports.inputs] == [
            spec.name for spec in program.inputs
        ]
        feed = feed_of(program.inputs, 1)
        assert_near(by_litert(made, feed), eager(program, feed))
        narrow = {"int64": "int32"}
        for port in made.ports.inputs:
            assert port.dtype == narrow.get(port.spec.dtype, port.spec.dtype)

    @pytest.fixture
    def open_program(self, tmp_path):
        """One that litert-torch keeps open, beside an input that is fixed and one without axes."""
        pytest.importorskip("litert_torch")
        dim = torch.export.Dim("batch", min=1, max=64)
        with pt2.quiet():
            made = torch.export.export(
                _Product(), (torch.ones(2, 3), torch.ones(3, 3), torch.tensor(2.0)),
                dynamic_shapes=({0: dim}, None, None),
            )  # fmt: skip
            torch.export.save(made, tmp_path / "m.pt2")
        return SOURCE.read(str(tmp_path / "m.pt2"), str(tmp_path))

    def test_a_batch_stays_open_beside_inputs_that_have_none(self, open_program, tmp_path):
        made = TO_TFLITE.convert(asked(open_program), str(tmp_path))
        assert [port.spec for port in made.ports.inputs] == list(open_program.inputs)

    def test_where_opening_fails_in_any_way_it_is_fixed(self, open_program, tmp_path, monkeypatch):
        real = pt2.original

        def failing_at_three(program, given, feeds):
            if len(feeds) == 3:  # two samples, and two together
                raise AssertionError("Guard failed")
            return real(program, given, feeds)

        monkeypatch.setattr(pt2, "original", failing_at_three)
        made = TO_TFLITE.convert(asked(open_program), str(tmp_path))
        assert [port.spec.shape for port in made.ports.inputs] == [(1, 3), (3, 3), ()]
        assert made.notes[-1] == "litert-torch: axes that were open are fixed: x: float32[1, 3]"

    def test_an_operator_without_a_lowering_is_named(self, read, tmp_path):
        pytest.importorskip("litert_torch")
        with pytest.raises(UnsupportedError, match="bessel_j0"):
            TO_TFLITE.convert(asked(read("windowed")), str(tmp_path))


def by_litert(made, feed):
    """What the vendor's interpreter gives, called by hand."""
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreters.Interpreter(model_path=made.path)
    interpreter.allocate_tensors()
    for detail, port in zip(interpreter.get_input_details(), made.ports.inputs, strict=True):
        interpreter.set_tensor(detail["index"], feed[port.spec.name].astype(port.dtype))
    interpreter.invoke()
    results = interpreter.get_output_details()
    return {
        port.spec.name: interpreter.get_tensor(detail["index"]).astype(port.spec.dtype)
        for detail, port in zip(results, made.ports.outputs, strict=True)
    }
