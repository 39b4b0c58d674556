"""The values of configuration files: how each kind is read, and what is said when it is wrong.

Pure functions and the annotated-type metadata that :mod:`harness.config` builds its tables from.
Pydantic's own conversions (``"5"`` to 5, true to 1) are not wanted in files that people write, and
its messages are not written for them, so each kind brings its own reader.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Optional, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from harness.errors import suggest

_DURATION_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_LATENCY_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,  # both of Unicode's micro signs
    "ms": 1_000_000,
    "s": 1_000_000_000,
}
_SIZE_UNITS = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
DURATION = 'a duration with its unit, such as "5m", "90s" or "1h30m"'
LATENCY = 'a time with its unit (ns, us, ms, s), such as "5ms"'
SIZE = 'a size with its unit (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB), such as "200MB"'
_LARGEST = 2**63 - 1  # what a signed 64-bit column keeps
_SHOWN = 60  # characters of a wrong value in a message

_AMOUNT = r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z\u00b5\u03bc]+)"


def parse_duration(text: object) -> float:
    """Seconds of ``5m``, ``90s``, ``1.5h`` or ``1h30m``: units d, h, m, s, the largest first.

    Raises ValueError, which says what is expected, for anything else; zero and less too.
    """
    return float(_total(text, _DURATION_UNITS, DURATION, "s", several=True))


def parse_latency(text: object) -> int:
    """Nanoseconds of ``5ms``, ``800us``, ``0.5s`` or ``900ns``. ValueError as above."""
    return _whole_total(text, _LATENCY_UNITS, LATENCY, "ms")


def parse_size(text: object) -> int:
    """Bytes of ``200MB`` (10^6) or ``1GiB`` (2^30), in any case. ValueError as above."""
    return _whole_total(text, _SIZE_UNITS, SIZE, "MB")


def _whole_total(text: object, units: Mapping[str, int], expects: str, unit: str) -> int:
    total = round(_total(text, units, expects, unit))
    if total == 0:
        raise wrong(text, expects, "it rounds to zero")
    return total


def _total(
    text: object, units: Mapping[str, int], expects: str, unit: str, *, several: bool = False
) -> Decimal:
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise wrong(text, expects)
    words = text.strip() if isinstance(text, str) else found(text)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", words):
        raise wrong(text, expects, f'the unit is missing; try "{words}{unit}"')
    if re.match(r"-\s*[0-9.]", words):
        raise wrong(text, expects, "it can't be negative")
    form = rf"(?:{_AMOUNT}\s*)+" if several else _AMOUNT
    if len(words) > _SHOWN or not re.fullmatch(form, words):
        raise wrong(text, expects)
    total, last = Decimal(0), _LARGEST
    for amount, name in re.findall(_AMOUNT, words):
        factor = units.get(name.lower())
        if factor is None:
            raise wrong(text, expects, _unit_hint(name, units))
        if factor >= last:
            raise wrong(text, expects, "each unit once, the largest first")
        total, last = total + Decimal(amount) * factor, factor
    if not 0 < total <= _LARGEST:
        raise wrong(text, expects, "it is too large" if total else "it must be more than zero")
    return total


def found(value: object) -> str:
    """A value of a TOML file as the user would recognise it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = str(value)  # an enum's value, without its class
        return f'"{text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."}"'
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number beyond 64 bits"  # Python refuses to print long ones
    if isinstance(value, (int, float)):
        return str(value)
    kinds = ((Mapping, "a table"), ((list, tuple), "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "a date or time")


def wrong(value: object, expects: str, hint: str = "") -> ValueError:
    """The error of a reader."""
    return ValueError(f"found {found(value)}; expected {expects}" + (f": {hint}" if hint else ""))


@dataclass(frozen=True)
class Reader:
    """Metadata of an annotated type: ``read`` checks and converts, or raises ValueError.

    expects: the type in plain words, for errors and documentation. write: the inverse, to JSON.
    """

    expects: str
    read: Callable[[object], Any]
    write: Callable[[Any], Any] = lambda value: value

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """A plain validator: pydantic's own conversions (``"5"`` to 5) are not wanted."""

        def check(value: object) -> object:
            try:
                return self.read(value)
            except ValueError as error:
                raise PydanticCustomError("reader", "{what}", {"what": str(error)}) from None

        write = core_schema.plain_serializer_function_ser_schema(
            self.write, when_used="json-unless-none"
        )
        return core_schema.no_info_plain_validator_function(check, serialization=write)


def _unit_hint(name: str, units: Mapping[str, int]) -> str:
    letter = name.upper()
    if f"{name}b".lower() in units:
        return f"say {letter}B (powers of 1000) or {letter}iB (powers of 1024)"
    return f'"{name}" is no unit'


def whole(low: int, high: Optional[int] = None) -> Reader:
    """Integers in a closed range; neither true nor 5.0 is one."""
    expects = f"a whole number from {low} to {high}" if high else f"a whole number, {low} or more"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(value, expects)
        if not low <= value <= (high or _LARGEST):
            raise wrong(value, expects)
        return value

    return Reader(expects, read)


def power_of_two(low: int, high: int) -> Reader:
    """Powers of two in a closed range of them."""
    expects = f"a power of two from {low} to {high}"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(value, expects)
        if value & (value - 1):
            raise wrong(value, expects)
        return value

    return Reader(expects, read)


def number(low: float, high: float = math.inf, *, above: bool = False) -> Reader:
    """Finite numbers in a closed range, ``low`` itself excluded by ``above``."""
    expects = f"a number above {low:g}, {high:g} at most" if above else ""
    expects = expects or f"a number from {low:g} " + (f"to {high:g}" if high < math.inf else "up")

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong(value, expects)
        # NaN compares false with everything
        if not low <= value <= min(high, sys.float_info.max) or (above and value == low):
            raise wrong(value, expects)
        return float(value)

    return Reader(expects, read)


def numbers(low: float, high: float, *, above: bool = False) -> Reader:
    """One number, or a list of them, each as :func:`number` reads it."""
    one = number(low, high, above=above)

    def read(value: object) -> tuple[float, ...]:
        if isinstance(value, (list, tuple)) and value:
            return tuple(one.read(each) for each in value)
        return (one.read(value),)

    return Reader(f"{one.expects}, or a list, one per channel", read)


def _read_sides(value: object) -> tuple[int, ...]:
    most, side = 2, whole(1, 65_535)
    if isinstance(value, (list, tuple)) and len(value) in {1, most}:
        return tuple(side.read(each) for each in value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(value, SIDES)
    return (side.read(value),)


SIDES = "a whole number of pixels, or [height, width]"
sides = Reader(SIDES, _read_sides)


def _read_file_or_names(value: object) -> str | tuple[str, ...]:
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, str) for each in value):
        return tuple(value)
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.strip()):
        return os.fspath(value)
    raise wrong(value, FILE_OR_NAMES)


FILE_OR_NAMES = "a path, or a list of names"
file_or_names = Reader(FILE_OR_NAMES, _read_file_or_names)


def _read_truth(value: object) -> bool:
    if not isinstance(value, bool):
        hint = f"try {str(value).lower()}" if str(value).lower() in {"true", "false"} else ""
        raise wrong(value, TRUTH, hint)
    return value


TRUTH = "true or false"
truth = Reader(TRUTH, _read_truth)


def text_like(expects: str, pattern: str = r"\S[^\0\n\r]*", hint: str = "") -> Reader:
    """Text, or a path, all of which fits the pattern."""

    def read(value: object) -> str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(text, str) or not re.fullmatch(pattern, text):
            raise wrong(text, expects, hint)
        return text

    return Reader(expects, read)


def choice(*names: str, make: Callable[[str], Any] = str) -> Reader:
    """One of some names. make: what the name becomes."""
    expects = f"one of {', '.join(names)}"

    def read(value: object) -> Any:
        if not isinstance(value, str) or value not in names:
            raise wrong(value, expects, did_you_mean(value, names))
        return make(value)

    return Reader(expects, read, str)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A question that names the nearest known word; empty when none is near."""
    return suggest(str(word).lower(), known, cutoff=0.5) or ""


T = TypeVar("T")


def some(values: tuple[T, ...]) -> tuple[T, ...]:
    """A list that was given names something; a repeated value is one value."""
    if not values:
        what = "found an empty list; expected at least one value, or no such key at all"
        raise PydanticCustomError("reader", "{what}", {"what": what})
    return tuple(dict.fromkeys(values))


def listed(value: object) -> object:
    """A single value as a list of one."""
    return [value] if isinstance(value, (str, int, float)) else value
