"""Keeps the conversion libraries' chatter out of the answers and the log."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_FATAL = 4


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed, logged and warned of inside; exceptions say what matters.

    Not for threads: it changes the process's streams and logging while it lasts.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
