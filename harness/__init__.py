"""EnginePick: which inference backend at which precision to deploy on each of your machines.

Everything that the command line does, as functions::

    import harness

    config = harness.load_sweep(None, {"model": "model.onnx", "data": "data.npz"})
    results = harness.sweep(config)                     # measures; everything is kept on disk
    analysis = harness.analyse(results)                 # statistics, intervals, verdicts
    recommendation = harness.recommend(analysis)        # the choice, and why
    results = harness.load_results("results/local/<run-id>.jsonl")
    comparison = harness.compare(earlier, results)      # what got better or worse
    built = harness.build_engines(config, Path("engines"))  # engines alone; measures nothing

Names are loaded when they are first used, so that importing the package costs nothing and works in
workers' interpreters, which have neither pydantic nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.ahead import Built, build_engines
    from harness.analysis import Analysis, analyse
    from harness.comparison import Comparison, compare
    from harness.config import BuildConfig, SweepConfig, load_lab, load_sweep
    from harness.recommendation import Limits, Recommendation, recommend
    from harness.run import resume, sweep
    from harness.side_by_side import measure_again
    from harness.store import Results
    from harness.store import read as load_results

_HOMES = {
    "Analysis": ("harness.analysis", "Analysis"),
    "BuildConfig": ("harness.config", "BuildConfig"),
    "Built": ("harness.ahead", "Built"),
    "Comparison": ("harness.comparison", "Comparison"),
    "Limits": ("harness.recommendation", "Limits"),
    "Recommendation": ("harness.recommendation", "Recommendation"),
    "Results": ("harness.store", "Results"),
    "SweepConfig": ("harness.config", "SweepConfig"),
    "analyse": ("harness.analysis", "analyse"),
    "build_engines": ("harness.ahead", "build_engines"),
    "compare": ("harness.comparison", "compare"),
    "load_lab": ("harness.config", "load_lab"),
    "load_results": ("harness.store", "read"),
    "load_sweep": ("harness.config", "load_sweep"),
    "measure_again": ("harness.side_by_side", "measure_again"),
    "recommend": ("harness.recommendation", "recommend"),
    "resume": ("harness.run", "resume"),
    "sweep": ("harness.run", "sweep"),
}

__all__ = [
    "Analysis",
    "BuildConfig",
    "Built",
    "Comparison",
    "Limits",
    "Recommendation",
    "Results",
    "SweepConfig",
    "analyse",
    "build_engines",
    "compare",
    "load_lab",
    "load_results",
    "load_sweep",
    "measure_again",
    "recommend",
    "resume",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
