"""Hand out a run's engine with the code and options that run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.analysis import Summary, engine_key
from harness.build import OWN_FILES
from harness.cache import Cache
from harness.errors import InputError, Problem
from harness.store import Results
from harness.types import Candidate

SCRIPT = "run.py"
FACTS = "enginepick.json"


def export(results: Results, summary: Summary, folder: Path, cache: Cache) -> list[Path]:
    """Copy the candidate's engine into ``folder``, with a script that runs it. Returns the files.

    Raises InputError when the engine is no longer in the cache, or the folder isn't empty.
    """
    candidate, run = summary.candidate, results.run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError([Problem("--to", f"{folder} exists and is not an empty folder")])
    build = next(
        (b for b in results.builds if engine_key(b) == candidate.engine_key and b.ok), None
    )
    entry = cache.get("engines", build.engine_key) if build else None
    if entry is None or summary.deploy_code is None:
        fix = f"enginepick sweep --resume {run.run_id}   (makes it again)"
        raise InputError([Problem(candidate.id, "its engine is no longer in the cache", fix)])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(entry.folder / OWN_FILES, folder, dirs_exist_ok=True)
    (folder / SCRIPT).write_text(summary.deploy_code)
    (folder / FACTS).write_text(json.dumps(_facts(results, candidate, summary), indent=1) + "\n")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(results: Results, candidate: Candidate, summary: Summary) -> dict[str, object]:
    """What this engine is and what was measured of it, for whoever finds the folder."""
    launch = next((each for each in results.launches if each.candidate == candidate.id), None)
    return {
        "candidate": candidate.id,
        "run": results.run.run_id,
        "target": results.run.target,
        "model": results.run.model.name,
        "model_sha256": results.run.model.sha256,
        "versions": dict(launch.versions) if launch else {},
        "latency_ns": summary.time_ns.value if summary.time_ns else None,
        "accuracy": summary.accuracy,
        "metric": results.run.data.metric,
    }
