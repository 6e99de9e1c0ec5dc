"""The public ancestor of this system, re-created from its description: the baseline to beat, and a lesson.

What it does differently: the noise tops out at standard deviation 1 on top of the untouched image (x = x0 + level /
10 times noise, level 1 to 10), while sampling starts from pure noise; the sampler feeds the network its own output
ten times without noising it again; one noise level for a whole batch; linear attention with the softmax of K over the
features, none on Q and no normaliser over the tokens; label and noise level reach the patches only through a class
token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutorial_lib.patches import patchify, unpatchify
from tutorial_lib.training import TrainConfig

LEVELS = 10


class AncestorAttention(nn.Module):
    """Linear attention without a normaliser over the tokens: the output grows with their number."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=-1)
        )  # (B, h, N, d) each
        mixed = q @ (k.softmax(dim=-1).transpose(-2, -1) @ v)  # (B, h, N, d)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, N, D)


class AncestorBlock(nn.Module):
    def __init__(self, dim: int, heads: int, ff_dim: int) -> None:
        super().__init__()
        self.norm_a, self.attention = nn.LayerNorm(dim), AncestorAttention(dim, heads)
        self.norm_f = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, ff_dim), nn.GELU(), nn.Linear(ff_dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm_a(tokens))  # (B, N + 1, D)
        return tokens + self.ff(self.norm_f(tokens))  # (B, N + 1, D)


class Ancestor(nn.Module):
    """x (B, 1, 16, 16), level (B,) in 0.1 ... 1.0, labels (B,) -> guess of the clean image (B, 1, 16, 16)."""

    def __init__(self, dim: int = 128, heads: int = 4, layers: int = 3, ff_dim: int = 256) -> None:
        super().__init__()
        self.embed, self.to_pixels = nn.Linear(4, dim), nn.Linear(dim, 4)
        self.positions = nn.Parameter(torch.randn(1, 65, dim) * 0.02)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.label, self.level = nn.Embedding(10, dim), nn.Linear(1, dim)
        self.blocks = nn.Sequential(*[AncestorBlock(dim, heads, ff_dim) for _ in range(layers)])

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        condition = (self.label(labels) + self.level(level[:, None])).unsqueeze(1)  # (B, 1, D)
        tokens = torch.cat([self.cls + condition, self.embed(patchify(x, 2))], dim=1) + self.positions  # (B, 65, D)
        return unpatchify(self.to_pixels(self.blocks(tokens)[:, 1:]), 2)  # (B, 1, 16, 16)


def train_ancestor(model: Ancestor, images: Tensor, labels: Tensor, config: TrainConfig) -> None:
    """As many steps of as many images as `config` says, by the ancestor's recipe: lr 3e-4 with restarts, no EMA."""
    recipe = TrainConfig.published(steps=config.steps, batch_size=config.batch_size, seed=config.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    for step in range(recipe.total_steps(len(images))):
        optimizer.param_groups[0]["lr"] = recipe.lr_at(step, len(images))
        chosen = torch.randint(len(images), (recipe.batch_size,), generator=generator)  # (B,)
        level = torch.randint(1, LEVELS + 1, (1,), generator=generator).expand(len(chosen)) / LEVELS  # (B,) all equal
        x0 = images[chosen]  # (B, 1, 16, 16)
        noise = torch.randn(x0.shape, generator=generator)  # (B, 1, 16, 16)
        guess = model(x0 + level[:, None, None, None] * noise, level, labels[chosen])  # (B, 1, 16, 16)
        loss = (guess - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def sample_ancestor(model: Ancestor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Pure noise, then the network applied to its own output ten times: (B, 1, 16, 16)."""
    x = torch.randn(len(labels), 1, 16, 16, generator=generator)  # (B, 1, 16, 16)
    for level in range(LEVELS, 0, -1):
        x = model(x, torch.full((len(labels),), level / LEVELS), labels)  # (B, 1, 16, 16)
    return x
