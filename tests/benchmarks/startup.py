"""Start-up: how long until something is there, and where do the seconds go?

    python -m tests.benchmarks.startup [--install]

Each in fresh processes, medians: `import tutorial_lib`; the first picture on a fresh kernel (kernel up, import, ten
digits drawn and shown); and README's command where everything is installed: from `jupyter lab notebooks` to a server
that answers. `--install` also runs the whole of README's command on a bare environment in a temporary folder, which
downloads gigabytes. Where an import's time goes: `python -X importtime`, each module's own time, by top package.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.benchmarks.common import ROOT, Results, arguments, markdown, run_part, show, spread

ROUNDS = 3
PATIENCE = 120
CELLS = {
    "import tutorial_lib": "import torch\nfrom tutorial_lib import load_pretrained, sample",
    "ten digits drawn": "images = sample(load_pretrained('mnist'), torch.arange(10))",
    "shown": "from tutorial_lib.plots import image_grid, show\nshow(image_grid(images, 10), 'Ten digits.')",
}


def import_seconds(module: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
    return time.perf_counter() - start


def import_shares(trace: str) -> dict[str, float]:
    """Seconds of each top package, from the trace of `-X importtime`: only modules' own times, so nothing twice."""
    shares: Counter[str] = Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", trace, re.MULTILINE):
        package = name.split(".")[0]
        shares["the standard library" if package in sys.stdlib_module_names else package] += int(own) / 1e6
    return dict(shares.most_common())


def first_picture() -> dict[str, float]:
    """Seconds of each stage until the first picture is there."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=PATIENCE, resources={"metadata": {"path": str(ROOT)}}
    )
    marks = [time.perf_counter()]
    with client.setup_kernel():
        marks.append(time.perf_counter())
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            marks.append(time.perf_counter())
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].outputs), "no picture"
    stages = ("kernel up", *CELLS)
    return {stage: after - before for stage, before, after in zip(stages, marks, marks[1:], strict=False)}


def server_seconds(python: str = sys.executable) -> float:
    """From `jupyter lab notebooks` to a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "jupyterlab", "notebooks", "--no-browser", f"--ServerApp.port={port}"]
    command += (
        ["--ServerApp.port_retries=0", "--allow-root"] if hasattr(os, "geteuid") else ["--ServerApp.port_retries=0"]
    )
    start = time.perf_counter()
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - start < PATIENCE and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                return time.perf_counter() - start
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError("the server did not come up")
    finally:
        server.terminate()
        server.wait(timeout=30)


def install_seconds() -> dict[str, float]:
    """README's command on a bare environment: environment, packages, first start of the server."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "runs"))
        python = tree / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        marks = [time.perf_counter()]
        for command in (
            [sys.executable, "-m", "venv", str(tree / ".venv")],
            [str(python), "-m", "pip", "install", "-e", "."],
        ):
            subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
            marks.append(time.perf_counter())
        return {
            "environment": marks[1] - marks[0],
            "download and installation": marks[2] - marks[1],
            "first start of the server": server_seconds(str(python)),
        }


def repeated(call: Callable[[], dict[str, float]], rounds: int) -> dict[str, dict[str, float]]:
    runs = [call() for _ in range(rounds)]
    return {stage: spread([run[stage] for run in runs]) for stage in runs[0]}


def run(args: argparse.Namespace, results: Results) -> None:
    rounds = max(1, round(ROUNDS / args.shrink))
    modules = ("tutorial_lib", "torch", "numpy")
    imports = repeated(lambda: {f"import {module}": import_seconds(module) for module in modules}, rounds)
    traces = [
        subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import tutorial_lib"], cwd=ROOT, capture_output=True, text=True
        ).stderr
        for _ in range(rounds)
    ]
    shares = [import_shares(trace) for trace in traces]
    results.save(
        "startup",
        {
            "imports": imports,
            "shares": {name: statistics.median(run.get(name, 0.0) for run in shares) for name in shares[0]},
            "first_picture": repeated(first_picture, rounds),
            "server": spread([server_seconds() for _ in range(rounds)]),
            "install": install_seconds() if args.install else None,
        },
    )


def tables(part: dict[str, Any]) -> str:
    rows = [(name, show(cost, 1, 2)) for name, cost in part["imports"].items()]
    picture = sum(cost["median"] for cost in part["first_picture"].values())
    rows.append(("first picture on a fresh kernel, in all", f"{picture:.2f}"))
    rows += [(f"- {stage}", show(cost, 1, 2)) for stage, cost in part["first_picture"].items()]
    rows.append(("`jupyter lab notebooks` until the server answers", show(part["server"], 1, 2)))
    rows += [(f"bare machine: {stage}", f"{seconds:.0f}") for stage, seconds in (part["install"] or {}).items()]
    total = sum(part["shares"].values())
    large = [(name, s) for name, s in part["shares"].items() if s > 0.01 * total]
    large.append(("all others", total - sum(s for _, s in large)))
    shares = [(name, f"{s:.2f}", f"{s / total:.0%}") for name, s in large]
    return "\n".join(
        [
            markdown(("start-up", "seconds, median (quartiles)"), rows),
            "",
            markdown(("import tutorial_lib, by package", "seconds", "share"), shares),
        ]
    )


if __name__ == "__main__":
    import tests.benchmarks.startup as this

    run_part("startup", this, arguments(__doc__).parse_args())
