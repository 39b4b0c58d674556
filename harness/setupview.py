"""What ``enginepick setup`` shows: what can live in an interpreter of its own, and where it does.

Values in, rich renderables or JSON-able data out; nothing here prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness import environments, wire
from harness.homes import Standing, Where
from harness.types import Probe
from harness.views import tilde

SCHEMA = "enginepick-setup/1"


def view(standings: Sequence[Standing]) -> RenderableType:
    """A row for everyone who lives in each home, then the homes, then what to do."""
    if not standings:
        return Text("No backend or converter that is installed says what it takes.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Home", no_wrap=True)
    for name in ("Who lives there", "What it is", "Version", "Devices"):
        table.add_column(name, overflow="fold")
    for each in standings:
        for place, (tenant, probe) in enumerate(zip(each.house.tenants, each.probes, strict=True)):
            home = each.house.name if place == 0 else ""
            table.add_row(home, tenant.name, tenant.does, _version(probe), _devices(probe))
    places = Table.grid(padding=(0, 2))
    places.add_column(style="bold", no_wrap=True)
    places.add_column(overflow="fold")
    for each in standings:
        places.add_row(each.house.name, Text(where_text(each)))
    parts: list[RenderableType] = [table, Text("\nWhere they live:", "bold"), places]
    parts += _trouble(standings)
    todo = [line for each in standings for line in _todo(each)]
    if todo:
        parts += [Text("\nNext:", "bold"), *(Text(f"  {line}") for line in todo)]
    if any(each.where is Where.HERE and each.usable for each in standings):
        parts.append(Text("\nTo give any of them a Python of its own: enginepick setup NAME"))
    return Group(*parts)


def _trouble(standings: Sequence[Standing]) -> list[RenderableType]:
    """Why those that aren't usable aren't."""
    found = [(each.house.name, each.problem) for each in standings if each.problem is not None]
    found += [
        (probe.backend, probe.problem)
        for each in standings
        if each.problem is None
        for probe in each.probes
        if probe.problem is not None
    ]
    lines = [Text(f"  {name}: {problem}") for name, problem in dict.fromkeys(found)]
    return [Text("\nNot usable:", "bold"), *lines] if lines else []


def where_text(each: Standing) -> str:
    """Where a home is, for people."""
    if each.where is Where.OWN:
        assert each.made is not None
        text = (
            f"Python {each.made.python} of its own, {tilde(environments.folder(each.house.name))}"
        )
    elif each.where is Where.NAMED:
        text = f"{each.python}, which devices.toml names"
    elif each.usable:
        text = "here, beside enginepick"
    else:
        text = "nowhere yet"
    return f"{text}; made for another version of enginepick" if each.outdated else text


def _todo(each: Standing) -> list[str]:
    """Commands, each with its reason."""
    name = each.house.name
    if each.problem is not None:
        return [f"{name}: {each.fix}"] if each.fix else []
    if each.outdated:
        return [f"enginepick setup {name}    # what it takes has changed since it was made"]
    if each.where is Where.HERE and not each.usable:
        return [f"enginepick setup {name}"]
    return [f"{p.backend}: {p.fix}" for p in each.probes if p.problem is not None and p.fix]


def _version(probe: Probe) -> str:
    versions = dict(probe.versions)
    if probe.problem is not None:
        return "-"
    return versions.get(probe.backend) or next(iter(versions.values()), "?")


def _devices(probe: Probe) -> str:
    if probe.problem is not None:
        return "unusable"
    return ", ".join(device.id for device in probe.devices) or "-"


def data(standings: Sequence[Standing]) -> dict[str, Any]:
    """``enginepick setup --json``."""
    return {"schema": SCHEMA, "homes": [_home_data(each) for each in standings]}


def _home_data(each: Standing) -> dict[str, Any]:
    house, made = each.house, each.made
    return {
        "name": house.name,
        "usable": each.usable,
        "where": str(each.where),
        "python": each.python,
        "environment": wire.encode(house.environment),
        "folder": str(environments.folder(house.name)) if made is not None else None,
        "made": None if made is None else {**wire.encode(made), "versions": dict(made.versions)},
        "outdated": each.outdated,
        "problem": each.problem,
        "fix": each.fix,
        "command": f"enginepick setup {house.name}",
        "tenants": [
            {
                "name": tenant.name,
                "does": tenant.does,
                **{k: v for k, v in wire.encode(probe).items() if k != "backend"},
            }
            for tenant, probe in zip(house.tenants, each.probes, strict=True)
        ],
    }


def removed_view(gone: Sequence[tuple[str, bool]]) -> RenderableType:
    """``enginepick setup NAME --remove``."""
    words = {True: "its environment is removed", False: "had no environment of its own"}
    return Text("\n".join(f"{name}: {words[there]}" for name, there in gone))


def removed_data(gone: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """``enginepick setup NAME --remove --json``."""
    return {"schema": SCHEMA, "removed": dict(gone)}
