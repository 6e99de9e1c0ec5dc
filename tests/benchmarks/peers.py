"""The rivals of the benchmarks, ours and the peers', behind one face: a network, a training step, some samplers.

    pip install -e '.[benchmarks]'

Each peer comes in two forms, and model, noise schedule, loss and sampler are always its library's own code.

"own": its own recommended settings, changed to 16x16 pixels and one channel. smalldiffusion: examples/
fashion_mnist_dit_cond.py (DiT of depth 6, six heads of 32, AdamW, lr 1e-3, EMA .99, ScheduleDDPM), without its mirrored
pictures, because a mirrored digit is no digit, and with our batch of 128 instead of 1,024, which would leave it some 30
steps in 3 minutes. diffusers: its makers' course, unit 2, "Making a
Class-Conditioned Diffusion Model", which is about MNIST (UNet2DModel of 32, 64, 64 channels, batch 128, Adam, lr 1e-3,
cosine schedule, guess of the noise), but with the library's own class embedding (`num_class_embeds`) and its null class
instead of the label as four extra input channels, because those leave guidance out. (The network of
examples/unconditional_image_generation has 114 million parameters and would make a handful of steps in 3 minutes.)

"sized down": our number of parameters within 5 %, our batch, and everything that helps us and that the library allows:
one cosine decay fixed to the budget, warm-up, gradient clipping, the better of its targets and schedules, and the best
learning rate of a probe (`probe.py`; its figures are beside the settings). This is the fair one.

Everybody gets the same batches from the same tensors in memory, labels replaced by a null class with probability 0.1,
and our average of the weights (EMA) with its warm-up; the course has no EMA and gets ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from smalldiffusion import (
    CondEmbedderLabel,
    DiT,
    PredV,
    PredX0,
    Scaled,
    Schedule,
    ScheduleCosine,
    ScheduleDDPM,
    samples,
)
from smalldiffusion.diffusion import generate_train_sample
from torch import Tensor, nn

from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.sampling import SOLVERS, sample
from tutorial_lib.training import EMA, TrainConfig, train, training_batch

CLASSES = 10  # and label 10 is the null class, for everybody
SIZE = 16
BATCH = 100  # digits drawn together
NO_CLIPPING = 1e9
CPU = Accelerator(cpu=True)  # smalldiffusion's sampler makes a new one at each call unless it gets one
Sampler = Callable[[nn.Module, Tensor, int, float, torch.Generator], Tensor]


@dataclass(frozen=True)
class Rival:
    """One competitor. `start` gives a training that yields the averaged network after each step.

    `samplers`: name -> (network, labels (B,), steps, guidance scale, generator) -> images (B, 1, 16, 16). Scale 1 is
    not guided, one network evaluation a step; any other scale costs two.
    """

    name: str
    network: Callable[[], nn.Module]
    config: TrainConfig
    start: Callable[[nn.Module, Tensor, Tensor, TrainConfig], Iterator[nn.Module]]
    samplers: dict[str, Sampler]

    @property
    def annealed(self) -> bool:
        """Whether the learning rate falls to the end, so that the number of steps must be known before the first."""
        return self.config.min_lr < self.config.lr

    def fresh(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.network()


def parameters(model: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# Ours.


def _our_training(
    model: EfficientTransformerDenoiser, images: Tensor, labels: Tensor, config: TrainConfig
) -> Iterator[nn.Module]:
    for progress in train(model, images, labels, config, device="cpu"):
        yield progress.ema


def _our_sampler(solver: str) -> Sampler:
    def draw(model: nn.Module, labels: Tensor, steps: int, scale: float, generator: torch.Generator) -> Tensor:
        return sample(model, labels, steps, SOLVERS[solver](), scale, generator, batch_size=BATCH)  # (B, 1, 16, 16)

    return draw


def ours() -> Rival:
    samplers = {name: _our_sampler(solver) for name, solver in OUR_SAMPLERS.items()}
    return Rival("ours", EfficientTransformerDenoiser, TrainConfig.fast(), _our_training, samplers)


OUR_SAMPLERS = {"DPM-Solver++(2M)": "dpmpp_2m", "DDIM": "ddim", "DDPM": "ddpm"}


# The peers' common training: our data, our EMA, their loss.


class PeerTraining:
    """A peer's training: yields the averaged network after each step; `extend` goes on with a new decay."""

    def __init__(
        self,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        config: TrainConfig,
    ) -> None:
        self.loss, self.model, self.images, self.labels, self.config = loss, model.train(), images, labels, config
        self.ema = EMA(model, config.ema_decay)
        self.optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay, fused=True)
        self.step = self.first = 0

    def extend(self, steps: int) -> None:
        """So many steps more, with a learning rate that restarts and falls once more (SGDR, arXiv:1608.03983)."""
        self.first, self.config = self.step, replace(self.config, steps=steps)

    def __iter__(self) -> Iterator[nn.Module]:
        return self

    def __next__(self) -> nn.Module:
        place = self.step - self.first
        if place >= self.config.total_steps(len(self.images)):
            raise StopIteration
        x0, _, _, y = training_batch(self.images, self.labels, self.config, self.step, CLASSES)  # (B, 1, 16, 16), (B,)
        self.optimizer.param_groups[0]["lr"] = self.config.lr_at(place, len(self.images))
        loss = self.loss(self.model.train(), x0, y)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        return self.ema.model


# smalldiffusion's DiT.


def _dit(kind: type[DiT], depth: int, head_dim: int, heads: int, mlp_ratio: float) -> DiT:
    # The embedder itself replaces 10 % of the labels while it trains.
    embed = CondEmbedderLabel(head_dim * heads, CLASSES, 0.1)
    return kind(
        in_dim=SIZE,
        channels=1,
        patch_size=2,
        depth=depth,
        head_dim=head_dim,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        cond_embed=embed,
    )


def _dit_loss(schedule: Schedule, model: DiT, x0: Tensor, y: Tensor) -> Tensor:
    x0, sigma, eps, cond = generate_train_sample((x0, y), schedule, conditional=True)
    return type(model).get_loss(model, x0, sigma, eps, cond=cond)


def _dit_sampler(schedule: Schedule, gam: float, mu: float) -> Sampler:
    def draw(model: DiT, labels: Tensor, steps: int, scale: float, generator: torch.Generator) -> Tensor:
        sigmas, images = schedule.sample_sigmas(steps), []
        for part in labels.split(BATCH):  # (b,)
            noise = torch.randn(len(part), 1, SIZE, SIZE, generator=generator)  # (b, 1, 16, 16)
            # Its guidance scale counts from 0 (off); ours from 1.
            states = samples(model, sigmas, gam, mu, scale - 1, xt=noise * sigmas[0], cond=part, accelerator=CPU)
            *_, last = states
            images.append(last.clamp(-1, 1))  # (b, 1, 16, 16)
        return torch.cat(images)  # (B, 1, 16, 16)

    return draw


def _dit_rival(
    name: str, kind: type[DiT], sizes: tuple[int, int, int, float], schedule: Schedule, config: TrainConfig
) -> Rival:
    # gam 1.6 is the example's, gam 1 is DDIM and mu 0.5 is DDPM: README, "Sampling".
    samplers = {"gam 1.6": (1.6, 0.0), "DDIM": (1.0, 0.0), "DDPM": (1.0, 0.5)}
    return Rival(
        name,
        partial(_dit, kind, *sizes),
        config,
        partial(PeerTraining, partial(_dit_loss, schedule)),
        {sampler: _dit_sampler(schedule, *numbers) for sampler, numbers in samplers.items()},
    )


def dit_own() -> Rival:
    config = TrainConfig(
        steps=10**6,
        lr=1e-3,
        min_lr=1e-3,  # constant
        warmup_steps=0,
        weight_decay=0.01,
        grad_clip=NO_CLIPPING,
        label_dropout=0.0,  # the embedder does it
        ema_decay=0.99,
    )
    return _dit_rival("smalldiffusion DiT, own", DiT, (6, 32, 6, 4.0), ScheduleDDPM(), config)


def dit_small(target: str = "x0", lr: float = 6e-3) -> Rival:
    kind, schedule = DIT_TARGETS[target]
    config = TrainConfig(lr=lr, label_dropout=0.0)
    return _dit_rival("smalldiffusion DiT, sized down", kind(), (3, 32, 4, 2.0), schedule(), config)


# What the library offers for few steps; `Scaled` keeps the input's size the same at all noise levels.
# `probe.py`, 30 seconds on full MNIST: x0 24 % agreement and Frechet distance 32, eps 16 % and 35, v 15 % and 43.
# Then x0, 90 seconds: 91 % and 11 at learning rate 6e-3, 79 % and 14 at 3e-3.
DIT_TARGETS: dict[str, tuple[Callable[[], type[DiT]], Callable[[], Schedule]]] = {
    "eps": (lambda: Scaled(DiT), ScheduleDDPM),
    "x0": (lambda: PredX0(Scaled(DiT)), ScheduleCosine),
    "v": (lambda: PredV(Scaled(DiT)), ScheduleCosine),
}


# diffusers' UNet2DModel.


def _unet(channels: tuple[int, ...], layers: int, groups: int, attention: tuple[bool, ...]) -> UNet2DModel:
    down = tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attention)
    up = tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention))
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=layers,
        block_out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=groups,
        num_class_embeds=CLASSES + 1,
    )


def _unet_loss(scheduler: DDPMScheduler, model: UNet2DModel, x0: Tensor, y: Tensor) -> Tensor:
    eps = torch.randn_like(x0)  # (B, 1, 16, 16)
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x0),))  # (B,)
    targets = {"epsilon": eps, "sample": x0}
    if scheduler.config.prediction_type == "v_prediction":
        targets["v_prediction"] = scheduler.get_velocity(x0, eps, t)  # (B, 1, 16, 16)
    guess = model(scheduler.add_noise(x0, eps, t), t, class_labels=y).sample  # (B, 1, 16, 16)
    return F.mse_loss(guess, targets[scheduler.config.prediction_type])


def _unet_sampler(scheduler: DDIMScheduler | DDPMScheduler | DPMSolverMultistepScheduler) -> Sampler:
    @torch.no_grad()
    def draw(model: UNet2DModel, labels: Tensor, steps: int, scale: float, generator: torch.Generator) -> Tensor:
        model.eval()
        images = []
        for part in labels.split(BATCH):  # (b,)
            x = torch.randn(len(part), 1, SIZE, SIZE, generator=generator)  # (b, 1, 16, 16)
            both = torch.cat([part, torch.full_like(part, CLASSES)])  # (2b,)
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                if scale == 1:
                    out = model(x, t, class_labels=part).sample  # (b, 1, 16, 16)
                else:
                    out, null = model(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)  # (b, 1, 16, 16) each
                    out = null + scale * (out - null)  # (b, 1, 16, 16)
                x = scheduler.step(out, t, x, generator=generator).prev_sample  # (b, 1, 16, 16)
            images.append(x.clamp(-1, 1))  # (b, 1, 16, 16)
        return torch.cat(images)  # (B, 1, 16, 16)

    return draw


def _unet_rival(
    name: str, sizes: tuple[tuple[int, ...], int, int, tuple[bool, ...]], scheduler: DDPMScheduler, config: TrainConfig
) -> Rival:
    # "trailing" starts at the noisiest time, which a few steps need (arXiv:2305.08891); the number clips the infinite
    # end of the cosine schedule, as the library's documentation asks for there.
    few = {"timestep_spacing": "trailing"}
    dpm = DPMSolverMultistepScheduler.from_config(scheduler.config, lambda_min_clipped=-5.1, **few)
    return Rival(
        name,
        partial(_unet, *sizes),
        config,
        partial(PeerTraining, partial(_unet_loss, scheduler)),
        {
            "DPM-Solver++(2M)": _unet_sampler(dpm),
            "DDIM": _unet_sampler(DDIMScheduler.from_config(scheduler.config, **few)),
            "DDPM": _unet_sampler(DDPMScheduler.from_config(scheduler.config, **few)),
        },
    )


def unet_own() -> Rival:
    config = TrainConfig(
        steps=10**6,
        lr=1e-3,
        min_lr=1e-3,  # constant
        warmup_steps=0,
        weight_decay=0.0,  # which makes AdamW the Adam of the course
        grad_clip=NO_CLIPPING,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return _unet_rival("diffusers UNet, own", ((32, 64, 64), 2, 32, (False, True, True)), scheduler, config)


# `probe.py`, 30 seconds at learning rate 3e-3: v_prediction 15 % agreement and Frechet distance 34, sample 14 % and 36,
# epsilon 12 % and 58. Then 90 seconds: v_prediction at 6e-3 84 % and 8, sample at 3e-3 54 % and 14.
UNET_TARGETS = ("sample", "v_prediction", "epsilon")


def unet_small(target: str = "v_prediction", lr: float = 6e-3) -> Rival:
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=target)
    sizes = ((32, 48, 48), 1, 8, (False, True, True))
    return _unet_rival("diffusers UNet, sized down", sizes, scheduler, TrainConfig(lr=lr))


RIVALS: dict[str, Callable[[], Rival]] = {
    "ours": ours,
    "dit_own": dit_own,
    "dit_small": dit_small,
    "unet_own": unet_own,
    "unet_small": unet_small,
}
