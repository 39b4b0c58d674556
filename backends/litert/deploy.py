"""The script that opens and runs an engine exactly as the backend's session does."""

from __future__ import annotations

import pprint

from backends.litert.compiled import FORCE_FP16, key_of
from backends.litert.opening import Opening
from backends.litert.slots import Slot, Slots

_HEAD = '''\
"""Runs {engine} on {device} with LiteRT. Needs ai-edge-litert and numpy."""

import os

import numpy as np
{imports}

ENGINE = {engine!r}
THREADS = {threads}

# The model's name and dtype, the tensor's number in the file and its dtype, and which axis of the
# model's each axis of the file is; empty where both have the same order.
INPUTS = {inputs}
OUTPUTS = {outputs}


def path():
    """The engine lies beside this script."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), ENGINE)


def to_file(value, dtype, file_dtype, axes):
    """An input of the model as the file takes it."""
    if value.dtype != dtype:
        raise ValueError(f"takes {{dtype}}, not {{value.dtype}}")
    value = value.transpose(axes) if axes else value
    if file_dtype != dtype and value.dtype.kind in "iu" and value.size:
        limits = np.iinfo(file_dtype)
        if value.min() < limits.min or value.max() > limits.max:
            raise ValueError(f"has values that {{file_dtype}} can't hold")
    return value.astype(file_dtype, order="C", copy=False)


def from_file(value, dtype, axes):
    """An output of the file as the model has it."""
    value = value.transpose(np.argsort(axes)) if axes else value
    return value.astype(dtype, order="C", copy=False)


def check(feed):
    if set(feed) != {{name for name, *_ in INPUTS}}:
        raise ValueError(f"the model takes {{[name for name, *_ in INPUTS]}}, not {{sorted(feed)}}")


'''

_INTERPRETER = '''\
def load():
    """An interpreter{delegate}."""
    return Interpreter(
        model_path=path(),
        num_threads=THREADS,
        experimental_op_resolver_type=OpResolverType.{resolver},
    )


def infer(session, feed):
    """One inference: arrays by input name in, arrays by output name out."""
    check(feed)
    values = {{
        index: to_file(feed[name], dtype, file_dtype, axes)
        for name, dtype, index, file_dtype, axes in INPUTS
    }}
    for index, value in values.items():
        session.resize_tensor_input(index, value.shape, strict=True)
    session.allocate_tensors()
    for index, value in values.items():
        session.set_tensor(index, value)
    session.invoke()
    return {{
        name: from_file(read(session, place), dtype, axes)
        for place, (name, dtype, _, _, axes) in enumerate(OUTPUTS)
    }}


def read(session, place):
    """An output; LiteRT reads none that has no elements."""
    _, _, index, file_dtype, _ = OUTPUTS[place]
    try:
        return session.get_tensor(index)
    except ValueError:
        shape = session.get_output_details()[place]["shape"]
        if 0 not in shape:
            raise
        return np.empty(shape, file_dtype)
'''

_COMPILED = '''\
SIGNATURE = {signature!r}


def load():
    """A compiled model."""
    return CompiledModel.from_file(path(), options=Options(
        hardware_accelerators={accelerators},
        cpu_options=CpuOptions(num_threads=THREADS{flags}),{gpu}
    ))


def infer(session, feed):
    """One inference: arrays by input name in, arrays by output name out."""
    check(feed)
    signature = session.get_signature_index(SIGNATURE)
    details = list(session.get_input_tensor_details(SIGNATURE).values())
    places = {{each["index"]: place for place, each in enumerate(details)}}
    values = {{
        places[index]: to_file(feed[name], dtype, file_dtype, axes)
        for name, dtype, index, file_dtype, axes in INPUTS
    }}
    for place, value in values.items():
        if tuple(details[place]["shape"]) != value.shape:
            session.resize_input_tensor(place, list(value.shape), signature)
    ins = session.create_input_buffers(signature)
    outs = session.create_output_buffers(signature)
    for place, value in values.items():
        ins[place].write(value.reshape(-1).view(np.uint8))
    session.run_by_index(signature, ins, outs)
    places = {{
        each["index"]: place
        for place, each in enumerate(session.get_output_tensor_details(SIGNATURE).values())
    }}
    found = {{}}
    for name, dtype, index, file_dtype, axes in OUTPUTS:
        buffer = outs[places[index]]
        shape = buffer.get_tensor_details()["shape"]
        size = int(np.prod(shape)) * np.dtype(file_dtype).itemsize
        value = buffer.read(size, np.uint8).view(file_dtype).reshape(shape)
        found[name] = from_file(value, dtype, axes)
    return found
'''

_TAIL = """\


if __name__ == "__main__":
    load()
    for value in (*INPUTS, *OUTPUTS):
        print(*value)
"""


def script(how: Opening, slots: Slots, engine: str) -> str:
    """A complete script; see ``Backend.deploy_code``. engine: the file's name."""
    target = how.target
    if target is None:
        imports = "from ai_edge_litert.interpreter import Interpreter, OpResolverType"
        plain = how.delegate == "xnnpack"
        body = _INTERPRETER.format(
            delegate=" with XNNPACK" if plain else " with LiteRT's own kernels alone",
            resolver="BUILTIN" if plain else "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
        )
    else:
        names = ["CompiledModel", "CpuOptions", "GpuOptions", "HardwareAccelerator", "Options"]
        if target.kind != "gpu":
            names.remove("GpuOptions")
        imports = f"from ai_edge_litert.compiled_model import {', '.join(names)}"
        used = [target.kind.upper(), *(["CPU"] if target.fallback else [])]
        forced = target.kind == "cpu" and target.fp16
        gpu = f"\n        gpu_options=GpuOptions(enforce_f32={not target.fp16}),"
        body = _COMPILED.format(
            accelerators=" | ".join(f"HardwareAccelerator.{name}" for name in used),
            flags=f", xnnpack_flags={FORCE_FP16}" if forced else "",
            gpu=gpu if target.kind == "gpu" else "",
            signature=key_of(slots),
        )
    head = _HEAD.format(
        engine=engine,
        device=how.device,
        imports=imports,
        threads=how.threads,
        inputs=pprint.pformat([_row(slot) for slot in slots.inputs]),
        outputs=pprint.pformat([_row(slot) for slot in slots.outputs]),
    )
    return head + body + _TAIL


def _row(slot: Slot) -> tuple[str, str, int, str, tuple[int, ...]]:
    return (slot.spec.name, slot.spec.dtype, slot.index, slot.dtype, slot.axes)
