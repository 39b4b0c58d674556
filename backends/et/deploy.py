"""The script that runs an engine exactly as it was measured."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any, Optional

from backends import enginefile
from backends.et import pte
from backends.et.build import About, ports_of
from backends.et.program import in_file
from harness.types import Engine

_SCRIPT = '''\
"""Runs an ExecuTorch program exactly as it was measured. Needs executorch, torch and numpy."""

from pathlib import Path

import numpy as np
import torch  # before the runtime, which links its libraries
from executorch.extension.pybindings import _C as runtime  # portable_lib, without the compiler

# VALUES
# INPUTS, OUTPUTS: name, dtype in the program, and the model's axis that each of its axes is.
# THREADS: of the process's one pool; None: as many as the runtime takes.


class Session:
    def __init__(self):
        if THREADS is not None and runtime._threadpool_get_thread_count() != THREADS:
            runtime._unsafe_reset_threadpool(THREADS)  # before any program is loaded
        self.program = runtime._load_program(str(Path(__file__).parent / ENGINE))
        self.method = self.program.load_method("forward")


def load():
    return Session()


def infer(session, feed):
    """One inference: arrays by input name -> arrays by output name."""
    if set(feed) != {name for name, _, _ in INPUTS}:
        raise ValueError(f"the model takes {[name for name, _, _ in INPUTS]}, not {sorted(feed)}")
    tensors = tuple(
        torch.from_numpy(np.array(np.transpose(feed[name], axes), dtype, order="C"))
        for name, dtype, axes in INPUTS
    )
    results = session.method.call(tensors, clone_outputs=False)
    return {
        name: np.array(np.transpose(each.numpy(), np.argsort(axes)))
        for (name, _, axes), each in zip(OUTPUTS, results)
    }
'''


def script(engine: Engine, threads: Optional[int]) -> str:
    """The script; see ``Backend.deploy_code``. Needs no executorch."""
    ports = enginefile.beside(About, engine).ports or ports_of(pte.read(engine.path))
    values: dict[str, Any] = {
        "ENGINE": Path(engine.path).name,
        "THREADS": threads,
        "INPUTS": [(port.spec.name, port.dtype, in_file(port)) for port in ports.inputs],
        "OUTPUTS": [(port.spec.name, port.dtype, in_file(port)) for port in ports.outputs],
    }
    head = "\n".join(f"{key} = {pprint.pformat(value)}" for key, value in values.items())
    return _SCRIPT.replace("# VALUES", head)
