"""A slider lab: controls, a picture that follows them, and a line of text. One thin layer over a pure function."""

from __future__ import annotations

import base64
import gc
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from .plots import Picture, png_bytes
from .validate import check_choice

STRIP_WIDTH = 1100  # pixels that a static strip may be wide


@dataclass(frozen=True)
class Frame:
    """One state of a lab: the picture, its text for screen readers, the read-out, and what only holds just now."""

    figure: Figure
    alt: str
    text: str
    timing: str = ""


class Lab(widgets.VBox):
    """Controls, a picture and a line of text. `render(**values)` makes the `Frame` for the controls' values.

    Every slider has a number box of the same name, which screen readers can name and which takes exact values. An error
    in `render` is shown in the line of text and raised again: JupyterLab alone would hide it.
    """

    def __init__(self, render: Callable[..., Frame], **controls: widgets.ValueWidget) -> None:
        self.render, self.controls = render, controls
        self.picture, self.readout = widgets.HTML(), widgets.HTML()
        rows = [widgets.HBox([control, *self._number_box(control)]) for control in controls.values()]
        super().__init__([*rows, self.picture, self.readout])
        for control in controls.values():
            control.observe(self._draw, "value")
        self._draw()

    @staticmethod
    def _number_box(control: widgets.ValueWidget) -> list[widgets.ValueWidget]:
        if not isinstance(control, widgets.IntSlider | widgets.FloatSlider):
            return []
        kind = widgets.BoundedIntText if isinstance(control, widgets.IntSlider) else widgets.BoundedFloatText
        limits = {name: getattr(control, name) for name in ("value", "min", "max", "step", "description")}
        width = f"{max(13, 7 + 0.55 * len(control.description)):g}em"  # room for the name and six digits
        box = kind(**limits, layout=widgets.Layout(width=width), style={"description_width": "initial"})
        # The stock slider answers 1.2500000000000002 for 1.25, which nobody wants to read.
        widgets.link((control, "value"), (box, "value"), transform=(lambda value: round(value, 6), lambda value: value))
        return [box]

    def frame(self, **changes: Any) -> tuple[bytes, Frame]:
        """The picture as PNG, and the frame, for the controls' values with these `changes`."""
        for name in changes:
            check_choice(name, "control", self.controls)
        frame = self.render(**{name: control.value for name, control in self.controls.items()} | changes)
        return png_bytes(frame.figure, dpi=80), frame

    def _draw(self, change: object = None) -> None:
        try:
            png, frame = self.frame()
        except Exception as error:
            self.readout.value = f'<b role="alert">Could not draw: {html.escape(str(error))}</b>'
            raise
        self.png, source = png, f"data:image/png;base64,{base64.b64encode(png).decode()}"
        self.picture.value = f'<img alt="{html.escape(frame.alt)}" src="{source}">'
        self.readout.value = f'<span role="status">{html.escape(frame.text + frame.timing)}</span>'
        del frame
        gc.collect(1)  # a figure is a ring of references: without this, dozens would wait for the collector

    def rehearse(self) -> list[str]:
        """Moves each control to its lowest, a middle and its highest value and back; one line for each control."""
        lines = []
        for control in self.controls.values():
            before = control.value
            if hasattr(control, "rehearsal"):  # a painting
                values = control.rehearsal
            elif isinstance(control, widgets.Dropdown):
                values = {option: option for option in control.options}
            else:
                steps = round((control.max - control.min) / control.step)
                ends = control.min, control.min + steps // 2 * control.step, control.max
                values = {f"{value:g}": value for value in ends}
            pictures = set()
            for value in values.values():
                control.value = value
                pictures.add(self.png)
            control.value = before
            named = ", ".join(values)
            lines.append(f"{control.description}: {named}: {len(pictures)} different pictures")
        return lines

    def strip(self, control: str, values: Sequence[Any]) -> None:
        """Shows, side by side, the picture at each of these values of one control, and prints the read-outs."""
        frames = [self.frame(**{control: value}) for value in values]
        images = [Image.open(io.BytesIO(png)) for png, _ in frames]
        width, height = images[0].size
        columns = max(1, min(len(images), STRIP_WIDTH // width))
        sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
        for i, image in enumerate(images):
            sheet.paste(image, (i % columns * width, i // columns * height))
        buffer = io.BytesIO()
        sheet.save(buffer, "png")
        name = self.controls[control].description
        alt = f"{len(values)} frames of the lab, {name} {', '.join(map(str, values))}. First: {frames[0][1].alt}"
        display(Picture(buffer.getvalue(), alt))
        for value, (_, frame) in zip(values, frames, strict=True):
            print(f"{name} {value}: {frame.text}")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        png, frame = self.frame()
        bundle["text/plain"] = f"{frame.alt} {frame.text} (Run this cell to move the controls.)"
        bundle["image/png"] = base64.b64encode(png).decode()
        return bundle, {"image/png": {"alt": frame.alt}}


def slider(description: str, value: float, low: float, high: float, step: float = 1) -> widgets.ValueWidget:
    kind = widgets.IntSlider if isinstance(step, int) else widgets.FloatSlider
    limits = {"value": value, "min": low, "max": high, "step": step}
    return kind(**limits, description=description, readout=False, style={"description_width": "8em"})


def choice(description: str, options: Sequence[str]) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=description, style={"description_width": "8em"})
