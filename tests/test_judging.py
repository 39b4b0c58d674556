"""Accuracy passes that end early, and what the record and the analysis make of them."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline import LAB, configure

from backends.null import BACKEND
from harness import jobs
from harness.analysis import analyse
from harness.backend import BuildRequest, Feed
from harness.cache import Cache
from harness.config import SweepConfig
from harness.datasets import resolve
from harness.measure.accuracy import SCORES_FILE, judge
from harness.recommendation import Limits, recommend
from harness.record import AccuracyRecord
from harness.run import sweep
from harness.scoring import drop_between
from harness.stats import Answer
from harness.store import Results
from harness.types import Precision, Settings, TensorSpec

Array = np.ndarray[Any, Any]

CLASSES = 4
CLASS = np.repeat(np.arange(CLASSES), 150)
SPEC = TensorSpec("x", "float32", ("batch", CLASSES))


class Classifier:
    """Sees the class in its input, and takes one class for another; counts what it was asked."""

    def __init__(self, wrong: int | None = None) -> None:
        self.seen = 0
        self._wrong = wrong
        self._x = np.empty(0)

    def bind(self, feed: Feed) -> None:
        self._x = np.array(feed["x"])
        self.seen += len(self._x)

    def run(self) -> None:
        pass

    def fetch(self) -> dict[str, Array]:
        lost = self._x.argmax(axis=1) == self._wrong
        return {"y": np.where(lost[:, np.newaxis], np.roll(self._x, 1, axis=1), self._x)}

    def close(self) -> None:
        pass


def against_a_perfect_one(folder: Path, labels: Array, metric: str, reference: Any = None) -> Any:
    """Asks for passes over 600 samples, sorted by class, compared with an exact reference's."""
    np.savez(folder / "data.npz", x=inputs(), labels=labels)
    samples = jobs.Samples(resolve(str(folder / "data.npz")), "validation", 100, seed=5)
    (folder / "reference").mkdir()
    (folder / "out").mkdir()
    out = str(folder / "reference")
    first = jobs.AccuracyJob(samples, (SPEC,), 1, metric, None, out, keep=True)
    judge(reference or Classifier(), first)
    job = replace(first, reference=first.out, out=str(folder / "out"), keep=False)

    def ask(session: Any, **changes: Any) -> jobs.Judged:
        return judge(session, replace(job, **changes))

    ask.theirs = np.load(folder / "reference" / SCORES_FILE)
    ask.samples = samples
    return ask


def inputs() -> Array:
    noise = np.random.default_rng(0).random((600, CLASSES)) / 10
    return (np.eye(CLASSES)[CLASS] + noise).astype(np.float32)


class Detector(Classifier):
    """A box for each value above a threshold: as many as there are."""

    def __init__(self, threshold: float = 0.05) -> None:
        super().__init__()
        self._threshold = threshold

    def fetch(self) -> dict[str, Array]:
        (found,) = np.nonzero(self._x[0] > self._threshold)
        corners = np.stack([found, found, found + 1, found + 1], axis=1).astype(np.float32)
        return {"boxes": corners, "scores": self._x[0][found], "labels": found}


@pytest.fixture
def passes(tmp_path):
    return against_a_perfect_one(tmp_path, CLASS, "top1")


def rows(judged: jobs.Judged) -> Array:
    return np.frombuffer(base64.b64decode(judged.scores), "<f8").reshape(-1, judged.width)


@pytest.mark.parametrize("stop", ["refused", "decided"])
def test_a_hopeless_candidate_is_refused_after_the_first_stage(passes, stop):
    session = Classifier(wrong=3)
    judged = passes(session, limit=0.01, stop=stop)
    assert judged.stopped == "refused after 64 of 500 samples"
    assert judged.samples == session.seen == 64
    drop = drop_between("top1", passes.theirs, rows(judged), higher_is_better=True, peeked=True)
    assert drop is not None
    assert drop.judge(0.01) is Answer.MISSES
    # although all of that class are at the end of the data
    assert 0.1 < drop.value < 0.4


def test_an_early_end_leaves_the_scores_of_the_same_samples_in_the_same_order(passes):
    early = passes(Classifier(wrong=3), limit=0.01, stop="refused")
    whole = passes(Classifier(wrong=3), limit=0.01, stop="never")
    assert whole.stopped is None
    assert whole.samples == 500
    assert (rows(early) == rows(whole)[:64]).all()
    assert (rows(whole)[:, 0] == (CLASS[list(passes.samples.indices())] != 3)).all()


def test_a_perfect_candidate_is_certified_early_where_that_is_asked(passes):
    judged = passes(Classifier(), limit=0.05, stop="decided")
    assert judged.stopped == "certified after 256 of 500 samples"
    drop = drop_between("top1", passes.theirs, rows(judged), higher_is_better=True, peeked=True)
    assert drop is not None
    assert drop.judge(0.05) is Answer.MEETS
    assert passes(Classifier(), limit=0.05, stop="refused").stopped is None


def test_too_few_samples_decide_nothing(passes):
    assert passes(Classifier(), limit=0.001, stop="decided").stopped is None


def test_an_error_may_be_refused_early_and_is_never_certified_early(tmp_path):
    class Off(Classifier):
        def fetch(self) -> dict[str, Array]:
            return {name: value + 1 for name, value in super().fetch().items()}

    passes = against_a_perfect_one(tmp_path, inputs() + 0.1, "mae")
    assert passes(Off(), limit=0.1, stop="decided").stopped == "refused after 64 of 500 samples"
    assert passes(Classifier(), limit=0.1, stop="decided").stopped is None


def test_a_metric_of_all_samples_together_never_ends_early(passes):
    judged = passes(Classifier(wrong=3), metric="f1", limit=0.01, stop="decided")
    assert judged.stopped is None
    assert judged.samples == 500


def test_a_detector_may_find_another_number_of_boxes_than_the_reference(tmp_path):
    labels = np.array([[[one, one, one, one + 1, one + 1]] for one in CLASS])
    ask = against_a_perfect_one(tmp_path, labels, "map", Detector())
    exact, lossy = ask(Detector()), ask(Detector(0.055))
    assert exact.samples == exact.compared == lossy.samples == 500
    # compared where it finds as many
    assert 300 < lossy.compared < 500
    assert lossy.problem is None


class Two(Classifier):
    """A classifier that also tells of all samples together, in as many values as there are."""

    def __init__(self, first: str = "y") -> None:
        super().__init__()
        self._order = ("y", "found") if first == "y" else ("found", "y")

    def fetch(self) -> dict[str, Array]:
        made = {"y": self._x, "found": np.argwhere(self._x > 0.05).T.astype(np.float32)}
        return {name: made[name] for name in self._order}


@pytest.mark.parametrize("metric", ["top1", "cosine"])
def test_an_output_that_a_batch_leaves_out_is_not_asked_of_the_reference(tmp_path, metric):
    ask = against_a_perfect_one(tmp_path, CLASS, metric, Two())
    batch = ask(Two(), batch=8)
    assert batch.samples == batch.compared == 500
    assert batch.cosine_min == pytest.approx(1.0)
    assert rows(batch).min() == pytest.approx(1.0)


def test_another_output_is_not_scored_where_a_batch_leaves_the_first_out(tmp_path):
    ask = against_a_perfect_one(tmp_path, CLASS, "top1@y", Two(first="found"))
    assert ask(Two(first="found"), batch=8).samples == 500
    with pytest.raises(ValueError, match="the metric top1 finds no output found; there are: y"):
        ask(Two(first="found"), batch=8, metric="top1")


def test_without_a_limit_or_a_reference_there_is_nothing_to_decide(passes):
    assert passes(Classifier(wrong=3), limit=None, stop="decided").stopped is None
    alone = passes(Classifier(wrong=3), reference=None, limit=0.01, stop="decided")
    assert alone.stopped is None
    assert alone.samples == 500


# -- in a sweep ------------------------------------------------------------------------------------


def exact_labels(config: SweepConfig, folder: Path) -> None:
    """Label the data by what the null backend's fp32 says, 608 samples sorted by class."""
    work = folder / "labelling"
    work.mkdir()
    engine = BACKEND.build(BuildRequest(config.model, Precision.FP32, "source", "cpu"), str(work))
    session = BACKEND.open(engine, "cpu", Settings())
    x = np.random.default_rng(0).standard_normal((608, 32)).astype(np.float32)
    session.bind({"features": x})
    session.run()
    labels = session.fetch()["scores"].argmax(axis=1)
    order = np.argsort(labels, kind="stable")
    np.savez(config.data, features=x[order], labels=labels[order])


def swept(folder: Path, stop: str, **wishes: Any) -> Results:
    """Errors of 0, a little and far too much, at a limit of 5 %."""
    folder.mkdir()
    config = configure(
        folder,
        options={"latency_us": ["0"], "error": ["0", "1e-6", "3"]},
        measure={"stop_early": stop, "rounds": 1, **wishes},
        constraints={"max_accuracy_drop": 0.05},
    )
    exact_labels(config, folder)
    return sweep(config, LAB, Cache(folder / "cache"))


def by_error(results: Results) -> dict[str, AccuracyRecord]:
    return {
        dict(each.settings.options)["error"]: record
        for each in results.run.candidates
        for record in results.accuracies
        if record.candidate == each.id
    }


def scores(results: Results, record: AccuracyRecord) -> Array:
    assert record.scores is not None
    return results.numbers(record.scores)


def test_a_sweep_ends_passes_early_as_it_was_asked(tmp_path):
    runs = {stop: swept(tmp_path / stop, stop) for stop in ("refused", "decided")}
    found = {stop: by_error(results) for stop, results in runs.items()}
    counts = {
        stop: [records[error].samples for error in ("0", "1e-6", "3")]
        for stop, records in found.items()
    }
    # 8 more calibrate
    assert counts == {"refused": [600, 600, 64], "decided": [600, 256, 64]}
    assert found["refused"]["3"].stopped == "refused after 64 of 600 samples"
    assert found["decided"]["1e-6"].stopped == "certified after 256 of 600 samples"
    assert found["refused"]["0"].value == found["refused"]["1e-6"].value == 1.0
    for stop, results in runs.items():
        answers = {
            dict(each.candidate.settings.options)["error"]: each.drop.judge(0.05)
            for each in analyse(results).summaries
        }
        assert answers == {"0": Answer.MEETS, "1e-6": Answer.MEETS, "3": Answer.MISSES}
        choice = recommend(analyse(results), Limits(max_accuracy_drop=0.05)).choice
        assert dict(choice.candidate.settings.options)["error"] != "3"
        for error, record in found[stop].items():
            other = scores(runs["refused"], found["refused"][error])
            assert (scores(results, record) == other[: record.samples]).all()
