"""Image size: at how many pixels does a whole training step with linear attention begin to pay?

    python -m tests.benchmarks.image_size --out runs/image_size.json

One training step (forward, backward, AdamW) for one image, on all the threads that PyTorch takes: linear attention
(double softmax) against PyTorch's fused softmax attention (SDPA), both with the local branch, in turn. Sizes 16 to 128
at patch 2, and patches 1 and 4 beside it. `ms` is the median; `saved` what the step keeps for its backward pass, the
weights not counted, exactly; `peak` what three steps add to the peak memory of a fresh process, network and optimizer
included. The exponent p of n**p is fitted to patch 2 and n >= 1,024. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.common import alternate, crossover, fit_exponent, in_fresh_process, machine, markdown
from tutorial_lib import EfficientTransformerDenoiser, NoiseSchedule, diffusion_loss
from tutorial_lib.checkpoints import write_file

WAYS = {"double_softmax": "linear", "softmax": "SDPA"}
SIZES = (16, 24, 32, 48, 64, 96, 128)
PAIRS = tuple((size, patch) for patch in (2, 1, 4) for size in SIZES if size // patch <= 64)  # up to 4,096 tokens
ROUNDS, WARMUP, PATIENCE = 200, 2, 25.0  # rounds, and seconds after which a row makes do with fewer
LARGE = 1024  # tokens from which the exponent is fitted
UNITS = {"ms": "time", "saved": "kept memory", "peak": "peak memory"}


def training_step(attention: str, size: int, patch: int) -> tuple[EfficientTransformerDenoiser, Callable[[], None]]:
    """A fresh network and a call that makes one training step with one image. As in notebook 06."""
    torch.manual_seed(0)
    model = EfficientTransformerDenoiser(image_size=size, patch_size=patch, attention=attention)
    optimizer = torch.optim.AdamW(model.parameters())
    x0, eps = torch.randn(2, 1, 1, size, size)  # (1, 1, H, W) each
    t, labels = torch.tensor([0.5]), torch.tensor([3])  # (1,), (1,)

    def step() -> None:
        optimizer.zero_grad()
        diffusion_loss(model, NoiseSchedule.cosine(), x0, t, eps, labels).backward()
        optimizer.step()

    return model, step


def saved_bytes(model: torch.nn.Module, step: Callable[[], None]) -> int:
    """Bytes that a step keeps for its backward pass: each storage once, weights not counted."""
    weights, kept = {p.data_ptr() for p in model.parameters()}, []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)  # so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        step()
    sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    return sum(size for address, size in sizes.items() if address not in weights)


PEAK = """
import sys, psutil
from tests.benchmarks.common import peak_bytes
from tests.benchmarks.image_size import training_step
training_step("softmax", 4, 2)[1]()  # libraries loaded, threads started
before = psutil.Process().memory_info().rss
step = training_step(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))[1]
for _ in range(3):
    step()
print(max(0, peak_bytes() - before))
"""


def measured(size: int, patch: int, shrink: float = 1) -> list[dict[str, Any]]:
    """The rows of one size and patch, one for each attention."""
    steps = {name: training_step(name, size, patch) for name in WAYS}
    saved = {name: saved_bytes(*pair) for name, pair in steps.items()}
    costs = alternate(
        {name: step for name, (_, step) in steps.items()}, max(3, round(ROUNDS / shrink)), WARMUP, PATIENCE / shrink
    )
    return [
        {
            "group": "image size",
            "attention": name,
            "size": size,
            "patch": patch,
            "tokens": (size // patch) ** 2,
            "ms": 1e3 * costs[name]["median"],
            "saved": saved[name],
            "peak": int(in_fresh_process(PEAK, name, str(size), str(patch))),
        }
        for name in WAYS
    ]


def tables(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, the exponents, and the sizes from which linear attention is so many times faster."""
    by = {(row["size"], row["patch"], row["attention"]): row for row in rows}
    pairs = list(dict.fromkeys((row["size"], row["patch"]) for row in rows))
    cells = []
    for size, patch in pairs:
        linear, softmax = by[size, patch, "double_softmax"], by[size, patch, "softmax"]
        memory = [f"{row[key] / 1e6:.0f}" for key in ("saved", "peak") for row in (linear, softmax)]
        times = f"{linear['ms']:.1f}", f"{softmax['ms']:.1f}", f"{softmax['ms'] / linear['ms']:.2f}"
        cells.append((size, patch, f"{linear['tokens']:,}", *times, *memory))
    head = ("size", "patch", "tokens", "linear, ms a step", "SDPA, ms a step", "linear, times faster")
    megabytes = ("linear, MB kept", "SDPA, MB kept", "linear, MB at the peak", "SDPA, MB at the peak")
    lines = [markdown((*head, *megabytes), cells), ""]
    for name, called in WAYS.items():
        large = [row for row in rows if (row["attention"], row["patch"]) == (name, 2) and row["tokens"] >= LARGE]
        if len(large) > 1:
            tokens = [row["tokens"] for row in large]
            fits = [f"{word} n^{fit_exponent(tokens, [row[key] for row in large]):.2f}" for key, word in UNITS.items()]
            lines.append(f"{called}, {min(tokens):,} to {max(tokens):,} tokens: {', '.join(fits)}")
    for factor in (1, 1.5, 3):
        for patch in sorted({patch for _, patch in pairs}):
            sizes = sorted(size for size, own in pairs if own == patch)
            softmax = [by[size, patch, "softmax"]["ms"] for size in sizes]
            linear = [factor * by[size, patch, "double_softmax"]["ms"] for size in sizes]
            found = crossover(sizes, softmax, linear)
            where = (
                "at no size here" if found is None else f"from {found:.0f} pixels ({(found / patch) ** 2:,.0f} tokens)"
            )
            lines.append(f"linear at least {factor:g} times faster, patch {patch}: {where}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file of rows (JSON)")
    parser.add_argument("--shrink", type=float, default=1, help="divide sizes and times by this: a try, not a result")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size, patch in PAIRS:
        if size <= max(SIZES) / args.shrink:
            rows += measured(size, patch, args.shrink)
            print(f"  {size} pixels, patch {patch} done", flush=True)
    write_file(args.out, lambda temporary: temporary.write_text(json.dumps(rows, indent=1) + "\n"))
    m = machine()
    print(f"\n{m['processor']} ({m['instructions']}), {m['threads']} threads, torch {m['torch']}, {m['date']}\n")
    print(tables(rows))


if __name__ == "__main__":
    main()
