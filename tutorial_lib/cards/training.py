"""The exercises of notebook 03: the block, one training step, and what happens around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..exercises import Exercise
from ..noising import NoiseSchedule


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _knobs() -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(3 * _normal(2, 5, 8, seed=0) + 1, _normal(2, 1, 8, seed=1), _normal(2, 1, 8, seed=2))]


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])  # (B, N, D)


def _block(dim: int, ff_dim: int, parts: int = 6, attention: int = 4, bias: int = 1, local: int = 9) -> int:
    return (parts + attention) * dim * (dim + bias) + 2 * dim * ff_dim + bias * (2 * dim + ff_dim) + local * dim


def _network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return (x_t * (1 + t)[:, None, None, None] + labels[:, None, None, None] / 10).tanh()  # (B, C, H, W)


def _batch() -> list[tuple[Any, Tensor, Tensor, Tensor, Tensor]]:
    x0, eps = _normal(3, 1, 4, 2, seed=0).tanh(), _normal(3, 1, 4, 2, seed=1)  # (B, C, H, W) each
    return [(_network, x0, torch.tensor([0.2, 0.5, 0.9]).double(), eps, torch.tensor([3, 10, 7]))]


def _loss(model: Any, x0: Tensor, t: Tensor, eps: Tensor, y: Tensor, mixed: Any = None, wanted: Any = None) -> Tensor:
    x_t = NoiseSchedule.cosine().add_noise(x0, t if mixed is None else mixed, eps)  # (B, C, H, W)
    return (model(x_t, t, y) - (x0 if wanted is None else wanted)).square().mean()


def _follow(weights: list[Tensor], decay: float, first: int = 0, swap: bool = False, young: bool = True) -> Tensor:
    average = weights[0]
    for k, new in enumerate(weights[1:], first):
        d = min(decay, (1 + k) / (10 + k)) if young else decay
        average = torch.lerp(average, new, d if swap else 1 - d)
    return average  # like the weights


EXERCISES = (
    Exercise(
        number="3.1",
        title="turn the knobs",
        cases=_knobs,
        tolerance=1e-4,  # with or without the 1e-5 in the norm
        solution="""
def modulate(tokens, scale, shift):
    return F.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
""",
        mistakes={
            "you multiplied by the scale: with the scale 0 of a new block nothing would be left": (
                lambda x, scale, shift: _norm(x) * scale + shift
            ),
            "the norm is missing": lambda x, scale, shift: x * (1 + scale) + shift,
            "the shift comes too early: it is added last, so that the scale leaves it alone": (
                lambda x, scale, shift: (_norm(x) + shift) * (1 + scale)
            ),
            "you normalised over the tokens: each token is normalised by itself, over its features": (
                lambda x, scale, shift: _norm(x.mT).mT * (1 + scale) + shift
            ),
            "std() divides by one less than the number of features: the norm takes the plain mean of the squares": (
                lambda x, scale, shift: (x - x.mean(-1, True)) / x.std(-1, keepdim=True) * (1 + scale) + shift
            ),
        },
        hints=(
            "Three things happen, in this order: normalise each token, multiply, add.",
            "A scale of 0 and a shift of 0 must leave the normalised tokens as they are. So what is the factor?",
            "norm(tokens) comes first; multiply it by (1 + scale), then add shift.",
        ),
    ),
    Exercise(
        number="3.2",
        title="count a block",
        cases=lambda: [(128, 256), (64, 96)],
        tolerance=0.0,
        solution="""
def block_parameters(dim, ff_dim):
    maps = [(dim, 6 * dim), (dim, 3 * dim), (dim, dim), (dim, ff_dim), (ff_dim, dim)]
    return sum(a * b + b for a, b in maps) + 9 * dim + dim  # the last two: the local branch
""",
        mistakes={
            "the biases are missing: a map from a to b numbers has b of them": lambda d, f: _block(d, f, bias=0),
            "the local branch is missing: each of the dim features has 9 weights and a bias": (
                lambda d, f: _block(d, f, local=-1)
            ),
            "the modulation of a block makes six lists of dim numbers: only the one before the last map makes two": (
                lambda d, f: _block(d, f, parts=2)
            ),
            "query, key and value need three maps from dim to dim, and what comes out of attention one more": (
                lambda d, f: _block(d, f, attention=2)
            ),
            "that is three blocks: one is asked for": lambda d, f: 3 * _block(d, f),
        },
        hints=(
            "A block has three kinds of parts: modulation, attention with its local branch, and feed-forward.",
            "Its linear maps: one to 6 * dim, one to 3 * dim, one from dim to dim, and the two of feed-forward.",
            "a * b + b for (dim, 6 * dim), (dim, 3 * dim), (dim, dim), (dim, ff_dim), (ff_dim, dim). And 10 * dim.",
        ),
    ),
    Exercise(
        number="3.3",
        title="the loss of one batch",
        cases=_batch,
        solution="""
def training_loss(model, x0, t, eps, labels):
    alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
    x_t = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * eps
    return (model(x_t, t, labels) - x0).square().mean()
""",
        mistakes={
            "you compared with the noise: this network guesses the clean picture": (
                lambda model, x0, t, eps, y: _loss(model, x0, t, eps, y, wanted=eps)
            ),
            "you added the squares up: the loss is their mean": (
                lambda model, x0, t, eps, y: _loss(model, x0, t, eps, y) * x0.numel()
            ),
            "all the pictures got the t of the first: each has its own": (
                lambda model, x0, t, eps, y: _loss(model, x0, t[:1].expand(len(t)), eps, y)
            ),
            "the network looked at the clean picture: it gets x_t": (
                lambda model, x0, t, eps, y: _loss(model, x0, t, eps, y, mixed=0 * t)
            ),
            "alpha and sigma are swapped: at t = 0 the picture is clean": (
                lambda model, x0, t, eps, y: _loss(model, x0, t, eps, y, mixed=1 - t)
            ),
        },
        hints=(
            "Three steps: mix picture and noise, let the model guess, take the mean of the squared differences.",
            "schedule.add_noise(x0, t, eps) mixes. By hand, alpha[:, None, None, None] gives each picture its own.",
            "With x_t from there, compare model(x_t, t, labels) with x0: subtract, .square(), .mean().",
        ),
    ),
    Exercise(
        number="3.4",
        title="bug museum: the forgotten labels",
        cases=lambda: [(torch.arange(10).repeat_interleave(2000), eta) for eta in (0.1, 0.25)],
        measure=lambda labels: torch.bincount(labels, minlength=11) / len(labels),  # (11,) shares
        tolerance=0.03,  # shares of 20,000 draws are right to within 0.01 or so
        published="""
def drop_labels(labels, eta):
    xi = torch.rand(len(labels))
    return torch.where(xi > eta, 10, labels)
""",
        solution="""
def drop_labels(labels, eta):
    xi = torch.rand(len(labels))
    return torch.where(xi < eta, 10, labels)
""",
        mistakes={
            "the whole batch shares one draw: each picture needs its own": (
                lambda y, eta: torch.where(torch.rand(1) < eta, 10, y)
            ),
            "randn draws from the bell curve: rand is the one that is even between 0 and 1": (
                lambda y, eta: torch.where(torch.randn(len(y)) < eta, 10, y)
            ),
            "a dropped label became the digit 0: the null class is 10": (
                lambda y, eta: torch.where(torch.rand(len(y)) < eta, 0, y)
            ),
            "always the same places lose their label: which ones must be left to chance": (
                lambda y, eta: torch.where(torch.arange(len(y)) < eta * len(y), 10, y)
            ),
        },
        hints=(
            "Call it with a thousand labels and eta = 0.1. How many tens come back?",
            "torch.rand draws evenly from 0 to 1. How often is such a number above 0.1, and how often below?",
            "A number below eta comes with probability eta: turn the > round.",
        ),
    ),
    Exercise(
        number="3.5",
        title="an average that starts young",
        cases=lambda: [(list(_normal(7, 3, seed=0)), decay) for decay in (0.999, 0.2)],
        solution="""
def moving_average(weights, decay):
    average = weights[0]
    for k, new in enumerate(weights[1:]):
        d = min(decay, (1 + k) / (10 + k))
        average = d * average + (1 - d) * new
    return average
""",
        mistakes={
            "the two shares are swapped: the average keeps the share d, the new weights add 1 - d": (
                lambda weights, decay: _follow(weights, decay, swap=True)
            ),
            "the decay is the same at every step: it should start at 0.1 and grow": (
                lambda weights, decay: _follow(weights, decay, young=False)
            ),
            "the decay is one step ahead: k is 0 for weights[1], the first after the start": (
                lambda weights, decay: _follow(weights, decay, first=1)
            ),
            "the average begins at zero: it should begin as a copy of the start": (
                lambda weights, decay: _follow([0 * weights[0], *weights[1:]], decay)
            ),
            "the limit is missing: the decay must not grow above the one that is given": (
                lambda weights, decay: _follow(weights, 1.0)
            ),
        },
        hints=(
            "Begin with average = weights[0], and go through the others one by one.",
            "enumerate(weights[1:]) gives k = 0, 1, 2, ... together with the weights. First compute d, then mix.",
            "In the loop: d = min(decay, (1 + k) / (10 + k)), then average = d * average + (1 - d) * new.",
        ),
    ),
    Exercise(
        number="3.6",
        title="where the learning rate goes",
        tolerance=0.03,
        solution="""
answer = (27, 18)  # % of the steps until half is spent, % of the steps for the last hundredth
# spent = torch.tensor([my_lr(TrainConfig.fast(), k, 60_000) for k in range(total)]).cumsum(0)
# 100 * (spent < 0.50 * spent[-1]).float().mean(), 100 * (spent > 0.99 * spent[-1]).float().mean()
""",
        mistakes={
            "in the middle of the run the rate is half of its peak: what is asked for is half of the sum": (50, 18),
            "the second number is counted from the start of the run: count from the end": (27, 82),
            "you looked where the rate is below a hundredth of its peak: add the rates up": (27, 6),
            "those are shares: per cents are asked for": (0.27, 0.18),
            "that is the published recipe, with its six falls": (50, 5.6),
        },
        hints=(
            "Make a list of all the rates with my_lr, as the cell above does. What gives the running sum of a list?",
            "spent = torch.tensor(rates).cumsum(0) is the sum so far. Compare it with half of its last entry.",
            "100 * (spent < 0.5 * spent[-1]).float().mean() is the first number; the second uses > and 0.99.",
        ),
    ),
)
