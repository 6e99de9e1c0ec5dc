"""Many students on one machine, and each of them on the smallest: 2 GB, which is what Binder gives."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from harness import BINDER, NOTEBOOKS, Run, copy_of_notebooks, nbval, processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


@linux
def test_notebook_02_stays_inside_2_gb(hard_run):
    assert 3e8 < hard_run.kernel_rss < BINDER  # PyTorch alone is more than 0.3 GB: so it was measured


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_notebook_stays_inside_2_gb(name, tmp_path):
    run = Run(nbval(name), copy_of_notebooks(tmp_path)).start().finish()
    print(f"{name}: peak {run.kernel_rss / 1e9:.2f} GB")
    assert 3e8 < run.kernel_rss < BINDER


@linux
@pytest.mark.slow
def test_twelve_kernels_at_once(tmp_path):
    """Strict nbval, so every output of every student is compared; all share one folder of notebooks and its files."""
    folder, variables = copy_of_notebooks(tmp_path), {"OMP_NUM_THREADS": "1"}  # as the page for teachers says
    names = [NOTEBOOKS[1], NOTEBOOKS[3]] * 6
    runs = [Run(nbval(name), folder, variables).start() for name in names]
    for run in runs:
        run.finish()
    for name in names[:2]:
        alike = [other for other, other_name in zip(runs, names, strict=True) if other_name == name]
        rss, pss = (max(getattr(other, kind) for other in alike) / 1e9 for kind in ("kernel_rss", "kernel_pss"))
        print(f"{name}: per student up to {rss:.2f} GB (RSS), {pss:.2f} GB (PSS: shared pages shared out)")
    assert all(3e8 < run.kernel_rss < BINDER for run in runs)
    progress = folder / "notebooks" / "my_progress.json"  # all students wrote into this one
    assert not progress.exists() or isinstance(json.loads(progress.read_text(encoding="utf-8")), dict)


# ----------------------------------------------------------------------------------------------- one shared data folder


def _idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def _student(root: Path, mirror: str, checksums: list, ready, answers) -> None:
    from torchvision import datasets

    from tutorial_lib import load_images

    datasets.MNIST.mirrors, datasets.MNIST.resources = [mirror], checksums
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(variable, None)
    ready.wait(300)
    try:
        images, labels = load_images("mnist", source="torchvision", root=root, size=28)
        answers.put(hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest())
    except Exception as error:
        answers.put(repr(error))


def _download_at_once(students: int, folder: Path) -> None:
    chance, served, checksums = np.random.default_rng(0), folder / "served", []
    served.mkdir()
    for prefix, count in (("train", 3000), ("t10k", 500)):
        pixels = chance.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", pixels[:, 0, 0] % 10)):
            packed = gzip.compress(_idx(array), 1)
            (served / f"{prefix}-{kind}-ubyte.gz").write_bytes(packed)
            checksums.append((f"{prefix}-{kind}-ubyte.gz", hashlib.md5(packed, usedforsecurity=False).hexdigest()))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    handler.func.log_message = lambda *_: None
    context = processes()
    ready, answers = context.Barrier(students), context.Queue()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # torchvision asks, hangs up and asks again
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        arguments = (folder / "root", mirror, checksums, ready, answers)
        room = [context.Process(target=_student, args=arguments) for _ in range(students)]
        for student in room:
            student.start()
        heard = [answers.get(timeout=600) for _ in room]
        for student in room:
            student.join()
        server.shutdown()
    assert len(set(heard)) == 1 and len(heard[0]) == 64, heard
    raw = folder / "root" / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(name.removesuffix(".gz") for name, _ in checksums)


def test_three_students_download_into_one_folder(tmp_path):
    _download_at_once(3, tmp_path)


@pytest.mark.slow
def test_twelve_students_download_into_one_folder(tmp_path):
    _download_at_once(12, tmp_path)
