"""The forward process and the exact denoisers, against formulas in plain Python and against numerical integration."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from tutorial_lib.noising import GaussianMixture, IdealDenoiser, NoiseSchedule

COSINE = NoiseSchedule.cosine()
TIMES = (0.0, 0.02, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 0.98, 1.0)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def float64(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def alpha_sigma(t: float) -> tuple[float, float]:
    return math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)


# The schedule


@pytest.mark.parametrize("t", TIMES)
def test_cosine_is_cosine_and_sine(t):
    alpha, sigma = alpha_sigma(t)
    for time in (t, float64(t)[0]):
        assert COSINE.alpha(time).item() == pytest.approx(alpha, abs=1e-15)
        assert COSINE.sigma(time).item() == pytest.approx(sigma, abs=1e-15)


def test_variance_is_kept():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (COSINE.alpha(t) ** 2 + COSINE.sigma(t) ** 2 - 1).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_exact(dtype):
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    assert COSINE.alpha(zero) == 1
    assert COSINE.sigma(zero) == 0
    assert COSINE.alpha(one) == 0
    assert COSINE.sigma(one) == 1
    assert (COSINE.alpha(0), COSINE.sigma(0), COSINE.alpha(1), COSINE.sigma(1)) == (1, 0, 0, 1)


def test_image_fades_as_noise_grows():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (COSINE.alpha(t).diff() < 0).all()
    assert (COSINE.sigma(t).diff() > 0).all()
    assert (COSINE.snr(t).diff() < 0).all()


@pytest.mark.parametrize("t", TIMES[1:-1])
def test_snr_is_the_ratio_of_the_variances(t):
    alpha, sigma = alpha_sigma(t)
    assert COSINE.snr(t).item() == pytest.approx(alpha * alpha / (sigma * sigma), rel=1e-12)


def test_snr_goes_from_infinity_to_zero():
    assert COSINE.snr(0) == math.inf
    assert COSINE.snr(0.5).item() == pytest.approx(1, abs=1e-15)
    assert COSINE.snr(1) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_schedule_keeps_shape_and_dtype(dtype):
    t = torch.linspace(0.1, 1, 6, dtype=dtype).reshape(2, 3)
    for value in (COSINE.alpha(t), COSINE.sigma(t), COSINE.snr(t)):
        assert value.dtype == dtype
        assert value.shape == (2, 3)


def test_a_plain_number_gives_float64():
    for t in (0.3, 0, 1):
        assert COSINE.alpha(t).dtype == COSINE.sigma(t).dtype == torch.float64
        assert COSINE.alpha(t).shape == ()


def test_schedule_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        COSINE.name = "other"


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 250])
def test_timesteps_fall_from_one_to_zero_as_documented(steps):
    grid = COSINE.timesteps(steps)
    assert grid.dtype == torch.float64
    assert grid.shape == (steps + 1,)
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
    ratios = [math.sqrt(math.tan(math.pi / 2 * t)) for t in grid[1:].tolist()]  # even steps in sqrt(sigma / alpha)
    assert ratios == pytest.approx([4 * (1 - i / steps) for i in range(1, steps + 1)], abs=1e-7)


def test_ten_steps_are_the_default():
    assert len(COSINE.timesteps()) == 11


# Adding noise


def test_add_noise_equals_loops_with_a_time_for_each_sample():
    x0, eps, times = random(3, 2, 4, 5), random(3, 2, 4, 5, seed=1), (0.0, 0.37, 1.0)
    got = COSINE.add_noise(x0, float64(*times), eps)
    for b, t in enumerate(times):
        alpha, sigma = alpha_sigma(t)
        for c in range(2):
            for y in range(4):
                for x in range(5):
                    want = alpha * x0[b, c, y, x].item() + sigma * eps[b, c, y, x].item()
                    assert got[b, c, y, x].item() == pytest.approx(want, abs=1e-14)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 2, 2)])
def test_add_noise_takes_any_number_of_dimensions_and_one_time(shape):
    x0, eps = random(*shape), random(*shape, seed=1)
    alpha, sigma = alpha_sigma(0.3)
    for t in (0.3, float64(0.3)[0], torch.full((4,), 0.3, dtype=torch.float64)):
        assert (COSINE.add_noise(x0, t, eps) - (alpha * x0 + sigma * eps)).abs().max() < 1e-15


def test_add_noise_at_the_ends_is_image_or_noise_bit_for_bit():
    x0, eps = random(4, 3), random(4, 3, seed=1)
    assert torch.equal(COSINE.add_noise(x0, 0, eps), x0)
    assert torch.equal(COSINE.add_noise(x0, 1, eps), eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.3, torch.full((4,), 0.3), torch.full((4,), 0.3, dtype=torch.float64)])
def test_add_noise_keeps_the_dtype_of_the_image(dtype, t):
    x0, eps = random(4, 3, dtype=dtype), random(4, 3, seed=1, dtype=dtype)
    got = COSINE.add_noise(x0, t, eps)
    alpha, sigma = alpha_sigma(0.3)
    assert got.dtype == dtype
    assert (got - (alpha * x0 + sigma * eps)).abs().max() < 1e-6


def test_noisy_images_keep_unit_variance():
    x0, eps = torch.linalg.qr(random(50, 2)).Q.T.contiguous()  # two directions of length 1 at a right angle
    for t in TIMES:
        noisy = COSINE.add_noise(x0[None], t, eps[None])
        assert noisy.square().sum().item() == pytest.approx(1, abs=1e-12)


# The schedules that fail


@pytest.mark.parametrize("steps, rescaled", [(10, False), (10, True), (50, True), (1000, True), (1, False)])
def test_linear_beta_equals_a_running_product(steps, rescaled):
    schedule = NoiseSchedule.linear_beta(steps, rescaled)
    scale, alpha_bar = 1000 / steps if rescaled else 1, 1.0
    for k in range(steps + 1):
        if k:
            beta = 1e-4 + (0.02 - 1e-4) * (k - 1) / max(steps - 1, 1)
            alpha_bar *= 1 - beta * scale
        alpha, sigma = schedule.alpha(k / steps).item(), schedule.sigma(k / steps).item()
        if alpha_bar < 0:
            assert math.isnan(alpha)
        else:
            assert alpha == pytest.approx(math.sqrt(alpha_bar), abs=1e-12)
        assert sigma == pytest.approx(math.sqrt(1 - alpha_bar), abs=1e-8 if k == 0 else 1e-12)


def test_linear_beta_rounds_to_the_nearest_step():
    schedule = NoiseSchedule.linear_beta(10, rescaled=False)
    for t, k in ((0.04, 0), (0.06, 1), (0.33, 3), (0.37, 4), (0.96, 10)):
        assert schedule.alpha(t) == schedule.alpha(k / 10)
    assert schedule.alpha(torch.tensor([0.1, 0.5])).dtype == torch.float32


def test_ten_rescaled_linear_steps_give_nan():
    schedule = NoiseSchedule.linear_beta(10)  # both are the defaults of the failure to be shown
    assert schedule.name == NoiseSchedule.linear_beta(10, rescaled=True).name == NoiseSchedule.linear_beta().name
    assert math.isnan(schedule.alpha(1.0))
    with pytest.raises(
        ValueError, match=r"^schedule must be finite on .*; got NaN in 'linear beta, 10 steps, rescaled'"
    ):
        schedule.check()


def test_ten_plain_linear_steps_never_reach_noise():
    schedule = NoiseSchedule.linear_beta(10, rescaled=False)
    assert (schedule.alpha(1.0) ** 2).item() == pytest.approx(0.904, abs=5e-4)
    with pytest.raises(ValueError, match=r"end in noise .* < 0.001.*; got alpha_bar\(1\) = 0.9 in 'linear beta"):
        schedule.check()


def test_check_returns_a_schedule_that_goes_from_clean_to_noise():
    assert COSINE.check() is COSINE
    ddpm = NoiseSchedule.linear_beta(1000)
    assert ddpm.check() is ddpm
    assert (ddpm.alpha(1.0) ** 2).item() == pytest.approx(4.04e-5, rel=1e-2)


@pytest.mark.parametrize("end, refused", [(0.0009, False), (0.0011, True)])
def test_check_wants_alpha_bar_below_a_thousandth(end, refused):
    schedule = NoiseSchedule("line", lambda t: (1 - (1 - end) * t).sqrt(), lambda t: ((1 - end) * t).sqrt())
    if refused:
        with pytest.raises(ValueError, match=r"= 0\.0011 in 'line'"):
            schedule.check()
    else:
        assert schedule.check() is schedule


def test_check_refuses_a_start_that_is_not_clean_and_nan_in_sigma():
    dirty = NoiseSchedule("dirty", COSINE.alpha_fn, lambda t: 0.1 + 0.9 * t)
    with pytest.raises(ValueError, match="schedule must start clean"):
        dirty.check()
    broken = NoiseSchedule("broken", COSINE.alpha_fn, lambda t: (t - 0.5).sqrt())
    with pytest.raises(ValueError, match=r"schedule must be finite on .* got NaN in 'broken'"):
        broken.check()


@pytest.mark.parametrize(
    "build",
    [
        lambda s: GaussianMixture(float64([0.0]), schedule=s),
        lambda s: IdealDenoiser(torch.zeros(1, 1, 1, 1), schedule=s),
    ],
)
def test_exact_denoisers_refuse_a_broken_schedule(build):
    with pytest.raises(ValueError, match="schedule must"):
        build(NoiseSchedule.linear_beta(10))


# A mixture of Gaussians: everything is known


def mixture_2d() -> GaussianMixture:
    means = float64([-1.0, 0.5], [0.8, 0.0], [0.2, -1.2])
    return GaussianMixture(means, float64(0.3, 0.1, 0.6), float64(0.2, 0.5, 0.3))


def density_by_hand(mixture: GaussianMixture, x: list[float], t: float) -> float:
    (alpha, sigma), total = alpha_sigma(t), 0.0
    for mean, std, weight in zip(mixture.means.tolist(), mixture.std.tolist(), mixture.weights.tolist(), strict=True):
        variance = (alpha * std) ** 2 + sigma**2
        for x_i, m_i in zip(x, mean, strict=True):
            weight *= math.exp(-((x_i - alpha * m_i) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        total += weight
    return total


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_density_equals_loops(t):
    mixture, x = mixture_2d(), random(6, 2)
    want = [density_by_hand(mixture, point, t) for point in x.tolist()]
    assert mixture.density(x, t).tolist() == pytest.approx(want, rel=1e-10)
    if t == 0:
        assert torch.equal(mixture.density(x), mixture.density(x, 0.0))


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 1.0])
def test_density_integrates_to_one(t):
    mixture = GaussianMixture(float64([-1.0], [2.0]), float64(0.5, 0.25), float64(0.25, 0.75))
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    assert mixture.density(x, t).sum().item() * (16 / 4000) == pytest.approx(1, abs=1e-12)


def test_density_of_noise_is_the_standard_normal():
    got = mixture_2d().density(float64([0.3, -0.4]), 1.0).item()
    assert got == pytest.approx(math.exp(-0.125) / (2 * math.pi), rel=1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_denoiser_of_one_gaussian_is_the_closed_form(t):
    mean, std, x = [0.4, -1.1], 0.5, random(5, 2)
    got = GaussianMixture(float64(mean), std)(x, t)
    alpha, sigma = alpha_sigma(t)
    for b in range(5):
        for i in range(2):
            precision = 1 / std**2 + (alpha / sigma) ** 2 if sigma else None
            want = x[b, i].item()
            if precision:  # the two sources of knowledge, weighted by how sure they are
                want = (mean[i] / std**2 + alpha * x[b, i].item() / sigma**2) / precision
            assert got[b, i].item() == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.6, 0.9, 1.0])
def test_denoiser_of_two_gaussians_equals_numerical_integration(t):
    means, stds, weights = (-0.8, 0.9), (0.4, 0.15), (0.3, 0.7)
    mixture = GaussianMixture(float64([means[0]], [means[1]]), float64(*stds), float64(*weights))
    x_t = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)[:, None]
    alpha, sigma = alpha_sigma(t)
    x0 = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    prior = sum(w / s * (-((x0 - m) ** 2) / (2 * s * s)).exp() for m, s, w in zip(means, stds, weights, strict=True))
    posterior = prior * (-((x_t - alpha * x0) ** 2) / (2 * sigma**2)).exp()  # (11, 6001)
    want = (posterior * x0).sum(dim=1) / posterior.sum(dim=1)
    assert (mixture(x_t, t)[:, 0] - want).abs().max() < 1e-11


@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
def test_denoiser_obeys_tweedie(t):
    mixture, x = mixture_2d(), random(8, 2).requires_grad_()
    (score,) = torch.autograd.grad(mixture.density(x, t).log().sum(), x)
    alpha, sigma = alpha_sigma(t)
    want = (x + sigma**2 * score) / alpha
    assert (mixture(x, t) - want).abs().max() < 1e-11


def test_denoiser_at_the_ends_is_the_point_or_the_mean():
    mixture, x = mixture_2d(), random(8, 2)
    mean = [
        sum(w * m for w, m in zip((0.2, 0.5, 0.3), column, strict=True))
        for column in zip([-1.0, 0.5], [0.8, 0.0], [0.2, -1.2], strict=True)
    ]
    assert (mixture(x, 0) - x).abs().max() < 1e-12
    assert (mixture(x, 1) - float64(*mean)).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_point_masses_at_time_zero_answer_with_the_nearest(dtype):
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=dtype)
    x = torch.tensor([[-0.9, 0.3], [0.2, 0.1], [0.1, 1.5], [1.0, 0.0]], dtype=dtype)
    assert torch.equal(GaussianMixture(means)(x, 0), means[[0, 1, 2, 1]])  # std is 0 by default


def test_a_point_mass_beside_a_gaussian_at_time_zero():
    mixture = GaussianMixture(float64([0.0], [3.0]), float64(0.0, 1.0))
    x = float64([0.0], [0.5], [2.0])
    assert torch.equal(mixture(x, 0), x)  # the mass is met only at its own point


def test_point_masses_at_small_times_stay_finite():
    mixture, x = GaussianMixture(random(20, 4)), random(6, 4, seed=1)
    for t in (1e-12, 1e-6, 1e-3, 0.1):
        assert torch.isfinite(mixture(x, t)).all()


def test_equal_weights_are_the_default():
    means, std = random(4, 2), torch.full((4,), 0.25, dtype=torch.float64)
    explicit = GaussianMixture(means, std, torch.full((4,), 0.25, dtype=torch.float64))
    x = random(3, 2, seed=1)
    assert torch.equal(GaussianMixture(means, std)(x, 0.4), explicit(x, 0.4))
    assert torch.equal(GaussianMixture(means, 0.25).density(x, 0.4), explicit.density(x, 0.4))


def test_a_component_without_weight_counts_for_nothing():
    two = GaussianMixture(float64([0.0], [5.0]), float64(0.5, 0.5), float64(1.0, 0.0))
    one, x = GaussianMixture(float64([0.0]), 0.5), float64([4.0], [-1.0])
    assert (two(x, 0.3) - one(x, 0.3)).abs().max() < 1e-12
    assert (two.sample(200, torch.Generator().manual_seed(0)) < 4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixture_keeps_its_dtype(dtype):
    mixture = GaussianMixture(random(3, 2, dtype=dtype), 0.5)
    x = random(4, 2, seed=1, dtype=dtype)
    for t in (0.3, torch.full((4,), 0.3), torch.full((4,), 0.3, dtype=torch.float64)):
        assert mixture(x, t).dtype == dtype
        assert (mixture(x, t) - mixture(x, 0.3)).abs().max() < 1e-6
    assert mixture.density(x, 0.3).dtype == mixture.sample(2).dtype == dtype


def test_mixture_has_the_call_of_a_network():
    mixture, x = mixture_2d(), random(3, 2)
    assert torch.equal(mixture(x, 0.4, torch.tensor([0, 1, 2])), mixture(x, 0.4))


def test_sample_has_the_moments_of_the_mixture():
    mixture, count = mixture_2d(), 40_000
    x = mixture.sample(count, torch.Generator().manual_seed(0))
    weights, means, stds = (0.2, 0.5, 0.3), ([-1.0, 0.5], [0.8, 0.0], [0.2, -1.2]), (0.3, 0.1, 0.6)
    assert x.shape == (count, 2)
    for i in range(2):
        mean = sum(w * m[i] for w, m in zip(weights, means, strict=True))
        second = sum(w * (m[i] ** 2 + s**2) for w, m, s in zip(weights, means, stds, strict=True))
        assert x[:, i].mean().item() == pytest.approx(mean, abs=0.02)  # about five standard errors
        assert x[:, i].square().mean().item() == pytest.approx(second, abs=0.03)
    near = ((x - mixture.means[1]).norm(dim=1) < 0.25).double().mean().item()  # 95.6 % of the narrow one, few others
    assert near == pytest.approx(0.5 * (1 - math.exp(-(2.5**2) / 2)) + 0.009, abs=0.015)


def test_sample_repeats_with_its_generator():
    a, b, c = (mixture_2d().sample(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_samples_of_point_masses_are_the_points():
    means = random(3, 2)
    x = GaussianMixture(means).sample(50, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, means).argmin(dim=1)
    assert torch.equal(x, means[nearest])
    assert set(nearest.tolist()) == {0, 1, 2}


# A data set


def ideal_by_hand(images: list[list[float]], x: list[float], t: float) -> list[float]:
    """sum_m w_m image_m with w = softmax(-|x - alpha image_m|^2 / (2 sigma^2))."""
    alpha, sigma = alpha_sigma(t)
    exponents = [-sum((a - alpha * b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * sigma**2) for y in images]
    weights = [math.exp(e - max(exponents)) for e in exponents]
    return [sum(w * y[i] for w, y in zip(weights, images, strict=True)) / sum(weights) for i in range(len(x))]


@pytest.mark.parametrize("t", [0.05, 0.2, 0.5, 0.8, 0.99])
def test_ideal_denoiser_equals_loops_over_images(t):
    images, x = random(7, 2, 2, 3), random(4, 2, 2, 3, seed=1)
    got = IdealDenoiser(images)(x, t)
    want = [ideal_by_hand(images.flatten(1).tolist(), row, t) for row in x.flatten(1).tolist()]
    assert (got.flatten(1) - float64(*want)).abs().max() < 1e-12


@pytest.mark.parametrize("t", [0.2, 0.5, 1.0])
def test_ideal_denoiser_given_a_class_looks_at_that_class_alone(t):
    images, x = random(8, 1, 2, 2), random(5, 1, 2, 2, seed=1)
    own, asked = [2, 0, 0, 1, 2, 1, 0, 2], [0, 2, 1, 2, 0]
    got = IdealDenoiser(images, torch.tensor(own))(x, t, torch.tensor(asked))
    for b, label in enumerate(asked):
        same = [image for image, of in zip(images.flatten(1).tolist(), own, strict=True) if of == label]
        want = ideal_by_hand(same, x[b].flatten().tolist(), t)
        assert (got[b].flatten() - float64(*want)).abs().max() < 1e-12


def test_ideal_denoiser_without_labels_looks_at_all_classes():
    images, x = random(6, 1, 2, 2), random(3, 1, 2, 2, seed=1)
    with_labels = IdealDenoiser(images, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert torch.equal(with_labels(x, 0.4), IdealDenoiser(images)(x, 0.4))


def test_ideal_denoiser_of_pure_noise_is_the_mean_image():
    images, x = random(7, 1, 2, 2), random(3, 1, 2, 2, seed=1)
    mean = sum(images[m] for m in range(7)) / 7
    assert (IdealDenoiser(images)(x, 1.0) - mean).abs().max() < 1e-12


@pytest.mark.parametrize("t", [0.0, 1e-9, 1e-3])
def test_ideal_denoiser_at_low_noise_looks_up_the_nearest_image(t):
    images = random(7, 1, 3, 3)
    x = images[[4, 0, 6]] + 0.1 * random(3, 1, 3, 3, seed=1)
    assert (IdealDenoiser(images)(x, t) - images[[4, 0, 6]]).abs().max() < 1e-12


def test_ideal_denoiser_keeps_float32_and_computes_in_float64():
    images, x = random(5, 1, 2, 2, dtype=torch.float32), random(3, 1, 2, 2, seed=1, dtype=torch.float32)
    got = IdealDenoiser(images)(x, torch.full((3,), 0.5))
    assert got.dtype == torch.float32
    want = [ideal_by_hand(images.flatten(1).tolist(), row, 0.5) for row in x.flatten(1).tolist()]
    assert (got.flatten(1).double() - float64(*want)).abs().max() < 2e-7


def test_ideal_denoiser_does_not_care_for_batch_order():
    denoiser, x = IdealDenoiser(random(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])), random(5, 1, 2, 2, seed=1)
    order, labels = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([0, 1, 2, 1, 0])
    assert (denoiser(x[order], 0.5) - denoiser(x, 0.5)[order]).abs().max() < 1e-12
    assert (denoiser(x[order], 0.5, labels[order]) - denoiser(x, 0.5, labels)[order]).abs().max() < 1e-12


# Bad input

X, IMAGES = torch.zeros(3, 2), torch.zeros(4, 1, 2, 2)
LABELS = torch.tensor([0, 1, 2, 0])
MEANS = torch.tensor([[0.0, 0.0], [1.0, 1.0]])


def mixture(*args, **kwargs) -> GaussianMixture:
    return GaussianMixture(MEANS, *args, **kwargs)


def labelled() -> IdealDenoiser:
    return IdealDenoiser(IMAGES, LABELS)


NAN = math.nan
BAD = {
    "t below": (lambda: COSINE.alpha(-0.1), "t", "from 0 (clean) to 1 (noise)", "from -0.1 to -0.1"),
    "t above": (lambda: COSINE.sigma(1.5), "t", "from 0 (clean) to 1 (noise)", "from 1.5 to 1.5"),
    "t vector": (lambda: COSINE.snr(torch.tensor([0.5, -1.0, 2.0])), "t", "from 0 (clean)", "from -1 to 2"),
    "t NaN": (lambda: COSINE.alpha(NAN), "t", "finite", "NaN"),
    "t inf": (lambda: COSINE.alpha(math.inf), "t", "finite", "infinity"),
    "t text": (lambda: COSINE.alpha("0.5"), "t", "floating-point tensor", "str"),
    "t None": (lambda: COSINE.sigma(None), "t", "floating-point tensor", "NoneType"),
    "t long": (lambda: COSINE.alpha(torch.tensor([0, 1])), "t", "floating-point", "torch.int64"),
    "steps 0": (lambda: COSINE.timesteps(0), "steps", "whole number of at least 1", "got 0"),
    "steps -1": (lambda: COSINE.timesteps(-1), "steps", "whole number of at least 1", "got -1"),
    "steps 2.5": (lambda: COSINE.timesteps(2.5), "steps", "whole number of at least 1", "got 2.5"),
    "steps True": (lambda: COSINE.timesteps(True), "steps", "whole number of at least 1", "got True"),
    "beta steps": (lambda: NoiseSchedule.linear_beta(0), "steps", "whole number of at least 1", "got 0"),
    "x0 list": (lambda: COSINE.add_noise([0.0], 0.5, X), "x0", "floating-point tensor", "list"),
    "x0 long": (lambda: COSINE.add_noise(X.long(), 0.5, X), "x0", "floating-point", "torch.int64"),
    "x0 0-D": (lambda: COSINE.add_noise(X[0, 0], 0.5, X), "x0", "shape", "()"),
    "x0 NaN": (lambda: COSINE.add_noise(X * NAN, 0.5, X), "x0", "finite", "NaN"),
    "eps shape": (lambda: COSINE.add_noise(X, 0.5, X[:2]), "eps", "(3, 2)", "(2, 2)"),
    "eps NaN": (lambda: COSINE.add_noise(X, 0.5, X * NAN), "eps", "finite", "NaN"),
    "noise t length": (lambda: COSINE.add_noise(X, torch.zeros(2), X), "t", "(3,)", "(2,)"),
    "noise t one": (lambda: COSINE.add_noise(X, torch.zeros(1), X), "t", "(3,)", "(1,)"),
    "noise t 2-D": (lambda: COSINE.add_noise(X, torch.zeros(3, 1), X), "t", "(3,)", "(3, 1)"),
    "noise t range": (lambda: COSINE.add_noise(X, 1.01, X), "t", "from 0 (clean) to 1 (noise)", "1.01"),
    "means 1-D": (lambda: GaussianMixture(torch.zeros(3)), "means", "(K, D)", "(3,)"),
    "means list": (lambda: GaussianMixture([[0.0]]), "means", "(K, D)", "list"),
    "means NaN": (lambda: GaussianMixture(MEANS * NAN), "means", "finite", "NaN"),
    "std below": (lambda: mixture(-0.5), "std", "from 0 to inf", "-0.5"),
    "std NaN": (lambda: mixture(NAN), "std", "from 0 to inf", "nan"),
    "std inf": (lambda: mixture(math.inf), "std", "number", "inf"),
    "std True": (lambda: mixture(True), "std", "number", "True"),
    "std text": (lambda: mixture("1"), "std", "(2,)", "str"),
    "std shape": (lambda: mixture(torch.ones(3)), "std", "(2,)", "(3,)"),
    "std tensor below": (lambda: mixture(torch.tensor([1.0, -2.0])), "std", "at least 0", "-2"),
    "weights shape": (lambda: mixture(1.0, torch.ones(3) / 3), "weights", "(2,)", "(3,)"),
    "weights sum": (lambda: mixture(1.0, torch.tensor([0.5, 0.6])), "weights", "sum to 1", "[0.5, 0.6"),
    "weights below": (lambda: mixture(1.0, torch.tensor([-0.5, 1.5])), "weights", "at least 0", "[-0.5, 1.5]"),
    "weights list": (lambda: mixture(1.0, [0.5, 0.5]), "weights", "(2,)", "list"),
    "count": (lambda: mixture(1.0).sample(0), "count", "whole number of at least 1", "got 0"),
    "density x": (lambda: mixture(1.0).density(torch.zeros(3, 1), 0.5), "x", "(B, 2)", "(3, 1)"),
    "density t": (lambda: mixture(1.0).density(X, -0.5), "t", "from 0 (clean) to 1 (noise)", "-0.5"),
    "density std 0": (lambda: mixture(0.0).density(X, 0.0), "t", "above 0 where std is 0", "t = 0"),
    "mixture x_t": (lambda: mixture(1.0)(torch.zeros(3, 4), 0.5), "x_t", "(B, 2)", "(3, 4)"),
    "mixture NaN": (lambda: mixture(1.0)(X * NAN, 0.5), "x_t", "finite", "NaN"),
    "mixture t": (lambda: mixture(1.0)(X, 1.5), "t", "from 0 (clean) to 1 (noise)", "1.5"),
    "mixture times": (lambda: mixture(1.0)(X, torch.tensor([0.1, 0.1, 0.2])), "t", "one time", "several"),
    "mixture no time": (lambda: mixture(1.0)(X, torch.zeros(0)), "t", "one time"),
    "images 3-D": (lambda: IdealDenoiser(IMAGES[0]), "images", "(M, C, H, W)", "(1, 2, 2)"),
    "images bytes": (lambda: IdealDenoiser(IMAGES.byte()), "images", "floating-point", "torch.uint8"),
    "images NaN": (lambda: IdealDenoiser(IMAGES * NAN), "images", "finite", "NaN"),
    "own labels length": (lambda: IdealDenoiser(IMAGES, LABELS[:3]), "labels", "(4,)", "3 labels"),
    "own labels float": (lambda: IdealDenoiser(IMAGES, LABELS.float()), "labels", "int64", "torch.float32"),
    "own labels int32": (lambda: IdealDenoiser(IMAGES, LABELS.int()), "labels", "int64", "torch.int32"),
    "own labels below": (lambda: IdealDenoiser(IMAGES, LABELS - 1), "labels", "from 0 to 1", "from -1 to 1"),
    "ideal x_t": (lambda: labelled()(torch.zeros(1, 1, 2, 3), 0.5), "x_t", "(B, 1, 2, 2)", "(1, 1, 2, 3)"),
    "ideal NaN": (lambda: labelled()(IMAGES * NAN, 0.5), "x_t", "finite", "NaN"),
    "ideal t": (lambda: labelled()(IMAGES, 2.0), "t", "from 0 (clean) to 1 (noise)", "2"),
    "ideal times": (lambda: labelled()(IMAGES, torch.linspace(0, 1, 4)), "t", "one time", "several"),
    "asked unlabelled": (lambda: IdealDenoiser(IMAGES)(IMAGES, 0.5, LABELS), "labels", "None", "built without labels"),
    "asked above": (lambda: labelled()(IMAGES, 0.5, LABELS + 1), "labels", "from 0 to 2", "from 1 to 3"),
    "asked below": (lambda: labelled()(IMAGES, 0.5, LABELS - 1), "labels", "from 0 to 2", "from -1 to 1"),
    "asked length": (lambda: labelled()(IMAGES, 0.5, LABELS[:2]), "labels", "(4,)", "2 labels"),
    "asked float": (lambda: labelled()(IMAGES, 0.5, LABELS.double()), "labels", "int64", "torch.float64"),
    "asked list": (lambda: labelled()(IMAGES, 0.5, [0, 1, 2, 0]), "labels", "int64", "list"),
}


@pytest.mark.parametrize("call, name, parts", [(c, n, p) for c, n, *p in BAD.values()], ids=list(BAD))
def test_bad_input_is_refused(call, name, parts):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(name + " must"), message
    assert all(part in message for part in parts), message
