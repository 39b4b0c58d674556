"""Tests measure nothing that is reported: they need not wait for whoever measures on this host."""

from __future__ import annotations

import atexit
import gc
import os
import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_lock_and_cache(tmp_path_factory):
    """A lock and a cache of the test session's own, for its child processes too."""
    folder = tmp_path_factory.mktemp("own")
    patch = pytest.MonkeyPatch()
    patch.setenv("ENGINEPICK_LOCK", str(folder / "lock"))
    patch.setenv("ENGINEPICK_CACHE", str(folder / "cache"))
    yield
    patch.undo()


@pytest.fixture
def driver(monkeypatch):
    """A fake of the NVIDIA driver; what is left in it at the end is a leak."""
    from fake_cuda import FakeDriver

    made = FakeDriver()
    made.install(monkeypatch)
    yield made
    gc.collect()
    assert made.leaks() == {}


@atexit.register
def the_summary_is_the_last_line():
    """Runtimes that were loaded here log their own end, when nobody reads it any more."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
