"""The report on a terminal: 100 columns and more show everything, 80 the most important."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.report import format as fmt
from harness.report.notes import Note
from harness.report.sections import Section
from harness.report.story import Group, Row, Story, story
from harness.report.value import Report

ONE_LINE_FROM = 124
"""Columns from which a candidate's row is one line."""
ALL_FROM = 96
"""Columns from which every column is shown."""
MOST_ROWS = 40
"""A table longer than this is for a program: the text says which format has the rest."""

LONGEST_WORD = 24
"""Of a name; what is longer is broken."""

RAN = "Really ran"
MARKS = {
    "choice": "★",
    "tied": "=",
    "admissible": "",
    "unresolved": "?",
    "refused": "✗",
    "dropped": "↓",
}
ADMISSIBLE = ("choice", "tied", "admissible")
_STYLES = {"choice": "bold green", "unresolved": "yellow", "refused": "dim", "dropped": "dim"}
_LEVELS = {"good": "green", "fair": "yellow", "poor": "bold red", "info": "cyan"}
_PLAIN = str.maketrans({"★": "*", "✗": "x", "↓": "v", "±": "~"})
"""What stands for these where the terminal's encoding has only ASCII."""


def render_text(report: Report, console: Console) -> None:
    """Print the report."""
    told = story(report)
    console.print(_headline(told))
    if told.rows:
        console.print(_candidates(told, console))
        console.print(_legend(told, console), style="dim")
    if told.groups:
        console.print(_title("Not ranked"), _groups(told.groups), sep="\n")
    for section in told.sections:
        console.print(_section(section, console))
    if told.unknown:
        console.print(_title("Not known yet"), _bullets(told.unknown), sep="\n")
    if told.notes:
        console.print(_title("How far to trust this"), _notes(told.notes), sep="\n")
    if told.export:
        console.print(_title("To deploy it"))
        code = Text("  ").append(told.export, "bold cyan")
        console.print(code, soft_wrap=True)
        console.print("  hands out the engine with the script that runs it:", style="dim")
        if report.deploy_code is not None:
            console.print(_script(report.deploy_code))


def _script(code: str) -> RenderableType:
    """The code as it is; indented, and in colours where there are any."""
    from rich.padding import Padding
    from rich.syntax import Syntax

    shown = Syntax(fmt.clean_lines(code), "python", background_color="default", word_wrap=True)
    return Padding(shown, (1, 0, 0, 2))


def _plain(text: str, console: Console) -> str:
    return text.translate(_PLAIN) if console.options.ascii_only else text


def _title(text: str) -> Text:
    return Text(f"\n{text}", "bold")


def _headline(told: Story) -> Panel:
    sentence = Text().append(f"{told.lead} ", "bold" if told.chosen else "bold yellow")
    if told.chosen:
        sentence.append(told.chosen, "bold green")
    sentence.append(told.rest)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for title, text in told.facts:
        facts.add_row(title, Text(text))
    whole = Table.grid()
    whole.add_column(overflow="fold")
    whole.add_row(sentence)
    whole.add_row("")
    whole.add_row(facts)
    return Panel(
        whole,
        title=Text(told.subject, "bold"),
        title_align="left",
        border_style="green" if told.chosen else "yellow",
        padding=(1, 2),
    )


# -- the candidates --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """cells: the main text and the one that goes with it. narrow: shown at 80 columns too."""

    title: str
    cells: Callable[[Row], tuple[str, str]]
    narrow: bool = True
    justify: Literal["left", "right"] = "left"


def _columns(told: Story, console: Console) -> list[_Column]:
    def place(row: Row) -> tuple[str, str]:
        return f"{row.number:>2} {_plain(MARKS[row.place], console)}", ""

    time = "Throughput" if told.is_throughput else "Latency"
    columns = [
        _Column("#", place),
        _Column("Candidate", lambda row: (row.name, "")),
        _Column(time, lambda row: (row.time, _plain(row.half_width, console))),
        _Column("Compute", lambda row: (row.compute, ""), narrow=False),
        _Column("Speed-up", lambda row: (row.speed, row.bounds)),
        _Column(told.score_title, lambda row: (row.score, row.change)),
        _Column("Memory", lambda row: (row.memory, ""), justify="right"),
        _Column("Size", lambda row: (row.size, ""), narrow=False, justify="right"),
        _Column(RAN, lambda row: (row.kept, "")),
    ]
    wide = console.width >= ALL_FROM
    compute = any(row.compute != "-" for row in told.rows)
    return [
        column
        for column in columns
        if (wide or column.narrow) and (compute or column.title != "Compute")
    ]


def _candidates(told: Story, console: Console) -> Table:
    columns = _columns(told, console)
    one_line = console.width >= ONE_LINE_FROM
    shown = told.rows[:MOST_ROWS]
    word = _longest_word(row.name for row in shown)
    table = Table(
        box=None if console.options.ascii_only else box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=Text("\nCandidates", "bold"),
        title_justify="left",
    )
    for column in columns:
        table.add_column(
            column.title,
            justify=column.justify,
            overflow="fold",
            no_wrap=one_line or column.title not in ("Candidate", RAN),
            min_width=word if column.title == "Candidate" else len(column.title),
        )
    for row, after in zip(shown, [*shown[1:], None], strict=True):
        cells = [_cell(column, row, one_line=one_line) for column in columns]
        ends = row.place in ADMISSIBLE and after is not None and after.place not in ADMISSIBLE
        table.add_row(*cells, style=_STYLES.get(row.place), end_section=ends)
    return table


def _longest_word(texts: Iterable[str]) -> int:
    """Its length, so that lines break between words: names of recipes are read as wholes."""
    return min(max((len(word) for text in texts for word in text.split()), default=0), LONGEST_WORD)


def _cell(column: _Column, row: Row, *, one_line: bool) -> Text:
    main, beside = column.cells(row)
    style = "yellow" if column.title == RAN and row.partly else ""
    cell = Text(main, style)
    if beside and beside != "-":
        cell.append(f" {beside}" if one_line else f"\n{beside}", "not bold dim")
    return cell


def _legend(told: Story, console: Console) -> RenderableType:
    meanings = {
        "choice": "recommended",
        "tied": "tied with the best",
        "unresolved": "a constraint isn't decided yet",
        "refused": "misses a constraint",
        "dropped": "out early, see below",
    }
    present = {row.place for row in told.rows}
    marks = [f"{MARKS[place]} {text}" for place, text in meanings.items() if place in present]
    time = "throughput" if told.is_throughput else "latency"
    lines = [_plain("   ".join(marks), console)] if marks else []
    lines.append(
        f"Speed-up is over {told.baseline}, with its interval (95 %, all pairs at once); {time}"
        f" {_plain('±', console)} is half of its 95 % interval."
    )
    hidden = len(told.rows) - MOST_ROWS
    if hidden > 0:
        lines.insert(0, f"{hidden} more are in --format csv, json, md and html.")
    return Text("\n".join(lines))


# -- the rest --------------------------------------------------------------------------------------


def _section(section: Section, console: Console) -> RenderableType:
    """A table with its sentence above it and its remarks below."""
    parts: list[RenderableType] = [_title(section.title), Text(section.lead)]
    if section.rows:
        plain = console.options.ascii_only
        table = Table(
            box=None if plain else box.SIMPLE_HEAD,
            header_style="bold",
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        words = _longest_word(row[0] for row in section.rows)
        for place, head in enumerate(section.heads):
            table.add_column(head, overflow="fold", min_width=0 if place else words)
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        parts.append(table)
    parts += [Text(each, "dim") for each in section.remarks]
    return Lines(*parts)


def _pairs(console_style: str = "bold") -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style=console_style)
    table.add_column(overflow="fold")
    return table


def _groups(groups: Sequence[Group]) -> Table:
    table = _pairs("yellow")
    for group in groups:
        text = Text(", ".join(group.names), "bold")
        text.append(f"\n{group.reason}", "not bold")
        if group.fix:
            text.append("\n-> ", "not bold").append(group.fix, "not bold cyan")
        table.add_row(Text(f"  {group.heading}"), text)
    return table


def _bullets(texts: Sequence[str]) -> Table:
    table = _pairs()
    for text in texts:
        table.add_row("  -", Text(text))
    return table


def _notes(notes: Sequence[Note]) -> Table:
    table = _pairs("")
    for note in notes:
        table.add_row(Text(f"  {note.title}", _LEVELS[note.level]), Text(note.text))
    return table
