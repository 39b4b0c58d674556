"""A PyTorch model as people have them, for ``enginepick sweep torch_models:residual``.

Run where this file is. Nothing but PyTorch and numpy is needed, also in an interpreter of its own.
"""

from __future__ import annotations

from typing import Any

import heads

SIZE, WIDTH = 32, 64


def residual() -> tuple[Any, tuple[Any]]:
    """Two residual blocks with batch normalization over images [batch, 3, 32, 32], and an image."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inner: int, outer: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outer),
                nn.SiLU(),
                nn.Conv2d(outer, outer, 3, padding=1, bias=False),
                nn.BatchNorm2d(outer),
            )
            self.past = nn.Conv2d(inner, outer, 1, stride=2)

        def forward(self, x: Any) -> Any:
            return nn.functional.silu(self.body(x) + self.past(x))

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), Block(16, 32), Block(32, WIDTH))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, 10))
    pixels, labels = heads.digits()
    shown = torch.from_numpy(heads.images(pixels[: heads.FITTED_ON], SIZE))
    with torch.no_grad():
        model(shown)  # batch normalization learns what its inputs are
        features = model.eval()[:-1](shown).numpy()
        weights, bias = heads.solve(features, labels[: heads.FITTED_ON], 10)
        model[-1].weight.copy_(torch.from_numpy(weights.T.copy()))
        model[-1].bias.copy_(torch.from_numpy(bias))
    return model, (shown[:1],)
