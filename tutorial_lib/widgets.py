"""The slider labs of the notebooks. Each is one pure function from the controls' values to a picture and a text."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .data import CLASS_NAMES
from .judge import load_judge
from .lab import Frame, Lab, choice, slider
from .noising import IdealDenoiser, NoiseSchedule
from .plots import attention_figure, lab_figure, noising_figure
from .sampling import DEFAULT_GUIDANCE, GuidedDenoiser, State, ddim, dpmpp_2m, heun, initial_noise, sample_loop


@torch.no_grad()
def _read(image: Tensor, judge: str = "mnist") -> tuple[int, float]:
    """The class that the judge sees in an image (1, H, W), and how sure it is, 0 to 1."""
    sure, digit = load_judge(judge)(image[None].clamp(-1, 1).cpu()).softmax(1)[0].max(0)
    return int(digit), float(sure)


def _snr(t: float) -> str:
    if t in (0, 1):
        return "no noise" if t == 0 else "only noise"
    return f"signal-to-noise ratio {10 * math.log10(NoiseSchedule.cosine().snr(t)):.0f} dB"


def attention_lab(networks: dict[str, nn.Module], x_t: Tensor, t: float, labels: Tensor) -> Lab:
    """Where does a patch look? networks {name: denoiser} read x_t (1, 1, H, W) at time t with labels (1,)."""
    records = {name: model.attention_records(x_t, t, labels) for name, model in networks.items()}

    def render(query_patch: int, head: int, layer: int, attention: str) -> Frame:
        weights = records[attention][layer - 1].matrix[0, head - 1, query_patch]  # (N,)
        entropy = -(weights * weights.clamp_min(1e-12).log2()).sum().item()
        text = f"entropy {entropy:.1f} of {math.log2(len(weights)):.1f} bits, largest weight {weights.max():.2f}"
        alt = f"Attention map of patch {query_patch} over the digit: {attention}, layer {layer}, head {head}."
        return Frame(attention_figure(x_t[0], weights, query_patch), alt, text)

    layers, (_, heads, n, _) = len(next(iter(records.values()))), next(iter(records.values()))[0].matrix.shape
    return Lab(
        render,
        query_patch=slider("Query patch", n // 2 + math.isqrt(n) // 2, 0, n - 1),
        head=slider("Head", 1, 1, heads),
        layer=slider("Layer", 1, 1, layers),
        attention=choice("Attention", list(networks)),
    )


def noising_lab(images: Tensor, labels: Tensor) -> Lab:
    """What is left of a digit at each t? images (M, 1, H, W) are also all that the ideal denoiser knows."""
    schedule, ideal = NoiseSchedule.cosine(), IdealDenoiser(images)

    def render(noise_level: float, digit: int, seed: int) -> Frame:
        x0 = images[labels == digit][:1]  # (1, 1, H, W)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))  # (1, 1, H, W)
        x_t = schedule.add_noise(x0, noise_level, eps)  # (1, 1, H, W)
        text = f"{_snr(noise_level)}; the judge reads it as {_read(x_t[0])[0]}"
        alt = f"A {digit} at noise level {noise_level:g}, a histogram of its pixels, and the ideal denoiser's answer."
        return Frame(noising_figure(x_t[0], ideal(x_t, noise_level)[0]), alt, text)

    return Lab(
        render,
        noise_level=slider("Noise level t", 0.5, 0.0, 1.0, 0.05),
        digit=slider("Digit", 3, 0, 9),
        seed=slider("Seed", 0, 0, 20),
    )


def sampling_lab(model: nn.Module) -> Lab:
    """A fresh digit at every move."""
    solvers = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}

    def render(digit: int, seed: int, steps: int, guidance: float, eta: float, solver: str) -> Frame:
        generator, start = torch.Generator().manual_seed(seed), time.perf_counter()
        denoise = GuidedDenoiser(model, torch.tensor([digit]), guidance)
        rule = ddim(eta) if solver == "ddim" else solvers[solver]()
        times = NoiseSchedule.cosine().timesteps(steps)  # (steps + 1,)
        *_, last = sample_loop(denoise, initial_noise(model, 1, generator), rule, times=times, generator=generator)
        timing = f", {1000 * (time.perf_counter() - start):.0f} ms"
        seen, sure = _read(last.x[0])
        note = "" if solver == "ddim" else " (Eta is for ddim alone)"
        text = f"{last.nfe} network evaluations{note}; asked for {digit}, read as {seen} by the judge ({sure:.0%} sure)"
        alt = f"A {digit} drawn by {solver}: {steps} step{'s' * (steps > 1)}, guidance {guidance:g}, seed {seed}."
        return Frame(lab_figure([last.x[0]], [f"{digit}, steps: {steps}"])[0], alt, text, timing)

    return Lab(
        render,
        digit=slider("Digit", 3, 0, 9),
        seed=slider("Seed", 0, 0, 50),
        steps=slider("Steps", 10, 1, 50),
        guidance=slider("Guidance", DEFAULT_GUIDANCE, 0.0, 6.0, 0.25),
        eta=slider("Eta", 0.0, 0.0, 1.0, 0.1),
        solver=choice("Solver", list(solvers)),
    )


def pictures_lab(networks: dict[str, nn.Module]) -> Lab:
    """A fresh picture of 28 pixels at every move. networks: by the name of the judge that reads what they draw."""

    def render(data: str, label: int, seed: int, guidance: float, steps: int) -> Frame:
        names, generator = CLASS_NAMES[data.removesuffix("_28")], torch.Generator().manual_seed(seed)
        noise, times = initial_noise(networks[data], 1, generator), NoiseSchedule.cosine().timesteps(steps)
        *_, last = sample_loop(GuidedDenoiser(networks[data], torch.tensor([label]), guidance), noise, times=times)
        seen = names[_read(last.x[0], data)[0]]
        cost = f"{last.nfe} network evaluation{'s' * (last.nfe > 1)}"
        text = f"{cost}; asked for {names[label]}, read as {seen} by the judge"
        alt = f"{data}: {names[label]}, drawn in {steps} step{'s' * (steps > 1)}, guidance {guidance:g}, seed {seed}."
        return Frame(lab_figure([last.x[0]], [names[label]])[0], alt, text)

    return Lab(
        render,
        data=choice("Data", list(networks)),
        label=slider("Class", 3, 0, 9),
        seed=slider("Seed", 0, 0, 50),
        guidance=slider("Guidance", 1.0, 0.0, 6.0, 0.25),
        steps=slider("Steps", 10, 1, 20),
    )


def trajectory_lab(states: Sequence[State]) -> Lab:
    """One trajectory, step by step: what the sampler holds and what the network makes of it. States of one image."""

    def render(step: int) -> Frame:
        state = states[step]
        guess = torch.zeros_like(state.x) if state.x0 is None else state.x0  # (B, 1, H, W)
        seen = "no guess yet" if state.x0 is None else f"the judge reads the guess as {_read(guess[0])[0]}"
        text = f"t = {state.t:.2f}, {_snr(state.t)}, {state.nfe} network evaluations; {seen}"
        alt = f"After step {step}: the noisy picture on the left, the network's guess that led to it on the right."
        figure, _ = lab_figure([state.x[0], guess[0]], [f"x at t = {state.t:.2f}", "the network's guess"])
        return Frame(figure, alt, text)

    return Lab(render, step=slider("Step", len(states) // 2, 0, len(states) - 1))


def morph_lab(model: nn.Module) -> Lab:
    """From one digit to another with the same noise: at every step the two guesses of the clean image are mixed."""

    def render(morph: float, digit: int, other: int, seed: int) -> Frame:
        guided = GuidedDenoiser(model, torch.tensor([digit, other]))

        def denoise(x: Tensor, t: float) -> Tensor:
            one, two = guided(torch.cat([x, x]), t).chunk(2)  # (1, 1, H, W) each
            return torch.lerp(one, two, morph)  # (1, 1, H, W)

        noise = initial_noise(model, 1, torch.Generator().manual_seed(seed))  # (1, 1, H, W)
        *_, last = sample_loop(denoise, noise)
        text = f"{1 - morph:.0%} {digit} and {morph:.0%} {other}: read as {_read(last.x[0])[0]}"
        alt = f"A picture {morph:.0%} of the way from {digit} to {other}, seed {seed}."
        return Frame(lab_figure([last.x[0]], [f"{morph:.0%} of the way to {other}"])[0], alt, text)

    return Lab(
        render,
        morph=slider("Morph", 0.5, 0.0, 1.0, 0.1),
        digit=slider("From digit", 1, 0, 9),
        other=slider("To digit", 7, 0, 9),
        seed=slider("Seed", 0, 0, 50),
    )
