"""Attention twice: softmax, O(n^2) in the number of tokens, and linear, O(n). Same projections, same call.

Shapes: B batch, N tokens, D dim, h heads, d = D/h features a head, e features of a value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .validate import check_choice, check_int, check_tensor

FEATURE_MAPS = ("double_softmax", "elu1", "relu")
EPS = 1e-6  # keeps the denominator from 0 where ReLU leaves a query without a single positive feature


def _feature_maps(q: Tensor, k: Tensor, feature_map: str) -> tuple[Tensor, Tensor]:
    """phi(q) and phi(k), both (..., N, d) and without negative entries."""
    if (
        feature_map == "double_softmax"
    ):  # each query spreads 1 over the features, each feature spreads 1 over the tokens
        return q.softmax(dim=-1), k.softmax(dim=-2)
    if feature_map == "elu1":
        return F.elu(q) + 1, F.elu(k) + 1
    return F.relu(q), F.relu(k)


def _linear_attention(q: Tensor, k: Tensor, v: Tensor, feature_map: str) -> Tensor:
    q, k = _feature_maps(q, k, feature_map)  # (..., N, d) each
    if feature_map == "double_softmax":  # rows of the matrix already sum to 1: no denominator
        return q @ (k.transpose(-2, -1) @ v)  # (..., N, e)
    n = k.shape[-2]  # means instead of sums over the tokens: nothing grows with n
    summary = (k.transpose(-2, -1) @ v) / n  # (..., d, e) all that the queries get to see of the tokens
    total = q @ k.mean(dim=-2).unsqueeze(-1)  # (..., N, 1)
    return (q @ summary) / total.clamp_min(EPS)  # (..., N, e)


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    check_tensor(q, "q", ("...", "N", "d"))
    check_tensor(k, "k", ("...", "N", q.shape[-1]))
    check_tensor(v, "v", ("...", k.shape[-2], "e"))
    if k.shape[:-2] != q.shape[:-2] or v.shape[:-2] != q.shape[:-2]:
        raise ValueError(
            f"q, k and v must agree in every dimension but the last two; got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}"
        )


def linear_attention(q: Tensor, k: Tensor, v: Tensor, feature_map: str = "double_softmax") -> Tensor:
    """phi(Q) (phi(K)^T V): every token looks at every token in time and memory O(N).

    q (..., N, d), k (..., M, d), v (..., M, e) -> (..., N, e), equal to `attention_matrix(q, k, feature_map) @ v`,
    which it never forms. Feature maps: "double_softmax" (Shen et al., arXiv:1812.01243), "elu1" (Katharopoulos et al.,
    arXiv:2006.16236), "relu" (as in EfficientViT, arXiv:2205.14756). Each output is a weighted mean of the values; with
    "relu" a query without a positive feature attends to nothing and gives 0. Raises ValueError for shapes that do not
    fit, NaN, or an unknown feature map.
    """
    check_choice(feature_map, "feature_map", FEATURE_MAPS)
    _check_qkv(q, k, v)
    return _linear_attention(q, k, v, feature_map)


def attention_matrix(q: Tensor, k: Tensor, feature_map: str = "double_softmax") -> Tensor:
    """The N x M matrix of attention weights, for pictures and tests only: it costs what linear attention avoids.

    q (..., N, d), k (..., M, d) -> (..., N, M): weights >= 0, rows sum to 1. `feature_map` as in `linear_attention`, or
    "softmax" for softmax(q k^T / sqrt(d)) (arXiv:1706.03762). Raises ValueError like `linear_attention`.
    """
    check_choice(feature_map, "feature_map", (*FEATURE_MAPS, "softmax"))
    _check_qkv(q, k, k)
    if feature_map == "softmax":
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)  # (..., N, M)
    q, k = _feature_maps(q, k, feature_map)
    scores = q @ k.transpose(-2, -1)  # (..., N, M)
    if feature_map == "double_softmax":
        return scores
    return scores / scores.sum(dim=-1, keepdim=True).clamp_min(EPS * k.shape[-2])  # (..., N, M)


def _without_keys(gradient: Tensor) -> Tensor:
    """Drops the gradient (3 D,) of the keys' biases: a softmax over tokens does not feel a shift of the keys.

    What is found there is rounding error alone. AdamW would blow it up to steps, other ones with other processes.
    """
    q, k, v = gradient.chunk(3)  # (D,) each
    return torch.cat([q, torch.zeros_like(k), v])  # (3 D,)


class AttentionRecord(NamedTuple):
    """What one attention layer did: q and k (B, h, N, d), and the weights (B, h, N, N) without the local branch."""

    q: Tensor
    k: Tensor
    matrix: Tensor


class _Attention(nn.Module):
    """What linear and softmax attention share, so that a comparison changes exactly one thing."""

    feature_map: str

    def __init__(self, dim: int = 128, heads: int = 4, local: bool = True) -> None:
        super().__init__()
        if check_int(dim, "dim") % check_int(heads, "heads"):
            raise ValueError(f"heads must divide dim {dim}; got {heads}")
        self.dim, self.heads = dim, heads
        self.qkv = nn.Linear(dim, 3 * dim)
        # 3 x 3 depthwise convolution on V: near tokens, which a matrix of rank d cannot single out (arXiv:2308.00442).
        self.local = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim) if local else None
        self.out = nn.Linear(dim, dim)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def _local(self, v: Tensor) -> Tensor:
        b, n, dim = v.shape
        side = math.isqrt(n)
        if side * side != n:
            raise ValueError(f"tokens must form a square grid when local=True; got N = {n}")
        # A third of qkv has gaps in memory, over which the convolution is slow: close them first.
        grid = v.contiguous().reshape(b, side, side, dim).permute(0, 3, 1, 2)  # (B, D, side, side), channels last
        return self.local(grid).permute(0, 2, 3, 1).reshape(b, n, dim)  # (B, N, D)

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_tensor(tokens, "tokens", ("B", "N", self.dim), finite=False)
        return self.qkv(tokens).chunk(3, dim=-1)  # q, k, v: (B, N, D) each

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, N, d)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, N, D) -> (B, N, D). Raises ValueError for another shape."""
        q, k, v = self._project(tokens)  # (B, N, D) each
        mixed = self._mix(self._split(q), self._split(k), self._split(v))  # (B, h, N, d)
        mixed = mixed.transpose(1, 2).reshape(tokens.shape)  # (B, N, D)
        if self.local is not None:
            mixed = mixed + self._local(v)  # (B, N, D)
        return self.out(mixed)  # (B, N, D)

    @torch.no_grad()
    def record(self, tokens: Tensor) -> AttentionRecord:
        """q, k and the attention weights for tokens (B, N, D). The local branch is not part of the weights."""
        q, k, _ = self._project(tokens)  # (B, N, D) each
        q, k = self._split(q), self._split(k)  # (B, h, N, d) each
        return AttentionRecord(q, k, attention_matrix(q, k, self.feature_map))


class LinearAttention(_Attention):
    """Multi-head linear attention, O(N): see `linear_attention`; with `local`, plus a 3 x 3 convolution of the values.

    Raises ValueError if `heads` does not divide `dim`, or for an unknown feature map.
    """

    def __init__(self, dim: int = 128, heads: int = 4, feature_map: str = "double_softmax", local: bool = True) -> None:
        check_choice(feature_map, "feature_map", FEATURE_MAPS)
        super().__init__(dim, heads, local)
        self.feature_map = feature_map
        if feature_map == "double_softmax":
            self.qkv.bias.register_hook(_without_keys)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _linear_attention(q, k, v, self.feature_map)  # (B, h, N, d)


class SoftmaxAttention(_Attention):
    """Multi-head softmax attention, O(N^2), by PyTorch's fused kernel; otherwise the same module and the same call."""

    feature_map = "softmax"

    def __init__(self, dim: int = 128, heads: int = 4, local: bool = True) -> None:
        super().__init__(dim, heads, local)
        self.qkv.bias.register_hook(_without_keys)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)  # (B, h, N, d)
