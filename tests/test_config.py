from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tomllib
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from harness.config import (
    BuildConfig,
    Candidates,
    Constraints,
    Lab,
    Match,
    Measure,
    Shape,
    SweepConfig,
    Target,
    find_target,
    for_target,
    load_lab,
    load_sweep,
    merge,
    parse_duration,
    parse_latency,
    parse_size,
)
from harness.config_keys import list_keys
from harness.errors import InputError
from harness.host import Cpu, Gpu, Host
from harness.images import Preprocessing
from harness.types import ASKED, Precision
from harness.variants import Wishes

ROOT = Path(__file__).parent.parent
BASE: dict[str, object] = {"model": "m.onnx", "data": "d.npz"}


def sweep_file(folder: Path, text: str) -> Path:
    (folder / "m.onnx").touch()
    (folder / "d.npz").touch()
    file = folder / "sweep.toml"
    file.write_text(text if "data =" in text else f'model="m.onnx"\ndata="d.npz"\n{text}')
    return file


def problems_of(load: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        load()
    problems = {problem.where: problem.what for problem in caught.value.problems}
    assert len(problems) == len(caught.value.problems)
    return problems


def mistakes(folder: Path, text: str, load: Callable[[Path], object]) -> dict[str, str]:
    """Problems by key path, without the file's name."""
    file = sweep_file(folder, text)
    found = problems_of(lambda: load(file))
    assert all(where.startswith(str(file)) for where in found)
    return {where.removeprefix(f"{file}: "): what for where, what in found.items()}


def sweep_mistakes(folder: Path, text: str) -> dict[str, str]:
    return mistakes(folder, text, load_sweep)


def lab_mistakes(folder: Path, text: str) -> dict[str, str]:
    file = folder / "devices.toml"
    file.write_text(text)
    found = problems_of(lambda: load_lab(file))
    return {where.removeprefix(f"{file}: "): what for where, what in found.items()}


# Quantities


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m 5s", 5405.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        (" 5 M ", 300.0),
        ("0.25s", 0.25),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("5ms", 5_000_000),
        ("800us", 800_000),
        ("800\u00b5s", 800_000),
        ("800\u03bcs", 800_000),
        ("0.5s", 500_000_000),
        ("900ns", 900),
        ("1.5MS", 1_500_000),
        ("0.1ms", 100_000),
    ],
)
def test_latencies(text: str, ns: int) -> None:
    value = parse_latency(text)
    assert value == ns
    assert isinstance(value, int)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("200MB", 200_000_000),
        ("1GiB", 2**30),
        ("1.5 gib", 3 * 2**29),
        ("7B", 7),
        ("3kB", 3000),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("parse", [parse_duration, parse_latency, parse_size])
@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("-5s", "negative"),
        ("-1.5MB", "negative"),
        (-5, "negative"),
        ("5", "the unit is missing"),
        (5, "the unit is missing"),
        (2.5, "the unit is missing"),
        ("5 parsecs", '"parsecs" is no unit'),
        ("nan", 'found "nan"'),
        (float("nan"), "found nan"),
        (float("inf"), "found inf"),
        ("infs", 'found "infs"'),
        ("", 'found ""'),
        ("s", 'found "s"'),
        ("1e3s", 'found "1e3s"'),
        ("1_000s", "found"),
        ("5,5s", "found"),
        ("\u0665s", "found"),  # a digit, but not of ours
        ("9" * 50 + "s", "too large|no unit"),
        pytest.param("9" * 5000 + "s", "found", id="long"),
        pytest.param(10**5000, "beyond 64 bits", id="huge"),
        (True, "found true"),
        (None, "found"),
        (["5s"], "a list"),
        ("5s\n6s", "found"),
    ],
)
def test_not_quantities(parse: Callable[[object], float], value: object, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as caught:
        parse(value)
    assert "expected a" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("parse", "value", "hint"),
    [
        (parse_duration, "0s", "more than zero"),
        (parse_duration, "30m1h", "the largest first"),
        (parse_duration, "1h2h", "each unit once"),
        (parse_duration, "5ms", '"ms" is no unit'),
        (parse_duration, "300", 'try "300s"'),
        (parse_latency, "5", 'try "5ms"'),
        (parse_latency, "0ms", "more than zero"),
        (parse_latency, "0.1ns", "rounds to zero"),
        (parse_latency, "1s5ms", "expected a time"),
        (parse_latency, "5m", '"m" is no unit'),
        (parse_size, "200M", r"say MB \(powers of 1000\) or MiB \(powers of 1024\)"),
        (parse_size, "0.2B", "rounds to zero"),
        (parse_size, "200", 'try "200MB"'),
        (parse_size, "9999999999TB", "too large"),
    ],
)
def test_hints(parse: Callable[[object], float], value: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse(value)


@given(st.integers(1, 10**6), st.sampled_from(["ns", "us", "ms", "s"]))
def test_latencies_are_exact(amount: int, unit: str) -> None:
    scale = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}[unit]
    assert parse_latency(f"{amount}{unit}") == amount * scale


@pytest.mark.parametrize("parse", [parse_duration, parse_latency, parse_size])
@given(text=st.text() | st.from_regex(r"[0-9.]{1,9} ?[a-zA-Z]{1,3}", fullmatch=True))
def test_any_text_is_a_positive_amount_or_refused(
    parse: Callable[[object], float], text: str
) -> None:
    amount: float | None = None
    with contextlib.suppress(ValueError):
        amount = parse(text)
    assert amount is None or amount > 0


# sweep.toml


def test_defaults() -> None:
    config = load_sweep(None, BASE)
    assert config == SweepConfig(model="m.onnx", data="d.npz")
    assert (config.out, config.objective, config.seed) == ("results", "latency", 0)
    assert (config.budget_s, config.backends, config.precisions) == (None, (), ())
    assert config.constraints == Constraints()
    assert config.constraints.max_accuracy_drop == 0.01
    measure = config.measure
    assert (measure.rounds, measure.passes, measure.slice_ms) == (None, 4, 100)
    assert (measure.warmup_iterations, measure.warmup_cap_s) == (10, 10.0)
    assert (measure.calibration_samples, measure.validation_samples) == (128, None)
    assert (measure.timeout_s, measure.memory_limit_bytes) == (300.0, None)
    assert measure.live_memory_fraction == 0.6


FULL = """
model = "m.onnx"
data = "d.npz"
calibration = "package.module:function"
metric = "my.module:metric"
target = "nuc"
out = "kept"
backends = ["openvino", "onnxruntime", "openvino"]
precisions = ["fp32", "int8-dynamic"]
engines = ["m.engine", "m.engine"]
objective = "throughput"
budget = "1h30m"
sustain = "10m"
recover = "5m"
calibration_seeds = 4
seed = 7
[constraints]
max_accuracy_drop = 0
max_latency = "800us"
max_memory = "1GiB"
max_size = "200MB"
[candidates]
threads = [1, 2]
streams = [3]
batch = [4]
processes = [5]
in_flight = [6]
devices = ["cpu", "gpu:0", "hetero:gpu,cpu"]
[candidates.options.openvino]
ENABLE_CPU_PINNING = ["YES", "NO"]
PERFORMANCE_HINT = "LATENCY"
[measure]
rounds = 100
passes = 1
slice_ms = 50
warmup_iterations = 20
warmup_cap_s = 2.5
calibration_samples = 1
validation_samples = 500
timeout_s = 60
memory_limit = "4GB"
live_memory_fraction = 1
stop_early = "decided"
tail_cap_s = 0
allow_throttling = true
[quantization]
calibration = "percentile"
percentile = 99.9
per_channel = true
symmetric = false
reduce_range = true
include = ["Conv"]
exclude = ["Gemm", "a node, with a comma"]
block_size = 64
[python]
tensorrt = "venv/bin/python"
executorch = "python3.11"
[images]
scale = 255
mean = 0
std = [0.2, 0.3, 1]
resize = 256
interpolation = "bicubic"
crop = [224, 200]
channels = "bgr"
layout = "nhwc"
dtype = "float32"
classes = "classes.txt"
[state]
h_in = "h_out"
[shapes.NAME]
min = [1, 3]
opt = [4, 3]
max = [8, 3]
"""


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load_sweep(sweep_file(tmp_path, FULL))
    assert config == SweepConfig(
        model=str(tmp_path / "m.onnx"),
        data=str(tmp_path / "d.npz"),
        calibration="package.module:function",
        metric="my.module:metric",
        target="nuc",
        out=str(tmp_path / "kept"),
        backends=("openvino", "onnxruntime"),  # said twice is said once
        precisions=(Precision.FP32, Precision.INT8_DYNAMIC),
        engines=(str(tmp_path / "m.engine"),),
        objective="throughput",
        budget="1h30m",  # type: ignore[arg-type]
        sustain="10m",  # type: ignore[arg-type]
        recover="5m",  # type: ignore[arg-type]
        calibration_seeds=4,
        seed=7,
        constraints=config.constraints,
        candidates=Candidates(
            threads=(1, 2),
            streams=(3,),
            batch=(4,),
            processes=(5,),
            in_flight=(6,),
            devices=("cpu", "gpu:0", "hetero:gpu,cpu"),
            options={
                "openvino": {"ENABLE_CPU_PINNING": ("YES", "NO"), "PERFORMANCE_HINT": ("LATENCY",)}
            },
        ),
        measure=config.measure,
        quantization=config.quantization,
        images=config.images,
        state={"h_in": "h_out"},
        shapes={"NAME": Shape(min=(1, 3), opt=(4, 3), max=(8, 3))},
        python={"tensorrt": str(tmp_path / "venv/bin/python"), "executorch": "python3.11"},
    )
    assert config.images is not None
    assert config.images.preprocessing() == Preprocessing(
        scale=255.0,
        mean=(0.0,),
        std=(0.2, 0.3, 1.0),
        resize=(256,),
        interpolation="bicubic",
        crop=(224, 200),
        channels="bgr",
        layout="nhwc",
        dtype="float32",
        classes_file=str(tmp_path / "classes.txt"),
    )
    assert (config.budget_s, config.sustain_s) == (5400.0, 600.0)
    assert config.constraints.model_dump() == {
        "max_accuracy_drop": 0.0,
        "max_latency_ns": 800_000,
        "max_memory_bytes": 2**30,
        "max_size_bytes": 200_000_000,
    }
    assert config.measure.model_dump() == {
        "rounds": 100,
        "passes": 1,
        "slice_ms": 50,
        "warmup_iterations": 20,
        "warmup_cap_s": 2.5,
        "calibration_samples": 1,
        "validation_samples": 500,
        "timeout_s": 60.0,
        "memory_limit_bytes": 4_000_000_000,
        "live_memory_fraction": 1.0,
        "stop_early": "decided",
        "tail_cap_s": 0.0,
        "allow_throttling": True,
    }
    assert config.quantization.wishes() == Wishes(
        calibration="percentile",
        percentile=99.9,
        per_channel=True,
        symmetric=False,
        reduce_range=True,
        include=("Conv",),
        exclude=("Gemm", "a node, with a comma"),
        block_size=64,
    )


def test_full_example_has_every_key() -> None:
    assert keys_in(tomllib.loads(FULL)) >= fixed_keys(SweepConfig)


def test_json_gives_the_same_config_back(tmp_path: Path) -> None:
    for config in (load_sweep(sweep_file(tmp_path, FULL)), load_sweep(None, BASE)):
        text = json.dumps(config.to_dict())
        assert SweepConfig.from_dict(json.loads(text)) == config


def test_of_images_nothing_is_guessed_and_a_square_is_one_number() -> None:
    table = {"scale": 1, "mean": [0], "std": 1, "crop": 8, "classes": ["b", "a"]}
    config = SweepConfig.from_dict({**BASE, "images": table})
    assert config.images is not None
    made = config.images.preprocessing()
    assert (made.crop, made.resize, made.classes, made.classes_file) == (
        (8, 8),
        (),
        ("b", "a"),
        None,
    )
    wrong = {"mean": [1, 2], "std": 0, "crop": [1, 2, 3], "resize": True, "classes": 5}
    assert problems_of(lambda: SweepConfig.from_dict({**BASE, "images": wrong}, "f")) == {
        "f: images.scale": "no scale is given, and none is guessed",
        "f: images.std": "found 0; expected a number above 0, 65535 at most",
        "f: images.crop": "found a list; expected a whole number of pixels, or [height, width]",
        "f: images.resize": "found true; expected a whole number of pixels, or [height, width]",
        "f: images.classes": "found 5; expected a path, or a list of names",
    }
    table["std"] = [1, 2]
    assert problems_of(lambda: SweepConfig.from_dict({**BASE, "images": table}, "f")) == {
        "f: images": "std has 2 numbers; rgb has 3 channels"
    }


def test_images_of_an_unknown_dtype_are_one_mistake() -> None:
    table = {"scale": 1, "mean": 0, "std": 1, "dtype": "flaot32"}
    said = problems_of(lambda: SweepConfig.from_dict({**BASE, "images": table}, "f"))
    assert list(said) == ["f: images.dtype"]
    assert said["f: images.dtype"].endswith('did you mean "float32"?')


@pytest.mark.parametrize("calibration", [{}, {"calibration": "entropy"}])
def test_a_percentile_of_another_calibration_is_a_mistake(calibration: dict[str, str]) -> None:
    table = {**calibration, "percentile": 99.9}
    used = calibration.get("calibration", "minmax")
    assert problems_of(lambda: SweepConfig.from_dict({**BASE, "quantization": table}, "f")) == {
        "f: quantization": f'percentile means nothing to calibration = "{used}"; did you mean '
        'calibration = "percentile"?'
    }


def test_from_dict_reports_like_a_file() -> None:
    assert problems_of(lambda: SweepConfig.from_dict({**BASE, "seed": "x"}, "run 7")) == {
        "run 7: seed": 'found "x"; expected a whole number from 0 to 4294967295'
    }


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = """
    modle = "m.onnx"
    data = 5
    backends = "onnxruntime"
    precisions = ["fp32", "int8", "fp61", "FP16", 8]
    objective = "latancy"
    budget = "300"
    seed = -1
    rounds = 5
    [constraints]
    max_accuracy_drop = inf
    max_latency = 5
    max_memory = "200M"
    max_latncy = "5ms"
    [candidates]
    threads = [1, 0, true]
    streams = []
    devices = ["cpu", "GPU:0"]
    [candidates.options]
    onnxruntime = "x"
    [candidates.options.openvino]
    level = 3
    hint = ["a", 2]
    [measure]
    rounds = 0
    passes = "4"
    slice_ms = 1.5
    warmup_iterations = 9
    warmup_cap_s = nan
    timeout_s = "5m"
    live_memory_fraction = 0
    tail_cap_s = -1
    allow_throttling = "True"
    seed = 3
    [mesure]
    rounds = 5
    [python]
    tensorrt = 3
    "odd name" = ""
    """
    threads = "a whole number from 1 to 4096"
    precisions = ", ".join(ASKED)
    device = "a device in lower case: cpu, gpu, gpu:0, npu, auto, or a runtime's own name"
    option = 'text in quotes, such as "3"'
    assert sweep_mistakes(tmp_path, text) == {
        "modle": 'unknown key; did you mean "model"?',
        "model": "no model is named",
        "data": "found 5; expected a path, or module:function",
        "backends": 'found "onnxruntime"; expected a list, such as ["onnxruntime"]',
        "precisions[2]": f'found "fp61"; expected one of {precisions}: did you mean "fp16"?',
        "precisions[3]": f'found "FP16"; expected one of {precisions}: did you mean "fp16"?',
        "precisions[4]": f'found 8; expected one of {precisions}: did you mean "fp8"?',
        "objective": 'found "latancy"; expected one of latency, throughput, memory, size: '
        'did you mean "latency"?',
        "budget": 'found "300"; expected a duration with its unit, such as "5m", "90s" or '
        '"1h30m": the unit is missing; try "300s"',
        "seed": "found -1; expected a whole number from 0 to 4294967295",
        "rounds": "unknown key here; it belongs in [measure]",
        "constraints.max_accuracy_drop": "found inf; expected a number from 0 up",
        "constraints.max_latency": "found 5; expected a time with its unit (ns, us, ms, s), "
        'such as "5ms": the unit is missing; try "5ms"',
        "constraints.max_memory": 'found "200M"; expected a size with its unit (B, KB, MB, GB, '
        'TB, KiB, MiB, GiB, TiB), such as "200MB": say MB (powers of 1000) or MiB (powers of '
        "1024)",
        "constraints.max_latncy": 'unknown key; did you mean "max_latency"?',
        "candidates.threads[1]": f"found 0; expected {threads}",
        "candidates.threads[2]": f"found true; expected {threads}",
        "candidates.streams": "found an empty list; expected at least one value, or no such key "
        "at all",
        "candidates.devices[1]": f'found "GPU:0"; expected {device}',
        "candidates.options.onnxruntime": 'found "x"; expected a table',
        # the user wrote no list, so none is named
        "candidates.options.openvino.level": f"found 3; expected {option}",
        "candidates.options.openvino.hint[1]": f"found 2; expected {option}",
        "measure.rounds": "found 0; expected a whole number from 1 to 100",
        "measure.passes": 'found "4"; expected a whole number from 1 to 100',
        "measure.slice_ms": "found 1.5; expected a whole number from 1 to 60000",
        "measure.warmup_iterations": "found 9; expected a whole number from 10 to 1000000",
        "measure.warmup_cap_s": "found nan; expected a number above 0, 86400 at most",
        "measure.timeout_s": 'found "5m"; expected a number above 0, 86400 at most',
        "measure.live_memory_fraction": "found 0; expected a number above 0, 1 at most",
        "measure.tail_cap_s": "found -1; expected a number from 0 to 86400",
        "measure.allow_throttling": 'found "True"; expected true or false: try true',
        "measure.seed": "unknown key here; it belongs at the top of the file, above the first "
        "[table]",
        "mesure": 'unknown key; did you mean "measure"?',
        "python.tensorrt": "found 3; expected the path of a Python interpreter",
        'python."odd name"': 'found ""; expected the path of a Python interpreter',
    }


def test_unknown_keys_list_the_known_ones(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "[constraints]\nfastest = true\n")
    with pytest.raises(InputError) as caught:
        load_sweep(file)
    (problem,) = caught.value.problems
    assert problem.what == "unknown key"
    assert problem.fix == "known keys here: max_accuracy_drop, max_latency, max_memory, max_size"


def test_the_attributes_name_is_no_key(tmp_path: Path) -> None:
    assert sweep_mistakes(tmp_path, "budget_s = 5\n") == {
        "budget_s": 'unknown key; did you mean "budget"?'
    }


@pytest.mark.parametrize("value", ["5", '"x"', "[1]", "2026-01-01", "true"])
def test_a_value_where_a_table_belongs(tmp_path: Path, value: str) -> None:
    text = f"measure = {value}\npython = {value}\n"
    found = sweep_mistakes(tmp_path, text)
    assert set(found) == {"measure", "python"}
    assert all(what.endswith("expected a table") for what in found.values())


def test_a_table_where_a_value_belongs(tmp_path: Path) -> None:
    text = "[seed]\nx = 1\n[budget]\n[backends]\n[objective]\n"
    found = sweep_mistakes(tmp_path, text)
    assert set(found) == {"seed", "budget", "backends", "objective"}
    assert all(what.startswith("found a table; expected") for what in found.values())


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("seed = 0\nbudget 5m\n", "line 2, column 8", "not TOML: Expected '='"),
        ("seed = 0\nseed = 1\n", "line 2, column 9", "not TOML: Cannot overwrite a value"),
        ("objective = latency\n", "line 1, column 13", "not TOML: Invalid value"),
        ('out = "x', "end of document", "not TOML: Unterminated string"),
        ("seed = " + "9" * 5000, None, "not TOML: Exceeds the limit"),
        ("seed = " + "[" * 100_000, None, "nested too deeply"),
    ],
)
def test_syntax_errors_name_line_and_column(
    tmp_path: Path, text: str, place: str | None, what: str
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    ((where, said),) = problems_of(lambda: load_sweep(file)).items()
    assert where == (f"{file}: {place}" if place else str(file))
    assert said.startswith(what)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_bytes(b"seed = 0\nout = '\xff'\n")
    assert problems_of(lambda: load_sweep(file)) == {
        f"{file}: line 2": "not UTF-8 text, which TOML files are"
    }
    assert problems_of(lambda: load_sweep(tmp_path)) == {
        str(tmp_path): "can't be read: Is a directory"
    }
    absent = tmp_path / "absent.toml"
    assert problems_of(lambda: load_sweep(absent)) == {str(absent): "no such file"}
    assert problems_of(lambda: load_lab(absent)) == {str(absent): "no such file"}


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert load_sweep(file, BASE).seed == 3


def test_absent_files_are_reported_with_the_rest(tmp_path: Path) -> None:
    text = 'model = "no.onnx"\ndata = "no.module:function"\ncalibration = "no.npz"\nseed = "x"\n'
    assert sweep_mistakes(tmp_path, text) == {
        "seed": 'found "x"; expected a whole number from 0 to 4294967295',
        "model": f"no such file or folder: {tmp_path / 'no.onnx'}",
        "calibration": f"no such file or folder: {tmp_path / 'no.npz'}",
    }
    assert sweep_mistakes(tmp_path, 'model = "no.onnx"\ndata = "d.npz"\n') == {
        "model": f"no such file or folder: {tmp_path / 'no.onnx'}"
    }
    # overridden: the file's mistake doesn't matter
    file = sweep_file(tmp_path, 'model = "no.onnx"\ndata = "d.npz"\n')
    assert load_sweep(file, {"model": "other.onnx"}).model == "other.onnx"


def test_paths_are_relative_to_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    sweep_file(tmp_path, "")
    text = 'model = "../m.onnx"\ndata = "~/d.npz"\n[python]\na = "~/bin/python"\nb = "./py"\n'
    (tmp_path / "sub" / "sweep.toml").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = load_sweep("sub/sweep.toml", {"python.b": "./mine"})
    assert config.model == str(tmp_path / "m.onnx")
    assert config.data == str(tmp_path / "d.npz")
    assert config.out == "results"
    assert config.python == {"a": str(tmp_path / "bin/python"), "b": "./mine"}


def test_links_are_kept(tmp_path: Path) -> None:
    # the interpreter behind a virtual environment's link is not that of the environment
    (tmp_path / "python").touch()
    (tmp_path / "link").symlink_to(tmp_path / "python")
    config = load_sweep(sweep_file(tmp_path, '[python]\na = "./link"\n'))
    assert config.python == {"a": str(tmp_path / "link")}


# The command line


def test_overrides_go_before_the_file(tmp_path: Path) -> None:
    text = 'backends = ["a", "b"]\nseed = 1\n[constraints]\nmax_latency = "5ms"\nmax_size = "1MB"'
    overrides = {
        "data": Path("other.npz"),
        "backends": ("c",),
        "precisions": [Precision.INT8, "fp16"],
        "constraints.max_latency": "7ms",
        "measure": {"rounds": 3},
        "seed": None,
        "candidates.threads": (),
    }
    config = load_sweep(sweep_file(tmp_path, text), overrides)
    assert config.data == "other.npz"
    assert config.backends == ("c",)
    assert config.precisions == (Precision.INT8, Precision.FP16)
    assert config.constraints.max_latency_ns == 7_000_000
    assert config.constraints.max_size_bytes == 1_000_000
    assert (config.measure.rounds, config.seed) == (3, 1)
    assert config.candidates.threads == ()


def test_mistakes_of_the_command_line_name_the_option(tmp_path: Path) -> None:
    overrides = {
        "backends": ["on nx"],
        "precisions": ("fp61",),
        "constraints.max_latency": "5",
        "measure.rounds": 0,
        "python.tensorrt": 5,
        "nonsense": 1,
    }
    file = sweep_file(tmp_path, "seed = 'x'\n")
    found = problems_of(lambda: load_sweep(file, overrides))
    assert set(found) == {
        f"{file}: seed",
        "--backend",
        "--precision",
        "--max-latency",
        "--rounds",
        "--python.tensorrt",
        "--nonsense",
    }
    assert 'found "fp61"' in found["--precision"]


def test_model_and_data_are_needed() -> None:
    assert problems_of(load_sweep) == {"MODEL": "no model is named", "--data": "no data is named"}


def test_an_override_below_a_wrong_value(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "measure = 5\n")
    assert problems_of(lambda: load_sweep(file, {"measure.rounds": 3})) == {
        f"{file}: measure": "found 5; expected a table"
    }


# devices.toml


def test_lab_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lab = load_lab()
    assert list(lab.targets) == ["local"]
    assert (lab.targets["local"].device, lab.targets["local"].reach) == ("cpu", "local")
    assert find_target(lab, Host()) == ("local", lab.targets["local"])
    (tmp_path / "devices.toml").write_text("[targets.here]\n")
    assert list(load_lab().targets) == ["here"]


def test_every_key_of_a_target(tmp_path: Path) -> None:
    text = """
    [targets.nuc]
    device = "gpu:0"
    description = "a NUC"
    reach = "ssh://lab@nuc.example:2222"
    threads = 4
    compute_capability = "8.7"
    notes = "under the desk"
    options = { tensorrt = { library = "tensorrt_rtx" } }
    match = { hostname = "nuc", cpu = "Core", machine = "NUC", gpu = "RTX" }
    python = { tensorrt = "venv/bin/python" }
    [targets.nuc.constraints]
    max_accuracy_drop = 0.02
    max_latency = "5ms"
    max_memory = "1MB"
    max_size = "1KB"
    """
    assert keys_in(tomllib.loads(text)["targets"]["nuc"], ("targets", "NAME")) >= fixed_keys(Lab)
    (tmp_path / "devices.toml").write_text(text)
    target = load_lab(tmp_path / "devices.toml").targets["nuc"]
    assert (target.device, target.description, target.notes) == ("gpu:0", "a NUC", "under the desk")
    assert (target.reach, target.threads) == ("ssh://lab@nuc.example:2222", (4,))
    assert target.compute_capability == "8.7"
    assert target.options == {"tensorrt": {"library": ("tensorrt_rtx",)}}
    assert target.match == Match(hostname="nuc", cpu="Core", machine="NUC", gpu="RTX")
    assert target.constraints.model_dump() == {
        "max_accuracy_drop": 0.02,
        "max_latency_ns": 5_000_000,
        "max_memory_bytes": 1_000_000,
        "max_size_bytes": 1000,
    }
    # a path over there
    assert target.python == {"tensorrt": "venv/bin/python"}


def test_interpreters_of_local_targets_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text('[targets.a.python]\nx = "venv/python"\ny = "python3"')
    python = load_lab(tmp_path / "devices.toml").targets["a"].python
    assert python == {"x": str(tmp_path / "venv/python"), "y": "python3"}


def test_all_mistakes_of_a_lab(tmp_path: Path) -> None:
    text = """
    colour = "red"
    [targets.nuc]
    devcie = "cpu"
    device = "the gpu"
    reach = "nuc.example"
    threads = [4, 0]
    compute_capability = 8.7
    max_latency = "5ms"
    python = "python3"
    [targets.nuc.match]
    hostnam = "nuc"
    cpu = 5
    gpu = ""
    [targets.nuc.constraints]
    max_latency = "five"
    max_memroy = "1GB"
    [targets."../up"]
    [targets.pi]
    reach = "ssh://pi@pi.example:70000"
    threads = 0
    python = { tensorrt = 5 }
    [targets.evil]
    reach = "ssh://-oProxyCommand=x"
    """
    reach = '"local" or "ssh://user@host" or "ssh://user@host:port"'
    assert lab_mistakes(tmp_path, text) == {
        "colour": "unknown key",
        "targets.nuc.devcie": 'unknown key; did you mean "device"?',
        "targets.nuc.device": 'found "the gpu"; expected a device in lower case: cpu, gpu, gpu:0, '
        "npu, auto, or a runtime's own name",
        "targets.nuc.reach": f'found "nuc.example"; expected {reach}',
        "targets.nuc.threads[1]": "found 0; expected a whole number from 1 to 4096",
        "targets.nuc.compute_capability": "found 8.7; expected a compute capability in quotes, "
        'such as "8.7"',
        "targets.nuc.max_latency": "unknown key here; it belongs in [targets.NAME.constraints]",
        "targets.nuc.python": 'found "python3"; expected a table',
        "targets.nuc.match.hostnam": 'unknown key; did you mean "hostname"?',
        "targets.nuc.match.cpu": "found 5; expected text, not empty",
        "targets.nuc.match.gpu": 'found ""; expected text, not empty',
        "targets.nuc.constraints.max_latency": 'found "five"; expected a time with its unit (ns, '
        'us, ms, s), such as "5ms"',
        "targets.nuc.constraints.max_memroy": 'unknown key; did you mean "max_memory"?',
        'targets."../up"': "found \"../up\"; expected a name of letters, digits, '.', '-' and '_'",
        "targets.pi.reach": f'found "ssh://pi@pi.example:70000"; expected {reach}: a port is a '
        "number from 1 to 65535",
        "targets.pi.threads": "found 0; expected a whole number from 1 to 4096",
        "targets.pi.python.tensorrt": "found 5; expected the path of a Python interpreter",
        "targets.evil.reach": f'found "ssh://-oProxyCommand=x"; expected {reach}',
    }


def test_a_lab_without_targets(tmp_path: Path) -> None:
    assert lab_mistakes(tmp_path, "") == {"targets": "no target is defined; expected at least one"}
    assert "at least one" in lab_mistakes(tmp_path, "[targets]\n")["targets"]
    assert lab_mistakes(tmp_path, "[targets]\nnuc = 5\n") == {
        "targets.nuc": "found 5; expected a table"
    }


@pytest.mark.parametrize(
    "reach", ["local", "ssh://h", "ssh://u@h.example", "ssh://u@10.0.0.7:22", "ssh://u@[fe80::1]:2"]
)
def test_reach(reach: str) -> None:
    assert Target(reach=reach).reach == reach


NUC = Host(
    hostname="nuc.lab.example",
    machine="ASUSTeK NUC14RVH",
    cpu=Cpu(model="Intel(R) Core(TM) Ultra 7 155H"),
    gpus=(Gpu("NVIDIA A2"), Gpu("NVIDIA RTX 4090")),
)


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ({}, None),
        ({"hostname": "NUC"}, True),
        ({"hostname": "nuc.lab.example"}, True),
        ({"hostname": "nu"}, False),
        ({"cpu": "ultra 7"}, True),
        ({"machine": "nuc14", "cpu": "Ryzen"}, False),
        ({"machine": "nuc14", "cpu": "core"}, True),
        ({"gpu": "rtx 4090"}, True),
        ({"gpu": "H100"}, False),
    ],
)
def test_match(match: dict[str, str], holds: bool | None) -> None:
    assert Match(**match).holds(NUC) is holds
    # unknown facts match nothing
    assert Match(**match).holds(Host()) is (False if match else None)


def lab_of(**targets: Target) -> Lab:
    return Lab(targets=targets)


def test_find_target_prefers_what_recognises_the_host() -> None:
    far = Target(reach="ssh://x")
    anywhere = Target()
    wrong = Target(match=Match(machine="Jetson"))
    right = Target(match=Match(machine="NUC14"), reach="ssh://nuc")
    second = Target(match=Match(hostname="nuc"))
    lab = lab_of(far=far, any=anywhere, wrong=wrong, right=right, second=second)
    assert find_target(lab, NUC) == ("right", right)
    assert find_target(lab, Host()) == ("any", anywhere)
    # a name needs no match
    assert find_target(lab, NUC, "wrong") == ("wrong", wrong)


def test_find_target_fails_with_the_names() -> None:
    lab = lab_of(nuc=Target(reach="ssh://x"), orin=Target(match=Match(cpu="A78AE")))
    with pytest.raises(InputError) as caught:
        find_target(lab, NUC, "onir", where="sweep.toml: target")
    (problem,) = caught.value.problems
    assert str(problem) == (
        'sweep.toml: target: no target "onir" in the lab; did you mean "orin"?\n'
        "    -> the targets are: nuc, orin"
    )
    with pytest.raises(InputError, match="no target of the lab matches this host") as caught:
        find_target(lab, NUC)
    (problem,) = caught.value.problems
    assert "ASUSTeK NUC14RVH" in problem.what
    assert "nuc, orin" in str(problem.fix)
    with pytest.raises(InputError, match="an unknown one"):
        find_target(lab, Host())


# Merging


def constraints(**limits: object) -> Constraints:
    return Constraints.model_validate(limits)


def test_merge_takes_each_limit_from_the_last_that_sets_it() -> None:
    target = constraints(max_accuracy_drop=0.05, max_latency="1ms", max_memory="1MB")
    sweep = constraints(max_latency="2ms", max_size="2MB")
    cli = constraints(max_latency="3ms")
    merged = merge(target, sweep, cli)
    assert merged == constraints(
        max_accuracy_drop=0.05, max_latency="3ms", max_memory="1MB", max_size="2MB"
    )
    assert merge(target, sweep).max_latency_ns == 2_000_000
    # a default is nobody's wish
    assert merge(target, constraints()).max_accuracy_drop == 0.05
    assert merge(target, constraints(max_accuracy_drop=0.01)).max_accuracy_drop == 0.01
    assert merge(constraints(), constraints()) == Constraints()
    # what was set stays set
    assert merge(constraints(max_size="1B"), merged).max_size_bytes == 2_000_000


def test_for_target_fills_in_what_the_sweep_leaves_open() -> None:
    target = Target(
        device="gpu:0",
        threads=(4,),
        constraints=constraints(max_latency="1ms"),
        python={"a": "theirs", "b": "theirs"},
    )
    plain = for_target(load_sweep(None, BASE), target)
    assert (plain.candidates.threads, plain.candidates.devices) == ((4,), ("gpu:0",))
    assert plain.constraints.max_latency_ns == 1_000_000
    overrides = {
        **BASE,
        "candidates.threads": [1],
        "candidates.devices": ["cpu"],
        "constraints.max_latency": "2ms",
        "python.a": "ours",
    }
    own = for_target(load_sweep(None, overrides), target)
    assert (own.candidates.threads, own.candidates.devices) == ((1,), ("cpu",))
    assert own.constraints.max_latency_ns == 2_000_000
    assert own.python == {"a": "ours", "b": "theirs"}


def test_options_of_the_sweep_go_before_the_targets() -> None:
    target = Target(options={"tensorrt": {"library": ("tensorrt_rtx",), "level": ("3",)}})
    own = {"tensorrt": {"level": ["1", "5"]}, "openvino": {"hint": ["LATENCY"]}}
    config = load_sweep(None, {**BASE, "candidates": {"options": own}})
    assert for_target(config, target).candidates.options == {
        "tensorrt": {"library": ("tensorrt_rtx",), "level": ("1", "5")},
        "openvino": {"hint": ("LATENCY",)},
    }
    assert for_target(load_sweep(None, BASE), Target()).candidates.options == {}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"min": [1], "opt": [1, 3], "max": [1, 3]}, "1, 2 and 2 sizes"),
        ({"min": [2, 3], "opt": [1, 3], "max": [8, 3]}, "axis 0 has min 2, opt 1, max 8"),
        ({"min": [1, 3], "opt": [9, 3], "max": [8, 3]}, "expected min <= opt <= max"),
        ({"min": [1, 3], "opt": [1, 3]}, "no max is given"),
        ({"min": [1, -3], "opt": [1, 3], "max": [1, 3]}, "a whole number, 0 or more"),
    ],
)
def test_ranges_of_shapes_are_ordered(shape: dict[str, list[int]], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        load_sweep(None, {**BASE, "shapes": {"x": shape}})


def test_building_can_do_without_data() -> None:
    assert load_sweep(None, {"model": "m.onnx"}, BuildConfig).data is None
    assert load_sweep(None, BASE, BuildConfig).data == "d.npz"
    with pytest.raises(InputError, match="no model is named"):
        load_sweep(None, {}, BuildConfig)


def test_tables_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Measure().rounds = 3


# The files that are shipped, and the documentation


def keys_in(data: Mapping[str, object], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    paths = set()
    for key, value in data.items():
        path = (*above, key)
        paths |= {path} | (keys_in(value, path) if isinstance(value, Mapping) else set())
    return paths


def fixed_keys(model: type[BaseModel]) -> set[tuple[str, ...]]:
    return {key.path for key in list_keys(model)}


def test_shipped_devices_toml() -> None:
    lab = load_lab(ROOT / "devices.toml")
    name, target = find_target(lab, Host(hostname="anything"))
    assert (name, target.device, target.reach) == ("local", "cpu", "local")
    assert {"nuc-cpu", "nuc-gpu", "nuc-npu", "orin", "workstation", "pi5", "server"} <= set(
        lab.targets
    )
    jetson = Host(machine="NVIDIA Jetson AGX Orin Developer Kit")
    assert find_target(lab, jetson)[0] == "orin"
    with (ROOT / "devices.toml").open("rb") as file:
        targets = tomllib.load(file)["targets"].values()
    used = set[tuple[str, ...]]().union(*(keys_in(one, ("targets", "NAME")) for one in targets))
    assert used >= fixed_keys(Lab)


TABLES = ("constraints", "candidates", "measure", "quantization", "images")


def test_example_sweep(tmp_path: Path) -> None:
    example = ROOT / "examples" / "sweep.toml"
    config = load_sweep(example)
    assert Path(config.model).is_file()
    assert Path(config.data).is_file()
    assert config.out == str(ROOT / "results")
    # the optional keys, which are comments, are right, too; and together they are all
    text = re.sub(r"^# (?=[\w.]+ = |\[)", "", example.read_text(), flags=re.MULTILINE)
    complete = tmp_path / "sweep.toml"
    complete.write_text(text.replace('"../', f'"{ROOT}/'))
    load_sweep(complete)
    assert keys_in(tomllib.loads(text)) == {
        *(key for key in fixed_keys(SweepConfig) if "NAME" not in key),
        *((table,) for table in TABLES),
        ("state", "h_in"),
        ("shapes",),
        ("shapes", "image"),
        *(("shapes", "image", name) for name in ("min", "opt", "max")),
        ("candidates", "options", "openvino"),
        ("candidates", "options", "openvino", "ENABLE_CPU_PINNING"),
        ("python", "tensorrt"),
    }


def documented(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in list_keys(model):
        default = key.default if key.default in {"none", "required"} else f"`{key.default}`"
        rows.append(f"| `{'.'.join(key.path)}` | {key.expects} | {default} | {key.meaning} |")
    return "\n".join(rows) + "\n"


def test_documentation_has_the_keys() -> None:
    page = ROOT / "docs" / "configuration.md"
    text = page.read_text()
    fresh = text
    for model in (SweepConfig, Lab):
        form = rf"(<!-- keys: {model.__name__} -->\n).*?(<!-- end -->)"
        table = documented(model)
        found = re.search(form, fresh, flags=re.DOTALL)
        assert found
        fresh = fresh[: found.end(1)] + table + fresh[found.start(2) :]
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(fresh)
        text = page.read_text()
    assert text == fresh, "run: UPDATE_DOCS=1 python -m pytest tests/test_config.py"


def test_documentation_shows_real_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.search(r"```text\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    assert shown
    monkeypatch.chdir(tmp_path)
    sweep_file(
        tmp_path,
        'precisions = ["fp32", "int8", "fp61"]\nbudget = "300"\n'
        '[measure]\nrounds = 0\n[constraints]\nmax_latncy = "5ms"\n',
    )
    with pytest.raises(InputError) as caught:
        load_sweep("sweep.toml")
    said = [str(problem) for problem in caught.value.problems]
    assert sorted("\n".join(said).splitlines()) == sorted(shown[1].splitlines())


def test_a_drop_is_in_the_metrics_unit_which_may_be_any_number(tmp_path: Path) -> None:
    config = load_sweep(sweep_file(tmp_path, "[constraints]\nmax_accuracy_drop = 60\n"))
    assert config.constraints.max_accuracy_drop == 60


def test_every_key_has_words() -> None:
    for key in (*list_keys(SweepConfig), *list_keys(Lab)):
        assert key.meaning
        assert "<" not in key.expects, f"{key.path} has no reader"
