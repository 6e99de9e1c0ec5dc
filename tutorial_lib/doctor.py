"""`python -m tutorial_lib doctor`: is this machine ready for class? One line a check, one remedy a failure."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

INSTALL = "run: python -m pip install -e . (in the project's folder, in its virtual environment)"
NEEDED_GIB = 1.5
OLDEST_PYTHON = (3, 11)
PACKAGES = ("torch", "torchvision", "matplotlib", "jupyterlab", "ipywidgets", "anywidget", "nbval")


def _python() -> str:
    if tuple(map(int, platform.python_version_tuple()[:2])) < OLDEST_PYTHON:
        raise RuntimeError(f"Python {platform.python_version()} is too old: install Python 3.11 or newer")
    return f"Python {platform.python_version()} on {platform.system()}"


def _packages() -> str:
    missing = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken install can raise anything
            missing.append(f"{name} ({error})")
    if missing:
        raise RuntimeError(f"cannot import {', '.join(missing)}: {INSTALL}")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def _memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < NEEDED_GIB:
        raise RuntimeError(f"{free:.1f} GiB free, training needs {NEEDED_GIB}: close other programs")
    return f"{free:.1f} GiB free"


def _device() -> str:
    from .checkpoints import pick_device

    return f"{pick_device().type}, {os.cpu_count()} processors"


def _data() -> str:
    from .data import load_images

    counts = [len(load_images(name, split)[0]) for name in ("mnist", "fashion_mnist") for split in ("train", "test")]
    return f"embedded images: {counts[0]:,} + {counts[1]:,} digits, {counts[2]:,} + {counts[3]:,} clothes"


def _weights() -> str:
    import torch

    from .checkpoints import load_pretrained
    from .evaluation import class_agreement
    from .sampling import sample

    labels = torch.arange(10)  # (10,)
    images = sample(
        load_pretrained("mnist", "cpu"), labels, generator=torch.Generator().manual_seed(0)
    )  # (10, 1, 16, 16)
    read = round(10 * class_agreement(images, labels))
    if read < 8:
        raise RuntimeError(f"only {read} of 10 drawn digits are readable: fetch a fresh copy of tutorial_lib/assets")
    return f"network and judge load; {read} of 10 drawn digits read as asked"


def _front_end() -> str:
    from jupyter_core.paths import jupyter_path

    folders = [Path(p) for p in jupyter_path("labextensions")]
    for place, package in (
        ("@jupyter-widgets/jupyterlab-manager", "jupyterlab_widgets ipywidgets"),
        ("anywidget",) * 2,
    ):
        if not any((folder / place).exists() for folder in folders):
            raise RuntimeError(f"sliders or the grid to paint on will not show, JupyterLab lacks {place}: run: python "
                               f"-m pip install --force-reinstall {package}")  # fmt: skip
    return "JupyterLab has the widget manager"


def _write_access() -> str:
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RuntimeError(f"cannot write in {folder} ({error}): start from a folder of your own") from error
    if (free := shutil.disk_usage(Path.cwd()).free / 2**30) < 0.5:
        raise RuntimeError(f"only {free:.1f} GiB of disk left here: make room")
    return f"this folder can be written to, {free:.0f} GiB of disk left"


CHECKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "packages": _packages,
    "memory": _memory,
    "device": _device,
    "data": _data,
    "weights": _weights,
    "widgets": _front_end,
    "writing": _write_access,
}


def run_doctor() -> int:
    """Prints one line a check; returns 0 if all are well, else 1."""
    failures = 0
    for name, check in CHECKS.items():
        try:
            print(f"ok    {name:<9} {check()}")
        except Exception as error:  # whatever is wrong, the other checks still run
            failures += 1
            print(f"FAIL  {name:<9} {error}")
    print("All is well." if not failures else f"{failures} of {len(CHECKS)} checks failed.")
    return int(failures > 0)
