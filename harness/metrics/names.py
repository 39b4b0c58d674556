"""What a metric may be called: ``name``, ``name(option=value,...)``, each with ``@output``.

The names and their options are listed here; what they compute is in the modules beside this one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Optional

from harness.errors import InputError, Problem, suggest

_NAME = re.compile(r"(?P<base>[^(@]*)(\((?P<options>.*?)\))?(@(?P<output>.*))?", re.DOTALL)
_OPTION = re.compile(r'\s*(?P<key>[^=,"]*?)\s*=\s*(?P<value>"[^"]*"|[^",]*?)\s*(,|$)')


@dataclass(frozen=True)
class Option:
    """One option. read: raises ValueError for what isn't expected. default: None if it has none."""

    read: Callable[[str], Any]
    expected: str
    default: Any = None


@dataclass(frozen=True)
class Spec:
    """A metric's name, understood. options: all of the metric's, by name; given: those written."""

    base: str
    output: Optional[str] = None
    options: dict[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()


def _one_of(*words: str) -> Option:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(suggest(text, words))
        return text

    return Option(read, f"one of {', '.join(words)}", words[0])


def _whole(low: int, default: Optional[int] = None) -> Option:
    def read(text: str) -> int:
        number = int(text)
        if number < low:
            raise ValueError
        return number

    return Option(read, f"a whole number from {low}", default)


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


_NUMBER = Option(_finite, "a number")
_FILE = Option(_text, "the path of a file")
_TEXTS = {
    "decoder": _one_of("ctc", "argmax", "ids"),
    "alphabet": _FILE,
    "blank": _whole(0, 0),
    "end": _whole(0),
}

OPTIONS: dict[str, dict[str, Option]] = {
    "top1": {},
    "top5": {},
    "mae": {},
    "mse": {},
    "rmse": {},
    "f1": {
        "average": _one_of("macro", "micro", "binary"),
        "positive": _whole(0, 1),
        "threshold": _NUMBER,
    },
    "auc": {"positive": _whole(0)},
    "spearman": {},
    "cer": _TEXTS,
    "wer": _TEXTS,
    "iou": {"classes": _whole(2), "ignore": _whole(0, 255), "threshold": _NUMBER},
    "map": {
        name: Option(_text, "the name of an output", name) for name in ("boxes", "scores", "labels")
    },
    "agreement": {},
    "cosine": {},
    "sqnr": {},
}
"""By metric, its options by name."""


@lru_cache(maxsize=256)
def parse(name: str, where: str = "--metric") -> Spec:
    """Understand a built-in metric's name. Raises InputError naming ``where``, all faults at once.

    A value with a comma stands in double quotes.
    """
    match = _NAME.fullmatch(name)
    base = match["base"].strip() if match else name
    if base not in OPTIONS:
        what = f'no metric "{base}"; there are: {", ".join(OPTIONS)}, module:function'
        raise InputError([Problem(where, what, suggest(base, OPTIONS))])
    assert match is not None
    if match["output"] == "":
        what = f'"{name}" names no output after the @'
        raise InputError([Problem(where, what, f"{base}, or {base}@output_name")])
    written, problems = _written(base, match["options"] or "", where)
    values = {key: option.default for key, option in OPTIONS[base].items()}
    for key, text in written:
        option = OPTIONS[base][key]
        try:
            values[key] = option.read(text)
        except ValueError as error:
            what = f'{base}: {key} is "{text}"; expected {option.expected}'
            hint = str(error) if str(error).startswith("did you mean") else None
            problems.append(Problem(where, what, hint))
    given = tuple(key for key, _ in written)
    if not problems:
        problems = _unfit(base, values, given, match["output"], where)
    if problems:
        raise InputError(problems)
    return Spec(base, match["output"], values, given)


def _written(base: str, text: str, where: str) -> tuple[list[tuple[str, str]], list[Problem]]:
    """The options as written, those that the metric has, and what is wrong with the others."""
    known = OPTIONS[base]
    written: list[tuple[str, str]] = []
    problems = []
    at = 0
    while at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            what = f'{base}: "{text[at:]}" is not of the form option=value, option=value'
            problems.append(Problem(where, what, 'a value with a comma stands in "double quotes"'))
            break
        at, key = match.end(), match["key"]
        if key not in known:
            there_are = f"its options are: {', '.join(known)}" if known else "it has none"
            what = f'{base} has no option "{key}"; {there_are}'
            problems.append(Problem(where, what, suggest(key, known)))
        elif key in dict(written):
            problems.append(Problem(where, f"{base}: {key} is given twice", "give it once"))
        else:
            written.append((key, match["value"].strip('"')))
    return written, problems


def _unfit(
    base: str, values: dict[str, Any], given: tuple[str, ...], output: Optional[str], where: str
) -> list[Problem]:
    """What doesn't go together."""
    faults: list[tuple[str, str]] = []
    if base in ("cer", "wer"):
        decoder = values["decoder"]
        if values["alphabet"] is None:
            fix = f"{base}(alphabet=characters.txt): line i is what class i stands for"
            faults.append((f"{base} needs an alphabet", fix))
        for key, decoders in (("blank", ("ctc",)), ("end", ("argmax", "ids"))):
            if key in given and decoder not in decoders:
                fix = f"leave it out, or use decoder={decoders[0]}"
                faults.append((f"{base}: {key} means nothing to the decoder {decoder}", fix))
    if base == "f1" and "positive" in given and values["average"] != "binary":
        fix = f"f1(average=binary,positive={values['positive']})"
        faults.append((f"f1: positive means nothing to average={values['average']}", fix))
    if base == "f1" and "positive" in given and "threshold" in given:
        fix = "leave positive out: what is above the threshold is positive"
        faults.append(("f1: positive means nothing beside a threshold", fix))
    if base == "map" and output is not None:
        fix = "name them as options: map(boxes=...,scores=...,labels=...)"
        faults.append((f'map scores three outputs, not "{output}"', fix))
    return [Problem(where, what, fix) for what, fix in faults]


def short(name: str) -> str:
    """The name as people read it: without its files, which may be long paths."""
    match = _NAME.fullmatch(name)
    options = OPTIONS.get(match["base"].strip(), {}) if match else {}
    if not match or not match["options"] or not options:
        return name
    kept = [
        f"{option['key']}={option['value']}"
        for option in _OPTION.finditer(match["options"])
        if options.get(option["key"]) is not _FILE and option["key"]
    ]
    start, end = match.span("options")
    inner = f"({','.join(kept)})" if kept else ""
    return name[: start - 1] + inner + name[end + 1 :]


def anchored(name: str, folder: str) -> str:
    """The name with relative paths among its options resolved against ``folder``.

    What isn't the name of a built-in metric is left as it is.
    """
    match = _NAME.fullmatch(name)
    if not match or not match["options"]:
        return name

    def resolve(option: re.Match[str]) -> str:
        key, text = option["key"], option["value"].strip('"')
        if OPTIONS.get(match["base"].strip(), {}).get(key) is not _FILE or not text:
            return option[0]
        path = os.path.abspath(os.path.join(folder, os.path.expanduser(text)))  # noqa: PTH100, PTH111, PTH118
        return f'{key}="{path}"{option[3]}' if "," in path else f"{key}={path}{option[3]}"

    start, end = match.span("options")
    return name[:start] + _OPTION.sub(resolve, match["options"]) + name[end:]
