"""The command line, by running it: what a person types, and what comes back."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pipeline import write_inputs

FAST = ["--backend", "null", "--precision", "fp32", "--precision", "int8", "--rounds", "2"]
LOOSE = ["--max-accuracy-drop", "0.3"]


class Shell:
    """Runs the command in a folder, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "ENGINEPICK_CACHE": str(folder / "cache"),
            "COLUMNS": "100",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def __call__(self, *args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *map(str, args)],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.stdout, done.stderr)
        return done


@pytest.fixture
def shell(tmp_path):
    write_inputs(tmp_path)
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with one finished run, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("swept")
    write_inputs(folder)
    shell = Shell(folder)
    shell.done = shell("sweep", "model.onnx", "--data", "data.npz", *FAST, *LOOSE)
    (path,) = (folder / "results").glob("*/*.jsonl")
    shell.run_id = path.stem
    return shell


def test_help_names_every_command(shell):
    text = shell("--help").stdout
    for command in (
        "demo",
        "devices",
        "sweep",
        "build",
        "report",
        "export",
        "cache",
        "selftest",
        "setup",
    ):
        assert command in text


def test_devices_shows_every_backend_and_this_host(shell):
    data = json.loads(shell("devices", "--json").stdout)
    assert data["schema"] == "enginepick-devices/1"
    assert {backend["name"] for backend in data["backends"]} >= {"onnxruntime", "openvino"}
    for backend in data["backends"]:
        assert backend["usable"] or backend["problem"]
    assert data["host"]["cpu"]["logical_cpus"] >= 1
    text = shell("devices").stdout
    assert "Instructions" in text
    assert "openvino" in text


def test_a_sweep_ends_in_a_recommendation_and_files(swept):
    assert "Deploy" in swept.done.stdout
    assert "null" in swept.done.stdout
    assert "Measuring" in swept.done.stderr
    folder = swept.folder / "results" / "local" / swept.run_id
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "report.csv", "report.json"} <= names
    plots = {path.suffix for path in (folder / "plots").iterdir()}
    assert plots == {".png", ".svg"}


def test_the_demo_takes_no_options_to_know(shell):
    assert "--out" in shell("demo", "--help").stdout


@pytest.mark.parametrize("form", ["text", "md", "html", "json", "csv"])
def test_report_in_every_format(swept, form):
    text = swept("report", swept.run_id, "--format", form).stdout
    if form == "json":
        data = json.loads(text)
        assert data["schema"] == "enginepick-report/1"
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) >= 2
    else:
        assert "null" in text


def test_report_decides_again_without_measuring(swept):
    before = {path: path.stat().st_mtime_ns for path in swept.folder.rglob("*.jsonl")}
    strict = swept("report", "--max-latency", "1ns", code=1).stdout
    assert "limit" in strict
    swept("report", "--objective", "size")
    unmeasured = swept("report", "--objective", "throughput", code=1).stdout
    assert "--objective throughput" in " ".join(unmeasured.split())
    after = {path: path.stat().st_mtime_ns for path in swept.folder.rglob("*.jsonl")}
    assert before == after


def test_report_writes_a_file_and_plots(swept, tmp_path):
    swept("report", "--format", "html", "--output", tmp_path / "r.html", "--plots", tmp_path / "p")
    assert "<html" in (tmp_path / "r.html").read_text()
    assert list((tmp_path / "p").glob("*.png"))


def test_export_hands_out_an_engine_that_runs(swept, tmp_path):
    shown = swept("export", swept.run_id, "--to", tmp_path / "engine").stdout
    assert "run.py" in shown
    code = (
        "import numpy as np, run\n"
        "session = run.load()\n"
        f"data = np.load({str(swept.folder / 'data.npz')!r})\n"
        "name = [n for n in data.files if n != 'labels'][0]\n"
        "print(run.infer(session, {name: data[name][:1]}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "engine",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    swept("export", swept.run_id, "--to", tmp_path / "engine", code=2)


def test_the_cache_is_shown_capped_and_cleared(shell):
    shell("sweep", "model.onnx", "--data", "data.npz", *FAST, *LOOSE, "--quiet")
    assert "engines" in shell("cache").stdout
    assert "removed" in shell("cache", "--max-size", "1KB").stdout
    shell("cache", "--clear")
    assert "0 entries" in shell("cache").stdout
    assert "--max-size" in shell("cache", "--max-size", "much", code=2).stderr


def test_a_dry_run_shows_the_plan_and_runs_nothing(shell):
    args = ("sweep", "model.onnx", "--data", "data.npz", "--backend", "null", "--dry-run")
    text = " ".join(shell(*args).stdout.split())
    assert "does not execute bf16 natively" in text
    assert "nothing has been run" in text
    data = json.loads(shell(*args, "--json").stdout)
    assert data["estimated_seconds"] > 0
    assert len(data["candidates"]) == 4
    assert not (shell.folder / "results").exists()


def test_json_on_standard_output_and_quiet(shell):
    done = shell("sweep", "model.onnx", "--data", "data.npz", *FAST, *LOOSE, "--json", "--quiet")
    assert json.loads(done.stdout)["schema"] == "enginepick-report/1"
    assert done.stderr == ""


def test_resume_refuses_settings_that_it_would_ignore(swept):
    text = swept("sweep", "--resume", swept.run_id, "--rounds", "9", code=2).stderr
    assert "measure.rounds" in text


def test_resuming_a_finished_run_changes_no_record(swept):
    path = swept.folder / "results" / "local" / f"{swept.run_id}.jsonl"
    before = [json.loads(x)["kind"] for x in path.read_text().splitlines()]
    swept("sweep", "--resume", swept.run_id)
    after = [json.loads(x)["kind"] for x in path.read_text().splitlines()]
    assert after == [*before, "end"]


def test_the_json_of_other_commands_is_documented(shell):
    text = (Path(__file__).parents[1] / "docs" / "json-commands.md").read_text()
    plan = ("sweep", "model.onnx", "--data", "data.npz", "--backend", "null", "--dry-run")
    build = ("build", "model.onnx", "--backend", "null", "--precision", "fp32", "--quiet")
    for args in (("devices",), plan, build, ("selftest", "--budget", "1s", "--backend", "null")):
        data = json.loads(shell(*args, "--json").stdout)
        assert data["schema"] in text
        section = text.partition(data["schema"])[2].partition("\n`enginepick")[0]
        for field in data:
            assert f"`{field}" in section, (args, field)


def test_a_built_engine_is_shown_and_measured_as_it_is(shell):
    wanted = ("--backend", "null", "--precision", "int8", "--data", "data.npz", "--out", "kept")
    built = shell("build", "model.onnx", *wanted, "--compute-capability", "8.9")
    file = "kept/model-null-int8-null-int8-sm89/engine.nullengine"
    assert file in built.stdout
    for words in ("GPUs of compute capability 8.9", "features 1x32", "calibrated on 13 samples"):
        assert words in built.stdout
    assert "Building engines" in built.stderr
    text = shell(
        "sweep", "model.onnx", "--data", "data.npz", *FAST, *LOOSE, "--engine", file
    ).stdout
    assert "as-is" in text
    assert "(engine.nullengine)" in text.replace("\n", "")


def test_nothing_built_is_a_failure_and_wrong_input_another(shell):
    text = shell("build", "model.onnx", "--backend", "null", code=2).stderr
    assert "--precision: none named" in text
    wanted = ("build", "model.onnx", "--backend", "null", "--precision", "fp32")
    assert "NAME=VALUE" in shell(*wanted, "--option", "weights", code=2).stderr
    twice = ("--option", "weights=1", "--option", "weights=2")
    assert "given 2 times" in shell(*wanted, *twice, code=2).stderr
    both = ("--device", "cpu", "--compute-capability", "8.9")
    assert "name one of them" in shell(*wanted, *both, code=2).stderr
    done = shell(*wanted, "--option", "weights=many", code=1)
    assert "Nothing was built" in done.stdout
    assert "weights is a int" in done.stdout


# -- bad input -------------------------------------------------------------------------------------


def text_file(folder):
    (folder / "model.onnx").write_text("hello")


def empty_file(folder):
    (folder / "model.onnx").write_bytes(b"")


def truncated(folder):
    raw = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(raw[: len(raw) // 2])


def graph_of(nodes, opset=17):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [value("y", TensorProto.FLOAT, ["n", 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def save(folder, model):
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def unknown_op(folder):
    save(folder, graph_of([helper.make_node("Reluu", ["x"], ["y"])]))


def unknown_opset(folder):
    save(folder, graph_of([helper.make_node("Relu", ["x"], ["y"])], opset=99))


def duplicated_name(folder):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    save(folder, graph_of(nodes))


def external(folder, location):
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    if location is None:
        (folder / "weights.bin").unlink()
        return
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def change(folder, **arrays: object):
    with np.load(folder / "data.npz") as archive:
        kept = {**{name: archive[name] for name in archive.files}, **arrays}
    np.savez(folder / "data.npz", **{n: a for n, a in kept.items() if a is not None})


def input_of(folder):
    with np.load(folder / "data.npz") as archive:
        name = next(name for name in archive.files if name != "labels")
        return name, archive[name]


def wrong_dtype(folder):
    name, array = input_of(folder)
    change(folder, **{name: array.astype(np.float64)})


def wrong_rank(folder):
    name, array = input_of(folder)
    change(folder, **{name: array[..., None, None]})


def with_nan(folder):
    name, array = input_of(folder)
    array = array.copy()
    array[3] = np.nan
    change(folder, **{name: array})


def missing_input(folder):
    name, array = input_of(folder)
    change(folder, **{name: None, "imgae": array})


def no_samples(folder):
    name, array = input_of(folder)
    change(folder, **{name: array[:0], "labels": np.zeros(0, np.int64)})


def pickled(folder):
    change(folder, labels=np.array([{}, []], dtype=object))


def bad_toml(folder):
    (folder / "devices.toml").write_text(
        '[targets.a]\ndevise = "cpu"\nthreads = -1\n[targets.b]\nreach = "ftp://x"\n'
    )


def read_only_out(folder):
    (folder / "results").write_text("in the way")


BAD = {
    "not an ONNX file": (text_file, "model.onnx: a text file", []),
    "empty": (empty_file, "the file is empty", []),
    "truncated": (truncated, "incomplete or damaged", []),
    "external data missing": (lambda f: external(f, None), "weights.bin", []),
    "external data outside": (lambda f: external(f, "../w.bin"), "outside", []),
    "unknown opset": (unknown_opset, "opset", []),
    "unknown op": (unknown_op, "Reluu", []),
    "duplicated value name": (duplicated_name, "y", []),
    "missing and extra input": (missing_input, "imgae", []),
    "wrong dtype": (wrong_dtype, "float64", []),
    "wrong rank": (wrong_rank, "axes", []),
    "NaN": (with_nan, "NaN", []),
    "labels of another length": (lambda f: change(f, labels=np.zeros(3, int)), "labels", []),
    "no samples": (no_samples, "no samples", []),
    "pickled": (pickled, "pickle", []),
    "unknown backend": (None, 'did you mean "openvino"', ["--backend", "openvin"]),
    "unknown precision": (None, 'did you mean "int8"', ["--precision", "int9"]),
    "unknown metric": (None, 'did you mean "top1"', ["--metric", "topp1"]),
    "unknown target": (None, 'no target "nuc"', ["--target", "nuc"]),
    "unknown keys in devices.toml": (bad_toml, "targets.a.devise", []),
    "unwritable output": (read_only_out, "not a folder", []),
    "no model": (None, "", ["--config", "none.toml"]),
    "latency without unit": (None, "the unit is missing", ["--max-latency", "5"]),
    "calibration is the data": (None, "--calibration", ["--calibration", "data.npz"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_written(shell, case):
    spoil, words, options = BAD[case]
    if spoil is not None:
        spoil(shell.folder)
    before = sorted(path.name for path in shell.folder.iterdir())
    done = shell("sweep", "model.onnx", "--data", "data.npz", *options, code=2)
    assert words in done.stderr
    assert done.stdout == ""
    after = sorted(path.name for path in shell.folder.iterdir() if path.name != "cache")
    assert after == before


def test_a_device_that_is_not_there(shell):
    (shell.folder / "sweep.toml").write_text('[candidates]\ndevices = ["gpu:7"]\n')
    args = ("sweep", "model.onnx", "--data", "data.npz", "--config", "sweep.toml")
    text = shell(*args, code=2).stderr
    assert "gpu:7" in text
    assert "enginepick devices" in text


def test_several_mistakes_are_reported_at_once(shell):
    empty_file(shell.folder)
    done = shell("sweep", "model.onnx", "--data", "no.npz", "--metric", "x", code=2)
    for words in ("3 problems", "empty", "no.npz", "--metric"):
        assert words in done.stderr


def test_an_unknown_run_names_the_newest(swept):
    assert swept.run_id in swept("report", "nothing", code=2).stderr
