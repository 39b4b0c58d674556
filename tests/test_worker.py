"""What a worker feeds when it is asked to time something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.datasets import resolve
from harness.jobs import Location, OpenJob, Samples
from harness.types import Engine, Scenario, Settings, TensorSpec
from harness.worker import first_feed


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
