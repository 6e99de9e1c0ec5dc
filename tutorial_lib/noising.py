"""The forward process: how a clean image becomes noise, and what the best possible denoiser would answer.

Notation of the whole series: `x_t = alpha(t) * x0 + sigma(t) * eps` with t in [0, 1], 0 clean and 1 pure noise, eps
standard Gaussian and `alpha**2 + sigma**2 = 1`, so that a variance of 1 is kept. `alpha_bar = alpha**2`,
`snr = (alpha / sigma)**2`. Pixels are in [-1, 1]. Shapes: B batch, C channels, H W pixels, N tokens, D dim, h heads,
d = D/h. `guidance_scale`: 1 = off, 0 = unconditional. NFE = number of network evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .validate import check_int, check_labels, check_number, check_tensor

Time = float | Tensor


def check_time(t: Time, name: str = "t") -> Tensor:
    """`t` as a tensor; raises ValueError unless every entry is in [0, 1]."""
    t = check_tensor(torch.as_tensor(t, dtype=torch.float64) if isinstance(t, int | float) else t, name, ("...",))
    if t.numel() and (t.min() < 0 or t.max() > 1):
        raise ValueError(f"{name} must be from 0 (clean) to 1 (noise); got values from {t.min():g} to {t.max():g}")
    return t


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha(t) and sigma(t) for continuous t in [0, 1]. Build one with `NoiseSchedule.cosine()`."""

    name: str
    alpha_fn: Callable[[Tensor], Tensor]
    sigma_fn: Callable[[Tensor], Tensor]

    @classmethod
    def cosine(cls) -> NoiseSchedule:
        """alpha = cos(pi t / 2), sigma = sin(pi t / 2): from exactly clean to exactly noise (after arXiv:2102.09672).

        alpha is computed as sin(pi (1 - t) / 2), which is exactly 0 at t = 1, where cos gives 6e-17.
        """
        return cls("cosine", lambda t: torch.sin(math.pi / 2 * (1 - t)), lambda t: torch.sin(math.pi / 2 * t))

    @classmethod
    def linear_beta(cls, steps: int = 10, rescaled: bool = True) -> NoiseSchedule:
        """The linear schedule of DDPM (arXiv:2006.11239) cut to few steps: it only exists to be shown failing.

        beta runs from 1e-4 to 0.02, times 1000 / steps if `rescaled` (as improved-diffusion does). With 10 steps
        the rescaled form has beta > 1, and alpha is NaN; the other ends at alpha_bar = 0.90, far from noise. `check`
        refuses both. Times are rounded to the nearest of the steps.
        """
        check_int(steps, "steps")
        scale = 1000 / steps if rescaled else 1.0
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64)  # (steps,)
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])  # (steps + 1,)

        def lookup(values: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda t: values.to(t.device)[(t * steps).round().long()].to(t.dtype)

        name = f"linear beta, {steps} steps, {'rescaled' if rescaled else 'not rescaled'}"
        return cls(name, lookup(alpha_bar.sqrt()), lookup((1 - alpha_bar).sqrt()))

    def alpha(self, t: Time) -> Tensor:
        """How much of the clean image is left at time t: 1 at t = 0, 0 at t = 1. Same shape and dtype as t."""
        return self.alpha_fn(check_time(t))

    def sigma(self, t: Time) -> Tensor:
        """Standard deviation of the noise at time t: 0 at t = 0, 1 at t = 1. Same shape and dtype as t."""
        return self.sigma_fn(check_time(t))

    def snr(self, t: Time) -> Tensor:
        """Signal-to-noise ratio (alpha / sigma)**2: infinity at t = 0, 0 at t = 1. In decibels: 10 log10(snr)."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def check(self) -> NoiseSchedule:
        """Returns the schedule; raises ValueError if it is not finite or does not go from clean to noise."""
        alpha, sigma = self.alpha(torch.linspace(0, 1, 101)), self.sigma(torch.linspace(0, 1, 101))  # (101,) each
        if not (torch.isfinite(alpha).all() and torch.isfinite(sigma).all()):
            raise ValueError(f"schedule must be finite on [0, 1]; got NaN in {self.name!r} (is a beta above 1?)")
        if sigma[0] != 0 or alpha[-1] ** 2 >= 1e-3:
            raise ValueError(
                f"schedule must start clean and end in noise (alpha_bar(1) < 0.001); got alpha_bar(1) = "
                f"{alpha[-1] ** 2:.2g} in {self.name!r}"
            )
        return self

    def timesteps(self, steps: int = 10) -> Tensor:
        """The sampling grid: steps + 1 falling times from 1 to 0, float64, dense at high noise, where shapes are set.

        The noise-to-signal ratio tan(pi t / 2) is (4 u)^2 at even u from 1 to 0 (after arXiv:2206.00364, rho = 2);
        the first time is 1 instead of 0.96. Found by measuring: even times give worse digits in 10 steps. Raises
        ValueError for steps < 1.
        """
        u = torch.linspace(1, 0, check_int(steps, "steps") + 1, dtype=torch.float64)  # (steps + 1,)
        times = torch.atan((4 * u) ** 2) * (2 / math.pi)  # (steps + 1,)
        times[0] = 1.0
        return times

    def add_noise(self, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) eps; x0, eps (B, ...), t a number or (B,). ValueError for other shapes."""
        check_tensor(x0, "x0", ("...", "B"))
        check_tensor(eps, "eps", tuple(x0.shape))
        t = check_time(t).to(x0)
        if t.ndim and t.shape != x0.shape[:1]:
            raise ValueError(f"t must be a number or a tensor of shape ({len(x0)},); got shape {tuple(t.shape)}")
        t = t.reshape(-1, *[1] * (x0.ndim - 1)) if t.ndim else t  # (B, 1, ..., 1)
        return self.alpha(t) * x0 + self.sigma(t) * eps  # (B, ...)


class GaussianMixture:
    """A distribution whose best denoiser is known exactly: for tests, and for the lesson in one dimension.

    sum_k weights[k] N(means[k], std[k]^2 I) with means (K, D), std a number >= 0 or (K,), weights (K,) that sum to 1
    (equal by default). Raises ValueError for anything else.
    """

    def __init__(
        self,
        means: Tensor,
        std: float | Tensor = 0.0,
        weights: Tensor | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        self.means = check_tensor(means, "means", ("K", "D"))
        self.norms = means.square().sum(1)  # (K,)
        std = means.new_full((len(means),), check_number(std, "std", 0.0)) if isinstance(std, int | float) else std
        self.std = check_tensor(std, "std", (len(means),)).to(means)  # (K,)
        if (self.std < 0).any():
            raise ValueError(f"std must be at least 0; got {self.std.min():g}")
        weights = means.new_full((len(means),), 1 / max(1, len(means))) if weights is None else weights
        self.weights = check_tensor(weights, "weights", (len(means),)).to(means)  # (K,)
        if (self.weights < 0).any() or abs(self.weights.sum().item() - 1) > 1e-5:
            raise ValueError(f"weights must be at least 0 and sum to 1; got {self.weights.tolist()}")
        self.schedule = (schedule or NoiseSchedule.cosine()).check()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` clean points (count, D)."""
        k = torch.multinomial(
            self.weights, check_int(count, "count"), replacement=True, generator=generator
        )  # (count,)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)  # (count, D)
        return self.means[k] + self.std[k, None] * noise  # (count, D)

    def _log_joint(self, x_t: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        """log(weights[k] N(x_t; alpha means[k], variance[k])) up to (2 pi)^(-D/2); one alpha for all: (B, K)."""
        # Squared distances by |x|^2 - 2 x.m + |m|^2: a (B, K, D) difference would not fit in memory for images.
        squared = (x_t**2).sum(1, keepdim=True) - 2 * alpha * (x_t @ self.means.T)  # (B, K)
        squared = (squared + alpha**2 * self.norms).clamp_min(0)  # (B, K)
        return self.weights.log() - squared / (2 * variance) - x_t.shape[1] / 2 * variance.log()  # (B, K)

    def density(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Density of x_t at the points x (B, D), at one time t: (B,). Needs std > 0 or t > 0."""
        alpha, sigma = self.schedule.alpha(t).to(self.means), self.schedule.sigma(t).to(self.means)
        variance = (alpha * self.std) ** 2 + sigma**2  # (K,)
        if (variance == 0).any():
            raise ValueError("t must be above 0 where std is 0 (the density is infinite); got t = 0")
        x = check_tensor(x, "x", ("B", self.means.shape[1]))
        return (self._log_joint(x, alpha, variance).logsumexp(1) - x.shape[1] / 2 * math.log(2 * math.pi)).exp()  # (B,)

    def __call__(self, x_t: Tensor, t: Time, labels: Tensor | None = None) -> Tensor:
        """The posterior mean E[x0 | x_t] of points x_t (B, D) at one time t: no denoiser errs less in mean square.

        Has the call of a network, so that solvers can be tested on it; `labels` are ignored. At t = 0 the point itself,
        if std > 0, and the nearest mean where std is 0.
        """
        check_tensor(x_t, "x_t", ("B", self.means.shape[1]))
        t = check_time(t).reshape(-1)  # (1,) or (B,)
        if t.numel() == 0 or (t != t[0]).any():
            raise ValueError("t must be one time for the whole batch of an exact denoiser; got several")
        alpha, sigma = self.schedule.alpha(t[0]).to(self.means), self.schedule.sigma(t[0]).to(self.means)
        # float64 has room for 1e-300: at t = 0 a point mass becomes so narrow that only the nearest one counts.
        variance = ((alpha * self.std) ** 2 + sigma**2).clamp_min(torch.finfo(self.means.dtype).tiny * 1e8)  # (K,)
        belief = self._log_joint(x_t, alpha, variance).softmax(dim=1)  # (B, K) which component x_t came from
        gain = alpha * self.std**2 / variance  # (K,)
        # E[x0 | x_t, k] = means[k] + gain[k] (x_t - alpha means[k]), averaged over the belief.
        return (belief * (1 - gain * alpha)) @ self.means + (belief @ gain)[:, None] * x_t  # (B, D)


class IdealDenoiser:
    """The exact posterior mean over a data set: the answers of one who knows it by heart (arXiv:2206.00364, app. B).

    images (M, C, H, W) in [-1, 1], labels int64 (M,) for the class-conditional answer. Called like the network:
    (x_t (B, C, H, W), t, labels (B,) or None) -> (B, C, H, W). Blurry at high noise, a look-up at low noise.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None, schedule: NoiseSchedule | None = None) -> None:
        self.images = check_tensor(images, "images", ("M", "C", "H", "W"))
        self.labels = None if labels is None else check_labels(labels, "labels", len(images), int(labels.max()) + 1)
        self.schedule = (schedule or NoiseSchedule.cosine()).check()
        self.mixture = self._mixture(images)

    def __call__(self, x_t: Tensor, t: Time, labels: Tensor | None = None) -> Tensor:
        check_tensor(x_t, "x_t", ("B", *self.images.shape[1:]))
        if labels is None:
            return self._posterior_mean(self.mixture, x_t, t)  # (B, C, H, W)
        if self.labels is None:
            raise ValueError("labels must be None: this IdealDenoiser was built without labels")
        check_labels(labels, "labels", len(x_t), int(self.labels.max()) + 1)
        answer = torch.empty_like(x_t)  # (B, C, H, W)
        for label in labels.unique():
            mixture = self._mixture(self.images[self.labels == label])
            answer[labels == label] = self._posterior_mean(mixture, x_t[labels == label], t)
        return answer

    def _mixture(self, images: Tensor) -> GaussianMixture:
        # A data set is a mixture of point masses: std 0.
        return GaussianMixture(images.flatten(1).double(), 0.0, schedule=self.schedule)

    @staticmethod
    def _posterior_mean(mixture: GaussianMixture, x_t: Tensor, t: Time) -> Tensor:
        return mixture(x_t.flatten(1).double(), t).reshape(x_t.shape).to(x_t)  # (B, C, H, W)
