"""EnginePick: which inference backend at which precision to deploy on each of your machines.

Everything that the command line does, as functions::

    import harness

    config = harness.load_sweep(None, {"model": "model.onnx", "data": "data.npz"})
    results = harness.sweep(config)                     # measures; everything is kept on disk
    analysis = harness.analyse(results)                 # statistics, intervals, verdicts
    recommendation = harness.recommend(analysis)        # the choice, and why
    results = harness.load_results("results/local/<run-id>.jsonl")

Names are loaded when they are first used, so that importing the package costs nothing and works in
workers' interpreters, which have neither pydantic nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.analysis import Analysis, analyse
    from harness.config import SweepConfig, load_lab, load_sweep
    from harness.recommendation import Limits, Recommendation, recommend
    from harness.run import sweep
    from harness.store import Results
    from harness.store import read as load_results

_HOMES = {
    "Analysis": ("harness.analysis", "Analysis"),
    "Limits": ("harness.recommendation", "Limits"),
    "Recommendation": ("harness.recommendation", "Recommendation"),
    "Results": ("harness.store", "Results"),
    "SweepConfig": ("harness.config", "SweepConfig"),
    "analyse": ("harness.analysis", "analyse"),
    "load_lab": ("harness.config", "load_lab"),
    "load_results": ("harness.store", "read"),
    "load_sweep": ("harness.config", "load_sweep"),
    "recommend": ("harness.recommendation", "recommend"),
    "sweep": ("harness.run", "sweep"),
}

__all__ = [
    "Analysis",
    "Limits",
    "Recommendation",
    "Results",
    "SweepConfig",
    "analyse",
    "load_lab",
    "load_results",
    "load_sweep",
    "recommend",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
