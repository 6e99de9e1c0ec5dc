"""Changing real pictures: noise one and draw it again as another class, or let the network fill in what is hidden."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .noising import NoiseSchedule
from .sampling import DEFAULT_GUIDANCE, Denoise, GuidedDenoiser, Solver, State, initial_noise, sample_loop
from .validate import check_int, check_labels, check_number, check_tensor


def edit(
    model: nn.Module,
    images: Tensor,
    t: float,
    labels: Tensor | None,
    steps: int = 10,
    solver: Solver | None = None,
    guidance_scale: float = DEFAULT_GUIDANCE,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """SDEdit (arXiv:2108.01073): noises images (B, C, H, W) in [-1, 1] to time t and denoises them as `labels` (B,).

    Yields every state, as `sample_loop` does; the last one's x are the edited images. The walk goes over those of
    `schedule.timesteps(steps)` that lie below t. t = 0 gives the images back, t = 1 forgets them and equals `sample`.
    Raises ValueError for another shape or range of pixels, labels out of range, and t outside [0, 1].
    """
    size, channels = model.embed.image_size, model.embed.channels
    check_tensor(images, "images", ("B", channels, size, size))
    check_int(len(images), "len(images)")
    low, high = images.min(), images.max()
    if low < -1.001 or high > 1.001:  # a rounding error is welcome, 0..255 are not
        raise ValueError(f"images must have values in [-1, 1]; got values from {low:.4g} to {high:.4g}")
    t = check_number(t, "t", 0.0, 1.0)
    if labels is not None:
        check_labels(labels, "labels", len(images), model.num_classes)
    schedule, eps = NoiseSchedule.cosine(), initial_noise(model, len(images), generator)  # eps (B, C, H, W)
    images, labels = images.to(eps), None if labels is None else labels.to(eps.device)  # (B, C, H, W), (B,)
    rest = [time for time in schedule.timesteps(steps).tolist() if time < t]
    if not rest:
        return iter([State(0.0, images, None, 0)])
    times = torch.tensor([t, *rest], dtype=torch.float64)  # (K,)
    denoise = GuidedDenoiser(model, labels, guidance_scale)
    return sample_loop(denoise, schedule.add_noise(images, t, eps), solver, schedule, times, generator)


class KnownPixels:
    """A denoiser that knows a part of the picture: it writes the known pixels into every guess of the clean image.

    known (B, C, H, W), and mask, bool of a shape that broadcasts to it, True where known. A solver then keeps the known
    part at the right noise level by itself. RePaint (arXiv:2201.09865) is a relative: it writes freshly noised pixels
    into x instead, and goes back and forth in time, so that the two parts agree better at a higher price.
    """

    def __init__(self, denoise: Denoise, known: Tensor, mask: Tensor) -> None:
        self.denoise, self.known, self.mask = denoise, check_tensor(known, "known", ("B", "C", "H", "W")), mask
        fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim <= known.ndim
        if not fits or any(m not in (1, k) for m, k in zip(mask.shape[::-1], known.shape[::-1], strict=False)):
            got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask must be bool and broadcast to {tuple(known.shape)}, the shape of known; got {got}")

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return torch.where(self.mask, self.known, self.denoise(x, t))  # (B, C, H, W)

    @property
    def nfe(self) -> int:
        """Network evaluations so far, if the wrapped denoiser counts them (AttributeError if not, which means: one)."""
        return self.denoise.nfe
