"""Images in: two small sets that travel inside the package, and the full ones through torchvision.

MNIST: Yann LeCun and Corinna Cortes, CC BY-SA 3.0. Fashion-MNIST: Zalando SE, MIT. See assets/LICENCES.md.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import queue
import socket
import struct
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .validate import check_choice, check_int, check_labels

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"),
}
ASSETS = Path(__file__).parent / "assets"
SHA256 = {
    "mnist_embedded.npz": "e63a7b3d1be0ba02d90073624ab9c035e58d090139fefc2a69d83a9a7337907f",
    "fashion_mnist_embedded.npz": "eed69c2ea7279d4fd27036da1d76aff1a6b64e16e67062d6a4b0dbb138932e33",
}
FULL_SHA256 = {  # of the unpacked images and labels: torchvision looks at checksums only while it downloads
    ("mnist", "train"): (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    ("mnist", "test"): (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    ("fashion_mnist", "train"): (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    ("fashion_mnist", "test"): (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
FULL_COUNT = {"train": 60_000, "test": 10_000}
LARGEST_FILE = 2**27  # bytes: more than twice the largest set, so that no packed file can fill the memory
TORCHVISION_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
SILENCE_SECONDS = 4.0  # a host that says nothing for so long is taken for dead; a slow one that keeps sending is not


def load_images(
    name: str = "mnist",
    split: str = "train",
    size: int = 16,
    source: str = "embedded",
    root: str | os.PathLike | None = None,
) -> tuple[Tensor, Tensor]:
    """Loads a whole set of greyscale pictures, resized once, as two tensors that stay in memory.

    name: "mnist" or "fashion_mnist"; split: "train" or "test"; size: side in pixels, 4 to 128 (the originals have 28).
    source: "embedded" is in the package and needs no network: 400 pictures of each class to train on, 100 to test with.
    "torchvision" is the full set (60,000 and 10,000): read from root/MNIST/raw or root/FashionMNIST/raw, where
    torchvision keeps it (root is "data" by default), and downloaded there (12 or 31 MB) only if files are missing.

    Returns images, float32 (N, 1, size, size) in [-1, 1], and labels, int64 (N,) from 0 to 9.

    Raises ValueError for a bad argument and for a damaged file, FileNotFoundError if the data is neither there nor can
    be fetched, PermissionError if `root` cannot be written to. It never falls back to other data.
    """
    check_choice(name, "name", CLASS_NAMES)
    check_choice(split, "split", ("train", "test"))
    check_int(size, "size", 4, 128)
    check_choice(source, "source", ("embedded", "torchvision"))
    if root is not None and not isinstance(root, str | os.PathLike):
        raise ValueError(f"root must be a folder's path or None; got {root!r}")
    if source == "embedded":
        if root is not None:  # a forgotten source="torchvision" would silently give the small set
            raise ValueError(f"root must be None with source='embedded', which reads no folder; got {root!r}")
        images, labels = _read_embedded(ASSETS / f"{name}_embedded.npz", split)  # (N, 28, 28), (N,)
    else:
        folder = Path("data" if root is None else root).expanduser().absolute() / TORCHVISION_CLASS[name] / "raw"
        images, labels = _read_torchvision(folder, name, split)  # (N, 28, 28), (N,)
    return _resized(images, size), torch.from_numpy(labels.astype(np.int64))  # (N, 1, size, size), (N,)


def _resized(images: np.ndarray, size: int, chunk: int = 4096) -> Tensor:
    """uint8 (N, 28, 28) -> float32 (N, 1, size, size) in [-1, 1], in chunks: 60,000 float images at once are 190 MB."""
    out = torch.empty(len(images), 1, size, size)  # (N, 1, size, size)
    for start in range(0, len(images), chunk):
        x = torch.from_numpy(images[start : start + chunk].astype(np.float32)).unsqueeze(1)  # (n, 1, 28, 28)
        if size != x.shape[-1]:  # antialias: every original pixel counts, so that thin strokes survive
            x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)  # (n, 1, size, size)
        out[start : start + chunk] = (x / 127.5 - 1).clamp(-1, 1)  # (n, 1, size, size)
    return out


def _read_embedded(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    remedy = "install the package again, or `git checkout` the file"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though it belongs to the package: {remedy}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[path.name]:
        raise ValueError(f"{path} is damaged (its sha256 is not the known one): {remedy}")
    with np.load(path) as arrays:
        return arrays[f"{split}_images"], arrays[f"{split}_labels"]


def _read_torchvision(folder: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = {"train": "train", "test": "t10k"}[split]
    stems = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    if any(_find(folder, stem) is None for stem in stems):
        _download(folder, name)
    image_path, label_path = (_find(folder, stem) for stem in stems)
    # Read here and not by torchvision, which takes a file for good because it exists, and is slow to import.
    known = FULL_SHA256[name, split]
    images = _read_idx(image_path, 3, FULL_COUNT[split], known[0])  # (N, 28, 28)
    labels = _read_idx(label_path, 1, FULL_COUNT[split], known[1])  # (N,)
    if images.shape[1:] != (28, 28):
        raise _damaged(image_path, f"images must be 28x28; these are {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise _damaged(image_path, f"{len(images)} images, but {len(labels)} labels in {label_path.name}")
    try:
        check_labels(torch.from_numpy(labels.astype(np.int64)), "labels", len(images), num_classes=10)
    except ValueError as error:
        raise _damaged(label_path, str(error)) from error
    return images, labels


def _find(folder: Path, stem: str) -> Path | None:
    """The unpacked file or, as some packages and hand-made copies have it, the packed one."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged ({why}): delete it and run again, then it is downloaded anew")


def _read_idx(path: Path, rank: int, full: int, sha256: str) -> np.ndarray:
    """The idx format: four bytes 0 0 8 rank, one big-endian uint32 for each dimension, then the bytes themselves.

    A file with as many entries as the `full` set must be that set; a smaller one is your own.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(LARGEST_FILE)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"it does not unpack: {error}") from error
    start = 4 + 4 * rank
    if len(data) < start or data[:4] != bytes((0, 0, 8, rank)):
        raise _damaged(path, "it does not begin as an idx file of bytes does")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) - start != math.prod(shape) or len(data) == start:
        raise _damaged(path, f"its header promises {math.prod(shape)} bytes of data; there are {len(data) - start}")
    if shape[0] == full and hashlib.sha256(data).hexdigest() != sha256:
        raise _damaged(path, "its sha256 is not the known one")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _download(folder: Path, name: str) -> None:
    """torchvision's own download, into a folder beside the data and moved when whole, so that Ctrl-C leaves no ruin."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=".download-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        remedy = "give another root, or use source='embedded', which needs no folder"
        raise PermissionError(f"cannot write to {folder} ({error.strerror}): {remedy}") from error
    from torchvision import datasets  # here, because this import takes seconds and most readers never need it

    dataset = getattr(datasets, TORCHVISION_CLASS[name])
    patience = socket.getdefaulttimeout()
    with staging:
        try:
            mirror = _first_to_answer(dataset.mirrors, dataset.resources[0][0])
            socket.setdefaulttimeout(SILENCE_SECONDS)  # torchvision sets none, so a silent host would hold us for ever
            live = type(dataset.__name__, (dataset,), {"mirrors": [mirror]})  # do not wait for each dead mirror again
            for path in Path(live(staging.name, download=True).raw_folder).glob("*-ubyte"):
                if _find(folder, path.name) is None:  # what was there already is the user's
                    os.replace(path, folder / path.name)
        except Exception as error:  # network, mirror, disk, checksum: one remedy, and the message has the reason
            raise FileNotFoundError(
                f"{folder} has no complete {dataset.__name__} and the download failed ({error}): check the network and "
                "run again, or copy the four *-ubyte files there, or use source='embedded', which needs no network"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)


def _first_to_answer(mirrors: list[str], filename: str) -> str:
    """The mirror that answers first. Each is asked in a thread: a look-up of a host's name knows no timeout."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask(mirror: str) -> None:
        try:
            request = urllib.request.Request(mirror + filename, method="HEAD")
            urllib.request.urlopen(request, timeout=SILENCE_SECONDS).close()
            answers.put(mirror)
        except Exception as error:
            answers.put(f"no answer from {mirror}: {error}")

    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    failures, deadline = [], time.monotonic() + SILENCE_SECONDS
    try:
        for _ in mirrors:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if answer in mirrors:
                return answer
            failures.append(answer)
    except queue.Empty:
        failures.append(f"no answer within {SILENCE_SECONDS:g} seconds")
    raise TimeoutError("; ".join(failures))
