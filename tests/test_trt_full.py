"""What full TensorRT has and RTX hasn't: calibrators, timing caches, on a fake of its builder."""

from __future__ import annotations

import contextlib
import sys
import types
from pathlib import Path
from typing import Any

import fake_builder
import numpy as np
import pytest
from trt_builds import CUDA35, request

from backends import enginefile
from backends.trt import (
    BACKEND,
    calibrator,
    cuda,
    gpu,
    library,
    timing,
)
from backends.trt import build as building
from backends.trt.about import CALIBRATION, ENGINE, About
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError
from harness.testing_models import (
    MemoryCalibration,
)
from harness.types import Precision, ShapeRange, TensorSpec

# --- calibration and timing caches -----------------------------------------------------------


class Base:
    """What TensorRT's calibrators look like to a subclass."""

    def __init__(self) -> None:
        self.ready = True


def up_to(most: int, names: str = "x") -> tuple[tuple[ShapeRange, ...], ...]:
    """A profile whose first axis goes so far."""
    return (tuple(ShapeRange(name, (1, 2), (1, 2), (most, 2)) for name in names),)


def test_a_calibrator_feeds_batches_and_keeps_its_cache(tmp_path):
    samples = [{"x": np.full((1, 2), value, np.float32)} for value in range(20)]
    found = calibrator.batches(
        MemoryCalibration(samples), (TensorSpec("x", "float32", ("batch", 2)),), up_to(64)
    )
    assert (found.batch, found.count, found.skipped) == (5, 20, 0)
    assert found.profile() == (ShapeRange("x", (5, 2), (5, 2), (5, 2)),)
    sent: list[np.ndarray[Any, Any]] = []

    def upload(_name: str, array: np.ndarray[Any, Any]) -> int:
        sent.append(array)
        return 4096

    cache = tmp_path / CALIBRATION
    made = calibrator.make_calibrator(Base, found.feeds(), found.batch, upload, cache)
    assert made.ready
    assert made.get_batch_size() == 5
    assert made.read_calibration_cache() is None
    given = [made.get_batch(["x"]) for _ in range(6)]
    assert given == [[4096]] * 4 + [None] * 2
    assert np.concatenate(sent)[:, 0].tolist() == list(range(20))
    made.write_calibration_cache(memoryview(b"scales"))
    assert made.read_calibration_cache() == cache.read_bytes() == b"scales"
    assert made.fault is None


def test_samples_of_other_shapes_and_models_of_a_fixed_batch_are_calibrated_one_by_one():
    shapes = [(1, 2), (1, 3), (1, 2)]
    samples = MemoryCalibration([{"x": np.zeros(shape, np.float32)} for shape in shapes])
    found = calibrator.batches(samples, (TensorSpec("x", "float32", (1, "length")),), ())
    assert (found.batch, found.count, found.skipped) == (1, 2, 1)
    assert [feed["x"].shape for feed in found.feeds()] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("axes", "lead", "count", "most", "batch"),
    [
        (("n", "n"), 1, 16, 64, 8),
        ((None,), 1, 16, 64, 8),
        (("n",), 1, 16, 4, 4),
        (("n",), 1, 15, 64, 5),
        (("n",), 1, 11, 64, 1),
        (("length",), 7, 16, 64, 1),
        (("n", "m"), 1, 16, 64, 1),
        ((None, None), 1, 16, 64, 1),
        (("n", 1), 1, 16, 64, 1),
    ],
)
def test_samples_are_batched_along_one_shared_axis_without_losing_any(
    axes, lead, count, most, batch
):
    names = "xy"[: len(axes)]
    samples = [{name: np.full((lead, 2), at, np.float32) for name in names} for at in range(count)]
    inputs = [TensorSpec(name, "float32", (axis, 2)) for name, axis in zip(names, axes)]
    found = calibrator.batches(MemoryCalibration(samples), inputs, up_to(2, names) + up_to(most))
    assert (found.batch, found.count, found.skipped) == (batch, count, 0)
    fed = np.concatenate([feed["x"] for feed in found.feeds()])
    assert fed[::lead, 0].tolist() == list(range(count))


def test_calibration_without_samples_is_told():
    for nothing in (None, MemoryCalibration([])):
        with pytest.raises(BackendError, match="needs samples"):
            calibrator.batches(nothing, (), ())


def test_a_fault_while_feeding_is_kept_for_the_builder(tmp_path):
    def upload(_name: str, _array: Any) -> int:
        raise OutOfMemoryError("no memory there")

    feeds = iter([{"x": np.zeros(1)}])
    made = calibrator.make_calibrator(Base, feeds, 1, upload, tmp_path / "cache")
    assert made.get_batch(["x"]) is None
    assert isinstance(made.fault, OutOfMemoryError)


def test_uploads_use_their_memory_again_where_it_suffices():
    done: list[tuple[Any, ...]] = []

    class Device:
        def allocate(self, size: int) -> int:
            done.append(("allocate", size))
            return 1000 + size

        def free(self, address: int) -> None:
            done.append(("free", address))

        def upload(self, address: int, _array: Any) -> None:
            done.append(("upload", address))

    device: Any = Device()
    uploads = gpu.Uploads(device)
    addresses = [uploads.upload("x", np.zeros(size, np.uint8)) for size in (8, 4, 16)]
    assert addresses == [1008, 1008, 1016]
    assert done == [
        *[("allocate", 8), ("upload", 1008), ("upload", 1008)],
        *[("free", 1008), ("allocate", 16), ("upload", 1016)],
    ]


@pytest.mark.parametrize(
    ("gpus", "problem", "fix"),
    [
        (UnavailableError("no driver", cuda.DRIVER), "no driver", "--compute-capability"),
        (UnavailableError("not installed", "pip install x"), "not installed", "pip install x"),
        (RuntimeError("broken"), "broken", "--compute-capability"),
        ((), "sees no GPU", "--compute-capability"),
        ((cuda.Gpu(0, "NVIDIA L4", "8.9", 1),), None, None),
    ],
)
def test_the_probe_lists_gpus_or_says_what_is_missing(monkeypatch, gpus, problem, fix):
    def listed() -> Any:
        if isinstance(gpus, Exception):
            raise gpus
        return gpus

    monkeypatch.setattr(cuda, "gpus", listed)
    monkeypatch.setattr(cuda, "driver_version", lambda: "13.0")
    probe = gpu.probe("tensorrt", library.Library("tensorrt", None, "10.3.0"))
    assert probe.problem is None if problem is None else problem in str(probe.problem)
    assert probe.fix is None if fix is None else fix in str(probe.fix)
    if problem is None:
        assert ("cuda", "13.0") in probe.versions
        assert [(each.id, each.name) for each in probe.devices] == [("gpu:0", "NVIDIA L4 (8.9)")]
        assert Precision.FP8 in probe.devices[0].precisions


def test_a_gpu_that_isnt_here_is_told_with_those_that_are(monkeypatch):
    monkeypatch.setattr(cuda, "gpus", lambda: (cuda.Gpu(0, "NVIDIA L4", "8.9", 1),))
    assert gpu.place("gpu:0", None).gpu == "NVIDIA L4 8.9"
    with pytest.raises(UnavailableError, match=r"no such GPU here \(there are: gpu:0\)"):
        gpu.place("gpu:1", None)


class FakeTimings:
    """A builder's configuration, as far as timing caches go. It takes what starts with ``good``."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes, _ignore: bool) -> bool:
        if cache and not cache.startswith(b"good"):
            return False
        self.content = cache
        return True

    def get_timing_cache(self) -> Any:
        content = self.content or b""
        return types.SimpleNamespace(serialize=lambda: content + b"good")


@pytest.mark.parametrize(
    ("known", "used"),
    [(None, False), (b"damaged", False), (b"other device", False), (b"good", True)],
)
def test_measurements_of_kernels_are_kept_and_damaged_ones_left_aside(tmp_path, known, used):
    file = tmp_path / "deep" / "a.timing"
    if known is not None:
        file.parent.mkdir()
        file.write_bytes(known)
    config: Any = FakeTimings()
    assert timing.use(config, file) is used
    timing.keep(config, file)
    assert file.read_bytes() == (b"goodgood" if used else b"good")
    assert [path.name for path in file.parent.iterdir()] == ["a.timing"]


def test_measurements_are_kept_per_library_version_and_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGINEPICK_CACHE", str(tmp_path))
    found = library.Library("tensorrt", None, "10.3.0")
    path = timing.file_for(found, "NVIDIA L4 8.9")
    assert path == tmp_path / "tensorrt" / "tensorrt-10.3.0-nvidia-l4-8.9.timing"


# --- full TensorRT, of which the fake has the builder ------------------------------------------


class Here:
    """Memory of a GPU: it counts what is copied there."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def upload(self, _name: str, array: np.ndarray[Any, Any]) -> int:
        self.shapes.append(array.shape)
        return 4096


@pytest.fixture
def full(monkeypatch, tmp_path):
    """Build with a TensorRT of a version on a GPU that is here, both made up."""
    memory = Here()

    @contextlib.contextmanager
    def current(_place: gpu.Place) -> Any:
        yield memory

    monkeypatch.setenv("ENGINEPICK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu.Place, "current", current)
    there = gpu.Place("8.9", 0, "NVIDIA L4 8.9", "570.10")
    monkeypatch.setattr(building, "place", lambda _device, _capability: there)
    (tmp_path / "engine").mkdir()
    (tmp_path / "model.onnx").touch()

    def build(version: str = "10.3.0", fails: tuple[str, ...] = (), **changes: Any) -> Any:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_builder.module(version, fails))
        profile = (ShapeRange("x", (1, 2), (4, 2), (8, 2)),)
        asked = {"compute_capability": None, "options": (), "profiles": (profile,), **changes}
        engine = BACKEND.build(
            request(str(tmp_path / "model.onnx"), **asked), str(tmp_path / "engine")
        )
        return engine, enginefile.beside(About, engine), fake_builder.Builder.made, memory

    return build


def samples(count: int = 20) -> MemoryCalibration:
    return MemoryCalibration([{"x": np.zeros((1, 2), np.float32)}] * count)


@pytest.mark.parametrize(
    ("recipe", "base", "mode"),
    [
        ("implicit-entropy", "Entropy", "implicit, INT8+FP16, entropy calibrator"),
        ("implicit-minmax", "MinMax", "implicit, INT8+FP16, minmax calibrator"),
    ],
)
def test_tensorrt_10_calibrates_by_the_users_batches(full, recipe, base, mode):
    engine, about, builder, memory = full(
        precision=Precision.INT8, recipe=recipe, calibration=samples()
    )
    config = builder.config
    assert builder.network.flags == 0
    assert config.flags == {fake_builder.Flags.INT8, fake_builder.Flags.FP16}
    assert base in [each.__name__ for each in type(config.int8_calibrator).__mro__]
    assert config.calibration_profile.shapes == {"x": ((5, 2), (5, 2), (5, 2))}
    assert [each.shapes for each in config.profiles] == [{"x": ((1, 2), (4, 2), (8, 2))}]
    assert builder.batches == 4
    assert memory.shapes == [(5, 2)] * 4
    assert about.mode == mode
    assert engine.files == (ENGINE, enginefile.FILE, CALIBRATION)
    assert Path(engine.path).with_name(CALIBRATION).read_bytes() == b"scales"
    assert "calibrated by 20 samples in batches of 5" in engine.notes


def test_tensorrt_10_chooses_halves_by_a_flag(full):
    _, about, builder, _ = full(precision=Precision.FP16, recipe="implicit")
    assert builder.config.flags == {fake_builder.Flags.FP16}
    assert about.mode == "implicit, FP16"


def test_other_recipes_are_strongly_typed_and_tf32_is_off_unless_asked(full):
    _, about, builder, _ = full("11.4.0.106")
    assert builder.network.flags == 2
    assert builder.config.flags == set()
    assert (about.library, about.version, about.driver) == ("tensorrt", "11.4.0.106", "570.10")
    _, about, builder, _ = full(precision=Precision.TF32)
    assert builder.config.flags == {fake_builder.Flags.TF32}
    assert about.tf32


def test_options_and_earlier_measurements_reach_the_builder(full, tmp_path):
    given = (("optimization-level", "5"), ("workspace", "1GB"))
    full(options=given)
    engine, _, builder, _ = full(options=given)
    assert builder.config.builder_optimization_level == 5
    assert builder.config.pools == {"workspace": 10**9}
    assert builder.config.timings == b"!"
    assert "timing cache of earlier builds" in engine.notes
    full(options=(("timing-cache", "off"),))
    assert fake_builder.Builder.made.config.timings is None
    file = tmp_path / "cache" / "tensorrt" / "tensorrt-10.3.0-nvidia-l4-8.9.timing"
    assert file.read_bytes() == b"!!"


def test_a_timing_cache_that_cannot_be_written_costs_no_build(full, tmp_path):
    (tmp_path / "cache").touch()  # where a folder should be
    engine, _, builder, _ = full()
    assert Path(engine.path).read_bytes() == b"plan"
    assert builder.config.timings == b""


def test_what_is_wrong_with_a_timing_cache_is_not_taken_for_the_builds_fault(full, tmp_path):
    file = tmp_path / "cache" / "tensorrt" / "tensorrt-10.3.0-nvidia-l4-8.9.timing"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"damaged")
    with pytest.raises(BackendError, match="the true reason"):
        full(fails=("Error Code 9: the true reason",))


def test_a_fault_while_calibrating_is_the_builds(full, monkeypatch):
    def upload(_self: Here, _name: str, _array: Any) -> int:
        raise OutOfMemoryError("no memory there")

    monkeypatch.setattr(Here, "upload", upload)
    with pytest.raises(OutOfMemoryError, match="no memory there"):
        full(precision=Precision.INT8, recipe="implicit-minmax", calibration=samples())


def test_a_build_that_fails_says_tensorrts_first_line(full):
    lines = (
        f"Error Code 1: Cuda Runtime {CUDA35}",
        "Error Code 10: Could not find any implementation for node conv_1.\nIn build at x.cpp",
        "Error Code 2: echo",
    )
    with pytest.raises(UnsupportedError) as caught:
        full(fails=lines)
    assert str(caught.value) == "Error Code 10: Could not find any implementation for node conv_1."


def test_memory_that_the_builder_lacks_is_told_as_that(full):
    with pytest.raises(OutOfMemoryError, match="OutOfMemory"):
        full(fails=("Error Code 2: OutOfMemory (Requested size was 99 bytes.)",))
