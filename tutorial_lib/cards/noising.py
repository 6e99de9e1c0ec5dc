"""The exercises of notebook 02: noise added, undone and measured, the best guess, and schedules that break."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..exercises import Exercise


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _pictures() -> list[tuple[Tensor, Tensor, Tensor]]:
    """As wide and high as there are pictures: a t along the wrong axis raises no error here."""
    shapes = [(4, 1, 4, 4), (2, 3, 2, 2)]
    return [(_normal(*shape), torch.linspace(0.1, 0.9, shape[0]).double(), _normal(*shape, seed=1)) for shape in shapes]


def _undo(result: Callable) -> Callable:
    return lambda x_t, t, eps: result(x_t, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2), eps)


def _belief(x_t: Tensor, t: float, odds: float, shrink: bool = True, power: int = 2) -> Tensor:
    """How likely the coin showed 1: (B,)."""
    alpha, sigma = math.cos(math.pi * t / 2) if shrink else 1.0, math.sin(math.pi * t / 2)
    return torch.sigmoid(2 * alpha * x_t / sigma**power + math.log(odds))  # (B,)


def _add(alpha: Callable = torch.cos, sigma: Callable = torch.sin, shape: tuple = (-1, 1, 1, 1)) -> Callable:
    def add(x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        angle = (math.pi * t / 2).view(shape)
        return alpha(angle) * x0 + sigma(angle) * eps

    return add


def _by_beta(factors: Callable) -> Callable:
    """`factors` gives alpha and sigma from alpha_bar and beta at step i."""

    def noised(x0: Tensor, i: int, eps: Tensor, beta: Tensor) -> Tensor:
        alpha, sigma = factors((1 - beta).cumprod(0)[i], beta[i])
        return alpha * x0 + sigma * eps

    return noised


EXERCISES = (
    Exercise(
        number="2.1",
        title="take the noise away again",
        cases=lambda: [(_normal(6), t, _normal(6, seed=1)) for t in (0.8, 0.3)],
        solution="""
def recovered(x_t, t, eps):
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    return (x_t - sigma * eps) / alpha
""",
        mistakes={
            "the noise came in after the shrinking, so it has to go out before you undo the shrinking": _undo(
                lambda x_t, alpha, sigma, eps: x_t / alpha - sigma * eps
            ),
            "the noise is gone, but the number is still shrunk by alpha": _undo(
                lambda x_t, alpha, sigma, eps: x_t - sigma * eps
            ),
            "sigma times eps was added, not eps itself": _undo(lambda x_t, alpha, sigma, eps: (x_t - eps) / alpha),
            "alpha and sigma are swapped: alpha belongs to the clean number": _undo(
                lambda x_t, alpha, sigma, eps: (x_t - alpha * eps) / sigma
            ),
        },
        hints=(
            "Two things were done to the clean number. Undo them in the reverse order.",
            "Solve x_t = alpha * x0 + sigma * eps for x0, as at school.",
            "Take sigma * eps away from x_t, then divide by alpha.",
        ),
    ),
    Exercise(
        number="2.2",
        title="guess the coin",
        cases=lambda: [(torch.linspace(-2, 2, 9).double(), *case) for case in ((0.5, 0.5), (0.3, 0.8), (0.9, 0.2))],
        solution="""
def coin_guess(x_t, t, share):
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    points, shares = x_t.new_tensor([1.0, -1.0]), x_t.new_tensor([share, 1 - share])  # (2,), (2,)
    distance = x_t[:, None] - alpha * points  # (B, 2)
    belief = torch.softmax(shares.log() - distance**2 / (2 * sigma**2), dim=1)  # (B, 2)
    return belief @ points  # (B,)
""",
        mistakes={
            "the shares are missing: the side that comes up more often is likelier before you look": (
                lambda x_t, t, share: 2 * _belief(x_t, t, 1.0) - 1
            ),
            "the clean 1 and -1 were shrunk before the noise came in: compare x_t with alpha and -alpha": (
                lambda x_t, t, share: 2 * _belief(x_t, t, share / (1 - share), shrink=False) - 1
            ),
            "the squared distance is divided by twice the variance, sigma**2, not by twice sigma": (
                lambda x_t, t, share: 2 * _belief(x_t, t, share / (1 - share), power=1) - 1
            ),
            "this is how likely the 1 is, not yet a guess: take the average of 1 and -1, weighted by belief": (
                lambda x_t, t, share: _belief(x_t, t, share / (1 - share))
            ),
            "you answered the likelier side: the best guess is a blend of both": (
                lambda x_t, t, share: torch.where(_belief(x_t, t, share / (1 - share)) >= 0.5, 1.0, -1.0)
            ),
        },
        hints=(
            "It is best_guess from above with the means 1 and -1 and with std = 0. What is left of `within` then?",
            "belief is a softmax over the two sides, of log(share of the side) - distance**2 / (2 * sigma**2).",
            "distance = x_t[:, None] - alpha * points, with points 1 and -1. The answer is belief @ points.",
        ),
    ),
    Exercise(
        number="2.3",
        title="a noise level for each picture",
        cases=_pictures,
        solution="""
def noised_batch(x0, t, eps):
    t = t.view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return torch.cos(math.pi * t / 2) * x0 + torch.sin(math.pi * t / 2) * eps  # (B, C, H, W)
""",
        mistakes={
            "t runs along the columns, not along the batch: no error is raised, because here a picture has as many "
            "columns as there are pictures": _add(shape=(-1,)),
            "alpha and sigma are swapped: at t = 0 only noise is left": _add(torch.sin, torch.cos),
            "alpha**2 and sigma**2 are the shares of the variance: multiply by alpha and sigma themselves": _add(
                lambda angle: angle.cos() ** 2, lambda angle: angle.sin() ** 2
            ),
            "the picture is not shrunk: its variance grows with t": _add(torch.ones_like),
            "the angle is pi t / 2, a quarter turn at t = 1; you made a half turn": _add(
                lambda angle: torch.cos(2 * angle), lambda angle: torch.sin(2 * angle)
            ),
        },
        hints=(
            "PyTorch lines shapes up from the right: (B,) beside (B, C, H, W) meets the W. Where does t have to stand?",
            "t.view(-1, 1, 1, 1) has the shape (B, 1, 1, 1): one number for each whole picture.",
            "With that t: torch.cos(math.pi * t / 2) * x0, plus torch.sin of the same angle times eps.",
        ),
    ),
    Exercise(
        number="2.4",
        title="from decibels back to t",
        cases=lambda: [(torch.tensor([-20.0, -3.0, 0.0, 6.0, 30.0], dtype=torch.float64),)],
        solution="""
def level_for(db):
    ratio = 10 ** (-db / 20)  # sigma / alpha
    return torch.atan(ratio) * 2 / math.pi
""",
        mistakes={
            "a root is missing: 10 ** (db / 10) is the ratio of powers, (alpha / sigma)**2": (
                lambda db: torch.atan(10 ** (-db / 10)) * 2 / math.pi
            ),
            "signal and noise are swapped: many decibels mean little noise, a small t": (
                lambda db: torch.atan(10 ** (db / 20)) * 2 / math.pi
            ),
            "decibels count with the logarithm to base 10, so 10 to the power undoes it, not exp": (
                lambda db: torch.atan((-db / 20).exp()) * 2 / math.pi
            ),
            "this is the angle, from 0 to pi / 2; t runs from 0 to 1": lambda db: torch.atan(10 ** (-db / 20)),
        },
        hints=(
            "Go back one step at a time: from decibels to the snr, to alpha / sigma, to the angle, to t.",
            "snr = 10 ** (db / 10), and the snr is (alpha / sigma)**2. What is sigma / alpha, as a power of 10?",
            "sigma / alpha = tan(pi t / 2) = 10 ** (-db / 20). torch.atan gives the angle; divide it by pi / 2.",
        ),
    ),
    Exercise(
        number="2.5",
        title="break the schedule, mend the schedule",
        solution="""
fewest = (20, 683)  # next(steps for steps in range(1, 1001) if passes(steps, rescaled))
""",
        mistakes={
            "those are the largest numbers that are still refused": (19, 682),
            "with 20 steps the last rescaled beta is exactly 1: nothing of the picture is left, but all is finite": (
                (21, 683)
            ),
            "1,000 small steps pass, but fewer are enough": (20, 1000),
            "of the betas made for 1,000 steps it takes 826; made for fewer steps they rise faster": (20, 826),
            "alpha_bar has to be below 0.001, not alpha, its root": (20, 1366),
        },
        hints=(
            "Put try, check() and except ValueError into a function passes(steps, rescaled), as in the cell above.",
            "Rescaled, the last beta is 0.02 * 1000 / steps. For which steps is it at most 1?",
            "The second number lies between 600 and 700: next(n for n in range(600, 700) if passes(n, False)).",
        ),
    ),
    Exercise(
        number="2.6",
        title="bug museum: the noise that fades",
        cases=lambda: [
            (_normal(2, 3), i, _normal(2, 3, seed=1), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
            for i in (200, 0, 999)
        ],
        published="""
def noised_at(x0, i, eps, beta):
    alpha_bar = (1 - beta).cumprod(0)
    alpha = alpha_bar**0.5
    sigma = alpha_bar**0.5
    return alpha[i] * x0 + sigma[i] * eps
""",
        solution="""
def noised_at(x0, i, eps, beta):
    alpha_bar = (1 - beta).cumprod(0)
    alpha = alpha_bar**0.5
    sigma = (1 - alpha_bar) ** 0.5
    return alpha[i] * x0 + sigma[i] * eps
""",
        mistakes={
            "1 - alpha_bar is the variance of the noise; its standard deviation is the root of that": _by_beta(
                lambda bar, beta: (bar**0.5, 1 - bar)
            ),
            "alpha**2 and sigma**2 add up to 1, not alpha and sigma: take 1 - alpha_bar first, then the root": _by_beta(
                lambda bar, beta: (bar**0.5, 1 - bar**0.5)
            ),
            "beta[i] is the noise of step i alone; sigma counts the noise of all steps so far": _by_beta(
                lambda bar, beta: (bar**0.5, beta**0.5)
            ),
            "you changed the other line: now the picture comes and the noise goes": _by_beta(
                lambda bar, beta: ((1 - bar) ** 0.5, bar**0.5)
            ),
        },
        hints=(
            "The variance should stay 1: alpha**2 + sigma**2 = 1. Compute that sum for the first and the last step.",
            "At the last step hardly any noise is left. Which line makes the noise shrink?",
            "sigma**2 = 1 - alpha**2, and alpha**2 is alpha_bar.",
        ),
    ),
)
