"""Pictures, each made by a pure function, and the one helper that shows them in a notebook."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .checkpoints import write_file
from .sampling import State
from .validate import check_int, check_tensor

# Told apart by colour-blind readers (Okabe and Ito) and, by their dashes, in black and white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
LINE_DASHES = ("-", "--", "-.", ":", (0, (1, 1)))
LAB_MARGINS = {"left": 0.03, "right": 0.9, "bottom": 0.17, "top": 0.88, "wspace": 0.12}


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
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for ax in np.atleast_1d(axes).flat:
        ax.set_prop_cycle(color=LINE_COLOURS, linestyle=LINE_DASHES)
    return figure, axes


def image_grid(
    images: Tensor, columns: int, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Figure:
    """Grey images (B, 1, H, W) in [-1, 1] (others are cut off), row by row, black on white, labels at the edges."""
    _, _, height, width = check_tensor(images, "images", ("B", 1, "H", "W")).shape
    rows = -(-len(images) // check_int(columns, "columns"))
    # One picture for all: a hundred small axes would take seconds to draw.
    mosaic = torch.full((rows * (height + 1), columns * (width + 1)), -1.0)  # (rows * (H + 1), columns * (W + 1))
    for i, image in enumerate(images.cpu()):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = image[0]
    figure = Figure(figsize=(0.62 * columns + 0.5, 0.62 * rows + 0.35), layout="constrained")
    ax = figure.add_subplot(frame_on=False)
    ax.imshow(mosaic.numpy(), cmap="gray_r", vmin=-1, vmax=1)
    ax.set_xticks([(i + 0.5) * (width + 1) for i in range(len(column_labels))], column_labels, fontsize=9)
    ax.set_yticks([(i + 0.5) * (height + 1) for i in range(len(row_labels))], row_labels, fontsize=12)
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


def small_figure(width: float, height: float, columns: int, titles: Sequence[str]) -> tuple[Figure, Any]:
    """A row of square axes without ticks, laid out by hand: constrained layout takes longer than a slider may."""
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, columns, squeeze=False, gridspec_kw=LAB_MARGINS)[0]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=11)
        ax.set_xticks([])
        ax.set_yticks([])
    return figure, axes


def digits_figure(images: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """One to three pictures (1, H, W) in [-1, 1] beside each other, each under its title, black on white."""
    figure, axes = small_figure(2.6 * len(images), 2.8, len(images), titles)
    for ax, image in zip(axes, images, strict=True):
        ax.imshow(image[0].cpu().numpy(), cmap="gray_r", vmin=-1, vmax=1)
    return figure


def attention_figure(image: Tensor, weights: Tensor, query: int) -> Figure:
    """Where one patch looks: image (1, H, W), and over it the attention weights (N,) of patch number `query`.

    The colours go from 0 to the largest weight, or to 3/N if that is more; 1/N, looking everywhere alike, is marked.
    """
    n, side = len(weights), math.isqrt(len(weights))
    patch = image.shape[-1] // side
    figure, axes = small_figure(5.6, 2.9, 2, ["query patch, framed", "where it looks (no convolution)"])
    top = max(weights.max().item(), 3 / n)
    spread = weights.reshape(side, side).repeat_interleave(patch, 0).repeat_interleave(patch, 1)  # (H, W)
    for ax in axes:
        ax.imshow(image[0].numpy(), cmap="gray_r", vmin=-1, vmax=1)
        corner = query % side * patch - 0.5, query // side * patch - 0.5
        ax.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor="#D55E00", linewidth=2.5))
    colours = axes[1].imshow(spread.numpy(), cmap="viridis", vmin=0, vmax=top, alpha=0.8)
    bar = figure.colorbar(colours, ax=axes[1], fraction=0.046, pad=0.04, ticks=[0, 1 / n, top])
    bar.ax.set_yticklabels(["0", f"1/{n}", f"{top:.2g}"])
    return figure


def noising_figure(x_t: Tensor, ideal: Tensor) -> Figure:
    """A noised picture (1, H, W), the histogram of its pixels, and the ideal denoiser's answer (1, H, W)."""
    figure, axes = small_figure(7.8, 2.9, 3, ["noised picture", "its pixels", "ideal denoiser"])
    for ax, image in ((axes[0], x_t), (axes[2], ideal)):
        ax.imshow(image[0].numpy(), cmap="gray_r", vmin=-1, vmax=1)
    axes[1].hist(x_t.flatten().numpy(), bins=40, range=(-3, 3), color=LINE_COLOURS[0])
    axes[1].set_xticks([-3, -1, 1, 3])
    axes[1].set_xlabel("pixel value, -1 white to 1 black", fontsize=9)
    return figure
