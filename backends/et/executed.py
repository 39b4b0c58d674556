"""What an ExecuTorch program really runs, read from its file."""

from __future__ import annotations

from collections import Counter

from backends.et import pte
from backends.et.runtime import XNNPACK
from harness.types import Executed, Share

_BOOKKEEPING = ("executorch_prim::", "aten::sym_", "et_copy::")
"""Kernels that compute shapes, and nothing of the model."""


def told(program: pte.Program) -> Executed:
    """Operators on XNNPACK and on ExecuTorch's own kernels; compute operations by precision.

    XNNPACK's nodes are those of the payload that it is given: a fused activation is none.
    """
    own = [name for name, _ in program.kernels if not name.startswith(_BOOKKEEPING)]
    counts: Counter[str] = Counter()
    precisions: Counter[str] = Counter(each for _, each in program.kernels if each)
    for part in program.parts:
        name = "xnnpack" if part.delegate == XNNPACK else part.delegate.lower()
        counts[f"cpu:{name}"] += max(1, len(part.nodes))
        precisions.update(part.precisions)
    total = sum(counts.values()) + len(own)
    taken = total - len(own)
    parts = "1 part" if len(program.parts) == 1 else f"{len(program.parts)} parts"
    detail = f"ExecuTorch: delegates take {taken} of {total} operators in {parts}"
    if own:
        counts["cpu:kernels"] = len(own)
        names = (name.replace("aten::", "").rsplit(".", 1)[0] for name in own)
        detail += f"; its own kernels run {pte.counted(names)}"
    return Executed(_shares(counts), _shares(precisions), detail)


def _shares(counts: Counter[str]) -> tuple[Share, ...]:
    return tuple(Share(name, count) for name, count in sorted(counts.items()))
