"""What the self-test concludes from what it measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import candidate, launch

from harness import views
from harness.chains import CONTROL, evidence, name_of
from harness.evidence import final_looks
from harness.noise import Tier
from harness.selftest import EXTRA_LAYERS, LAYERS, _conclude, resolve
from harness.stats import Verdict


def session(rounds=8, sd=0.004, control=1.0, run_delay=0.0, seed=0):
    """Launches of the chains, each as slow as its layers make it."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(rounds):
        mood = rng.normal(0, 0.05)
        for extra in (0, *EXTRA_LAYERS, None):
            who = candidate("a", recipe=f"chain-{LAYERS + (extra or 0)}")
            work = control if extra is None else (LAYERS + extra) / LAYERS
            time_ns = 3e6 * work * math.exp(mood + rng.normal(0, sd))
            made.append(launch(who, number, time_ns, control=extra is None))
    waited = [
        each.model_copy(
            update={
                "slices": tuple(
                    s.model_copy(update={"run_delay_ns": int(run_delay * (s.cpu_ns or 0))})
                    for s in each.slices
                )
            }
        )
        for each in made
    ]
    return _conclude("a", waited, 60.0, [5.0] * rounds)


def test_equal_engines_are_tied_and_more_work_is_found():
    found = session()
    assert found.passed
    assert found.control_verdict is Verdict.TIED
    by_name = {each.name: each for each in found.trials}
    assert by_name["55 layers"].verdict is Verdict.SLOWER
    assert by_name["55 layers"].ratio.low < 1.1 < by_name["55 layers"].ratio.high
    assert "differences of 2 %" in views.summary_of(found)


def test_equal_engines_that_differ_fail_it():
    found = session(control=1.1)
    assert not found.passed
    assert "do not trust" in views.summary_of(found)


def test_a_noisy_host_resolves_less():
    quiet, noisy = session(sd=0.003), session(sd=0.03)
    for still, loud in zip(quiet.resolutions, noisy.resolutions, strict=True):
        assert loud.rounds is None or still.rounds <= loud.rounds
    assert noisy.resolutions[1].rounds is None


@pytest.mark.parametrize(
    ("run_delay", "tier"), [(0.001, Tier.GREEN), (0.05, Tier.AMBER), (0.5, Tier.RED)]
)
def test_the_host_says_what_absolute_times_are_worth_and_why(run_delay, tier):
    found = session(run_delay=run_delay)
    assert found.tier is tier
    words = views.host_words(found)
    assert words.startswith(f"{tier}: absolute latencies")
    assert "because ready threads waited" in words


def test_a_difference_takes_longer_the_nearer_it_is_to_the_margin():
    rounds = [resolve(gap, 0.005, 1.0).rounds for gap in (0.2, 0.1, 0.05, 0.02)]
    assert rounds == sorted(rounds)
    assert resolve(0.02, 0.5, 1.0).rounds is None
    assert resolve(0.05, 0.005, 2.0).seconds == 2 * resolve(0.05, 0.005, 1.0).seconds


def test_launches_are_named_by_their_chains():
    who = candidate("a", recipe="chain-50")
    assert name_of(launch(who, 0)) == "chain-50"
    assert name_of(launch(who, 0, control=True)) == CONTROL
    found = evidence([launch(who, 0), launch(who, 0, control=True)], final_looks(None, 1))
    assert set(found.logs) == {"chain-50", CONTROL}
