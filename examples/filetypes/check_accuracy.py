"""What magika's fp32 accuracy must be: the runtimes alone, on the samples that a sweep validates.

    python examples/filetypes/check_accuracy.py [DATA_FOLDER]

The samples are those of ``sweep.toml`` beside this file; no engine, session or metric of
enginepick takes part.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import openvino

from harness.datasets import split

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
data = np.load(folder / "filetypes.npz")
_, chosen = split(len(data["labels"]), min(128, len(data["labels"]) // 3), seed=0)

session = onnxruntime.InferenceSession(folder / "magika.onnx", providers=["CPUExecutionProvider"])
precise = {"INFERENCE_PRECISION_HINT": "f32"}
compiled = openvino.Core().compile_model(folder / "magika.onnx", "CPU", precise)
rows = [data["bytes"][i : i + 1] for i in chosen]
for name, outputs in (
    ("onnxruntime", [session.run(None, {"bytes": row})[0] for row in rows]),
    ("openvino", [compiled(row)[0] for row in rows]),
):
    right = np.concatenate(outputs).argmax(axis=1) == data["labels"][list(chosen)]
    print(f"{name} fp32 top1 {right.mean():.9f} ({right.sum()} of {len(right)})")
