"""Time and memory on this machine: attention cores against SDPA, whole modules, one digit, peak memory.

    python -m tests.benchmarks.speed

Alternates the rivals in one process and prints medians and ratios as Markdown.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from tutorial_lib.attention import FEATURE_MAPS, LinearAttention, SoftmaxAttention, _linear_attention
from tutorial_lib.checkpoints import load_pretrained
from tutorial_lib.sampling import DEFAULT_GUIDANCE, DEFAULT_SOLVER, sample

TOKENS = (64, 256, 1024, 4096)
HEADS, WIDTH = 4, 32


def alternate(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each rival, in turn, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds + 2):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def both_ways(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[[], None]:
    """Forward and backward with all gradients."""
    leaves = [x.clone().requires_grad_() for x in inputs]

    def call() -> None:
        out = function(*leaves)
        out.backward(torch.ones_like(out))

    return call


def attention() -> None:
    names = (*FEATURE_MAPS, "SDPA", "best linear, times faster", "module, times faster")
    print("| n | " + " | ".join(names) + " |")
    print("|---" * 7 + "|")
    generator = torch.Generator().manual_seed(0)
    for n in TOKENS:
        batch = max(1, 8192 // n)
        q, k, v = (torch.randn(batch, HEADS, n, WIDTH, generator=generator) for _ in range(3))  # (B, h, N, d)
        # The core without its input checks, as the modules call it and as SDPA comes.
        rivals = {name: both_ways(partial(_linear_attention, feature_map=name), q, k, v) for name in FEATURE_MAPS}
        rivals["SDPA"] = both_ways(F.scaled_dot_product_attention, q, k, v)
        core = alternate(rivals, rounds=15)
        tokens = torch.randn(batch, n, HEADS * WIDTH, generator=generator)  # (B, N, D)
        modules = {"linear": LinearAttention(), "softmax": SoftmaxAttention()}
        whole = alternate({name: both_ways(module, tokens) for name, module in modules.items()}, rounds=9)
        best = min(core[name] for name in FEATURE_MAPS)
        cells = " | ".join(f"{1e3 * core[name]:.2f} ms" for name in rivals)
        print(f"| {n} | {cells} | {core['SDPA'] / best:.2f} | {whole['softmax'] / whole['linear']:.2f} |", flush=True)


def one_digit() -> None:
    model, label = load_pretrained("mnist", "cpu"), torch.tensor([3])
    scales = {"not guided": 1.0, "guided": 2.0, "default": DEFAULT_GUIDANCE}
    calls = {name: partial(sample, model, label, guidance_scale=scale) for name, scale in scales.items()}
    for name, seconds in alternate(calls, rounds=25).items():
        print(f"One digit, {DEFAULT_SOLVER}, 10 steps, {name}: {1e3 * seconds:.1f} ms")
    print(f"(the default guidance is {DEFAULT_GUIDANCE:g})")


MEMORY = """
import resource, sys, tempfile
from tutorial_lib.__main__ import main
with tempfile.TemporaryDirectory() as folder:
    code = main([*sys.argv[1:], "--out", folder + "/out" + (".png" if sys.argv[1] == "sample" else "")])
scale = 1 if sys.platform == "darwin" else 1024
print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9:.2f} GB: {' '.join(sys.argv[1:])}")
sys.exit(code)
"""


def memory() -> None:
    for arguments in (["sample"], ["train", "--steps", "20"]):
        done = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True)
        print(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    attention()
    print()
    one_digit()
    memory()
