"""The command line: `python -m tutorial_lib train`, `sample` and `doctor`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from .checkpoints import load_model, load_pretrained, pick_device
from .plots import save_figure, trajectory_figure
from .runs import draw, run_train
from .sampling import DEFAULT_GUIDANCE, DEFAULT_SOLVER, SOLVERS
from .settings import RECIPES
from .validate import check_int, check_labels


def parser() -> argparse.ArgumentParser:
    """The arguments, with help that a beginner understands."""
    main = argparse.ArgumentParser(prog="python -m tutorial_lib", description="Turn noise into handwritten digits.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser("sample", help="draw digits with a trained network and save a picture")
    add = sub.add_argument
    add("--digit", type=int, choices=range(10), metavar="0-9", help="draw only this digit (default: all ten)")
    add("--count", type=int, default=1, metavar="N", help="rows per digit (default: 1)")
    add("--steps", type=int, default=10, metavar="N", help="denoising steps from noise to digit (default: 10)")
    add("--guidance", type=float, default=DEFAULT_GUIDANCE, metavar="X",
        help="how strongly to follow the label: 0 not at all, 1 plainly (default: %(default)s)")  # fmt: skip
    add("--solver", choices=SOLVERS, default=DEFAULT_SOLVER, help="the step rule (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="same seed, same picture (default: 0)")
    add("--weights", metavar="FILE",
        help="a model.safetensors, or the word mine: your newest run (default: the shipped weights)")  # fmt: skip
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the fastest one here)")
    add("--out", default="digits.png", metavar="FILE.png", help="the picture (default: digits.png)")

    sub = commands.add_parser(
        "train",
        help="train a network from scratch; can be stopped with Ctrl-C and resumed",
        epilog="Writes into --out: checkpoint.pt, and at the end model.safetensors, scores.json, digits.png.",
    )
    add, add_length = sub.add_argument, sub.add_mutually_exclusive_group().add_argument
    add("--recipe", choices=RECIPES, help="fast: good digits soonest; published: the original (default: fast)")
    add("--source", choices=["embedded", "torchvision"],
        help="embedded: 4,000 images inside; torchvision: all 60,000, downloaded (default: embedded)")  # fmt: skip
    add("--data", choices=["mnist", "fashion_mnist"], help="digits or clothes (default: mnist)")
    add("--root", metavar="FOLDER", help="where the torchvision download is or goes (default: data)")
    add("--size", type=int, metavar="N", help="side of the pictures in pixels, an even number (default: 16)")
    add("--batch", type=int, metavar="N", help="pictures in a step (default: 128)")
    add_length("--epochs", type=int, metavar="N", help="passes over the images (default: 30)")
    add_length("--steps", type=int, metavar="N", help="or: batches to train on")
    add_length("--minutes", type=float, metavar="X", help="or: measure this machine, then fix steps for X minutes")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the fastest one here)")
    add("--bf16", action="store_true", default=None, help="compute in bfloat16: faster where the device can")
    add("--compile", action="store_true", default=None, help="torch.compile: slow start, perhaps faster steps")
    add("--seed", type=int, metavar="N", help="start of all random numbers (default: 0)")
    add("--save-every", type=float, metavar="SECONDS", help="from checkpoint to checkpoint (default: 50)")
    add("--score", type=int, metavar="N", help="digits drawn and scored at the end, 0: none (default: 2000)")
    add("--out", metavar="FOLDER", help="where the run's files go (default: runs/DATA-RECIPE)")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")

    commands.add_parser("doctor", help="check versions, memory, data, weights and the notebook front end")
    return main


def run_sample(args: argparse.Namespace) -> int:
    """`sample`: the picture of this system, ten rows from noise to digit."""
    device, count = pick_device(args.device), check_int(args.count, "--count")
    if Path(args.out).suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png; got {args.out!r}")
    named = args.weights in (None, "mine")
    model = load_pretrained(args.weights or "mnist", device) if named else load_model(args.weights, device)
    digits = list(range(model.num_classes)) if args.digit is None else [args.digit]
    labels = check_labels(torch.tensor(digits), "--digit", None, model.num_classes).repeat_interleave(count)  # (B,)
    start = time.perf_counter()
    states = draw(model, labels, args.steps, args.guidance, args.solver, args.seed)
    path = save_figure(trajectory_figure(states, labels), args.out)
    print(f"{len(labels)} images, {args.solver}, {args.steps} steps, guidance {args.guidance:g}, {states[-1].nfe} "
          f"network evaluations each, {time.perf_counter() - start:.1f} s: {path}")  # fmt: skip
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; a mistake in the input ends with one clear line and exit status 2."""
    args = parser().parse_args(arguments)
    try:
        if args.command == "doctor":
            from .doctor import run_doctor

            return run_doctor()
        return run_sample(args) if args.command == "sample" else run_train(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
