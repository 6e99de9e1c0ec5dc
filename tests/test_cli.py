"""`python -m tutorial_lib`: the three commands, from arguments to files."""

from __future__ import annotations

import json
import math
import signal
from functools import partial

import matplotlib.image
import pytest
import torch

from tutorial_lib import doctor, runs
from tutorial_lib.__main__ import main, parser
from tutorial_lib.checkpoints import load_checkpoint, load_model, save_checkpoint, save_model
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.sampling import DEFAULT_GUIDANCE, DEFAULT_SOLVER


@pytest.fixture
def small(monkeypatch):
    """A tiny network and few scored digits: these tests are about runs and files, not about quality."""
    monkeypatch.setattr(runs, "SCORED_DIGITS", 200)
    tiny = partial(EfficientTransformerDenoiser, dim=16, heads=2, layers=1, ff_dim=16)
    monkeypatch.setattr(runs, "EfficientTransformerDenoiser", tiny)


@pytest.fixture
def interrupt_at(monkeypatch):
    """Presses Ctrl-C while a given step of the training is under way."""

    def arm(step: int) -> None:
        real = runs.train

        def pressed(*args, **kwargs):
            for progress in real(*args, **kwargs):
                if progress.step == step:
                    signal.raise_signal(signal.SIGINT)
                yield progress

        monkeypatch.setattr(runs, "train", pressed)

    return arm


def weights_of(path):
    return load_model(path, "cpu").state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_sample_draws_ten_rows_and_eleven_columns(tmp_path, capsys):
    out = tmp_path / "ten.png"
    assert main(["sample", "--out", str(out), "--device", "cpu"]) == 0
    assert "10 images" in capsys.readouterr().out
    height, width, _ = matplotlib.image.imread(out).shape
    assert 0.8 < height / width < 1.1


def test_sample_is_the_same_for_the_same_seed(tmp_path):
    pictures = []
    for i, seed in enumerate([3, 3, 4]):
        out = tmp_path / f"{i}.png"
        command = ["sample", "--digit", "7", "--count", "2", "--steps", "3", "--seed", str(seed), "--out", str(out)]
        assert main([*command, "--device", "cpu", "--solver", "ddpm", "--guidance", "2"]) == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_sample_takes_your_own_weights(tmp_path):
    path = save_model(EfficientTransformerDenoiser(), tmp_path / "mine.safetensors")
    out = tmp_path / "grey.png"
    assert main(["sample", "--weights", str(path), "--steps", "1", "--out", str(out), "--device", "cpu"]) == 0
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps must be a whole number of at least 1; got 0"),
        (["--count", "-1"], "count must be a whole number of at least 1; got -1"),
        (["--guidance", "nan"], "guidance_scale must be a number from 0 to 100; got nan"),
        (["--out", "digits.txt"], "--out must end in .png; got 'digits.txt'"),
        (["--device", "abacus"], "device must be one of"),
        (["--weights", "nowhere.safetensors"], "there is none at nowhere.safetensors"),
        (["--seed", "-1"], "seed must be a whole number"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_defaults(capsys):
    for command in ("sample", "train", "doctor"):
        with pytest.raises(SystemExit) as end:
            parser().parse_args([command, "--help"])
        assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"(default: {DEFAULT_GUIDANCE:g})" in text
    assert f"(default: {DEFAULT_SOLVER})" in text


def test_train_leaves_weights_scores_and_picture(tmp_path, small, capsys):
    out = tmp_path / "run"
    assert main(["train", "--steps", "2", "--out", str(out), "--device", "cpu"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint.pt",
        "digits.png",
        "model.safetensors",
        "scores.json",
    ]
    scores = json.loads((out / "scores.json").read_text())
    assert scores["n"] == 200
    assert scores["run"]["steps"] == 2
    text = capsys.readouterr().out
    assert "4,000 images (mnist, embedded), 2 steps of 128, recipe fast" in text
    assert same(weights_of(out / "model.safetensors"), load_checkpoint(out / "checkpoint.pt")["ema"])


def test_ctrl_c_saves_and_resume_ends_bit_for_bit_the_same(tmp_path, small, interrupt_at, capsys):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    command = ["train", "--steps", "4", "--device", "cpu", "--recipe", "published", "--seed", "5"]
    assert main([*command, "--out", str(straight)]) == 0
    interrupt_at(2)
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    assert main([*command, "--out", str(stopped)]) == 130
    assert f"Go on with: python -m tutorial_lib train --resume --out {stopped}" in capsys.readouterr().out
    assert load_checkpoint(stopped / "checkpoint.pt")["step"] == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert main(["train", "--resume", "--out", str(stopped), "--device", "cpu"]) == 0
    assert "Going on from step 2" in capsys.readouterr().out
    assert same(weights_of(straight / "model.safetensors"), weights_of(stopped / "model.safetensors"))
    finished = load_checkpoint(straight / "checkpoint.pt"), load_checkpoint(stopped / "checkpoint.pt")
    assert same(finished[0]["model"], finished[1]["model"])
    assert (straight / "digits.png").read_bytes() == (stopped / "digits.png").read_bytes()


def test_resume_of_a_complete_run_only_scores_again(tmp_path, small):
    out = tmp_path / "run"
    assert main(["train", "--steps", "1", "--out", str(out), "--device", "cpu"]) == 0
    before = weights_of(out / "model.safetensors")
    (out / "scores.json").unlink()
    assert main(["train", "--resume", "--out", str(out), "--device", "cpu"]) == 0
    assert (out / "scores.json").exists()
    assert same(before, weights_of(out / "model.safetensors"))


def test_resume_without_a_checkpoint_says_so(tmp_path, small, capsys):
    out = tmp_path / "new"
    assert main(["train", "--resume", "--steps", "1", "--out", str(out), "--device", "cpu"]) == 0
    assert f"There is no checkpoint in {out}: starting afresh." in capsys.readouterr().out


def test_a_run_is_never_overwritten_or_changed_on_the_way(tmp_path, small, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "--steps", "1", "--out", out, "--device", "cpu"]) == 0
    assert main(["train", "--steps", "1", "--out", out, "--device", "cpu"]) == 2
    assert "--out must be a folder without a run" in capsys.readouterr().err
    assert main(["train", "--steps", "9", "--resume", "--out", out, "--device", "cpu"]) == 2
    assert "--steps was 1, got 9" in capsys.readouterr().err


def test_minutes_fix_the_number_of_steps_first(tmp_path, small, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "measured_steps", lambda *args: asked.append(args[4]) or 2)
    out = tmp_path / "run"
    assert main(["train", "--minutes", "0.5", "--out", str(out), "--device", "cpu"]) == 0
    assert asked == [0.5]
    assert load_checkpoint(out / "checkpoint.pt")["config"]["steps"] == 2


def test_measured_steps_grow_with_the_minutes():
    torch.manual_seed(0)
    model = EfficientTransformerDenoiser(dim=16, heads=2, layers=1, ff_dim=16)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = torch.zeros(40, 1, 16, 16), torch.zeros(40, dtype=torch.int64)
    config = runs.TrainConfig.fast(batch_size=8)
    few, many = (runs.measured_steps(model, images, labels, config, minutes, "cpu") for minutes in (0.01, 10))
    assert 1 <= few < many
    assert same(start, model.state_dict())  # the measuring trains a copy
    with pytest.raises(ValueError, match="minutes must be a number from 0.01"):
        runs.measured_steps(model, images, labels, config, 0.0, "cpu")


def test_a_checkpoint_is_written_at_least_once_a_minute(tmp_path, monkeypatch):
    assert runs.CHECKPOINT_SECONDS <= 60
    saved = []
    monkeypatch.setattr(runs, "save_checkpoint", lambda state, path: saved.append(state["step"]))
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0)
    images, labels = torch.zeros(8, 1, 16, 16), torch.zeros(8, dtype=torch.int64)
    model = EfficientTransformerDenoiser(dim=16, heads=2, layers=1, ff_dim=16)
    steps = runs.train(model, images, labels, runs.TrainConfig.fast(steps=3, batch_size=8), device="cpu")
    assert runs.follow(steps, tmp_path / "checkpoint.pt", {}).step == 3
    assert saved == [1, 2, 3]


def test_train_on_clothes_gives_no_scores_of_digits(tmp_path, small, capsys):
    out = tmp_path / "run"
    assert main(["train", "--data", "fashion_mnist", "--steps", "1", "--out", str(out), "--device", "cpu"]) == 0
    assert "there is no judge for fashion_mnist at 16 pixels" in capsys.readouterr().out
    assert not (out / "scores.json").exists()


def test_size_and_batch_are_those_of_the_run(tmp_path, small, capsys):
    out = tmp_path / "run"
    command = ["train", "--size", "8", "--batch", "5", "--steps", "2", "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    state = load_checkpoint(out / "checkpoint.pt")
    assert state["architecture"]["image_size"] == 8 and state["config"]["batch_size"] == 5
    assert "2 steps of 5" in (text := capsys.readouterr().out) and "no judge for mnist at 8 pixels" in text
    assert main([*command, "--resume"]) == 0
    assert main(["train", "--resume", "--size", "16", "--out", str(out), "--device", "cpu"]) == 2
    assert "--size was 8, got 16" in capsys.readouterr().err


def test_a_checkpoint_from_before_size_batch_and_losses_goes_on(tmp_path, small, interrupt_at):
    out = tmp_path / "run"
    interrupt_at(2)
    assert main(["train", "--steps", "3", "--out", str(out), "--device", "cpu"]) == 130
    state = load_checkpoint(out / "checkpoint.pt")
    del state["losses"], state["run"]["size"], state["run"]["batch"]
    save_checkpoint(state, out / "checkpoint.pt")
    assert main(["train", "--resume", "--out", str(out), "--device", "cpu"]) == 0
    losses = load_checkpoint(out / "checkpoint.pt")["losses"]
    assert [math.isnan(loss) for loss in losses] == [True, True, False]


def test_the_losses_of_all_steps_are_kept_also_after_resume(tmp_path, small, interrupt_at):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    command = ["train", "--steps", "4", "--batch", "8", "--device", "cpu", "--score", "0"]
    assert main([*command, "--out", str(straight)]) == 0
    interrupt_at(2)
    assert main([*command, "--out", str(stopped)]) == 130
    assert len(load_checkpoint(stopped / "checkpoint.pt")["losses"]) == 2
    assert main(["train", "--resume", "--out", str(stopped), "--device", "cpu", "--score", "0"]) == 0
    kept = [load_checkpoint(folder / "checkpoint.pt")["losses"] for folder in (straight, stopped)]
    assert kept[0] == kept[1] and len(set(kept[0])) == 4


def test_score_and_save_every_belong_to_the_call_and_not_to_the_run(tmp_path, small, monkeypatch):
    saved, out, save = [], tmp_path / "run", runs.save_checkpoint
    monkeypatch.setattr(runs, "save_checkpoint", lambda state, path: saved.append(state["step"]) or save(state, path))
    command = ["train", "--batch", "8", "--out", str(out), "--device", "cpu"]
    assert main([*command, "--steps", "3", "--score", "0", "--save-every", "0"]) == 0
    assert saved == [1, 2, 3] and not (out / "scores.json").exists()
    assert main([*command, "--resume", "--score", "200"]) == 0
    assert json.loads((out / "scores.json").read_text())["n"] == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be a whole number of at least 1; got 0"),
        (["--minutes", "nan"], "minutes must be a number from 0.01"),
        (["--seed", "-1"], "seed must be a whole number from 0"),
        (["--device", "abacus"], "device must be one of"),
        (["--size", "15"], "--size must be an even number from 4 to 128, for patches of 2x2 pixels; got 15"),
        (["--size", "2"], "--size must be an even number from 4 to 128"),
        (["--size", "130"], "--size must be an even number from 4 to 128"),
        (["--batch", "0"], "--batch must be a whole number of at least 1; got 0"),
        (["--score", "100"], "--score must be a whole number from 200 to 10000; got 100"),
        (["--save-every", "-1"], "--save-every must be a number from 0"),
    ],
)
def test_a_mistake_stops_training_before_it_starts(arguments, message, tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("arguments", [["--size", "15"], ["--batch", "0"], ["--score", "7"], ["--save-every", "nan"]])
def test_a_mistake_makes_no_folder(arguments, tmp_path):
    assert main(["train", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert list(tmp_path.iterdir()) == []


def test_doctor_is_well_here(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.count("ok ") == len(doctor.CHECKS)
    assert "All is well." in text


def test_doctor_names_a_remedy_and_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no_such_package"))
    monkeypatch.setitem(doctor.CHECKS, "weights", lambda: 1 / 0)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "FAIL  packages" in text
    assert "pip install -e ." in text
    assert "2 of 8 checks failed." in text
    assert "ok    writing" in text


def test_doctor_sees_a_folder_without_write_access(monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert main(["doctor"]) == 1
    assert "FAIL  writing   cannot write in" in capsys.readouterr().out


def test_follow_calls_the_view_after_each_step_instead_of_a_bar(tmp_path, capsys):
    images, labels = torch.zeros(8, 1, 16, 16), torch.zeros(8, dtype=torch.int64)
    model = EfficientTransformerDenoiser(dim=16, heads=2, layers=1, ff_dim=16)
    seen = []
    steps = runs.train(model, images, labels, runs.TrainConfig.fast(steps=3, batch_size=4), device="cpu")
    last = runs.follow(steps, tmp_path / "checkpoint.pt", view=lambda progress: seen.append(progress.step))
    assert seen == [1, 2, 3] and last.step == 3
    assert capsys.readouterr().err == ""
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 3


def test_each_run_gets_a_folder_of_its_own(tmp_path):
    folders = [runs.new_run_folder(tmp_path / "runs", "lesson") for _ in range(3)]
    assert [folder.name for folder in folders] == ["lesson-1", "lesson-2", "lesson-3"]
    assert all(folder.is_dir() for folder in folders)
