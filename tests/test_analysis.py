"""Records in, summaries and comparisons out: by known timings, whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import (
    IMPORTED_BYTES,
    INT8,
    MB,
    NOW,
    accuracy,
    build,
    candidate,
    end,
    head,
    launch,
    memory,
    right,
    rounds,
    slices,
    timed_run,
    write,
)

from harness import analysis as analyse_module
from harness.errors import StoreError
from harness.record import Agreement, DropRecord, LaunchRecord, Skip
from harness.stats import Verdict
from harness.store import read
from harness.types import Executed, Scenario, Share, Stage, Status

analyse, launch_value = analyse_module.analyse, analyse_module.launch_value

BASE, OTHER = candidate("a"), candidate("b", INT8, "qdq")
MS = 1e6


def moods(count, seed=0, spread=0.2):
    """What a host's mood multiplies a whole round by."""
    return np.exp(np.random.default_rng(seed).normal(0, spread, count)).tolist()


def jitter(count, seed, spread=0.002):
    return np.exp(np.random.default_rng(seed).normal(0, spread, count))


def pair(folder, factor, count=5, spread=0.002, **more):
    """The baseline, and one that takes ``factor`` of its time, in rounds of very unlike moods."""
    mood = np.array(moods(count)) * MS
    times = {
        BASE: (mood * jitter(count, 1, spread)).tolist(),
        OTHER: (mood * factor * jitter(count, 2, spread)).tolist(),
    }
    return analyse(timed_run(folder, times, **more))


# comparisons


@pytest.mark.parametrize(
    ("factor", "spread", "found"),
    [
        (0.80, 0.002, Verdict.FASTER),
        (1.25, 0.002, Verdict.SLOWER),
        (1.00, 0.002, Verdict.TIED),
        (1.01, 0.001, Verdict.TIED),  # a real difference, too small to matter
        (1.05, 0.100, Verdict.UNRESOLVED),
    ],
)
def test_verdicts_of_known_timings(tmp_path, factor, spread, found):
    evidence = pair(tmp_path, factor, spread=spread).comparisons[Scenario.LATENCY]
    assert evidence.verdict(OTHER.id, BASE.id) is found
    assert evidence.rounds == 5


def test_the_speedup_is_paired_within_rounds(tmp_path):
    summary = pair(tmp_path, 0.5).summary(OTHER.id)
    # The rounds' moods differ by tens of percents: what is left is the launches' own 0.2 %.
    assert summary.speedup.value == pytest.approx(2.0, rel=0.01)
    assert 1.97 < summary.speedup.low < 2.0 < summary.speedup.high < 2.03
    assert summary.time_ns.high / summary.time_ns.low > 1.2


def test_the_baseline_is_as_fast_as_itself(tmp_path):
    baseline = pair(tmp_path, 0.5).baseline
    assert baseline.candidate == BASE
    assert (baseline.speedup.low, baseline.speedup.high) == (1.0, 1.0)


def test_a_round_that_was_not_finished_is_not_paired(tmp_path):
    records = [head([BASE, OTHER], 3)]
    for number in range(3):
        records += [launch(BASE, number, MS), launch(OTHER, number, MS / 2), *rounds(number)]
    whole = analyse(write(tmp_path, [*records, end()]))
    torn = [*records, launch(BASE, 3, 90 * MS), launch(OTHER, 3, MS), end()]
    assert analyse(write(tmp_path, torn, "torn")) == replace(whole, notes=())


def test_a_failed_launch_is_no_evidence_though_it_has_times(tmp_path):
    bad = launch(OTHER, 0, MS / 9, status=Status.INVALID, reason="ran in fp32")
    found = analyse(write(tmp_path, [head([BASE, OTHER], 1), launch(BASE, 0), bad, *rounds(0)]))
    assert list(found.comparisons[Scenario.LATENCY].logs) == [BASE.id]
    assert found.summary(OTHER.id).time_ns is None


def test_a_screens_round_is_not_paired(tmp_path):
    screen = [
        launch(BASE, 0, 9 * MS, phase="screen"),
        rounds(0)[0].model_copy(update={"phase": "screen"}),
    ]
    found = analyse(
        write(tmp_path, [head([BASE], 1), *screen, launch(BASE, 1, MS), *rounds(1), end()])
    )
    assert found.summary(BASE.id).time_ns.value == pytest.approx(MS)
    assert found.comparisons[Scenario.LATENCY].numbers == (1,)


def test_the_screened_out_keep_the_figures_they_have(tmp_path):
    records = [
        head([BASE, OTHER], 1),
        launch(OTHER, 0, 3 * MS, phase="screen"),
        DropRecord(at=NOW, candidate=OTHER.id, round=0, reason="3 times slower"),
        launch(BASE, 1, MS),
        *rounds(1),
        end(),
    ]
    summary = analyse(write(tmp_path, records)).summary(OTHER.id)
    assert summary.dropped == "3 times slower (in the screen)"
    assert summary.time_ns.value == pytest.approx(3 * MS)
    assert (summary.time_ns.low, summary.time_ns.high) == (0.0, math.inf)
    assert summary.speedup is None


def test_a_control_is_compared_with_its_twin_and_never_ranked(tmp_path):
    records = [head([BASE], 3)]
    for number in range(3):
        records += [
            launch(BASE, number, MS),
            launch(BASE, number, 1.5 * MS, control=True, memory=memory(900)),
            *rounds(number),
        ]
    found = analyse(write(tmp_path, [*records, end()]))
    summary = found.summary(BASE.id)
    assert summary.launches == 3
    assert summary.time_ns.value == pytest.approx(MS)
    assert summary.memory_bytes == 10 * MB
    evidence = found.comparisons[Scenario.LATENCY]
    assert evidence.control == pytest.approx([math.log(1.5)] * 3)
    assert evidence.logs[BASE.id] == pytest.approx(dict.fromkeys(range(3), math.log(MS)))


def test_a_control_without_its_twin_says_nothing(tmp_path):
    records = [head([BASE, OTHER], 1), launch(OTHER, 0), launch(BASE, 0, control=True), *rounds(0)]
    assert analyse(write(tmp_path, records)).comparisons[Scenario.LATENCY].control == ()


def test_a_launch_without_times_is_no_evidence(tmp_path):
    records = [head([BASE], 1), launch(BASE, 0, None), *rounds(0), end()]
    found = analyse(write(tmp_path, records))
    assert found.comparisons == {}
    assert found.summary(BASE.id).time_ns is None


@pytest.mark.parametrize(("why", "planned"), [("done", 5), ("interrupted", 3), ("budget", 3)])
def test_a_run_that_was_cut_looks_at_what_it_has(tmp_path, why, planned):
    records = [head([BASE, OTHER], 5)]
    for number in range(3):
        records += [launch(BASE, number, MS), launch(OTHER, number, MS), *rounds(number)]
    evidence = analyse(write(tmp_path, [*records, end(why)])).comparisons[Scenario.LATENCY]
    assert [look.rounds for look in evidence.looks] == [planned]


def test_a_run_under_way_keeps_to_the_plan(tmp_path):
    records = [head([BASE], 5), launch(BASE, 0), *rounds(0)]
    results = write(tmp_path, records)
    for under_way, planned in ((True, 5), (False, 1)):
        evidence = analyse(results, under_way=under_way).comparisons[Scenario.LATENCY]
        assert [look.rounds for look in evidence.looks] == [planned]


# a launch's value


def test_a_launch_is_the_mean_of_the_logs_of_its_passes():
    both = (*slices(1 * MS, count=1), *slices(4 * MS, count=1), *slices(9 * MS, "run", count=1))
    one = launch(BASE, 0).model_copy(update={"slices": both})
    assert launch_value(one, ("end-to-end",)) == pytest.approx(math.log(2 * MS))
    assert launch_value(one, ("run",)) == pytest.approx(math.log(9 * MS))
    assert launch_value(one, ("throughput",)) is None


def test_an_empty_slice_has_no_value():
    empty = slices(MS)[0].model_copy(update={"iterations": 0})
    one = launch(BASE, 0).model_copy(update={"slices": (empty,)})
    assert launch_value(one, ("end-to-end",)) is None


def test_throughput_is_timed_per_sample(tmp_path):
    many = candidate(scenario=Scenario.THROUGHPUT, batch=8)
    records = [head([many], 3)]
    for number in range(3):
        records += [launch(many, number, 16 * MS), *rounds(number)]
    found = analyse(write(tmp_path, [*records, end()]))
    summary = found.summary(many.id)
    assert summary.time_ns.value == pytest.approx(2 * MS)
    assert summary.throughput_per_s == pytest.approx(500)
    assert list(found.comparisons) == [Scenario.THROUGHPUT]


# summaries


def test_figures_are_medians_of_the_launches(tmp_path):
    records = [head([BASE], 3), build(BASE, build_ns=11, size_bytes=22, notes=("said",))]
    for number, (net_mb, opened) in enumerate(((10, 1), (30, 3), (12, 9))):
        busy = [each.model_copy(update={"run_delay_ns": 25, "cpu_ns": 75}) for each in slices(MS)]
        one = launch(BASE, number, open_ns=opened, memory=memory(net_mb), steady=number != 1)
        records += [one.model_copy(update={"slices": tuple(busy)}), *rounds(number)]
    summary = analyse(write(tmp_path, [*records, end()])).summary(BASE.id)
    assert (summary.build_ns, summary.size_bytes, summary.notes) == (11, 22, ("said",))
    assert (summary.open_ns, summary.first_ns, summary.memory_bytes) == (3, 7, 12 * MB)
    assert summary.quantiles_ns == pytest.approx((0.9 * MS, MS, 1.1 * MS))
    assert summary.run_delay == pytest.approx(0.25)
    assert summary.steady is False
    assert (summary.launches, summary.run_ns) == (3, None)


def test_what_was_not_measured_is_none(tmp_path):
    summary = analyse(write(tmp_path, [head([BASE])])).summary(BASE.id)
    silent = {"status", "candidate", "launches", "notes", "lotteries", "held_down"}
    measured = {
        name for name in vars(summary) if name not in silent and getattr(summary, name) is not None
    }
    assert measured == set()
    assert (summary.status, summary.launches) == (Status.OK, 0)
    assert summary.throughput_per_s is None


def test_counters_that_the_host_lacks_are_left_out(tmp_path):
    blind = [each.model_copy(update={"run_delay_ns": None}) for each in slices(MS)]
    one = launch(BASE, 0, memory=None).model_copy(update={"slices": tuple(blind)})
    summary = analyse(write(tmp_path, [head([BASE], 1), one, *rounds(0)])).summary(BASE.id)
    assert (summary.run_delay, summary.memory_bytes) == (None, None)
    half = memory(1).model_copy(update={"import_only_bytes": None})
    assert half.net_bytes is None
    assert memory(-1000).net_bytes == 0
    assert memory(5).peak_rss_bytes == IMPORTED_BYTES + 5 * MB


def test_two_launches_say_nothing_of_a_spread(tmp_path):
    times = {BASE: [MS, 1.1 * MS]}
    interval = analyse(timed_run(tmp_path, times)).summary(BASE.id).time_ns
    assert (interval.low, interval.high) == (0.0, math.inf)


FAULT = {"status": Status.CRASHED, "stage": Stage.MEASURE, "reason": "signal 11", "fix": "mend it"}


@pytest.mark.parametrize("step", ["build", "accuracy", "launch"])
def test_a_fault_at_any_step_disqualifies_and_is_told(tmp_path, step):
    good = [launch(BASE, 0), *rounds(0)]
    made = build(BASE, **FAULT) if step == "build" else build(BASE)
    fault = FAULT if step == "accuracy" else {}
    more = [launch(BASE, 1, None, **FAULT)] if step == "launch" else []
    records = [head([BASE]), made, lambda s: accuracy(s, BASE, None, **fault), *good, *more, end()]
    summary = analyse(write(tmp_path, records)).summary(BASE.id)
    assert (summary.status, summary.fix) == (Status.CRASHED, "mend it")
    assert summary.reason == "measure: signal 11"


def test_a_fault_that_gives_no_reason_says_so(tmp_path):
    records = [head([BASE]), launch(BASE, 0, None, status=Status.TIMEOUT)]
    assert analyse(write(tmp_path, records)).summary(BASE.id).reason == "no reason was given"


def test_a_build_that_succeeds_on_resuming_makes_the_failed_one_good(tmp_path):
    records = [head([BASE]), build(BASE, **FAULT), build(BASE, size_bytes=5), end()]
    summary = analyse(write(tmp_path, records)).summary(BASE.id)
    assert (summary.status, summary.size_bytes) == (Status.OK, 5)


def test_skips_are_summaries_with_their_reasons(tmp_path):
    skip = Skip(candidate=OTHER, status=Status.UNSUPPORTED, reason="can't", fix="do")
    found = analyse(write(tmp_path, [head([BASE], skips=(skip,))]))
    summary = found.summary(OTHER.id)
    assert (summary.status, summary.reason, summary.fix) == (Status.UNSUPPORTED, "can't", "do")
    assert len(found.summaries) == 2
    assert found.summary("nobody") is None


def test_what_ran_is_what_the_accuracy_pass_or_a_launch_says(tmp_path):
    ran = Executed((Share("cpu", 3),), (Share("int8", 3),))
    records = [head([BASE, OTHER]), launch(OTHER, 0, executed=ran, deploy_code="x = 1"), *rounds(0)]
    found = analyse(write(tmp_path, records))
    assert (found.summary(OTHER.id).executed, found.summary(OTHER.id).deploy_code) == (ran, "x = 1")
    assert found.summary(BASE.id).executed is None


def test_the_run_says_how_it_ended_and_what_was_odd(tmp_path):
    results = write(tmp_path, [head([BASE], baseline=None), end("budget")])
    with results.path.open("ab") as stream:
        stream.write(b"{")
    found = analyse(read(results.path))
    assert (found.finished, found.baseline) == ("budget", None)
    assert "torn last line" in found.notes[0]


def test_names_have_their_settings_where_labels_are_alike(tmp_path):
    one, two = candidate(threads=1), candidate(threads=2)
    found = analyse(write(tmp_path, [head([one, two, OTHER])]))
    names = [found.name(summary) for summary in found.summaries]
    assert names == ["a fp32, threads=1", "a fp32, threads=2", "b int8 (qdq)"]


# accuracy


def test_candidates_of_one_engine_share_its_accuracy_pass(tmp_path):
    one, two = candidate("b", INT8, threads=1), candidate("b", INT8, threads=2)
    larger = candidate("b", INT8, threads=2, batch=8)
    records = [
        head([BASE, one, two, larger]),
        lambda s: accuracy(s, BASE, right(1000)),
        lambda s: accuracy(s, one, right(1000, 3)),
    ]
    found = analyse(write(tmp_path, records))
    for each in (one, two):
        summary = found.summary(each.id)
        assert summary.accuracy == pytest.approx(0.997)
        assert (summary.drop.losses, summary.drop.gains, summary.drop.samples) == (3, 0, 1000)
    assert found.summary(larger.id).drop is None  # another batch is another pass


def test_a_failed_pass_is_not_shared_and_the_own_one_comes_first(tmp_path):
    one, two = candidate("b", INT8, threads=1), candidate("b", INT8, threads=2)
    records = [
        head([BASE, one, two]),
        lambda s: accuracy(s, one, None, **FAULT),
        lambda s: accuracy(s, two, right(10)),
    ]
    found = analyse(write(tmp_path, records))
    assert found.summary(one.id).status is Status.CRASHED
    assert found.summary(two.id).status is Status.OK


def test_the_baseline_drops_by_nothing(tmp_path):
    drop = analyse(
        write(tmp_path, [head([BASE]), lambda s: accuracy(s, BASE, right(5, 2))])
    ).baseline.drop
    assert (drop.value, drop.low, drop.high, drop.samples) == (0.0, 0.0, 0.0, 5)


@pytest.mark.parametrize("case", ["no reference", "not judged", "other samples", "no samples"])
def test_without_a_fair_reference_there_is_no_drop(tmp_path, case):
    own = right(0) if case == "no samples" else right(10)
    base = {"other samples": right(9), "no samples": right(0)}.get(case, right(10))
    records = [
        head([BASE, OTHER]),
        *([] if case == "not judged" else [lambda s: accuracy(s, BASE, base)]),
        lambda s: accuracy(
            s, OTHER, own, **({"reference": None} if case == "no reference" else {})
        ),
    ]
    assert analyse(write(tmp_path, records)).summary(OTHER.id).drop is None


def test_a_baseline_with_the_scores_of_the_reference_needs_no_certificate(tmp_path):
    reference = candidate("z")
    few = head([BASE, OTHER], reference=reference)
    judged = [
        lambda s: accuracy(s, reference, right(20, 2), reference=None),
        lambda s: accuracy(s, BASE, right(20, 2), reference=reference.id),
        lambda s: accuracy(s, OTHER, right(20, 2), reference=reference.id),
    ]
    analysis = analyse(write(tmp_path, [few, *judged]))
    assert analysis.baseline.drop.high == 0
    assert analysis.summary(OTHER.id).drop.high > 0.1


def test_a_metric_where_less_is_better(tmp_path):
    rng = np.random.default_rng(0)
    error = rng.random(200)
    records = [
        head([BASE, OTHER]),
        lambda s: accuracy(s, BASE, error, higher_is_better=False),
        lambda s: accuracy(s, OTHER, error + 0.1, higher_is_better=False),
    ]
    assert analyse(write(tmp_path, records)).summary(OTHER.id).drop.value == pytest.approx(0.1)


def test_agreement_is_handed_on(tmp_path):
    close = Agreement(
        samples=9, cosine_mean=1, cosine_min=0.9, sqnr_db=math.inf, max_abs_error=0, top1=None
    )
    records = [head([BASE]), lambda s: accuracy(s, BASE, right(9), agreement=close)]
    assert analyse(write(tmp_path, records)).baseline.agreement == close


def test_damaged_scores_are_no_scores_to_guess(tmp_path):
    results = write(tmp_path, [head([BASE]), lambda s: accuracy(s, BASE, right(9))])
    results.path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(StoreError, match="damaged"):
        analyse(results)


# size


def test_every_record_is_looked_at_a_fixed_number_of_times(tmp_path, monkeypatch):
    """Twice the candidates and rounds: four times the launches, and four times the reading."""

    def reads(candidates, count):
        everyone = [candidate("a", threads=n) for n in range(1, candidates + 1)]
        records = [head(everyone, count)]
        for number in range(count):
            records += [launch(each, number, MS + each.settings.threads) for each in everyone]
            records += rounds(number)
        results = write(tmp_path, [*records, end()], f"{candidates}-{count}")
        looked = 0
        plain = LaunchRecord.__getattribute__

        def counting(self, name):
            nonlocal looked
            looked += name == "candidate"
            return plain(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(LaunchRecord, "__getattribute__", counting)
            found = analyse(results)
        assert all(each.launches == count for each in found.summaries)
        return looked / (candidates * count)

    assert reads(40, 6) <= reads(20, 3) * 1.2
