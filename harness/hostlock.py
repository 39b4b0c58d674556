"""One measurement at a time on a host: a lock, and who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

POLL_S = 0.5


def default_path() -> Path:
    """The same for all users of the host, or ``$ENGINEPICK_LOCK``."""
    return Path(os.environ.get("ENGINEPICK_LOCK") or Path(tempfile.gettempdir(), "enginepick.lock"))


@contextmanager
def only_one(
    what: str,
    waiting: Callable[[str], None] = lambda _: None,
    path: Path | None = None,
) -> Iterator[None]:
    """Hold the host's lock; wait for whoever holds it.

    what: said to others who wait. waiting: called once with who holds the lock. The kernel
    releases the lock when the process ends, however it ends.
    """
    file = path or default_path()
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):
            os.fchmod(descriptor, 0o666)  # whatever the umask: other users lock it too
        _take(descriptor, waiting)
        holder = {"what": what, "pid": os.getpid(), "since": f"{datetime.now(UTC):%H:%M:%S} UTC"}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(descriptor: int, waiting: Callable[[str], None]) -> None:
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not said:
                waiting(_holder(descriptor))
                said = True
            sleep(POLL_S)
        else:
            return


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"{holder['what']} (process {holder['pid']}, since {holder['since']})"
    except (ValueError, KeyError, OSError):
        return "another measurement"
