"""The reverse process against formulas written out here, in float64: posteriors, solvers, guidance, counts, noise."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.noising import GaussianMixture, NoiseSchedule
from tutorial_lib.sampling import (
    DEFAULT_SOLVER,
    SOLVERS,
    GuidedDenoiser,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    initial_noise,
    sample,
    sample_loop,
)

NAN, INF = float("nan"), float("inf")
DETERMINISTIC = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}
PAIRS = [(0.9, 0.7), (0.5, 0.1), (0.31, 0.3), (0.99, 0.02)]  # times t and s of one step


def alpha(t: float) -> float:
    return math.cos(math.pi * t / 2)


def sigma(t: float) -> float:
    return math.sin(math.pi * t / 2)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


def wavy(x: Tensor, t: float) -> Tensor:
    """Some denoiser, neither linear in x nor constant in t."""
    return 0.8 * torch.tanh(1.3 * x + t) - 0.1 * x


def walk(solver, denoise, x: Tensor, times: list[float], seed: int = 0) -> list:
    grid = torch.tensor(times, dtype=torch.float64)
    return list(sample_loop(denoise, x, solver, times=grid, generator=gen(seed)))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    assert (a - b).abs().max() <= tolerance


def refuses(call, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def falling(steps: int) -> list[float]:
    """The documented grid: 1, then sigma / alpha = (4 i / steps)^2 down to 0."""
    return [1.0] + [2 / math.pi * math.atan((4 * i / steps) ** 2) for i in range(steps - 1, -1, -1)]


@pytest.fixture
def model() -> EfficientTransformerDenoiser:
    """A tiny network with random weights everywhere, so that time and label matter and some pixels leave [-1, 1]."""
    network = EfficientTransformerDenoiser(8, 2, 1, dim=16, heads=2, layers=1, ff_dim=32, num_classes=4)
    generator = gen(1)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.3, generator=generator)
    return network.eval().requires_grad_(False)


# --------------------------------------------------------------------------------------------------- one step: DDPM


@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_ddpm_draws_from_the_posterior(t, s):
    x, x0, z = normal(3, 1, 4, 4, seed=1), normal(3, 1, 4, 4, seed=2), normal(3, 1, 4, 4, seed=3)
    abar_t, abar_s = alpha(t) ** 2, alpha(s) ** 2
    beta = 1 - abar_t / abar_s
    mean = math.sqrt(abar_s) * beta / (1 - abar_t) * x0 + math.sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t) * x
    variance = beta * (1 - abar_s) / (1 - abar_t)
    close(walk(ddpm(), lambda x, t: x0, x, [t, s], seed=3)[-1].x, mean + math.sqrt(variance) * z)


@pytest.mark.parametrize("s", [0.9, 0.5, 0.1])
def test_ddpm_from_pure_noise_forgets_it(s):
    """alpha_t = 0: beta = 1, so the posterior is N(alpha_s x0, sigma_s^2) whatever x was."""
    x0, z = normal(2, 3, seed=2), normal(2, 3, seed=3)
    one, two = (walk(ddpm(), lambda x, t: x0, normal(2, 3, seed=i), [1, s], seed=3)[-1].x for i in (4, 5))
    close(one, alpha(s) * x0 + sigma(s) * z)
    assert torch.equal(one, two)


def test_ddpm_noise_has_the_posterior_variance():
    t, s, n = 0.8, 0.6, 40_000
    variance = (1 - alpha(t) ** 2 / alpha(s) ** 2) * sigma(s) ** 2 / sigma(t) ** 2
    moved = walk(ddpm(), lambda x, t: 0 * x, torch.zeros(n, 1, dtype=torch.float64), [t, s])[-1].x
    assert abs(moved.mean()) < 4 * math.sqrt(variance / n)
    assert abs(moved.var() / variance - 1) < 4 * math.sqrt(2 / n)


# --------------------------------------------------------------------------------------------------- one step: DDIM


@pytest.mark.parametrize(("t", "s"), [*PAIRS, (1, 0.6), (0.4, 0)])
def test_ddim_keeps_the_noise(t, s):
    x, x0 = normal(3, 1, 4, 4, seed=1), normal(3, 1, 4, 4, seed=2)
    eps = (x - alpha(t) * x0) / sigma(t)
    close(walk(ddim(), lambda x, t: x0, x, [t, s])[-1].x, alpha(s) * x0 + sigma(s) * eps)


@pytest.mark.parametrize("eta", [0.25, 0.7, 1.0])
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_ddim_eta_replaces_a_part_of_the_noise(t, s, eta):
    """Equations 12 and 16 of arXiv:2010.02502."""
    x, x0, z = normal(3, 1, 4, 4, seed=1), normal(3, 1, 4, 4, seed=2), normal(3, 1, 4, 4, seed=3)
    abar_t, abar_s = alpha(t) ** 2, alpha(s) ** 2
    fresh = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)
    eps = (x - math.sqrt(abar_t) * x0) / math.sqrt(1 - abar_t)
    want = math.sqrt(abar_s) * x0 + math.sqrt(1 - abar_s - fresh**2) * eps + fresh * z
    close(walk(ddim(eta), lambda x, t: x0, x, [t, s], seed=3)[-1].x, want)


def test_ddim_1_is_ddpm():
    x, times = normal(4, 3, seed=1), torch.linspace(1, 0, 8, dtype=torch.float64).tolist()
    for one, two in zip(walk(ddim(1.0), wavy, x, times), walk(ddpm(), wavy, x, times), strict=True):
        assert torch.equal(one.x, two.x)


def test_ddim_0_draws_no_noise():
    generator = gen(5)
    list(sample_loop(wavy, normal(2, 3, seed=1), ddim(0), generator=generator))
    assert torch.equal(generator.get_state(), gen(5).get_state())


# --------------------------------------------------------------------------------------- dpmpp_2m, heun: references


def lam(t: float) -> float:
    return math.log(alpha(t) / sigma(t))


def dpmpp_2m_reference(denoise, x: Tensor, times: list[float]) -> list[Tensor]:
    """Algorithm 2 of arXiv:2211.01095 in lambda form; first order where a lambda that it needs is infinite."""
    states, before = [x], None
    for t, s in pairwise(times):
        x0 = denoise(x, t)
        if s == 0:  # lambda_s is infinite: exp(-h) = 0
            x = x0
        elif t == 1:  # lambda_t is infinite: sigma_s / sigma_t x - alpha_s (exp(-inf) - 1) x0
            x = sigma(s) * x + alpha(s) * x0
        else:
            h, d = lam(s) - lam(t), x0
            if before is not None and before[0] < 1:
                r = (lam(t) - lam(before[0])) / h
                d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before[1]
            x = sigma(s) / sigma(t) * x - alpha(s) * (math.exp(-h) - 1) * d
        before = (t, x0)
        states.append(x)
    return states


def heun_reference(denoise, x: Tensor, times: list[float]) -> list[Tensor]:
    """Heun's rule for dy = x0_hat du with y = x / sigma and u = alpha / sigma; at s = 0 the clean guess itself."""
    states = [x]
    for t, s in pairwise(times):
        first = denoise(x, t)
        if s == 0:
            x = first
        else:
            y, du = x / sigma(t), alpha(s) / sigma(s) - alpha(t) / sigma(t)
            second = denoise(sigma(s) * (y + du * first), s)
            x = sigma(s) * (y + du * (first + second) / 2)
        states.append(x)
    return states


GRIDS = {
    "whole": [1, 0.8, 0.6, 0.4, 0.2, 0],
    "inside": [0.95, 0.9, 0.6, 0.55, 0.3, 0.07],
    "from noise": [1, 0.7, 0.65, 0.2, 0.1],
    "to clean": [0.97, 0.5, 0.4, 0.1, 0],
    "one step": [1, 0],
}


@pytest.mark.parametrize("times", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    ("solver", "reference"), [(dpmpp_2m, dpmpp_2m_reference), (heun, heun_reference)], ids=["dpmpp_2m", "heun"]
)
def test_solver_equals_its_reference(solver, reference, times):
    x = normal(5, 3, seed=1)
    for state, want in zip(walk(solver(), wavy, x, times), reference(wavy, x, times), strict=True):
        close(state.x, want)


@pytest.mark.parametrize(
    ("times", "first_order"),
    [(GRIDS["whole"], {0, 1, 4}), (GRIDS["inside"], {0}), (GRIDS["from noise"], {0, 1}), (GRIDS["to clean"], {0, 3})],
)
def test_dpmpp_2m_is_first_order_only_where_documented(times, first_order):
    states = walk(dpmpp_2m(), wavy, normal(5, 3, seed=1), times)
    for i, (one, two) in enumerate(pairwise(states)):
        plain = walk(ddim(0), wavy, one.x, [one.t, two.t])[-1].x
        assert torch.allclose(plain, two.x, rtol=0, atol=1e-13) == (i in first_order), i


def test_dpmpp_2m_is_ddim_when_the_guess_is_constant():
    x, x0 = normal(5, 3, seed=1), normal(5, 3, seed=2)
    for times in GRIDS.values():
        close(walk(dpmpp_2m(), lambda x, t: x0, x, times)[-1].x, walk(ddim(0), lambda x, t: x0, x, times)[-1].x)


# ------------------------------------------------------------------------------------------------- the exact Gaussian

MEAN, STD = -0.7, 0.55


def gaussian(x: Tensor, t: float) -> Tensor:
    """E[x0 | x_t] for x0 from N(MEAN, STD^2)."""
    gain = alpha(t) * STD**2 / (alpha(t) ** 2 * STD**2 + sigma(t) ** 2)
    return MEAN + gain * (x - alpha(t) * MEAN)


def flow(x: Tensor, t: float, s: float) -> Tensor:
    """Where the probability-flow ODE of this Gaussian carries x from t to s: quantile to quantile."""
    spread = [math.sqrt(alpha(u) ** 2 * STD**2 + sigma(u) ** 2) for u in (t, s)]
    return alpha(s) * MEAN + spread[1] / spread[0] * (x - alpha(t) * MEAN)


@pytest.mark.parametrize(("name", "low", "high"), [("ddim", 0.9, 1.1), ("dpmpp_2m", 1.8, 2.2), ("heun", 1.8, 2.2)])
@pytest.mark.parametrize("exact", ["written out", "GaussianMixture"])
def test_solver_reaches_its_order(name, low, high, exact):
    mixture = GaussianMixture(torch.tensor([[MEAN]], dtype=torch.float64), STD)
    denoise = gaussian if exact == "written out" else mixture
    x = torch.tensor([[1.7], [-1.2], [0.3]], dtype=torch.float64)
    steps, errors = [20, 40, 80, 160], []
    for n in steps:
        times = torch.linspace(0.98, 0.02, n + 1, dtype=torch.float64).tolist()
        errors.append((walk(DETERMINISTIC[name](), denoise, x, times)[-1].x - flow(x, 0.98, 0.02)).abs().max().item())
    a, b = [math.log(n) for n in steps], [math.log(e) for e in errors]
    mean_a, mean_b = sum(a) / 4, sum(b) / 4
    slope = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True)) / sum((p - mean_a) ** 2 for p in a)
    assert low < -slope < high, (slope, errors)


@pytest.mark.parametrize(("steps", "n"), [(10, 20_000), (400, 2_000)])
def test_ddpm_reaches_the_moments_of_the_gaussian(steps, n):
    """With a linear denoiser each step is x -> a x + b + noise: the moments are known for any number of steps."""
    times = [1 - i / steps for i in range(steps)] + [0]
    mean, variance = 0.0, 1.0
    for t, s in pairwise(times):
        beta = 1 - alpha(t) ** 2 / alpha(s) ** 2
        gain = alpha(t) * STD**2 / (alpha(t) ** 2 * STD**2 + sigma(t) ** 2)
        of_x0, of_x = alpha(s) * beta / sigma(t) ** 2, math.sqrt(1 - beta) * sigma(s) ** 2 / sigma(t) ** 2
        mean = (of_x + of_x0 * gain) * mean + of_x0 * MEAN * (1 - gain * alpha(t))
        variance = (of_x + of_x0 * gain) ** 2 * variance + beta * sigma(s) ** 2 / sigma(t) ** 2
    x = walk(ddpm(), gaussian, normal(n, 1, seed=1), times, seed=2)[-1].x
    assert abs(x.mean() - mean) < 4 * math.sqrt(variance / n)
    assert abs(x.std() - math.sqrt(variance)) < 4 * math.sqrt(variance / (2 * n))
    if steps == 400:  # many steps: the Gaussian itself, within the sampling error (0.012 and 0.009)
        assert abs(x.mean() - MEAN) < 4 * STD / math.sqrt(n) and abs(x.std() - STD) < 4 * STD / math.sqrt(2 * n)


# ---------------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("name", SOLVERS)
def test_loop_yields_every_state_from_noise_to_clean(name):
    x, asked = normal(2, 1, 4, 4, seed=1), []

    def denoise(x, t):
        asked.append(t)
        return wavy(x, t)

    states = list(sample_loop(denoise, x, SOLVERS[name](), generator=gen(0)))
    assert len(states) == 11  # the default: 10 steps
    assert [state.t for state in states] == pytest.approx(falling(10), abs=1e-12)
    assert torch.equal(states[0].x, x) and states[0].x0 is None and states[0].nfe == 0
    assert states[-1].t == 0 and torch.equal(states[-1].x, states[-1].x0)
    assert torch.equal(states[1].x0, wavy(x, 1.0))
    assert all(torch.isfinite(state.x).all() and state.x.dtype == torch.float64 for state in states)
    assert asked[0] == 1 and min(asked) > 0  # nothing is asked at the clean end


@pytest.mark.parametrize("name", SOLVERS)
def test_where_alpha_or_sigma_is_zero(name):
    x, z = normal(3, 4, seed=1), normal(3, 4, seed=3)
    straight = walk(SOLVERS[name](), wavy, x, [1, 0], seed=3)  # both at once
    assert torch.equal(straight[-1].x, wavy(x, 1.0))
    assert torch.equal(walk(SOLVERS[name](), wavy, x, [0.3, 0], seed=3)[-1].x, wavy(x, 0.3))
    noisy = alpha(0.6) * wavy(x, 1.0) + sigma(0.6) * (z if name == "ddpm" else x)  # at t = 1, x is the noise itself
    if name == "heun":
        noisy = alpha(0.6) * (wavy(x, 1.0) + wavy(noisy, 0.6)) / 2 + sigma(0.6) * x
    close(walk(SOLVERS[name](), wavy, x, [1, 0.6], seed=3)[-1].x, noisy)


def test_loop_default_solver():
    x = normal(2, 3, seed=1)
    one, two = list(sample_loop(wavy, x, generator=gen(0))), walk(SOLVERS[DEFAULT_SOLVER](), wavy, x, [1, 0])
    times = [state.t for state in one]
    assert torch.equal(one[-1].x, walk(SOLVERS[DEFAULT_SOLVER](), wavy, x, times)[-1].x)
    assert not torch.equal(one[-1].x, two[-1].x)


def test_loop_records_no_gradient_and_leaves_the_mode_alone(model):
    model.requires_grad_(True)
    x = initial_noise(model, 2, gen(0))
    for state in sample_loop(GuidedDenoiser(model, None), x, ddim()):
        assert not state.x.requires_grad
        assert torch.is_grad_enabled()
    assert not sample(model, None, steps=1, count=1, generator=gen(0)).requires_grad


# ---------------------------------------------------------------------------------------------------------- guidance


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, None])
def test_evaluations_are_counted(model, name, scale):
    """`scale` None: without labels. A guided call is one batch of twice the size, and counts as two."""
    sizes, steps, labels = [], 4, None if scale is None else torch.tensor([0, 1, 3])
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    denoise = GuidedDenoiser(model, labels, 2.0 if scale is None else scale)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    states = list(sample_loop(denoise, initial_noise(model, 3, gen(0)), SOLVERS[name](), times=grid, generator=gen(1)))
    calls = 2 * steps - 1 if name == "heun" else steps
    twice = 2 if scale in (0.5, 2.0) else 1
    assert len(sizes) == calls and set(sizes) == {3 * twice}
    assert states[-1].nfe == calls * twice == sum(sizes) / 3
    per_step = twice * (2 if name == "heun" else 1)
    assert [state.nfe for state in states[:-1]] == [per_step * i for i in range(steps)]


@pytest.mark.parametrize(("name", "want"), [("ddim", 10), ("heun", 19)])
def test_guidance_in_an_interval(model, name, want):
    """Inside it the guided network, outside the conditional one; both ends belong to it."""
    model.double()
    labels, x = torch.tensor([0, 3, 2]), normal(3, 1, 8, 8, seed=1)
    denoise = GuidedDenoiser(model, labels, 3.0, False, (0.25, 0.5))
    guided, plain = GuidedDenoiser(model, labels, 3.0, False), GuidedDenoiser(model, labels, 1.0, False)
    for t, same in ((0.0, plain), (0.249, plain), (0.25, guided), (0.3, guided), (0.5, guided), (0.501, plain)):
        assert torch.equal(denoise(x, t), same(x, t)), t
    assert not torch.equal(guided(x, 0.3), plain(x, 0.3))
    times = torch.linspace(1, 0, 9, dtype=torch.float64)  # 0.5, 0.375 and 0.25 lie inside
    for _ in range(2):  # what it has counted before is not counted again
        *_, last = sample_loop(denoise, x, SOLVERS[name](), times=times[1:], generator=gen(0))
        assert last.nfe == want  # Heun asks at both ends of a step, but the last
    loop = sample_loop(denoise, x, SOLVERS[name](), times=times[1:], generator=gen(0))
    assert [denoise(state.x, 0.3).shape and state.nfe for state in loop][-1] == want  # nor what others ask on the way


def test_guidance_interval_of_sample(model):
    labels = torch.tensor([0, 3, 2])
    interval = (0.4, 0.9)  # of the times 1, 0.93, 0.84 and 0.5 that are asked
    half = sample(model, labels, 4, guidance_scale=5.0, generator=gen(0), guidance_interval=interval)
    denoise = GuidedDenoiser(model, labels, 5.0, guidance_interval=interval)
    *_, last = sample_loop(denoise, initial_noise(model, 3, gen(0)), times=NoiseSchedule.cosine().timesteps(4))
    assert torch.equal(half, last.x) and last.nfe == 6
    whole, none = (sample(model, labels, 4, guidance_scale=scale, generator=gen(0)) for scale in (5.0, 1.0))
    assert not torch.equal(half, whole) and not torch.equal(half, none)
    outside = sample(model, labels, 4, guidance_scale=5.0, generator=gen(0), guidance_interval=(0.0, 0.4))
    assert torch.equal(outside, none)
    assert torch.equal(sample(model, None, 4, count=3, generator=gen(0), guidance_interval=(0.0, 0.4)),
                       sample(model, None, 4, count=3, generator=gen(0)))  # fmt: skip


def test_guidance_1_is_the_conditional_network(model):
    labels, x = torch.tensor([0, 3, 2]), initial_noise(model, 3, gen(0))
    got = sample(model, labels, 5, ddim(), guidance_scale=1, generator=gen(0))
    want = list(
        sample_loop(
            lambda x, t: model(x, t, labels).clamp(-1, 1),
            x,
            ddim(),
            times=torch.tensor(falling(5), dtype=torch.float64),
        )
    )[-1].x
    assert torch.equal(got, want)
    assert torch.equal(GuidedDenoiser(model, labels, 1.0, clip=False)(x, 0.7), model(x, 0.7, labels))


def test_guidance_0_is_the_unconditional_network(model):
    labels, null, x = torch.tensor([0, 3, 2]), torch.tensor([4, 4, 4]), initial_noise(model, 3, gen(0))
    assert torch.equal(GuidedDenoiser(model, labels, 0.0, clip=False)(x, 0.7), model(x, 0.7, null))
    one = sample(model, labels, 5, guidance_scale=0, generator=gen(0))
    assert torch.equal(one, sample(model, None, 5, count=3, generator=gen(0)))
    assert not torch.equal(one, sample(model, labels, 5, guidance_scale=1, generator=gen(0)))


@pytest.mark.parametrize("scale", [0.3, 1.1, 2.5, 7.0])
def test_guidance_formula(model, scale):
    model.double()
    labels, null, x = torch.tensor([0, 3, 2]), torch.tensor([4, 4, 4]), normal(3, 1, 8, 8, seed=1)
    conditional, unconditional = model(x, 0.6, labels), model(x, 0.6, null)
    want = unconditional + scale * (conditional - unconditional)
    close(GuidedDenoiser(model, labels, scale, clip=False)(x, 0.6), want)
    close(GuidedDenoiser(model, labels, scale, clip=True)(x, 0.6), want.clamp(-1, 1))
    assert want.abs().max() > 1  # or clipping was not seen


def test_clip_keeps_images_in_range(model):
    labels = torch.tensor([0, 3, 2])
    for scale in (0.0, 1.0, 3.0):
        clipped, free = (sample(model, labels, 3, ddim(), scale, gen(0), clip=clip) for clip in (True, False))
        assert clipped.abs().max() == 1 and free.abs().max() > 1


# ------------------------------------------------------------------------------------------------------------ sample


def test_sample_shapes_and_times(model):
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(float(inputs[1])))
    images = sample(model, torch.tensor([0, 3, 2]), 4, ddim(), 1.0, gen(0))
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.float32
    assert seen == pytest.approx(falling(4)[:-1])
    assert sample(model, None, 2, count=5, generator=gen(0)).shape == (5, 1, 8, 8)


def test_sample_default_is_10_steps(model):
    labels = torch.tensor([0, 3])
    assert torch.equal(sample(model, labels, generator=gen(0)), sample(model, labels, 10, generator=gen(0)))


def test_each_label_steers_its_own_image(model):
    one = sample(model, torch.tensor([3, 1, 0]), 3, guidance_scale=2.0, generator=gen(0))
    two = sample(model, torch.tensor([3, 2, 0]), 3, guidance_scale=2.0, generator=gen(0))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [True, False, True]


@pytest.mark.parametrize("name", SOLVERS)
def test_same_generator_same_images(model, name):
    labels = torch.tensor([0, 3])
    one, two, other = (sample(model, labels, 3, SOLVERS[name](), 2.0, gen(seed)) for seed in (7, 7, 8))
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("labels", [torch.tensor([0, 3, 2, 1, 0]), None], ids=["guided", "unconditional"])
def test_batch_size_does_not_change_images(model, name, labels):
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    count = 5 if labels is None else None
    one, two = (
        sample(model, labels, 3, DETERMINISTIC[name](), 2.0, gen(0), count, batch_size=batch_size)
        for batch_size in (500, 2)
    )
    close(one, two, 1e-5)
    twice = 1 if labels is None else 2
    assert set(sizes) == {5 * twice, 2 * twice, twice}  # all; then two, two and one


# ------------------------------------------------------------------------------------------------------------- noise


def test_first_noise_is_the_callers(model):
    assert torch.equal(initial_noise(model, 3, gen(4)), torch.randn(3, 1, 8, 8, generator=gen(4)))
    x = []
    model.register_forward_hook(lambda module, inputs, output: x.append(inputs[0]))
    sample(model, torch.tensor([1, 2]), 1, ddim(), 1.0, gen(4))
    assert torch.equal(x[0], torch.randn(2, 1, 8, 8, generator=gen(4)))


def test_noise_is_drawn_on_the_cpu_and_moved(model):
    generator, twin = gen(4), gen(4)
    on_meta = initial_noise(model.to("meta"), 3, generator)
    torch.randn(3, 1, 8, 8, generator=twin)
    assert on_meta.device.type == "meta" and on_meta.shape == (3, 1, 8, 8)
    assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.parametrize("name", SOLVERS)
def test_every_draw_comes_from_the_generator(model, name, monkeypatch):
    draws, randn, generator, state = [], torch.randn, gen(4), torch.get_rng_state()

    def watched(*size, **options):
        draws.append(options)
        return randn(*size, **options)

    monkeypatch.setattr(torch, "randn", watched)
    sample(model, torch.tensor([0, 3]), 5, SOLVERS[name](), 1.0, generator)
    assert len(draws) == (5 if name == "ddpm" else 1)  # the start, and each step but the last
    assert all(options["generator"] is generator for options in draws)
    assert all(options.get("device") in (None, "cpu", torch.device("cpu")) for options in draws)
    assert torch.equal(torch.get_rng_state(), state)  # nothing from the global generator


def test_without_a_generator_the_global_seed_counts(model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        one = sample(model, torch.tensor([0, 3]), 2, ddpm(), 1.0)
    assert torch.equal(one, sample(model, torch.tensor([0, 3]), 2, ddpm(), 1.0, gen(11)))


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, NAN, "3", None])
def test_refuses_steps(model, steps):
    refuses(lambda: sample(model, torch.tensor([1]), steps), "steps", "whole number of at least 1", repr(steps))


SCALES = [NAN, -0.5, 100.5, INF, -INF, True, "2", None]
INTERVALS = [(0.5, 0.4), (-0.1, 1), (0, 1.1), (NAN, 1), (0, NAN), (1,), (0, 0.5, 1), 0.5, "ab", None]


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        *(("guidance_scale", "from 0 to 100", scale) for scale in SCALES),
        *(("guidance_interval", "two times from 0 to 1", interval) for interval in INTERVALS),
    ],
)
def test_refuses_guidance(model, name, words, value):
    for call in (sample, GuidedDenoiser):
        refuses(lambda call=call: call(model, torch.tensor([1]), **{name: value}), name, words, repr(value))


@pytest.mark.parametrize("scale", [NAN, -0.5])
def test_refuses_guidance_scale_without_labels_too(model, scale):
    refuses(lambda: sample(model, None, 1, count=1, guidance_scale=scale), "guidance_scale", "from 0", repr(scale))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 4]), ("from 0 to 3", "from 0 to 4")),  # the null class is not a label to ask for
        (torch.tensor([-1, 2]), ("from 0 to 3", "from -1 to 2")),
        (torch.tensor([1.0]), ("int64", "float32")),
        (torch.tensor([1], dtype=torch.int32), ("int64", "int32")),
        (torch.tensor([[1]]), ("int64", "(1, 1)")),
        (torch.tensor(1), ("int64", "()")),
        ([0, 1], ("int64", "list")),
        (7, ("int64", "int")),
    ],
)
def test_refuses_labels(model, labels, words):
    refuses(lambda: sample(model, labels, 1), "labels", *words)


@pytest.mark.parametrize("count", [None, 0, -2, 2.0, True, NAN, "3"])
def test_refuses_count(model, count):
    refuses(lambda: sample(model, None, 1, count=count), "count", "whole number of at least 1", repr(count))
    refuses(lambda: initial_noise(model, count), "count", "whole number of at least 1", repr(count))


def test_refuses_count_that_contradicts_labels(model):
    refuses(lambda: sample(model, torch.tensor([1, 2]), 1, count=3), "count", "left out", "2", "3")
    assert len(sample(model, torch.tensor([1, 2]), 1, count=2)) == 2


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_refuses_batch_size(model, size):
    refuses(lambda: sample(model, torch.tensor([1]), 1, batch_size=size), "batch_size", "at least 1", repr(size))


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
def test_refuses_a_solver_that_is_a_name(model, solver):
    refuses(lambda: sample(model, torch.tensor([1]), 1, solver=solver), "solver", solver)


@pytest.mark.parametrize("eta", [-0.1, 1.5, NAN, INF, True, "1", None])
def test_refuses_eta(eta):
    refuses(lambda: ddim(eta), "eta", "from 0 to 1", repr(eta))


@pytest.mark.parametrize(
    "times", [[1, 1, 0], [0, 1], [1, 0.4, 0.5], [1], [], [1.1, 0], [1, -0.1]], ids=lambda times: str(times)
)
def test_refuses_times_that_do_not_fall_in_0_to_1(times):
    got = torch.tensor(times, dtype=torch.float64)
    refuses(
        lambda: next(sample_loop(wavy, normal(2, 3, seed=1), times=got)),
        "times",
        "at least two, falling, within [0, 1]",
        str(got.tolist()),
    )


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (torch.tensor([1.0, NAN, 0.0]), ("finite", "NaN")),
        (torch.tensor([1, 0]), ("floating-point", "int64")),
        ([1.0, 0.0], ("floating-point", "list")),
        (torch.tensor([[1.0, 0.0]]), ("(K,)", "(1, 2)")),
    ],
)
def test_refuses_times_of_another_kind(times, words):
    refuses(lambda: next(sample_loop(wavy, normal(2, 3, seed=1), times=times)), "times", *words)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.full((2, 3), NAN), ("finite", "NaN")),
        (torch.full((2, 3), INF), ("finite", "infinity")),
        (torch.zeros(2, 3, dtype=torch.int64), ("floating-point", "int64")),
        (None, ("floating-point", "NoneType")),
    ],
)
def test_refuses_a_bad_start(x, words):
    refuses(lambda: next(sample_loop(wavy, x)), "x must", *words)


@pytest.mark.parametrize("rescaled", [True, False])
def test_refuses_a_schedule_that_fails(rescaled):
    schedule = NoiseSchedule.linear_beta(10, rescaled)
    refuses(lambda: next(sample_loop(wavy, normal(2, 3, seed=1), schedule=schedule)), "schedule", "linear beta")


def test_sample_needs_a_label(model):
    refuses(lambda: sample(model, torch.zeros(0, dtype=torch.int64)), "labels", "at least one")


def test_a_float64_network_gets_float64_noise():
    double = EfficientTransformerDenoiser(8, 2, 1, dim=16, heads=2, layers=1, ff_dim=32, num_classes=4).double()
    assert sample(double, torch.tensor([1]), steps=2).dtype == torch.float64
