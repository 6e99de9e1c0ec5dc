"""What the benchmarks share: the command line, the file of results, timing in turns, the arithmetic behind tables."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tutorial_lib.checkpoints import write_file

EVALUATIONS = 10  # of the network for each digit, in every comparison
ROOT = Path(__file__).parents[2]


def steps_for(evaluations: int, guidance_scale: float) -> int:
    """How many sampling steps so many network evaluations buy: a guided step costs two."""
    return evaluations if guidance_scale == 1 else evaluations // 2


def fit_exponent(n: Sequence[float], cost: Sequence[float]) -> float:
    """The p of cost = c * n**p that fits best (least squares in logarithms)."""
    x, y = [math.log(value) for value in n], [math.log(value) for value in cost]
    return statistics.linear_regression(x, y).slope


def crossover(n: Sequence[float], a: Sequence[float], b: Sequence[float]) -> float | None:
    """Where b becomes, and stays, cheaper than a: straight lines in logarithms between the measured n.

    None if b is not cheaper at the largest n; the smallest n if it is cheaper everywhere.
    """
    ahead = [math.log(before / after) for before, after in zip(a, b, strict=True)]  # > 0: b is cheaper
    if ahead[-1] <= 0:
        return None
    for (n0, d0), (n1, d1) in reversed(list(pairwise(zip(n, ahead, strict=True)))):
        if d0 <= 0:
            return math.exp(math.log(n0) + (math.log(n1) - math.log(n0)) * -d0 / (d1 - d0))
    return float(n[0])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def show(cost: dict[str, float], scale: float = 1e3, digits: int = 1) -> str:
    """A spread as text, e.g. seconds as milliseconds: 12.3 (12.1 to 12.9)."""
    median, low, high = (f"{scale * cost[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def alternate(
    calls: dict[str, Callable[[], object]], rounds: int, warmup: int = 2, seconds: float = math.inf
) -> dict[str, dict[str, float]]:
    """Seconds of each call, all in turn, so that the machine's moods hit everyone alike; `warmup` rounds do not count.

    Ends early, but not before three rounds, when so many seconds are over.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for done in range(rounds + warmup):
        if done >= warmup + 3 and time.perf_counter() - begun > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: spread(values[warmup:]) for name, values in times.items()}


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def peak_bytes() -> int:
    """The most memory this process ever had. Linux's own ru_maxrss would also count what the parent had before exec."""
    if sys.platform == "linux":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_fresh_process(code: str, *arguments: str) -> str:
    """The last line that a piece of Python prints in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "date": date.today().isoformat(),
    }


class Results:
    """One JSON file: {part: its results}. Each part is written as soon as it is done, and not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def save(self, part: str, result: dict[str, Any]) -> None:
        self.parts[part] = {"machine": machine(), **result}
        text = json.dumps(self.parts, indent=1) + "\n"
        write_file(self.path, lambda temporary: temporary.write_text(text))


def arguments(description: str) -> argparse.ArgumentParser:
    """The options of every part."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder of torchvision's MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"), help="the file of results")
    parser.add_argument("--shrink", type=float, default=1, help="divide times and counts by this: a try, not a result")
    parser.add_argument("--again", action="store_true", help="measure finished parts once more")
    parser.add_argument("--install", action="store_true", help="startup: also install everything on a bare environment")
    return parser


def run_part(name: str, module: Any, args: argparse.Namespace) -> None:
    """Measures a part unless its results are there, then prints its tables."""
    results = Results(args.out)
    start = time.perf_counter()
    if args.again or not results.parts.get(name, {}).get("complete"):
        module.run(args, results)
        results.save(name, {**results.parts[name], "complete": True, "minutes": (time.perf_counter() - start) / 60})
    part = results.parts[name]
    m = part["machine"]
    print(f"\n## {name}\n")
    print(
        f"{m['processor']} ({m['instructions']}), {m['cores']} cores, {m['threads']} threads, {m['system']}, Python "
        f"{m['python']}, torch {m['torch']}, {m['date']}; {part['minutes']:.1f} minutes.\n"
    )
    print(module.tables(part), flush=True)
