"""What travels with the package: small enough, complete, described, and as good as it claims."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from safetensors import safe_open

from tutorial_lib.checkpoints import ASSETS, PRETRAINED, load_pretrained
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.evaluation import class_agreement, labels_like_test_set, score
from tutorial_lib.results import load_results
from tutorial_lib.sampling import sample

PICTURES = ["fashion_mnist_28", "mnist_28"]


def test_assets_stay_small():
    sizes = {path.name: path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    assert sizes["mnist.safetensors"] <= 4e6
    assert sum(sizes.values()) <= 16e6


def test_nothing_in_the_assets_is_code():
    assert {path.suffix for path in ASSETS.rglob("*") if path.is_file()} <= {
        ".json",
        ".md",
        ".npz",
        ".png",
        ".safetensors",
    }


@pytest.mark.parametrize("name", ["mnist", *PICTURES])
def test_the_network_has_a_card_with_its_command(name):
    card = PRETRAINED[name].with_suffix(".md").read_text(encoding="utf-8")
    assert "python -m tutorial_lib train" in card
    for fact in ("seed", "data", "time", "machine", "class agreement", "Frechet distance"):
        assert fact in card, fact


@pytest.mark.parametrize("name", sorted(set(PRETRAINED) - {"mnist", *PICTURES}))
def test_networks_that_differ_in_the_attention_alone(name):
    model, attention = load_pretrained(name, "cpu"), name.removeprefix("attention_")
    assert f"`attention_{attention}`" in (ASSETS / "attention.md").read_text(encoding="utf-8")
    assert model.config == {**load_pretrained("mnist", "cpu").config, "attention": attention}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())  # stored in half of that
    labels = torch.arange(100) % 10  # (100,)
    images = sample(model, labels, generator=torch.Generator().manual_seed(0))  # (100, 1, 16, 16)
    assert class_agreement(images, labels) >= 0.85


@pytest.mark.parametrize("name", PICTURES)
def test_networks_that_differ_in_the_number_of_pixels_alone(name):
    """200 pictures, far from the card's 10,000: loose bounds that a broken sampler or wrong weights cannot meet."""
    model = load_pretrained(name, "cpu")
    assert model.config == {**load_pretrained("mnist", "cpu").config, "image_size": 28}
    labels = labels_like_test_set(200, name.removesuffix("_28"))  # (200,)
    scores = score(sample(model, labels, generator=torch.Generator().manual_seed(7)), labels, name)
    assert scores.agreement >= 0.9 * scores.agreement_real
    assert scores.frechet_in_floors <= 4
    assert 0.75 <= scores.diversity_share <= 1.15


def test_every_measured_result_names_how_it_was_made():
    for result in load_results():
        assert {"group", "name", "seed", "steps", "batch", "lr", "seconds"} < result.keys()
        scores = [value for value in result.values() if isinstance(value, dict)]
        assert scores and all(0 <= score["agreement"] <= 1 and score["floors"] > 0 for score in scores)


def test_shipped_network_is_the_default_architecture():
    with safe_open(PRETRAINED["mnist"], framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    parameters = inspect.signature(EfficientTransformerDenoiser).parameters
    assert config == {name: parameter.default for name, parameter in parameters.items()}


def test_shipped_network_draws_digits():
    """300 digits, far from the card's 10,000: loose bounds that a broken sampler or wrong weights cannot meet."""
    labels = labels_like_test_set(300)  # (300,)
    scores = score(sample(load_pretrained("mnist", "cpu"), labels, generator=torch.Generator().manual_seed(7)), labels)
    assert scores.agreement >= 0.96
    assert scores.frechet_in_floors <= 3
    assert 0.85 <= scores.diversity_share <= 1.1
