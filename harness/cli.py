"""The command line: parses, calls the harness, prints, exits. Nothing else prints or exits.

Exit codes: 0 done; 1 no candidate meets the constraints, ``--fail-on`` something that happened, or
an interpreter of its own can't be set up; 2 the user's input is wrong; 3 an internal fault; 130
interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from harness.errors import EnginePickError, InputError, Problem
from harness.types import ASKED

if TYPE_CHECKING:
    from harness.comparison import Comparison
    from harness.plan import Known
    from harness.report import Report
    from harness.setup import Home
    from harness.store import Results

DEMO_BUDGET = "2m"
MOST_ROUNDS = 20

EXIT_GATE, EXIT_INPUT, EXIT_FAULT, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="enginepick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which inference backend at which precision to deploy on each of your machines, "
    "and how sure: measured on the machine itself, on your own model and data.",
)


class Format(StrEnum):
    """Of a report."""

    TEXT = "text"
    MD = "md"
    HTML = "html"
    JSON = "json"
    CSV = "csv"


class Objective(StrEnum):
    """What the recommendation makes best."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    MEMORY = "memory"
    SIZE = "size"


class FailOn(StrEnum):
    """What makes a comparison fail."""

    REGRESSION = "regression"


Model = Annotated[
    str | None,
    typer.Argument(help="An .onnx, .tflite or .pt2 file, or PyTorch's module:function."),
]
Out = Annotated[Path, typer.Option(help="The folder that keeps the results.")]
DevicesFile = Annotated[
    Path | None, typer.Option("--devices", help="The lab; else ./devices.toml where there is one.")
]
TargetName = Annotated[
    str | None, typer.Option("--target", help="A target of devices.toml; else the one we are on.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]
AccuracyDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop", help="Largest certified drop against fp32 (0.01: a point)."
    ),
]
Latency = Annotated[str | None, typer.Option("--max-latency", help='Such as "5ms" or "800us".')]
Memory = Annotated[str | None, typer.Option("--max-memory", help='Peak memory, such as "200MB".')]
Size = Annotated[str | None, typer.Option("--max-size", help='Of the engine, such as "20MB".')]
ObjectiveOption = Annotated[
    Objective | None, typer.Option("--objective", help="What to make best; else latency.")
]


@app.command()
def demo(
    *,
    out: Out = Path("results"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sweep the built-in digits model on this host, end to end."""
    folder = Path(__file__).parent / "demo"
    files = {"model": str(folder / "digits.onnx"), "data": str(folder / "digits.npz")}
    wishes = {**files, "out": str(out), "budget": DEMO_BUDGET}
    _sweep(wishes, as_json=as_json, quiet=quiet)


@app.command()
def devices(
    *,
    as_json: Json = False,
    devices_file: DevicesFile = None,
    target: TargetName = None,
) -> None:
    """Show this host and every backend: usable, or why not and the command that fixes it."""
    from harness import config, prepare, registry, views
    from harness.host import probe_host

    lab, host = config.load_lab(devices_file), probe_host()
    name, entry = config.find_target(lab, host, target)
    shown = [each for each in registry.names() if not registry.hidden(each)]
    knowns = prepare.find_backends(shown, entry.python)
    title = f"{name}: {entry.description}" if entry.description else name
    if as_json:
        _print_json(views.devices_data(host, name, knowns, entry.python))
    else:
        _print(views.devices_view(host, title, knowns, entry.python))


@app.command()
def setup(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Backends or converters; else show them all."),
    ] = None,
    *,
    python: Annotated[
        str | None, typer.Option(help="The Python to make it with; else one that fits is found.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it again.")] = False,
    devices_file: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Give a backend or converter an interpreter of its own, or show where each lives."""
    from harness import config, homes, setupview
    from harness.host import probe_host

    if python is not None and (remove or not names):
        raise InputError([Problem("--python", "nothing is made", "enginepick setup NAME")])
    if remove:
        if not names:
            raise InputError([Problem("--remove", "of which one?", "name it")])
        gone = homes.remove(names)
        if as_json:
            _print_json(setupview.removed_data(gone))
        else:
            _print(setupview.removed_view(gone))
        return
    named = config.find_target(config.load_lab(devices_file), probe_host())[1].python
    if names:
        found = homes.set_up_all(names, named, python, _say)
    else:
        found = tuple(homes.standing(each, named) for each in homes.houses().values())
    if as_json:
        _print_json(setupview.data(found))
    else:
        _print(setupview.view(found))
    if names and not all(each.usable for each in found):
        raise typer.Exit(EXIT_GATE)


@app.command()
def sweep(
    model: Model = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            help="An .npz of arrays named as the inputs, plus 'labels'; or a folder of them "
            "or of images, or module:function."
        ),
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Data for calibration only.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="A metric, such as top1, mae@output or 'f1(average=micro)', or module:function; "
            "docs/metrics.md lists them."
        ),
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="A sweep.toml.")] = None,
    devices_file: DevicesFile = None,
    target: TargetName = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Only this one; repeatable: " + ", ".join(str(each) for each in ASKED)),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="An engine of your own, compared as it is; repeatable."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Such as cpu or gpu:0, else the target's; repeatable."),
    ] = None,
    budget: Annotated[str | None, typer.Option(help='Longest time, such as "5m".')] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Launches of each candidate; else as many as it takes.")
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="20 launches of every candidate; drop nothing.")
    ] = False,
    sustain: Annotated[
        str | None,
        typer.Option(help='Then keep the best under load for so long, such as "10m".'),
    ] = None,
    calibration_seeds: Annotated[
        int | None,
        typer.Option(
            help="Draw calibration samples so often, to see how much int8 accuracy is luck."
        ),
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            help='Where int8 fails: look so long for mixed precision that doesn\'t, such as "5m".'
        ),
    ] = None,
    max_accuracy_drop: AccuracyDrop = None,
    max_latency: Latency = None,
    max_memory: Memory = None,
    max_size: Size = None,
    objective: ObjectiveOption = None,
    out: Annotated[Path | None, typer.Option(help="The folder that keeps the results.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this interrupted run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; run nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure every candidate on this host and recommend one."""
    wishes: dict[str, object] = {
        "model": model,
        "data": data,
        "calibration": calibration,
        "metric": metric,
        "target": target,
        "backends": backend,
        "precisions": precision,
        "engines": engine,
        "candidates.devices": device,
        "budget": budget,
        "sustain": sustain,
        "recover": recover,
        "calibration_seeds": calibration_seeds,
        "measure.rounds": MOST_ROUNDS if exhaustive else rounds,
        "constraints.max_accuracy_drop": max_accuracy_drop,
        "constraints.max_latency": max_latency,
        "constraints.max_memory": max_memory,
        "constraints.max_size": max_size,
        "objective": str(objective) if objective else None,
        "out": str(out) if out else None,
    }
    if resume is not None:
        _refuse_beside_resume({**wishes, "config": config_file}, dry_run=dry_run)
        _resume(resume, str(out or "results"), devices_file, as_json=as_json, quiet=quiet)
        return
    _sweep(wishes, config_file, devices_file, dry_run=dry_run, as_json=as_json, quiet=quiet)


@app.command()
def build(
    model: Model = None,
    *,
    backend: Annotated[str | None, typer.Option(help="The backend that builds.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="One of " + ", ".join(str(each) for each in ASKED))
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Only this way of making the precision; else each of them.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="A target of devices.toml, which may be elsewhere; else this host."),
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help='Of a GPU that is elsewhere, such as "8.9".')
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of this host; else the target's.")] = None,
    data: Annotated[
        str | None, typer.Option(help="As for a sweep: says what shapes there are, and calibrates.")
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Data for calibration only.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, an option of the build; repeatable.")
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="A sweep.toml.")] = None,
    devices_file: DevicesFile = None,
    out: Annotated[Path, typer.Option(help="Gets a folder for each engine.")] = Path("engines"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build engines of one precision, here or for a GPU that is elsewhere; measures nothing."""
    from rich.console import Console

    from harness import buildview
    from harness.ahead import build_engines
    from harness.config import BuildConfig, load_lab, load_sweep
    from harness.progress import Progress
    from harness.run import Event

    if device is not None and compute_capability is not None:
        what = "a device of this host beside the capability of a GPU elsewhere"
        raise InputError([Problem("--device", what, "name one of them")])
    wishes: dict[str, object] = {
        "model": model,
        "data": data,
        "calibration": calibration,
        "target": target,
        "backends": [backend] if backend else None,
        "precisions": [precision] if precision else None,
        "candidates.devices": [device] if device else None,
    }
    with Progress(Console(stderr=True), quiet=quiet) as progress:
        built = build_engines(
            load_sweep(config_file, wishes, BuildConfig),
            out,
            recipe=recipe,
            compute_capability=compute_capability,
            options=_options(option or []),
            device=device,
            lab=load_lab(devices_file),
            show=lambda done, total, text: progress(Event("build", done, total, text)),
        )
    if as_json:
        _print_json(buildview.data(built))
    else:
        _print(buildview.view(built))
    if all(each.file is None for each in built.engines):
        raise typer.Exit(EXIT_GATE)


@app.command()
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs or folders of runs; else the newest run.")
    ] = None,
    *,
    max_accuracy_drop: AccuracyDrop = None,
    max_latency: Latency = None,
    max_memory: Memory = None,
    max_size: Size = None,
    objective: ObjectiveOption = None,
    form: Annotated[Format, typer.Option("--format", help="Of the report.")] = Format.TEXT,
    output: Annotated[Path | None, typer.Option(help="A file; else standard output.")] = None,
    plots: Annotated[Path | None, typer.Option(help="A folder to put the plots into.")] = None,
    out: Out = Path("results"),
) -> None:
    """Decide again from results alone, under other constraints; never measures."""
    from harness.report import render, save_plots

    given = {
        "max_accuracy_drop": max_accuracy_drop,
        "max_latency": max_latency,
        "max_memory": max_memory,
        "max_size": max_size,
    }
    reports = [_report(results, given, objective) for results in _find_results(runs or [], out)]
    text = render(reports, str(form), width=_width(output))
    if output is None:
        _print_text(text, form)
    else:
        _write(output, text)
    for each in reports if plots else ():
        assert plots is not None
        save_plots(each, plots / each.results.run.run_id if len(reports) > 1 else plots)
    if any(each.recommendation.choice is None for each in reports):
        raise typer.Exit(EXIT_GATE)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="The run to compare with: its id or file.")],
    new: Annotated[str, typer.Argument(help="The run that may be better or worse.")],
    *,
    interleave: Annotated[
        bool, typer.Option("--interleave", help="Measure both again, side by side: sharper.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(help='Longest time of --interleave, such as "5m".')
    ] = None,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Exit with 1 when something got worse.")
    ] = None,
    devices_file: DevicesFile = None,
    out: Out = Path("results"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what got better or worse from one run to another, candidate by candidate."""
    from harness.comparison import compare as compare_runs
    from harness.report import comparing
    from harness.run import find_run
    from harness.store import read, siblings

    if budget is not None and not interleave:
        raise InputError([Problem("--budget", "only --interleave measures anything")])
    paths = [find_run(each, out) for each in (base, new)]
    runs = read(paths[0]), read(paths[1])
    found = compare_runs(*runs, siblings(paths))
    if interleave:
        found = _measure_again(found, runs, budget, devices_file, quiet=quiet)
    if as_json:
        _print_json(comparing.data(found))
    else:
        _print(comparing.view(found))
    if found.void:
        raise InputError(
            [
                Problem(
                    each.what,
                    f"{each.base or 'fine'} in the base run, {each.new or 'fine'} in the new one",
                    _mend(each.what),
                )
                for each in found.void
            ]
        )
    if fail_on is not None and found.regressed:
        raise typer.Exit(EXIT_GATE)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's id or file.")],
    *,
    to: Annotated[Path, typer.Option(help="An empty or new folder.")] = Path("engine"),
    candidate: Annotated[
        str | None, typer.Option(help="The candidate's id; else the recommended one.")
    ] = None,
    out: Out = Path("results"),
) -> None:
    """Hand out the recommended engine with the code and options that run it."""
    from harness.cache import Cache
    from harness.export import export as hand_out
    from harness.run import find_run
    from harness.store import read

    results = read(find_run(run, out))
    made = _report(results, {}, None)
    chosen = made.recommendation.choice
    if candidate is not None:
        chosen = made.analysis.summary(candidate)
    if chosen is None:
        known = ", ".join(each.candidate.id for each in made.analysis.summaries)
        what = f"no candidate {candidate} in this run" if candidate else "no candidate was chosen"
        raise InputError([Problem("--candidate", f"{what}; there are: {known}")])
    for path in hand_out(results, chosen, to, Cache()):
        typer.echo(path)


@app.command()
def cache(
    *,
    max_size: Annotated[
        str | None, typer.Option(help='Remove the least recently used over this, such as "20GB".')
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
) -> None:
    """Show what engines and variants are kept, or remove some."""
    from harness import views
    from harness.cache import Cache
    from harness.config import parse_size

    kept = Cache()
    gone = []
    if clear:
        gone = kept.clear()
    elif max_size is not None:
        try:
            gone = kept.evict(parse_size(max_size))
        except ValueError as error:
            raise InputError([Problem("--max-size", str(error))]) from None
    if gone:
        typer.echo(
            f"removed {len(gone)} entries, {views.size_text(sum(each.size_bytes for each in gone))}"
        )
    _print(views.cache_view(kept, kept.entries()))


@app.command()
def selftest(
    *,
    budget: Annotated[str, typer.Option(help='Longest time, such as "2m".')] = "2m",
    backend: Annotated[str, typer.Option(help="The backend to run.")] = "onnxruntime",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what differences this host can resolve: equal engines and known slow-downs."""
    from rich.console import Console

    from harness import views
    from harness.config import parse_duration
    from harness.host import probe_host
    from harness.progress import Progress
    from harness.run import Event
    from harness.selftest import selftest as run_selftest

    try:
        budget_s = parse_duration(budget)
    except ValueError as error:
        raise InputError([Problem("--budget", str(error))]) from None
    known, home = _usable(backend)
    isa = frozenset(probe_host().cpu.isa)
    with Progress(Console(stderr=True), quiet=quiet) as progress:
        found = run_selftest(
            backend,
            home,
            known.probe,
            budget_s=budget_s,
            isa=isa,
            show=lambda done, text: progress(Event("measure", done, MOST_ROUNDS, text)),
        )
    if as_json:
        _print_json(views.selftest_data(found))
    else:
        _print(views.selftest_view(found))
    if not found.passed:
        raise typer.Exit(EXIT_GATE)


# -- the steps -------------------------------------------------------------------------------------


def _sweep(
    wishes: Mapping[str, object],
    config_file: Path | None = None,
    devices_file: Path | None = None,
    *,
    dry_run: bool = False,
    as_json: bool,
    quiet: bool,
) -> None:
    from rich.console import Console

    from harness import config, run
    from harness.cache import Cache
    from harness.progress import Progress

    settings = config.load_sweep(config_file, wishes)
    lab = config.load_lab(devices_file)
    if dry_run:
        from harness import views
        from harness.prepare import prepare

        with Cache().scratch() as spool:
            prepared = prepare(settings, lab, spool)
        if as_json:
            _print_json(views.plan_data(prepared))
        else:
            _print(views.plan_view(prepared))
        return
    with Progress(Console(stderr=True), quiet=quiet) as progress:
        results = run.sweep(settings, lab, Cache(), progress)
    _show(results, as_json=as_json)


def _resume(
    run_id: str, out: str, devices_file: Path | None, *, as_json: bool, quiet: bool
) -> None:
    from rich.console import Console

    from harness import config, run
    from harness.cache import Cache
    from harness.progress import Progress

    with Progress(Console(stderr=True), quiet=quiet) as progress:
        results = run.resume(run_id, out, config.load_lab(devices_file), Cache(), progress)
    _show(results, as_json=as_json)


def _measure_again(
    found: Comparison,
    runs: tuple[Results, Results],
    budget: str | None,
    devices_file: Path | None,
    *,
    quiet: bool,
) -> Comparison:
    from rich.console import Console

    from harness import config
    from harness.cache import Cache
    from harness.progress import Progress
    from harness.run import Event
    from harness.side_by_side import measure_again

    try:
        budget_s = None if budget is None else config.parse_duration(budget)
    except ValueError as error:
        raise InputError([Problem("--budget", str(error))]) from None
    lab = config.load_lab(devices_file)
    with Progress(Console(stderr=True), quiet=quiet) as progress:
        return measure_again(
            found,
            runs,
            lab,
            Cache(),
            budget_s=budget_s,
            show=lambda done, total, text: progress(Event("measure", done, total, text)),
        )


def _mend(what: str) -> str:
    """What to do about runs whose times can't be compared."""
    return {
        "hardware": "measure both on one machine: enginepick compare BASE NEW --interleave",
        "side by side": "measure again when the host is quiet and cool",
        "session": "measure again: enginepick compare BASE NEW --interleave",
    }.get(what, "compare runs of one kind of work")


def _options(given: Sequence[str]) -> dict[str, str]:
    """Of NAME=VALUE, each name once."""
    pairs = [each.partition("=") for each in given]
    names = [name for name, _, _ in pairs]
    problems = [
        Problem("--option", f'"{"".join(pair)}" is not of the form NAME=VALUE')
        for pair in pairs
        if not (pair[0] and pair[1])
    ]
    problems += [
        Problem("--option", f"{name} is given {names.count(name)} times", "give one value")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if problems:
        raise InputError(problems)
    return {name: value for name, _, value in pairs}


def _usable(backend: str) -> tuple[Known, Home]:
    """A backend that runs here. Raises InputError for one that doesn't."""
    from harness import prepare, registry

    registry.location(backend)
    home = prepare.find_home(backend, {})
    known = prepare.find_backend(backend, home)
    if home is None or known.probe.problem is not None:
        raise InputError([Problem("--backend", str(known.probe.problem), known.probe.fix)])
    return known, home


def _refuse_beside_resume(given: Mapping[str, object], *, dry_run: bool) -> None:
    """A resumed run keeps its own settings: options that would be ignored are errors."""
    names = [name for name, value in given.items() if value not in (None, [], ()) and name != "out"]
    names += ["dry-run"] if dry_run else []
    if names:
        what = f"goes on with the run's own settings; {', '.join(names)} can't be given beside it"
        raise InputError([Problem("--resume", what, "start a new sweep for other settings")])


def _show(results: Results, *, as_json: bool) -> None:
    """Print the report, and keep it beside the records with its plots."""
    from harness.report import render, save_all

    made = _report(results, {}, None)
    folder = results.path.with_suffix("")
    form = Format.JSON if as_json else Format.TEXT
    _print_text(render([made], str(form), width=_width(None)), form)
    save_all(made, folder)
    if not as_json:
        typer.echo(f"\nRecords: {results.path}\nReport:  {folder / 'report.html'}")
    if results.end is not None and results.end.why == "interrupted":
        resume = f"enginepick sweep --resume {results.run.run_id}"
        typer.echo(f"Interrupted. To go on: {resume}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if made.recommendation.choice is None:
        raise typer.Exit(EXIT_GATE)


def _report(results: Results, given: Mapping[str, object], objective: Objective | None) -> Report:
    """Analyse and decide: the run's own constraints, changed by what is given."""
    from harness.analysis import analyse
    from harness.asked import limits_of
    from harness.config import SweepConfig, load_sweep
    from harness.recommendation import recommend
    from harness.report import Report

    config = SweepConfig.from_dict(results.run.config, f"{results.path.name}: config")
    changed = {f"constraints.{name}": value for name, value in given.items()}
    limits = limits_of(load_sweep(None, {**config.to_dict(), **changed}).constraints)
    analysis = analyse(results)
    decided = recommend(analysis, limits, str(objective or config.objective))  # type: ignore[arg-type]
    return Report(results, analysis, decided)


def _find_results(runs: Sequence[str], out: Path) -> list[Results]:
    """The runs that are named: files, ids, folders of runs; or the newest."""
    from harness.run import find_run
    from harness.side_by_side import FOLDER
    from harness.store import read

    if not runs:
        found = sorted(out.glob("*/*.jsonl"), key=lambda path: path.stat().st_mtime)
        if not found:
            fix = "enginepick demo"
            raise InputError([Problem("RUN", f"no results below {out}", fix)])
        return [read(found[-1])]
    paths: list[Path] = []
    for run in runs:
        if Path(run).is_dir():
            # Side-by-side sessions answer another question than a run.
            inside = [p for p in sorted(Path(run).rglob("*.jsonl")) if p.parent.name != FOLDER]
            if not inside:
                raise InputError([Problem(run, "no runs in this folder", "enginepick demo")])
            paths += inside
        else:
            paths.append(find_run(run, out))
    return [read(path) for path in paths]


# -- printing --------------------------------------------------------------------------------------


def _width(output: Path | None) -> int | None:
    """None: the terminal's. A file or a pipe gets 100 columns unless COLUMNS says otherwise."""
    if output is None and sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) else 100


def _say(name: str, line: str) -> None:
    """Of a long step, where nobody is bothered who reads the result."""
    typer.echo(f"{name}: {line}", err=True)


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console(width=_width(None)).print(renderable)


def _print_json(data: object) -> None:
    import json

    typer.echo(json.dumps(data, indent=2))


def _print_text(text: str, form: Format) -> None:
    typer.echo(text, nl=not text.endswith("\n"), color=True if form is Format.TEXT else None)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError([Problem("--output", f"{path}: {error.strerror}")]) from error


def _fail(error: InputError) -> NoReturn:
    count = len(error.problems)
    typer.echo(f"error: {count} problem{'s' if count > 1 else ''} with the input", err=True)
    for problem in error.problems:
        typer.echo(f"  {problem}", err=True)
    raise SystemExit(EXIT_INPUT)


def main() -> None:
    """The ``enginepick`` command."""
    try:
        app()
    except InputError as error:
        _fail(error)
    except EnginePickError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(EXIT_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; what was measured is kept", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:
        if os.environ.get("ENGINEPICK_DEBUG"):
            raise
        kind = type(error).__name__
        typer.echo(
            f"internal error: {kind}: {error}\n"
            "  -> run it again with ENGINEPICK_DEBUG=1 for the traceback, "
            "and please report it",
            err=True,
        )
        raise SystemExit(EXIT_FAULT) from None


if __name__ == "__main__":
    main()
