"""One training run in one folder: settings, progress bar, checkpoints, Ctrl-C, and at the end scores and a picture."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checkpoints import load_checkpoint, pick_device, save_checkpoint, save_model, write_file
from .data import load_images
from .denoiser import EfficientTransformerDenoiser
from .evaluation import labels_like_test_set, score
from .judge import JUDGES
from .noising import NoiseSchedule
from .plots import save_figure, trajectory_figure
from .sampling import (
    DEFAULT_GUIDANCE,
    DEFAULT_SOLVER,
    SOLVERS,
    GuidedDenoiser,
    State,
    initial_noise,
    sample,
    sample_loop,
)
from .settings import DEFAULTS, RECIPES, SWITCHES, check_settings, judge_of, settings_of
from .training import Progress, TrainConfig, train
from .validate import check_int, check_number
from .workers import from_first, joined, place, total

CHECKPOINT_SECONDS = 50.0
SCORED_DIGITS = 2000


def draw(
    model: EfficientTransformerDenoiser,
    labels: Tensor,
    steps: int = 10,
    guidance_scale: float = DEFAULT_GUIDANCE,
    solver: str = DEFAULT_SOLVER,
    seed: int = 0,
) -> list[State]:
    """The whole process for labels (B,): every state from pure noise to the clean image."""
    generator = torch.Generator().manual_seed(check_int(seed, "seed", 0, 2**63 - 1))
    times = NoiseSchedule.cosine().timesteps(steps)  # (steps + 1,)
    denoise = GuidedDenoiser(model, labels.to(next(model.parameters()).device), guidance_scale)
    noise = initial_noise(model, len(labels), generator)  # (B, C, H, W)
    return list(sample_loop(denoise, noise, SOLVERS[solver](), times=times, generator=generator))


def measured_steps(
    model: EfficientTransformerDenoiser,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    minutes: float,
    device: torch.device,
) -> int:
    """How many steps fit into so many minutes here: from the median time of a few steps on a copy of the network."""
    check_number(minutes, "minutes", 0.01, 1e6)
    times = [time.perf_counter()]
    for _ in train(copy.deepcopy(model), images, labels, dataclasses.replace(config, steps=15), device=device):
        times.append(time.perf_counter())
    seconds = sorted(after - before for before, after in zip(times[5:-1], times[6:], strict=True))
    return max(1, round(0.97 * 60 * minutes / seconds[len(seconds) // 2]))  # 3 % for checkpoints


def run_train(args: argparse.Namespace) -> int:
    """`train`: exit status 0 when the run is complete, 130 when it was stopped with Ctrl-C and saved."""
    with joined(pick_device(args.device)) as device:
        return _run_train(args, device)


def _run_train(args: argparse.Namespace, device: torch.device) -> int:
    first = place()[0] == 0  # the process that reads and writes the folder, and talks
    out = Path(args.out or f"runs/{args.data or DEFAULTS['data']}-{args.recipe or DEFAULTS['recipe']}")
    checkpoint, state = out / "checkpoint.pt", None
    if first and checkpoint.exists():
        if not args.resume:
            raise ValueError(f"--out must be a folder without a run; {out} holds one: add --resume, or choose another")
        state = load_checkpoint(checkpoint)
    elif first and args.resume:
        print(f"There is no checkpoint in {out}: starting afresh.")
    state = from_first(state)
    run = settings_of(args, state)
    check_settings(run, args)
    for turn in range(place()[1]):  # one process after the other, so that a download happens once
        if turn == place()[0]:
            images, labels = load_images(run["data"], "train", run["size"], run["source"], args.root)
        from_first(None)
    if first:
        out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found before any work
    torch.manual_seed(check_int(run["seed"], "seed", 0, 2**31 - 1))
    model = EfficientTransformerDenoiser(image_size=run["size"])
    if state is not None:
        config = TrainConfig(**state["config"])
    else:
        names = ("seed", "epochs", "steps", *SWITCHES)
        given = {name: run[name] for name in names if name in run}
        config = RECIPES[run["recipe"]](batch_size=run["batch"], **given)
        if "minutes" in run:
            steps = measured_steps(model, images, labels, config, run["minutes"], device)
            config = dataclasses.replace(config, steps=from_first(steps))
    if first:
        if state is not None:
            print(f"Going on from step {state['step']:,}.")
        print(
            f"{len(images):,} images ({run['data']}, {run['source']}), {config.total_steps(len(images)):,} steps of "
            f"{config.batch_size}, recipe {run['recipe']}, device {device.type}"
            f"{f' in {place()[1]} processes' if place()[1] > 1 else ''}, folder {out}"
        )
    steps = train(model, images, labels, config, device=device, resume=state)
    last = follow(steps, checkpoint, run, state, save_every=args.save_every)
    if last is not None and last.step < last.steps:
        if first:
            again = f"python -m tutorial_lib train --resume --out {out}"
            print(f"Stopped at step {last.step:,} and saved. Go on with: {again}")
        return 130
    if last is None:  # the checkpoint was already complete: nothing left to train
        model.load_state_dict(state["ema"])
    if first:
        finish(model if last is None else last.ema, out, run, args.score)
    return 0


def new_run_folder(parent: str | Path, name: str) -> Path:
    """Makes and returns parent/name-1, or -2, -3, ...: the first that is not there yet."""
    for number in itertools.count(1):
        folder = Path(parent) / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue


def follow(
    steps: Iterator[Progress],
    checkpoint: Path,
    run: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    view: Callable[[Progress], None] | None = None,
    save_every: float | None = None,
) -> Progress | None:
    """Runs the training with checkpoints, until the end or Ctrl-C (in JupyterLab: the stop button).

    A checkpoint is written every `save_every` seconds; with the training state it has the run's settings, the seconds
    and the losses of all its steps. `state` is the checkpoint that the training resumed from. Shows a progress bar, or
    calls `view` after each step. Returns the last progress, None if no step was left to do.
    """
    stopped, progress, bar, started, first = [], None, None, time.monotonic(), place()[0] == 0
    saved, seconds = started, state["seconds"] if state else 0.0
    save_every = CHECKPOINT_SECONDS if save_every is None else save_every
    losses = list(state.get("losses", [math.nan] * state["step"])) if state else []  # older checkpoints have none
    # Stopping in the middle of a step would leave half-updated weights: note it, finish the step, then save.
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: stopped.append(True)) for number in signals]
    try:
        for progress in steps:
            size = progress.config.batch_size
            losses.append(progress.loss)
            if view is not None:
                view(progress)
            elif bar is None and first:
                images, done = progress.steps * size, (progress.step - 1) * size
                bar = tqdm(total=images, initial=done, unit=" images", unit_scale=True, dynamic_ncols=True)
            if bar is not None:
                bar.set_postfix(loss=f"{progress.loss:.4f}", refresh=False)
                bar.update(size)
            now = time.monotonic()
            # All processes stop after the same step, or the others would wait for the one that stopped.
            stop = total(torch.tensor(len(stopped), device=next(progress.model.parameters()).device)) > 0
            due = stop or progress.step == progress.steps or now - saved > save_every
            if due and first:
                kept = {"run": run or {}, "seconds": seconds + now - started, "losses": losses}
                save_checkpoint({**progress.state(), **kept}, checkpoint)
                saved = now
            if stop:
                break
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
        if bar is not None:
            bar.close()
    return progress


def finish(model: EfficientTransformerDenoiser, out: Path, run: dict[str, Any], scored: int | None = None) -> None:
    """Final weights, picture and scores of a run, with the default solver and guidance; `scored` 0: no scores."""
    print(f"Weights: {save_model(model.eval(), out / 'model.safetensors', run=json.dumps(run))}")
    digits = torch.arange(model.num_classes)  # (10,)
    picture = save_figure(trajectory_figure(draw(model, digits), digits), out / "digits.png")
    print(f"Picture: {picture}")
    name, scored = judge_of(run), SCORED_DIGITS if scored is None else scored
    if name not in JUDGES:
        print(f"Scores: none; there is no judge for {run['data']} at {run['size']} pixels.")
        return
    if not scored:
        return
    labels = labels_like_test_set(scored, run["data"])  # (n,)
    scores = score(sample(model, labels, generator=torch.Generator().manual_seed(1)).cpu(), labels, name)
    text = json.dumps({**dataclasses.asdict(scores), "run": run}, indent=1) + "\n"
    write_file(out / "scores.json", lambda temporary: temporary.write_text(text))
    print(f"Scores ({DEFAULT_SOLVER}, 10 steps, guidance {DEFAULT_GUIDANCE:g}): {scores}")
