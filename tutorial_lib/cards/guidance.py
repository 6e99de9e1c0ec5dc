"""The exercises of notebook 05: guidance, solvers at equal cost, editing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exercises import Exercise


def _count(times: list[float], scale: float, low: float, high: float, last: bool = False) -> int:
    """Two for each time inside the interval, one for each outside; `last`: the final time counts, too."""
    return sum(2 if low <= t <= high and scale not in (0, 1) else 1 for t in (times if last else times[:-1]))


def _crowds() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    sizes = ((7, 1.0, 0.5), (40, 3.0, -1.0))
    return [
        (torch.randn(n, generator=draw).double(), scale * torch.randn(n, generator=draw).double() + shift)
        for n, scale, shift in sizes
    ]


def _masked() -> list[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    guess, known = (torch.randn(2, 1, 4, 4, generator=draw) for _ in range(2))  # (2, 1, 4, 4) each
    return [(guess, known, torch.arange(4)[:, None] >= 2), (guess, known, torch.rand(4, 4, generator=draw) < 0.3)]


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        number="5.1",
        title="what guidance in an interval costs",
        cases=lambda: [
            (times, scale, 0.6, 0.85)
            for times in ([1.0, 0.9, 0.85, 0.7, 0.6, 0.3, 0.0], [1.0, 0.8, 0.7, 0.6])
            for scale in (0.0, 1.0, 1.5)
        ],
        solution="""
def evaluations(times, scale, low, high):
    total = 0
    for t in times[:-1]:
        guided = low <= t <= high and scale not in (0, 1)
        total += 2 if guided else 1
    return total
""",
        mistakes={
            "the last time is where the walk ends: nobody looks there": (
                lambda times, scale, low, high: _count(times, scale, low, high, last=True)
            ),
            "outside the interval one evaluation is enough: the scale is 1 there": (
                lambda times, scale, low, high: (1 if scale in (0, 1) else 2) * (len(times) - 1)
            ),
            "both ends of the interval belong to it": (
                lambda times, scale, low, high: sum(
                    2 if low < t < high and scale not in (0, 1) else 1 for t in times[:-1]
                )
            ),
            "at the scales 0 and 1 one evaluation is enough, in the interval, too": (
                lambda times, scale, low, high: _count(times, 2.0, low, high)
            ),
            "the steps outside the interval cost one evaluation each, not none": (
                lambda times, scale, low, high: (
                    _count(times, scale, low, high) - sum(not low <= t <= high for t in times[:-1])
                )
            ),
        },
        hints=(
            "Each step looks once, at the time where it begins. Which of the times are beginnings?",
            "Go through times[:-1]. A time costs 2 if it lies in the interval and the scale is neither 0 nor 1.",
            "Start with total = 0 and add, for each t in times[:-1], either 2 or 1.",
        ),
    ),
    Exercise(
        number="5.2",
        title="how far apart two crowds are on a line",
        cases=_crowds,
        solution="""
def distance(a, b):
    return (a.sort().values - b.sort().values).abs().mean()
""",
        mistakes={
            "sort both: as they come, the points are paired by chance": lambda a, b: (a - b).abs().mean(),
            "sort both: here only the first is in order": lambda a, b: (a.sort().values - b).abs().mean(),
            "this is the distance of the two means: a crowd can have the right middle and the wrong spread": (
                lambda a, b: (a.mean() - b.mean()).abs()
            ),
            "a mean of squares is another distance: take absolute values": (
                lambda a, b: (a.sort().values - b.sort().values).square().mean()
            ),
            "take the mean, not the sum: a larger crowd is not farther away": (
                lambda a, b: (a.sort().values - b.sort().values).abs().sum()
            ),
        },
        hints=(
            "Stand both crowds in a row, each in order of size. Who goes to whose place?",
            "The smallest goes to the smallest, the next to the next. Each walks the absolute value of a difference.",
            "x.sort().values gives the points of x in order. Subtract the two rows, then .abs() and .mean().",
        ),
    ),
    Exercise(
        number="5.3",
        title="as many steps as the evaluations allow",
        cases=lambda: [
            (solver, nfe, scale)
            for solver in ("ddim", "dpmpp_2m", "heun")
            for nfe, scale in ((9, 1.0), (10, 0.0), (19, 1.25), (20, 3.0), (2, 1.5))
        ],
        solution="""
def steps_for(solver, nfe, scale):
    looks = nfe if scale in (0, 1) else nfe // 2
    return (looks + 1) // 2 if solver == "heun" else looks
""",
        mistakes={
            "equal steps are not equal cost: Heun looks twice in each step but the last": (
                lambda solver, nfe, scale: nfe if scale in (0, 1) else nfe // 2
            ),
            "Heun's last step looks only once: 9 looks are enough for 5 steps": (
                lambda solver, nfe, scale: (nfe if scale in (0, 1) else nfe // 2) // (1 + (solver == "heun"))
            ),
            "guidance is missing: it asks the network twice in each look": (
                lambda solver, nfe, scale: (nfe + 1) // 2 if solver == "heun" else nfe
            ),
            "at scale 0 one evaluation a look is enough": (
                lambda solver, nfe, scale: (
                    ((nfe if scale == 1 else nfe // 2) + 1) // 2
                    if solver == "heun"
                    else (nfe if scale == 1 else nfe // 2)
                )
            ),
        },
        hints=(
            "Two questions, one after the other: how many looks can be paid, and how many steps do they make?",
            "A guided look costs 2, so there are nfe // 2 of them. k steps of Heun need 2k - 1 looks.",
            "looks = nfe if scale in (0, 1) else nfe // 2. For Heun, 2k - 1 <= looks means k <= (looks + 1) / 2.",
        ),
    ),
    Exercise(
        number="5.4",
        title="how far to go back",
        solution="""
answer = (0.6, 0.5, 6)  # read as 8; still its own digit; evaluations at the first
""",
        mistakes={
            "the first two are swapped: the class asks for much noise, the digit for little": (0.5, 0.6, 6),
            "these are steps: each look of a guided walk costs two evaluations": (0.6, 0.5, 3),
            "a whole walk costs 20, but the edit begins in the middle: print last.nfe": (0.6, 0.5, 20),
            "at 0.5 fewer than 80 of the 100 are read as 8": (0.5, 0.5, 6),
            "at 0.6 fewer than 60 of the 100 are nearest to their own digit": (0.6, 0.6, 6),
        },
        hints=(
            "Run the lines of the card for each of the six t, and write both numbers and the evaluations in a table.",
            "The first answer is the first row with 80 or more, the second the last row with 60 or more.",
            "The rows to look at are 0.5 and 0.6. The evaluations are in the last state: last.nfe.",
        ),
    ),
    Exercise(
        number="5.5",
        title="keep what is known",
        cases=_masked,
        solution="""
def keep_known(guess, known, hidden):
    return torch.where(hidden, guess, known)
""",
        mistakes={
            "the wrong way round: where `hidden` is True, the guess of the network is needed": (
                lambda guess, known, hidden: torch.where(hidden, known, guess)
            ),
            "the known pixels are still missing: here they are 0, which is grey": (
                lambda guess, known, hidden: guess * hidden
            ),
            "the guess is added to the known pixels: each pixel comes from one of the two": (
                lambda guess, known, hidden: guess + known * ~hidden
            ),
            "the mean of both spoils both: the known pixels are known exactly": (
                lambda guess, known, hidden: torch.where(hidden, guess, (guess + known) / 2)
            ),
        },
        hints=(
            "Each pixel of the answer comes from one of two pictures. What decides from which?",
            "torch.where(condition, a, b) takes a where the condition is True, and b elsewhere.",
            "The condition is `hidden`. Which of the two pictures do you want where it is True?",
        ),
    ),
)
