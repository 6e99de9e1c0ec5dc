"""Sampling latency: how long do one digit and a hundred take, at 10 network evaluations for each?

    python -m tests.benchmarks.sampling_latency

Ours against both peers in both forms, all in turn in one process: 10 steps without guidance, each with the sampler that
it is meant for at few steps. The time of a sampler does not depend on the weights, so the networks are fresh ones.
Below, ours in other settings (two evaluations a guided step), and the memory of `python -m tutorial_lib sample`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.benchmarks.common import (
    EVALUATIONS,
    Results,
    alternate,
    arguments,
    in_fresh_process,
    markdown,
    run_part,
    show,
)
from tests.benchmarks.peers import RIVALS, parameters
from tutorial_lib.checkpoints import load_pretrained
from tutorial_lib.sampling import DEFAULT_GUIDANCE, sample

ROUNDS = {1: 15, 100: 7}  # of so many digits
PATIENCE = 60.0  # seconds after which a row makes do with fewer rounds
SAMPLERS = {
    "ours": ("DPM-Solver++(2M)",),
    "dit_own": ("gam 1.6",),
    "dit_small": ("gam 1.6",),
    "unet_own": ("DPM-Solver++(2M)", "DDIM"),
    "unet_small": ("DPM-Solver++(2M)", "DDIM"),
}
MEMORY = """
import tempfile
from tests.benchmarks.common import peak_bytes
from tutorial_lib.__main__ import main
with tempfile.TemporaryDirectory() as folder:
    assert main(["sample", "--out", folder + "/out.png"]) == 0
print(peak_bytes())
"""


def run(args: argparse.Namespace, results: Results) -> None:
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    for count, rounds in ROUNDS.items():
        count = max(1, round(count / args.shrink))
        labels, calls = torch.arange(count) % 10, {}  # (count,)
        for key, names in SAMPLERS.items():
            rival = RIVALS[key]()
            network = rival.fresh().eval()
            for name in names:
                generator = torch.Generator().manual_seed(0)
                label = f"{rival.name} ({parameters(network):,} parameters), {name}"
                calls[label] = partial(rival.samplers[name], network, labels, EVALUATIONS, 1.0, generator)
        seconds[str(count)] = alternate(calls, max(3, round(rounds / args.shrink)), 1, PATIENCE / args.shrink)
    model, settings = (
        load_pretrained("mnist", "cpu"),
        {"not guided": 1.0, f"guided {DEFAULT_GUIDANCE:g}, the default": DEFAULT_GUIDANCE},
    )
    guided: dict[str, Callable[[], object]] = {
        name: partial(sample, model, torch.tensor([3]), guidance_scale=scale) for name, scale in settings.items()
    }
    results.save(
        "sampling_latency",
        {
            "seconds": seconds,
            "guided": alternate(guided, max(3, round(25 / args.shrink))),
            "memory": int(in_fresh_process(MEMORY)),
        },
    )


def tables(part: dict[str, Any]) -> str:
    counts = list(part["seconds"])
    ours = {count: next(iter(part["seconds"][count].values()))["median"] for count in counts}
    rows = []
    for name in part["seconds"][counts[0]]:
        cells = [name]
        for count in counts:
            cost = part["seconds"][count][name]
            cells += [show(cost), f"{cost['median'] / ours[count]:.1f}"]
        rows.append(cells)
    head = ["10 evaluations a digit, milliseconds, median (quartiles)"]
    for count in counts:
        head += ["one digit" if count == "1" else f"{count} digits", "times ours"]
    lines = [f"Ours, one digit, 10 steps, {name}: {show(cost)} ms." for name, cost in part["guided"].items()]
    memory = f"Peak memory of `python -m tutorial_lib sample`: {part['memory'] / 1e9:.2f} GB."
    return "\n".join([markdown(head, rows), "", *lines, memory])


if __name__ == "__main__":
    import tests.benchmarks.sampling_latency as this

    run_part("sampling_latency", this, arguments(__doc__).parse_args())
