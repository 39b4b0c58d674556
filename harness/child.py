"""The parent's handle on a worker process: start, ask, time out, kill.

A worker that hangs, crashes, runs out of memory or can't even start is an answer too
(:class:`harness.jobs.Refused`): nothing that a runtime does raises in the parent. Each worker
leads a session of its own, so that a kill takes along whatever the runtime spawned and ctrl-C
reaches the parent alone.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar, cast

from harness import jobs, wire
from harness.measure import process
from harness.pythons import clean_environ
from harness.types import Stage, Status

T = TypeVar("T")

BOOT = (
    "import sys; sys.path[:] = sys.argv[1:] + [p for p in sys.path if p];"
    "from harness.worker import main; main()"
)
PADDING_BYTES = 4096  # of environment, at random: its size alone moves timings (Mytkowicz 2009)
LOG_TAIL_BYTES = 2000
QUIET_NS = 5_000_000
QUIET_CAP_S = 0.25


class Child:
    """One worker process."""

    def __init__(
        self,
        *,
        python: str | None = None,
        packages: tuple[str, ...] = ("harness", "backends"),
        memory_limit_bytes: int | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Start a worker.

        python: another interpreter; it sees only the named top-level packages of ours.
        """
        self._python = python
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._shim = tempfile.TemporaryDirectory(prefix="enginepick-") if python else None
        env = clean_environ() if python else dict(os.environ)
        env["ENGINEPICK_PADDING"] = "x" * (rng or random.Random()).randrange(PADDING_BYTES)
        roots: list[str] = []
        if self._shim:
            roots = [_shim(Path(self._shim.name), packages)]
        if memory_limit_bytes is not None:
            env["ENGINEPICK_MEMORY_LIMIT"] = str(memory_limit_bytes)
        self._oom_kills = _oom_kills()
        self._buffer = b""
        self._unstarted: str | None = None
        try:
            self._process = self._start([python or sys.executable, "-c", BOOT, *roots], env)
        except OSError as error:  # the interpreter is gone, or is none
            self._unstarted = f"can't be started ({error.strerror})"
            self._process = self._start(["sh", "-c", "exit 127"], env)  # as a shell would

    def _start(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=env,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process number."""
        return self._process.pid

    def send(self, job: object) -> None:
        """Send a job without waiting. A worker that is gone shows itself in :meth:`receive`."""
        message = {"job": type(job).__name__, "body": wire.encode(job)}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # ValueError: closed after a kill
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, kind: type[T], stage: Stage, timeout_s: float) -> T | jobs.Refused:
        """Wait for the answer to what was sent; ``stage`` is where a silent worker was."""
        line = self._read_line(stage, timeout_s)
        if isinstance(line, jobs.Refused):
            return line
        answer = json.loads(line)
        known = {each.__name__: each for each in (kind, jobs.Problems, jobs.Refused)}
        return cast("T | jobs.Refused", wire.decode(known[answer["answer"]], answer["body"]))

    def ask(self, job: object, kind: type[T], stage: Stage, timeout_s: float) -> T | jobs.Refused:
        """Send a job and wait for its answer."""
        self.send(job)
        return self.receive(kind, stage, timeout_s)

    def _read_line(self, stage: Stage, timeout_s: float) -> bytes | jobs.Refused:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = monotonic() + timeout_s
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            left = deadline - monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.kill()
                reason = f"no answer within {timeout_s:g} s; the process was killed"
                return jobs.Refused(Status.TIMEOUT, stage, reason, "raise measure.timeout_s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                return self._died(stage)
            parts.append(data)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        return line

    def _died(self, stage: Stage) -> jobs.Refused:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        where = f"{self._python}: " if self._python else ""
        if self._unstarted is not None:
            return jobs.Refused(Status.UNAVAILABLE, stage, where + self._unstarted, None)
        how = f"exit code {code}" if code >= 0 else _signal_name(-code)
        tail = self.log_tail()
        reason = f"{where}the process ended by {how}" + (f": {tail}" if tail else "")
        starved = any(mark in tail for mark in ("bad_alloc", "Cannot allocate", "MemoryError"))
        if starved or (code == -signal.SIGKILL and _oom_kills() > self._oom_kills):
            return jobs.Refused(Status.OUT_OF_MEMORY, stage, reason, None)
        return jobs.Refused(Status.CRASHED, stage, reason, None)

    def log_tail(self) -> str:
        """The last line that the process and its runtime printed, for people."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - LOG_TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def wait_until_quiet(self) -> None:
        """Sleep until the worker's CPU time has stood still for 5 ms (thread pools spin on)."""
        folder = Path(f"/proc/{self.pid}")
        deadline = monotonic() + QUIET_CAP_S
        last = process.scheduled(folder)
        while last is not None and monotonic() < deadline:
            sleep(QUIET_NS / 1e9)
            now = process.scheduled(folder)
            if now is None or now.cpu_ns == last.cpu_ns:
                return
            last = now

    def kill(self) -> None:
        """Kill the worker's whole session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the worker: by the end of its input, or else by a signal. Safe to call twice."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        if self._shim:
            self._shim.cleanup()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is not None:
            self.kill()
        self.close()


def _shim(folder: Path, packages: tuple[str, ...]) -> str:
    """A folder that shows another interpreter our packages, and nothing of our environment."""
    for package in packages:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        (folder / package).symlink_to(Path(next(iter(spec.submodule_search_locations))).resolve())
    return str(folder)


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since it booted; 0 where unknown."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if "oom_kill" in line), 0)
