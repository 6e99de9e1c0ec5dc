"""Which choice matters? Short trainings that differ in one thing, several seeds, scored alike.

    python -m tests.benchmarks.ablation --root data --steps 2000 --seeds 3 --batch 128 --out ablation.json

Each run trains from scratch on the full MNIST at 16x16 and then draws 1,000 digits in 10 steps, without guidance. A run
that is already in the file is not repeated, so the script can be stopped and started again. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.ancestor import Ancestor, sample_ancestor, train_ancestor
from tutorial_lib.checkpoints import write_file
from tutorial_lib.data import load_images
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.evaluation import labels_like_test_set, score
from tutorial_lib.sampling import SOLVERS, sample
from tutorial_lib.training import TrainConfig, train

ATTENTIONS = ("double_softmax", "elu1", "relu", "softmax")
DIGITS = 1000
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{name}, local branch": {"model": {"attention": name}} for name in ATTENTIONS},
    **{f"{name}, no local branch": {"model": {"attention": name, "local": False}} for name in ATTENTIONS},
    "double_softmax, local branch, 10 noise levels": {"config": {"levels": 10}},
    "double_softmax, local branch, no EMA": {"config": {"ema_decay": 0.0}},
    "public ancestor": {"ancestor": True},
}


def run(name: str, seed: int, args: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Trains one variant with one seed and scores it with each solver."""
    variant = VARIANTS[name]
    config = TrainConfig.fast(
        steps=args.steps, batch_size=args.batch, lr=args.lr, seed=seed, **variant.get("config", {})
    )
    torch.manual_seed(seed)
    asked = labels_like_test_set(DIGITS)  # (1000,)
    start = time.perf_counter()
    if variant.get("ancestor"):
        model = Ancestor()
        train_ancestor(model, images, labels, config)
        pictures = {"iterated": sample_ancestor(model, asked, torch.Generator().manual_seed(seed))}
        seconds = time.perf_counter() - start
    else:
        network = EfficientTransformerDenoiser(**variant.get("model", {}))
        network = deque(train(network, images, labels, config, device="cpu"), maxlen=1).pop().ema
        seconds = time.perf_counter() - start
        pictures = {
            solver: sample(
                network,
                asked,
                solver=SOLVERS[solver](),
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(seed),
            )
            for solver in ("ddpm", "dpmpp_2m")
        }
    result = {"name": name, "seed": seed, "steps": args.steps, "batch": args.batch, "lr": args.lr, "seconds": seconds}
    for solver, drawn in pictures.items():
        scores = score(drawn.clamp(-1, 1), asked)
        result[solver] = {"agreement": scores.agreement, "floors": scores.frechet_in_floors}
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Mean and lowest to highest value over the seeds, one line a variant and solver."""
    lines = ["| variant | seeds | solver | class agreement | Frechet distance, in floors |", "|---|---|---|---|---|"]
    for name in VARIANTS:
        mine = [result for result in results if result["name"] == name]
        for solver in ("ddpm", "dpmpp_2m", "iterated"):
            scores = [result[solver] for result in mine if solver in result]
            if not scores:
                continue
            cells = []
            for key, form in (("agreement", "{:.1%}"), ("floors", "{:.1f}")):
                values = [one[key] for one in scores]
                mean, low, high = (form.format(f(values)) for f in (statistics.mean, min, max))
                cells.append(f"{mean} ({low} to {high})")
            lines.append(f"| {name} | {len(scores)} | {solver} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder of torchvision's MNIST")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    args = parser.parse_args()
    images, labels = load_images("mnist", "train", source="torchvision", root=args.root)
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    key = ("name", "seed", "steps", "batch", "lr")
    done = {tuple(result[part] for part in key) for result in results}
    for seed in range(args.seeds):
        for name in VARIANTS:
            if (name, seed, args.steps, args.batch, args.lr) in done:
                continue
            results.append(run(name, seed, args, images, labels))
            text = json.dumps(results, indent=1) + "\n"
            write_file(args.out, lambda temporary, text=text: temporary.write_text(text))
            print(json.dumps(results[-1]), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
