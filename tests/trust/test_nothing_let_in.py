"""No file runs code or fills the memory, and nothing tells a reader to open Jupyter to others."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import torch
from harness import ROOT

from tutorial_lib.checkpoints import CHECKPOINT_FORMAT, FORMAT, save_checkpoint, write_safetensors
from tutorial_lib.denoiser import EfficientTransformerDenoiser

SIZES = {"dim": 16, "heads": 2, "layers": 1, "ff_dim": 16}
TEN_GB = 10**10


class Bomb:
    """Whoever unpickles it makes a folder: harmless, and seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def _signed(content: bytes) -> bytes:
    """With a right digest at its end, as whoever means harm would write it."""
    return content + hashlib.sha256(content).digest()


def _safetensors(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _claim(**changes) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def _write_all(folder: Path) -> dict[str, str]:
    """Every evil file, by name, and what is to load it."""
    tensors = EfficientTransformerDenoiser(**SIZES).state_dict()
    bomb = pickle.dumps(Bomb(folder / "was here"), protocol=2)
    files: dict[str, bytes] = {
        "bomb.safetensors": bomb,
        "10 GB header.safetensors": _safetensors(b"{}", length=TEN_GB),
        "exabyte header.safetensors": _safetensors(b"{}", length=2**63),
        "10 GB tensor.safetensors": _safetensors(_claim(shape=[TEN_GB // 4], data_offsets=[0, TEN_GB]), bytes(8)),
        "10 GB shape.safetensors": _safetensors(_claim(shape=[TEN_GB // 4]), bytes(8)),
        "overflowing shape.safetensors": _safetensors(_claim(shape=[2**63, 2**63]), bytes(8)),
        "backward offsets.safetensors": _safetensors(_claim(data_offsets=[8, 0]), bytes(8)),
        "offsets beyond.safetensors": _safetensors(_claim(data_offsets=[8, 16]), bytes(8)),
        "deep header.safetensors": _safetensors(b'{"a":' * 10**6 + b"1" + b"}" * 10**6),
        "bomb.pt": _signed(bomb),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    turned = {**tensors, "to_pixels.weight": tensors["to_pixels.weight"].T}
    unsure = {**tensors, "to_pixels.bias": torch.full_like(tensors["to_pixels.bias"], torch.nan)}
    for name, weights, config in (
        ("wrong shape", turned, {}),
        ("NaN", unsure, {}),
        ("claims width", tensors, {"dim": 10**6}),
        ("claims layers", tensors, {"layers": 10**9}),
        ("claims pixels", tensors, {"image_size": 10**5}),
    ):
        told = {"format": FORMAT, "config": json.dumps({**SIZES, **config})}
        write_safetensors(weights, folder / f"{name}.safetensors", told)
    save_checkpoint({"format": CHECKPOINT_FORMAT, "model": Bomb(folder / "was here")}, folder / "bomb in a state.pt")
    state = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, "w": torch.zeros(10)}, state)
    packed = io.BytesIO()
    with zipfile.ZipFile(state) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if "data/" not in name else bytes(3 * 10**8))
    (folder / "zip bomb.pt").write_bytes(_signed(packed.getvalue()))
    for name in ("ten real GB.safetensors", "ten real GB.pt"):
        with (folder / name).open("wb") as file:
            file.truncate(TEN_GB)  # takes no room on the disk: all holes
    return {
        path.name: "load_model" if path.suffix == ".safetensors" else "load_checkpoint" for path in folder.iterdir()
    }


LOAD = """
import json, sys, torch
from pathlib import Path
import tutorial_lib
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
def attempt(load, *arguments, **options):
    try:
        load(*arguments, **options)
        return "accepted"
    except ValueError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
"""
LOAD_WEIGHTS = """
tutorial_lib.load_pretrained("mnist", "cpu")  # whatever the first good file costs
answers = {}
for name, loader in json.loads(sys.argv[2]).items():
    before = peak()
    verdict = attempt(getattr(tutorial_lib, loader), Path(sys.argv[1]) / name)
    answers[name] = [verdict, peak() - before]
print(json.dumps(answers))
"""
LOAD_DATA = """
before = peak()
verdict = attempt(tutorial_lib.load_images, source="torchvision", root=sys.argv[1])
print(json.dumps([verdict, peak() - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_evil_files_are_refused_run_nothing_and_fill_nothing(tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    loaders = _write_all(evil)
    command = [sys.executable, "-c", LOAD + LOAD_WEIGHTS, str(evil), json.dumps(loaders)]
    answers = json.loads(subprocess.check_output(command, text=True))
    assert answers.keys() == loaders.keys() and len(answers) >= 18
    for name, (verdict, megabytes) in answers.items():
        assert verdict.startswith("refused: path must name ") and name in verdict, (name, verdict)
        assert megabytes < 100, f"{name} took {megabytes:.0f} MB"
    print(f"{len(answers)} files refused, at most {max(megabytes for _, megabytes in answers.values()):.0f} MB each")
    assert not (evil / "was here").exists()
    pickle.loads((evil / "bomb.safetensors").read_bytes())  # the bomb is live: whoever trusts the file sets it off
    assert (evil / "was here").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_packed_data_file_cannot_fill_the_memory(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, rank in (("train-images-idx3-ubyte", 3), ("train-labels-idx1-ubyte", 1)):
        member = gzip.compress(bytes((0, 0, 8, rank)) + bytes(10**7), 1)
        (raw / f"{stem}.gz").write_bytes(member * 300)  # 3 GB, in 13 MB
    verdict, megabytes = json.loads(
        subprocess.check_output([sys.executable, "-c", LOAD + LOAD_DATA, tmp_path], text=True)
    )
    assert verdict.startswith("refused: ") and "is damaged" in verdict and megabytes < 500, (verdict, megabytes)


# ------------------------------------------------------------------------------------------------- Jupyter stays closed

OPENS = re.compile(
    r"--ip\b|\bip\s*=\s*['\"]|0\.0\.0\.0|NotebookApp\.|ServerApp\.|LabApp\.|IdentityProvider\.|PasswordIdentity"
    r"|allow_origin|allow_remote_access|allow[-_]root|disable_check_xsrf|\btoken\s*=\s*['\"]{2}|ngrok|localtunnel"
)
DOCUMENTS = ["README.md", "TEACHERS.md", "environment.yml", "pyproject.toml", ".ci/run"]


def _texts() -> dict[str, str]:
    """Everything that a reader copies or a machine runs: pages, notebooks, workflows, and the package itself."""
    paths = [ROOT / name for name in DOCUMENTS]
    for pattern in (".github/workflows/*.yml", "notebooks/*.md", "scripts/*.py", "tutorial_lib/**/*.py", "binder/*"):
        paths += ROOT.glob(pattern)
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.name] = "\n".join(cell.source for cell in cells)
    return texts


def test_nothing_opens_jupyter():
    texts = _texts()
    assert len(texts) > 30
    found = {name: match[0] for name, text in texts.items() if (match := OPENS.search(text))}
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "jupyter lab --ip=0.0.0.0",
        "jupyter lab --ip '*'",
        "jupyter lab --NotebookApp.token=''",
        "jupyter lab --ServerApp.password=",
        "jupyter lab --IdentityProvider.token=''",
        "c.ServerApp.allow_origin = '*'",
        "c.ServerApp.ip = '*'",
        "jupyter lab --allow-root",
        "jupyter lab --ServerApp.allow_remote_access=True",
        "c.ServerApp.disable_check_xsrf = True",
        "token = ''",
    ],
)
def test_the_scan_sees(line):
    assert OPENS.search(line)


@pytest.mark.parametrize("line", ["jupyter lab notebooks", "pip install -e .", "ip link set lo up", "127.0.0.1"])
def test_the_scan_lets_pass(line):
    assert not OPENS.search(line)


# ----------------------------------------------------------------------------------------------------------- downloads


def test_every_download_has_a_checksum():
    """torchvision compares them while it downloads: tests/test_data.py serves it a file with one flipped bit."""
    from torchvision import datasets

    from tutorial_lib.data import FULL_SHA256, TORCHVISION_CLASS

    for name, dataset in TORCHVISION_CLASS.items():
        resources = getattr(datasets, dataset).resources
        assert len(resources) == 4 and all(re.fullmatch(r"[0-9a-f]{32}", md5) for _, md5 in resources)
        assert {(name, "train"), (name, "test")} <= FULL_SHA256.keys()
