"""Two stored runs: what got worse, how sure, and what makes them incomparable."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import INT8, NOW, candidate, end, head, launch, right, rounds, timed_run, write
from typer.testing import CliRunner

from harness import store
from harness.cli import app
from harness.comparison import compare, run_spread
from harness.record import DropRecord
from harness.report import comparing
from harness.stats import Verdict
from harness.types import Probe

A, B = candidate("a"), candidate("b", INT8)
TIMES = {A: [2e6, 2.01e6, 1.99e6, 2e6, 2.02e6], B: [1e6, 1.01e6, 0.99e6, 1e6, 1.01e6]}


def runs(folder, base=None, new=None, **how):
    """Two runs; ``how`` changes the new one."""
    return (
        timed_run(folder / "base", base or TIMES, run_id="base"),
        timed_run(folder / "new", new or TIMES, **{"run_id": "new", **how}),
    )


def scaled(factor, who=B):
    return {key: [t * factor if key == who else t for t in own] for key, own in TIMES.items()}


def test_equal_runs_have_no_regression(tmp_path):
    found = compare(*runs(tmp_path))
    assert not found.regressed
    assert not found.void
    assert {each.verdict for each in found.changes} <= {Verdict.TIED, Verdict.UNRESOLVED}
    assert [each.time.value for each in found.changes] == pytest.approx([1, 1])


def test_a_slower_candidate_is_named_with_its_interval(tmp_path):
    found = compare(*runs(tmp_path, new=scaled(1.5)))
    (worse,) = found.regressed
    assert worse.candidate == B.id
    assert worse.verdict is Verdict.SLOWER
    assert worse.time.low < 1.5 < worse.time.high
    assert "1.5 times the time" in worse.worse[0]


def test_a_faster_one_is_no_regression(tmp_path):
    found = compare(*runs(tmp_path, new=scaled(0.5)))
    assert not found.regressed
    assert [each.verdict for each in found.changes if each.candidate == B.id] == [Verdict.FASTER]


def test_accuracy_memory_and_size_can_get_worse_too(tmp_path):
    judged = {A: right(1000), B: right(1000, wrong=80)}
    found = compare(
        *runs(tmp_path, judged=judged, net_mb={A: 10, B: 13}, size_bytes={A: 1000, B: 1200})
    )
    (worse,) = found.regressed
    assert [each.split()[0] for each in worse.worse] == ["the", "memory", "engine"]
    assert worse.drop.low > 0.05


def test_the_metric_on_other_samples_is_not_compared(tmp_path):
    base, new = runs(tmp_path, judged={A: right(1000), B: right(1000, wrong=80)})
    other = new.run.data.model_copy(update={"sha256": "other"})
    moved = store.Results(**{**vars(new), "run": new.run.model_copy(update={"data": other})})
    found = compare(base, moved)
    assert [each.drop for each in found.changes] == [None, None]
    assert [each.what for each in found.differences] == ["data or split"]
    assert not found.void


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"host_fingerprint": "other"}, "hardware"),
        ({"model": {"inputs": ()}}, "model inputs"),
        ({"candidates": (candidate("c"),)}, "candidates"),
    ],
)
def test_what_makes_times_incomparable(tmp_path, changes, what):
    base, new = runs(tmp_path)
    if "model" in changes:
        changes = {"model": new.run.model.model_copy(update=changes["model"])}
    moved = store.Results(**{**vars(new), "run": new.run.model_copy(update=changes)})
    found = compare(base, moved)
    assert [each.what for each in found.void] == [what]
    assert "can't be compared" in comparing.sentence(found)


def test_a_void_session_is_not_compared(tmp_path):
    text = (path := runs(tmp_path)[1].path).read_text()
    path.write_text(text.replace('"throttled":null', '"throttled":4'))
    found = compare(store.read(tmp_path / "base/m-1.jsonl"), store.read(path))
    assert [each.what for each in found.void] == ["session"]


def test_other_versions_are_named_and_do_not_forbid_it(tmp_path):
    base, new = runs(tmp_path, probes=(Probe("b", (("runtime", "2.0"),), ()),))
    found = compare(base, new)
    assert [(d.what, d.base, d.new) for d in found.differences] == [("runtime", "not there", "2.0")]
    assert not found.void


def test_a_candidate_that_is_now_too_slow_to_be_measured_is_worse(tmp_path):
    drop = DropRecord(at=NOW, candidate=B.id, round=0, reason="3 times slower than a")
    base = timed_run(tmp_path / "base", TIMES, run_id="base")
    records = [
        head([A, B], 5, run_id="new"),
        launch(B, 0, 3e6, phase="screen"),
        drop,
        *(launch(A, n, t) for n, t in enumerate(TIMES[A], start=1)),
        *rounds(1, 2, 3, 4, 5),
        end(),
    ]
    (worse,) = compare(base, write(tmp_path / "new", records)).regressed
    assert worse.worse[0].startswith("now out early: 3 times slower")


def test_a_metric_that_moved_by_next_to_nothing_is_the_same(tmp_path):
    rng = np.random.default_rng(0)
    scores = 0.99 + 0.001 * rng.random(1000)
    base = timed_run(tmp_path / "base", TIMES, judged={A: scores, B: scores}, run_id="base")
    new = timed_run(tmp_path / "new", TIMES, judged={A: scores - 1e-5, B: scores}, run_id="new")
    assert not compare(base, new).regressed


def moody_run(folder, rng, number, sigma):
    """A run whose host is in a mood of its own."""
    mood = rng.normal(0, sigma)
    times = {
        who: [t * np.exp(mood + rng.normal(0, 0.005)) for _ in range(5)]
        for who, t in ((A, 2e6), (B, 1e6))
    }
    return timed_run(folder / str(number), times, run_id=f"r{number}")


def test_moods_between_runs_are_no_regressions(tmp_path):
    rng = np.random.default_rng(0)
    past = [moody_run(tmp_path, rng, n, 0.03) for n in range(6)]
    spread = run_spread(past)
    assert spread.runs == 6
    assert 0.01 < spread.deviation < 0.06
    false = 0
    for number in range(40):
        pair = [moody_run(tmp_path, rng, f"{number}{side}", 0.03) for side in "xy"]
        false += bool(compare(*pair, past).regressed)
    assert false <= 4


def test_without_other_runs_the_rounds_tell_the_least(tmp_path):
    found = compare(*runs(tmp_path))
    assert found.spread.runs == 0
    assert "guessed" in comparing.how(found)


# -- on the command line ---------------------------------------------------------------------------


def command(*arguments: object):
    return CliRunner().invoke(app, ["compare", *(str(each) for each in arguments)])


def test_the_gate_fails_on_a_regression_only_when_asked(tmp_path):
    base, new = runs(tmp_path, new=scaled(2.0))
    plain = command(base.path, new.path)
    assert plain.exit_code == 0
    assert "1 of 2 candidates got worse" in plain.output
    assert command(base.path, new.path, "--fail-on", "regression").exit_code == 1
    assert command(new.path, base.path, "--fail-on", "regression").exit_code == 0


def test_unlike_runs_are_refused_with_the_reason(tmp_path):
    base, new = runs(tmp_path, host_fingerprint="other")
    done = command(base.path, new.path)
    assert "can't be compared" in done.output
    assert done.exception is not None
    (problem,) = done.exception.problems
    assert problem.where == "hardware"
    assert "--interleave" in problem.fix


def test_a_budget_without_measuring_is_refused(tmp_path):
    base, new = runs(tmp_path)
    done = command(base.path, new.path, "--budget", "1m")
    assert "--interleave" in str(done.exception)


def test_json(tmp_path):
    base, new = runs(tmp_path, new=scaled(2.0))
    data = json.loads(command(base.path, new.path, "--json").output)
    assert data["schema"] == "enginepick-comparison/1"
    assert data["regressed"] == [B.id]
    (change,) = [each for each in data["candidates"] if each["id"] == B.id]
    assert change["verdict"] == "SLOWER"
    assert change["time_ratio"]["value"] == pytest.approx(2.0)
