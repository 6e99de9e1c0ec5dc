"""Images to tokens and back: every pixel's place is written out in loops here."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

from tutorial_lib.patches import PatchEmbedding, patchify, position_encoding, unpatchify


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def patchify_by_hand(images: Tensor, p: int) -> Tensor:
    """Patches row by row, pixels of a patch row by row, channels innermost."""
    b, c, h, w = images.shape
    tokens = torch.full((b, (h // p) * (w // p), p * p * c), math.nan, dtype=images.dtype)
    for i in range(b):
        for channel in range(c):
            for y in range(h):
                for x in range(w):
                    patch = (y // p) * (w // p) + x // p
                    pixel = (y % p) * p + x % p
                    tokens[i, patch, pixel * c + channel] = images[i, channel, y, x]
    return tokens


def refuses(call, name: str, *parts: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(name + " must"), message
    assert all(part in message for part in parts), message


SIZES = [(1, 1, 4, 2), (2, 1, 6, 3), (2, 3, 4, 2), (1, 2, 6, 1), (3, 1, 5, 5), (1, 3, 8, 4)]  # (B, C, side, patch)


@pytest.mark.parametrize("b, c, side, p", SIZES)
def test_patchify_puts_every_pixel_where_loops_put_it(b, c, side, p):
    images = random(b, c, side, side)
    assert torch.equal(patchify(images, p), patchify_by_hand(images, p))


@pytest.mark.parametrize("h, w, p", [(2, 6, 2), (6, 2, 1), (4, 8, 4)])
def test_patchify_takes_images_that_are_not_square(h, w, p):
    images = random(2, 2, h, w)
    assert torch.equal(patchify(images, p), patchify_by_hand(images, p))


def test_patchify_reads_like_a_page():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patchify(image, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("b, c, side, p", [*SIZES, (2, 1, 16, 2), (2, 3, 28, 4), (1, 1, 64, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_unpatchify_is_the_exact_inverse(b, c, side, p, dtype):
    images = random(b, c, side, side).to(dtype)
    back = unpatchify(patchify(images, p), p)
    assert back.dtype == dtype
    assert torch.equal(back, images)


@pytest.mark.parametrize("n, c, p", [(4, 1, 2), (9, 3, 2), (1, 2, 3), (16, 1, 1)])
def test_patchify_is_the_exact_inverse_of_unpatchify(n, c, p):
    tokens = random(2, n, p * p * c)
    assert torch.equal(patchify(unpatchify(tokens, p), p), tokens)


def test_pixels_that_are_not_contiguous_move_alike():
    images = random(2, 4, 4, 3).permute(0, 3, 1, 2)
    assert not images.is_contiguous()
    assert torch.equal(patchify(images, 2), patchify_by_hand(images, 2))
    tokens = patchify(images, 2).transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(unpatchify(tokens, 2), images)


@pytest.mark.parametrize("c, side, p, dim", [(1, 4, 2, 5), (3, 6, 3, 4), (2, 4, 1, 3)])
def test_embedding_equals_loops_over_patches(c, side, p, dim):
    embed = PatchEmbedding(side, p, c, dim).double()
    with torch.no_grad():
        embed.project.weight.copy_(random(dim, p * p * c, seed=1))
        embed.project.bias.copy_(random(dim, seed=2))
    images = random(2, c, side, side)
    weight, bias = embed.project.weight.tolist(), embed.project.bias.tolist()
    got = embed(images)
    assert got.shape == (2, embed.num_tokens, dim)
    assert embed.num_tokens == (side // p) ** 2
    for i in range(2):
        for row in range(side // p):
            for column in range(side // p):
                for feature in range(dim):
                    want, place = bias[feature], 0
                    for y in range(row * p, row * p + p):
                        for x in range(column * p, column * p + p):
                            for channel in range(c):
                                want += weight[feature][place] * images[i, channel, y, x].item()
                                place += 1
                    assert got[i, row * (side // p) + column, feature].item() == pytest.approx(want, abs=1e-12)


def test_embedding_defaults_are_the_published_numbers():
    defaults = {name: p.default for name, p in inspect.signature(PatchEmbedding).parameters.items()}
    assert defaults == {"image_size": 16, "patch_size": 2, "channels": 1, "dim": 128}
    assert PatchEmbedding()(torch.zeros(3, 1, 16, 16)).shape == (3, 64, 128)


def test_embedding_of_one_patch_depends_on_that_patch_alone():
    embed, images = PatchEmbedding(4, 2, 1, 3).double(), random(1, 1, 4, 4)
    other = images.clone()
    other[0, 0, 2:, :2] += 1  # patch 2
    changed = (embed(images) != embed(other)).any(dim=2)[0]
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("side, dim", [(3, 4), (8, 128), (4, 12)])
def test_positions_follow_the_formula(side, dim):
    got = position_encoding(side, dim)
    assert got.shape == (side * side, dim)
    quarter = dim // 4
    for token in range(side * side):
        row, column = divmod(token, side)
        for i in range(quarter):
            frequency = 1 / 100 ** (i / quarter)
            want = [f(place * frequency) for place in (row, column) for f in (math.sin, math.cos)]
            assert got[token, i::quarter].tolist() == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("side, dim", [(8, 128), (8, 8), (16, 128), (7, 4), (1, 4)])
def test_positions_are_all_distinct(side, dim):
    got = position_encoding(side, dim).double()
    distance = torch.cdist(got, got) + torch.eye(side * side) * 10
    assert distance.min() > 1e-2


def test_positions_tell_row_and_column_apart():
    side, dim = 5, 16
    grid = position_encoding(side, dim).reshape(side, side, dim)
    for i in range(side):
        assert torch.equal(grid[i, :, : dim // 2], grid[i, :1, : dim // 2].expand(side, -1))  # the row only
        assert torch.equal(grid[:, i, dim // 2 :], grid[:1, i, dim // 2 :].expand(side, -1))  # the column only
    assert torch.equal(grid[..., : dim // 2], grid[..., dim // 2 :].transpose(0, 1))  # both spelt alike
    assert not torch.equal(grid[0], grid[1])


IMAGE, TOKENS = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
BAD = {
    "patchify list": (lambda: patchify([[0.0]], 2), "images", "(B, C, H, W)", "list"),
    "patchify bytes": (lambda: patchify(IMAGE.byte(), 2), "images", "floating-point", "torch.uint8"),
    "patchify 3-D": (lambda: patchify(IMAGE[0], 2), "images", "(B, C, H, W)", "(1, 4, 4)"),
    "patchify 5-D": (lambda: patchify(IMAGE[None], 2), "images", "(B, C, H, W)", "(1, 1, 1, 4, 4)"),
    "patchify H": (lambda: patchify(torch.zeros(1, 1, 5, 4), 2), "patch_size", "divide", "patch_size 2", "5 x 4"),
    "patchify W": (lambda: patchify(torch.zeros(1, 1, 4, 6), 4), "patch_size", "divide", "patch_size 4", "4 x 6"),
    "patchify 0": (lambda: patchify(IMAGE, 0), "patch_size", "whole number of at least 1", "got 0"),
    "patchify -1": (lambda: patchify(IMAGE, -1), "patch_size", "whole number of at least 1", "got -1"),
    "patchify 2.0": (lambda: patchify(IMAGE, 2.0), "patch_size", "whole number of at least 1", "got 2.0"),
    "patchify True": (lambda: patchify(IMAGE, True), "patch_size", "whole number of at least 1", "got True"),
    "unpatchify None": (lambda: unpatchify(None, 2), "tokens", "(B, N, L)", "NoneType"),
    "unpatchify long": (lambda: unpatchify(TOKENS.long(), 2), "tokens", "floating-point", "torch.int64"),
    "unpatchify 2-D": (lambda: unpatchify(TOKENS[0], 2), "tokens", "(B, N, L)", "(4, 4)"),
    "unpatchify N": (lambda: unpatchify(torch.zeros(1, 6, 4), 2), "tokens", "square number", "(1, 6, 4)"),
    "unpatchify L": (lambda: unpatchify(torch.zeros(1, 4, 6), 2), "tokens", "multiple of 4", "(1, 4, 6)"),
    "unpatchify short": (lambda: unpatchify(torch.zeros(1, 4, 0), 2), "tokens", "multiple of 4", "(1, 4, 0)"),
    "unpatchify p": (lambda: unpatchify(TOKENS, 0), "patch_size", "whole number of at least 1", "got 0"),
    "positions dim 6": (lambda: position_encoding(4, 6), "dim", "multiple of 4", "got 6"),
    "positions dim 0": (lambda: position_encoding(4, 0), "dim", "whole number of at least 4", "got 0"),
    "positions side": (lambda: position_encoding(0, 8), "side", "whole number of at least 1", "got 0"),
    "embedding size": (lambda: PatchEmbedding(15, 2), "patch_size", "divide image_size 15", "got 2"),
    "embedding too big": (lambda: PatchEmbedding(4, 8), "patch_size", "divide image_size 4", "got 8"),
    "embedding size 0": (lambda: PatchEmbedding(0, 2), "image_size", "whole number of at least 1", "got 0"),
    "embedding size str": (lambda: PatchEmbedding("16", 2), "image_size", "whole number of at least 1", "got '16'"),
    "embedding patch": (lambda: PatchEmbedding(16, -2), "patch_size", "whole number of at least 1", "got -2"),
    "embedding channels": (lambda: PatchEmbedding(channels=0), "channels", "whole number of at least 1", "got 0"),
    "embedding dim": (lambda: PatchEmbedding(dim=0), "dim", "whole number of at least 1", "got 0"),
    "embedding other size": (
        lambda: PatchEmbedding(8, 2, 1, 4)(torch.zeros(1, 1, 16, 16)),
        "images",
        "(B, 1, 8, 8)",
        "(1, 1, 16, 16)",
    ),
    "embedding other channels": (
        lambda: PatchEmbedding(4, 2, 1, 4)(torch.zeros(1, 3, 4, 4)),
        "images",
        "(B, 1, 4, 4)",
        "(1, 3, 4, 4)",
    ),
    "embedding bytes": (lambda: PatchEmbedding(4, 2, 1, 4)(IMAGE.byte()), "images", "floating-point", "torch.uint8"),
}


@pytest.mark.parametrize("call, name, parts", [(c, n, p) for c, n, *p in BAD.values()], ids=list(BAD))
def test_bad_input_is_refused(call, name, parts):
    refuses(call, name, *parts)
