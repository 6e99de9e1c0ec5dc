"""A real JupyterLab and a real Chromium. Without either of them these tests skip and say why."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # nothing but this machine
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}


def pytest_addoption(parser):
    parser.addoption("--screenshots", metavar="FOLDER", help="keep a picture of each lab (the README shows them)")
    parser.addoption("--figures", metavar="FILE", help="write the measured latencies and memory to this JSON file")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install -e '.[browser]'")
    pytest.importorskip("axe_playwright_python", reason="needs: pip install -e '.[browser]'")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium on the PATH (looked for {', '.join(NAMES)})")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def server(browser, tmp_path_factory):
    """JupyterLab on a copy of the notebooks, with its own settings; yields (address, token)."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(ROOT / "notebooks", home / "work/notebooks", ignore=shutil.ignore_patterns("runs", ".*"))
    shorten_training(home / "work/notebooks/03_training_the_denoiser.ipynb")
    for name, value in SETTINGS.items():
        file = home / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    environment = {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}
    environment.pop("MPLBACKEND", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'work'}",
               "--expose-app-in-browser"]  # fmt: skip
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/api/status?token={token}", process, home / "server.log")
            yield address, token
        finally:
            process.terminate()  # JupyterLab shuts its kernels down itself
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def shorten_training(notebook: Path) -> None:
    """The same notebook with 20 steps of training: the whole of it is what nbval runs."""
    text, found = re.subn(r"TrainConfig\.fast\(steps=\d+\)\\n", r"TrainConfig.fast(steps=20)\\n", notebook.read_text())
    assert found == 1, "notebook 03 must set the steps of its training in one place"
    notebook.write_text(text)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def figures(request):
    """What the tests measure, by notebook; written to --figures at the end."""
    measured: dict[str, dict] = {}
    yield measured
    if file := request.config.getoption("--figures"):
        Path(file).write_text(json.dumps(measured, indent=1) + "\n")
