"""What nvidia-smi says, from recorded answers."""

from __future__ import annotations

import os

import pytest

from harness.gpu import during, parse, read_gpus

STATES = """\
0, GPU-aa, 1980, 41, 3, 0x0000000000000000
1, GPU-bb, 705, 88, 100, 0x0000000000000068
2, GPU-cc, [N/A], [N/A], [N/A], [N/A]
"""
COMPUTING = """\
GPU-bb, 4711
GPU-bb, 4712
GPU-dd, 99
"""


def test_states_and_processes():
    cool, hot, unknown = parse(STATES, COMPUTING)
    assert (cool.sm_clock_hz, cool.temperature_c, cool.busy) == (1.98e9, 41, 0.03)
    assert (cool.held_down, cool.others) == ((), ())
    assert hot.held_down == ("hardware slow-down", "heat (software)", "heat (hardware)")
    assert hot.others == (4711, 4712)
    assert (unknown.sm_clock_hz, unknown.busy, unknown.held_down) == (None, None, ())


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, GPU\n", "x, y, 1, 2, 3, 4"])
def test_anything_else_is_no_gpu(text):
    assert parse(text, text) == ()


def test_an_older_driver_has_another_name_for_the_reasons():
    asked = []

    def old_driver(arguments):
        asked.append(arguments[0])
        if "clocks_event_reasons" in arguments[0]:
            return ""
        return COMPUTING if "compute-apps" in arguments[0] else STATES

    assert len(read_gpus(old_driver)) == 3
    assert "clocks_throttle_reasons.active" in asked[2]


def test_what_held_the_clocks_between_two_readings_counts():
    row = "{}, GPU-{}, 1980, 41, 3, 0x0000000000000001, {}, 0, {}, [N/A]\n"
    before = parse(row.format(0, "aa", 100, 5) + row.format(1, "bb", 0, 0), "GPU-aa, 7\n")
    after = parse(row.format(0, "aa", 100, 9) + row.format(1, "bb", 50, 0), "GPU-aa, 8\n")
    (own,) = during(before, after, frozenset({0}))
    assert own.held_down == ("heat (hardware)",)
    assert own.others == (7, 8)
    assert during(before, after, frozenset()) == ()
    assert during((), after, frozenset({0})) == ()


def test_the_command_is_found_on_the_path(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text(
        "#!/bin/sh\ncase $1 in *compute-apps*) echo 'GPU-aa, 7';;"
        " *) echo '0, GPU-aa, 1980, 41, 3, 0x0000000000000004';; esac\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (gpu,) = read_gpus()
    assert (gpu.held_down, gpu.others) == (("power cap",), (7,))


def test_no_command_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpus() == ()
