"""Training speed: images a second, memory, how near to this machine's limit, and what eats the rest.

    python -m tests.benchmarks.training_speed --root data

The limit is the rate of one large float32 matrix product (2,048 x 2,048 x 2,048), measured in the same process, in turn
with the training steps; each row has a process of its own, because what `torch.compile` keeps for one would serve the
next. The work of a step is what PyTorch's FlopCounterMode counts in one forward pass, times 3, since
the backward pass costs about twice as much (as notebook 03 counts); the counter itself gives the backward pass of a
depthwise convolution too much. Softmax, norms, GELU, random numbers and the optimizer are no FLOPs in this count, so
100 % is out of reach. Peak memory is that of the process after three steps, libraries and data included.

The rows change one thing each: the ways PyTorch offers to make the same step faster, on the same batches.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.common import Results, arguments, in_fresh_process, markdown, run_part, show
from tests.benchmarks.quality_for_time import mnist
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.training import Progress, TrainConfig, train

PRODUCT = 2048
ROUNDS, WARMUP = 40, 3
PATIENCE = 15.0  # seconds after which a row makes do with fewer rounds
GROUPS = {  # the first group with a word that is in an operator's name gets its time
    "matrix products": ("addmm", "::mm", "bmm", "linear", "matmul"),
    "convolution": ("conv",),
    "attention's softmax": ("softmax",),
    "norms": ("layer_norm",),
    "GELU and SiLU": ("gelu", "silu"),
    "optimizer, clipping, EMA": ("adamw", "AdamW", "lerp", "foreach", "zero_grad"),
    "data": ("randn", "rand", "randperm", "normal_", "uniform_", "index", "random"),
    "copies": ("copy_", "clone", "contiguous", "cat", "fill_", "zero_"),
    "modulation, gates, sums": ("addcmul", "mul", "add", "sum", "sub", "div", "neg"),
}


def group_of(operator: str) -> str:
    return next((group for group, words in GROUPS.items() if any(word in operator for word in words)), "other")


def as_it_is(model: nn.Module) -> nn.Module:
    return model


def channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


# name: (what is done to the network, what is changed in the recipe)
OPTIONS: dict[str, tuple[Callable[[nn.Module], nn.Module], dict[str, bool]]] = {
    "eager, float32 (the default)": (as_it_is, {}),
    "weights channels-last": (channels_last, {}),
    "bf16 autocast": (as_it_is, {"bf16": True}),
    "torch.compile": (as_it_is, {"compile": True}),
    "torch.compile and bf16 autocast": (as_it_is, {"bf16": True, "compile": True}),
}


def fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself. Where it does not, PyTorch imitates it, and may be slower."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX512_BF16", "AMX") or any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def training(images: Tensor, labels: Tensor, option: str) -> Callable[[], Progress]:
    """A call that makes one step of a never-ending training."""
    change, recipe = OPTIONS[option]
    torch.manual_seed(0)
    config = TrainConfig.fast(steps=10**6, **recipe)
    return partial(next, train(change(EfficientTransformerDenoiser()), images, labels, config, device="cpu"))


def flops_of_step(batch: int) -> int:
    """FLOPs of one training step: three times those of the forward pass."""
    model = EfficientTransformerDenoiser()
    x, t, y = torch.zeros(batch, 1, 16, 16), torch.full((batch,), 0.5), torch.zeros(batch, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t, y)
    return 3 * counter.get_total_flops()


MEASURE = """
import json, sys, time
from functools import partial
import torch
from tests.benchmarks.common import alternate, peak_bytes
from tests.benchmarks.training_speed import PATIENCE, PRODUCT, WARMUP, training
from tutorial_lib.data import load_images
root, option, rounds, shrink = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
step = training(*load_images("mnist", "train", source="torchvision", root=root), option)
start = time.perf_counter()
step()
first = time.perf_counter() - start
for _ in range(2):
    step()
memory = peak_bytes()
product = partial(torch.mm, torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT))
seconds = alternate({"step": step, "product": product}, rounds, WARMUP, PATIENCE / shrink)
print(json.dumps({"first": first, "memory": memory, **seconds}))
"""


def profiled(step: Callable[[], Progress], steps: int) -> dict[str, float]:
    """Seconds a step of each group of operators: processor time of their own, without what they call."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        seconds[group_of(event.key)] += event.self_cpu_time_total / 1e6 / steps
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def run(args: argparse.Namespace, results: Results) -> None:
    rounds, batch = max(3, round(ROUNDS / args.shrink)), TrainConfig.fast().batch_size
    rows: dict[str, Any] = {}
    for option, (_, recipe) in OPTIONS.items():
        if len(recipe) == 2 and not fast_bf16():
            continue  # minutes of compiling for what is known to be slow here
        try:
            rows[option] = json.loads(in_fresh_process(MEASURE, args.root, option, str(rounds), str(args.shrink)))
        except RuntimeError as error:  # no compiler on this machine, say: the other rows still count
            rows[option] = {"failed": str(error).strip().splitlines()[-1][:200]}
        print(f"  {option} done", flush=True)
    results.save(
        "training_speed",
        {
            "batch": batch,
            "flops": flops_of_step(batch),
            "product_flops": 2 * PRODUCT**3,
            "rows": rows,
            "fast_bf16": fast_bf16(),
            "profile": profiled(training(*mnist(args), next(iter(OPTIONS))), max(2, round(10 / args.shrink))),
        },
    )


def tables(part: dict[str, Any]) -> str:
    rows, limits = [], []
    for option, row in part["rows"].items():
        if "failed" in row:
            rows.append((option, f"does not run here: {row['failed']}", "", "", "", ""))
            continue
        seconds, limit = row["step"]["median"], part["product_flops"] / row["product"]["median"]
        limits.append(limit)
        rows.append(
            (
                option,
                show(row["step"]),
                f"{part['batch'] / seconds:,.0f}",
                f"{part['flops'] / seconds / limit:.0%}",
                f"{row['memory'] / 1e9:.2f} GB",
                f"{row['first']:.1f} s",
            )
        )
    head = (
        *("step", "milliseconds, median (quartiles)", "images a second", "share of the limit", "peak memory"),
        "first step after",
    )
    total = sum(part["profile"].values())
    shares = [(group, f"{1e3 * s:.1f} ms", f"{s / total:.0%}") for group, s in part["profile"].items()]
    bf16 = "multiplies" if part["fast_bf16"] else "does not multiply"
    limit = statistics.median(limits) if limits else math.nan
    return "\n".join(
        [
            markdown(head, rows),
            "",
            f"Limit, a product of {PRODUCT:,} x {PRODUCT:,} matrices: {limit / 1e9:,.0f} GFLOP/s. A step of "
            f"{part['batch']} images: {part['flops'] / 1e9:.1f} GFLOP. This processor {bf16} bfloat16 itself.",
            "",
            markdown(("where a step's time goes (profiled)", "a step", "share"), shares),
        ]
    )


if __name__ == "__main__":
    import tests.benchmarks.training_speed as this

    run_part("training_speed", this, arguments(__doc__).parse_args())
