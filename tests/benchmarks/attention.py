"""Attention: what do softmax and linear attention cost as the tokens grow, and where do they cross?

    python -m tests.benchmarks.attention

The cores alone, 4 heads of 32 features, n tokens from 64 to 16,384: naive (the n x n matrix, written out), SDPA
(PyTorch's fused softmax attention) and linear attention with its three feature maps. Forward, and forward and backward
with all gradients; batches of 8,192 tokens in all (one sequence, if it is longer), all rivals in turn. Times are for
one sequence. Memory is what one sequence adds to the peak of a fresh process. The exponent p of n**p is fitted to
n >= 1,024; a crossover is where linear attention becomes and stays cheaper than SDPA, by straight lines between the
measured n in logarithms. Below, the whole modules with projections and local branch, where n is a square.
Where the naive matrices would not fit into half of the free memory, there is no figure.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.common import (
    Results,
    alternate,
    arguments,
    crossover,
    fit_exponent,
    in_fresh_process,
    markdown,
    run_part,
    show,
)
from tutorial_lib.attention import FEATURE_MAPS, LinearAttention, SoftmaxAttention, _linear_attention

TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MEMORY_TOKENS = (1024, 4096, 16384)
TOKENS_IN_ALL, HEADS, WIDTH, LARGE = 8192, 4, 32, 1024
ROUNDS, PATIENCE = 15, 4.0  # rounds, and seconds after which a row makes do with fewer
WAYS = {"forward": False, "forward and backward": True}


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with the whole matrix in memory."""
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v  # (B, h, N, d)


CORES: dict[str, Callable[..., Tensor]] = {
    "naive": naive,
    "SDPA": F.scaled_dot_product_attention,
    # Without the checks of its input, as the modules call it and as SDPA comes.
    **{name: partial(_linear_attention, feature_map=name) for name in FEATURE_MAPS},
}


def call_of(function: Callable[..., Tensor], *inputs: Tensor, backward: bool) -> Callable[[], None]:
    """A call, forward only or with all gradients."""
    leaves = [x.clone().requires_grad_(backward) for x in inputs]

    def call() -> None:
        with torch.set_grad_enabled(backward):
            out = function(*leaves)
            if backward:
                out.backward(torch.ones_like(out))

    return call


def fits(name: str, n: int) -> bool:
    """Whether the matrices fit: scores, weights, and the gradients of both, for at least one sequence."""
    batch = max(1, TOKENS_IN_ALL // n)
    return name != "naive" or 4 * 4 * batch * HEADS * n * n < psutil.virtual_memory().available / 2


MEMORY = """
import sys, psutil, torch
from tests.benchmarks.attention import CORES, HEADS, WIDTH, call_of
from tests.benchmarks.common import peak_bytes
name, n, backward = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
call_of(CORES[name], *torch.randn(3, 1, HEADS, 16, WIDTH), backward=backward)()  # libraries loaded, threads started
call = call_of(CORES[name], *torch.randn(3, 1, HEADS, n, WIDTH), backward=backward)
before = psutil.Process().memory_info().rss
call()
print(max(0, peak_bytes() - before))
"""


def run(args: argparse.Namespace, results: Results) -> None:
    generator = torch.Generator().manual_seed(0)
    rounds, patience = max(3, round(ROUNDS / args.shrink)), PATIENCE / args.shrink
    tokens = [n for n in TOKENS if n <= max(TOKENS) / args.shrink or n <= LARGE]
    seconds: dict[str, dict[str, dict[str, Any]]] = {way: {} for way in WAYS}
    modules: dict[str, dict[str, Any]] = {}
    for n in tokens:
        batch = max(1, TOKENS_IN_ALL // n)
        q, k, v = (torch.randn(batch, HEADS, n, WIDTH, generator=generator) for _ in range(3))  # (B, h, N, d)
        for way, backward in WAYS.items():
            calls = {name: call_of(core, q, k, v, backward=backward) for name, core in CORES.items() if fits(name, n)}
            costs = alternate(calls, rounds, warmup=1, seconds=patience)
            seconds[way][str(n)] = {
                name: {key: value / batch for key, value in cost.items()} for name, cost in costs.items()
            }
        if math.isqrt(n) ** 2 == n:
            x = torch.randn(batch, n, HEADS * WIDTH, generator=generator)  # (B, N, D)
            whole = {"linear": LinearAttention(), "softmax": SoftmaxAttention()}
            calls = {name: call_of(module, x, backward=True) for name, module in whole.items()}
            modules[str(n)] = alternate(calls, rounds, warmup=1, seconds=patience)
        print(f"  {n} tokens done", flush=True)
    memory = {
        way: {
            str(n): {
                name: int(in_fresh_process(MEMORY, name, str(n), str(backward))) for name in CORES if fits(name, n)
            }
            for n in MEMORY_TOKENS
            if n in tokens
        }
        for way, backward in WAYS.items()
    }
    results.save("attention", {"seconds": seconds, "modules": modules, "memory": memory})


def tables(part: dict[str, Any]) -> str:
    lines = []
    for way in WAYS:
        table = part["seconds"][way]
        rows = []
        for n, costs in table.items():
            best = min(costs[name]["median"] for name in FEATURE_MAPS)
            cells = [show(costs[name], digits=2) if name in costs else "" for name in CORES]
            rows.append((f"{int(n):,}", *cells, f"{costs['SDPA']['median'] / best:.1f}"))
        exponents, crossings = [], []
        for name in CORES:
            measured = [(int(n), costs[name]["median"]) for n, costs in table.items() if name in costs]
            large = [pair for pair in measured if pair[0] >= LARGE]
            exponents.append(f"{fit_exponent(*zip(*large, strict=True)):.2f}" if len(large) > 1 else "")
            if name in FEATURE_MAPS:
                n, own = zip(*measured, strict=True)
                here = crossover(n, [costs["SDPA"]["median"] for costs in table.values()], own)
                crossings.append("none" if here is None else f"{'<= ' * (here <= n[0])}{here:,.0f}")
            else:
                crossings.append("")
        rows += [("exponent", *exponents, ""), ("cheaper than SDPA from", *crossings, "")]
        head = (f"{way}, ms a sequence, median (quartiles)", *CORES, "best linear, times faster than SDPA")
        lines += [markdown(head, rows), ""]
    for way, table in part["memory"].items():
        rows = [
            (f"{int(n):,}", *(f"{costs[name] / 1e6:,.0f} MB" if name in costs else "" for name in CORES))
            for n, costs in table.items()
        ]
        lines += [markdown((f"{way}, memory of one sequence", *CORES), rows), ""]
    rows = [
        (
            f"{int(n):,}",
            show(costs["linear"]),
            show(costs["softmax"]),
            f"{costs['softmax']['median'] / costs['linear']['median']:.2f}",
        )
        for n, costs in part["modules"].items()
    ]
    head = ("whole module, forward and backward, ms a batch", "linear", "softmax", "linear, times faster")
    return "\n".join([*lines, markdown(head, rows)])


if __name__ == "__main__":
    import tests.benchmarks.attention as this

    run_part("attention", this, arguments(__doc__).parse_args())
