"""The exercises of notebook 06: more pixels, more channels, and where linear attention pays."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from ..exercises import Exercise


def _work(size: int, patch: int, dim: int, heads: int, softmax: bool, features: int | None = None) -> int:
    n, d = (size // patch) ** 2, dim // heads if features is None else features
    return 2 * n * dim * (n if softmax else d)


def _weights() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((6, 4), (4, 6)), ((2, 9), (9, 2))
    return [tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in pair) for pair in shapes]


def _widened(embed: Tensor, to_pixels: Tensor, share: float = 1 / 3, out: float = 1) -> tuple[Tensor, Tensor]:
    return share * embed.repeat_interleave(3, dim=1), out * to_pixels.repeat_interleave(3, dim=0)


def _level(t: float, factor: float) -> float:
    return math.atan(factor * math.tan(math.pi * t / 2)) / (math.pi / 2)


def _curves() -> list[tuple[list[float], list[float]]]:
    return [
        ([1024, 2304, 4096], [75.0, 160.0, 290.0]),
        ([64, 256, 1024, 4096], [16.0, 30.0, 200.0, 2300.0]),
        ([1.0, 10.0, 100.0], [3.0, 50.0, 700.0]),
    ]


def _slope(x: list[float], y: list[float]) -> float:
    return statistics.linear_regression(x, y).slope


def _log(values: list[float]) -> list[float]:
    return [math.log(value) for value in values]


EXERCISES = (
    Exercise(
        number="6.1",
        title="the price of a size",
        cases=lambda: [
            (size, patch, dim, heads, softmax)
            for size, patch, dim, heads in ((16, 2, 128, 4), (28, 2, 128, 4), (64, 4, 96, 3), (128, 1, 128, 8))
            for softmax in (False, True)
        ],
        solution="""
def core_work(size, patch, dim, heads, softmax):
    n, d = (size // patch) ** 2, dim // heads
    return 2 * n * n * dim if softmax else 2 * n * d * dim
""",
        mistakes={
            "a picture has (size / patch) tokens along each side: square it": (
                lambda size, patch, dim, heads, softmax: (
                    2 * (size // patch) * dim * (size // patch if softmax else dim // heads)
                )
            ),
            "both sides of a patch count: divide the size by the patch before you square": (
                lambda size, patch, dim, heads, softmax: (
                    2 * (size**2 // patch) * dim * (size**2 // patch if softmax else dim // heads)
                )
            ),
            "there are two products, and you counted one": lambda *sizes: _work(*sizes) // 2,
            "K^T V is d x d in each head, with d = dim / heads, not dim x dim": (
                lambda size, patch, dim, heads, softmax: _work(size, patch, dim, heads, softmax, dim)
            ),
            "softmax and linear are swapped": (
                lambda size, patch, dim, heads, softmax: _work(size, patch, dim, heads, not softmax)
            ),
        },
        hints=(
            "First the number of tokens n. Then ask how large each of the two products is, in one head.",
            "(a x b) times (b x c) takes a * b * c multiplications. Softmax: (n x d)(d x n), then (n x n)(n x d).",
            "heads * d is dim. Softmax: 2 * n * n * dim. Linear has (d x n)(n x d), then (n x d)(d x d).",
        ),
    ),
    Exercise(
        number="6.2",
        title="widen the weights",
        cases=_weights,
        solution="""
def widen(embed, to_pixels):
    return embed.repeat_interleave(3, dim=1) / 3, to_pixels.repeat_interleave(3, dim=0)
""",
        mistakes={
            "in a patch the three channels of one pixel come first, then the next pixel: repeat gives another order": (
                lambda embed, to_pixels: (embed.repeat(1, 3) / 3, to_pixels.repeat(3, 1))
            ),
            "three equal channels now count three times on the way in: divide": (
                lambda embed, to_pixels: _widened(embed, to_pixels, share=1)
            ),
            "on the way out each channel is to be as strong as before: nothing to divide": (
                lambda embed, to_pixels: _widened(embed, to_pixels, out=1 / 3)
            ),
            "the division belongs to the way in, not to the way out": (
                lambda embed, to_pixels: _widened(embed, to_pixels, share=1, out=1 / 3)
            ),
        },
        hints=(
            "What has to come out if all three channels show the same picture? What does each pixel add then?",
            "A linear map sums over its inputs: three equal ones with the same weight give three times as much.",
            "repeat_interleave(3, dim=...) makes a, a, a, b, b, b of a, b. One of the two results is divided by 3.",
        ),
    ),
    Exercise(
        number="6.3",
        title="less noise than announced",
        cases=lambda: [(t,) for t in (0.1, 0.5, 0.8, 0.95)],
        solution="""
def level_seen(t):
    return math.atan(math.tan(math.pi * t / 2) / math.sqrt(3)) / (math.pi / 2)
""",
        mistakes={
            "the mean of three noises has a third of the variance: the standard deviation falls by the root of 3": (
                lambda t: _level(t, 1 / 3)
            ),
            "sigma shrinks, but alpha stays: the new level is not simply a part of t": lambda t: t / math.sqrt(3),
            "the noise gets weaker by the mean, not stronger": lambda t: _level(t, math.sqrt(3)),
            "sigma / sqrt(3) and alpha do not lie on the unit circle: the level follows from their ratio": (
                lambda t: math.asin(math.sin(math.pi * t / 2) / math.sqrt(3)) / (math.pi / 2)
            ),
        },
        hints=(
            "The mean of three independent noises with standard deviation sigma: what is its standard deviation?",
            "The network knows a level by the ratio sigma / alpha, which is tan(pi t / 2). What is the ratio now?",
            "tan(pi t' / 2) = tan(pi t / 2) / sqrt(3). Solve for t' with math.atan.",
        ),
    ),
    Exercise(
        number="6.4",
        title="fit an exponent",
        cases=_curves,
        solution="""
def exponent(n, ms):
    x, y = torch.tensor(n).double().log(), torch.tensor(ms).double().log()
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x * x).sum()
""",
        mistakes={
            "you fitted a line to the numbers themselves: take the logarithms first": _slope,
            "n and ms are swapped: the exponent says how the time grows with n": (
                lambda n, ms: _slope(_log(ms), _log(n))
            ),
            "you used the first and the last point only: the ones between count, too": (
                lambda n, ms: math.log(ms[-1] / ms[0]) / math.log(n[-1] / n[0])
            ),
            "only one of the two has a logarithm: that fits e to the power of n, or of ms": (
                lambda n, ms: _slope(n, _log(ms))
            ),
        },
        hints=(
            "If ms = c n^p, what is log(ms)? It is a straight line in something.",
            "log(ms) = log(c) + p log(n). Fit that line: subtract the means of both logarithms first.",
            "With x and y the logarithms without their means, p is the sum of x * y over the sum of x * x.",
        ),
    ),
    Exercise(
        number="6.5",
        title="a table too large",
        tolerance=0.01,
        solution="""
answer = (16384, 12.88, 4)  # tokens, GB, patch
""",
        mistakes={
            "the table is n x n for each head and each layer: there are twelve of them": (16384, 1.07, 4),
            "these are numbers, not bytes: a float32 takes four": (16384, 3.22, 4),
            "a patch of 2 x 2 pixels is one token: divide both sides": (65536, 206.16, 8),
            "twice the patch is a quarter of the tokens and a sixteenth of the table: 8 is more than is needed": (
                16384,
                12.88,
                8,
            ),
        },
        hints=(
            "Tokens first: how many patches of 2 pixels fit along a side of 256?",
            "Each of 3 layers keeps 4 tables (one a head) of n x n numbers of 4 bytes. A GB is 10^9 bytes.",
            "3 * 4 * 4 * n^2 bytes. With patches of 4 pixels n is a quarter of what it was, and n^2 a sixteenth.",
        ),
    ),
)
