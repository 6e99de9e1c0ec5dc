"""The reverse process: one loop over an explicit grid of times, several solvers, guidance in one closure.

A solver is a step rule `(denoise, schedule, x, t, s, past, generator) -> (x at s, x0_hat, calls of denoise)` for one
step from time t to the cleaner time s. `past` lists (time, x0_hat) of the steps before. At the two ends: alpha(1) = 0
and sigma(0) = 0, so no rule divides by alpha, and every rule ends at s = 0 with x0_hat itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .noising import NoiseSchedule
from .validate import check_int, check_labels, check_number, check_tensor

Denoise = Callable[[Tensor, float], Tensor]
Solver = Callable[..., tuple[Tensor, Tensor, int]]


def _levels(schedule: NoiseSchedule, *times: float) -> list[float]:
    """alpha and sigma of each time in turn, as numbers; `sample_loop` has checked the times."""
    t = torch.tensor(times, dtype=torch.float64)  # (K,)
    return torch.stack([schedule.alpha_fn(t), schedule.sigma_fn(t)], dim=1).flatten().tolist()


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gaussian noise like x, drawn on the CPU and then moved, so that every device gets the same."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def ddim(eta: float = 0.0) -> Solver:
    """DDIM (arXiv:2010.02502): keep the noise in x, at the level of s; `eta` replaces a part of it by fresh noise.

    eta from 0 (deterministic) to 1 (DDPM). At t = 1, alpha is 0 and x is all noise; at s = 0 the answer is x0_hat.
    """
    check_number(eta, "eta", 0.0, 1.0)

    def step(denoise, schedule, x, t, s, past, generator):
        alpha_t, sigma_t, alpha_s, sigma_s = _levels(schedule, t, s)
        x0 = denoise(x, t)  # (B, C, H, W)
        fresh = eta * sigma_s * math.sqrt(max(0.0, 1 - (sigma_s * alpha_t / (alpha_s * sigma_t)) ** 2))
        kept = math.sqrt(max(0.0, sigma_s**2 - fresh**2)) / sigma_t  # of eps_hat = (x - alpha_t x0) / sigma_t
        x = kept * x + (alpha_s - kept * alpha_t) * x0  # (B, C, H, W)
        return (x + fresh * _noise(x, generator) if fresh > 0 else x), x0, 1

    return step


def ddpm() -> Solver:
    """DDPM (arXiv:2006.11239): a draw from the Gaussian posterior of x_s given x_t and x0_hat. The same as ddim(1)."""
    return ddim(1.0)


def dpmpp_2m() -> Solver:
    """DPM-Solver++(2M) (arXiv:2211.01095): ddim(0) with x0_hat extrapolated from the step before; one call a step.

    In the half log-SNR lambda = log(alpha / sigma), the last two answers are continued along a line to the middle of
    the step. lambda is infinite at t = 1 and at t = 0, so the first two steps from pure noise and the last step are
    first order, which is ddim(0).
    """

    def step(denoise, schedule, x, t, s, past, generator):
        alpha_t, sigma_t, alpha_s, sigma_s = _levels(schedule, t, s)
        x0 = denoise(x, t)  # (B, C, H, W)
        guess = x0
        if past and sigma_s > 0:
            alpha_p, sigma_p = _levels(schedule, past[-1][0])
            if alpha_p > 0:
                levels = ((alpha_p, sigma_p), (alpha_t, sigma_t), (alpha_s, sigma_s))
                before, here, after = (math.log(alpha / sigma) for alpha, sigma in levels)
                guess = x0 + (x0 - past[-1][1]) * (after - here) / (2 * (here - before))  # (B, C, H, W)
        kept = sigma_s / sigma_t
        return kept * x + (alpha_s - kept * alpha_t) * guess, x0, 1

    return step


def heun() -> Solver:
    """Heun's method (arXiv:2206.00364, algorithm 1) on d(x / sigma) = x0_hat d(alpha / sigma): two calls a step.

    First ddim(0) to s, then the average of both ends' answers. alpha / sigma is 0 at t = 1 and infinite at s = 0, where
    the correction is left out.
    """

    def step(denoise, schedule, x, t, s, past, generator):
        alpha_t, sigma_t, alpha_s, sigma_s = _levels(schedule, t, s)
        x0 = denoise(x, t)  # (B, C, H, W)
        kept = sigma_s / sigma_t
        euler = kept * x + (alpha_s - kept * alpha_t) * x0  # (B, C, H, W)
        if sigma_s == 0:
            return euler, x0, 1
        corrected = (x0 + denoise(euler, s)) / 2  # (B, C, H, W)
        return kept * x + (alpha_s - kept * alpha_t) * corrected, x0, 2

    return step


SOLVERS: dict[str, Callable[[], Solver]] = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}
DEFAULT_SOLVER = "dpmpp_2m"
DEFAULT_GUIDANCE = 1.25


def _check_interval(value: object) -> tuple[float, float]:
    try:
        low, high = value
        if check_number(low, "low", 0.0, 1.0) <= check_number(high, "high", 0.0, 1.0):
            return low, high
    except (TypeError, ValueError):
        pass
    raise ValueError(f"guidance_interval must be two times from 0 to 1, the lower one first; got {value!r}")


class GuidedDenoiser:
    """Model, labels, guidance and clipping as one function denoise(x, t) -> x0_hat, which is all that a solver sees.

    x0 = x0_uncond + guidance_scale * (x0_cond - x0_uncond) (arXiv:2207.12598): 1 is the conditional network, 0 the
    unconditional one, one evaluation each; any other scale costs two, made as one batch. The scale holds at times t in
    `guidance_interval` (both ends included); at other times it is 1 (arXiv:2404.07724). `clip` keeps x0 in [-1, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        labels: Tensor | None,
        guidance_scale: float = DEFAULT_GUIDANCE,
        clip: bool = True,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.model, self.labels, self.clip = model, labels, clip
        scale = check_number(guidance_scale, "guidance_scale", 0.0, 100.0)
        self.scale = 0.0 if labels is None else scale  # without labels there is nothing to guide by
        self.low, self.high = _check_interval(guidance_interval)
        self.evaluations = 1 if self.scale in (0.0, 1.0) else 2  # network evaluations of a call inside the interval
        self.nfe = 0  # network evaluations of all calls so far

    def __call__(self, x: Tensor, t: float) -> Tensor:
        scale = self.scale if self.labels is None or self.low <= t <= self.high else 1.0
        if scale in (0.0, 1.0):
            x0 = self.model(x, t, self.labels if scale == 1 else None)  # (B, C, H, W)
            self.nfe += 1
        else:
            null = torch.full_like(self.labels, self.model.num_classes)  # (B,)
            both = self.model(torch.cat([x, x]), t, torch.cat([self.labels, null]))  # (2B, C, H, W)
            conditional, unconditional = both.chunk(2)  # (B, C, H, W) each
            x0 = unconditional + scale * (conditional - unconditional)  # (B, C, H, W)
            self.nfe += 2
        return x0.clamp(-1, 1) if self.clip else x0


@dataclass(frozen=True)
class State:
    """One point of a trajectory: x at time t, the guess it was made from (None at the start), evaluations so far."""

    t: float
    x: Tensor
    x0: Tensor | None
    nfe: int


@torch.no_grad()
def sample_loop(
    denoise: Denoise,
    x: Tensor,
    solver: Solver | None = None,
    schedule: NoiseSchedule | None = None,
    times: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Walks x (B, ...) along `times` (default `schedule.timesteps()`) and yields every state, first to last.

    `denoise(x, t) -> x0_hat` may be a `GuidedDenoiser` or any exact denoiser. `list(sample_loop(...))` is the whole
    process. Raises ValueError for times that do not fall or leave [0, 1].
    """
    schedule = (schedule or NoiseSchedule.cosine()).check()
    times = schedule.timesteps() if times is None else check_tensor(times, "times", ("K",))
    if len(times) < 2 or (times.diff() >= 0).any() or times[0] > 1 or times[-1] < 0:
        raise ValueError(f"times must be at least two, falling, within [0, 1]; got {times.tolist()}")
    check_tensor(x, "x", ("...", "B"))
    solver, past, nfe = solver or SOLVERS[DEFAULT_SOLVER](), [], 0
    if not callable(solver):
        raise ValueError(f"solver must be a step rule such as {DEFAULT_SOLVER}(); got {solver!r}")
    yield State(times[0].item(), x, None, 0)
    for t, s in pairwise(times.tolist()):
        before = getattr(denoise, "nfe", None)  # a denoiser that counts knows what its calls cost; else it is one each
        x, x0, calls = solver(denoise, schedule, x, t, s, past, generator)
        past.append((t, x0))
        nfe += calls if before is None else denoise.nfe - before
        yield State(s, x, x0, nfe)


def initial_noise(model: nn.Module, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Pure noise to start from, of the shape that `model` denoises: (count, C, H, W) on the model's device."""
    size, channels = model.embed.image_size, model.embed.channels
    x = next(model.parameters()).new_empty(check_int(count, "count"), channels, size, size)  # (count, C, H, W)
    return _noise(x, generator)


def sample(
    model: nn.Module,
    labels: Tensor | None,
    steps: int = 10,
    solver: Solver | None = None,
    guidance_scale: float = DEFAULT_GUIDANCE,
    generator: torch.Generator | None = None,
    count: int | None = None,
    clip: bool = True,
    batch_size: int = 100,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """From pure noise to images (B, C, H, W) in [-1, 1], one for each of the labels (B,), or `count` without labels.

    Default solver, guidance and 10 steps are the ones that every figure in the README uses. Works through batches, so
    that memory stays small. `guidance_interval` as in `GuidedDenoiser`. Raises ValueError for labels out of range,
    steps < 1, guidance_scale outside [0, 100], and a guidance_interval outside [0, 1] or with its ends swapped.
    """
    schedule = NoiseSchedule.cosine()
    if labels is not None:
        check_labels(labels, "labels", None, model.num_classes)
        if len(labels) == 0:
            raise ValueError("labels must hold at least one label; got none")
        if count not in (None, len(labels)):
            raise ValueError(f"count must be left out when labels are given ({len(labels)} of them); got {count}")
        labels = labels.to(next(model.parameters()).device)  # (B,)
    times = schedule.timesteps(steps)  # (steps + 1,)
    noise = initial_noise(model, count if labels is None else len(labels), generator)  # (B, C, H, W)
    images = []
    for i in range(0, len(noise), check_int(batch_size, "batch_size")):
        part = slice(i, i + batch_size)
        denoise = GuidedDenoiser(
            model, None if labels is None else labels[part], guidance_scale, clip, guidance_interval
        )
        *_, last = sample_loop(denoise, noise[part], solver, schedule, times, generator)
        images.append(last.x)  # (b, C, H, W)
    return torch.cat(images)  # (B, C, H, W)
