"""What a worker feeds when it is asked to time something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.datasets import resolve
from harness.jobs import Location, OpenJob, Samples, WarmJob
from harness.types import Engine, Scenario, Settings, TensorSpec
from harness.worker import Launch, Worker, first_feed, import_first


def test_of_two_runtimes_the_chosen_one_is_imported_or_else_the_first_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("raise OSError('libnvinfer.so.10')")
    for name in ("sound_one", "sound_two"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_first("broken_one|sound_one|sound_two") == "sound_one"
    assert import_first("sound_one|sound_two", ["sound_two"]) == "sound_two"
    with pytest.raises(OSError, match="libnvinfer"):
        import_first("broken_one|sound_one", ["broken_one"])


@pytest.mark.parametrize("lengths", [(5, 50), (5, 5)])
def test_a_batch_is_full_although_the_next_samples_are_of_another_shape(
    tmp_path: Path, lengths: tuple[int, int]
) -> None:
    for number, (samples, length) in enumerate(zip((3, 30), lengths, strict=True)):
        first = np.arange(samples, dtype=np.float32) + 100 * number
        array = np.broadcast_to(first[:, None, None], (samples, length, 2))
        np.savez(tmp_path / f"{number}.npz", x=array)
    job = OpenJob(
        Location("module", "ATTRIBUTE"),
        Engine("", (), 0),
        "cpu",
        Settings(Scenario.THROUGHPUT, batch=8),
        Samples(resolve(str(tmp_path)), "all", 0, seed=0),
        (TensorSpec("x", "float32", ("n", "length", 2)),),
    )
    x = first_feed(job)["x"]
    assert x.shape == (8, 5, 2)
    expected = [0, 1, 2, 0, 1, 2, 0, 1] if lengths == (5, 50) else [0, 1, 2, *range(100, 105)]
    assert x[:, 0, 0].tolist() == expected


class Counting:
    """A session that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def bind(self, feed: Any) -> None:
        pass

    def run(self) -> None:
        self.runs += 1

    def fetch(self) -> dict[str, Any]:
        return {}


class Queued(Counting):
    """One with a queue that completes the slot that was started last."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: list[int] = []
        self.done: list[int] = []

    def bind_slots(self, feed: Any, in_flight: int) -> None:
        pass

    def start(self, slot: int) -> None:
        assert slot not in self.busy
        self.busy.append(slot)

    def wait_any(self) -> int:
        self.done.append(self.busy.pop())
        return self.done[-1]


@pytest.mark.parametrize("queued", [True, False])
def test_every_inference_in_flight_is_warm_before_it_is_timed(tmp_path: Path, queued: bool) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 2), np.float32))
    job = OpenJob(
        Location("module", "ATTRIBUTE"),
        Engine("", (), 0),
        "cpu",
        Settings(Scenario.THROUGHPUT, in_flight=3),
        Samples(resolve(str(tmp_path)), "all", 0, seed=0),
        (TensorSpec("x", "float32", ("n", 2)),),
    )
    sessions: list[Any] = [Queued()] if queued else [Counting() for _ in range(3)]
    backend: Any = None
    worker = Worker()
    worker._launch = Launch(backend, job, {}, sessions, None, sessions[0], None)
    assert worker._warm(WarmJob(5, 1, 1, 5, 1)).iterations == 5
    if queued:
        assert sorted(sessions[0].done) == [0, 0, 1, 1, 2, 2]
        assert sessions[0].busy == []
    else:
        assert [each.runs for each in sessions] == [5, 2, 2]
