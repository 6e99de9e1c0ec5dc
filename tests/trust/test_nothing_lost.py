"""A run survives whatever happens to it: kill -9, a full disk, a folder that cannot be written to or is taken away."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from harness import Kernel, cell_sources, processes

from tutorial_lib.checkpoints import load_checkpoint, load_model

STEPS = 60
TRAIN = ["train", "--steps", str(STEPS), "--device", "cpu", "--seed", "3"]
PRIVATE = ["unshare", "--map-root-user", "--mount"]  # what is mounted there, nobody else sees
allowed = bool(shutil.which("unshare")) and not subprocess.run([*PRIVATE, "true"], capture_output=True).returncode
needs_mounts = pytest.mark.skipif(not allowed, reason="this user may not mount anything, even in private")


def _train(arguments: list[str], log: Path, harm: str = "") -> None:
    """The command line, with a small network, a checkpoint after every step, and few digits to score.

    `harm` is done to the folder `out` after step 5 is saved, as another program would.
    """
    from tutorial_lib import runs
    from tutorial_lib.__main__ import main

    runs.EfficientTransformerDenoiser = functools.partial(
        runs.EfficientTransformerDenoiser, patch_size=4, dim=16, heads=2, layers=1, ff_dim=16
    )
    torch.set_num_threads(1)  # two that wait for each other would make this small network slow on a busy machine
    runs.CHECKPOINT_SECONDS, runs.SCORED_DIGITS = 0, 200
    real, out = runs.train, Path(arguments[arguments.index("--out") + 1])

    def harmed(*given, **options):
        for progress in real(*given, **options):
            if progress.step == 6:
                exec(harm, {**globals(), "out": out})
            yield progress

    runs.train = harmed
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = main(arguments)
    raise SystemExit(status)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "model.safetensors", "cpu").state_dict()


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    child = processes().Process(target=_train, args=([*TRAIN, "--out", str(folder / "run")], folder / "log"))
    child.start()
    child.join()
    assert child.exitcode == 0, (folder / "log").read_text()
    return folder / "run"


def _kill_again_and_again(kills: int, folder: Path, straight: Path) -> dict[str, int]:
    """Kills runs at moments that a seed picks, resumes them, and looks at the checkpoint after every blow."""
    chance, found, number, step = random.Random(0), {"checkpoint": 0, "step": 0, "before": 0, "finish": 0}, 0, 0
    while True:
        out = folder / f"run-{number}"
        checkpoint, arguments = out / "checkpoint.pt", [*TRAIN, "--out", str(out), "--resume"]
        child = processes().Process(target=_train, args=(arguments, folder / "log"))
        child.start()
        if sum(found.values()) < kills:
            if chance.random() < 0.5:  # mid-checkpoint: as soon as a new file grows, after some that came and went
                for _ in range(chance.randrange(1, 20)):
                    _until(lambda out=out: any(out.glob(".*.checkpoint.pt")), child)
            else:
                _until(lambda checkpoint=checkpoint: chance.random() < 0.01 or checkpoint.exists(), child)
                time.sleep(chance.uniform(0, 1))
            child.kill()
        child.join()
        if child.exitcode == 0:  # it came to its end before the blow
            ours, theirs = _weights(out), _weights(straight)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
            if sum(found.values()) == kills:
                return found
            number, step = number + 1, 0
            continue
        assert child.exitcode == -9, (folder / "log").read_text()[-3000:]
        ruins = list(out.glob(".*.checkpoint.pt"))
        finished = step == STEPS
        if checkpoint.exists():  # whole or absent, never less, and never older than it was
            state = load_checkpoint(checkpoint)
            assert state["step"] >= step
            step = state["step"]
        else:
            assert step == 0
        found["checkpoint" if ruins else "finish" if finished else "step" if step else "before"] += 1
        for ruin in ruins:
            ruin.unlink()


def _until(happens, child) -> None:
    while child.is_alive() and not happens():
        time.sleep(0.0005)


def test_killed_three_times(tmp_path, straight):
    assert sum(_kill_again_and_again(3, tmp_path, straight).values()) == 3


@pytest.mark.slow
def test_killed_fifty_times(tmp_path, straight):
    found = _kill_again_and_again(50, tmp_path, straight)
    print("killed while it", ", ".join(f"{where}: {count}" for where, count in found.items()))
    assert found["checkpoint"] >= 5 and found["step"] >= 5


# ---------------------------------------------------------------------------------------------------- disks and folders

SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:2]
from pathlib import Path
from test_nothing_lost import _train
_train(sys.argv[4:], Path(sys.argv[2]), sys.argv[3])
"""


def _harmed(folder: Path, harm: str, shell: str = "") -> tuple[int, str]:
    """Exit status and messages of a run whose folder is harmed after step 5; `shell` prepares a private file system."""
    disk, log = folder / "disk", folder / "log"
    disk.mkdir()
    arguments = [*TRAIN, "--out", str(disk / "run")]
    if not shell:
        child = processes().Process(target=_train, args=(arguments, log, harm))
        child.start()
        child.join()
        return child.exitcode, log.read_text()
    script = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(log), harm, *arguments]
    variables = {**os.environ, "DISK": str(disk), "COPY": str(folder / "copy")}
    run = subprocess.run([*PRIVATE, "sh", "-c", shell, "sh", *script], env=variables, capture_output=True, text=True)
    return run.returncode, (log.read_text() if log.exists() else "") + run.stderr


def _clear(message: str, *words: str) -> None:
    last = message.strip().splitlines()[-1]
    assert last.startswith("train: ") and all(word in last for word in words), message
    assert "Traceback" not in message


@needs_mounts
def test_full_disk(tmp_path):
    """A disk of 300 kB, which another program fills."""
    shell = 'mount -t tmpfs -o size=300k disk "$DISK"; "$@"; status=$?; cp -r "$DISK" "$COPY"; exit $status'
    harm = "(out / 'other').write_bytes(bytes(os.statvfs(out).f_bavail * os.statvfs(out).f_frsize))"
    status, message = _harmed(tmp_path, harm, shell)
    assert status == 2
    _clear(message, "No space left on device")
    assert load_checkpoint(tmp_path / "copy" / "run" / "checkpoint.pt")["step"] == 5
    assert sorted(path.name for path in (tmp_path / "copy" / "run").iterdir()) == ["checkpoint.pt", "other"]


@needs_mounts
def test_folder_that_becomes_read_only(tmp_path):
    shell = 'mount --bind "$DISK" "$DISK"; exec "$@"'  # root may write anywhere, but not on a read-only file system
    status, message = _harmed(
        tmp_path, "subprocess.run(['mount', '-o', 'remount,bind,ro', out.parent], check=True)", shell
    )
    assert status == 2
    _clear(message, "Read-only file system")
    assert load_checkpoint(tmp_path / "disk" / "run" / "checkpoint.pt")["step"] == 5


def test_folder_that_is_replaced_by_a_file(tmp_path):
    status, message = _harmed(tmp_path, "out.rename(out.with_name('moved')), out.write_text('')")
    assert status == 2
    _clear(message, str(tmp_path / "disk" / "run"))
    assert load_checkpoint(tmp_path / "disk" / "moved" / "checkpoint.pt")["step"] == 5


def test_folder_that_is_removed_is_made_again(tmp_path, straight):
    status, message = _harmed(tmp_path, "shutil.rmtree(out)")
    assert status == 0, message
    ours, theirs = _weights(tmp_path / "disk" / "run"), _weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# ------------------------------------------------------------------------------------------ stop button of notebook 03

PREPARE = """
flops = 1.0  # counted in a cell that is not run here
from tutorial_lib.training import TrainConfig, train
"""


def _interrupt(presses: int, folder: Path) -> None:
    """Runs the real cells of notebook 03, presses the stop button of JupyterLab, and goes on, again and again."""
    cells, chance = cell_sources("03"), random.Random(1)
    prepare, training = (
        next(s for s in cells.values() if mark in s) for mark in ("new_run_folder(", "progress = follow(")
    )
    (folder / "notebooks").mkdir()
    with Kernel(folder / "notebooks") as kernel:
        first = next(iter(cells.values()))
        for source in (first, PREPARE, prepare):
            assert kernel.run(source)[1] is None
        seen = 0
        for _ in range(presses):
            assert kernel.stop(training, chance.uniform(0, 2)) in (None, "KeyboardInterrupt")
            text, error = kernel.run("print(load_checkpoint(checkpoint)['step'] if checkpoint.exists() else 0)")
            assert error is None and kernel.manager.is_alive()
            assert int(text) >= seen
            seen = int(text)
        assert (
            kernel.stop("import time; time.sleep(60)", 0.5) == "KeyboardInterrupt"
        )  # other cells can be stopped again
        # It still trains: one that is stopped by itself after two steps more goes on from where it was.
        source = """
import itertools
steps = train(model, images, labels, config, resume=load_checkpoint(checkpoint) if checkpoint.exists() else None)
print(follow(itertools.islice(steps, 2), checkpoint, view=view).step)"""
        text, error = kernel.run(source)
        assert error is None and int(text) == seen + 2


def test_stop_button_three_times(tmp_path):
    _interrupt(3, tmp_path)


@pytest.mark.slow
def test_stop_button_thirty_times(tmp_path):
    _interrupt(30, tmp_path)
