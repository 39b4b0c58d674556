"""The choice, its reasons, and everything that must not be chosen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from builders import INT8, MB, candidate, head, right, timed_run, write
from hypothesis import given
from hypothesis import strategies as st

from harness import analysis as analyse_module
from harness import recommendation as recommend_module
from harness.certificates import Drop
from harness.evidence import Evidence, plan_looks
from harness.record import Skip
from harness.stats import Answer, Interval, Verdict
from harness.types import Precision, Scenario, Status

analyse, Analysis, Summary = (
    analyse_module.analyse,
    analyse_module.Analysis,
    analyse_module.Summary,
)
recommend, Limits = recommend_module.recommend, recommend_module.Limits
check_limits, pareto_front = recommend_module.check_limits, recommend_module.pareto_front

BASE, FAST, MID = candidate("a"), candidate("b", INT8, "qdq"), candidate("c", Precision.BF16)
MS = 1e6
ANY = Limits(max_accuracy_drop=None)


def times(factor, count=5):
    """Times of ``count`` rounds, each a little off in a way that the factor's own decides."""
    return [factor * MS * (1 + 0.0005 * math.sin(7 * factor + n)) for n in range(count)]


def choose(folder, parts, limits=ANY, objective="latency", **more):
    run = timed_run(folder, {who: times(factor) for who, factor in parts.items()}, **more)
    return recommend(analyse(run), limits, objective)


def places(found):
    return {each.summary.candidate: each.place for each in found.judgements}


def summary(who=BASE, time_ms=1.0, **changes):
    """A summary by hand, whose time has an interval of 1 % each way."""
    time_ns = time_ms * MS
    values = {
        "time_ns": Interval(time_ns, 0.99 * time_ns, 1.01 * time_ns),
        "memory_bytes": 10.0 * MB,
        "size_bytes": 1000,
        "drop": Drop(0.0, -0.001, 0.001, 5000, 0, 0),
    }
    return Summary(who, **{**values, **changes})


def analysis(*summaries: Any, run=None):
    """An analysis of these, compared over 5 rounds without noise."""
    logs = {
        s.candidate.id: dict.fromkeys(range(5), math.log(s.time_ns.value))
        for s in summaries
        if s.time_ns
    }
    evidence = Evidence(logs, tuple(range(5)), plan_looks(5), len(logs))
    head_ = run or head([s.candidate for s in summaries])
    return Analysis(head_, tuple(summaries), {Scenario.LATENCY: evidence}, "done")


# the choice


def test_the_fastest_is_chosen_and_the_next_is_the_runner_up(tmp_path):
    found = choose(tmp_path, {BASE: 2.0, FAST: 1.0, MID: 1.5})
    assert found.choice.candidate == FAST
    assert found.runner_up.candidate == MID
    assert places(found) == {FAST: "choice", MID: "admissible", BASE: "admissible"}
    assert [each.against_best for each in found.judgements] == [
        Verdict.TIED,
        Verdict.SLOWER,
        Verdict.SLOWER,
    ]
    assert "1.50x" in found.certainty
    assert "faster than the runner-up, c bf16" in found.certainty
    assert found.certainty.endswith("5 rounds")
    assert found.unknown == ()


def test_a_faster_one_that_misses_a_constraint_is_refused(tmp_path):
    found = choose(
        tmp_path,
        {BASE: 2.0, FAST: 1.0},
        Limits(),
        judged={FAST: right(1000, 100)},
    )
    assert found.choice.candidate == BASE
    assert places(found)[FAST] == "refused"
    (refused,) = found.placed("refused")
    assert "accuracy drop +0.1" in refused.why
    assert "limit 0.01" in refused.why
    assert "the only candidate that meets every constraint" in found.certainty


def test_what_is_not_certified_is_listed_apart_with_what_it_takes(tmp_path):
    scores = {who: right(100) for who in (BASE, FAST)}
    found = choose(tmp_path, {BASE: 2.0, FAST: 1.0}, Limits(), judged=scores)
    assert found.choice.candidate == BASE  # its own drop is zero by definition
    (open_,) = found.placed("unresolved")
    assert open_.summary.candidate == FAST
    assert open_.why == (
        "no difference in 100 samples, limit 0.01; about 199 more samples would certify it"
    )
    assert found.unknown == (f"b int8 (qdq): {open_.why}",)


def test_nobody_meets_the_constraints(tmp_path):
    found = choose(tmp_path, {BASE: 2.0, FAST: 1.0}, Limits(max_latency_ns=0.5 * MS))
    assert (found.choice, found.runner_up) == (None, None)
    assert found.certainty == "no candidate is certified to meet every constraint"
    assert set(places(found).values()) == {"refused"}
    assert all(each.against_best is None for each in found.judgements)


def test_a_failed_one_is_never_chosen_and_says_why(tmp_path):
    skip = Skip(candidate=MID, status=Status.UNSUPPORTED, reason="no bf16 here")
    found = choose(tmp_path, {BASE: 2.0}, skips=(skip,))
    assert places(found) == {BASE: "choice", MID: "failed"}
    (failed,) = found.placed("failed")
    assert failed.why == "unsupported: no bf16 here"
    fast = summary(FAST, 0.1, status=Status.CRASHED, reason="signal 11")
    assert recommend(analysis(summary(), fast), ANY).choice.candidate == BASE


def test_one_alone_is_the_only_one(tmp_path):
    found = choose(tmp_path, {BASE: 1.0})
    assert found.certainty == "the only candidate that meets every constraint; 5 rounds"
    assert found.limits == ANY
    assert recommend(analysis(summary())).limits == Limits()


def test_one_round_is_one_round(tmp_path):
    run = timed_run(tmp_path, {BASE: [MS], FAST: [2 * MS]})
    found = recommend(analyse(run), ANY)
    assert "not yet told apart from b int8 (qdq): 2.00x (95 % 0.00 to inf)" in found.certainty
    assert found.certainty.endswith("1 round")


# ties


def test_a_tie_goes_to_less_memory(tmp_path):
    parts, net = {BASE: 1.0, FAST: 1.003}, {BASE: 30.0, FAST: 10.0}
    found = choose(tmp_path, parts, net_mb=net)
    assert found.choice.candidate == FAST
    assert places(found) == {BASE: "tied", FAST: "choice"}
    assert found.certainty.startswith("tied with a fp32; chosen for less memory")
    assert found.runner_up is None


@pytest.mark.parametrize(("lean_mb", "chosen"), [(10.0, BASE), (9.0, FAST)])
def test_memory_within_five_percent_goes_to_the_higher_precision(tmp_path, lean_mb, chosen):
    parts, net = {BASE: 1.003, FAST: 1.0}, {BASE: 10.4, FAST: lean_mb}
    assert choose(tmp_path, parts, net_mb=net).choice.candidate == chosen


def test_of_equal_precision_and_memory_the_faster(tmp_path):
    one, two = candidate("a"), candidate("b")
    assert choose(tmp_path, {one: 1.003, two: 1.0}).choice.candidate == two


def test_unknown_memory_wins_no_tie():
    lean, unknown = summary(FAST), summary(BASE, memory_bytes=None)
    assert recommend(analysis(unknown, lean), ANY).choice == lean
    both = [summary(FAST, memory_bytes=None), unknown]
    assert recommend(analysis(*both), ANY).choice == unknown  # by precision


def test_unresolved_is_no_tie(tmp_path):
    noisy = [MS * f for f in (1.0, 1.4, 0.8, 1.2, 1.1)]
    run = timed_run(tmp_path, {BASE: noisy, FAST: [MS] * 5}, net_mb={BASE: 1.0, FAST: 99.0})
    found = recommend(analyse(run), ANY)
    assert found.choice.candidate == FAST  # however lean the other is
    assert found.runner_up.candidate == BASE
    assert "not yet told apart from a fp32" in found.certainty


def test_without_common_rounds_nothing_is_said_of_the_ratio():
    one, two = summary(BASE, 1.0), summary(FAST, 2.0)
    alone = replace(
        analysis(one, two),
        comparisons={Scenario.LATENCY: replace(analysis(one).comparisons[Scenario.LATENCY])},
    )
    assert "not yet told apart from b int8 (qdq): ?" in recommend(alone, ANY).certainty
    nothing = replace(alone, comparisons={})
    found = recommend(nothing, ANY)
    assert found.choice == one
    assert found.certainty == "no round was finished, so nothing was compared"


def test_a_choice_within_a_tie_may_lose_to_the_runner_up_or_tie_with_it():
    """Tied with the best is not transitive: the words must fit whatever the pair's own verdict."""
    best, lean = summary(BASE, 1.0, memory_bytes=30.0 * MB), summary(FAST, 1.015)
    third = summary(MID, 1.025, memory_bytes=20.0 * MB)
    found = recommend(analysis(best, lean, third), ANY)
    assert (found.choice, found.runner_up) == (lean, third)
    assert "within the margin of the runner-up, c bf16" in found.certainty
    # Ranked by memory nobody asks for the time's verdict.
    assert "runner-up" not in recommend(analysis(best, lean, third), ANY, "memory").certainty


# constraints


@pytest.mark.parametrize(
    ("drop", "answer", "words"),
    [
        (None, Answer.UNRESOLVED, "accuracy drop not measured"),
        (Drop(0, 0, 0.009, 1000, 0, 0), Answer.MEETS, "accuracy drop +0 (95 % bounds"),
        (Drop(0.05, 0.02, 0.08, 500, 30, 5), Answer.MISSES, "accuracy drop +0.05"),
        (Drop(0.005, -0.01, 0.02, 400, 4, 2), Answer.UNRESOLVED, "more samples would certify it"),
        (Drop(0.0, -0.04, 0.04, 50, 0, 0), Answer.UNRESOLVED, "no difference in 50 samples"),
        (Drop(0.005, -0.01, 0.02, 400), Answer.UNRESOLVED, "+0.02), limit 0.01"),
    ],
)
def test_accuracy_against_its_limit(drop, answer, words):
    (check,) = check_limits(summary(drop=drop), Limits())
    assert (check.name, check.answer) == ("accuracy", answer)
    assert words in check.text


@pytest.mark.parametrize(
    ("limit_ms", "answer"),
    [(1.02, Answer.MEETS), (1.0, Answer.UNRESOLVED), (0.98, Answer.MISSES)],
)
def test_latency_against_its_limit(limit_ms, answer):
    (check,) = check_limits(summary(), Limits(None, max_latency_ns=limit_ms * MS))
    assert (check.name, check.answer) == ("latency", answer)
    assert check.text == f"latency 1 ms (95 % 0.99 to 1.01), limit {limit_ms:g} ms"


def test_a_busy_host_certifies_no_latency_and_still_refuses():
    busy = summary(run_delay=0.5)
    (check,) = check_limits(busy, Limits(None, max_latency_ns=2 * MS))
    assert check.answer is Answer.UNRESOLVED
    assert "too busy to certify" in check.text
    (check,) = check_limits(busy, Limits(None, max_latency_ns=0.5 * MS))
    assert check.answer is Answer.MISSES


def test_latency_of_what_was_not_timed_alone():
    limits = Limits(None, max_latency_ns=MS)
    many = summary(candidate(scenario=Scenario.THROUGHPUT))
    for each in (many, summary(time_ns=None)):
        (check,) = check_limits(each, limits)
        assert (check.answer, check.text) == (Answer.UNRESOLVED, "latency not measured")


@pytest.mark.parametrize("name", ["memory", "size"])
@pytest.mark.parametrize(
    ("value", "answer", "text"),
    [
        (None, Answer.UNRESOLVED, "{} not measured"),
        (5 * MB, Answer.MEETS, "{} 5 MB, limit 5 MB"),
        (6 * MB, Answer.MISSES, "{} 6 MB, limit 5 MB"),
    ],
)
def test_bytes_against_their_limit(name, value, answer, text):
    limits = Limits(None, **{f"max_{name}_bytes": 5 * MB})
    (check,) = check_limits(summary(**{f"{name}_bytes": value}), limits)
    assert (check.name, check.answer, check.text) == (name, answer, text.format(name))


def test_all_constraints_are_checked_in_order():
    checks = check_limits(summary(), Limits(0.01, 2 * MS, 99 * MB, 99))
    assert [each.name for each in checks] == ["accuracy", "latency", "memory", "size"]
    found = recommend(analysis(summary()), Limits(0.01, 2 * MS, 99 * MB, 99))
    (refused,) = found.judgements
    assert (refused.place, refused.why) == ("refused", "size 0.001 MB, limit 9.9e-05 MB")


def test_a_missed_constraint_counts_more_than_an_open_one():
    one = summary(drop=None, memory_bytes=9 * MB)
    found = recommend(analysis(one), Limits(max_memory_bytes=MB))
    assert places(found) == {BASE: "refused"}


# objectives


def test_by_memory_and_by_size(tmp_path):
    parts = {BASE: 1.0, FAST: 2.0, MID: 3.0}
    more = {"net_mb": {BASE: 30.0, FAST: 10.0}, "size_bytes": {BASE: 9000, FAST: 8000, MID: 10}}
    by_memory = choose(tmp_path / "m", parts, objective="memory", **more)
    assert places(by_memory) == {FAST: "tied", MID: "choice", BASE: "admissible"}
    assert by_memory.runner_up.candidate == BASE
    by_size = choose(tmp_path / "s", parts, objective="size", **more)
    assert by_size.choice.candidate == MID
    assert [each.summary.candidate for each in by_size.judgements] == [MID, FAST, BASE]


@pytest.mark.parametrize("objective", ["memory", "size"])
def test_what_the_objective_was_not_measured_of_is_not_chosen(objective):
    unknown = {f"{objective}_bytes": None}
    found = recommend(analysis(summary(BASE, 1.0, **unknown), summary(FAST, 9.0)), ANY, objective)
    assert found.choice.candidate == FAST
    assert places(found)[BASE] == "unmeasured"
    assert found.unknown == (f"a fp32: its {objective} was not measured",)
    alone = recommend(analysis(summary(**unknown)), ANY, objective)
    assert alone.choice is None


def test_an_objective_that_was_not_swept_names_the_command(tmp_path):
    found = choose(tmp_path, {BASE: 1.0}, objective="throughput")
    assert found.choice is None
    assert found.unknown == (
        "throughput was not measured: enginepick sweep m.onnx --data d.npz --objective throughput",
    )


def test_throughput_is_compared_on_its_own(tmp_path):
    parts = {
        candidate("a", scenario=Scenario.THROUGHPUT): 8.0,
        candidate("b", scenario=Scenario.THROUGHPUT, batch=8): 16.0,
    }
    found = choose(tmp_path, parts, objective="throughput")
    assert found.choice.candidate.backend == "b"
    assert found.choice.throughput_per_s == pytest.approx(500, rel=0.01)


def test_what_was_planned_and_not_measured_names_the_command(tmp_path):
    found = recommend(analyse(write(tmp_path, [head([BASE])])), ANY)
    assert places(found) == {BASE: "unmeasured"}
    (text,) = found.unknown
    assert text.endswith("enginepick sweep --resume m-1")
    assert "a fp32 was planned" in text


def test_the_dropped_are_not_chosen_but_named_where_they_could_win():
    out = summary(FAST, 0.5, dropped="slower under the limits of then")
    found = recommend(analysis(summary(), out), ANY)
    assert found.choice.candidate == BASE
    (dropped,) = found.placed("dropped")
    assert dropped.why == "slower under the limits of then"
    (text,) = found.unknown
    assert text.endswith("enginepick sweep m.onnx --data d.npz --backend b --precision int8")
    slow = summary(FAST, 5.0, dropped="5 times slower")
    assert recommend(analysis(summary(), slow), ANY).unknown == ()
    nobody = recommend(analysis(slow), ANY)
    assert nobody.choice is None
    assert "may be the choice" in nobody.unknown[0]


# the front

PARTS = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))


def standing(place, figures):
    time_ms, drop, memory_mb, size = figures
    return summary(
        candidate("a", threads=place + 1),
        time_ms,
        drop=Drop(drop / 100, 0, 1, 10) if drop else None,
        memory_bytes=memory_mb * MB if memory_mb < 4 else None,
        size_bytes=size if size < 4 else None,
    )


def costs(each):
    drop = each.drop.value if each.drop else math.inf
    rest = (each.memory_bytes, each.size_bytes)
    return (each.time_ns.value, drop, *(math.inf if x is None else x for x in rest))


def dominates(one, other):
    pairs = list(zip(costs(one), costs(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(st.lists(PARTS, max_size=12))
def test_the_front_is_what_nobody_dominates(parts):
    everyone = [standing(place, figures) for place, figures in enumerate(parts)]
    front = pareto_front(everyone)
    for each in everyone:
        assert (each not in front) == any(dominates(other, each) for other in everyone)
    for each in everyone:  # whoever is beaten is beaten by a member of the front
        assert each in front or any(dominates(other, each) for other in front)
    assert pareto_front(front) == front


def test_the_front_is_shown_of_what_was_measured():
    failed = summary(MID, 0.1, status=Status.FAILED, reason="x")
    found = recommend(analysis(summary(), summary(FAST, 2.0), failed), ANY)
    assert {each.summary.candidate for each in found.judgements if each.on_front} == {BASE}


# in general


@given(
    st.lists(PARTS, min_size=1, max_size=8),
    st.sampled_from(["latency", "memory", "size"]),
    st.sampled_from([None, 0.015]),
    st.sampled_from([None, 2.5 * MS]),
)
def test_the_choice_meets_every_constraint_and_is_tied_with_the_best(parts, objective, drop, time):
    everyone = [standing(place, figures) for place, figures in enumerate(parts)]
    limits = Limits(drop, time)
    whole = analysis(*everyone)
    found = recommend(whole, limits, objective)
    assert len(found.judgements) == len(everyone)
    assert {each.summary.candidate.id for each in found.judgements} == {
        each.candidate.id for each in everyone
    }
    chosen = found.placed("choice")
    assert [each.summary for each in chosen] == ([found.choice] if found.choice else [])
    for each in found.placed("choice", "tied", "admissible"):
        assert all(check.answer is Answer.MEETS for check in each.checks)
    if found.choice is not None and objective == "latency":
        evidence = whole.comparisons[Scenario.LATENCY]
        least = min(each.summary.time_ns.value for each in found.placed("choice", "tied"))
        assert found.choice.time_ns.value <= least * math.exp(evidence.margin) * (1 + 1e-9)
        for each in found.placed("admissible"):
            assert each.against_best is not Verdict.TIED
    assert recommend(whole, limits, objective) == found
