"""Pictures, each made by a pure function, and the one helper that shows them in a notebook."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .checkpoints import write_file
from .sampling import State
from .validate import check_int, check_tensor

# Told apart by colour-blind readers (Okabe and Ito) and, by their dashes, in black and white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
LINE_DASHES = ("-", "--", "-.", ":", (0, (1, 1)))
# For the last row of the room: start JupyterLab with TUTORIAL_PROJECTOR=1. Sizes of text follow "font.size".
PROJECTOR = {"font.size": 16, "lines.linewidth": 3, "lines.markersize": 9, "axes.linewidth": 1.6, "hatch.linewidth": 2}
if os.environ.get("TUTORIAL_PROJECTOR", "0") != "0":
    matplotlib.rcParams.update(PROJECTOR)


def _scale() -> float:
    """How much larger than usual text is, and with it every picture."""
    return matplotlib.rcParams["font.size"] / 10


def png_bytes(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as PNG bytes, without the date and version that would change from run to run."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> Path:
    """Writes the figure as a PNG file, whole or not at all."""
    return write_file(path, lambda temporary: temporary.write_bytes(png_bytes(figure, dpi)))


class Picture:
    """A figure for the notebook, with the text that a screen reader says (JupyterLab drops the alt of plain PNGs)."""

    def __init__(self, png: bytes, alt: str) -> None:
        self.png, self.alt = base64.b64encode(png).decode(), alt

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        alt = html.escape(self.alt)
        source = f"data:image/png;base64,{self.png}"
        data = {
            "text/html": f'<figure><img alt="{alt}" src="{source}"><figcaption>{alt}</figcaption></figure>',
            "image/png": self.png,
            "text/plain": f"Picture: {self.alt}",
        }
        return data, {"image/png": {"alt": self.alt}}  # where nbconvert looks for it


def show(figure: Figure, alt: str) -> None:
    """Shows a figure in the notebook as HTML with alt text and caption, as PNG, and as plain text."""
    if not alt.strip():
        raise ValueError("alt must be a sentence that says what the figure shows; got an empty one")
    from IPython.display import display

    display(Picture(png_bytes(figure), alt))


def subplots(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 3.2) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its axes, for `show`. Lines differ in colour and in dashes."""
    larger = _scale() ** 0.5  # the text grows more than the chart: screens are not endless
    figure = Figure(figsize=(larger * width, larger * height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for ax in np.atleast_1d(axes).flat:
        ax.set_prop_cycle(color=LINE_COLOURS, linestyle=LINE_DASHES)
    return figure, axes


def image_grid(
    images: Tensor, columns: int, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Figure:
    """Images (B, C, H, W) in [-1, 1] (others are cut off), row by row, labels at the edges; -1 is white paper.

    C = 1: ink from white to black. C = 3: how much red, green and blue light the ink takes away; 1, 1, 1 is black.
    """
    _, channels, height, width = check_tensor(images, "images", ("B", "C", "H", "W")).shape
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, (B, C, H, W); got shape {tuple(images.shape)}")
    rows = -(-len(images) // check_int(columns, "columns"))
    # One picture for all: a hundred small axes would take seconds to draw.
    mosaic = torch.full((rows * (height + 1), columns * (width + 1), channels), -1.0)  # (rows (H+1), columns (W+1), C)
    for i, image in enumerate(images.cpu()):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = image.movedim(0, 2)  # (H, W, C)
    size = _scale() * (0.62 * columns + 0.5), _scale() * (0.62 * rows + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.add_subplot(frame_on=False)
    pixels = mosaic[..., 0] if channels == 1 else ((1 - mosaic) / 2).clamp(0, 1)
    ax.imshow(pixels.numpy(), cmap="gray_r", vmin=-1, vmax=1)
    ax.set_xticks([(i + 0.5) * (width + 1) for i in range(len(column_labels))], column_labels, fontsize="small")
    ax.set_yticks([(i + 0.5) * (height + 1) for i in range(len(row_labels))], row_labels, fontsize="large")
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure


def trajectory_figure(states: Sequence[State], labels: Tensor | None = None, most_columns: int = 11) -> Figure:
    """The picture of this system: one row a digit, one column a state, from pure noise on the left to the clean digit.

    `states`: list(sample_loop(...)). Long trajectories are thinned to `most_columns` columns, the first and last kept.
    """
    if len(states) > most_columns:
        states = [states[round(i * (len(states) - 1) / (most_columns - 1))] for i in range(most_columns)]
    count = len(states[0].x)
    images = [state.x[i] for i in range(count) for state in states]  # rows x columns of (1, H, W)
    names = [] if labels is None else [str(int(label)) for label in labels]
    return image_grid(torch.stack(images), len(states), names, [f"t = {state.t:.2g}" for state in states])


def lab_figure(images: Sequence[Tensor | None], titles: Sequence[str], extra: float = 0.0) -> tuple[Figure, Axes]:
    """Pictures (1, H, W) under their titles, all in one pair of axes: each further pair would cost a slider 20 ms.

    The axes measure in picture sides: picture i fills i * 1.15 to i * 1.15 + 1. None leaves a frame empty; `extra`
    widens the figure on the right.
    """
    width, height = 1.15 * len(images) + extra, 1.3
    figure = Figure(figsize=(2.6 * _scale() * width, 2.6 * _scale() * height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        ax.text(1.15 * i + 0.5, -0.06, title, fontsize="large", ha="center", va="bottom")
        ax.add_patch(Rectangle((1.15 * i, 0), 1, 1, fill=False, edgecolor="0.7"))
        if image is not None:
            ax.imshow(image[0].cpu().numpy(), "gray_r", vmin=-1, vmax=1, extent=(1.15 * i, 1.15 * i + 1, 1, 0))
    ax.set(xlim=(-0.075, width - 0.075), ylim=(height - 0.22, -0.22))
    return figure, ax


def attention_figure(image: Tensor, weights: Tensor, query: int) -> Figure:
    """Where one patch looks: image (1, H, W), and over it the attention weights (N,) of patch number `query`.

    The colours go from 0 to the largest weight, or to 3/N if that is more; 1/N, looking everywhere alike, is marked.
    """
    n, side = len(weights), math.isqrt(len(weights))
    figure, ax = lab_figure([image, image], ["query patch, framed", "where it looks (no convolution)"], extra=0.35)
    top = max(weights.max().item(), 3 / n)
    colours = {"cmap": "viridis", "vmin": 0, "vmax": top, "alpha": 0.8}
    ax.imshow(weights.reshape(side, side).numpy(), extent=(1.15, 2.15, 1, 0), **colours)
    for left in (0, 1.15):
        corner = left + query % side / side, query // side / side
        ax.add_patch(Rectangle(corner, 1 / side, 1 / side, fill=False, edgecolor="#D55E00", linewidth=2.5))
    ax.imshow(np.linspace(top, 0, 100)[:, None], extent=(2.22, 2.28, 1, 0), **colours)  # the key to the colours
    for value, name in ((0, "0"), (1 / n, f"1/{n}"), (top, f"{top:.2g}")):
        ax.text(2.3, 1 - value / top, f"– {name}", fontsize="small", va="center")
    return figure


def noising_figure(x_t: Tensor, ideal: Tensor) -> Figure:
    """A noised picture (1, H, W), the histogram of its pixels, and the ideal denoiser's answer (1, H, W)."""
    figure, ax = lab_figure([x_t, None, ideal], ["noised picture", "its pixels", "ideal denoiser"])
    counts, edges = np.histogram(x_t.numpy(), bins=40, range=(-3, 3))
    # One shape: 40 bars would take ten times as long. Upwards is minus here, as for rows of pixels.
    ax.stairs(0.85 - 0.75 * counts / counts.max(), 1.65 + 0.15 * edges, baseline=0.85, fill=True, color=LINE_COLOURS[0])
    for value, name in ((-3, "-3"), (-1, "-1\nwhite"), (1, "1\nblack"), (3, "3")):
        ax.text(1.65 + 0.15 * value, 0.87, name, fontsize="small", ha="center", va="top")
    return figure
