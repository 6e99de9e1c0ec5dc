"""The slider labs of notebook 05: edit a real digit, fill in a hidden part, finish a painting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .editing import KnownPixels, edit
from .lab import Frame, Lab, choice, slider
from .paint import PaintGrid, ink_of
from .plots import lab_figure
from .sampling import GuidedDenoiser, State, initial_noise, sample_loop
from .widgets import _read, _snr

PARTS = ("lower half", "upper half", "left half", "right half", "middle")


def hidden_part(name: str, size: int) -> Tensor:
    """A mask (size, size), True where a picture is hidden; `name` is one of `PARTS`."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")  # (size, size) each
    half, quarter = size // 2, size // 4
    middle = ((row - half + 0.5).abs() < quarter) & ((column - half + 0.5).abs() < quarter)  # (size, size)
    return dict(zip(PARTS, (row >= half, row < half, column < half, column >= half, middle), strict=True))[name]


def _frame(pictures: list[Tensor], titles: list[str], last: State, alt: str, text: str = "") -> Frame:
    """Pictures (1, H, W), and what the last state cost and what the judge reads in it."""
    seen, sure = _read(last.x[0])
    text = f"{text}{last.nfe} network evaluations; the judge reads the result as {seen}"
    return Frame(lab_figure([*pictures, last.x[0]], titles)[0], alt, text, f" ({sure:.0%} sure)")


def _edited(model: nn.Module, name: str, image: Tensor, label: int, t: float, seed: int) -> Frame:
    states = list(edit(model, image[None], t, torch.tensor([label]), generator=torch.Generator().manual_seed(seed)))
    titles = [name, f"noise, t = {t:g}", f"denoised as {label}"]
    alt = f"{name}; the same with noise of t = {t:g}; the result, denoised as {label}, seed {seed}."
    return _frame([image, states[0].x[0]], titles, states[-1], alt, f"{_snr(t)}, ")


def edit_lab(model: nn.Module, images: Tensor, labels: Tensor) -> Lab:
    """From one real digit to another class. images (M, 1, H, W) with labels (M,) hold each digit at least once."""

    def render(noise_level: float, digit: int, target: int, seed: int) -> Frame:
        return _edited(model, f"A real {digit}", images[labels == digit][0], target, noise_level, seed)

    return Lab(
        render,
        noise_level=slider("Noise level t", 0.65, 0.0, 1.0, 0.05),
        digit=slider("Digit", 3, 0, 9),
        target=slider("Denoise as", 8, 0, 9),
        seed=slider("Seed", 0, 0, 50),
    )


def fill_lab(model: nn.Module, images: Tensor, labels: Tensor) -> Lab:
    """A part of a real digit is hidden, the network draws it. images (M, 1, H, W) and labels (M,) as in `edit_lab`."""

    def render(digit: int, target: int, seed: int, hidden: str) -> Frame:
        image = images[labels == digit][0]  # (1, H, W)
        away = hidden_part(hidden, image.shape[-1])  # (H, W)
        denoise = KnownPixels(GuidedDenoiser(model, torch.tensor([target])), image[None], ~away)
        *_, last = sample_loop(denoise, initial_noise(model, 1, torch.Generator().manual_seed(seed)))
        titles = [f"A real {digit}", "what is known", f"filled in as {target}"]
        alt = f"A real {digit}; the same with its {hidden} hidden in grey; the {hidden} filled in as {target}."
        return _frame([image, image.masked_fill(away, 0.0)], titles, last, alt)

    return Lab(
        render,
        digit=slider("Digit", 7, 0, 9),
        target=slider("Fill in as", 7, 0, 9),
        seed=slider("Seed", 0, 0, 50),
        hidden=choice("Hidden", PARTS),
    )


def paint_lab(model: nn.Module, paintings: dict[str, Tensor]) -> Lab:
    """The reader paints, the network finishes. `paintings` (1, H, W): examples by name; the first one is there already.

    A painting is edited like a real digit: noised to t and denoised as the class that was chosen.
    """
    examples, size = {name: ink_of(image) for name, image in paintings.items()}, model.embed.image_size

    def render(painting: list[float], noise_level: float, digit: int, seed: int) -> Frame:
        image = 2 * torch.tensor(painting).reshape(1, size, size) - 1  # (1, H, W)
        return _edited(model, "The painting", image, digit, noise_level, seed)

    return Lab(
        render,
        painting=PaintGrid(size, examples, value=next(iter(examples.values()))),
        noise_level=slider("Noise level t", 0.7, 0.0, 1.0, 0.05),
        digit=slider("Finish as", 7, 0, 9),
        seed=slider("Seed", 0, 0, 50),
    )
