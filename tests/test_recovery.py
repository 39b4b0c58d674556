"""What is done about int8 that fails: the ladder, the search, and both in a sweep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from pipeline import LAB, SMALL, configure

from harness import jobs, metrics, variants
from harness.analysis import analyse
from harness.cache import Cache
from harness.config import load_sweep
from harness.datasets import CalibrationSet, resolve
from harness.prepare import prepare
from harness.recommendation import Limits, recommend
from harness.record import AddRecord, RecoveryRecord
from harness.recovery import find_failures, ladder, recipe_name
from harness.recovery.ladder import (
    CLEARLY_DB,
    MOST_PROPOSALS,
    Quality,
    climb,
    doubling,
    enough,
    grouped,
    proposals,
    ranked,
)
from harness.recovery.search import search
from harness.run import resume, sweep
from harness.stats import Answer
from harness.store import Results
from harness.testing_models import model_specs
from harness.types import Precision, Tried
from harness.variants.files import nodes_of

Array = np.ndarray[Any, Any]
LIMIT = 0.1

# -- the ladder ------------------------------------------------------------------------------------

layers = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=40)
qualities = st.builds(
    Quality,
    st.floats(-0.1, 0.3) | st.just(float("inf")),
    st.none() | st.floats(-10.0, 60.0),
)


@given(layers, st.integers(1, 50))
def test_groups_are_neighbours_of_about_one_size(names: list[str], most: int) -> None:
    groups = grouped(names, most)
    assert [name for group in groups for name in group] == names
    assert len(groups) == min(most, len(names))
    sizes = {len(group) for group in groups}
    assert not sizes or max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("count", "rungs"), [(0, []), (1, []), (2, [1]), (3, [1, 2]), (5, [1, 2, 4]), (8, [1, 2, 4])]
)
def test_rungs_double_and_never_leave_everything_out(count, rungs):
    assert doubling(count) == rungs


def test_the_most_harmful_comes_first_and_the_harmless_last():
    assert ranked({"a": 30.0, "b": None, "c": 5.0}) == ["c", "a", "b"]


def test_a_layer_of_two_groups_is_left_out_once():
    assert ladder.first([("a", "b"), ("b", "c"), ("d",)], 2) == ("a", "b", "c")


@given(count=st.integers(0, 40), needed=st.integers(0, 45))
def test_climbing_finds_the_fewest_and_asks_of_no_number_twice(count: int, needed: int) -> None:
    order = [(f"layer {place}",) for place in range(count)]
    asked: list[int] = []

    def evaluate(left_out: tuple[str, ...]) -> Quality:
        asked.append(len(left_out))
        return Quality(0.0 if len(left_out) >= needed else 1.0, 20.0)

    found = climb(order, 0.01, evaluate)
    assert len(asked) == len(set(asked))
    assert all(1 <= rung < count for rung in asked)
    highest = count - 1
    assert found == (max(1, needed) if highest > 0 and needed <= highest else None)


@given(st.lists(st.booleans(), min_size=2, max_size=40))
def test_climbing_ends_at_a_rung_that_is_enough_whatever_it_sees(good: list[bool]) -> None:
    asked: dict[int, bool] = {}

    def evaluate(left_out: tuple[str, ...]) -> Quality:
        rung = len(left_out)
        assert rung not in asked
        asked[rung] = good[rung]
        return Quality(0.0 if good[rung] else 1.0, 20.0)

    found = climb([(str(place),) for place in range(len(good))], 0.01, evaluate)
    if found is None:
        assert not any(asked.values())
    else:
        assert asked[found]
        # the next fewer was asked, and wasn't enough
        assert found == 1 or asked[found - 1] is False


def test_half_of_the_limit_is_enough_and_an_unknown_drop_is_not():
    assert enough(Quality(0.005, 20.0), 0.01)
    assert not enough(Quality(0.006, 20.0), 0.01)
    step = Tried("all", (), (), None, 40.0, None, 1)
    assert not enough(ladder.quality_of(step), 0.01)


def test_no_drop_on_few_samples_is_not_enough_while_the_noise_is_that_of_a_failure():
    failed = Quality(0.0, 20.0)
    assert not enough(Quality(0.0, 21.0), 0.01, failed)
    assert enough(Quality(0.0, 22.0), 0.01, failed)
    assert enough(Quality(0.0, None), 0.01, failed)


@given(st.lists(st.tuples(st.integers(0, 8), qualities), max_size=25))
def test_proposals_are_the_safest_first_and_few(tried: list[tuple[int, Quality]]) -> None:
    limit = 0.02
    found = proposals(tried, limit)
    good = [place for place, (_, quality) in enumerate(tried) if enough(quality, limit)]
    assert set(found) <= set(good)
    assert bool(found) == bool(good)
    assert len(found) == len(set(found)) <= MOST_PROPOSALS
    for safer, next_one in zip(found, found[1:], strict=False):
        assert tried[safer][0] >= tried[next_one][0]
        noise, more = tried[safer][1].noise, tried[next_one][1].noise
        assert noise <= more - CLEARLY_DB
    if found:  # the last has the fewest layers, and the least noise of those
        fewest = min(tried[place][0] for place in good)
        assert tried[found[-1]][0] == fewest
        assert tried[found[-1]][1].noise == min(
            tried[place][1].noise for place in good if tried[place][0] == fewest
        )


def test_of_many_proposals_the_fewest_layers_and_the_quietest_stay():
    tried = [(count, Quality(0.0, 10.0 + 2 * count)) for count in range(20)]
    found = proposals(tried, 0.01)
    assert (found[0], found[-1], len(found)) == (19, 0, MOST_PROPOSALS)


# -- what failed, and what it is called ------------------------------------------------------------

FP32 = builders.candidate("a")


def failing(folder: Path, wrong: dict[Any, int], more: tuple[Any, ...] = ()) -> Results:
    """300 samples, of which each candidate errs on so many."""
    records: list[Any] = [builders.head([FP32, *wrong])]
    records += [builders.build(each) for each in (FP32, *wrong)]
    for each, errors in {FP32: 0, **wrong}.items():
        scores = builders.right(300, errors)
        records.append(lambda store, e=each, s=scores: builders.accuracy(store, e, s))
    return builders.write(folder, [*records, *more])


def int8(backend: str, recipe: str, threads: int | None = None) -> Any:
    return builders.candidate(backend, Precision.INT8, recipe, threads)


def test_failures_are_grouped_by_the_file_that_has_to_change(tmp_path):
    shared = [int8("a", "qdq"), int8("a", "qdq", 2), int8("b", "qdq")]
    own = [int8("b", "nncf")]
    fine = [int8("b", "qdq-all"), builders.candidate("b", Precision.FP16, "fp16")]
    wrong = {**dict.fromkeys((*shared, *own), 40), fine[0]: 0, fine[1]: 200}
    found = {each.name: each.candidates for each in find_failures(failing(tmp_path, wrong), 0.01)}
    assert found == {"qdq": tuple(shared), "b nncf": tuple(own)}


def test_too_few_samples_are_no_failure_but_a_drop_near_the_limit_is(tmp_path):
    near, far = int8("a", "qdq"), int8("a", "qdq-all")
    results = failing(tmp_path, {near: 2, far: 1})  # 0.67 and 0.33 %
    assert [each.name for each in find_failures(results, 0.01)] == ["qdq"]


def test_what_was_searched_or_added_already_is_not_searched_again(tmp_path):
    searched, mended = int8("a", "qdq"), int8("a", "qdq-keep2")
    record = RecoveryRecord(at=builders.NOW, recipe="qdq")
    added = AddRecord(
        at=builders.NOW,
        candidate=mended,
        origin=searched.id,
        recipe="qdq",
        recipe_parameters=(),
    )
    results = failing(tmp_path, {searched: 40, mended: 40}, (record, added))
    assert find_failures(results, 0.01) == []


@pytest.mark.parametrize(
    ("changes", "left_out", "expected"),
    [
        ({}, (), "qdq"),
        ({"exclude": '["fc"]'}, ("fc",), "qdq-keep1"),
        ({"calibration": "entropy"}, (), "qdq-entropy"),
        ({"calibration": "percentile", "percentile": "99.9"}, (), "qdq-percentile99.9"),
        ({"reduce_range": "yes"}, ("a", "b"), "qdq-7bit-keep2"),
        ({"accuracy_control": "0.005"}, (), "qdq-accuracy-control-0.005"),
    ],
)
def test_a_variant_is_called_by_what_was_changed(changes, left_out, expected):
    before = {"calibration": "minmax", "reduce_range": "no"}
    failed = variants.Recipe("qdq", tuple(before.items()))
    step = Tried("", tuple({**before, **changes}.items()), left_out, 0.0, None, None, 1)
    assert recipe_name(failed, step) == expected


# -- the search ------------------------------------------------------------------------------------


def fragile_model() -> Any:
    """Four products; one reads a channel that is 300 times as large as the others.

    That channel and the others decide together, and one scale can't serve both.
    """
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Array:
        drawn: Array = (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        return drawn

    held = {"w1": weights(16, 32), "scale": np.ones(32, np.float32), "w2": weights(32, 32)}
    held |= {"w3": weights(32, 32), "w4": weights(32, 8)}
    held["scale"][-1] = 300
    held["w2"][-1] *= 2 / 300
    nodes = [
        ("MatMul", ["x", "w1"], "a", "first"),
        ("Mul", ["a", "scale"], "b", "stretch"),
        ("MatMul", ["b", "w2"], "c", "fragile"),
        ("Relu", ["c"], "d", "relu"),
        ("MatMul", ["d", "w3"], "e", "middle"),
        ("Relu", ["e"], "f", "relu again"),
        ("MatMul", ["f", "w4"], "y", "last"),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, ins, [out], name=name) for kind, ins, out, name in nodes],
        "fragile",
        [helper.make_tensor_value_info("x", 1, ["batch", 16])],
        [helper.make_tensor_value_info("y", 1, ["batch", 8])],
        initializer=[numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def infer(model: str, x: Array) -> Array:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: Array = session.run(None, {"x": x})[0]
    return scores


def write(folder: Path, samples: int) -> dict[str, str]:
    """The model, and samples that it tells clearly, labelled by what it says."""
    paths = {"model": str(folder / "model.onnx"), "data": str(folder / "data.npz")}
    onnx.save(fragile_model(), paths["model"])
    x = np.random.default_rng(1).standard_normal((4 * samples, 16)).astype(np.float32)
    scores = infer(paths["model"], x)
    lead = np.diff(np.sort(scores, axis=1)[:, -2:], axis=1)[:, 0]
    clear = np.argsort(-lead, kind="stable")[:samples]
    clear.sort()
    np.savez(paths["data"], x=x[clear], labels=scores[clear].argmax(axis=1))
    return paths


QDQ = variants.resolve(
    "qdq", Precision.INT8, isa=frozenset({"avx512_vnni"}), device="cpu", saturates=False
)


@pytest.fixture(scope="module")
def searching(tmp_path_factory):
    """A job for the model that fails."""
    folder = tmp_path_factory.mktemp("fragile")
    paths = write(folder, 48)
    inputs, _ = model_specs(paths["model"])
    samples = jobs.Samples(resolve(paths["data"]), "all", 0, 0)
    return jobs.SearchJob("qdq", QDQ.params, paths["model"], inputs, samples, "top1", LIMIT, 60, 1)


@pytest.fixture(scope="module")
def searched(searching):
    return search(searching, metrics.get(searching.metric))


def test_the_search_finds_the_layer_that_does_the_harm(searched):
    assert searched.stopped is None
    assert (searched.metric, searched.samples) == ("top1", 48)
    assert searched.steps[0].drop > 0.5
    worst = min(searched.sensitivity, key=lambda each: each.sqnr_db)
    assert worst.layers == ("fragile",)
    others = [each.sqnr_db for each in searched.sensitivity if each != worst]
    assert min(others) > worst.sqnr_db + 10
    assert len(others) == 3


def test_every_proposal_leaves_that_layer_in_floating_point(searched):
    assert searched.proposals
    for place in searched.proposals:
        step = searched.steps[place]
        assert "fragile" in step.layers
        assert json.loads(dict(step.parameters)["exclude"]) == sorted(step.layers)
        assert step.drop <= LIMIT / 2
    last = searched.steps[searched.proposals[-1]]
    assert last.layers == ("fragile",)


def test_no_step_is_tried_twice(searched):
    assert len({step.parameters for step in searched.steps}) == len(searched.steps)


def test_the_file_of_a_proposal_keeps_the_layer_and_the_accuracy(searching, searched, tmp_path):
    data = np.load(searching.calibration.data.source)

    def accuracy(parameters: tuple[tuple[str, str], ...], out: Path) -> float:
        samples = CalibrationSet(searching.calibration.data, searching.inputs, tuple(range(48)))
        variants.make(variants.Recipe("qdq", parameters), searching.source, str(out), samples)
        return float((infer(str(out), data["x"]).argmax(axis=1) == data["labels"]).mean())

    step = searched.steps[searched.proposals[-1]]
    assert accuracy(QDQ.params, tmp_path / "failed.onnx") < 0.5
    found = accuracy(step.parameters, tmp_path / "kept.onnx")
    assert found == pytest.approx(1.0 - step.drop, abs=0.021)  # what was measured in memory
    nodes = nodes_of(str(tmp_path / "kept.onnx"))
    makers = {value: node.op_type for node in nodes for value in node.output}
    products = {node.name: node for node in nodes if node.op_type == "MatMul"}
    assert set(products) == {"first", "fragile", "middle", "last"}
    read = {
        name: {makers.get(value, "weights") for value in node.input}
        for name, node in products.items()
    }
    assert "DequantizeLinear" not in read.pop("fragile")
    assert set(map(tuple, read.values())) == {("DequantizeLinear",)}


def test_without_labels_the_outputs_are_compared_with_fp32(searching, tmp_path):
    data = np.load(searching.calibration.data.source)
    np.savez(tmp_path / "data.npz", x=data["x"])
    samples = jobs.Samples(resolve(str(tmp_path / "data.npz")), "all", 0, 0)
    found = search(replace(searching, calibration=samples), metrics.get(searching.metric))
    assert found.metric == "cosine"
    assert found.steps[0].drop > LIMIT
    assert found.proposals
    assert all("fragile" in found.steps[place].layers for place in found.proposals)


def test_what_the_user_left_out_stays_out_and_is_no_layer_to_try(searching):
    given_ = {**dict(QDQ.params), "exclude": '["last"]'}
    found = search(
        replace(searching, parameters=tuple(sorted(given_.items()))), metrics.get(searching.metric)
    )
    assert all("last" not in each.layers for each in found.sensitivity)
    assert all("last" in json.loads(dict(step.parameters)["exclude"]) for step in found.steps)
    assert found.proposals


def test_a_search_without_time_says_so(searching):
    found = search(replace(searching, seconds=0.0), metrics.get(searching.metric))
    assert found.stopped == "its time of 0 s was over"
    assert (found.steps, found.proposals) == ((), ())


# -- in a sweep ------------------------------------------------------------------------------------


def swept(folder: Path, samples: int, **wishes: Any) -> tuple[Results, Cache]:
    """ONNX Runtime with one recipe of int8, which fails."""
    quantization = {"include": ["MatMul"], "symmetric": False, **wishes.pop("quantization", {})}
    config = load_sweep(
        None,
        {
            **write(folder, samples),
            "out": str(folder / "results"),
            "backends": ["onnxruntime"],
            "precisions": ["fp32", "int8"],
            "candidates": {"threads": [1]},
            "measure": {**SMALL, "rounds": 1, "calibration_samples": 24, **wishes},
            "constraints": {"max_accuracy_drop": LIMIT},
            "quantization": quantization,
            "recover": "60s",
        },
    )
    cache = Cache(folder / "cache")
    return sweep(config, LAB, cache), cache


@pytest.fixture(scope="module")
def recovered(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("recovered"), 160)


def test_a_sweep_recovers_int8_and_may_recommend_it(recovered):
    results, _ = recovered
    (recovery,) = results.recoveries
    assert (recovery.recipe, recovery.backend, recovery.status) == ("qdq", None, "ok")
    assert (recovery.metric, recovery.samples) == ("top1", 24)
    (failed,) = (each for each in results.run.candidates if each.recipe == "qdq")
    assert results.added
    analysis = analyse(results)
    drop = analysis.summary(failed.id).drop
    assert drop.judge(LIMIT) is Answer.MISSES
    judged = {each.candidate: each for each in results.accuracies}
    built = {each.recipe: each for each in results.builds}
    for added, place in zip(results.added, recovery.proposals, strict=False):
        step = recovery.steps[place]
        assert added.origin == failed.id
        assert (added.recipe, added.recipe_parameters) == ("qdq", step.parameters)
        assert "fragile" in step.layers
        name = added.candidate.recipe
        assert name.startswith("qdq-")
        assert built[name].recipe_parameters == step.parameters
        assert judged[added.candidate.id].ok
        assert analysis.summary(added.candidate.id).drop.judge(LIMIT) is Answer.MEETS
        assert added.candidate.id in {each.candidate for each in results.launches}
    assert not [each for each in results.drops if each.round < 0]
    # the failed one may be fastest, and is never chosen
    allowed = {each.candidate.id for each in results.added} | {results.run.baseline}
    decision = recommend(analysis, Limits(max_accuracy_drop=LIMIT))
    assert decision.choice.candidate.id in allowed
    places = {each.summary.candidate.id: each.place for each in decision.judgements}
    assert places[failed.id] == "refused"
    assert {places[each] for each in allowed} <= {"choice", "tied", "admissible", "dropped"}


def test_going_on_with_a_finished_run_recovers_nothing_anew(recovered, monkeypatch):
    results, cache = recovered

    def refuse(*_: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr("harness.recovery.Recovery._search", refuse)
    again = resume(str(results.path), str(results.path.parent.parent), LAB, cache)
    for part in ("recoveries", "added", "builds", "accuracies", "launches", "rounds"):
        assert getattr(again, part) == getattr(results, part), part


def test_what_the_validation_samples_can_not_certify_is_not_timed(tmp_path):
    results, _ = swept(tmp_path, 72, validation_samples=25)  # 29 would, without an error
    (recovery,) = results.recoveries
    assert recovery.proposals
    (added,) = results.added  # the safest failed, so that no other was looked at
    assert added.recipe_parameters == recovery.steps[recovery.proposals[0]].parameters
    (drop,) = (each for each in results.drops if each.round < 0)
    assert drop.candidate == added.candidate.id
    assert "not certified" in drop.reason
    assert added.candidate.id not in {each.candidate for each in results.launches}
    assert added.candidate.id in {each.candidate for each in results.accuracies}


def test_where_nothing_fails_nothing_is_recovered(tmp_path):
    results, _ = swept(tmp_path, 160, quantization={"exclude": ["fragile"]})
    assert len(results.accuracies) == 3  # the reference's, the baseline's, int8's
    assert (results.recoveries, results.added) == ((), ())


WAYS = ((("bias_correction", "accurate"),), (("accuracy_control", ""), ("preset", "mixed")))


def test_a_backends_own_ways_are_tried_on_the_calibration_samples(tmp_path, monkeypatch):
    def offering(*args: Any) -> Any:
        prepared = prepare(*args)
        (null,) = prepared.knowns
        offers = tuple(
            replace(each, alternatives=WAYS) if each.calibrated else each
            for each in null.capabilities.offers
        )
        capabilities = replace(null.capabilities, offers=offers)
        return replace(prepared, knowns=(replace(null, capabilities=capabilities),))

    monkeypatch.setattr("harness.run.prepare", offering)
    config = configure(
        tmp_path,
        precisions=["fp32", "int8"],
        metric="cosine",
        measure={"rounds": 1},
        constraints={"max_accuracy_drop": 1e-5},
        recover="60s",
    )
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    (recovery,) = results.recoveries
    assert (recovery.recipe, recovery.backend) == ("null-int8", "null")
    assert (recovery.metric, recovery.samples) == ("cosine", 8)
    # an empty value stands for half of the limit
    parameters = [dict(step.parameters) for step in recovery.steps]
    assert parameters[0]["bias_correction"] == "accurate"
    assert parameters[1]["accuracy_control"] == "5e-06"
    assert parameters[1]["preset"] == "mixed"
    assert recovery.steps[1].what == "accuracy control 5e-06 preset mixed"
    # this backend makes nothing of them: they are as bad as what failed, and nothing is proposed
    assert all(step.drop > 5e-6 and 30 < step.sqnr_db < 50 for step in recovery.steps)
    assert (recovery.proposals, results.added) == ((), ())
