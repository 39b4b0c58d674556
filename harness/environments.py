"""Interpreters of their own, which ``enginepick setup`` makes for backends and converters.

Each is a virtual environment in a folder of the user's, ``NAME`` below :func:`root`, beside the log
of its making. A marker that is written last says what it was made from; a folder without a whole
one is unfinished, and nobody's home.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness import wire
from harness.errors import InputError, Problem, SetupError
from harness.pythons import Python, clean_environ, fits, version_text
from harness.types import Environment

MARKER = "enginepick.json"
WORKERS_OWN = ("numpy",)
"""What every worker imports besides the standard library."""
LOG_LINES = 8

_VERSIONS = (
    "import json, importlib.metadata as m; print(json.dumps(sorted("
    "{(d.metadata['Name'], d.version) for d in m.distributions()})))"
)


@dataclass(frozen=True)
class Made:
    """What a finished environment was made from.

    python: the version, as ``3.12.1``. versions: of every package in it.
    """

    environment: Environment
    python: str
    versions: tuple[tuple[str, str], ...]
    made_at: str

    def serves(self, wanted: Environment) -> bool:
        """Whether it is what this version of the project asks for."""
        have = (self.environment.requirements, self.environment.alone)
        version = tuple(int(part) for part in self.python.split(".")[:2])
        return have == (wanted.requirements, wanted.alone) and fits(wanted.python, version)


def root() -> Path:
    """``$ENGINEPICK_ENVIRONMENTS``, or ``enginepick/environments`` in the user's data folder."""
    own = os.environ.get("ENGINEPICK_ENVIRONMENTS")
    if own:
        return Path(own).absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data, "enginepick", "environments").absolute()


def folder(name: str) -> Path:
    """Where the environment of that name is, or would be."""
    return root() / name


def log_file(name: str) -> Path:
    """What ``venv`` and pip said when it was made last."""
    return root() / f"{name}.log"


def interpreter(name: str) -> str | None:
    """The interpreter of a finished environment; None: there is none, or its Python is gone."""
    python = _python_of(folder(name))
    return str(python) if made(name) is not None and os.access(python, os.X_OK) else None


def made(name: str) -> Made | None:
    """What it was made from; None where it isn't there, or isn't finished."""
    try:
        return wire.decode(Made, json.loads((folder(name) / MARKER).read_text()))
    except (OSError, ValueError, TypeError, KeyError):  # unfinished, or written by another version
        return None


def make(name: str, environment: Environment, python: Python, show: Callable[[str], None]) -> Made:
    """Make it anew. One that was finished before comes back if that fails.

    show: gets a line for each step. Raises SetupError with the last that was said, and InputError
    where the folder can't be written to or isn't ours.
    """
    place = folder(name)
    with _claimed(name):
        former = _former(name)
        if made(name) is not None:
            shutil.rmtree(former, ignore_errors=True)
            place.rename(former)
        _discard(place)
        try:
            done = _fill(name, environment, python, show)
        except BaseException:
            _discard(place)
            if former.is_dir():
                former.rename(place)
            raise
        shutil.rmtree(former, ignore_errors=True)
        return done


def remove(name: str) -> bool:
    """Remove it with its log; whether there was one."""
    place, log = folder(name), log_file(name)
    if not any(each.exists() for each in (place, _former(name), log)):
        return False
    with _claimed(name):
        _discard(place)
        shutil.rmtree(_former(name), ignore_errors=True)
        log.unlink(missing_ok=True)
    return True


def _fill(name: str, environment: Environment, python: Python, show: Callable[[str], None]) -> Made:
    place = folder(name)
    place.mkdir(parents=True)
    (place / MARKER).write_text("unfinished\n")  # ours, from the first moment on
    pip = [str(_python_of(place)), "-m", "pip", "install", "--no-input", "--no-color"]
    pip += ["--disable-pip-version-check"]
    everything = [*environment.requirements]
    named = {re.split(r"[^\w.-]", each, maxsplit=1)[0].lower() for each in everything}
    everything += [each for each in WORKERS_OWN if each not in named]
    with log_file(name).open("w", encoding="utf-8") as log:
        show(f"a virtual environment of Python {version_text(python.version)}: {place}")
        _step(name, [python.path, "-m", "venv", str(place)], log.fileno())
        show(f"pip install {' '.join(everything)}")
        _step(name, [*pip, *everything], log.fileno())
        if environment.alone:
            show(f"pip install --no-deps {' '.join(environment.alone)}")
            loose = ["--no-deps", "--ignore-requires-python"]
            _step(name, [*pip, *loose, *environment.alone], log.fileno())
    done = Made(environment, version_text(python.version), _versions(place), _now())
    whole = place / f"{MARKER}.new"
    whole.write_text(json.dumps(wire.encode(done), indent=1))
    whole.replace(place / MARKER)
    return done


def _step(name: str, command: Sequence[str], log: int) -> None:
    """Run it to its end, whatever it says going to the log."""
    os.write(log, f"$ {' '.join(command)}\n".encode())
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=clean_environ(),
        check=False,
    )
    if done.returncode != 0:
        text = log_file(name).read_text(encoding="utf-8", errors="replace")
        said = [line for line in text.splitlines() if line.strip()][-LOG_LINES:]
        tool = "pip" if "pip" in command else "venv"
        words = "\n  ".join([f"{tool} failed with exit code {done.returncode}:", *said])
        raise SetupError(words, f"see {log_file(name)}, then: enginepick setup {name}")


def _versions(place: Path) -> tuple[tuple[str, str], ...]:
    done = subprocess.run(
        [str(_python_of(place)), "-c", _VERSIONS],
        capture_output=True,
        text=True,
        env=clean_environ(),
        check=False,
    )
    if done.returncode != 0:
        words = f"{place} doesn't run: {done.stderr.strip()[-300:]}"
        raise SetupError(words, f"mend its Python, then: enginepick setup {place.name}")
    return tuple((name, version) for name, version in json.loads(done.stdout.splitlines()[-1]))


def _discard(place: Path) -> None:
    """Remove a folder of ours: at once for whoever looks, then its files."""
    if not place.exists():
        return
    if not (place / MARKER).is_file() and (not place.is_dir() or any(place.iterdir())):
        what = f"{place} was not made by enginepick setup"
        raise InputError([Problem("setup", what, f"move it away: mv {place} {place}.old")])
    going = place.with_name(f".{place.name}.going")
    shutil.rmtree(going, ignore_errors=True)
    place.rename(going)
    shutil.rmtree(going, ignore_errors=True)


@contextmanager
def _claimed(name: str) -> Iterator[None]:
    """Nobody else makes or removes it meanwhile; the kernel ends that with the process."""
    try:
        root().mkdir(parents=True, exist_ok=True)
        descriptor = os.open(_lock_file(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        what = f"{root()} can't be written to ({error.strerror})"
        fix = "name another folder in ENGINEPICK_ENVIRONMENTS"
        raise InputError([Problem("setup", what, fix)]) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        what = f"another enginepick setup is at work on {name}"
        raise InputError([Problem("setup", what, "wait for it")]) from error
    try:
        yield
    finally:
        os.close(descriptor)


def _former(name: str) -> Path:
    """The finished one, while another is made in its place."""
    return root() / f".{name}.former"


def _lock_file(name: str) -> Path:
    return root() / f".{name}.lock"


def _python_of(place: Path) -> Path:
    return place / "bin" / "python"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
