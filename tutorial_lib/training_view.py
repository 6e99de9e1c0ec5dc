"""A training run to watch in a notebook."""

from __future__ import annotations

import base64
import math
import time
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor, nn

from .plots import image_grid, png_bytes, show
from .sampling import sample
from .training import Progress
from .validate import check_int

LONGEST_STEP = 20.0  # seconds; a longer time between two steps of training was a pause


class TrainingView(widgets.VBox):
    """A training run to watch: bar, loss, speed, and the ten digits redrawn `redraws` times. Give it to `follow`."""

    def __init__(self, steps: int, frames: int = 5, redraws: int = 20) -> None:
        check_int(steps, "steps")
        self.bar = widgets.IntProgress(max=steps, description="Training")
        self.text, self.picture = widgets.HTML("starting"), widgets.HTML()
        self.losses: list[tuple[int, float]] = []
        self.frames: dict[int, Tensor] = {}
        self.kept = {max(1, round(steps * i / frames)) for i in range(1, frames + 1)}
        self.drawn = self.kept | {max(1, round(steps * i / redraws)) for i in range(1, redraws + 1)}
        self.started, self.last = (0.0, 0), -math.inf  # (when, at which step) the clock began; time of the last step
        super().__init__([self.bar, self.text, self.picture])

    def __call__(self, progress: Progress) -> None:
        now, step = time.perf_counter(), progress.step
        if now - self.last > LONGEST_STEP:  # the first step, or the first one after a pause
            self.started = now, step - 1
        self.last = now
        speed = (step - self.started[1]) / max(1e-9, now - self.started[0])
        self.bar.value = step
        self.losses.append((step, progress.loss))
        if step % 5 == 0 or step == progress.steps:
            left = (progress.steps - step) / speed
            images = speed * progress.config.batch_size
            self.text.value = f"step {step:,}, loss {progress.loss:.3f}, {images:.0f} images/s, {left:.0f} s left"
        if step in self.drawn:
            digits = draw_ten(progress.ema)  # (10, 1, H, W)
            png = base64.b64encode(png_bytes(image_grid(digits, 10), dpi=80)).decode()
            alt = f"The digits 0 to 9 as the network draws them after {step} steps."
            self.picture.value = f'<img alt="{alt}" src="data:image/png;base64,{png}">'
            if step in self.kept:
                self.frames[step] = digits

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        text = "A training run to watch: progress bar, loss and ten digits. (Run this cell to see it.)"
        return {**super()._repr_mimebundle_(**options), "text/plain": text}

    def strip(self) -> None:
        """Shows the kept frames for good: one row a moment of the training, one column a digit."""
        steps = sorted(self.frames)
        images = torch.cat([self.frames[step] for step in steps])  # (frames * 10, 1, H, W)
        figure = image_grid(images, 10, [f"step {step}" for step in steps], [str(digit) for digit in range(10)])
        show(figure, alt=f"The digits 0 to 9 after {', '.join(map(str, steps))} steps of training, one row each.")


def draw_ten(model: nn.Module) -> Tensor:
    """The digits 0 to 9 from always the same noise, with the defaults: (10, C, H, W) on the CPU."""
    return sample(model, torch.arange(10), generator=torch.Generator().manual_seed(0)).cpu()
