"""The script that opens and runs an engine exactly as the backend's session does."""

from __future__ import annotations

import textwrap

from backends.ort.openings import Opening
from backends.ort.providers import NVIDIA, PLUGINS, TENSORRT
from backends.ort.runtime import DTYPES

_HEAD = '''\
"""Runs {engine} on {device} with ONNX Runtime. Needs {needs} and numpy."""

import os

import numpy as np
import onnxruntime as ort

ENGINE = {engine!r}
PROVIDER = {provider!r}


def {opener}():
    """Open the engine, which lies beside this script."""
{before}    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = {threads}{threads_comment}
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
{entries}    session = ort.InferenceSession(
        os.path.join(os.path.dirname(os.path.abspath(__file__)), ENGINE),
        sess_options=options,
        providers={providers!r},
        enable_fallback=0,
    )
    session.disable_fallback()  # a fault is an error, never a silent run elsewhere
    if PROVIDER not in session.get_providers():
        raise RuntimeError(f"{{PROVIDER}} is not usable here")
    return session


'''

_PLAIN = '''\
def infer(session, feed):
    """One inference: arrays by input name in, arrays by output name out."""
    names = [output.name for output in session.get_outputs()]
    feed = {{name: np.asarray(array, order="C") for name, array in feed.items()}}
    return dict(zip(names, session.run(names, feed)))


'''

_ON_NVIDIA = '''\
PLACE = {place!r}
CUDA_GRAPH = {cuda_graph!r}  # replays what it captured: other shapes need another session
TYPES = {types!r}


class Runner:
    """A session with its inputs and outputs in the GPU's memory, bound once per set of shapes."""

    def __init__(self):
        self.session = open_session()
        self.shapes = None

    def get_inputs(self):
        return self.session.get_inputs()

    def get_outputs(self):
        return self.session.get_outputs()

    def bind(self, feed, shapes):
        if CUDA_GRAPH and self.shapes is not None:
            self.session = self.binding = self.inputs = None
            self.session = open_session()
        self.binding = self.session.io_binding()
        place = lambda array: ort.OrtValue.ortvalue_from_numpy(array, *PLACE)
        self.inputs = {{name: place(array) for name, array in feed.items()}}
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        sizes = {{}}
        for value in self.get_inputs():
            for dim, size in zip(value.shape, shapes[value.name][0]):
                if sizes.setdefault(dim, size) != size:
                    sizes[dim] = None  # a name that means two sizes is no size
        outputs = {{}}
        for value in self.get_outputs():
            shape = [sizes.get(dim) if isinstance(dim, str) else dim for dim in value.shape]
            if shape and None not in shape:
                outputs[value.name] = np.zeros(shape, TYPES[value.type])
        self.fixed = len(outputs) == len(self.get_outputs())
        for name, array in outputs.items() if self.fixed else ():
            self.binding.bind_ortvalue_output(name, place(array))
        self.shapes = shapes

    def infer(self, feed):
        feed = {{name: np.asarray(array, order="C") for name, array in feed.items()}}
        shapes = {{name: (array.shape, array.dtype) for name, array in feed.items()}}
        if shapes != self.shapes:
            self.bind(feed, shapes)
        for name, value in self.inputs.items():
            value.update_inplace(feed[name])
        names = [output.name for output in self.get_outputs()]
        for name in () if self.fixed else names:  # the runtime allocates these, for one run
            self.binding.bind_output(name, "cuda", PLACE[1])
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()
        return dict(zip(names, self.binding.copy_outputs_to_cpu()))


def load():
    """An opened session."""
    return Runner()


def infer(session, feed):
    """One inference: arrays by input name in, arrays by output name out."""
    return session.infer(feed)


'''

_TAIL = """\
if __name__ == "__main__":
    opened = load()
    for value in (*opened.get_inputs(), *opened.get_outputs()):
        print(value.name, value.type, value.shape)
"""

_PLUGIN = """\
import {module} as plugin

if PROVIDER not in [each.ep_name for each in ort.get_ep_devices()]:
    ort.register_execution_provider_library(PROVIDER, plugin.get_library_path())
found = [each for each in ort.get_ep_devices() if each.ep_name == PROVIDER]
numbers = [int(dict(each.ep_options).get("device_id", at)) for at, each in enumerate(found)]
if {number} not in numbers:
    raise RuntimeError(f"{{PROVIDER}} is not usable here")
"""

_PRELOAD = """\
if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's Python packages, where these are
"""


_PRELOAD_TENSORRT = """\
try:
    import tensorrt_libs  # TensorRT, from its package
except ImportError:
    pass
"""


def script(how: Opening, engine: str) -> str:
    """A complete script; see ``Backend.deploy_code``. engine: the file's name."""
    body = (_ON_NVIDIA if how.provider in NVIDIA else _PLAIN).format(
        place=how.place,
        cuda_graph=how.cuda_graph,
        types={f"tensor({name})": dtype for name, dtype in DTYPES.items()},
    )
    head = _HEAD.format(
        opener="open_session" if how.provider in NVIDIA else "load",
        engine=engine,
        device=how.device,
        needs=_needs(how),
        provider=how.provider,
        before=textwrap.indent(_before(how), "    "),
        level=how.level,
        threads=how.threads,
        threads_comment="" if how.threads else "  # the runtime's choice",
        entries=textwrap.indent(_entries(how), "    "),
        providers=[] if how.provider in PLUGINS else how.providers,
    )
    return head + body + _TAIL


def _needs(how: Opening) -> str:
    if how.provider in PLUGINS:
        return f"onnxruntime, {PLUGINS[how.provider].replace('_', '-')}"
    return "onnxruntime-gpu" if how.provider in NVIDIA else "onnxruntime"


def _before(how: Opening) -> str:
    """What has to be done before the session is made."""
    lines = [
        f"os.environ.pop({name!r}, None)\n"
        if value is None
        else f"os.environ[{name!r}] = {value!r}\n"
        for name, value in how.environment
    ]
    if how.provider in PLUGINS:
        lines.append(_PLUGIN.format(module=PLUGINS[how.provider], number=how.number))
    elif how.provider in NVIDIA:
        lines.append(_PRELOAD)
        lines += [_PRELOAD_TENSORRT] if how.provider == TENSORRT else []
    return "".join(lines)


def _entries(how: Opening) -> str:
    """What the options get beside the common ones."""
    lines = [
        f"options.add_session_config_entry({key!r}, {value!r})\n" for key, value in how.entries
    ]
    if how.provider in PLUGINS:
        device = f"[found[numbers.index({how.number})]]"
        lines.append(
            f"options.add_provider_for_devices({device}, {dict(how.provider_options)!r})\n"
        )
    return "".join(lines)
