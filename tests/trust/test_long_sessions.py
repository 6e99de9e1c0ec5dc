"""A kernel that is used all day does not grow: thousands of slider moves, training started again and again."""

from __future__ import annotations

import json
import sys

import pytest
from harness import Kernel

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

LABS = """
import gc, json, random
import matplotlib.pyplot as plt
import torch
from tutorial_lib import GuidedDenoiser, TrainConfig, initial_noise, load_images, sample_loop, train
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.runs import follow, new_run_folder
from tutorial_lib.training_view import TrainingView
from tutorial_lib.widgets import attention_lab, morph_lab, noising_lab, sampling_lab, trajectory_lab

def memory():
    gc.collect()
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    # Not the pages of files, which count as ours or not depending on who else has PyTorch open.
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Anonymous:", "Swap:"))) / 1024  # MB

torch.manual_seed(0)
images, labels = load_images(split="test")
network = EfficientTransformerDenoiser(dim=32, heads=2, layers=1, ff_dim=32).eval()
noise = initial_noise(network, 1)
labs = [
    attention_lab({"one": network}, images[:1], 0.3, labels[:1]),
    noising_lab(images, labels),
    sampling_lab(network),
    trajectory_lab(list(sample_loop(GuidedDenoiser(network, torch.tensor([3])), noise))),
    morph_lab(network),
]
"""
MOVES = """
chance, used, drawn = random.Random(0), [], 0
for move in range({moves}):
    lab = labs[move % len(labs)]
    slider = chance.choice([control for control in lab.controls.values() if hasattr(control, "max")])
    steps = round((slider.max - slider.min) / slider.step)
    before = lab.png
    slider.value = slider.min + chance.randrange(steps + 1) * slider.step
    drawn += lab.png is not before
    if move % {every} == {every} - 1:
        used.append(memory())
print(json.dumps([used, drawn, len(plt.get_fignums())]))
"""
RESTARTS = """
used = []
for restart in range({restarts}):
    model, view = EfficientTransformerDenoiser(), TrainingView(steps={steps}, frames=2, redraws=2)
    display(view)
    config = TrainConfig.fast(steps={steps}, batch_size=16)
    steps = train(model, images, labels, config)
    progress = follow(steps, new_run_folder("runs", "again") / "checkpoint.pt", view=view)
    used.append(memory())
print(json.dumps([used, progress.step, len(plt.get_fignums())]))
"""


def _slope(used: list[float]) -> float:
    """MB a reading, by least squares, without the first third, in which caches fill."""
    used = used[len(used) // 3 :]
    middle, mean = (len(used) - 1) / 2, sum(used) / len(used)
    spread = sum((i - middle) ** 2 for i in range(len(used)))
    return sum((i - middle) * (value - mean) for i, value in enumerate(used)) / spread


def _moves(kernel: Kernel, moves: int, every: int, allowed: float) -> None:
    text, error = kernel.run(MOVES.format(moves=moves, every=every))
    assert error is None, text
    used, drawn, figures = json.loads(text)
    kilobytes = 1000 * _slope(used) / every
    print(f"{moves:,} moves, {drawn:,} pictures: {used[0]:.0f} to {used[-1]:.0f} MB, {kilobytes:+.1f} kB a move")
    assert drawn > 0.7 * moves  # a slider that stays where it is draws nothing
    assert figures == 0 and kilobytes < allowed


def _restarts(kernel: Kernel, restarts: int, allowed: float) -> None:
    text, error = kernel.run(RESTARTS.format(restarts=restarts, steps=4))
    assert error is None, text
    used, step, figures = json.loads(text)
    print(f"{restarts} restarts: {used[0]:.0f} to {used[-1]:.0f} MB, {_slope(used):+.2f} MB a restart")
    assert step == 4 and figures == 0 and _slope(used) < allowed


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path, OMP_NUM_THREADS="1") as kernel:
        text, error = kernel.run(LABS)
        assert error is None, text
        yield kernel


@linux
def test_a_hundred_moves_and_six_restarts(kernel):
    # A forgotten figure is 300 kB and a forgotten network with its optimiser 12 MB; the rest is the allocator's noise.
    _moves(kernel, 100, every=10, allowed=150)
    _restarts(kernel, 6, allowed=8)


@linux
@pytest.mark.slow
def test_a_thousand_moves_and_twenty_restarts(kernel):
    _moves(kernel, 1000, every=50, allowed=20)
    _restarts(kernel, 20, allowed=1)


def test_the_slope_is_seen():
    assert _slope([5, 5, 5, 5, 5, 5]) == 0
    assert _slope([9, 9, 1, 2, 3, 4]) == pytest.approx(1)
