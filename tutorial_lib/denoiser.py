"""The network: noisy image, time and label in; its best guess of the clean image out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .attention import FEATURE_MAPS, AttentionRecord, LinearAttention, SoftmaxAttention
from .noising import Time, check_time
from .patches import PatchEmbedding, position_encoding, unpatchify
from .validate import check_choice, check_int, check_labels, check_tensor


class TimeEmbedding(nn.Module):
    """Time t (B,) in [0, 1] to a vector (B, D): sines and cosines of t at many frequencies, then a small MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 3, dim // 2), persistent=False)  # (D/2,) 1 to 1,000
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies  # (B, D/2)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))  # (B, D)


class Modulation(nn.Module):
    """adaLN-Zero (DiT, arXiv:2212.09748): from the condition (B, D), `parts` vectors (B, 1, D), all 0 at the start."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(nn.functional.silu(condition)).unsqueeze(1).chunk(self.parts, dim=2)  # parts x (B, 1, D)


class EfficientTransformerBlock(nn.Module):
    """Pre-norm Transformer block, conditioned by adaLN-Zero: attention, then feed-forward, each behind a gate.

    tokens (B, N, D), condition (B, D) -> (B, N, D). All gates are 0 at initialisation, so a new block is the identity.
    `attention`: a feature map of `LinearAttention`, or "softmax". Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self, dim: int = 128, heads: int = 4, ff_dim: int = 256, attention: str = "double_softmax", local: bool = True
    ) -> None:
        super().__init__()
        check_choice(attention, "attention", (*FEATURE_MAPS, "softmax"))
        self.modulation = Modulation(check_int(dim, "dim"), parts=6)
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention = (
            SoftmaxAttention(dim, heads, local)
            if attention == "softmax"
            else LinearAttention(dim, heads, attention, local)
        )
        self.ff_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.ff = nn.Sequential(nn.Linear(dim, check_int(ff_dim, "ff_dim")), nn.GELU(), nn.Linear(ff_dim, dim))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(condition)  # (B, 1, D) each
        normed = torch.addcmul(
            shift_a, self.attention_norm(tokens), 1 + scale_a
        )  # (B, N, D) shift + norm * (1 + scale)
        tokens = torch.addcmul(tokens, gate_a, self.attention(normed))  # (B, N, D) tokens + gate * attention
        normed = torch.addcmul(shift_f, self.ff_norm(tokens), 1 + scale_f)  # (B, N, D)
        return torch.addcmul(tokens, gate_f, self.ff(normed))  # (B, N, D)


class EfficientTransformerDenoiser(nn.Module):
    """x_t (B, C, H, W), t a number or (B,), labels int64 (B,) or None -> x0_hat (B, C, H, W), the guessed clean image.

    Labels run from 0 to num_classes - 1; None, or the null class `num_classes`, means "any class". Raises ValueError
    for sizes that do not fit together, and for input of a wrong shape, type or range, or with NaN.
    """

    def __init__(
        self,
        image_size: int = 16,
        patch_size: int = 2,
        channels: int = 1,
        dim: int = 128,
        heads: int = 4,
        layers: int = 3,
        ff_dim: int = 256,
        num_classes: int = 10,
        attention: str = "double_softmax",
        local: bool = True,
    ) -> None:
        super().__init__()
        # Everything that a file needs to rebuild this network.
        self.config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.num_classes = check_int(num_classes, "num_classes")
        self.embed = PatchEmbedding(image_size, patch_size, channels, dim)
        side = math.isqrt(self.embed.num_tokens)
        self.register_buffer("positions", position_encoding(side, dim), persistent=False)  # (N, D)
        self.time = TimeEmbedding(dim)
        self.label = nn.Embedding(num_classes + 1, dim)  # the last row is the null class
        blocks = [
            EfficientTransformerBlock(dim, heads, ff_dim, attention, local)
            for _ in range(check_int(layers, "layers", 1, 100))
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = Modulation(dim, parts=2)
        self.to_pixels = nn.Linear(dim, patch_size * patch_size * channels)
        nn.init.zeros_(self.to_pixels.weight)  # a new network answers grey: no wrong guess to unlearn
        nn.init.zeros_(self.to_pixels.bias)

    def _condition(self, x_t: Tensor, t: Time, labels: Tensor | None) -> Tensor:
        size = self.embed.image_size
        check_tensor(x_t, "x_t", ("B", self.embed.channels, size, size))
        t = check_time(t).to(x_t)
        if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x_t)):
            raise ValueError(f"t must be a number or a tensor of shape ({len(x_t)},); got shape {tuple(t.shape)}")
        if labels is None:
            labels = torch.full((len(x_t),), self.num_classes, device=x_t.device)  # (B,)
        check_labels(labels, "labels", len(x_t), self.num_classes + 1)
        return self.time(t.expand(len(x_t))) + self.label(labels.to(x_t.device))  # (B, D)

    def forward(self, x_t: Tensor, t: Time, labels: Tensor | None = None) -> Tensor:
        condition = self._condition(x_t, t, labels)  # (B, D)
        tokens = self.embed(x_t) + self.positions  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens, condition)  # (B, N, D)
        shift, scale = self.modulation(condition)  # (B, 1, D) each
        pixels = self.to_pixels(self.norm(tokens) * (1 + scale) + shift)  # (B, N, p*p*C)
        return unpatchify(pixels, self.embed.patch_size)  # (B, C, H, W)

    @torch.no_grad()
    def attention_records(self, x_t: Tensor, t: Time, labels: Tensor | None = None) -> list[AttentionRecord]:
        """q, k and the attention weights of each layer, first to last, for one forward pass on this input."""
        records: list[AttentionRecord] = []
        hooks = [
            block.attention.register_forward_pre_hook(lambda module, inputs: records.append(module.record(*inputs)))
            for block in self.blocks
        ]
        try:
            self(x_t, t, labels)
        finally:
            for hook in hooks:
                hook.remove()
        return records
