"""How good are the digits of the shipped weights? Every solver and guidance scale at 10 steps, beside real digits.

    python -m tests.benchmarks.quality --root data --count 10000

Prints a Markdown table. `--root` is torchvision's folder of the full MNIST, to compare with all its training images.
"""

from __future__ import annotations

import argparse

import torch

from tutorial_lib.checkpoints import load_model, load_pretrained
from tutorial_lib.data import load_images
from tutorial_lib.evaluation import labels_like_test_set, nearest_training_images, score
from tutorial_lib.sampling import DEFAULT_GUIDANCE, DEFAULT_SOLVER, SOLVERS, sample

COPY_CHECK = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--weights")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, DEFAULT_GUIDANCE, 1.25, 1.5, 2.0])
    parser.add_argument("--interval", type=float, nargs=2, default=(0.0, 1.0), help="times at which guidance acts")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    model = load_model(args.weights) if args.weights else load_pretrained("mnist")
    labels, default = labels_like_test_set(args.count), None  # (n,)
    print("| solver | guidance | class agreement | Frechet distance | in floors | diversity, share of real |")
    print("|---|---|---|---|---|---|")
    for name in args.solvers:
        for scale in dict.fromkeys(args.guidance):
            generator = torch.Generator().manual_seed(args.seed)
            options = {"guidance_scale": scale, "guidance_interval": tuple(args.interval), "generator": generator}
            images = sample(model, labels, solver=SOLVERS[name](), **options).cpu()
            s = score(images, labels)
            print(
                f"| {name} | {scale:g} | {s.agreement:.2%} | {s.frechet:.4f} | {s.frechet_in_floors:.2f} | "
                f"{s.diversity_share:.1%} |",
                flush=True,
            )
            if (name, scale, *args.interval) == (DEFAULT_SOLVER, DEFAULT_GUIDANCE, 0.0, 1.0):
                default = images[:COPY_CHECK]
    if default is None:
        return
    training, _ = load_images("mnist", "train", source="torchvision", root=args.root)
    test, _ = load_images("mnist", "test", source="torchvision", root=args.root)
    drawn, held_out = (nearest_training_images(x, training)[0].median().item() for x in (default, test[:COPY_CHECK]))
    print(
        f"\nMedian distance to the nearest of {len(training):,} training images, {COPY_CHECK:,} each: generated "
        f"(default) {drawn:.3f}, held-out real {held_out:.3f}, ratio {drawn / held_out:.3f}"
    )


if __name__ == "__main__":
    main()
