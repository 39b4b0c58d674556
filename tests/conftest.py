"""Tests measure nothing that is reported: they need not wait for whoever measures on this host."""

from __future__ import annotations

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
