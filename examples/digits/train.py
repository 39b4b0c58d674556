"""Train the built-in demo model: a small CNN that reads 8x8 grey digits.

The script trains on about half of scikit-learn's ``load_digits`` and writes two files:

* ``digits.onnx``: the model. Input ``image``, float32 [batch, 1, 8, 8], values in 0..1
  (the raw pixel values divided by 16); output ``logits``, float32 [batch, 10].
* ``digits.npz``: the held-out split only, as ``image`` (float32 [N, 1, 8, 8]) and ``labels``
  (int64 [N]). The model has not seen these samples, neither in training nor in choosing the epoch.

How to run it, from the root of the repository, in an environment of its own (torch is needed
here and nowhere else in the project)::

    python3 -m venv digits-venv
    digits-venv/bin/pip install torch==2.13.0 scikit-learn onnx onnxruntime
    digits-venv/bin/python examples/digits/train.py

It takes well under a minute on one CPU core. Runs are seeded: the same versions of the
packages on the same kind of CPU give the same weights; elsewhere they may differ in the last
digits, and with them the accuracy by a few samples.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

REPO_ROOT = Path(__file__).resolve().parents[2]
DEFAULT_OUT = REPO_ROOT / "harness" / "demo"

SEED = 20240
TRAIN_SIZE = 900  # leaves 897 of the 1,797 samples held out
VALIDATION_SIZE = 150  # taken from the training samples, to choose the epoch
BATCH_SIZE = 64
MAX_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-3
LABEL_SMOOTHING = 0.05

# Augmentation. An 8x8 digit fills most of its frame, so anything stronger cuts strokes off.
MAX_SHIFT_PX = 1.0
MAX_ROTATION_DEG = 10.0
MAX_SCALE_CHANGE = 0.1
NOISE_STD = 0.04

OPSET = 17
MAX_ONNX_BYTES = 300_000
MIN_ACCURACY = 0.985

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images, [N, 1, 8, 8] in 0..1, and the digit each one shows."""

    images: Images
    labels: Labels

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return the two arrays as torch tensors."""
        return torch.from_numpy(self.images), torch.from_numpy(self.labels)


class DigitNet(nn.Module):
    """Three convolutions and two linear layers, about 40,000 parameters.

    There is no batch normalisation: the network is shallow enough to train without it, and the
    exported graph then holds exactly the weights that were trained, all of ordinary range.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(64 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, 10)
        # Active only while training; the exported graph does not contain it.
        self.dropout = nn.Dropout(0.25)

    def forward(self, image: Tensor) -> Tensor:
        """Map [batch, 1, 8, 8] images to [batch, 10] logits."""
        x = functional.relu(self.conv1(image))
        x = self.pool(functional.relu(self.conv2(x)))
        x = self.pool(functional.relu(self.conv3(x)))
        x = self.dropout(self.flatten(x))
        logits: Tensor = self.fc2(functional.relu(self.fc1(x)))
        return logits


def load_splits() -> tuple[Split, Split, Split]:
    """Return the training, validation and held-out splits, each stratified by digit."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None, :, :]
    labels = digits.target.astype(np.int64)
    rest_x, held_x, rest_y, held_y = train_test_split(
        images, labels, train_size=TRAIN_SIZE, stratify=labels, random_state=SEED
    )
    # The validation part comes out of the training samples, so that no choice is ever made by
    # the samples the reported accuracy is measured on.
    train_x, val_x, train_y, val_y = train_test_split(
        rest_x, rest_y, test_size=VALIDATION_SIZE, stratify=rest_y, random_state=SEED
    )
    return Split(train_x, train_y), Split(val_x, val_y), Split(held_x, held_y)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, rotate, scale and add noise, by a different random amount for every image."""
    count, _, _, width = images.shape

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=rng) * 2 - 1) * limit

    angle = uniform(math.radians(MAX_ROTATION_DEG))
    scale = 1 + uniform(MAX_SCALE_CHANGE)
    # affine_grid measures in units where the whole width is 2.
    shift_x, shift_y = uniform(MAX_SHIFT_PX * 2 / width), uniform(MAX_SHIFT_PX * 2 / width)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    theta = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    noise = torch.randn(moved.shape, generator=rng) * NOISE_STD
    return (moved + noise).clamp(0, 1)


def validation_score(model: nn.Module, split: Split) -> tuple[float, float]:
    """Return (accuracy, minus the loss): larger is better, and the loss settles ties."""
    images, labels = split.tensors()
    model.eval()
    with torch.no_grad():
        logits = model(images)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return accuracy, -functional.cross_entropy(logits, labels).item()


def train(train_split: Split, val_split: Split, epochs: int) -> DigitNet:
    """Train and return the network as it was after its best epoch on the validation split."""
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    model = DigitNet()
    images, labels = train_split.tensors()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=MAX_LEARNING_RATE,
        epochs=epochs,
        steps_per_epoch=math.ceil(len(images) / BATCH_SIZE),
    )
    best_score, best_state, best_epoch = (-1.0, -math.inf), model.state_dict(), 0
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in torch.randperm(len(images), generator=rng).split(BATCH_SIZE):
            logits = model(augment(images[batch], rng))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = validation_score(model, val_split)
        if score > best_score:
            best_score, best_epoch = score, epoch
            best_state = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    print(f"best epoch: {best_epoch} of {epochs}, validation accuracy {best_score[0]:.4f}")
    return model.eval()


def strip_provenance(model: onnx.ModelProto) -> None:
    """Remove, in place, what the exporter records about the machine and the source files."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "digits"
    graph.doc_string = ""
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def export_onnx(network: nn.Module, path: Path) -> onnx.ModelProto:
    """Export the network as one ONNX file with a dynamic batch, check it, and return it."""
    # The tracing exporter, although deprecated: this graph has no control flow, and the tracer
    # keeps the parameters' names, folds the constants and puts the weights inside the file.
    with tempfile.TemporaryDirectory() as folder:
        raw_path = Path(folder) / "raw.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            raw_path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
        model = onnx.load(raw_path, load_external_data=False)
    if any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer):
        raise RuntimeError("the exporter left weights outside the model file")
    strip_provenance(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return model


def onnx_accuracy(path: Path, split: Split) -> float:
    """Return the accuracy of the exported file as onnxruntime computes it."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": split.images})
    return float((np.asarray(logits).argmax(axis=1) == split.labels).mean())


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train and export the demo digits model.")
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        help="folder to write digits.onnx and digits.npz to (default: harness/demo)",
    )
    parser.add_argument(
        "--epochs", type=int, default=120, help="passes over the data (default: 120)"
    )
    return parser.parse_args()


def main() -> int:
    """Train, export, verify and report; return 1 if the model misses what the demo promises."""
    args = parse_args()
    # One thread: sums are then always taken in the same order, and so tiny a network gains
    # nothing from a second one.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    train_split, val_split, held_out = load_splits()
    network = train(train_split, val_split, args.epochs)

    args.out.mkdir(parents=True, exist_ok=True)
    onnx_path, npz_path = args.out / "digits.onnx", args.out / "digits.npz"
    model = export_onnx(network, onnx_path)
    np.savez_compressed(npz_path, image=held_out.images, labels=held_out.labels)

    accuracy = onnx_accuracy(onnx_path, held_out)
    size = onnx_path.stat().st_size
    right = round(accuracy * len(held_out.labels))
    print(f"operators: {' '.join(node.op_type for node in model.graph.node)}")
    print(f"{onnx_path}: {size:,} bytes")
    print(f"{npz_path}: {npz_path.stat().st_size:,} bytes")
    print(f"held-out accuracy (onnxruntime): {accuracy:.4f} ({right} of {len(held_out.labels)})")
    if accuracy < MIN_ACCURACY or size > MAX_ONNX_BYTES:
        print(f"error: wanted accuracy >= {MIN_ACCURACY} and at most {MAX_ONNX_BYTES:,} bytes")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
