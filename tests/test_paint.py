"""The grid to paint on and the three labs of notebook 05, without a browser (tests/browser has one)."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
import torch

from tutorial_lib import GuidedDenoiser, KnownPixels, edit, initial_noise, load_images, sample_loop
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.editing_labs import PARTS, edit_lab, fill_lab, hidden_part, paint_lab
from tutorial_lib.paint import PaintGrid, ink_of


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = EfficientTransformerDenoiser(dim=16, heads=2, layers=2, ff_dim=16).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture(scope="module")
def digits():
    return load_images("mnist", "test")


PAINTINGS = {"a bar": torch.full((1, 16, 16), -1.0), "nothing": torch.full((1, 16, 16), -1.0)}
PAINTINGS["a bar"][0, 3:13, 8] = 1.0


def drawn(frame) -> list[torch.Tensor]:
    return [torch.as_tensor(image.get_array()) for image in frame.figure.axes[0].images]


def test_a_grid_begins_white_and_takes_ink_of_the_right_size():
    grid = PaintGrid(4)
    assert grid.value == [0.0] * 16
    grid.value = [0.5] * 16
    assert grid.value == [0.5] * 16
    with pytest.raises(ValueError, match="value must have ink from 0 to 1; got values from 0 to 2"):
        grid.value = [0.0] * 15 + [2.0]
    with pytest.raises(ValueError, match=r"value must be a floating-point tensor of shape \(16,\); got .* \(9,\)"):
        grid.value = [0.0] * 9
    with pytest.raises(ValueError, match="side must be a whole number of at least 1; got 0"):
        PaintGrid(0)


def test_ink_runs_from_white_to_black():
    assert ink_of(torch.tensor([[[-1.0, 0.0], [1.0, 1.5]]])) == [0.0, 0.5, 1.0, 1.0]


def test_the_browser_part_is_inline_and_asks_no_network():
    code = PaintGrid._esm if isinstance(PaintGrid._esm, str) else str(PaintGrid._esm)
    assert "export default { render }" in code
    assert not re.search(r"https?:|\bimport\b|fetch\(|XMLHttpRequest", code)


def test_every_lab_moves_with_every_control(model, digits):
    labs = {
        "Noise level t, Digit, Denoise as, Seed": edit_lab(model, *digits),
        "Digit, Fill in as, Seed, Hidden": fill_lab(model, *digits),
        "Painting, Noise level t, Finish as, Seed": paint_lab(model, PAINTINGS),
    }
    for names, panel in labs.items():
        lines = panel.rehearse()
        assert ", ".join(line.split(":")[0] for line in lines) == names
        for line in lines:
            values, count = re.fullmatch(r".*?: (.*): (\d) different pictures", line).groups()
            assert int(count) == len(values.split(", ")), line
    assert plt.get_fignums() == []


def test_edit_lab_draws_what_edit_draws(model, digits):
    images, labels = digits
    _, frame = edit_lab(model, images, labels).frame(noise_level=0.5, digit=4, target=9, seed=7)
    real = images[labels == 4][:1]
    states = list(edit(model, real, 0.5, torch.tensor([9]), generator=torch.Generator().manual_seed(7)))
    assert all(map(torch.equal, drawn(frame), (real[0, 0], states[0].x[0, 0], states[-1].x[0, 0])))
    assert frame.text.startswith("signal-to-noise ratio 0 dB, 6 network evaluations; the judge reads the result as ")
    assert re.fullmatch(r" \(\d+% sure\)", frame.timing)


def test_fill_lab_draws_only_what_is_hidden(model, digits):
    images, labels = digits
    _, frame = fill_lab(model, images, labels).frame(digit=7, target=2, seed=3, hidden="left half")
    real = images[labels == 7][:1]
    noise = initial_noise(model, 1, torch.Generator().manual_seed(3))
    known = torch.arange(16) >= 8
    *_, last = sample_loop(KnownPixels(GuidedDenoiser(model, torch.tensor([2])), real, known), noise)
    whole, part, filled = drawn(frame)
    assert torch.equal(filled, last.x[0, 0]) and torch.equal(filled[:, 8:], whole[:, 8:])
    assert (part[:, :8] == 0).all() and torch.equal(part[:, 8:], whole[:, 8:])


def test_hidden_parts():
    sums = {name: hidden_part(name, 16).sum().item() for name in PARTS}
    assert sums == {"lower half": 128, "upper half": 128, "left half": 128, "right half": 128, "middle": 64}
    assert hidden_part("lower half", 16)[8:].all() and hidden_part("left half", 16)[:, :8].all()
    assert hidden_part("middle", 16)[4:12, 4:12].all()


def test_a_stroke_draws_another_picture(model):
    panel = paint_lab(model, PAINTINGS)
    assert panel.controls["painting"].value == ink_of(PAINTINGS["a bar"])
    before = panel.png
    panel.controls["painting"].value = [1.0] * 256
    assert panel.png != before
    _, frame = panel.frame(noise_level=0.0)
    assert all(torch.equal(picture, torch.ones(16, 16)) for picture in drawn(frame))
