"""The exercises of notebook 04: steps from noise to a digit, guidance, and what a digit costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

from ..exercises import Exercise
from ..noising import NoiseSchedule


def _pictures(count: int, channels: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(4, channels, 3, 5, generator=draw, dtype=torch.float64) for _ in range(count)]


def _levels(t: float) -> tuple[float, float]:
    return math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)  # alpha, sigma


def _moves() -> list[tuple]:
    return [(*_pictures(2), *_levels(t), *_levels(s)) for t, s in ((0.8, 0.5), (0.4, 0.1))]


def _walks() -> list[tuple]:
    denoise, schedule = (lambda x, t: torch.tanh((1 - t) * x)), NoiseSchedule.cosine()
    return [(denoise, schedule, *_pictures(1), times) for times in ([1.0, 0.7, 0.6, 0.0], [0.9, 0.6, 0.5, 0.4, 0.0])]


def _walk(denoise: Callable, schedule: NoiseSchedule, x: Tensor, moves: Iterable, told: int = 0) -> Tensor:
    """From t to s for each (t, s) of `moves`; `told` says which of the two the network hears."""
    for move in moves:
        x0 = denoise(x, move[told])  # (B, C, H, W)
        eps = (x - schedule.alpha(move[0]) * x0) / schedule.sigma(move[0])  # (B, C, H, W)
        x = schedule.alpha(move[1]) * x0 + schedule.sigma(move[1]) * eps  # (B, C, H, W)
    return x


def _guided(out: Tensor, scale: float, guess: int = 4, rest: int = 4) -> Tensor:
    with_label, without = out[:, :guess].chunk(2)  # (B, guess, H, W) each
    return torch.cat([(without + scale * (with_label - without)).repeat(2, 1, 1, 1), out[:, rest:]], dim=1)


EXERCISES = (
    Exercise(
        number="4.1",
        title="one step of DDIM",
        cases=_moves,
        solution="""
def my_step(x, x0, alpha_t, sigma_t, alpha_s, sigma_s):
    eps = (x - alpha_t * x0) / sigma_t
    return alpha_s * x0 + sigma_s * eps
""",
        mistakes={
            "you did not divide by sigma_t: x - alpha_t * x0 is the noise times sigma_t, not the noise itself": (
                lambda x, x0, at, st, a, s: a * x0 + s * (x - at * x0)
            ),
            "alpha_t and sigma_t are swapped: alpha goes with the picture, sigma with the noise": (
                lambda x, x0, at, st, a, s: a * x0 + s * (x - st * x0) / at
            ),
            "you kept the alpha of time t: at time s more of the picture belongs in the mixture": (
                lambda x, x0, at, st, a, s: at * x0 + s * (x - at * x0) / st
            ),
            "x0 and the noise are swapped in the new mixture": (
                lambda x, x0, at, st, a, s: s * x0 + a * (x - at * x0) / st
            ),
            "you drew fresh noise: DDIM goes on with the noise that is in x already": (
                lambda x, x0, at, st, a, s: a * x0 + s * torch.randn_like(x)
            ),
        },
        hints=(
            "You know x and x0. Only one thing in x_t = alpha(t) x0 + sigma(t) eps is not known: solve for it.",
            "Two lines. The first finds eps with the numbers of time t. The second mixes again with those of time s.",
            "eps = (x - alpha_t * x0) / sigma_t. Now write the forward equation for time s with x0 and this eps.",
        ),
    ),
    Exercise(
        number="4.2",
        title="bug museum: the step beside the list",
        cases=_walks,
        published="""
def walk(denoise, schedule, x, times):
    steps = len(times) - 1
    for t in times[:-1]:
        s = max(0.0, t - 1 / steps)
        x0 = denoise(x, t)
        eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
        x = schedule.alpha(s) * x0 + schedule.sigma(s) * eps
    return x
""",
        solution="""
def walk(denoise, schedule, x, times):
    for t, s in zip(times[:-1], times[1:]):
        x0 = denoise(x, t)
        eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
        x = schedule.alpha(s) * x0 + schedule.sigma(s) * eps
    return x
""",
        mistakes={
            "you subtract the first gap everywhere: the gaps in the list differ": (
                lambda denoise, schedule, x, times: _walk(
                    denoise, schedule, x, [(t, max(0.0, t - times[0] + times[1])) for t in times[:-1]]
                )
            ),
            "you made a list of even times: then the subtraction fits, but the caller asked for other times": (
                lambda denoise, schedule, x, times: _walk(
                    denoise, schedule, x, pairwise(torch.linspace(times[0], 0, len(times)).tolist())
                )
            ),
            "the last step is missing: the walk has to reach the last time of the list": (
                lambda denoise, schedule, x, times: _walk(denoise, schedule, x, pairwise(times[:-1]))
            ),
            "the network has to hear t, the time of the picture that it sees, not s": (
                lambda denoise, schedule, x, times: _walk(denoise, schedule, x, pairwise(times), told=1)
            ),
        },
        hints=(
            "Take times = [1.0, 0.7, 0.6, 0.0] and write down t and s of each step. Where does the next step begin?",
            "The picture is brought to the noise of time s, but the next round begins at the next time of the list.",
            "s must be the time after t in the list: for i in range(steps), t is times[i], and s is times[i + 1].",
        ),
    ),
    Exercise(
        number="4.3",
        title="guidance",
        cases=lambda: [(*_pictures(2), scale) for scale in (0.0, 1.0, 2.5)],
        solution="""
def guide(with_label, without, scale):
    return without + scale * (with_label - without)
""",
        mistakes={
            "the roles are swapped: your scale 1 gives the guess without the label": (
                lambda with_label, without, scale: with_label + scale * (without - with_label)
            ),
            "you go the wrong way: away from the label": (
                lambda with_label, without, scale: without - scale * (with_label - without)
            ),
            "you start from the guess with the label, so that your 0 is our 1: papers have both conventions": (
                lambda with_label, without, scale: with_label + scale * (with_label - without)
            ),
            "only the guess with the label is scaled: are there brackets around the difference?": (
                lambda with_label, without, scale: without + scale * with_label - without
            ),
        },
        hints=(
            "Where do you stand at scale 0? And which way do you have to go from there to reach the other guess at 1?",
            "The way from a to b is b - a. Walk it `scale` times, starting at a.",
            "Start at `without`, and add scale * (with_label - without).",
        ),
    ),
    Exercise(
        number="4.4",
        title="bug museum: three channels of four",
        cases=lambda: [(*_pictures(1, channels=8), scale) for scale in (1.0, 4.0)],
        published="""
def guide_latents(out, scale):
    guess, rest = out[:, :3], out[:, 3:]
    with_label, without = guess.chunk(2)
    guided = without + scale * (with_label - without)
    return torch.cat([torch.cat([guided, guided]), rest], dim=1)
""",
        solution="""
def guide_latents(out, scale):
    guess, rest = out[:, :4], out[:, 4:]
    with_label, without = guess.chunk(2)
    guided = without + scale * (with_label - without)
    return torch.cat([torch.cat([guided, guided]), rest], dim=1)
""",
        mistakes={
            "you guided all eight channels: the last four are no guess and stay as they are": (
                lambda out, scale: _guided(out, scale, guess=8, rest=8)
            ),
            "one channel comes out twice: the rest begins where the guess ends": (
                lambda out, scale: _guided(out, scale, guess=4, rest=3)
            ),
            "one channel is lost: the guess ends where the rest begins": (
                lambda out, scale: _guided(out, scale, guess=3, rest=4)
            ),
            "the last four channels are lost: they come back as they are": (
                lambda out, scale: _guided(out, scale, guess=4, rest=8)
            ),
        },
        hints=(
            "A picture has three colours. How many channels does this guess have?",
            "Follow the fourth channel, out[:, 3]. Is it guided?",
            "The guess is out[:, :4]. Where does the rest begin, then?",
        ),
    ),
    Exercise(
        number="4.5",
        title="count the evaluations",
        cases=lambda: [
            (solver, steps, scale)
            for solver in ("ddim", "dpmpp_2m", "heun")
            for steps, scale in ((10, 0.0), (7, 1.0), (5, 1.25), (1, 6.0))
        ],
        solution="""
def evaluations(solver, steps, scale):
    calls = 2 * steps - 1 if solver == "heun" else steps
    return calls if scale in (0, 1) else 2 * calls
""",
        mistakes={
            "Heun's last step looks only once: at s = 0 there is no second look": (
                lambda solver, steps, scale: (1 + (solver == "heun")) * steps * (1 + (scale not in (0, 1)))
            ),
            "guidance is missing: it asks the network twice, with the label and without": (
                lambda solver, steps, scale: 2 * steps - 1 if solver == "heun" else steps
            ),
            "at scale 0 the guess with the label is not used: one evaluation is enough": (
                lambda solver, steps, scale: (2 * steps - 1 if solver == "heun" else steps) * (1 + (scale != 1))
            ),
            "with Heun and guidance each look costs two, and the last step saves a whole look": (
                lambda solver, steps, scale: (
                    (1 + (solver == "heun")) * steps * (1 + (scale not in (0, 1))) - (solver == "heun")
                )
            ),
        },
        hints=(
            "Count in two stages: how often does the solver look? And how many evaluations does one look cost?",
            "DDIM and DPM-Solver++(2M) look once in each step, Heun's method twice, but for the last step.",
            "Heun looks 2 * steps - 1 times, the others `steps` times. A look costs 1 at scales 0 and 1, otherwise 2.",
        ),
    ),
    Exercise(
        number="4.6",
        title="how few steps are enough",
        solution="""
answer = (5, 1, 3)  # scale 1; scale 2; scale 2, and the digits differ
""",
        mistakes={
            "you left guidance_scale out: then it is 1.25, while 1 means off": (3, 3, 3),
            "three steps without guidance come near, but the judge reads fewer than 90": (3, 1, 3),
            "with guidance 2 the judge is content much earlier": (5, 5, 5),
            "one guided step pleases the judge, but do the ten 3s differ? The last question asks for both": (5, 1, 1),
            "these are evaluations: the question is how many steps, whatever a step costs": (5, 2, 6),
        },
        hints=(
            "Draw with sample(...) as on the card for 1, 2, 3, 5 and 10 steps, and print both scores each time.",
            "Give guidance_scale=1.0 for the first question and 2.0 for the two others. Look at the pictures, too.",
            "The first two need class_agreement(images, labels) >= 0.9; the last also a share of variety >= 0.45.",
        ),
    ),
)
