"""The measured tables: what `tests/benchmarks` found, kept in files that notebooks and README quote.

"ablation" holds the trainings of `ablation.py`, "beyond" what `beyond.py` and `image_size.py` measured.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .checkpoints import ASSETS
from .validate import check_choice

RESULTS = {name: ASSETS / f"{name}.json" for name in ("ablation", "beyond")}
SHA256 = {  # of the files; new results, new line
    "ablation": "1f3ee6f04baed24e941bbd70d2399e533665a0b5524ed2c5397118ba7263e7c4",
    "beyond": "926dfc55e3083890d8f4ae4e3825c935712a936ebd0fdc31175f241613784a8e",
}
SOLVER_NAMES = {"ddpm": "DDPM", "dpmpp_2m": "DPM-Solver++(2M)", "iterated": "its own output, ten times"}


@lru_cache
def load_results(name: str = "ablation") -> list[dict[str, Any]]:
    """Every row of a shipped file, "ablation" or "beyond"; each names its group, its setting, and what was measured.

    Raises ValueError for another name and if the file is damaged.
    """
    check_choice(name, "name", RESULTS)
    content = RESULTS[name].read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise ValueError(f"{RESULTS[name]} is damaged, or new: its sha256 is {found}, not the one in results.py")
    return json.loads(content)


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
