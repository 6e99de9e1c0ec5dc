"""The measured tables: what `tests/benchmarks/ablation.py` found, kept in one file that notebooks and README quote."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .checkpoints import ASSETS
from .validate import check_choice

RESULTS = ASSETS / "ablation.json"
SOLVER_NAMES = {"ddpm": "DDPM", "dpmpp_2m": "DPM-Solver++(2M)", "iterated": "its own output, ten times"}


@lru_cache(maxsize=1)
def load_results() -> list[dict[str, Any]]:
    """Every run of the shipped file: group, name, seed, steps, batch, lr, seconds, and the scores of each solver."""
    return json.loads(RESULTS.read_text())


def results_table(*groups: str, only: Sequence[str] = (), results: list[dict[str, Any]] | None = None) -> str:
    """A Markdown table of these groups of runs (or `only` some names in them): mean, lowest to highest over the seeds.

    Seconds are processor seconds of training on one core. Raises ValueError for a group or a name that has no runs.
    """
    results = load_results() if results is None else results
    for group in groups:
        check_choice(group, "group", {result["group"] for result in results})
    results = [result for result in results if result["group"] in groups]
    for name in only:
        check_choice(name, "only", {result["name"] for result in results})
    lines = [
        "| what was trained | seeds | seconds | solver | class agreement | Frechet distance, in floors |",
        "|---|---|---|---|---|---|",
    ]
    for name in only or dict.fromkeys(result["name"] for result in results):
        mine = [result for result in results if result["name"] == name]
        seconds = statistics.median(result["seconds"] for result in mine)
        for solver, solver_name in SOLVER_NAMES.items():
            scores = [result[solver] for result in mine if solver in result]
            if not scores:
                continue
            cells = []
            for key, form in (("agreement", "{:.1%}"), ("floors", "{:.1f}")):
                values = [one[key] for one in scores]
                mean, low, high = (form.format(f(values)) for f in (statistics.mean, min, max))
                cells.append(f"{mean} ({low} to {high})" if len(values) > 1 else mean)
            lines.append(f"| {name} | {len(scores)} | {seconds:.0f} | {solver_name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)
