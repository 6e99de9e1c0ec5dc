"""Images to tokens and back: a picture becomes a short sequence of patches (ViT, arXiv:2010.11929)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .validate import check_int, check_tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images (B, C, H, W) into tokens (B, N, p*p*C): patches row by row, and pixels of a patch row by row.

    Nothing is computed, pixels only move; `unpatchify` moves them back. Raises ValueError if H or W is not a multiple
    of `patch_size`.
    """
    check_tensor(images, "images", ("B", "C", "H", "W"), finite=False)
    p = check_int(patch_size, "patch_size")
    b, c, h, w = images.shape
    if h % p or w % p:
        raise ValueError(f"patch_size must divide the image size; got patch_size {p} and images of {h} x {w}")
    grid = images.reshape(b, c, h // p, p, w // p, p)  # (B, C, H/p, p, W/p, p)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)  # (B, N, p*p*C)


def unpatchify(tokens: Tensor, patch_size: int) -> Tensor:
    """Puts tokens (B, N, p*p*C) back together as square images (B, C, H, W): the exact inverse of `patchify`.

    Raises ValueError if N is not a square number or the token length is not a multiple of p*p.
    """
    check_tensor(tokens, "tokens", ("B", "N", "L"), finite=False)
    p = check_int(patch_size, "patch_size")
    b, n, length = tokens.shape
    side, c = math.isqrt(n), length // (p * p)
    if side * side != n or c * p * p != length or c == 0:
        raise ValueError(
            f"tokens must be of shape (B, N, L) with N a square number and L a multiple of {p * p}; "
            f"got {tuple(tokens.shape)}"
        )
    grid = tokens.reshape(b, side, side, p, p, c)  # (B, H/p, W/p, p, p, C)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, side * p, side * p)  # (B, C, H, W)


def position_encoding(side: int, dim: int) -> Tensor:
    """Fixed sines and cosines that tell each token its row and column on a side x side grid: (N, D).

    Half of the features encode the row, half the column (arXiv:1706.03762 in two dimensions). Raises ValueError if
    `dim` is not a multiple of 4.
    """
    check_int(side, "side")
    if check_int(dim, "dim", 4) % 4:
        raise ValueError(f"dim must be a multiple of 4 (sine and cosine of row and column); got {dim}")
    frequencies = 100.0 ** -(torch.arange(dim // 4) / (dim // 4))  # (D/4,) wavelengths from 6 to about 600 patches
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")  # (side, side) each
    angles = [place.reshape(-1, 1) * frequencies for place in (row, column)]  # two of (N, D/4)
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)  # (N, D)


class PatchEmbedding(nn.Module):
    """Images (B, C, H, W) to tokens (B, N, D): cut into patches, then one shared linear map.

    Raises ValueError if `image_size` is not a multiple of `patch_size`, or for images of another shape.
    """

    def __init__(self, image_size: int = 16, patch_size: int = 2, channels: int = 1, dim: int = 128) -> None:
        super().__init__()
        self.image_size, self.patch_size = check_int(image_size, "image_size"), check_int(patch_size, "patch_size")
        if image_size % patch_size:
            raise ValueError(f"patch_size must divide image_size {image_size}; got {patch_size}")
        self.channels = check_int(channels, "channels")
        self.num_tokens = (image_size // patch_size) ** 2
        self.project = nn.Linear(patch_size * patch_size * channels, check_int(dim, "dim"))

    def forward(self, images: Tensor) -> Tensor:
        check_tensor(images, "images", ("B", self.channels, self.image_size, self.image_size), finite=False)
        return self.project(patchify(images, self.patch_size))  # (B, N, D)
