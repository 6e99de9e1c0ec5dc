"""What can be read by everyone: link texts, colours, contrast. Headings and alt texts are in test_notebooks.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import nbformat
import pytest
import torch

from tutorial_lib.plots import LINE_COLOURS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "TEACHERS.md", *sorted((ROOT / "notebooks").glob("*.[im][pd]*"))]
# Greys, and colours of Okabe and Ito.
SAFE = {"black", "white", "gray", "grey", "lightgray", "#56B4E9", "#E69F00", *LINE_COLOURS}
MAPS = {"viridis", "cividis", "gray_r"}
# How linear RGB looks to the three kinds of dichromats (Machado, Oliveira, Fernandes 2009, severity 1).
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def code(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def linear(colour: str) -> torch.Tensor:
    """Linear light of a colour "#RRGGBB": (3,) from 0 to 1."""
    srgb = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])  # (3,)
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)  # (3,)


def contrast_with_white(colour: str) -> float:
    return 1.05 / (float(linear(colour) @ torch.tensor([0.2126, 0.7152, 0.0722])) + 0.05)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_say_where_they_lead(path):
    texts = re.findall(r"(?<!!)\[([^\]]*)\]\([^)]+\)", prose(path))
    vague = {"", "here", "this", "link", "click here", "more", "read more"}
    assert not [text for text in texts if text.strip().lower() in vague or text.startswith("http")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_local_links_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", prose(path))
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_lines_stand_out_from_the_paper():
    """3 to 1, as WCAG 2.2 asks for graphics."""
    assert not {colour: contrast_with_white(colour) for colour in LINE_COLOURS if contrast_with_white(colour) < 3}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_first_three_lines_differ_for_colour_blind_readers(kind):
    """Further lines, and print in black and white, have their dashes."""
    seen = {colour: torch.tensor(BLINDNESS[kind]) @ linear(colour) for colour in LINE_COLOURS[:3]}  # (3,) each
    assert min((a - b).norm().item() for a, b in combinations(seen.values(), 2)) > 0.1


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_use_safe_colours_only(path):
    text = code(path)
    named = re.findall(r"\b(?:edge|face)?colou?r=[\"']([^\"']+)", text) + re.findall(
        r"[\"'](#[0-9A-Fa-f]{6})[\"']", text
    )
    assert not {colour for colour in named if colour not in SAFE and not re.fullmatch(r"0\.\d+", colour)}
    assert set(re.findall(r"\bcmap\W+[\"'](\w+)", text)) <= MAPS


SIZES = """
import json
from tutorial_lib.plots import png_bytes, subplots
figure, ax = subplots()
line, = ax.plot([0, 1])
label = ax.set_xlabel("time")
print(json.dumps([label.get_fontsize(), line.get_linewidth(), len(png_bytes(figure))]))
"""


def test_projector_mode_is_one_switch_for_larger_text_and_thicker_lines():
    def sizes(**switch: str) -> list[float]:
        environment = {**os.environ, "TUTORIAL_PROJECTOR": "0", **switch}
        command = [sys.executable, "-c", SIZES]
        return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    usual, large = sizes(), sizes(TUTORIAL_PROJECTOR="1")
    assert large[0] >= 1.5 * usual[0] and large[1] >= 1.5 * usual[1]
