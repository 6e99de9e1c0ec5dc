"""Training: noise a clean image, guess it back, learn from the squared error. One generator, one item a step."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import CHECKPOINT_FORMAT, pick_device
from .denoiser import EfficientTransformerDenoiser
from .noising import NoiseSchedule
from .validate import check_int, check_labels, check_number, check_tensor
from .workers import place, total


@dataclass(frozen=True)
class TrainConfig:
    """Every choice of a training run. The number of steps is fixed before the first one: `steps`, or else `epochs`."""

    epochs: int = 30  # passes over the images, if `steps` is None
    steps: int | None = None  # optimiser steps; overrides `epochs`
    batch_size: int = 128
    lr: float = 6e-3  # the highest learning rate
    min_lr: float = 0.0
    warmup_steps: int = 100  # steps over which the learning rate climbs from 0
    restart_epochs: int | None = None  # cosine annealing restarts this often; None: one cosine over the whole run
    weight_decay: float = 0.05
    grad_clip: float = 1.0  # largest norm of the gradient
    label_dropout: float = 0.1  # share of labels replaced by the null class, for guidance
    ema_decay: float = 0.999
    levels: int | None = None  # train at t = 1/levels ... 1 only; None: t uniform in [0, 1)
    seed: int = 0
    bf16: bool = False  # matrix products in bfloat16: half the bytes, for a GPU (or a CPU) that computes with it
    compile: bool = False  # torch.compile: a minute or more at the start, then perhaps faster steps

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_int(getattr(self, name), name)
        for name in ("steps", "restart_epochs", "levels"):
            if getattr(self, name) is not None:
                check_int(getattr(self, name), name)
        check_int(self.warmup_steps, "warmup_steps", 0)
        check_int(self.seed, "seed", 0, 2**31 - 1)
        check_number(self.lr, "lr", 1e-8, 1.0)
        check_number(self.min_lr, "min_lr", 0.0, self.lr)
        check_number(self.grad_clip, "grad_clip", 1e-8)
        for name in ("weight_decay", "label_dropout", "ema_decay"):
            check_number(getattr(self, name), name, 0.0, 1.0)
        for name in ("bf16", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; got {getattr(self, name)!r}")

    @classmethod
    def published(cls, **changes: Any) -> TrainConfig:
        """The published recipe: lr 3e-4, weight decay 0.05, cosine annealing, a restart every 5 epochs, 30 epochs."""
        return cls(**{"lr": 3e-4, "min_lr": 1e-6, "warmup_steps": 0, "restart_epochs": 5, **changes})

    @classmethod
    def fast(cls, **changes: Any) -> TrainConfig:
        """The recipe that reached good digits soonest here: 20 times the learning rate, and one cosine down to 0."""
        return cls(**changes)

    def steps_per_epoch(self, images: int) -> int:
        """Full batches in one pass over so many images (at least 1)."""
        return max(1, images // self.batch_size)

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole run over a data set of so many images."""
        return self.steps or self.epochs * self.steps_per_epoch(images)

    def lr_at(self, step: int, images: int) -> float:
        """Learning rate of step 0, 1, 2, ... of a run over so many images."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        period = max(1, self.total_steps(images) - self.warmup_steps)
        if self.restart_epochs is not None:  # SGDR, arXiv:1608.03983
            period = self.restart_epochs * self.steps_per_epoch(images)
        progress = (step - self.warmup_steps) % period / period
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class EMA:
    """Exponential moving average of the weights: the network that samples are drawn from.

    The decay warms up as (1 + k) / (10 + k) after k updates, so that a short run does not remember its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = check_number(decay, "decay", 0.0, 1.0)

    @torch.no_grad()
    def update(self, model: nn.Module, k: int) -> None:
        """Moves the average towards `model`; call it after the optimiser's step number k = 0, 1, 2, ..."""
        weight = 1 - min(self.decay, (1 + k) / (10 + k))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)


def diffusion_loss(
    model: nn.Module, schedule: NoiseSchedule, x0: Tensor, t: Tensor, eps: Tensor, labels: Tensor | None
) -> Tensor:
    """Mean squared error of the guessed clean image: x0 and eps (B, C, H, W), t (B,), labels (B,) -> scalar."""
    return (model(schedule.add_noise(x0, t, eps), t, labels) - x0).square().mean()


def _generator(config: TrainConfig, stream: int, index: int) -> torch.Generator:
    # Random numbers depend on seed and step alone, so a resumed run needs no generator state to repeat them.
    return torch.Generator().manual_seed((config.seed * 1_000_000_007 + index) * 2 + stream)


@lru_cache(maxsize=1)
def _epoch_order(config: TrainConfig, images: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=_generator(config, 0, epoch))  # (M,) drawn once an epoch


def training_batch(
    images: Tensor, labels: Tensor, config: TrainConfig, step: int, null_class: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0 (B, C, H, W), t (B,), eps (B, C, H, W) and labels (B,) of a step: each image once an epoch, a t a sample."""
    per_epoch = config.steps_per_epoch(len(images))
    epoch, place = divmod(step, per_epoch)
    order = _epoch_order(config, len(images), epoch)  # (M,)
    chosen = order[place * config.batch_size : (place + 1) * config.batch_size].to(images.device)  # (B,)
    generator, x0 = _generator(config, 1, step), images[chosen]  # (B, C, H, W)
    if config.levels is None:
        t = torch.rand(len(x0), generator=generator)  # (B,)
    else:
        t = torch.randint(1, config.levels + 1, (len(x0),), generator=generator) / config.levels  # (B,)
    eps = torch.randn(x0.shape, generator=generator)  # (B, C, H, W)
    dropped = torch.rand(len(x0), generator=generator) < config.label_dropout  # (B,)
    y = labels[chosen].masked_fill(dropped.to(images.device), null_class)  # (B,)
    return x0, t.to(images.device), eps.to(images.device), y


@dataclass(frozen=True)
class Progress:
    """What `train` yields after each finished step (optimiser and EMA done)."""

    step: int  # finished steps
    steps: int  # steps of the whole run
    loss: float  # of this step's batch
    lr: float
    config: TrainConfig
    model: EfficientTransformerDenoiser
    ema: EfficientTransformerDenoiser  # sample from this one
    optimizer: torch.optim.Optimizer = field(repr=False)
    data: dict[str, Any] = field(repr=False)

    def state(self) -> dict[str, Any]:
        """Everything that `train(..., resume=state)` needs, as tensors, numbers and strings."""
        return {
            "format": CHECKPOINT_FORMAT,
            "step": self.step,
            "config": asdict(self.config),
            "architecture": self.model.config,
            "data": self.data,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }


def train(
    model: EfficientTransformerDenoiser,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    schedule: NoiseSchedule | None = None,
    device: str | torch.device | None = None,
    resume: dict[str, Any] | None = None,
) -> Iterator[Progress]:
    """Trains `model` in place on images (M, C, H, W) in [-1, 1], int64 labels (M,); yields after each finished step.

    AdamW (arXiv:1711.05101), gradient clipping, EMA. Under torchrun each process takes its share of every batch, and
    the run is the same as with one process, up to rounding. `resume` is a `Progress.state()`: the run goes on after
    that step and ends with the same weights, bit for bit on one machine, as one that was not interrupted. Raises
    ValueError at once for bad input or a `resume` of another run, FloatingPointError if the loss stops being finite.
    """
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config must be a TrainConfig; got {config!r}")
    size, dtype = model.embed.image_size, next(model.parameters()).dtype
    check_tensor(images, "images", ("M", model.embed.channels, size, size))
    if len(images) == 0 or images.dtype != dtype:
        raise ValueError(f"images must be at least one image of {dtype}; got {len(images)} images of {images.dtype}")
    if images.abs().max() > 1:
        raise ValueError(f"images must be in [-1, 1]; got values from {images.min():g} to {images.max():g}")
    check_labels(labels, "labels", len(images), model.num_classes)
    batch, world = min(config.batch_size, len(images)), place()[1]
    if batch % world:
        raise ValueError(f"batch_size must be a multiple of the {world} processes that share it; got {batch}")
    schedule, device = (schedule or NoiseSchedule.cosine()).check(), pick_device(device)
    digest = hashlib.sha256(images.cpu().numpy().tobytes() + labels.cpu().numpy().tobytes())
    data = {"images": len(images), "sha256": digest.hexdigest()}
    if resume is not None:
        if not isinstance(resume, dict) or not {"step", "model", "ema", "optimizer"} <= resume.keys():
            raise ValueError(f"resume must be a whole Progress.state(); got {type(resume).__name__}")
        expected = {"config": asdict(config), "architecture": model.config, "data": data, "format": CHECKPOINT_FORMAT}
        for part, now in expected.items():
            if resume.get(part) != now:
                raise ValueError(f"resume must be a state of the same run: its {part} is {resume.get(part)}, now {now}")
        check_int(resume["step"], "resume['step']", 0, config.total_steps(len(images)))
        for part in ("model", "ema"):
            for name, weights in model.state_dict().items():
                found = resume[part].get(name) if isinstance(resume[part], dict) else None
                check_tensor(found, f"resume[{part!r}][{name!r}]", tuple(weights.shape))
    return _train(model.to(device), images.to(device), labels.to(device), config, schedule, data, resume)


def _train(
    model: EfficientTransformerDenoiser,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    schedule: NoiseSchedule,
    data: dict[str, Any],
    resume: dict[str, Any] | None,
) -> Iterator[Progress]:
    ema = EMA(model, config.ema_decay)
    fused = {"fused": True} if images.device.type in ("cpu", "cuda") else {}  # one kernel for all the parameters
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay, **fused)
    first, steps = 0, config.total_steps(len(images))
    if resume is not None:
        model.load_state_dict(resume["model"])
        ema.model.load_state_dict(resume["ema"])
        optimizer.load_state_dict(copy.deepcopy(resume["optimizer"]))
        first = resume["step"]
    model.train()
    rank, world = place()
    network = model if world == 1 else nn.parallel.DistributedDataParallel(model)  # averages all processes' gradients
    if config.compile:
        network = torch.compile(network)
    for step in range(first, steps):
        batch = training_batch(images, labels, config, step, model.num_classes)
        x0, t, eps, y = (part[rank::world] for part in batch)  # this process's share
        lr = optimizer.param_groups[0]["lr"] = config.lr_at(step, len(images))
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.bf16):
            loss = diffusion_loss(network, schedule, x0, t, eps, y)
        mean = total(loss.detach().clone()).item() / world
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} at step {step}: try a smaller lr than {config.lr:g}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        ema.update(model, step)
        yield Progress(step + 1, steps, mean, lr, config, model, ema.model, optimizer, data)
