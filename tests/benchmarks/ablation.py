"""Which choice matters? Short trainings that differ in one thing, several seeds, scored alike.

    python -m tests.benchmarks.ablation attention --root data --steps 2000 --seeds 3 --batch 32 --out ablation.json
    python -m tests.benchmarks.ablation process --root data --steps 2000 --seeds 3 --batch 32 --out ablation.json
    python -m tests.benchmarks.ablation choices --root data --steps 1000 --seeds 3 --batch 32 --out ablation.json

Each run trains from scratch on the full MNIST and then draws 1,000 digits in 10 steps, without guidance. A run that is
already in the file is not repeated, so the script can be stopped and started again. Prints a Markdown table. Times are
processor seconds of one thread, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.ancestor import Ancestor, sample_ancestor, train_ancestor
from tutorial_lib.checkpoints import save_model, write_file
from tutorial_lib.data import load_images
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.evaluation import labels_like_test_set, score
from tutorial_lib.patches import unpatchify
from tutorial_lib.results import results_table
from tutorial_lib.sampling import SOLVERS, sample
from tutorial_lib.training import TrainConfig, train

ATTENTIONS = ("double_softmax", "elu1", "relu", "softmax")
DIGITS = 1000


class Open(nn.Module):
    """Stands where adaLN-Zero was: no shift, no scale, every gate open, whatever the condition."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        zero = condition.new_zeros(len(condition), 1, condition.shape[1])  # (B, 1, D)
        return (zero, zero, zero + 1, zero, zero, zero + 1)[: self.parts]  # shift, scale, gate of each half


class AddedCondition(EfficientTransformerDenoiser):
    """The same network, but label and time are added to the tokens once instead of steering every block."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        for block in self.blocks:
            block.modulation = Open(6)
        self.modulation = Open(2)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = self._condition(x_t, t, labels)  # (B, D)
        tokens = self.embed(x_t) + self.positions + condition.unsqueeze(1)  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens, condition)  # (B, N, D)
        return unpatchify(self.to_pixels(self.norm(tokens)), self.embed.patch_size)  # (B, C, H, W)


class FiveRestarts(TrainConfig):
    """Cosine annealing that starts again five times in the run."""

    def lr_at(self, step: int, images: int) -> float:
        period = self.total_steps(images) // 5
        return self.lr * (1 + math.cos(math.pi * (step % period) / period)) / 2


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        **{f"{name}, local branch": {"model": {"attention": name}} for name in ATTENTIONS},
        **{f"{name}, no local branch": {"model": {"attention": name, "local": False}} for name in ATTENTIONS},
    },
    "process": {
        # Without these two: "double_softmax, local branch" of the group before.
        "ten noise levels": {"config": {"levels": 10}},
        "public ancestor": {"ancestor": True},
    },
    "choices": {
        "the system as it is": {},
        "28x28 pixels": {"model": {"image_size": 28}},
        "patches of 1 pixel": {"model": {"patch_size": 1}},
        "patches of 4x4 pixels": {"model": {"patch_size": 4}},
        "6 layers": {"model": {"layers": 6}},
        "1 layer": {"model": {"layers": 1}},
        "softmax attention": {"model": {"attention": "softmax"}},
        "batches 4 times larger, a quarter of the steps": {"larger_batch": 4},
        "learning rate 1e-3": {"config": {"lr": 1e-3}},
        "learning rate 3e-4": {"config": {"lr": 3e-4}},
        "constant learning rate": {"config": {"min_lr": 6e-3}},
        "warm restarts, 5 periods": {"recipe": FiveRestarts},
        "no local branch": {"model": {"local": False}},
        "no EMA": {"config": {"ema_decay": 0.0}},
        "condition added to the tokens": {"network": AddedCondition},
    },
}


def run(variant: dict[str, Any], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains one variant with one seed and scores it with each solver."""
    size, larger = variant.get("model", {}).get("image_size", 16), variant.get("larger_batch", 1)
    images, labels = load_images("mnist", "train", size=size, source="torchvision", root=args.root)
    config = {"steps": args.steps // larger, "batch_size": args.batch * larger, "lr": args.lr, "seed": seed}
    config = variant.get("recipe", TrainConfig)(**{**config, **variant.get("config", {})})
    torch.manual_seed(seed)
    asked = labels_like_test_set(DIGITS)  # (1000,)
    start = time.process_time()
    if variant.get("ancestor"):
        model = Ancestor()
        train_ancestor(model, images, labels, config)
        seconds = time.process_time() - start
        pictures = {"iterated": sample_ancestor(model, asked, torch.Generator().manual_seed(seed))}
    else:
        network = variant.get("network", EfficientTransformerDenoiser)(**variant.get("model", {}))
        network = deque(train(network, images, labels, config, device=args.device), maxlen=1).pop().ema
        seconds = time.process_time() - start
        if args.weights and seed == 0 and type(network) is EfficientTransformerDenoiser:
            name = "_".join(str(part) for item in variant.get("model", {}).items() for part in item) or "base"
            # Half precision: enough for pictures of attention, and half the size.
            save_model(copy.deepcopy(network).half(), args.weights / f"{name}_{args.steps}.safetensors")
        pictures = {
            solver: sample(
                network,
                asked,
                solver=SOLVERS[solver](),
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(seed),
            ).cpu()
            for solver in ("ddpm", "dpmpp_2m")
        }
    result = {"seconds": round(seconds, 1)}
    for solver, drawn in pictures.items():
        if size != 16:
            drawn = F.interpolate(drawn, (16, 16), mode="bilinear", antialias=True)  # (N, 1, 16, 16) as the data is
        scores = score(drawn.clamp(-1, 1), asked)
        result[solver] = {"agreement": scores.agreement, "floors": scores.frechet_in_floors}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=VARIANTS)
    parser.add_argument("--only", nargs="+", help="run these variants of the group only, in this order")
    parser.add_argument("--root", default="data", help="folder of torchvision's MNIST")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, help="keep the networks of the first seed in this folder")
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    setting = {"group": args.group, "steps": args.steps, "batch": args.batch, "lr": args.lr}

    def mine() -> list[dict[str, Any]]:
        return [result for result in results if setting.items() <= result.items()]

    for seed in range(args.seeds):
        for name in args.only or VARIANTS[args.group]:
            if any((result["name"], result["seed"]) == (name, seed) for result in mine()):
                continue
            results.append({**setting, "name": name, "seed": seed, **run(VARIANTS[args.group][name], seed, args)})
            text = json.dumps(results, indent=1) + "\n"
            write_file(args.out, lambda temporary, text=text: temporary.write_text(text))
            print(json.dumps(results[-1]), flush=True)
    print(results_table(args.group, results=mine()))


if __name__ == "__main__":
    main()
