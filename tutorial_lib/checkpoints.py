"""Files: weights as safetensors, training states as plain tensors, nothing ever half-written, no code ever loaded."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .attention import FEATURE_MAPS
from .denoiser import EfficientTransformerDenoiser
from .validate import check_choice

ASSETS = Path(__file__).parent / "assets"
PRETRAINED = {
    **{name: ASSETS / f"{name}.safetensors" for name in ("mnist", "mnist_28", "fashion_mnist_28")},
    **{f"attention_{name}": ASSETS / f"attention_{name}.safetensors" for name in (*FEATURE_MAPS, "softmax")},
}
FORMAT = "tutorial_lib.EfficientTransformerDenoiser/1"
CHECKPOINT_FORMAT = "tutorial_lib.training/1"
ABANDONED = 3600.0  # seconds after which a half-written file is nobody's work any more
LARGEST_FILE = 2**30  # bytes: what a file says about itself is not believed beyond this


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """CUDA, else Apple's MPS, else the CPU; or the device you name. Raises ValueError if that one is not here."""
    here = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if device is None:
        return torch.device("cuda" if "cuda" in here else here[-1])
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is None or chosen.type not in here or (chosen.index or 0) >= max(1, torch.cuda.device_count()):
        raise ValueError(f"device must be one of {', '.join(here)} on this machine; got {str(device)!r}")
    return chosen


def write_file(path: str | Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a temporary file beside `path`, then renames it: the old file or the new, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the ending stays: it tells a picture's format
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for left in path.parent.glob(f".*.{glob.escape(path.name)}"):  # of processes that were killed while they wrote
        with contextlib.suppress(OSError):  # another process may be quicker
            if left.name.split(".")[1].isdigit() and time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    return path


def _readable(path: str | Path, what: str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be a file's path; got {path!r}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path must name {what}; there is none at {path}")
    if os.path.getsize(path) > LARGEST_FILE:
        raise ValueError(f"path must name {what}, of at most {LARGEST_FILE:,} bytes; {path} has more")
    return Path(path)


def digest_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of all that a file says: safetensors has no checksum, and a flipped bit is just another finite weight."""
    told = {name: value for name, value in metadata.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_safetensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str]) -> Path:
    """Writes tensors and metadata, and a digest of both, which `read_safetensors` checks."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, {**metadata, "sha256": digest_of(tensors, metadata)})
    return write_file(path, lambda temporary: temporary.write_bytes(content))


def read_safetensors(path: str | Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose metadata says format = `expected`.

    Raises FileNotFoundError without a file, ValueError for one that is truncated, damaged, foreign or not finite.
    """
    path = _readable(path, f"a file of {expected} (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path must name a whole safetensors file; {path} is truncated or damaged: {error}") from error
    if metadata.get("format") != expected:
        raise ValueError(f"path must name a file of {expected}; {path} says {metadata.get('format')!r}")
    if metadata.get("sha256") != digest_of(tensors, metadata):
        raise ValueError(
            f"path must name a whole file of {expected}; {path} is damaged, or was not written by this package: its "
            f"sha256 does not fit what is in it"
        )
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"path must name finite numbers; {path} has NaN or infinity")
    return tensors, metadata


def rebuild(network: type[nn.Module], path: str | Path, expected: str) -> nn.Module:
    """The network of a file, from its own metadata, in eval mode. Raises like `read_safetensors`."""
    tensors, metadata = read_safetensors(path, expected)
    try:
        config = json.loads(metadata["config"])
        with torch.device("meta"):  # first without memory: an architecture may claim any size
            plan = network(**config)
            plan.load_state_dict(tensors, assign=True)
        if sum(buffer.numel() for buffer in plan.buffers() if buffer.is_meta) > LARGEST_FILE // 16:
            raise ValueError("its pictures are too large")
        model = network(**config)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise ValueError(f"path must name weights that fit their own architecture; {path} does not: {error}") from error
    return model.eval()


def save_model(model: EfficientTransformerDenoiser, path: str | Path, **notes: str) -> Path:
    """Writes weights and architecture to one safetensors file; `notes` join the architecture in its metadata."""
    metadata = {**notes, "format": FORMAT, "config": json.dumps(model.config)}
    return write_safetensors(model.state_dict(), path, metadata)


def load_model(path: str | Path, device: str | torch.device | None = None) -> EfficientTransformerDenoiser:
    """Rebuilds the network from `save_model`'s file, ready to sample. Raises FileNotFoundError or ValueError."""
    device = pick_device(device)
    return rebuild(EfficientTransformerDenoiser, path, FORMAT).to(device)


def load_pretrained(name: str = "mnist", device: str | torch.device | None = None) -> EfficientTransformerDenoiser:
    """The weights that come with the package, described in the cards beside them, or your own newest ones.

    "mnist": the network of this series; "mnist_28" and "fashion_mnist_28": the same for 28 pixels; "attention_softmax",
    "attention_double_softmax", "attention_elu1" and "attention_relu": equal short trainings that differ in the
    attention alone; "mine": the newest model.safetensors in a run's folder under `runs`, here or one folder up. Raises
    ValueError for an unknown name, FileNotFoundError if there is no such run yet.
    """
    check_choice(name, "name", (*PRETRAINED, "mine"))
    if name != "mine":
        return load_model(PRETRAINED[name], device)
    mine = [path for runs in ("runs", "../runs") for path in Path(runs).glob("*/model.safetensors")]
    if not mine:
        raise FileNotFoundError("name 'mine' needs a network of your own; there is none: train one, or use 'mnist'")
    return load_model(max(mine, key=lambda path: path.stat().st_mtime), device)


def save_checkpoint(state: dict[str, Any], path: str | Path) -> Path:
    """Writes a training state (`Progress.state()`): tensors, numbers and strings only, and their SHA-256 at the end."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return write_file(path, lambda temporary: temporary.write_bytes(content + hashlib.sha256(content).digest()))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a training state. Loads data only, never code; FileNotFoundError or ValueError if it cannot be used."""
    path = _readable(path, "a checkpoint")
    whole = path.read_bytes()
    content, digest = whole[:-32], whole[-32:]
    try:
        if hashlib.sha256(content).digest() != digest:  # torch.load does not look at the checksums in the file
            raise ValueError("its sha256 does not fit what is in it")
        if sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(content)).infolist()) > len(content):
            raise ValueError("it would unpack to more than it is")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise ValueError(
            f"path must name a whole checkpoint; {path} is truncated, damaged or not one: {error}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"path must name a checkpoint of {CHECKPOINT_FORMAT}; {path} is something else")
    return state
