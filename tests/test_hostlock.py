"""Two measurements on one host never run at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from harness.hostlock import only_one

HOLD = """
import sys, time
from pathlib import Path
from harness.hostlock import only_one
with only_one("run other", path=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_one_waits_and_is_told_for_whom(tmp_path):
    path = tmp_path / "lock"
    child = hold(path)
    told, order = [], []

    def second():
        with only_one("run mine", told.append, path):
            order.append("mine")

    thread = threading.Thread(target=second)
    thread.start()
    while not told:
        time.sleep(0.01)
    order.append("theirs")
    child.stdin.close()
    thread.join()
    child.wait()
    child.stdout.close()
    assert order == ["theirs", "mine"]
    assert "run other" in told[0]
    assert str(child.pid) in told[0]


def test_a_killed_holder_releases_it(tmp_path):
    child = hold(tmp_path / "lock")
    child.kill()
    child.communicate()
    told = []
    with only_one("run mine", told.append, tmp_path / "lock"):
        pass
    assert told == []


def test_the_path_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINEPICK_LOCK", str(tmp_path / "own"))
    with only_one("run mine"):
        assert f"{os.getpid()}" in (tmp_path / "own").read_text()
