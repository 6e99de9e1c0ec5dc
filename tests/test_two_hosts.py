"""Two hosts with a network between them: the real command line, launched on each, gives the run of one host.

The hosts are two network namespaces of this machine: each has its own addresses, ports and loopback, and they reach
each other through one virtual cable alone. That is a real network stack, but neither a second kernel nor a slow cable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tutorial_lib.checkpoints import load_checkpoint

TRAIN = ["-m", "tutorial_lib", "train", "--steps", "12", "--batch", "8", "--score", "0", "--device", "cpu"]
PATIENCE = 300  # seconds: a busy machine, not a slow network


@pytest.fixture(scope="module")
def hosts():
    """Two namespaces and a cable: [(name, name of its end of the cable, address), ...], removed again in any case."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("two hosts need Linux and the command `ip` (package iproute2)")
    ends = [
        (f"tutorial{os.getpid()}{x}", f"tl{os.getpid() % 10**7}{x}", f"10.77.7.{n}") for n, x in ((1, "a"), (2, "b"))
    ]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        try:
            for name, _, _ in ends:
                ip("netns", "add", name)
            ip("link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1])
            for name, end, address in ends:
                ip("link", "set", end, "netns", name)
                ip("-n", name, "address", "add", f"{address}/24", "dev", end)
                for link in (end, "lo"):
                    ip("-n", name, "link", "set", link, "up")
        except (subprocess.CalledProcessError, OSError) as error:
            said = getattr(error, "stderr", None) or error
            pytest.skip(f"two hosts need the right to make network namespaces (root): {str(said).strip()}")
        yield ends
    finally:
        for name, _, _ in ends:  # a namespace takes its end of the cable, and so the cable, with it
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def launch(host: tuple[str, str, str], first: str, out: Path, *more: str, log: Path) -> subprocess.Popen:
    """torchrun on one host: it meets the other one at the address `first`."""
    name, end, address = host
    command = [
        "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={first}:29400", "--rdzv-id=test", f"--local-addr={address}",
        f"--rdzv-conf=is_host={int(address == first)}", "--max-restarts=2", *TRAIN, *more, "--out", str(out),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": end,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # each attempt meets at a new place: see `workers.joined`
    }
    with log.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def finished(launchers: list[subprocess.Popen], logs: list[Path]) -> None:
    try:
        for launcher, log in zip(launchers, logs, strict=True):
            assert launcher.wait(PATIENCE) == 0, log.read_text()[-3000:]
    finally:
        for launcher in launchers:
            if launcher.poll() is None:
                for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                    process.kill()


@pytest.fixture(scope="module")
def one_host(tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *TRAIN]
    done = subprocess.run(
        [*command, "--out", str(out)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return load_checkpoint(out / "checkpoint.pt")


def same_run(state: dict, other: dict) -> None:
    """Bit for bit: two numbers have the same sum in either order, on one host or on two."""
    assert state["losses"] == other["losses"] and len(state["losses"]) == 12
    for part in ("model", "ema"):
        assert all(torch.equal(state[part][name], other[part][name]) for name in other[part])


def start_both(hosts, tmp_path: Path, *more: str) -> tuple[list[subprocess.Popen], list[Path], list[Path]]:
    outs = [tmp_path / f"out of host {name}" for name in "ab"]  # the two share no folder
    logs = [tmp_path / f"log of host {name}" for name in "ab"]
    first = hosts[0][2]
    both = [launch(host, first, out, *more, log=log) for host, out, log in zip(hosts, outs, logs, strict=True)]
    return both, outs, logs


def test_two_hosts_give_the_run_of_one_and_only_the_first_writes(hosts, one_host, tmp_path):
    launchers, outs, logs = start_both(hosts, tmp_path)
    finished(launchers, logs)
    same_run(load_checkpoint(outs[0] / "checkpoint.pt"), one_host)
    assert not outs[1].exists()


def test_a_worker_killed_on_the_second_host_comes_back(hosts, one_host, tmp_path):
    launchers, outs, logs = start_both(hosts, tmp_path, "--resume", "--save-every", "0")
    try:
        victim, end = None, time.monotonic() + PATIENCE
        while not (victim and (outs[0] / "checkpoint.pt").exists()):
            assert time.monotonic() < end and all(launcher.poll() is None for launcher in launchers)
            victim = next((p for p in psutil.Process(launchers[1].pid).children(recursive=True) if rank_of(p)), None)
            time.sleep(0.01)
        victim.kill()
    finally:
        finished(launchers, logs)
    assert "Going on from step" in logs[0].read_text()
    same_run(load_checkpoint(outs[0] / "checkpoint.pt"), one_host)
    assert not outs[1].exists()


def rank_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except psutil.Error:  # it is just starting or ending
        return None
