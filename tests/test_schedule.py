"""Who is dropped, when enough is known, and what the looks may spend."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.evidence import ALPHA, SPENT, Evidence, final_looks, plan_looks
from harness.schedule import (
    SCREEN_RATIO,
    Standing,
    best_of,
    confirmed,
    hopeless,
    outdone,
    settled,
    suspects,
)
from harness.stats import Verdict

ANY = Standing(possible=True, drop=0.0, memory_bytes=0.0, size_bytes=0.0)


def session(seed, effects, rounds=20, sd=0.005):
    """Evidence as the model says: round + candidate + residual, on the log."""
    rng = np.random.default_rng(seed)
    count = len(effects)
    table = rng.normal(0, 0.02, (rounds, 1)) + rng.normal(0, sd, (rounds, count))
    table = table + np.asarray(effects)
    logs = {str(i): {n: float(table[n, i]) for n in range(rounds)} for i in range(count)}
    return Evidence(logs, tuple(range(rounds)), SPENT, count)


def test_the_looks_spend_five_percent_in_all():
    assert sum(look.alpha for look in SPENT) == pytest.approx(ALPHA)
    for rounds in range(1, 25):
        looks = final_looks(None, rounds)
        assert sum(look.alpha for look in looks) <= ALPHA + 1e-12
        assert looks[-1].rounds == rounds
    assert plan_looks(7) == final_looks(7, 7)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_equal_candidates_are_rarely_called_different(count):
    wrong = 0
    sessions = 300
    for seed in range(sessions):
        evidence = session(seed, [0.0] * count)
        pairs = [(str(a), str(b)) for a in range(count) for b in range(a)]
        found = {evidence.verdict(*pair) for pair in pairs}
        wrong += bool(found & {Verdict.FASTER, Verdict.SLOWER})
    assert wrong / sessions <= 0.05


@pytest.mark.parametrize("noisy", [1, 3])
def test_a_noisy_neighbour_does_not_make_differences(noisy):
    sessions, wrong = 300, 0
    for seed in range(sessions):
        rng = np.random.default_rng(seed)
        spread = np.where(np.arange(7) < noisy, 0.05, 0.004)
        table = rng.normal(0, 0.02, (8, 1)) + rng.normal(0, 1, (8, 7)) * spread
        logs = {str(i): {n: float(table[n, i]) for n in range(8)} for i in range(7)}
        evidence = Evidence(logs, tuple(range(8)), plan_looks(8), 7)
        pairs = [(str(a), str(b)) for a in range(7) for b in range(a)]
        found = {evidence.verdict(*pair) for pair in pairs}
        wrong += bool(found & {Verdict.FASTER, Verdict.SLOWER})
    assert wrong / sessions <= 0.06


@pytest.mark.parametrize(("effect", "least"), [(0.02, 0.98), (0.05, 1.0)])
def test_true_differences_are_found(effect, least):
    found = [session(seed, [0.0, effect]).verdict("1", "0") for seed in range(200)]
    assert np.mean([verdict is Verdict.SLOWER for verdict in found]) >= least


def test_before_the_first_look_nothing_is_decided():
    evidence = session(0, [0.0, 1.0], rounds=2)
    assert evidence.verdict("0", "1") is Verdict.UNRESOLVED
    ratio = evidence.ratio("0", "1")
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    assert not settled(evidence, {"0": ANY, "1": ANY})


def test_what_an_early_look_decided_stays_decided():
    logs = {"a": dict.fromkeys(range(5), 0.0), "b": dict.fromkeys(range(3), 0.5)}
    evidence = Evidence(logs, tuple(range(5)), SPENT, 2)
    assert evidence.verdict("a", "b") is Verdict.FASTER
    assert evidence.ids == ("a",)
    assert evidence.ratio("a", "b").value == pytest.approx(math.exp(0.5))


def test_a_candidate_without_launches_is_unresolved():
    evidence = session(0, [0.0, 0.0])
    assert evidence.verdict("0", "nobody") is Verdict.UNRESOLVED
    assert math.isnan(evidence.difference("0", "nobody"))


SLOW = math.log(SCREEN_RATIO) + 0.1


def test_the_screen_suspects_only_what_is_slow_and_better_at_nothing():
    times = {"a": 0.0, "b": 0.1, "c": SLOW, "d": SLOW}
    standings = {
        "a": ANY,
        "b": ANY,
        "c": ANY,
        "d": Standing(possible=True, drop=-0.01, memory_bytes=0.0, size_bytes=0.0),
    }
    assert suspects(times, standings) == ["c"]
    few = {name: times[name] for name in ("a", "c")}
    assert suspects(few, standings) == []


def test_a_suspect_is_out_only_if_a_second_launch_confirms_it():
    first = {"a": 0.0, "c": SLOW, "d": SLOW}
    again = {"a": 0.2, "c": 0.2 + SLOW, "d": 0.3}
    (out,) = confirmed(first, again, ["c", "d"], "a")
    assert out.candidate == "c"
    assert "times slower than a" in out.reason
    assert confirmed(first, {"a": 0.0}, ["c"], "a") == []


def test_what_misses_a_constraint_is_no_rival_for_what_does_not():
    standings = {
        "fast": Standing(possible=False, drop=0.2),
        "slow": Standing(possible=True, drop=0.0),
    }
    assert best_of({"fast": 0.0, "slow": 1.0}, standings) == "slow"
    evidence = session(1, [0.0, 0.5])
    assert hopeless(evidence, {"0": standings["fast"], "1": standings["slow"]}, frozenset()) == []


def test_the_hopeless_are_dropped_and_the_kept_stay():
    evidence = session(2, [0.0, 0.1, 0.2], rounds=5)
    standings = dict.fromkeys(("0", "1", "2"), ANY)
    assert {each.candidate for each in hopeless(evidence, standings, frozenset())} == {"1", "2"}
    (out,) = hopeless(evidence, standings, frozenset({"1"}))
    assert out.candidate == "2"
    assert "times faster" in out.reason


def test_better_at_something_asked_for_is_not_hopeless():
    evidence = session(3, [0.0, 0.2], rounds=5)
    lean = Standing(possible=True, drop=0.0, memory_bytes=10.0, size_bytes=0.0)
    fat = Standing(possible=True, drop=0.0, memory_bytes=20.0, size_bytes=0.0)
    assert hopeless(evidence, {"0": fat, "1": lean}, frozenset()) == []
    assert hopeless(evidence, {"0": lean, "1": fat}, frozenset()) != []


def test_settled_when_every_possible_rival_is_told_apart_or_tied():
    standings = dict.fromkeys(("0", "1", "2"), ANY)
    assert settled(session(4, [0.0, 0.2, 0.3], rounds=5), standings)
    assert settled(session(5, [0.0, 0.0, 0.3], rounds=20), standings)
    noisy = session(6, [0.0, 0.02, 0.3], rounds=3, sd=0.05)
    assert not settled(noisy, standings)
    out = {**standings, "1": Standing(possible=False)}
    assert settled(session(6, [0.0, 0.02, 0.9], rounds=3, sd=0.05), out)


def test_the_outdone_are_known_to_be_slower_than_the_best_whatever_else_they_are():
    evidence = session(7, [0.0, 0.2, 0.3], rounds=5)
    lean = Standing(possible=True, drop=-0.1, memory_bytes=1.0, size_bytes=1.0)
    standings = {"0": ANY, "1": lean, "2": ANY}
    assert outdone(evidence, standings, frozenset()) == {"1", "2"}
    assert outdone(evidence, standings, frozenset({"2"})) == {"1"}
    noisy = session(8, [0.0, 0.02, 0.03], rounds=3, sd=0.05)
    assert outdone(noisy, standings, frozenset()) == frozenset()


def test_nobody_is_outdone_by_what_can_not_be_the_choice():
    evidence = session(9, [0.0, 0.2], rounds=5)
    impossible = dict.fromkeys(("0", "1"), Standing(possible=False))
    assert outdone(evidence, impossible, frozenset()) == frozenset()
