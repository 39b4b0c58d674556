"""Host noise, from synthetic /proc and /sys trees."""

from __future__ import annotations

import pytest

from harness.noise import HostCounters, Tier, between, clock_hz, read_counters, tier

STAT = "cpu  {user} 0 100 800 0 0 0 {steal} 0 0\ncpu0 1 2 3\n"


def tree(root, *, user=100, steal=0, stalled=0, throttled=(0, 0), khz=(2_000_000, 4_000_000)):
    files = {
        "proc/stat": STAT.format(user=user, steal=steal),
        "proc/pressure/cpu": f"some avg10=0.00 avg60=0.00 avg300=0.00 total={stalled}\n",
    }
    for cpu, (events, clock) in enumerate(zip(throttled, khz, strict=True)):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{folder}/thermal_throttle/core_throttle_count"] = f"{events}\n"
        files[f"{folder}/thermal_throttle/package_throttle_count"] = "0\n"
        files[f"{folder}/cpufreq/scaling_cur_freq"] = f"{clock}\n"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_busy_second(tmp_path):
    before = read_counters(0, tree(tmp_path, user=100, steal=10, stalled=1_000_000))
    after = read_counters(
        10**9, tree(tmp_path, user=280, steal=30, stalled=1_250_000, throttled=(2, 1))
    )
    noise = between(before, after, clock_hz(tmp_path))
    assert noise.steal == pytest.approx(20 / 200)
    assert noise.stalled == pytest.approx(0.25)
    assert noise.throttled == 3
    assert noise.clock_hz == 3e9


def test_a_host_that_shows_nothing(tmp_path):
    counters = read_counters(5, tmp_path)
    assert counters == HostCounters(5)
    noise = between(counters, read_counters(6, tmp_path), clock_hz(tmp_path))
    assert (noise.steal, noise.stalled, noise.throttled, noise.clock_hz) == (None,) * 4


def test_a_kernel_without_steal_or_pressure(tmp_path):
    tree(tmp_path)
    (tmp_path / "proc/stat").write_text("cpu  1 2 3 4\n")
    (tmp_path / "proc/pressure/cpu").write_text("full total=x\n")
    counters = read_counters(0, tmp_path)
    assert (counters.steal_ticks, counters.stalled_us) == (None, None)
    assert counters.throttled == 0


def test_counters_that_went_back_are_no_negative_noise(tmp_path):
    before = read_counters(0, tree(tmp_path, steal=50, throttled=(4, 4)))
    after = read_counters(10, tree(tmp_path, steal=10, throttled=(0, 0)))
    noise = between(before, after)
    assert noise.throttled == 0
    assert noise.steal in (None, 0.0)


@pytest.mark.parametrize(
    ("worst", "expected"),
    [
        ((0.0, 0.0, 0.0), Tier.GREEN),
        ((0.009, None, None), Tier.GREEN),
        ((0.01, 0.0, 0.0), Tier.AMBER),
        ((0.0, 0.0, 0.19), Tier.AMBER),
        ((0.0, 0.2, 0.0), Tier.RED),
        ((None, None, None), Tier.GREEN),
    ],
)
def test_the_worst_decides(worst, expected):
    assert tier(*worst) is expected
