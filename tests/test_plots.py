"""Pictures: the right pixels in the right place, and a text for those who do not see them."""

from __future__ import annotations

import io

import matplotlib.image
import pytest
import torch

from tutorial_lib.plots import Picture, image_grid, png_bytes, save_figure, show, subplots, trajectory_figure
from tutorial_lib.sampling import State


def mosaic(figure):
    return figure.axes[0].images[0].get_array()


def test_grid_puts_each_image_in_its_place():
    images = torch.linspace(-1, 1, 5 * 6).reshape(5, 1, 2, 3)  # (5, 1, 2, 3)
    pixels = mosaic(image_grid(images, columns=2))
    assert pixels.shape == (3 * 3, 2 * 4)
    for i in range(5):
        row, column = divmod(i, 2)
        assert pixels[3 * row : 3 * row + 2, 4 * column : 4 * column + 3].tolist() == images[i, 0].tolist()
    assert (pixels[2::3] == -1).all() and (pixels[:, 3::4] == -1).all()  # white lines between the images
    assert (pixels[6:, 4:] == -1).all()  # no sixth image


def test_grid_labels_rows_and_columns():
    figure = image_grid(torch.zeros(4, 1, 3, 3), 2, ["a", "b"], ["c", "d"])
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["c", "d"]


def test_three_channels_take_light_from_white_paper():
    images = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -1], [0, 0, 3]])[:, :, None, None]  # (4, 3, 1, 1)
    pixels = mosaic(image_grid(images, columns=4))  # (2, 8, 3): white, black, no red, half red and green
    assert pixels[0, ::2].tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 1], [0.5, 0.5, 0]]
    assert (pixels[1] == 1).all() and (pixels[:, 1::2] == 1).all()  # white lines between the images


def test_grid_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match=r"images must have 1 or 3 channels, .*; got shape \(4, 2, 8, 8\)"):
        image_grid(torch.zeros(4, 2, 8, 8), 2)
    with pytest.raises(ValueError, match=r"images must be .* \(B, C, H, W\); got .* \(4, 8, 8\)"):
        image_grid(torch.zeros(4, 8, 8), 2)
    with pytest.raises(ValueError, match="columns must be a whole number of at least 1; got 0"):
        image_grid(torch.zeros(4, 1, 8, 8), 0)


def states(count: int) -> list[State]:
    return [State(1 - i / (count - 1), torch.full((2, 1, 2, 2), i / 100), None, i) for i in range(count)]


def test_trajectory_has_a_row_a_digit_and_a_column_a_state():
    figure = trajectory_figure(states(4), torch.tensor([7, 3]))
    assert mosaic(figure)[[0, 0, 0, 0, 3], [0, 3, 6, 9, 9]].tolist() == pytest.approx([0, 0.01, 0.02, 0.03, 0.03])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["7", "3"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["t = 1", "t = 0.67", "t = 0.33", "t = 0"]


def test_long_trajectories_keep_their_ends():
    pixels = mosaic(trajectory_figure(states(51), most_columns=6))
    assert pixels[0, ::3].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_png_is_the_same_every_time_and_a_picture(tmp_path):
    figures = [image_grid(torch.zeros(4, 1, 8, 8), 2) for _ in range(2)]
    assert png_bytes(figures[0]) == png_bytes(figures[1])
    path = save_figure(figures[0], tmp_path / "new" / "grid.png")
    assert path.read_bytes() == png_bytes(figures[0])
    assert matplotlib.image.imread(io.BytesIO(path.read_bytes())).ndim == 3
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_a_picture_carries_its_text_in_every_form():
    bundle, metadata = Picture(b"png", 'two < three & "four"')._repr_mimebundle_()
    assert metadata == {"image/png": {"alt": 'two < three & "four"'}}
    assert 'alt="two &lt; three &amp; &quot;four&quot;"' in bundle["text/html"]
    assert bundle["text/plain"] == 'Picture: two < three & "four"'
    assert bundle["image/png"] in bundle["text/html"]


def test_show_refuses_a_picture_without_text():
    with pytest.raises(ValueError, match="alt must be a sentence"):
        show(image_grid(torch.zeros(1, 1, 8, 8), 1), alt=" ")


def test_lines_differ_in_colour_and_in_dashes():
    figure, axes = subplots(2, 1, width=5, height=4)
    assert figure.get_size_inches().tolist() == [5, 4]
    lines = [axes[1].plot([0, 1])[0] for _ in range(5)]
    assert len({line.get_color() for line in lines}) == 5
    assert len({str(line._dash_pattern) for line in lines}) == 5
    assert subplots()[1].get_subplotspec() is not None  # one axes, not an array of one
