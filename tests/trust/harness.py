"""What several of these tests need: a copy of the notebooks, pytest --nbval on it, and the memory of its kernels."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
OFFLINE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "offline"]
BINDER = 2 * 10**9  # bytes


def processes() -> multiprocessing.context.BaseContext:
    """How to start processes: where it can be, as forks of one that has imported PyTorch and computed nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tutorial_lib.runs", "torchvision.datasets"])
    return context


def can_cut_the_network() -> bool:
    """Can a process be given a network of its own, with nothing but loopback? Linux only, and not everywhere there."""
    return bool(shutil.which("unshare")) and not subprocess.run([*OFFLINE, "true"], capture_output=True).returncode


def copy_of_notebooks(folder: Path) -> Path:
    """The notebooks and how they are tested, where they may leave files behind."""
    for name in ("conftest.py", "pyproject.toml", "tests/nbval_sanitize.cfg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "notebooks").mkdir()
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "notebooks" / name, folder / "notebooks" / name)
    return folder


def nbval(*names: str, python: str = sys.executable) -> list[str]:
    """The command that runs these notebooks, in this order, and compares every output with the stored one."""
    paths = [f"notebooks/{name}" for name in names]
    quiet = ["-q", "-p", "no:cacheprovider", "--nbval-cell-timeout=3000", "--nbval-kernel-startup-timeout=600"]
    return [python, "-m", "pytest", "--nbval", *quiet, *paths]


@dataclass
class Run:
    """One process, started with these variables set (None: not set), and what it and its kernels came to."""

    command: list[str]
    folder: Path
    variables: dict[str, str | None] = field(default_factory=dict)
    kernel_rss: int = 0  # the largest that any kernel ever was, in bytes
    kernel_pss: int = 0  # the same, where a page that n processes share counts 1/n: what one student more costs

    def start(self) -> Run:
        merged = {**os.environ, **self.variables}
        settings = {name: value for name, value in merged.items() if value is not None}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(self.command, cwd=self.folder, env=settings, **streams)
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def finish(self) -> Run:
        self.output, _ = self.process.communicate()
        self.done.set()
        self.watcher.join()
        assert self.process.returncode == 0, self.output[-6000:]
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.2):
            try:
                kernels = [
                    child
                    for child in psutil.Process(self.process.pid).children(recursive=True)
                    if "ipykernel_launcher" in " ".join(child.cmdline())
                ]
                for kernel in kernels:
                    self.kernel_rss = max(self.kernel_rss, peak_rss(kernel.pid))
                    self.kernel_pss = max(self.kernel_pss, pss(kernel.pid))
            except (psutil.Error, OSError):
                continue  # it has just ended


def _kilobytes(pid: int, file: str, entry: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(entry)), 0)


def peak_rss(pid: int) -> int:
    """The most memory that a process ever had, as the kernel of Linux kept it; elsewhere, what it has now."""
    if not Path("/proc/self/status").exists():
        return psutil.Process(pid).memory_info().rss
    return _kilobytes(pid, "status", "VmHWM:")


def pss(pid: int) -> int:
    return _kilobytes(pid, "smaps_rollup", "Pss:") if Path("/proc/self/smaps_rollup").exists() else 0


def cell_sources(notebook: str) -> dict[str, str]:
    """The source of each code cell, by its id."""
    cells = nbformat.read(next((ROOT / "notebooks").glob(f"{notebook}_*.ipynb")), as_version=4).cells
    return {cell.id: cell.source for cell in cells if cell.cell_type == "code"}


class Kernel:
    """A Jupyter kernel in a folder. `run` returns what a cell prints and the name of the error that ended it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.variables = folder, variables

    def __enter__(self) -> Kernel:
        self.manager, self.client = start_new_kernel(
            kernel_name="python3",
            startup_timeout=120,
            cwd=str(self.folder),
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.variables},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, source: str) -> tuple[str, str | None]:
        printed: list[str] = []

        def hear(message: dict) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = {"content": {"status": "aborted"}}
        while reply["content"]["status"] == "aborted":  # Jupyter drops what it is asked just after an error
            reply = self.client.execute_interactive(source, allow_stdin=False, output_hook=hear, timeout=600)
        return "".join(printed), reply["content"].get("ename")

    def stop(self, source: str, seconds: float) -> str | None:
        """Runs a cell and presses the stop button after so many seconds; the name of the error that ended it."""
        request = self.client.execute(source, allow_stdin=False)
        # Before a cell has begun there is nothing to stop, and Jupyter ignores the button.
        while not self._answers(self.client.get_iopub_msg(timeout=120), request, "execute_input"):
            continue
        time.sleep(seconds)
        self.manager.interrupt_kernel()
        while not self._answers(reply := self.client.get_shell_msg(timeout=120), request, "execute_reply"):
            continue
        return reply["content"].get("ename")

    @staticmethod
    def _answers(message: dict, request: str, kind: str) -> bool:
        return message["parent_header"].get("msg_id") == request and message["msg_type"] == kind
