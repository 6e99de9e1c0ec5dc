"""The settings of a training run: from the command line, or from the checkpoint that it goes on from."""

from __future__ import annotations

import argparse
from typing import Any

from .evaluation import reference_statistics
from .judge import JUDGES
from .training import TrainConfig
from .validate import check_int, check_number

RECIPES = {"fast": TrainConfig.fast, "published": TrainConfig.published}
DEFAULTS = {"recipe": "fast", "data": "mnist", "source": "embedded", "size": 16, "batch": 128, "seed": 0}
LENGTHS, SWITCHES = ("epochs", "steps", "minutes"), ("bf16", "compile")
SIZES = range(4, 129, 2)  # pixels: what `load_images` makes and patches of 2x2 divide


def settings_of(args: argparse.Namespace, state: dict[str, Any] | None) -> dict[str, Any]:
    """The run's settings: the checkpoint's when resuming, else the arguments over the defaults."""
    names = (*DEFAULTS, *LENGTHS, *SWITCHES)
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if state is None:
        return {**DEFAULTS, **given}
    run = {**DEFAULTS, **state["run"]}  # older checkpoints do not name every setting
    for name, value in given.items():
        if run.get(name) != value:
            raise ValueError(
                f"--resume goes on with the run's own settings: --{name} was "
                f"{run.get(name, 'not given')}, got {value}; leave it out, or choose another --out"
            )
    return run


def judge_of(run: dict[str, Any]) -> str:
    """The name of the judge for the run's pictures; there need not be one."""
    return run["data"] if run["size"] == 16 else f"{run['data']}_{run['size']}"


def check_settings(run: dict[str, Any], args: argparse.Namespace) -> None:
    """Raises ValueError for what would otherwise fail after the folder is made, or only when all the work is done."""
    if run["size"] not in SIZES:
        raise ValueError(
            f"--size must be an even number from {SIZES[0]} to {SIZES[-1]}, for patches of 2x2 pixels; "
            f"got {run['size']}"
        )
    check_int(run["batch"], "--batch")
    if args.save_every is not None:
        check_number(args.save_every, "--save-every", 0.0)
    if args.score and judge_of(run) in JUDGES:  # for other numbers no floor was measured
        floors = reference_statistics(judge_of(run)).floors
        check_int(args.score, "--score", min(floors), max(floors))
