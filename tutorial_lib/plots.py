"""Pictures, each made by a pure function, and the one helper that shows them in a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .checkpoints import write_file
from .sampling import State
from .validate import check_int, check_tensor


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
