"""Calibration by TensorRT itself, which TensorRT 10 still can: the user's samples in batches.

A calibrator reads batches of one shape, which its calibration profile has to name, since TensorRT
calibrates at a profile's optimal shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from harness.backend import Calibration, Feed
from harness.errors import BackendError
from harness.types import ShapeRange, TensorSpec

BASES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
"""What TensorRT calls the base class of each kind."""

BATCH = 8

Profiles = Sequence[Sequence[ShapeRange]]
Upload = Callable[[str, "np.ndarray[Any, Any]"], int]
"""Copies an input's array to the device; the address. Called again, it may use the memory again."""


@dataclass(frozen=True)
class Batches:
    """Calibration samples of the most usual shapes, several at a time where the model allows it.

    count: how many they are; ``batch`` divides it, since TensorRT takes full batches alone.
    skipped: samples of other shapes, which one calibration profile can't hold.
    """

    calibration: Calibration
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    batch: int
    count: int
    skipped: int

    def profile(self) -> tuple[ShapeRange, ...]:
        """The shapes of a batch, as a profile that has no others."""
        ranges = []
        for name, shape in self.shapes:
            full = (shape[0] * self.batch, *shape[1:]) if self.batch > 1 else shape
            ranges.append(ShapeRange(name, full, full, full))
        return tuple(ranges)

    def feeds(self) -> Iterator[Feed]:
        """The batches."""
        alike = (feed for feed in self.calibration.feeds() if _shapes(feed) == self.shapes)
        while True:
            group = list(islice(alike, self.batch))
            if not group:
                return
            yield {
                name: np.ascontiguousarray(np.concatenate([feed[name] for feed in group]))
                if self.batch > 1
                else np.ascontiguousarray(group[0][name])
                for name, _ in self.shapes
            }


def batches(
    calibration: Optional[Calibration], inputs: Sequence[TensorSpec], profiles: Profiles
) -> Batches:
    """How the samples are put together for a model with these inputs and optimization profiles.

    Raises:
        BackendError: there are none.
    """
    seen = Counter(_shapes(feed) for feed in calibration.feeds()) if calibration else Counter()
    if calibration is None or not seen:
        raise BackendError("calibration needs samples, and got none")
    (shapes, count), *_ = seen.most_common(1)
    singles = all(shape[:1] == (1,) for _, shape in shapes)
    most = min(BATCH, _largest(profiles)) if singles and _share_axis(inputs) else 1
    batch = next(size for size in range(most, 0, -1) if count % size == 0)
    return Batches(calibration, shapes, batch, count, sum(seen.values()) - count)


def make_calibrator(
    base: type, feeds: Iterator[Feed], batch: int, upload: Upload, cache: Path
) -> Any:
    """A calibrator of TensorRT's.

    base: one of :data:`BASES` of the library. cache: the file that keeps what calibration found.
    """

    class Calibrator(base):  # type: ignore[misc]  # the vendor's class, known at run time
        def __init__(self) -> None:
            base.__init__(self)  # type: ignore[misc]  # pybind11 wants it called by name
            self.fault: Optional[BaseException] = None

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: Sequence[str]) -> Optional[list[int]]:
            # an exception would pass through C++ and be lost: it is kept for the builder's caller
            try:
                feed: Optional[Mapping[str, Any]] = next(feeds, None)
                return None if feed is None else [upload(name, feed[name]) for name in names]
            except Exception as fault:  # noqa: BLE001
                self.fault = fault
                return None

        def read_calibration_cache(self) -> Optional[bytes]:
            return cache.read_bytes() if cache.is_file() else None

        def write_calibration_cache(self, found: Any) -> None:
            cache.write_bytes(bytes(found))

    return Calibrator()


def _share_axis(inputs: Sequence[TensorSpec]) -> bool:
    """Whether the first axis is open, and the same one for all inputs: by its name, if several."""
    first = inputs[0].shape[:1] if inputs else ()
    is_open = first != () and not isinstance(first[0], int)
    return is_open and (
        len(inputs) == 1 or (first != (None,) and all(x.shape[:1] == first for x in inputs))
    )


def _largest(profiles: Profiles) -> int:
    """The largest first axis that any profile takes for all of its inputs."""
    return max((min(each.max[0] for each in profile) for profile in profiles), default=1)


def _shapes(feed: Feed) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(array.shape)) for name, array in sorted(feed.items()))
