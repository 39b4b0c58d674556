"""PyTorch models as users name them, ``programs:cnn``: each returns a module and example inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

CLASSES = 10


class _Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = 4 * before
        self.layers = nn.Sequential(
            *(nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after)),
        )
        self.residual = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.place = nn.Parameter(torch.randn(1, 12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(ids) + self.place).mean(1))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(series)[0][:, -1])


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed = self.left(left) + self.right(right)
        return mixed, torch.sigmoid(mixed[:, :2])


class _Masked(nn.Module):
    """Integer ids and a mask in, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.embed(ids) * mask[..., None]
        pooled = hidden.sum(1) / mask.sum(1, keepdim=True)
        return {"logits": self.head(pooled), "hidden": hidden}


class _Point(NamedTuple):
    x: Any
    y: Any
    nothing: Any = None


class _Structured(nn.Module):
    """A class of the user's out, with a nested list and a None."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, features: torch.Tensor) -> _Point:
        made = self.layer(features)
        return _Point(made, [made + 1, made * 2])


@dataclass
class _Parts:
    features: Any
    rest: Any


class _Returning(nn.Module):
    """Dataclasses that PyTorch doesn't know, one in the other; a field is called like an input."""

    def forward(self, features: torch.Tensor) -> _Parts:
        return _Parts(features + 1, {"a b/c:d": _Parts(features * 2, features * 3)})


class _Whitened(nn.Module):
    """Normalized by the batch that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(features)


class _Centred(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features - features.mean()


class _Summed(nn.Module):
    def forward(self, x: torch.Tensor, *rest: torch.Tensor, twice: bool = False) -> torch.Tensor:
        return x + sum(rest) * (2 if twice else 1)


class _SequenceFirst(nn.Module):
    """Its first axis is time."""

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return series.cumsum(0)


class _Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


class _Scaled(nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return x * scale


class _Windowed(nn.Module):
    """An operator that neither ONNX's exporter nor litert-torch has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class _Sized(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.relu().mean(1)


def cnn() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )
    return model.eval(), (torch.randn(1, 3, 32, 32),)


def mobilenet() -> Any:
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), _Inverted(16, 16, 1), _Inverted(16, 24, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, CLASSES)),
    )
    return model, (torch.randn(1, 3, 32, 32),)


def encoder() -> Any:
    torch.manual_seed(2)
    return _Encoder().eval(), (torch.randint(0, 100, (1, 12)),)


def lstm() -> Any:
    torch.manual_seed(3)
    return _Recurrent().eval(), (torch.randn(1, 7, 8),)


def two() -> Any:
    torch.manual_seed(4)
    return _Two().eval(), (torch.randn(1, 6), torch.randn(1, 3))


def masked() -> Any:
    torch.manual_seed(5)
    return _Masked().eval(), {"ids": torch.randint(0, 50, (1, 9)), "mask": torch.ones(1, 9)}


def structured() -> Any:
    torch.manual_seed(6)
    return _Structured().eval(), (torch.randn(1, 4),)


def returning() -> Any:
    return _Returning().eval(), (torch.randn(1, 4),)


def whitened() -> Any:
    torch.manual_seed(7)
    return _Whitened().eval(), (torch.randn(6, 4),)


def whitened_zeros() -> Any:
    return _Whitened().eval(), (torch.zeros(6, 4),)


def centred() -> Any:
    return _Centred().eval(), (torch.randn(6),)


def summed() -> Any:
    return _Summed().eval(), (torch.randn(1, 4), torch.randn(1, 4), torch.randn(1, 4))


def without_values() -> Any:
    return nn.Linear(4, 4, device="meta").eval(), (torch.randn(1, 4),)


def one_too_few() -> Any:
    return _Two().eval(), (torch.randn(1, 6),)


def sequence_first() -> Any:
    return _SequenceFirst().eval(), (torch.randn(5, 2),)


def own_shapes() -> Any:
    length = torch.export.Dim("length", min=2, max=64)
    return _Sized().eval(), (torch.randn(3, 8),), {"features": {1: length}}


def exported() -> Any:
    model, inputs = two()
    return torch.export.export(model, inputs)


def branching() -> Any:
    return _Branching().eval(), (torch.randn(2, 2),)


def counting() -> Any:
    return _Counting().eval(), (torch.randn(2, 2),)


def scaled() -> Any:
    return _Scaled().eval(), {"x": torch.randn(2, 2), "scale": 3.0}


def nothing_given() -> Any:
    return "a model", (None, 3)


def bare_tensor() -> Any:
    return _Sized().eval(), torch.randn(2, 3)


def module_alone() -> Any:
    return _Sized().eval()


def broken() -> Any:
    raise RuntimeError("no weights here")


def windowed() -> Any:
    return _Windowed().eval(), (torch.randn(2, 4),)
