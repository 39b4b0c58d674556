"""Whether int8 products saturate: seen by running some, and what follows from it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from harness import datasets, jobs, prepare, saturation, variants
from harness import testing_models as models
from harness.build import Builder
from harness.cache import Cache
from harness.host import probe_host
from harness.setup import Setup
from harness.types import Candidate, Executed, Precision, Share, Stage, Status
from harness.variants import probe

BACKENDS = ("onnxruntime", "openvino")
INT8 = Executed((Share("cpu", 2),), (Share("fp32", 1), Share("int8", 1)))
FP32 = Executed((Share("cpu", 2),), (Share("fp32", 2),))


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A run of a tiny model on both runtimes."""
    folder = tmp_path_factory.mktemp("setup")
    onnx.save(models.conv_model(), folder / "model.onnx")
    inputs, _ = models.model_specs(str(folder / "model.onnx"))
    samples = [models.random_feed(inputs, seed=seed)["image"][0] for seed in range(8)]
    np.savez(folder / "data.npz", image=np.stack(samples))
    data = datasets.resolve(str(folder / "data.npz"))
    homes = {name: prepare.find_home(name, {}) for name in BACKENDS}
    known = {name: home for name, home in homes.items() if home is not None}
    return Setup(
        model=str(folder / "model.onnx"),
        model_sha256=datasets.resolve(str(folder / "data.npz")).sha256,
        inputs=inputs,
        validation=jobs.Samples(data, "all", 0, 0),
        calibration=jobs.Samples(data, "all", 0, 0),
        homes=known,
        probes={name: prepare.ask_probe(name, home) for name, home in known.items()},
        isa=frozenset(probe_host().cpu.isa),
        timeout_s=60.0,
    )


def test_the_probe_is_exact_by_the_definition_of_its_operators(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    variants.make(variants.Recipe(variants.PROBE), "", str(tmp_path / "probe.onnx"), None)
    model = onnx.load(tmp_path / "probe.onnx")
    model.opset_import[0].version = 19  # the evaluator knows no older ones; the same for int8
    evaluator = ReferenceEvaluator(model)
    got = dict(zip(evaluator.output_names, evaluator.run(None, dict(probe.FEED)), strict=True))
    for name, exact in probe.EXACT.items():
        np.testing.assert_allclose(got[name], exact, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_runtime_is_asked_once_on_this_host(
    backend: str, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    found = saturation.find(setup, backend, "cpu", cache)
    assert found is not None
    if setup.isa & {"avx512_vnni", "amx_int8"}:
        assert found is False
    monkeypatch.setattr(saturation, "_ask", lambda *_: pytest.fail("asked again"))
    assert saturation.find(setup, backend, "cpu", cache) is found


def test_kernels_that_saturate_are_found(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's kernels for AVX2 do, on any x86 CPU."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip("oneDNN's switch is for x86")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    if not saturation.find(setup, "openvino", "cpu", Cache(tmp_path)):
        pytest.skip("this build of OpenVINO takes no notice of oneDNN's switch")
    builder = Builder(setup, Cache(tmp_path))
    nncf = builder.make(Candidate("openvino", Precision.INT8, "nncf", "cpu")).record
    assert ("saturates", "yes") in nncf.recipe_parameters
    assert "nncf overflow fix on" in nncf.notes
    # One file for all: what one runtime needs, the other takes along.
    portable = builder.make(Candidate("onnxruntime", Precision.INT8, "qdq-portable", "cpu")).record
    assert ("reduce_range", "yes") in portable.recipe_parameters


def finished(output_error: float | None, executed: Executed | None = INT8) -> jobs.Finished:
    return jobs.Finished(None, None, None, output_error, executed, None, ())


@pytest.mark.parametrize(
    ("answer", "saturates"),
    [
        (finished(0.0), False),
        (finished(0.004), False),
        (finished(0.494), True),
        (finished(0.12), None),  # neither exact nor half
        (finished(0.0, FP32), None),  # not in int8, so it proves nothing
        (finished(0.0, None), None),
        (finished(None), None),
        (finished(float("inf")), True),
        (None, None),
    ],
)
def test_what_a_run_of_the_probe_tells(
    answer: jobs.Finished | None, saturates: bool | None
) -> None:
    assert saturation.judge(answer) is saturates


def test_a_backend_that_can_not_run_the_probe_tells_nothing(setup: Setup, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert saturation.find(setup, "onnxruntime", "gpu:7", cache) is None
    assert not cache.entries()  # it may be able to another time


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Fix what is seen of each runtime; who was asked."""

    def fix(**seen: bool | None) -> list[str]:
        asked: list[str] = []

        def find(_: Any, backend: str, *__: Any) -> bool | None:
            asked.append(backend)
            return seen[backend]

        monkeypatch.setattr(saturation, "find", find)
        return asked

    return fix


@pytest.mark.parametrize(
    ("seen", "reduced", "note"),
    [
        (True, "yes", "int8 products saturate here (measured): weights of 7 bits"),
        (False, "no", "int8 products are exact here (measured)"),
    ],
)
def test_what_was_seen_decides_the_weights_and_is_recorded(
    seen: bool,
    reduced: str,
    note: str,
    setup: Setup,
    told: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    told(onnxruntime=seen)
    candidate = Candidate("onnxruntime", Precision.INT8, "qdq", "cpu")
    for cached in (False, True):
        record = Builder(setup, Cache(tmp_path)).make(candidate).record
        assert record.ok
        assert record.cached == cached
        assert ("reduce_range", reduced) in record.recipe_parameters
        assert note in record.notes


def test_a_wish_that_can_not_be_met_is_a_record(setup: Setup, tmp_path: Path) -> None:
    wished = replace(setup, quantization=variants.Wishes(symmetric=False, reduce_range=False))
    candidate = Candidate("onnxruntime", Precision.INT8, "qdq-portable", "cpu")
    record = Builder(wished, Cache(tmp_path)).make(candidate).record
    assert (record.status, record.stage) == (Status.UNSUPPORTED, Stage.VARIANT)
    assert record.reason == "the recipe qdq-portable is symmetric: TensorRT takes no other"


def test_runtimes_are_asked_only_where_it_matters(
    setup: Setup, told: Callable[..., list[str]], tmp_path: Path
) -> None:
    asked = told(onnxruntime=False, openvino=None)
    builder = Builder(setup, Cache(tmp_path))
    for precision, recipe in ((Precision.FP32, "source"), (Precision.INT8_DYNAMIC, "dynamic")):
        builder.make(Candidate("onnxruntime", precision, recipe, "cpu"))
    assert asked == []
    wished = replace(setup, quantization=variants.Wishes(reduce_range=True))
    qdq = Candidate("onnxruntime", Precision.INT8, "qdq", "cpu")
    record = Builder(wished, Cache(tmp_path)).make(qdq).record
    assert asked == []
    assert ("reduce_range", "yes") in record.recipe_parameters
    for _ in range(2):
        builder.make(qdq)
    assert asked == ["onnxruntime"]
    builder.make(replace(qdq, recipe="qdq-portable"))
    assert asked == list(BACKENDS)
