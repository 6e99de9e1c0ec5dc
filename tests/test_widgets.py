"""Slider labs without a browser: ipywidgets need no kernel to move."""

from __future__ import annotations

import base64
import io
import math
import re

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tutorial_lib import (
    GuidedDenoiser,
    NoiseSchedule,
    TrainConfig,
    ddim,
    initial_noise,
    load_images,
    sample,
    sample_loop,
    train,
)
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.lab import Frame, Lab
from tutorial_lib.training_view import TrainingView
from tutorial_lib.widgets import attention_lab, morph_lab, noising_lab, pictures_lab, sampling_lab, trajectory_lab


def small_network(**sizes) -> EfficientTransformerDenoiser:
    """A small network with weights other than 0, so that each control matters."""
    torch.manual_seed(0)
    network = EfficientTransformerDenoiser(dim=16, heads=2, layers=2, ff_dim=16, **sizes).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture(scope="module")
def model():
    return small_network()


@pytest.fixture(scope="module")
def digits():
    return load_images("mnist", "test")


@pytest.fixture(scope="module")
def states(model):
    noise = initial_noise(model, 1, torch.Generator().manual_seed(0))
    return list(sample_loop(GuidedDenoiser(model, torch.tensor([3])), noise))


@pytest.fixture
def displayed(monkeypatch):
    """What would be shown in a notebook."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr("tutorial_lib.lab.display", shown.append)
    return shown


def square(side: float, colour: str) -> Frame:
    if side > 3:
        raise RuntimeError(f"side {side} <is> too large")
    figure = Figure(figsize=(side, 1))
    figure.set_facecolor(colour)
    return Frame(figure, f"a {colour} square of {side:g}", f"side {side:g}", ", just now")


def lab() -> Lab:
    return Lab(
        square,
        side=widgets.FloatSlider(1.0, min=0.5, max=3.0, step=0.5, description="Side"),
        colour=widgets.Dropdown(options=["red", "white"], description="Colour"),
    )


def shown(lab: Lab) -> tuple[str, bytes]:
    alt, source = re.fullmatch(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]+)">', lab.picture.value).groups()
    return alt, base64.b64decode(source)


def test_a_move_draws_another_picture_and_read_out():
    panel = lab()
    alt, first = shown(panel)
    assert alt == "a red square of 1" and panel.readout.value == '<span role="status">side 1, just now</span>'
    assert Image.open(io.BytesIO(first)).size == (80, 80)
    panel.controls["side"].value = 2.0
    alt, second = shown(panel)
    assert alt == "a red square of 2" and Image.open(io.BytesIO(second)).size == (160, 80)
    panel.controls["colour"].value = "white"
    assert Image.open(io.BytesIO(shown(panel)[1])).convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    assert plt.get_fignums() == []


def test_every_slider_is_linked_to_a_number_box_of_its_name():
    panel = lab()
    slider, box = panel.children[0].children
    assert isinstance(box, widgets.BoundedFloatText)
    assert (box.description, box.min, box.max, box.step) == ("Side", 0.5, 3.0, 0.5)
    box.value = 2.5
    assert slider.value == 2.5 and shown(panel)[0] == "a red square of 2.5"
    slider.value = 1.5
    assert box.value == 1.5
    slider.value = 1.5000000000000002  # as the browser's slider rounds
    assert box.value == 1.5 and slider.value > 1.5
    assert len(panel.children[1].children) == 1  # a drop-down has a name of its own


def test_an_error_is_shown_and_raised_and_the_next_move_mends_it():
    panel = lab()
    panel.controls["side"].max = 4.0
    with pytest.raises(RuntimeError, match="too large"):
        panel.controls["side"].value = 3.5
    assert panel.readout.value == '<b role="alert">Could not draw: side 3.5 &lt;is&gt; too large</b>'
    panel.controls["side"].value = 1.0
    assert panel.readout.value.startswith('<span role="status">side 1')


def test_rehearsal_visits_the_ends_and_restores():
    panel, seen = lab(), []
    panel.controls["side"].observe(lambda change: seen.append(change["new"]), "value")
    assert panel.rehearse() == ["Side: 0.5, 1.5, 3: 3 different pictures", "Colour: red, white: 2 different pictures"]
    assert seen == [0.5, 1.5, 3.0, 1.0]
    assert shown(panel)[0] == "a red square of 1"


def test_rehearsal_counts_pictures_and_not_texts():
    panel = Lab(lambda side: square(1, "red"), side=widgets.IntSlider(0, min=0, max=4, description="Side"))
    assert panel.rehearse() == ["Side: 0, 2, 4: 1 different pictures"]


def test_strip_shows_frames_beside_each_other_and_leaves_the_controls_alone(displayed, capsys):
    panel = lab()
    panel.strip("side", [2.0, 2.0, 2.0])
    (picture,) = displayed
    assert Image.open(io.BytesIO(base64.b64decode(picture.png))).size == (480, 80)
    assert picture.alt == "3 frames of the lab, Side 2.0, 2.0, 2.0. First: a red square of 2"
    assert capsys.readouterr().out == "Side 2.0: side 2\n" * 3  # without what holds only just now
    assert panel.controls["side"].value == 1.0
    with pytest.raises(ValueError, match="control must be one of 'colour', 'side'; got 'size'"):
        panel.strip("size", [1])


def test_without_a_front_end_a_lab_is_a_picture_with_a_text():
    panel = lab()
    data, metadata = panel._repr_mimebundle_()
    assert data["text/plain"] == "a red square of 1 side 1 (Run this cell to move the controls.)"
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size == (80, 80)
    assert metadata == {"image/png": {"alt": "a red square of 1"}}
    assert "application/vnd.jupyter.widget-view+json" in data


def test_every_lab_moves_with_every_control(model, digits, states):
    images, labels = digits
    x_t = NoiseSchedule.cosine().add_noise(images[:1], 0.3, torch.randn(1, 1, 16, 16))
    softmax = EfficientTransformerDenoiser(dim=16, heads=2, layers=2, ff_dim=16, attention="softmax")
    larger = model, small_network(image_size=28)
    labs = {
        "Query patch, Head, Layer, Attention": attention_lab({"a": model, "b": softmax}, x_t, 0.3, labels[:1]),
        "Noise level t, Digit, Seed": noising_lab(images, labels),
        "Digit, Seed, Steps, Guidance, Eta, Solver": sampling_lab(model),
        "Data, Class, Seed, Guidance, Steps": pictures_lab(dict(zip(("mnist", "mnist_28"), larger, strict=True))),
        "Step": trajectory_lab(states),
        "Morph, From digit, To digit, Seed": morph_lab(model),
    }
    for names, panel in labs.items():
        lines = panel.rehearse()
        assert ", ".join(line.split(":")[0] for line in lines) == names
        for line in lines:
            values, count = re.fullmatch(r".*?: (.*): (\d) different pictures", line).groups()
            assert int(count) == len(set(values.split(", "))), line
    assert plt.get_fignums() == []


def test_attention_lab_reads_out_the_row_that_it_draws(model, digits):
    images, labels = digits
    panel = attention_lab({"double_softmax": model}, images[:1], 0.2, labels[:1])
    _, frame = panel.frame(query_patch=9, head=2, layer=1)
    row = model.attention_records(images[:1], 0.2, labels[:1])[0].matrix[0, 1, 9]
    entropy = -sum(w * math.log2(w) for w in row.tolist())
    assert frame.text == f"entropy {entropy:.1f} of 6.0 bits, largest weight {max(row.tolist()):.2f}"
    assert [slider.max for name, slider in panel.controls.items() if name != "attention"] == [63, 2, 2]


def test_noising_lab_names_both_ends(digits):
    panel = noising_lab(*digits)
    assert panel.frame(noise_level=0.0)[1].text.startswith("no noise; ")
    assert panel.frame(noise_level=1.0)[1].text.startswith("only noise; ")
    assert panel.frame(noise_level=0.5)[1].text.startswith("signal-to-noise ratio 0 dB; ")


def test_sampling_lab_draws_what_sample_loop_draws(model):
    panel = sampling_lab(model)
    _, frame = panel.frame(digit=5, seed=7, steps=4, guidance=2.0, eta=0.5, solver="ddim")
    assert frame.text.startswith("8 network evaluations; asked for 5, read as ") and frame.timing.endswith(" ms")
    generator = torch.Generator().manual_seed(7)
    times = NoiseSchedule.cosine().timesteps(4)
    denoise = GuidedDenoiser(model, torch.tensor([5]), 2.0)
    *_, last = sample_loop(denoise, initial_noise(model, 1, generator), ddim(0.5), times=times, generator=generator)
    drawn = frame.figure.axes[0].images[0].get_array()
    assert torch.equal(torch.as_tensor(drawn), last.x[0, 0])
    assert "(Eta is for ddim alone)" in panel.frame(solver="heun")[1].text


def test_pictures_lab_draws_the_class_that_it_names():
    network = small_network(image_size=28)
    panel = pictures_lab({"fashion_mnist_28": network})
    _, frame = panel.frame(label=7, seed=5, guidance=2.0, steps=3)
    assert frame.text.startswith("6 network evaluations; asked for Sneaker, read as ")
    assert frame.alt == "fashion_mnist_28: Sneaker, drawn in 3 steps, guidance 2, seed 5."
    drawn = torch.as_tensor(frame.figure.axes[0].images[0].get_array())  # (28, 28)
    wanted = sample(network, torch.tensor([7]), 3, guidance_scale=2.0, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, wanted[0, 0])


def test_morph_ends_are_the_two_digits(model):
    panel = morph_lab(model)
    drawn = {m: panel.frame(morph=m, digit=2, other=6)[1].figure.axes[0].images[0].get_array() for m in (0.0, 1.0)}
    for morph, label in ((0.0, 2), (1.0, 6)):
        noise = initial_noise(model, 1, torch.Generator().manual_seed(0))
        *_, last = sample_loop(GuidedDenoiser(model, torch.tensor([label])), noise)
        torch.testing.assert_close(torch.as_tensor(drawn[morph]), last.x[0, 0], atol=1e-4, rtol=0)


def test_training_view_keeps_frames_and_losses(digits, displayed):
    images, labels = digits
    network = EfficientTransformerDenoiser(dim=16, heads=2, layers=1, ff_dim=16)
    view = TrainingView(steps=6, frames=3, redraws=6)
    steps = list(train(network, images, labels, TrainConfig.fast(steps=6, batch_size=8), device="cpu"))
    for progress in steps:
        view(progress)
    assert view.bar.value == 6 and sorted(view.frames) == [2, 4, 6]
    assert view.losses == [(progress.step, progress.loss) for progress in steps]
    assert view.text.value.startswith(f"step 6, loss {steps[-1].loss:.3f}, ") and "0 s left" in view.text.value
    assert 'alt="The digits 0 to 9 as the network draws them after 6 steps."' in view.picture.value
    assert view._repr_mimebundle_()["text/plain"].startswith("A training run to watch")
    view.strip()
    assert "after 2, 4, 6 steps of training" in displayed[0].alt
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1; got 0"):
        TrainingView(0)


def test_training_view_does_not_count_a_pause(digits, monkeypatch):
    images, labels = digits
    network = EfficientTransformerDenoiser(dim=16, heads=2, layers=1, ff_dim=16)
    times = iter([100.0, 101.0, 500.0, 501.0, 502.0])
    monkeypatch.setattr("tutorial_lib.training_view.time.perf_counter", lambda: next(times))
    view = TrainingView(steps=5, frames=1, redraws=1)
    for progress in train(network, images, labels, TrainConfig.fast(steps=5, batch_size=8), device="cpu"):
        view(progress)
    assert "12 images/s" in view.text.value  # 3 steps of 8 in 2 seconds
