"""Files: what is written comes back bit for bit, a failed write harms nothing, and no file can run code or crash."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tutorial_lib import checkpoints
from tutorial_lib.checkpoints import (
    CHECKPOINT_FORMAT,
    FORMAT,
    PRETRAINED,
    load_checkpoint,
    load_model,
    load_pretrained,
    pick_device,
    save_checkpoint,
    save_model,
    write_file,
    write_safetensors,
)
from tutorial_lib.denoiser import EfficientTransformerDenoiser

SIZES = {"image_size": 8, "dim": 16, "heads": 2, "layers": 2, "ff_dim": 32, "num_classes": 4}


def tiny(**changes) -> EfficientTransformerDenoiser:
    model, generator = EfficientTransformerDenoiser(**{**SIZES, **changes}), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.2, generator=generator)
    return model


def metadata(**changes: str) -> dict[str, str]:
    return {"format": FORMAT, "config": json.dumps(tiny().config), **changes}


def refuses(call, *words: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.fixture
def weights(tmp_path) -> Path:
    return save_model(tiny(), tmp_path / "weights.safetensors")


# ----------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "softmax", "local": False},
        {"attention": "elu1", "channels": 3, "image_size": 12, "patch_size": 3, "num_classes": 7, "layers": 1},
    ],
)
def test_weights_and_architecture_come_back(changes, tmp_path):
    model = tiny(**changes)
    path = save_model(model, tmp_path / "new" / "folder" / "model.safetensors", made_by="a test")
    assert path == tmp_path / "new" / "folder" / "model.safetensors"
    back = load_model(path, "cpu")
    assert back.config == model.config and not back.training
    one, two = model.state_dict(), back.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    size, channels = changes.get("image_size", 8), changes.get("channels", 1)
    x, labels = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 3])
    assert torch.equal(model.eval()(x, 0.4, labels), back(x, 0.4, labels))


def test_file_names_its_format_architecture_and_notes(tmp_path):
    path = save_model(tiny(), tmp_path / "model.safetensors", seed="3", format="mine", config="mine")
    with safe_open(path, framework="pt") as file:
        found = file.metadata()
    assert found["format"] == FORMAT and found["seed"] == "3"  # a note cannot take the place of either
    assert {name: json.loads(found["config"])[name] for name in SIZES} == SIZES


def test_loading_leaves_the_global_generator_usable(weights):
    one, two = load_model(weights, "cpu"), load_model(str(weights), "cpu")  # a string will do
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------------ atomic


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("ne")
        assert path.read_text() == "old" and temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("new")

    assert write_file(path, write) == path
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file.txt"]


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    """Half-written copies of this very file, once they are old; nothing else."""
    old = [".123.run.pt", ".123.other.pt", ".notes.run.pt", "123.run.pt"]
    for name in [*old, ".124.run.pt"]:
        (tmp_path / name).write_text("half")
    for name in old:
        os.utime(tmp_path / name, (0, time.time() - checkpoints.ABANDONED - 1))
    write_file(tmp_path / "run.pt", lambda temporary: temporary.write_text("whole"))
    assert sorted(os.listdir(tmp_path)) == sorted([*old[1:], ".124.run.pt", "run.pt"])


def test_a_failing_write_leaves_the_old_weights(weights, monkeypatch):
    before = weights.read_bytes()

    def full_disk(path, content):
        path.open("wb").write(content[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    refuses(lambda: save_model(tiny(layers=1), weights), "No space left", error=OSError)
    assert weights.read_bytes() == before and os.listdir(weights.parent) == [weights.name]


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path):
    path = save_checkpoint({"format": CHECKPOINT_FORMAT, "step": 3}, tmp_path / "run.pt")
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint({"format": CHECKPOINT_FORMAT, "bad": lambda: None}, path)
    assert load_checkpoint(path) == {"format": CHECKPOINT_FORMAT, "step": 3} and os.listdir(tmp_path) == ["run.pt"]


def test_a_failing_rename_leaves_no_litter(weights, monkeypatch):
    before = weights.read_bytes()

    def locked(source, target):
        raise PermissionError("in use")

    monkeypatch.setattr(os, "replace", locked)
    refuses(lambda: save_model(tiny(layers=1), weights), "in use", error=PermissionError)
    assert weights.read_bytes() == before and os.listdir(weights.parent) == [weights.name]


# ------------------------------------------------------------------------------------------- weights that are refused


def test_refuses_missing_weights(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        refuses(lambda path=path: load_model(path), "path", ".safetensors", str(path), error=FileNotFoundError)


@pytest.mark.parametrize("share", [0, 1e-9, 0.001, 0.02, 0.2, 0.5, 0.9, 1])
def test_refuses_truncated_weights(weights, share):
    whole = weights.read_bytes()
    weights.write_bytes(whole[: min(int(len(whole) * share) + (share > 0), len(whole) - 1)])
    refuses(lambda: load_model(weights), "path", "whole safetensors file", str(weights), "damaged")


@pytest.mark.parametrize("content", [b"hello, world", b"\xff" * 500, b"\x00" * 500, b"PK\x03\x04" + b"\x00" * 60])
def test_refuses_files_that_are_no_weights(weights, content):
    weights.write_bytes(content)
    refuses(lambda: load_model(weights), "path", "safetensors", str(weights))


def test_refuses_a_damaged_header(weights):
    whole = bytearray(weights.read_bytes())
    whole[8] = ord("[")  # the header is JSON after its length in 8 bytes
    weights.write_bytes(whole)
    refuses(lambda: load_model(weights), "path", "whole safetensors file", str(weights), "damaged")


def test_refuses_a_flipped_bit_in_the_weights(weights):
    """safetensors itself would take it: another finite number."""
    whole = bytearray(weights.read_bytes())
    whole[-100] ^= 1
    weights.write_bytes(whole)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(weights).values())
    refuses(lambda: load_model(weights), "path", "sha256", str(weights), "damaged")


def test_refuses_changed_metadata_and_a_file_without_a_digest(weights):
    tensors = load_file(weights)
    with safe_open(weights, framework="pt") as file:
        told = file.metadata()
    for changed in ({**told, "seed": "4"}, {name: told[name] for name in ("format", "config")}):
        save_file(tensors, weights, changed)
        refuses(lambda: load_model(weights), "path", "sha256", str(weights))


@pytest.mark.parametrize("config", [{"layers": 10**9}, {"dim": 10**6}, {"image_size": 10**5}, {"image_size": 10**30}])
def test_an_architecture_of_any_size_costs_nothing(weights, config):
    write_safetensors(load_file(weights), weights, metadata(config=json.dumps({**SIZES, **config})))
    refuses(lambda: load_model(weights), "path", "fit their own", str(weights))


def test_refuses_a_file_that_would_fill_the_memory(weights, checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoints, "LARGEST_FILE", 1000)
    refuses(lambda: load_model(weights), "path", "at most 1,000 bytes", str(weights))
    refuses(lambda: load_checkpoint(checkpoint), "path", "at most 1,000 bytes", str(checkpoint))


@pytest.mark.parametrize("path", [None, 3, b"run.pt", ["run.pt"]], ids=repr)
def test_refuses_what_is_no_path(path):
    refuses(lambda: load_model(path), "path must be a file's path", repr(path))
    refuses(lambda: load_checkpoint(path), "path must be a file's path", repr(path))


@pytest.mark.parametrize("found", [None, {}, {"format": "pt"}, {"format": FORMAT + "0"}], ids=str)
def test_refuses_weights_of_another_program(weights, found):
    write_safetensors(load_file(weights), weights, found or {})
    got = repr((found or {}).get("format"))
    refuses(lambda: load_model(weights), "path", FORMAT, str(weights), got)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        json.dumps({**SIZES, "colour": "red"}),
        json.dumps({**SIZES, "dim": 15}),
        json.dumps({**SIZES, "dim": "16"}),
        json.dumps({**SIZES, "layers": 0}),
        json.dumps({**SIZES, "attention": "magic"}),
        json.dumps({**SIZES, "dim": 32}),
        json.dumps({**SIZES, "layers": 3}),
        json.dumps({**SIZES, "layers": 1}),
    ],
)
def test_refuses_weights_that_do_not_fit_their_architecture(weights, config):
    write_safetensors(load_file(weights), weights, metadata(config=config))
    refuses(lambda: load_model(weights), "path", "fit their own", str(weights))


def test_refuses_weights_without_an_architecture(weights):
    write_safetensors(load_file(weights), weights, {"format": FORMAT})
    refuses(lambda: load_model(weights), "path", "fit their own", str(weights))


def test_refuses_weights_of_a_wrong_shape_or_missing_or_extra(weights):
    whole = load_file(weights)
    turned = {**whole, "to_pixels.weight": whole["to_pixels.weight"].T.contiguous()}
    missing = {name: tensor for name, tensor in whole.items() if name != "to_pixels.bias"}
    for tensors, word in (
        (turned, "to_pixels.weight"),
        (missing, "to_pixels.bias"),
        ({**whole, "odd": torch.zeros(3)}, "odd"),
    ):
        write_safetensors(tensors, weights, metadata())
        refuses(lambda: load_model(weights), "path", "fit their own", word)
    write_safetensors(whole, weights, metadata())
    load_model(weights)  # and the whole is fine


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_refuses_weights_that_are_not_finite(weights, value):
    tensors = load_file(weights)
    tensors["to_pixels.bias"][1] = value
    write_safetensors(tensors, weights, metadata())
    refuses(lambda: load_model(weights), "path", "finite", "NaN or infinity", str(weights))


# ------------------------------------------------------------------------------------------------------- checkpoints

STATE = {
    "format": CHECKPOINT_FORMAT,
    "step": 7,
    "config": {"lr": 6e-3, "steps": None, "levels": 10},
    "model": {"w": torch.linspace(-1, 1, 5), "n": torch.tensor(3)},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save_checkpoint(STATE, tmp_path / "deep" / "run.pt")


def signed(path: Path, content: bytes) -> None:
    path.write_bytes(content + hashlib.sha256(content).digest())


def test_checkpoint_comes_back(checkpoint):
    back = load_checkpoint(str(checkpoint))
    for name in ("w", "n"):
        assert torch.equal(back["model"].pop(name), STATE["model"][name])
    assert back.pop("model") == {} and back == {name: value for name, value in STATE.items() if name != "model"}


def test_refuses_a_missing_checkpoint(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        refuses(lambda path=path: load_checkpoint(path), "path", "checkpoint", str(path), error=FileNotFoundError)


@pytest.mark.parametrize("share", [0, 1e-9, 0.001, 0.02, 0.2, 0.5, 0.9, 0.99, 1])
def test_refuses_a_truncated_checkpoint(checkpoint, share):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: min(int(len(whole) * share) + (share > 0), len(whole) - 1)])
    refuses(lambda: load_checkpoint(checkpoint), "path", "whole checkpoint", str(checkpoint), "truncated, damaged")


@pytest.mark.parametrize(
    "content",
    [
        b"hello, world",
        b"\xff" * 500,
        b"\x00" * 500,
        b"\x80\x02.",
        b"\x80\x02}.",
        b"\x80\x02]q\x00e.",
        b"\x80\x02\x85.",
        b"c",
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore")
def test_refuses_files_that_are_no_checkpoint(checkpoint, content):
    checkpoint.write_bytes(content)
    refuses(lambda: load_checkpoint(checkpoint), "path", "checkpoint", str(checkpoint))


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_state_with_a_right_digest_loads_or_is_a_value_error(checkpoint):
    """Whoever damages a file on purpose can also mend its digest: what then breaks must be refused, never crash."""
    whole, chance, refused = checkpoint.read_bytes()[:-32], random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[chance.randrange(700)] = chance.randrange(256)  # the pickled part comes first
        signed(checkpoint, bytes(damaged))
        try:
            load_checkpoint(checkpoint)
        except ValueError as error:
            assert "path" in str(error)
            refused += 1
    assert refused > 100


def test_refuses_a_flipped_bit_in_a_checkpoint(checkpoint):
    """torch.load would take it."""
    whole = checkpoint.read_bytes()
    place = whole.index(STATE["model"]["w"].numpy().tobytes())
    checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    refuses(lambda: load_checkpoint(checkpoint), "path", "whole checkpoint", str(checkpoint), "sha256")


def test_refuses_a_checkpoint_that_unpacks_to_more_than_it_is(checkpoint):
    packed = io.BytesIO()
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(10**6))
    signed(checkpoint, packed.getvalue())
    refuses(lambda: load_checkpoint(checkpoint), "path", "whole checkpoint", "unpack to more")


@pytest.mark.parametrize(
    "foreign",
    [{}, [1, 2], torch.zeros(3), {"model": {}}, {"format": "other"}, {"format": CHECKPOINT_FORMAT + "0"}, "text", None],
    ids=str,
)
def test_refuses_a_checkpoint_of_another_program(checkpoint, foreign):
    save_checkpoint(foreign, checkpoint)
    refuses(lambda: load_checkpoint(checkpoint), "path", CHECKPOINT_FORMAT, str(checkpoint), "something else")


def test_weights_and_checkpoints_are_told_apart(weights, checkpoint):
    refuses(lambda: load_checkpoint(weights), "path", "checkpoint")
    refuses(lambda: load_model(checkpoint), "path", "safetensors")


# --------------------------------------------------------------------------------------------------------- no code


class Bomb:
    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("wrap", ["in a state", "alone", "plain pickle"])
def test_pickled_code_is_never_run(tmp_path, wrap):
    trace, path = tmp_path / "was here", tmp_path / "run.pt"
    bomb = Bomb(trace)
    if wrap == "plain pickle":
        signed(path, pickle.dumps(bomb, protocol=2))
    else:
        save_checkpoint({**STATE, "model": bomb} if wrap == "in a state" else bomb, path)
    refuses(lambda: load_checkpoint(path), "path", "checkpoint", str(path))
    refuses(lambda: load_model(path), "path", "safetensors", str(path))
    assert not trace.exists()
    content = path.read_bytes()  # the bomb is live: whoever trusts the file sets it off
    if wrap == "plain pickle":
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert trace.exists()


# ----------------------------------------------------------------------------------------------------------- devices


@pytest.fixture
def machine(monkeypatch):
    def build(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return build


def test_device_is_picked_by_itself(machine):
    for (cuda, mps), kind in {(0, False): "cpu", (1, False): "cuda", (0, True): "mps", (2, True): "cuda"}.items():
        machine(cuda, mps)
        assert pick_device() == torch.device(kind)


def test_device_can_be_named(machine):
    machine(cuda=2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert pick_device(name) == torch.device(name)
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
    machine(mps=True)
    assert pick_device("mps") == torch.device("mps") and pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta", "abacus", "", 3.5, [1]], ids=str)
def test_refuses_a_device_that_is_not_here(machine, name):
    machine()
    refuses(lambda: pick_device(name), "device", "cpu on this machine", str(name))


def test_refuses_a_device_number_that_is_not_here(machine):
    machine(cuda=2)
    refuses(lambda: pick_device("cuda:2"), "device", "cpu, cuda", "cuda:2")
    refuses(lambda: pick_device("mps"), "device", "cpu, cuda", "mps")


def test_refuses_a_device_when_loading(weights):
    refuses(lambda: load_model(weights, "abacus"), "device", "cpu", "abacus")


# -------------------------------------------------------------------------------------------------------- pretrained


def test_pretrained_weights_are_found_by_name(weights, monkeypatch):
    monkeypatch.setitem(PRETRAINED, "mnist", weights)
    want = tiny().state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in load_pretrained(device="cpu").state_dict().items())


@pytest.mark.parametrize("name", ["imagenet", "", None, 3, "../mnist"])
def test_refuses_an_unknown_name(name):
    refuses(lambda: load_pretrained(name), "name must be one of", "'mnist'", repr(name))


def test_mine_is_the_newest_run_here_or_one_folder_up(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(FileNotFoundError, match="name 'mine' needs a network of your own; there is none"):
        load_pretrained("mine")
    for age, (folder, layers) in enumerate((("runs/a", 1), ("../runs/b", 2), ("runs/c", 3))):
        path = save_model(EfficientTransformerDenoiser(dim=16, heads=2, layers=layers), f"{folder}/model.safetensors")
        os.utime(path, (1e9 - age, 1e9 - age))  # the first one is the newest
    assert len(load_pretrained("mine", "cpu").blocks) == 1
    os.utime("../runs/b/model.safetensors", (2e9, 2e9))
    assert len(load_pretrained("mine", "cpu").blocks) == 2
