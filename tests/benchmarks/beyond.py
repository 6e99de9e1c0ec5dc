"""What guidance trades, what a solver gives for its evaluations, how good the pictures of 28 pixels are.

    python -m tests.benchmarks.beyond guidance --count 2000 --seeds 3
    python -m tests.benchmarks.beyond solvers --count 2000 --seeds 3
    python -m tests.benchmarks.beyond pictures --count 2000 --seeds 1
    python -m tests.benchmarks.beyond tables

Each draws from the shipped weights. A row that is already in the file is not measured again, so the script can be
stopped and started again. The new sha256 of the file belongs into tutorial_lib/results.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.common import markdown
from tutorial_lib.checkpoints import load_pretrained, write_file
from tutorial_lib.evaluation import labels_like_test_set, score
from tutorial_lib.results import RESULTS, SOLVER_NAMES
from tutorial_lib.sampling import SOLVERS, sample

SCALES = (0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
INTERVALS = ((1.5, (0.6, 0.85)), (2.0, (0.6, 0.85)), (3.0, (0.6, 0.85)))  # scale, times at which it acts
EVALUATIONS = (1, 2, 3, 5, 7, 10, 20, 50)
EVERYWHERE = (0.0, 1.0)
NAMES = {**SOLVER_NAMES, "ddim": "DDIM", "heun": "Heun"}
PICTURES = {"mnist_28": "MNIST, 28 pixels", "fashion_mnist_28": "Fashion-MNIST, 28 pixels"}


def settings(group: str) -> Iterator[dict[str, Any]]:
    """What is drawn, row by row: the names of `sample`'s arguments, the solver by its name."""
    if group == "guidance":
        for scale, interval in (*((scale, None) for scale in SCALES), *INTERVALS):
            yield {"name": "mnist", "solver": "dpmpp_2m", "steps": 10, "scale": scale, "interval": interval}
    elif group == "solvers":
        for evaluations in EVALUATIONS:
            for solver in SOLVERS:
                steps = (evaluations + 1) // 2 if solver == "heun" else evaluations  # k steps of Heun cost 2k - 1
                yield {"name": "mnist", "solver": solver, "steps": steps, "scale": 1.0, "interval": None}
    else:
        for name in ("mnist_28", "fashion_mnist_28"):
            for solver, scale in (("dpmpp_2m", 1.25), ("dpmpp_2m", 1.0), ("ddpm", 1.0)):
                yield {"name": name, "solver": solver, "steps": 10, "scale": scale, "interval": None}


def measure(setting: dict[str, Any], seed: int, count: int) -> dict[str, Any]:
    """Draws and scores; also the evaluations that one picture cost, counted."""
    model, calls = load_pretrained(setting["name"], "cpu"), []
    hook = model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    asked = labels_like_test_set(count, setting["name"].removesuffix("_28"))  # (n,)
    images = sample(
        model,
        asked,
        setting["steps"],
        SOLVERS[setting["solver"]](),
        setting["scale"],
        torch.Generator().manual_seed(100 + seed),
        guidance_interval=tuple(setting["interval"] or EVERYWHERE),
    )  # (n, 1, S, S)
    hook.remove()
    s = score(images, asked, setting["name"])
    return {
        "n": count,
        "nfe": round(sum(calls) / count),
        "agreement": round(s.agreement, 5),
        "agreement_real": round(s.agreement_real, 5),
        "frechet": round(s.frechet, 5),
        "floor": round(s.floor, 5),
        "floors": round(s.frechet_in_floors, 4),
        "diversity": round(s.diversity_share, 4),
    }


def mean_and_range(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    """The mean over the seeds, lowest and highest in brackets."""
    values = [row[key] for row in rows]
    mean, low, high = (form.format(f(values)) for f in (statistics.mean, min, max))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The Markdown tables of README, one a group."""

    def picked(**wanted: Any) -> list[dict[str, Any]]:
        return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]

    lines = {}
    lines["solvers"] = [
        [NAMES[solver], steps, picked(group="solvers", solver=solver, steps=steps)[0]["nfe"]]
        + [mean_and_range(picked(group="solvers", solver=solver, steps=steps), *cell) for cell in CELLS]
        for evaluations in (5, 10, 20)
        for solver in SOLVERS
        for steps in [(evaluations + 1) // 2 if solver == "heun" else evaluations]
    ]
    lines["guidance"] = [
        [f"{scale:g}" + (f", at t from {interval[0]} to {interval[1]} only" if interval else "")]
        + [picked(group="guidance", scale=scale, interval=interval)[0]["nfe"]]
        + [mean_and_range(picked(group="guidance", scale=scale, interval=interval), *cell) for cell in CELLS]
        for scale, interval in (*((scale, None) for scale in SCALES), *((s, list(i)) for s, i in INTERVALS))
    ]
    lines["pictures"] = [
        [PICTURES[row["name"]], f"{row['n']:,}", NAMES[row["solver"]], f"{row['scale']:g}", row["nfe"]]
        + [f"{row['agreement']:.2%}", f"{row['agreement_real']:.2%}", f"{row['agreement'] / row['agreement_real']:.1%}"]
        + [f"{row['frechet']:.3f}", f"{row['floor']:.3f}", f"{row['floors']:.2f}", f"{row['diversity']:.1%}"]
        for row in picked(group="pictures")
    ]
    return {group: markdown(HEADS[group], each) for group, each in lines.items()}


CELLS = (("agreement", "{:.1%}"), ("frechet", "{:.2f}"), ("floors", "{:.1f}"), ("diversity", "{:.0%}"))
SCORES = ["class agreement", "Frechet distance", "in floors", "diversity, share of real"]
HEADS = {
    "solvers": ["solver, not guided", "steps", "evaluations", *SCORES],
    "guidance": ["guidance scale", "evaluations", *SCORES],
    "pictures": ["pictures, 10 steps", "number", "solver", "guidance", "evaluations", "class agreement"]
    + ["of real ones", "share", "Frechet distance", "floor", "in floors", "diversity, share of real"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=("guidance", "solvers", "pictures", "tables"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS["beyond"])
    args = parser.parse_args()
    if args.group == "tables":
        print("\n\n".join(tables(json.loads(args.out.read_text())).values()))
        return
    torch.set_num_threads(args.threads)
    for seed in range(args.seeds):
        for setting in settings(args.group):
            rows = json.loads(args.out.read_text()) if args.out.exists() else []
            key = json.loads(json.dumps({"group": args.group, **setting, "seed": seed, "n": args.count}))
            if any(key.items() <= row.items() for row in rows):
                continue
            row = {**key, **measure(setting, seed, args.count)}
            rows.append(row)
            text = "[\n" + ",\n".join(json.dumps(each) for each in rows) + "\n]\n"
            write_file(args.out, lambda temporary, text=text: temporary.write_text(text))
            print(json.dumps(row), flush=True)
    print(f"sha256 of {args.out.name}: {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
