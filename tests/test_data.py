"""Pictures in. Tiny idx files in a temporary folder and servers on this machine: no network, no other data."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import shutil
import socket
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch

from tutorial_lib import data
from tutorial_lib.data import CLASS_NAMES, load_images

STEMS = tuple(f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def tiny_set(seed: int = 0) -> dict[str, bytes]:
    """Four idx files: 12 pictures to train on and 7 to test with."""
    random, files = np.random.default_rng(seed), {}
    for prefix, count in (("train", 12), ("t10k", 7)):
        files[f"{prefix}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(random.integers(0, 10, (count,), dtype=np.uint8))
    return files


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in tiny_set().items():
        (folder / name).write_bytes(content)
    return folder


def load_tiny(root, **options):
    return load_images("mnist", source="torchvision", root=root, **options)


# ---------------------------------------------------------------------------------------------------------- embedded


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(("split", "per_class"), [("train", 400), ("test", 100)])
def test_embedded_sets_are_balanced_and_interleaved(name, split, per_class):
    images, labels = load_images(name, split)
    assert images.shape == (10 * per_class, 1, 16, 16) and images.dtype == torch.float32
    assert labels.dtype == torch.int64 and torch.equal(labels, torch.arange(10).repeat(per_class))
    assert images.min() >= -1 and images.max() <= 1 and images.is_contiguous()
    assert len(CLASS_NAMES[name]) == 10


def test_original_size_keeps_every_pixel():
    images, _ = load_images(size=28)  # (4000, 1, 28, 28)
    levels = (images + 1) * 127.5  # (4000, 1, 28, 28)
    with np.load(data.ASSETS / "mnist_embedded.npz") as arrays:
        stored = torch.from_numpy(arrays["train_images"]).unsqueeze(1)  # (4000, 1, 28, 28)
    assert torch.equal(levels.round().to(torch.uint8), stored)
    assert images.min() == -1 and images.max() == 1


def test_train_and_test_have_no_picture_in_common():
    for name in CLASS_NAMES:
        seen = {image.numpy().tobytes() for image in load_images(name, "train", 28)[0]}
        assert len(seen) == 4000
        assert not any(image.numpy().tobytes() in seen for image in load_images(name, "test", 28)[0])


def test_resizing_averages_with_a_triangle():
    """28 -> 14 with antialias: weights 1 3 3 1 (over 8) around each new pixel, renormalised at the border."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    weights = np.zeros((14, 28))
    for new in range(14):
        for old, weight in zip(range(2 * new - 1, 2 * new + 3), (1, 3, 3, 1), strict=True):
            if 0 <= old < 28:
                weights[new, old] = weight
    weights /= weights.sum(1, keepdims=True)
    expected = weights @ pixels.astype(float) @ weights.T / 127.5 - 1
    np.testing.assert_allclose(data._resized(pixels, 14)[:, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [4, 16, 28, 40])
def test_chunks_do_not_change_the_pictures(size):
    pixels = np.random.default_rng(2).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    assert torch.equal(data._resized(pixels, size, chunk=2), data._resized(pixels, size))
    for constant in (0, 255):
        flat = data._resized(np.full((1, 28, 28), constant, np.uint8), size)  # (1, 1, size, size)
        assert torch.allclose(flat, torch.full_like(flat, constant / 127.5 - 1), atol=1e-6) and flat.abs().max() <= 1


def test_damaged_or_missing_embedded_file(tmp_path, monkeypatch):
    content = bytearray((data.ASSETS / "mnist_embedded.npz").read_bytes())
    content[5000] ^= 1
    (tmp_path / "mnist_embedded.npz").write_bytes(content)
    monkeypatch.setattr(data, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"mnist_embedded\.npz is damaged .*sha256.* install the package again"):
        load_images()
    with pytest.raises(FileNotFoundError, match=r"fashion_mnist_embedded\.npz is missing.*install the package again"):
        load_images("fashion_mnist")


def test_embedded_files_are_the_known_ones_and_small():
    for name, digest in data.SHA256.items():
        content = (data.ASSETS / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest and len(content) < 3_000_000


# --------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar"}, r"name must be one of 'fashion_mnist', 'mnist'; got 'cifar'"),
        ({"name": 3}, r"name must be one of .*; got 3"),
        ({"split": "valid"}, r"split must be one of 'test', 'train'; got 'valid'"),
        ({"source": "web"}, r"source must be one of 'embedded', 'torchvision'; got 'web'"),
        ({"size": 0}, r"size must be a whole number from 4 to 128; got 0"),
        ({"size": -16}, r"size must be a whole number from 4 to 128; got -16"),
        ({"size": 16.0}, r"size must be a whole number from 4 to 128; got 16\.0"),
        ({"size": True}, r"size must be a whole number from 4 to 128; got True"),
        ({"size": 4096}, r"size must be a whole number from 4 to 128; got 4096"),
        ({"source": "torchvision", "root": 5}, r"root must be a folder's path or None; got 5"),
        ({"root": "data"}, r"root must be None with source='embedded'.*; got 'data'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        load_images(**options)


# ------------------------------------------------------------------------------------------------- files that are there


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*_):
        raise AssertionError("the files are there: nothing to download")

    monkeypatch.setattr(data, "_download", refuse)


@pytest.mark.parametrize(("split", "prefix", "count"), [("train", "train", 12), ("test", "t10k", 7)])
@pytest.mark.parametrize("packed", [False, True])
def test_reads_what_torchvision_has_stored(tmp_path, raw, no_download, split, prefix, count, packed):
    pixels = np.frombuffer((raw / f"{prefix}-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    classes = np.frombuffer((raw / f"{prefix}-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
    if packed:
        for stem in STEMS:
            (raw / f"{stem}.gz").write_bytes(gzip.compress((raw / stem).read_bytes()))
            (raw / stem).unlink()
    images, labels = load_tiny(tmp_path, split=split, size=28)
    assert torch.equal(images, torch.tensor(pixels / np.float32(127.5) - 1).view(count, 1, 28, 28))
    assert labels.dtype == torch.int64 and labels.tolist() == classes.tolist()


def test_one_split_is_enough_and_torchvision_is_not_imported(tmp_path, raw, no_download, monkeypatch):
    for stem in STEMS[2:]:
        (raw / stem).unlink()
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import would raise
    assert load_tiny(str(tmp_path))[0].shape == (12, 1, 16, 16)


def test_default_root_is_data_under_the_current_folder(tmp_path, raw, no_download, monkeypatch):
    (tmp_path / "data").mkdir()
    shutil.move(tmp_path / "MNIST", tmp_path / "data" / "FashionMNIST")
    monkeypatch.chdir(tmp_path)
    assert len(load_images("fashion_mnist", source="torchvision")[0]) == 12


IMAGES, LABELS = STEMS[:2]
TINY = tiny_set()


@pytest.mark.parametrize(
    ("stem", "content", "why"),
    [
        (IMAGES, TINY[IMAGES][:-1], r"its header promises 9408 bytes of data; there are 9407"),
        (IMAGES, TINY[IMAGES] + b"x", r"its header promises 9408 bytes of data; there are 9409"),
        (LABELS, TINY[LABELS][:-3], r"its header promises 12 bytes of data; there are 9"),
        (IMAGES, b"", r"it does not begin as an idx file of bytes does"),
        (IMAGES, TINY[IMAGES][:9], r"it does not begin as an idx file of bytes does"),
        (IMAGES, b"<html>" + bytes(40), r"it does not begin as an idx file of bytes does"),
        (IMAGES, TINY[LABELS], r"it does not begin as an idx file of bytes does"),
        (IMAGES, bytes((0, 0, 8, 3)) + bytes(12), r"its header promises 0 bytes of data; there are 0"),
        (IMAGES, bytes((0, 0, 8, 3)) + b"\xff" * 12, r"its header promises \d{20,} bytes of data; there are 0"),
        (IMAGES, idx(np.zeros((12, 32, 32), np.uint8)), r"images must be 28x28; these are 32x32"),
        (IMAGES, idx(np.zeros((11, 28, 28), np.uint8)), r"11 images, but 12 labels in train-labels-idx1-ubyte"),
        (LABELS, idx(np.full(12, 10, np.uint8)), r"labels must be from 0 to 9; got values from 10 to 10"),
        (IMAGES + ".gz", gzip.compress(TINY[IMAGES])[:-30], r"it does not unpack: .+"),
        (IMAGES + ".gz", b"<html>not found</html>", r"it does not unpack: .+"),
        (IMAGES + ".gz", gzip.compress(TINY[IMAGES])[:200] + bytes(500), r"it does not unpack: .+"),
    ],
)
def test_damaged_files(tmp_path, raw, no_download, stem, content, why):
    (raw / stem.removesuffix(".gz")).unlink()
    (raw / stem).write_bytes(content)
    message = rf"{stem} is damaged \({why}\): delete it and run again, then it is downloaded anew"
    with pytest.raises(ValueError, match=message.replace("ubyte.gz is", r"ubyte\.gz is")):
        load_tiny(tmp_path)


def test_a_full_set_must_be_the_known_one(tmp_path, raw, no_download, monkeypatch):
    (raw / LABELS).write_bytes(idx(np.zeros(60_000, np.uint8)))
    (raw / IMAGES).write_bytes(idx(np.zeros((60_000, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match=r"images-idx3-ubyte is damaged \(its sha256 is not the known one\)"):
        load_tiny(tmp_path)
    monkeypatch.setitem(data.FULL_COUNT, "train", 12)  # as if the tiny set were the full one
    known = tuple(hashlib.sha256(TINY[stem]).hexdigest() for stem in (IMAGES, LABELS))
    monkeypatch.setitem(data.FULL_SHA256, ("mnist", "train"), known)
    for stem in (IMAGES, LABELS):
        (raw / stem).write_bytes(TINY[stem])
    assert len(load_tiny(tmp_path)[0]) == 12
    (raw / LABELS).write_bytes(TINY[LABELS][:-1] + bytes([TINY[LABELS][-1] ^ 1]))
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte is damaged \(its sha256 is not the known one\)"):
        load_tiny(tmp_path)


def test_a_packed_file_cannot_fill_the_memory(tmp_path, raw, no_download, monkeypatch):
    (raw / IMAGES).unlink()
    (raw / f"{IMAGES}.gz").write_bytes(gzip.compress(TINY[IMAGES] + bytes(10**6)))
    monkeypatch.setattr(data, "LARGEST_FILE", 10_000)
    with pytest.raises(ValueError, match=r"its header promises 9408 bytes of data; there are 9984"):
        load_tiny(tmp_path)


# ---------------------------------------------------------------------------------------------------------- download


class Silent:
    """Takes connections and never answers, as a broken proxy does."""

    def __enter__(self) -> str:
        self.socket = socket.create_server(("127.0.0.1", 0))
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/"

    def __exit__(self, *_) -> None:
        self.socket.close()


class Mirror:
    """Serves a folder. With `stall`, every body stops after that many bytes, and the connection stays open."""

    def __init__(self, folder, stall: int | None = None):
        self.folder, self.stall, self.requests, self.end = folder, stall, [], threading.Event()

    def __enter__(self) -> str:
        mirror = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                mirror.requests.append((self.command, self.path))

            def copyfile(self, source, outputfile):
                if mirror.stall is None:
                    return super().copyfile(source, outputfile)
                outputfile.write(source.read(mirror.stall))
                outputfile.flush()
                mirror.end.wait(60)

            def handle_error(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=self.folder))
        self.server.handle_error = lambda *_: None  # a client that has left is no news
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_) -> None:
        self.end.set()
        self.server.shutdown()
        self.server.server_close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder of .gz files to serve, and torchvision told to fetch these, with their checksums."""
    from torchvision import datasets

    folder, resources = tmp_path / "served", []
    folder.mkdir()
    for stem, content in tiny_set().items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{stem}.gz").write_bytes(packed)
        resources.append((f"{stem}.gz", hashlib.md5(packed, usedforsecurity=False).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(data, "SILENCE_SECONDS", 2.0)

    def use(*mirrors: str) -> None:
        monkeypatch.setattr(datasets.MNIST, "mirrors", list(mirrors))

    use.folder = folder
    return use


def fails(root, reason: str) -> None:
    """No data and no way to get it: the documented error, soon, and nothing left behind."""
    start, patience = time.monotonic(), socket.getdefaulttimeout()
    message = (
        rf"raw has no complete MNIST and the download failed \({reason}\): check the network and run again, "
        r"or copy the four \*-ubyte files there, or use source='embedded', which needs no network"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_tiny(root)
    assert time.monotonic() - start < 15
    assert socket.getdefaulttimeout() == patience
    assert not list(root.glob("MNIST/raw/.download-*"))


def test_downloads_once_from_the_mirror_that_answers(tmp_path, served):
    root, mirror = tmp_path / "new" / "root", Mirror(served.folder)
    with Silent() as silent, mirror as url:
        served(silent, closed_port(), url)
        images, labels = load_tiny(root, size=28)
        assert len(images) == len(labels) == 12
        requests = len(mirror.requests)
        assert len(load_tiny(root, split="test")[0]) == 7 and len(mirror.requests) == requests
    assert sorted(path.name for path in (root / "MNIST" / "raw").iterdir()) == sorted(STEMS)
    assert torch.equal(load_tiny(root, size=28)[0], images)
    assert (root / "MNIST" / "raw" / IMAGES).read_bytes() == TINY[IMAGES]


def test_download_keeps_the_files_that_are_there(tmp_path, served, raw):
    (raw / LABELS).unlink()
    mine = tiny_set(seed=9)[IMAGES]
    (raw / IMAGES).write_bytes(mine)
    with Mirror(served.folder) as url:
        served(url)
        load_tiny(tmp_path)
    assert (raw / IMAGES).read_bytes() == mine and (raw / LABELS).read_bytes() == TINY[LABELS]


def test_no_network(tmp_path, served):
    served(closed_port(), closed_port())
    fails(tmp_path, r"no answer .*")


def test_host_that_never_answers(tmp_path, served):
    with Silent() as url:
        served(url)
        fails(tmp_path, r"(no answer from http://.*timed out|no answer within 2 seconds)")


def test_look_up_of_the_host_that_never_ends(tmp_path, served, monkeypatch):
    """No timeout of a socket covers this, so the whole question is asked in a thread."""
    end = threading.Event()
    monkeypatch.setattr(data.urllib.request, "urlopen", lambda *_, **__: end.wait(60))
    served("http://localhost:9/")
    fails(tmp_path, r"no answer within 2 seconds")
    end.set()


def test_download_that_stalls_half_way_does_not_poison_the_next(tmp_path, served):
    with Mirror(served.folder, stall=500) as url:
        served(url)
        fails(tmp_path, r".*timed out.*")
    with Mirror(served.folder) as url:
        served(url)
        assert len(load_tiny(tmp_path)[0]) == 12


def test_interrupted_download_does_not_poison_the_next(tmp_path, served, monkeypatch):
    from torchvision import datasets

    def unpack_half_then_interrupt(self):
        folder = tmp_path.joinpath(self.raw_folder)
        folder.mkdir(parents=True)
        (folder / IMAGES).write_bytes(TINY[IMAGES][:1000])
        raise KeyboardInterrupt

    with Mirror(served.folder) as url:
        served(url)
        with monkeypatch.context() as patch:
            patch.setattr(datasets.MNIST, "download", unpack_half_then_interrupt)
            with pytest.raises(KeyboardInterrupt):
                load_tiny(tmp_path)
        assert list((tmp_path / "MNIST" / "raw").iterdir()) == []
        assert len(load_tiny(tmp_path)[0]) == 12


def test_one_flipped_bit_from_a_mirror(tmp_path, served):
    packed = served.folder / f"{IMAGES}.gz"
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    with Mirror(served.folder) as url:
        served(url)
        fails(tmp_path, r"Error downloading train-images-idx3-ubyte\.gz:[\s\S]*corrupted[\s\S]*")


def test_wrong_bytes_from_a_mirror(tmp_path, served):
    for stem in STEMS:
        (served.folder / f"{stem}.gz").write_bytes(b"<html>Please log in to this network</html>")
    with Mirror(served.folder) as url:
        served(url)
        fails(tmp_path, r"Error downloading train-images-idx3-ubyte\.gz:[\s\S]*corrupted[\s\S]*")


def test_mirror_without_the_files(tmp_path, served):
    (tmp_path / "empty").mkdir()
    with Mirror(tmp_path / "empty") as url:
        served(url)
        fails(tmp_path, r"no answer from http://.*404.*")


def test_full_disk(tmp_path, served, monkeypatch):
    from torchvision.datasets import utils

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils, "_urlretrieve", full)
    with Mirror(served.folder) as url:
        served(url)
        fails(tmp_path, r".*No space left on device")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the folder is tried before the network")

    monkeypatch.setattr(data.urllib.request, "urlopen", refuse)


UNWRITABLE = r"cannot write to .*MNIST.raw \(.+\): give another root, or use source='embedded', which needs no folder"


def test_root_that_is_a_file(tmp_path, no_network):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(PermissionError, match=UNWRITABLE):
        load_tiny(tmp_path / "root")


def test_unwritable_folder(tmp_path, no_network, monkeypatch):
    """Refused by hand, because whoever runs the tests as root may write anywhere."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(data.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(PermissionError, match=UNWRITABLE):
        load_tiny(tmp_path)
