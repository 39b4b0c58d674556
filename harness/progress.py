"""How far a run is: a live display on a terminal, plain lines elsewhere.

Drawn only when the run says something, between slices, so that nothing is drawn while a child
measures.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from harness.run import Event

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {
    "wait": "Waiting",
    "build": "Building engines",
    "accuracy": "Checking accuracy",
    "recover": "Recovering int8",
    "draw": "Drawing calibrations",
    "measure": "Measuring",
}
LINE_EVERY_S = 15.0


class Progress(AbstractContextManager["Progress"]):
    """Shows events on standard error."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
        from rich.table import Column

        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._quiet = quiet
        self._live = console.is_terminal and not quiet
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:>3.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[text]}", markup=True, table_column=rest),
            console=console,
            auto_refresh=False,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._last_key: tuple[str, int] = ("", -1)

    def __enter__(self) -> Progress:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if self._live:
            self._draw(event)
        elif not self._quiet:
            self._print(event)

    def _draw(self, event: Event) -> None:
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bars.add_task(
                NAMES[event.stage], total=event.total, left="", text=""
            )
        done = event.text == "done"
        self._bars.update(
            self._tasks[event.stage],
            completed=event.done,
            total=event.total,
            left="" if done else left_text(event.left_s),
            text="" if done else event.text,
            refresh=True,
        )

    def _print(self, event: Event) -> None:
        """A line per step at most every 15 seconds, and one when a stage begins or a round ends."""
        key = (event.stage, event.done if event.stage == "measure" else -1)
        now = monotonic()
        if key == self._last_key and now - self._last_line < LINE_EVERY_S:
            return
        self._last_key, self._last_line = key, now
        left = left_text(event.left_s)
        steps = f"{event.done}/{event.total}"
        text = f"{NAMES[event.stage]} {steps}{': ' + event.text if event.text != 'done' else ''}"
        print(f"{text}{' (' + left + ')' if left else ''}", file=sys.stderr, flush=True)  # noqa: T201 - this is the display


def left_text(seconds: float | None) -> str:
    """The time left, in words."""
    if seconds is None:
        return ""
    if seconds < 1:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes}:{rest:02d} left" if minutes else f"about {rest} s left"
