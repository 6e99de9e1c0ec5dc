"""What a notebook prints, and nbval compares, depends on neither machine nor order. One thing varies at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import NOTEBOOKS, ROOT, Run, copy_of_notebooks, nbval

CAPABILITY = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"


def test_notebook_02_on_one_thread_and_the_plainest_instructions(hard_run):
    assert " passed" in hard_run.output and "failed" not in hard_run.output


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_threads(threads, tmp_path):
    Run(nbval(*NOTEBOOKS), copy_of_notebooks(tmp_path), {"OMP_NUM_THREADS": threads}).start().finish()


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_vector_instructions(capability, tmp_path):
    variables = {"ATEN_CPU_CAPABILITY": capability}
    found = subprocess.check_output([sys.executable, "-c", CAPABILITY], env={**os.environ, **variables}, text=True)
    if found.strip() not in (capability, {"default": "no avx"}.get(capability)):
        pytest.skip(f"this processor has {found.strip()}, not {capability}")
    Run(nbval(*NOTEBOOKS), copy_of_notebooks(tmp_path), variables).start().finish()


@pytest.mark.slow
def test_order(tmp_path):
    Run(nbval(*reversed(NOTEBOOKS)), copy_of_notebooks(tmp_path)).start().finish()


def interpreter(version: str) -> str | None:
    """Where Python of this version is: on the path, or with pyenv."""
    places = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for place in filter(None, places):
        asked = subprocess.run([place, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True)
        if asked.stdout.decode().strip() == version:  # pyenv's shims answer with an error
            return str(place)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_python(version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
    pinned = ["--constraint", ROOT / "tests" / "constraints.txt"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned, "--editable", ROOT], check=True)
    Run(nbval(*NOTEBOOKS, python=python), copy_of_notebooks(tmp_path / "copy")).start().finish()
