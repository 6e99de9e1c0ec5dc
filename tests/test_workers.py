"""Several processes under torchrun give the run of one process; one of them writes; a killed one comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tutorial_lib import workers
from tutorial_lib.checkpoints import load_checkpoint
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.training import TrainConfig, train

# A whole small run in float64, where rounding cannot hide a mistake. What each process saw goes to a file of its own.
RUN = """
import os, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from tutorial_lib import training, workers
from tutorial_lib.checkpoints import load_checkpoint
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.runs import follow
from tutorial_lib.training import TrainConfig, train

out, death = Path(sys.argv[1]), int(sys.argv[2])
generator = torch.Generator().manual_seed(0)
images = torch.rand(24, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
labels = torch.arange(24) % 10
seen = []
loss_of = training.diffusion_loss

def watched(network, schedule, x0, *rest):
    seen.append(torch.cdist(x0.flatten(1), images.flatten(1)).argmin(1))
    return loss_of(network, schedule, x0, *rest)

training.diffusion_loss = watched
if (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")) == ("1", "1"):
    time.sleep(3)  # rank 0 looks for rank 1 before it is there again, and must not take the dead one's address
with workers.joined(torch.device("cpu")):
    rank, _ = workers.place()
    state = load_checkpoint(out / "checkpoint.pt") if (out / "checkpoint.pt").exists() else None
    torch.manual_seed(0)
    model = EfficientTransformerDenoiser(image_size=8, dim=16, heads=2, layers=1, ff_dim=16).double()
    config = TrainConfig.fast(steps=12, batch_size=8, warmup_steps=2)

    def view(progress):
        (out / f"losses.{rank}").open("a").write(f"{progress.step} {progress.loss!r}\\n")
        if state is None and progress.step == death and rank == 1:
            import signal
            os.kill(os.getpid(), signal.SIGKILL)

    from tutorial_lib import runs
    runs.CHECKPOINT_SECONDS, save = 0, runs.save_checkpoint
    runs.save_checkpoint = lambda *what: (save(*what), (out / f"writer.{rank}").touch())
    last = follow(train(model, images, labels, config, device="cpu", resume=state), out / "checkpoint.pt", view=view)
    save_file(dict(last.ema.state_dict()), out / f"weights.{rank}")
    save_file({str(step): which for step, which in enumerate(seen)}, out / f"seen.{rank}")
if sys.platform == "linux":
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (out / f"threads.{rank}").write_text(" ".join(names))
"""


def launch(folder, processes: int, death: int = 0) -> list:
    folder.mkdir()
    script = folder / "run.py"
    script.write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--max-restarts=1",
               "--standalone"] if processes > 1 else [sys.executable]  # fmt: skip
    done = subprocess.run(
        [*command, str(script), str(folder), str(death)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"weights.{rank}") for rank in range(processes)]


def losses(folder, rank: int = 0) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in map(str.split, (folder / f"losses.{rank}").open())}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("workers")
    (one,) = launch(home / "one", 1)
    return home, one, launch(home / "two", 2)


def test_two_processes_give_the_weights_and_losses_of_one(runs):
    home, one, two = runs
    for name, weights in one.items():
        assert torch.equal(two[0][name], two[1][name])
        assert torch.allclose(weights, two[0][name], rtol=0, atol=1e-10), name
    alone, together = losses(home / "one"), losses(home / "two")
    assert list(alone) == list(together) == list(range(1, 13))
    assert max(abs(alone[step] - together[step]) for step in alone) < 1e-9
    assert losses(home / "two", 1) == together


def test_each_image_is_seen_once_an_epoch(runs):
    home = runs[0]
    shares = [load_file(home / "two" / f"seen.{rank}") for rank in (0, 1)]
    for epoch in range(4):  # 3 steps of 8 for 24 images
        seen = [share[str(step)] for share in shares for step in range(3 * epoch, 3 * epoch + 3)]
        assert sorted(torch.cat(seen).tolist()) == list(range(24))
        assert {len(part) for part in seen} == {4}


def test_a_killed_worker_comes_back_and_the_run_ends_with_the_same_weights(runs, tmp_path):
    _, _, two = runs
    again = launch(tmp_path / "killed", 2, death=5)
    assert all(torch.equal(two[0][name], again[0][name]) for name in two[0])
    steps = [int(line.split()[0]) for line in (tmp_path / "killed/losses.1").open()]
    assert steps == [1, 2, 3, 4, 5, *range(steps[5], 13)] and steps[5] in (5, 6)  # from the last whole checkpoint


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in /proc on Linux alone")
def test_the_threads_of_the_exchange_end_before_python_does(runs):
    """One that still holds a tensor when Python ends aborts the process, now and then on a busy machine."""
    home = runs[0]
    assert not [rank for rank in (0, 1) if "gloo" in (home / "two" / f"threads.{rank}").read_text()]


def test_only_the_first_process_writes(runs):
    home = runs[0]
    assert {path.name for path in (home / "two").iterdir() if "threads" not in path.name} == {
        "run.py", "checkpoint.pt", "writer.0", "losses.0", "losses.1", "weights.0", "weights.1", "seen.0", "seen.1"
    }  # fmt: skip


def test_one_process_needs_no_group():
    assert workers.place() == (0, 1)
    assert workers.from_first("x") == "x" and workers.total(torch.tensor(2.0)) == 2
    with workers.joined(torch.device("cpu")) as device:
        assert device.type == "cpu"


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr("tutorial_lib.training.place", lambda: (0, 3))
    images, model = torch.zeros(24, 1, 8, 8), EfficientTransformerDenoiser(image_size=8, dim=16, heads=2, layers=1)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes that share it; got 8"):
        train(model, images, torch.zeros(24, dtype=torch.long), TrainConfig.fast(batch_size=8))


# ------------------------------------------------------------------------------ the real command line, in float32

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
TRAIN = ["-m", "tutorial_lib", "train", "--device", "cpu", "--score", "0", "--steps", "50", "--batch"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def trained(command: list[str], out) -> dict:
    done = subprocess.run([*command, "--out", str(out)], env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_checkpoint(out / "checkpoint.pt")


@pytest.fixture(scope="module")
def two_by_command(tmp_path_factory):
    return trained([*TORCHRUN, *TRAIN, "16"], tmp_path_factory.mktemp("two") / "run")


def agree(one: dict, two: dict) -> None:
    """All losses, all parameters and what the network makes of a noisy picture, within 1e-5."""
    assert len(one["losses"]) == 50
    assert max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True)) < 1e-5
    for part in ("model", "ema"):
        for name, weights in one[part].items():
            assert (weights - two[part][name]).abs().max() < 1e-5, name
    nets = [EfficientTransformerDenoiser() for _ in "12"]
    for net, state in zip(nets, (one, two), strict=True):
        net.load_state_dict(state["ema"])
    x_t = torch.randn(10, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        guesses = [net(x_t, 0.7, torch.arange(10)) for net in nets]
    assert (guesses[0] - guesses[1]).abs().max() < 1e-5


def test_the_command_line_trains_the_same_network_with_one_and_two_processes(two_by_command, tmp_path):
    agree(trained([sys.executable, *TRAIN, "16"], tmp_path / "one"), two_by_command)


@pytest.mark.slow
def test_the_same_with_whole_batches(tmp_path):
    commands = {"one": [sys.executable, *TRAIN, "128"], "two": [*TORCHRUN, *TRAIN, "128"]}
    agree(*(trained(command, tmp_path / name) for name, command in commands.items()))


def test_a_killed_worker_of_the_command_line_loses_no_step(two_by_command, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    command = [*TORCHRUN, *TRAIN, "16", "--resume", "--save-every", "0", "--out", str(out)]
    with log.open("w") as file:
        launcher = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    try:
        victim = None
        while launcher.poll() is None and not (victim and (out / "checkpoint.pt").exists()):
            children = psutil.Process(launcher.pid).children(recursive=True)
            victim = next((process for process in children if rank_of(process) == "1"), None)
            time.sleep(0.01)
        victim.kill()
        assert launcher.wait(600) == 0, log.read_text()[-3000:]
    finally:
        if launcher.poll() is None:
            for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                process.kill()
    assert "Going on from step" in log.read_text()
    state = load_checkpoint(out / "checkpoint.pt")
    assert state["losses"] == two_by_command["losses"]
    assert all(torch.equal(state["model"][name], weights) for name, weights in two_by_command["model"].items())


def rank_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except psutil.Error:  # it is just starting or ending
        return None
