"""Random features with a head that is solved, not trained: models that classify the demo's digits.

The layers below a classifier's last one keep their random weights; the last one is the ridge
regression of the labels on what they give (an extreme learning machine, Huang et al. 2006). So the
accuracy of such a model means something, and it is the same wherever it is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DIGITS = Path(__file__).resolve().parent.parent / "harness" / "demo" / "digits.npz"
FITTED_ON = 497
"""Of the 897 digits; the others are the data that are swept on."""
CLASSES = 10
RIDGE = 0.1
"""Of the features' mean variance. Less gives weights so large that no quantized model is good."""


def digits() -> tuple[Array, Array]:
    """float32 [897, 8, 8] between 0 and 1, and their labels [897]."""
    with np.load(DIGITS) as archive:
        return archive["image"][:, 0], archive["labels"]


def images(pixels: Array, size: int) -> Array:
    """float32 [n, 3, size, size] between -1 and 1: the digits [n, 8, 8] enlarged, in grey."""
    scale = size // pixels.shape[1]
    grey = np.kron(pixels * 2 - 1, np.ones((1, scale, scale), np.float32))
    return np.repeat(grey[:, np.newaxis].astype(np.float32), 3, axis=1)


def tokens(pixels: Array) -> Array:
    """int64 [n, 64] below 512: a token for each of eight shades at each place."""
    shades = np.minimum((pixels.reshape(len(pixels), -1) * 8).astype(np.int64), 7)
    return np.arange(shades.shape[1], dtype=np.int64) * 8 + shades


def solve(features: Array, labels: Array, outputs: int) -> tuple[Array, Array]:
    """The head's weights float32 [width, outputs] and bias [outputs], from features [n, width].

    Scores are near 1 for the label and 0 for all others, those that are no digit's among them.
    """
    centred = features.astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    wanted = np.eye(outputs)[labels]
    gram = centred.T @ centred
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, centred.T @ (wanted - wanted.mean(axis=0)))
    bias = wanted.mean(axis=0) - mean @ weights
    return weights.astype(np.float32), bias.astype(np.float32)
