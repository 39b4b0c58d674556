"""Every error the project raises on purpose.

::

    EnginePickError
    ├── InputError                 the user's input is wrong (exit code 2)
    ├── StoreError                 results can't be kept: the disk is full, the file is locked
    ├── SetupError                 an interpreter of its own can't be made: pip says why
    └── BackendError               raised by backends inside a worker; becomes a record
        ├── UnsupportedError       the runtime can't do this (an operator, a precision, a shape)
        ├── UnavailableError       the runtime or the device isn't on this host
        └── OutOfMemoryError       the runtime, or the user's limit, refused memory

Anything else that a backend raises is a fault of the runtime and is recorded as ``failed``.
This module is imported by workers, so it needs nothing but the standard library of Python 3.9.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Problem:
    """One mistake in the user's input.

    where: a key path (``measure.rounds``), a file, or an option (``--data``).
    what: what is wrong, and what was expected.
    fix: the next command or edit, when there is one.
    """

    where: str
    what: str
    fix: Optional[str] = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        return f"{text}\n    -> {self.fix}" if self.fix else text


class EnginePickError(Exception):
    """Base of all errors raised on purpose."""


class InputError(EnginePickError):
    """The user's input is wrong. Nothing has been measured or written."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StoreError(EnginePickError):
    """A result can't be kept. What was kept before stays readable."""


class SetupError(EnginePickError):
    """An interpreter of its own can't be made. ``fix`` says where to look, and the next command."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class BackendError(EnginePickError):
    """A backend's own, classified refusal. ``fix`` is the next command for the user, if any."""

    def __init__(self, message: str, fix: Optional[str] = None) -> None:
        super().__init__(message)
        self.fix = fix


class UnsupportedError(BackendError):
    """The runtime can't do what was asked: an operator, a precision, a layout."""


class UnavailableError(BackendError):
    """The runtime or the device isn't usable on this host."""


class OutOfMemoryError(BackendError):
    """The runtime or the user's limit refused memory."""


def first_line(fault: BaseException) -> str:
    """What an exception says first, since some go on for pages; its kind where it says nothing."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return lines[0] if lines else type(fault).__name__


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> Optional[str]:
    """``did you mean "x"?`` for the nearest known word, or None when none is near.

    cutoff: how much of both words has to be alike; less for words of few letters.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f'did you mean "{near[0]}"?' if near else None
