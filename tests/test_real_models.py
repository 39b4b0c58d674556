"""Sweeps on two real models with real labels, as a user runs them, against the runtimes alone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import registry
from harness.analysis import engine_key
from harness.record import AccuracyRecord
from harness.store import Results, read
from harness.types import Precision, Status

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Case:
    """An example of ``examples/``, and how small it is made here."""

    name: str
    package: str
    model: str
    size: tuple[str, str]
    least_int8: float  # of the compute operations, in an engine that is called int8


FILETYPES = Case("filetypes", "magika", "magika.onnx", ("--per-class", "12"), 0.5)
OCR = Case("ocr", "rapidocr", "PP-OCRv6_rec_small.onnx", ("--samples", "48"), 0.5)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder of its own; what a tool leaves behind stays out of the repository."""
    cwd = folder / "cwd"
    cwd.mkdir(exist_ok=True)
    env = {**os.environ, "ENGINEPICK_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@dataclass(frozen=True)
class Made:
    """An example's data, made small."""

    case: Case
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        with np.load(self.data / f"{self.case.name}.npz", allow_pickle=False) as archive:
            return dict(archive)


def make(case: Case, folder: Path) -> Made:
    for package in (case.package, *BACKENDS):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    script = str(ROOT / "examples" / case.name / "make_data.py")
    done = command(folder, script, "--out", str(folder / "data"), *case.size)
    assert done.returncode == 0, done.stderr
    # The example's own configuration, whose paths are relative to it.
    sweep = (ROOT / "examples" / case.name / "sweep.toml").read_text()
    (folder / "sweep.toml").write_text(sweep)
    return Made(case, folder)


@pytest.fixture(scope="module")
def filetypes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(FILETYPES, tmp_path_factory.mktemp("filetypes"))


@pytest.fixture(scope="module")
def ocr(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(OCR, tmp_path_factory.mktemp("ocr"))


@pytest.fixture(scope="module", params=["filetypes", "ocr"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param)
    return found


@dataclass(frozen=True)
class Swept:
    """A finished ``enginepick sweep``."""

    made: Made
    done: subprocess.CompletedProcess[str]
    results: Results


@pytest.fixture(scope="module")
def swept(made: Made) -> Swept:
    words = ["-m", "harness.cli", "sweep", "--config", str(made.folder / "sweep.toml")]
    words += [word for name in BACKENDS for word in ("--backend", name)]
    words += ["--rounds", "1", "--quiet", "--json", "--out", str(made.folder / "results")]
    done = command(made.folder, *words)
    runs = sorted((made.folder / "results").glob("*/*.jsonl"))
    assert len(runs) == 1, done.stderr
    return Swept(made, done, read(runs[0]))


@pytest.fixture(scope="module")
def alone(made: Made) -> dict[str, float]:
    """fp32 accuracy by backend, by the runtimes without this project."""
    script = str(ROOT / "examples" / made.case.name / "check_accuracy.py")
    done = command(made.folder, script, str(made.data))
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+) fp32 .*? (\d\.\d+) ", done.stdout, re.MULTILINE)
    return {name: float(value) for name, value in found}


def accuracies(swept: Swept, precision: Precision) -> dict[str, AccuracyRecord]:
    """The accuracy records by candidate."""
    wanted = {c.id for c in swept.results.run.candidates if c.precision is precision}
    return {each.candidate: each for each in swept.results.accuracies if each.candidate in wanted}


@pytest.mark.slow
class TestSweep:
    def test_command_succeeds_and_recommends(self, swept: Swept) -> None:
        assert swept.done.returncode == 0, swept.done.stderr
        json.loads(swept.done.stdout)
        assert swept.results.end is not None
        assert swept.results.end.why == "done"

    def test_working_directory_stays_clean(self, swept: Swept) -> None:
        assert list((swept.made.folder / "cwd").iterdir()) == []

    def test_plan_has_every_precision_of_both_backends(self, swept: Swept) -> None:
        run = swept.results.run
        planned = [*run.candidates, *(skip.candidate for skip in run.skips)]
        found = {(each.backend, each.precision) for each in planned}
        assert found == {
            (name, offer.precision)
            for name in BACKENDS
            for offer in registry.load(name, registry.BACKENDS).capabilities.offers
        }
        least = (Precision.FP32, Precision.FP16, Precision.INT8)
        assert found >= {(name, precision) for name in BACKENDS for precision in least}
        assert all(skip.reason for skip in run.skips)

    def test_every_candidate_ran_or_says_why_not(self, swept: Swept) -> None:
        results = swept.results
        judged = {each.candidate: each for each in results.accuracies}
        launched = {each.candidate: each for each in results.launches if not each.control}
        built = {engine_key(each): each for each in results.builds}
        for candidate in results.run.candidates:
            outcomes = [
                built.get(candidate.engine_key),
                judged.get(candidate.id),
                launched.get(candidate.id),
            ]
            bad = [each for each in outcomes if each is not None and not each.ok]
            if bad:
                assert bad[0].reason, candidate.id
            else:
                assert None not in outcomes, candidate.id
                assert launched[candidate.id].slices

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_fp32_accuracy_is_what_the_runtime_alone_gives(
        self, swept: Swept, alone: dict[str, float], backend: str
    ) -> None:
        records = accuracies(swept, Precision.FP32)
        own = [record for name, record in records.items() if name.startswith(f"{backend}/")]
        assert len(own) == 1
        assert own[0].status is Status.OK, own[0].reason
        assert own[0].value == pytest.approx(alone[backend], abs=1e-9)  # as printed
        right = alone[backend] if own[0].higher_is_better else 1 - alone[backend]
        assert 0.85 < right < 1  # of a model that works, on data that aren't trivial

    def test_int8_engines_run_int8(self, swept: Swept) -> None:
        records = accuracies(swept, Precision.INT8)
        ran = {name: record for name, record in records.items() if record.ok}
        assert {name.split("/")[0] for name in ran} == set(BACKENDS)
        for name, record in ran.items():
            assert record.executed is not None, name
            assert record.executed.share("int8") >= swept.made.case.least_int8, name

    def test_samples_are_labelled_and_split(self, swept: Swept) -> None:
        data, labels = swept.results.run.data, swept.made.arrays()["labels"]
        assert data.labelled
        assert data.samples == len(labels)
        assert data.validation_samples == len(labels) - data.calibration_samples
        for record in swept.results.accuracies:
            if record.ok:
                whole = record.samples == data.validation_samples
                assert whole or record.stopped, record.candidate
                assert record.labelled


@pytest.mark.slow
class TestFiletypes:
    def test_types_are_balanced(self, filetypes: Made) -> None:
        counts = Counter(filetypes.arrays()["labels"].tolist())
        assert len(counts) >= 10
        assert max(counts.values()) <= 12
        assert min(counts.values()) >= 5

    def test_features_are_those_of_magika(self, filetypes: Made) -> None:
        import onnxruntime
        from magika import Magika

        magika, arrays = Magika(), filetypes.arrays()
        session = onnxruntime.InferenceSession(
            filetypes.data / "magika.onnx", providers=["CPUExecutionProvider"]
        )
        names = json.loads((_magika_folder() / "config.min.json").read_text())
        lines = (
            (filetypes.data / "filetypes.txt").read_text("utf-8", "surrogateescape").splitlines()
        )
        assert len(lines) == len(arrays["labels"]) >= 100
        for line, row, label in zip(lines, arrays["bytes"], arrays["labels"], strict=True):
            kind, path = line.split("\t")
            assert names["target_labels_space"][label] == kind
            theirs = magika.identify_path(path).prediction
            (ours,) = session.run(None, {"bytes": row[np.newaxis]})
            assert names["target_labels_space"][int(ours.argmax())] == str(theirs.dl.label), path
            assert float(ours.max()) == pytest.approx(theirs.score, abs=1e-6), path

    def test_same_machine_same_files(self, filetypes: Made, tmp_path: Path) -> None:
        script = str(ROOT / "examples/filetypes/make_data.py")
        again = command(filetypes.folder, script, "--out", str(tmp_path), *FILETYPES.size)
        assert again.returncode == 0, again.stderr
        before = set((filetypes.data / "filetypes.txt").read_bytes().splitlines())
        now = set((tmp_path / "filetypes.txt").read_bytes().splitlines())
        # Byte code that programs leave behind meanwhile may displace a file or two.
        assert len(before & now) >= 0.97 * len(before)


def _magika_folder() -> Path:
    spec = importlib.util.find_spec("magika")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / "standard_v3_3"


@pytest.mark.slow
class TestOcr:
    def test_labels_are_texts_that_fit(self, ocr: Made) -> None:
        arrays = ocr.arrays()
        assert arrays["labels"].dtype.kind == "U"
        lengths = [len(text) for text in arrays["labels"].tolist()]
        assert 0 < min(lengths) <= max(lengths) <= 26
        assert len(set(arrays["labels"].tolist())) > 0.9 * len(lengths)
        assert arrays["x"].shape == (48, 3, 48, 320)
        assert arrays["x"].dtype == np.float32
        assert -1 <= arrays["x"].min() < arrays["x"].max() <= 1

    def test_same_arguments_same_bytes(self, ocr: Made, tmp_path: Path) -> None:
        again = command(
            ocr.folder, str(ROOT / "examples/ocr/make_data.py"), "--out", str(tmp_path), *OCR.size
        )
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "ocr.npz").read_bytes() == (ocr.data / "ocr.npz").read_bytes()
