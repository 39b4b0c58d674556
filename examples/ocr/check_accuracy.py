"""What the recogniser's fp32 error rate must be: the runtimes alone, on a sweep's samples.

    python examples/ocr/check_accuracy.py [DATA_FOLDER]

The samples are those of ``sweep.toml`` beside this file; no engine, session or metric of
enginepick takes part.
"""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino

from harness.datasets import split


def edits(read: Sequence[str], text: Sequence[str]) -> int:
    """Levenshtein's distance (Wagner and Fischer 1974), the whole table."""
    table = np.add.outer(np.arange(len(read) + 1), np.arange(len(text) + 1))
    for i, j in np.ndindex(len(read), len(text)):
        kept = table[i, j] + (read[i] != text[j])
        table[i + 1, j + 1] = min(kept, table[i, j + 1] + 1, table[i + 1, j] + 1)
    return int(table[-1, -1])


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
data = np.load(folder / "ocr.npz")
images, texts = data["x"], data["labels"]
_, rest = split(len(texts), min(32, len(texts) // 3), seed=0)
chosen = rest[:300]

model = folder / "PP-OCRv6_rec_small.onnx"
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
known = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
runtimes: dict[str, Any] = {
    "onnxruntime": lambda image: session.run(None, {"x": image})[0],
    "openvino": lambda image: compiled(image)[0],
}
for name, infer in runtimes.items():
    lines = [[k for k, _ in groupby(infer(images[i : i + 1])[0].argmax(1)) if k] for i in chosen]
    read = ["".join(known[k] for k in line) for line in lines]
    wrong = sum(edits(r, texts[i]) for i, r in zip(chosen, read))
    total = sum(len(texts[i]) for i in chosen)
    print(f"{name} fp32 CER {wrong / total:.9f} over {len(read)} lines")
