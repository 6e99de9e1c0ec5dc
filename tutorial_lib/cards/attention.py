"""The exercises of notebook 01: patches, and linear attention beside softmax attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..exercises import Exercise
from ..patches import patchify


def _qkv() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two cases in float64, one of them with values of another width than the keys."""
    draw = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randn(2, 12, width, generator=draw, dtype=torch.float64) for width in widths)
        for widths in ((4, 4, 4), (4, 4, 6))
    ]


def _tokens() -> list[tuple[Tensor, Tensor]]:
    return [(q, k) for q, k, _ in _qkv()]


def _images() -> list[tuple[Tensor, int]]:
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(3, 1, 8, 8, generator=draw), 2), (torch.randn(2, 3, 12, 12, generator=draw), 4)]


def _phi(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def _cut(images: Tensor, p: int) -> Tensor:
    b, c, h, w = images.shape
    return images.reshape(b, c, h // p, p, w // p, p)  # (B, C, H/p, p, W/p, p)


EXERCISES = (
    Exercise(
        number="1.1",
        title="cut any picture into patches",
        cases=_images,
        solution="""
def my_patchify(images, p):
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // p, p, w // p, p)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)
""",
        mistakes={
            "the pixels of a patch are not together: a reshape alone cuts the picture into strips": (
                lambda images, p: images.reshape(len(images), -1, p * p * images.shape[1])
            ),
            "the patches come column by column: they should come row by row": (
                lambda images, p: (
                    patchify(images.transpose(-2, -1), p).unflatten(2, (p, p, -1)).transpose(2, 3).flatten(2)
                )  # fmt: skip
            ),
            "inside a patch the channels come first: each pixel should keep its channels together": (
                lambda images, p: _cut(images, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
            ),
            "inside a patch rows and columns are swapped": (
                lambda images, p: _cut(images, p).permute(0, 2, 4, 5, 3, 1).flatten(3).flatten(1, 2)
            ),
        },
        hints=(
            "First split each side in two: which patch, and which pixel in it. One reshape to six dimensions does it.",
            "Then put the dimensions in order: picture, patch row, patch column, pixel row, pixel column, channel.",
            "reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1), and one more reshape to (B, N, p*p*C).",
        ),
    ),
    Exercise(
        number="1.2",
        title="regroup the product",
        counts_work=True,
        cases=_qkv,
        solution="""
def regrouped(q, k, v):
    return q @ (k.transpose(-2, -1) @ v)
""",
        mistakes={
            "the numbers are right, but you formed the N x N matrix: the work still grows with its square": (
                lambda q, k, v: (q @ k.transpose(-2, -1)) @ v
            ),
            "you divided by N: nothing asks for a mean here": (
                lambda q, k, v: q @ (k.transpose(-2, -1) @ v) / k.shape[-2]
            ),
            "you scaled by the square root of d: that belongs to softmax attention": (
                lambda q, k, v: q @ (k.transpose(-2, -1) @ v) / q.shape[-1] ** 0.5
            ),
            "you took a softmax of the scores: then the product cannot be regrouped": (
                lambda q, k, v: (q @ k.transpose(-2, -1)).softmax(-1) @ v
            ),
        },
        hints=(
            "Matrix products may be regrouped: (A B) C = A (B C). Which two of the three should meet first?",
            "k is (..., N, d) and v is (..., N, e). Their product, a sum over the N tokens, is (..., d, e).",
            "k.transpose(-2, -1) @ v is that product; what is left is one more product with q, from the left.",
        ),
    ),
    Exercise(
        number="1.3",
        title="the double softmax",
        cases=_tokens,
        solution="""
def double_softmax(q, k):
    return q.softmax(dim=-1), k.softmax(dim=-2)
""",
        mistakes={
            "both softmaxes run over the features: with many tokens the rows of the attention matrix sum to far more "
            "than 1": lambda q, k: (q.softmax(-1), k.softmax(-1)),
            "both softmaxes run over the tokens: the weights of a query then depend on the other queries": (
                lambda q, k: (q.softmax(-2), k.softmax(-2))
            ),
            "the two directions are swapped": lambda q, k: (q.softmax(-2), k.softmax(-1)),
            "you scaled q by the square root of d as well: the rows then sum to less than 1": (
                lambda q, k: (q.softmax(-1) / q.shape[-1] ** 0.5, k.softmax(-2))
            ),
        },
        hints=(
            "Each query spreads a weight of 1 over its d features, each feature a weight of 1 over the N tokens.",
            "The shapes are (..., N, d): tokens are the last dimension but one, features the last.",
            "q needs a softmax over dim=-1; over which one does k need it?",
        ),
    ),
    Exercise(
        number="1.4",
        title="make the rows sum to one",
        cases=_qkv,
        solution="""
def elu1_attention(q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = q @ k.sum(dim=-2).unsqueeze(-1)
    return q @ (k.transpose(-2, -1) @ v) / total
""",
        mistakes={
            "the division is missing: the rows of the attention matrix do not sum to 1": (
                lambda q, k, v: _phi(q) @ (_phi(k).transpose(-2, -1) @ v)
            ),
            "you divided by the number of tokens, not by the sum of the weights": (
                lambda q, k, v: _phi(q) @ (_phi(k).transpose(-2, -1) @ v) / k.shape[-2]
            ),
            "you added the queries up: the sum has to run over the keys": (
                lambda q, k, v: _phi(q) @ (_phi(k).transpose(-2, -1) @ v) / (_phi(k) @ _phi(q).sum(-2).unsqueeze(-1))
            ),
            "the feature map is missing: without it weights can be negative, and their sum can be 0": (
                lambda q, k, v: q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2).unsqueeze(-1))
            ),
        },
        hints=(
            "The weight of key j for query i is phi(q_i) . phi(k_j). What do all the weights of one query add up to?",
            "All these products share one factor: a . k_1 + a . k_2 + ... = a . (k_1 + k_2 + ...).",
            "total = q @ k.sum(dim=-2).unsqueeze(-1) has the shape (..., N, 1). Divide by it.",
        ),
    ),
    Exercise(
        number="1.5",
        title="double the heads",
        solution="""
answer = (1, 0.25)  # times as many parameters, largest share of copying
""",
        mistakes={
            "the heads share the 128 features: eight heads need no more weights than four": (2, 0.25),
            "half of it is the bound with four heads (d = 32); with eight heads d is 16": (1, 0.5),
            "the bound is d / n with the d of one head, not the 128 features of all heads": (1, 2),
            "d is halved, so the bound is halved, not doubled": (1, 1.0),
        },
        hints=(
            "Count the parameters of both modules: sum(p.numel() for p in module.parameters()).",
            "With eight heads, each has d = 128 / 8 features. What is the rank of its attention matrix at most?",
            "The copy bound is d / n, with n = 64 tokens.",
        ),
    ),
    Exercise(
        number="1.6",
        title="bug museum: the wrong width",
        cases=lambda: [
            (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 5, 12)),
            (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 5, 7)),
        ],
        published="""
def join_heads(values, x):
    batch_size, seq_length, embed_dim = x.size()
    values = values.permute(0, 2, 1, 3)
    return values.reshape(batch_size, seq_length, embed_dim)
""",
        solution="""
def join_heads(values, x):
    batch_size, heads, seq_length, head_dim = values.size()
    values = values.permute(0, 2, 1, 3)
    return values.reshape(batch_size, seq_length, heads * head_dim)
""",
        mistakes={
            "the heads must move beside their features before they are joined": (
                lambda values, x: values.reshape(values.shape[0], values.shape[2], -1)
            ),
            "the result has the right shape, but features and heads are in the wrong order": (
                lambda values, x: values.permute(0, 2, 3, 1).flatten(2)
            ),
            "you cut or filled the result to the width of the input: the next layer expects all heads": (
                lambda values, x: F.pad(values.permute(0, 2, 1, 3).flatten(2), (0, x.shape[-1] - 12))
            ),
        },
        hints=(
            "Try it with an input of width 7 and three heads of four features. Which line fails?",
            "The code takes one of its three numbers from the wrong tensor.",
            "The width of the result is heads * features of a head, whatever the width of x.",
        ),
    ),
)
