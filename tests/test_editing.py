"""Editing and filling in against exact answers: formulas, `sample`, and two pictures that are known by heart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.editing import KnownPixels, edit
from tutorial_lib.noising import IdealDenoiser, NoiseSchedule
from tutorial_lib.sampling import GuidedDenoiser, ddim, ddpm, dpmpp_2m, heun, initial_noise, sample, sample_loop

SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}
LABELS = torch.tensor([3, 0])  # (2,)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> EfficientTransformerDenoiser:
    """A tiny network whose weights are not 0, so that time and label matter."""
    network = EfficientTransformerDenoiser(8, 2, 1, dim=16, heads=2, layers=1, ff_dim=32, num_classes=4)
    generator = gen(1)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.3, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return 2 * torch.rand(2, 1, 8, 8, generator=gen(2)) - 1


# ------------------------------------------------------------------------------------------------------------- edit


def test_without_noise_the_image_comes_back(model, images):
    (only,) = edit(model, images, 0, LABELS)
    assert torch.equal(only.x, images) and (only.t, only.x0, only.nfe) == (0.0, None, 0)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_from_pure_noise_it_is_sample(model, images, labels):
    """At t = 1 nothing is left of the image: the same noise gives what `sample` draws."""
    *_, last = edit(model, images, 1.0, labels, guidance_scale=2.0, generator=gen(5))
    wanted = sample(model, labels, guidance_scale=2.0, generator=gen(5), count=2)
    assert torch.equal(last.x, wanted)


def test_it_starts_at_t_and_walks_what_is_left_of_the_grid(model, images):
    states = list(edit(model, images, 0.5, LABELS, steps=10, generator=gen(5)))
    grid = NoiseSchedule.cosine().timesteps(10).tolist()
    assert [state.t for state in states] == [0.5, *(time for time in grid if time < 0.5)]
    eps = torch.randn(2, 1, 8, 8, generator=gen(5))
    torch.testing.assert_close(states[0].x, math.sqrt(0.5) * (images + eps))  # alpha = sigma = sqrt(1/2)
    assert states[-1].nfe == 2 * (len(states) - 1)  # guided


def test_a_time_of_the_grid_is_not_walked_twice(model, images):
    t = NoiseSchedule.cosine().timesteps(4)[2].item()
    states = list(edit(model, images, t, LABELS, steps=4, guidance_scale=1.0))
    assert [state.nfe for state in states] == [0, 1, 2]


def test_the_class_and_the_noise_matter_and_the_image_too(model, images):
    def last(images=images, labels=LABELS, seed=0):
        return list(edit(model, images, 0.6, labels, generator=gen(seed)))[-1].x

    for other in (last(images=-images), last(labels=LABELS.flip(0)), last(seed=1)):
        assert not torch.allclose(last(), other)
    assert torch.equal(last(), last())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(2, 1, 7, 8)}, r"images must be a floating-point tensor of shape \(B, 1, 8, 8\)"),
        ({"images": torch.zeros(0, 1, 8, 8)}, r"len\(images\) must be a whole number of at least 1; got 0"),
        ({"images": torch.full((2, 1, 8, 8), 255.0)}, r"images must have values in \[-1, 1\]; got values from 255"),
        ({"t": 1.5}, "t must be a number from 0 to 1; got 1.5"),
        ({"t": torch.tensor(0.5)}, "t must be a number from 0 to 1"),
        ({"labels": torch.tensor([4, 0])}, "labels must be from 0 to 3; got values from 0 to 4"),
        ({"labels": torch.tensor([1])}, r"labels must be an int64 tensor of shape \(2,\); got 1 labels"),
    ],
)
def test_bad_input_is_refused_at_once(model, images, changes, message):
    with pytest.raises(ValueError, match=message):
        edit(model, **{"images": images, "t": 0.5, "labels": LABELS, **changes})


# ---------------------------------------------------------------------------------------------------------- filling in


@pytest.fixture
def upper() -> Tensor:
    return torch.arange(8)[:, None] < 4  # (8, 1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_known_part_is_the_image_noised_with_its_own_noise(model, images, upper, solver):
    """With a solver that draws no fresh noise, at every time: writing into x0_hat is the same as noising again."""
    schedule, noise = NoiseSchedule.cosine(), initial_noise(model, 2, gen(0))
    denoise = KnownPixels(GuidedDenoiser(model, LABELS), images, upper)
    for state in sample_loop(denoise, noise, SOLVERS[solver]()):
        wanted = schedule.add_noise(images, state.t, noise)
        torch.testing.assert_close(state.x[:, :, :4], wanted[:, :, :4], atol=2e-6, rtol=0)
    assert torch.equal(state.x[:, :, :4], images[:, :, :4])
    assert not torch.allclose(state.x[:, :, 4:], images[:, :, 4:], atol=0.1)


def test_ddpm_noises_the_known_part_afresh_to_the_right_level(model):
    known, mask = torch.zeros(400, 1, 8, 8), torch.ones(8, 8, dtype=torch.bool)
    denoise = KnownPixels(GuidedDenoiser(model, None), known, mask)
    start = initial_noise(model, 400, gen(0))
    times = torch.tensor([1.0, 0.8, 0.4])
    *_, last = sample_loop(denoise, start, ddpm(), times=times, generator=gen(1))
    assert last.x.std().item() == pytest.approx(math.sin(0.2 * math.pi), rel=0.02)  # sigma(0.4), of 25,600 numbers
    assert abs((last.x * start).mean()) < 0.02  # nothing is left of the noise at the start


def test_the_ideal_denoiser_finds_the_picture_that_fits():
    """Two pictures are known by heart, white and nearly black; their upper halves say which of them it is."""
    known = torch.stack([torch.full((1, 4, 4), -1.0), torch.full((1, 4, 4), 1.0)]).double()
    known[1, 0, 3] = -1.0
    mask = torch.arange(4)[:, None] < 2
    for wanted in known.split(1):
        denoise = KnownPixels(IdealDenoiser(known), wanted, mask)
        noise = torch.randn(1, 1, 4, 4, generator=gen(0), dtype=torch.float64)
        *_, last = sample_loop(denoise, noise)
        torch.testing.assert_close(last.x, wanted, atol=1e-6, rtol=0)


def test_evaluations_of_the_wrapped_denoiser_are_counted(model, images, upper):
    for scale, nfe in ((1.0, 10), (2.0, 20)):
        denoise = KnownPixels(GuidedDenoiser(model, LABELS, scale), images, upper)
        *_, last = sample_loop(denoise, initial_noise(model, 2, gen(0)))
        assert last.nfe == denoise.nfe == nfe
    *_, last = sample_loop(KnownPixels(lambda x, t: x, images, upper), initial_noise(model, 2, gen(0)))
    assert last.nfe == 10  # a denoiser that does not count: one each


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (torch.ones(8, 8), r"torch.float32 of shape \(8, 8\)"),
        (torch.ones(4, 8, dtype=torch.bool), r"torch.bool of shape \(4, 8\)"),
        (torch.ones(1, 2, 1, 8, 8, dtype=torch.bool), r"torch.bool of shape \(1, 2, 1, 8, 8\)"),
        ([True], "list"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(images, mask, got):
    message = r"mask must be bool and broadcast to \(2, 1, 8, 8\), the shape of known; got " + got
    with pytest.raises(ValueError, match=message):
        KnownPixels(lambda x, t: x, images, mask)
