"""Operators by what they multiply."""

from __future__ import annotations

QUANTIZED = frozenset({
    "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM", "QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "QMoE",
    "QLinearConvTranspose", "QOrderedMatMul", "QOrderedAttention", "QOrderedLongformerAttention",
})  # fmt: skip
"""Compute operators whose kernels multiply 8-bit integers, quantized statically or dynamically."""

WEIGHTS_ONLY = {"MatMulNBits": 4, "MatMulBnb4": 4}
"""Compute operators that unpack their weights, with the bits that they have by default."""

COMPUTE = frozenset({
    "Conv", "ConvTranspose", "DeformConv", "FusedConv", "NhwcConv", "NhwcFusedConv",
    "MatMul", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "Einsum",
    "Gemm", "FusedGemm", "GemmFastGelu", "GemmFloat8", "MoE",
    "LSTM", "GRU", "RNN", "AttnLSTM",
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention",
    "PackedMultiHeadAttention", "DecoderAttention", "DecoderMaskedSelfAttention",
    "DecoderMaskedMultiHeadAttention", "LongformerAttention", "SparseAttention", "PagedAttention",
})  # fmt: skip
"""Compute operators that work in the type of their inputs, whatever their domain."""

PRODUCTS = QUANTIZED | COMPUTE | frozenset(WEIGHTS_ONLY)
"""Every compute operator."""

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
