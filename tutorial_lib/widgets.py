"""Slider labs: a picture that follows its controls. Each lab is a pure function and this one thin layer."""

from __future__ import annotations

import base64
import gc
import html
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import torch
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from .evaluation import load_judge
from .noising import IdealDenoiser, NoiseSchedule
from .plots import Picture, attention_figure, digits_figure, image_grid, noising_figure, png_bytes, show
from .sampling import DEFAULT_GUIDANCE, GuidedDenoiser, State, ddim, dpmpp_2m, heun, initial_noise, sample, sample_loop
from .training import Progress
from .validate import check_choice, check_int

STRIP_WIDTH = 1100  # pixels that a static strip may be wide
LONGEST_STEP = 20.0  # seconds; a longer time between two steps of training was a pause


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
        box = kind(**limits, layout=widgets.Layout(width="13em"), style={"description_width": "initial"})
        widgets.link((control, "value"), (box, "value"))
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
            if isinstance(control, widgets.Dropdown):
                values = list(control.options)
            else:
                steps = round((control.max - control.min) / control.step)
                values = [control.min, control.min + steps // 2 * control.step, control.max]
            pictures = set()
            for value in values:
                control.value = value
                pictures.add(self.png)
            control.value = before
            named = ", ".join(f"{value:g}" if isinstance(value, int | float) else value for value in values)
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


def _slider(description: str, value: float, low: float, high: float, step: float = 1) -> widgets.ValueWidget:
    kind = widgets.IntSlider if isinstance(step, int) else widgets.FloatSlider
    limits = {"value": value, "min": low, "max": high, "step": step}
    return kind(**limits, description=description, readout=False, style={"description_width": "8em"})


def _choice(description: str, options: Sequence[str]) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=description, style={"description_width": "8em"})


@torch.no_grad()
def _read(image: Tensor) -> tuple[int, float]:
    """The digit that the judge sees in an image (1, H, W), and how sure it is, 0 to 1."""
    sure, digit = load_judge()(image[None].clamp(-1, 1).cpu()).softmax(1)[0].max(0)
    return int(digit), float(sure)


def _snr(t: float) -> str:
    if t in (0, 1):
        return "no noise" if t == 0 else "only noise"
    return f"signal-to-noise ratio {10 * math.log10(NoiseSchedule.cosine().snr(t)):.0f} dB"


def attention_lab(networks: dict[str, nn.Module], x_t: Tensor, t: float, labels: Tensor) -> Lab:
    """Where does a patch look? networks {name: denoiser} read x_t (1, 1, H, W) at time t with labels (1,)."""
    records = {name: model.attention_records(x_t, t, labels) for name, model in networks.items()}

    def render(query_patch: int, head: int, layer: int, attention: str) -> Frame:
        weights = records[attention][layer - 1].matrix[0, head - 1, query_patch]  # (N,)
        entropy = -(weights * weights.clamp_min(1e-12).log2()).sum().item()
        text = f"entropy {entropy:.1f} of {math.log2(len(weights)):.1f} bits, largest weight {weights.max():.2f}"
        alt = f"Attention map of patch {query_patch} over the digit: {attention}, layer {layer}, head {head}."
        return Frame(attention_figure(x_t[0], weights, query_patch), alt, text)

    layers, (_, heads, n, _) = len(next(iter(records.values()))), next(iter(records.values()))[0].matrix.shape
    return Lab(
        render,
        query_patch=_slider("Query patch", n // 2 + math.isqrt(n) // 2, 0, n - 1),
        head=_slider("Head", 1, 1, heads),
        layer=_slider("Layer", 1, 1, layers),
        attention=_choice("Attention", list(networks)),
    )


def noising_lab(images: Tensor, labels: Tensor) -> Lab:
    """What is left of a digit at each t? images (M, 1, H, W) are also all that the ideal denoiser knows."""
    schedule, ideal = NoiseSchedule.cosine(), IdealDenoiser(images)

    def render(noise_level: float, digit: int, seed: int) -> Frame:
        x0 = images[labels == digit][:1]  # (1, 1, H, W)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))  # (1, 1, H, W)
        x_t = schedule.add_noise(x0, noise_level, eps)  # (1, 1, H, W)
        text = f"{_snr(noise_level)}; the judge reads it as {_read(x_t[0])[0]}"
        alt = f"A {digit} at noise level {noise_level:g}, a histogram of its pixels, and the ideal denoiser's answer."
        return Frame(noising_figure(x_t[0], ideal(x_t, noise_level)[0]), alt, text)

    return Lab(
        render,
        noise_level=_slider("Noise level t", 0.5, 0.0, 1.0, 0.05),
        digit=_slider("Digit", 3, 0, 9),
        seed=_slider("Seed", 0, 0, 20),
    )


def sampling_lab(model: nn.Module) -> Lab:
    """A fresh digit at every move."""
    solvers = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}

    def render(digit: int, seed: int, steps: int, guidance: float, eta: float, solver: str) -> Frame:
        generator, start = torch.Generator().manual_seed(seed), time.perf_counter()
        denoise = GuidedDenoiser(model, torch.tensor([digit]), guidance)
        rule = ddim(eta) if solver == "ddim" else solvers[solver]()
        times = NoiseSchedule.cosine().timesteps(steps)  # (steps + 1,)
        *_, last = sample_loop(denoise, initial_noise(model, 1, generator), rule, times=times, generator=generator)
        timing = f", {1000 * (time.perf_counter() - start):.0f} ms"
        seen, sure = _read(last.x[0])
        note = "" if solver == "ddim" else " (Eta is for ddim alone)"
        text = f"{last.nfe} network evaluations{note}; asked for {digit}, read as {seen} by the judge ({sure:.0%} sure)"
        alt = f"A {digit} drawn by {solver}: {steps} step{'s' * (steps > 1)}, guidance {guidance:g}, seed {seed}."
        return Frame(digits_figure([last.x[0]], [f"{digit}, steps: {steps}"]), alt, text, timing)

    return Lab(
        render,
        digit=_slider("Digit", 3, 0, 9),
        seed=_slider("Seed", 0, 0, 50),
        steps=_slider("Steps", 10, 1, 50),
        guidance=_slider("Guidance", DEFAULT_GUIDANCE, 0.0, 6.0, 0.25),
        eta=_slider("Eta", 0.0, 0.0, 1.0, 0.1),
        solver=_choice("Solver", list(solvers)),
    )


def trajectory_lab(states: Sequence[State]) -> Lab:
    """One trajectory, step by step: what the sampler holds and what the network makes of it. States of one image."""

    def render(step: int) -> Frame:
        state = states[step]
        guess = torch.zeros_like(state.x) if state.x0 is None else state.x0  # (B, 1, H, W)
        seen = "no guess yet" if state.x0 is None else f"the judge reads the guess as {_read(guess[0])[0]}"
        text = f"t = {state.t:.2f}, {_snr(state.t)}, {state.nfe} network evaluations; {seen}"
        alt = f"After step {step}: the noisy picture on the left, the network's guess that led to it on the right."
        return Frame(
            digits_figure([state.x[0], guess[0]], [f"x at t = {state.t:.2f}", "the network's guess"]), alt, text
        )

    return Lab(render, step=_slider("Step", len(states) // 2, 0, len(states) - 1))


def morph_lab(model: nn.Module) -> Lab:
    """From one digit to another with the same noise: at every step the two guesses of the clean image are mixed."""

    def render(morph: float, digit: int, other: int, seed: int) -> Frame:
        guided = GuidedDenoiser(model, torch.tensor([digit, other]))

        def denoise(x: Tensor, t: float) -> Tensor:
            one, two = guided(torch.cat([x, x]), t).chunk(2)  # (1, 1, H, W) each
            return torch.lerp(one, two, morph)  # (1, 1, H, W)

        noise = initial_noise(model, 1, torch.Generator().manual_seed(seed))  # (1, 1, H, W)
        *_, last = sample_loop(denoise, noise)
        text = f"{1 - morph:.0%} {digit} and {morph:.0%} {other}: read as {_read(last.x[0])[0]}"
        alt = f"A picture {morph:.0%} of the way from {digit} to {other}, seed {seed}."
        return Frame(digits_figure([last.x[0]], [f"{morph:.0%} of the way to {other}"]), alt, text)

    return Lab(
        render,
        morph=_slider("Morph", 0.5, 0.0, 1.0, 0.1),
        digit=_slider("From digit", 1, 0, 9),
        other=_slider("To digit", 7, 0, 9),
        seed=_slider("Seed", 0, 0, 50),
    )


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
