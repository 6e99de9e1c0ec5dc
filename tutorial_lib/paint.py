"""A grid of pixels that the reader paints on, with the mouse or the keyboard. The part in the browser is paint.js."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor

from .validate import check_int, check_tensor


class PaintGrid(anywidget.AnyWidget):
    """side x side cells of ink from 0 (white paper) to 1 (black), row by row in `value`, sent when a stroke ends.

    Arrow keys move the cursor, Space or Enter paints, Delete or Backspace erases; the mouse paints, with Shift it
    erases. `rehearsal` names paintings that a rehearsal of the lab visits. Raises ValueError for ink out of range.
    """

    _esm = Path(__file__).with_name("paint.js").read_text(encoding="utf-8")
    side = traitlets.Int(16).tag(sync=True)
    description = traitlets.Unicode("Painting").tag(sync=True)
    value = traitlets.List(traitlets.Float()).tag(sync=True)

    def __init__(self, side: int = 16, rehearsal: dict[str, list[float]] | None = None, **traits: Any) -> None:
        traits.setdefault("value", [0.0] * check_int(side, "side") ** 2)
        self.rehearsal = rehearsal or {}
        super().__init__(side=side, **traits)

    @traitlets.validate("value")
    def _check(self, proposal: dict[str, Any]) -> list[float]:
        ink = torch.tensor(proposal["value"], dtype=torch.float64)  # (side * side,)
        if len(check_tensor(ink, "value", (self.side**2,))) and not 0 <= ink.min() <= ink.max() <= 1:
            raise ValueError(f"value must have ink from 0 to 1; got values from {ink.min():g} to {ink.max():g}")
        return proposal["value"]


def ink_of(image: Tensor) -> list[float]:
    """The cells' ink of an image (1, S, S) in [-1, 1]: what `PaintGrid` takes as its value."""
    return [round(ink, 2) for ink in ((image.clamp(-1, 1) + 1) / 2).flatten().tolist()]
