"""The user's own code, named ``module:function``: models, data and metrics may be that.

Imported by workers, so this is the standard library alone.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any, Callable

from harness.errors import InputError, Problem, first_line, suggest

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function(source: str) -> bool:
    """Whether it is ``module:function`` rather than a path that exists."""
    return bool(_FUNCTION.fullmatch(source)) and not Path(source).exists()


def load_function(spec: str, where: str) -> Callable[..., Any]:
    """Import it; the working directory comes first on the path.

    The directory stays on the path, since the function may import later. Raises InputError
    naming ``where``.
    """
    if not _FUNCTION.fullmatch(spec):
        raise InputError([Problem(where, f'"{spec}" is not of the form module:function')])
    name, _, attribute = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except Exception as fault:
        if isinstance(fault, ModuleNotFoundError) and fault.name in (name, name.split(".")[0]):
            what = f"no module {name} in {Path.cwd()}, nor installed"
            fix = f"run where {name.split('.')[0]}.py is, or set PYTHONPATH"
            if name.endswith(".py"):
                fix = f"a module is named as import does: {name[:-3]}:{attribute}"
        else:
            what = f"importing {name} raised {type(fault).__name__}: {first_line(fault)}"
            fix = f'python -c "import {name}" shows the whole error'
        raise InputError([Problem(where, what, fix)]) from fault
    function = getattr(module, attribute, None)
    if not callable(function):
        what = f"the module {name} has no function {attribute}"
        own = sorted(_own(module))
        hint = suggest(attribute, own) or (f"it has {', '.join(own)}" if own else None)
        raise InputError([Problem(where, what, hint)])
    loaded: Callable[..., Any] = function
    return loaded


def _own(module: Any) -> list[str]:
    """The functions and classes that a module doesn't have from another."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
