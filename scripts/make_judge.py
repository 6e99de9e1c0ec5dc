"""Trains the digit judge on the full MNIST and measures real digits with it: tutorial_lib/assets/digit_judge.* and
mnist_reference.safetensors.

    python scripts/make_judge.py --root FOLDER [--what judge|reference|all]

FOLDER is where torchvision keeps, or downloads, MNIST. About three minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from tutorial_lib import evaluation
from tutorial_lib.checkpoints import write_file, write_safetensors
from tutorial_lib.data import load_images
from tutorial_lib.judge import JUDGE_FORMAT, DigitJudge

SEED, EPOCHS, BATCH, RATE, DECAY = 0, 10, 256, 4e-3, 0.02
FLOOR_SIZES, FLOOR_DRAWS = (200, 500, 1_000, 2_000, 5_000, 10_000), 20
JUDGE = evaluation.ASSETS / "digit_judge.safetensors"
REFERENCE = evaluation.ASSETS / "mnist_reference.safetensors"
CARD = evaluation.ASSETS / "digit_judge.md"


def shifted(images: Tensor) -> Tensor:
    """Returns images (B, 1, 16, 16), each moved by -1, 0 or 1 pixel in both directions, the gap filled with black."""
    count, size = len(images), images.shape[-1]
    padded = F.pad(images[:, 0], (1, 1, 1, 1), value=-1.0)  # (B, 18, 18)
    rows = torch.arange(size) + torch.randint(0, 3, (count, 1))  # (B, 16)
    columns = torch.arange(size) + torch.randint(0, 3, (count, 1))  # (B, 16)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]  # (B, 1, 16, 16)


def train_judge(images: Tensor, labels: Tensor) -> DigitJudge:
    """Returns a judge trained on images (N, 1, 16, 16) in [-1, 1] and labels (N,), in eval mode."""
    torch.manual_seed(SEED)
    judge = DigitJudge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=DECAY)
    per_epoch = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * per_epoch)
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(images))[: per_epoch * BATCH]  # (per_epoch * BATCH,)
        for index in order.split(BATCH):
            # No label smoothing: it would squeeze each class's features together, and the distance would go blind.
            loss = F.cross_entropy(judge(shifted(images[index])), labels[index])  # ()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / per_epoch:.4f}", flush=True)
    return judge.to(memory_format=torch.contiguous_format).eval()


def make_judge(root: str) -> None:
    """Trains, reports and writes the judge and its card."""
    start = time.time()
    judge = train_judge(*load_images("mnist", "train", size=16, source="torchvision", root=root))
    seconds = time.time() - start
    images, labels = load_images("mnist", "test", size=16, source="torchvision", root=root)
    accuracy = evaluation.class_agreement(images, labels, judge)
    width, features = judge.trunk[0].out_channels, judge.head.in_features
    metadata = {
        "format": JUDGE_FORMAT,
        "config": json.dumps({"width": width, "features": features}),
        "test_accuracy": f"{accuracy:.4f}",
        "seed": str(SEED),
    }
    write_safetensors(judge.state_dict(), JUDGE, metadata)
    parameters = sum(p.numel() for p in judge.parameters())
    machine = f"{seconds:.0f} s on {torch.get_num_threads()} CPU cores"
    card = f"""# Digit judge

A small convolutional network (`tutorial_lib.DigitJudge`, {parameters:,} parameters) that reads 16x16
digits. It scores generated digits: the class that it reads, and how far apart crowds lie in its {features} features.

| | |
|---|---|
| accuracy on the 10,000 real MNIST test digits at 16x16 | {accuracy:.2%} |
| command | `python scripts/make_judge.py --root FOLDER` (torchvision's MNIST under `FOLDER`) |
| data | the 60,000 MNIST training digits (CC BY-SA 3.0) at 16x16, in [-1, 1], each moved by up to 1 pixel |
| recipe | AdamW, batch {BATCH}, {EPOCHS} epochs, one-cycle learning rate up to {RATE:g}, weight decay {DECAY:g} |
| seed | {SEED} |
| time and machine | {machine} |
| layers | 3x3 convolutions: two of width {width}, two of {2 * width}, max-pools; {features} features; 10 logits |

`mnist_reference.safetensors`, made by the same command, holds the mean and covariance of its features over the real
test digits, their agreement and diversity, and the Frechet floors: the distance between n real training digits, drawn
at random ({FLOOR_DRAWS} draws), and the test digits.

It knows digits only: it reads one in any picture, and it has seen neither other data sets nor pictures of another
size. It was trained on the training digits, so the floors lie a little higher than those of digits new to it would.
"""
    write_file(CARD, lambda path: path.write_text(card, encoding="utf-8"))
    print(f"judge: {accuracy:.2%} of {len(labels):,} test digits, {JUDGE.stat().st_size:,} bytes, {seconds:.0f} s")


def make_reference(root: str) -> None:
    """Measures the real digits with the judge in the assets and writes what `reference_statistics` reads."""
    judge = DigitJudge.load()
    images, labels = load_images("mnist", "test", size=16, source="torchvision", root=root)
    mean, covariance = evaluation.feature_statistics(images, judge)  # (F,), (F, F)
    print(f"features: standard deviations from {covariance.diagonal().min() ** 0.5:.3f} to", end=" ")
    print(f"{covariance.diagonal().max() ** 0.5:.3f}, smallest eigenvalue {torch.linalg.eigvalsh(covariance)[0]:.2e}")
    training, _ = load_images("mnist", "train", size=16, source="torchvision", root=root)
    with torch.no_grad():
        features = torch.cat([judge.features(part) for part in training.split(evaluation.CHUNK)]).double()  # (60000, F)
    generator, floors = torch.Generator().manual_seed(SEED), []
    for n in FLOOR_SIZES:
        draws = [features[torch.randperm(len(features), generator=generator)[:n]] for _ in range(FLOOR_DRAWS)]  # (n, F)
        distances = [evaluation.frechet_from_statistics(d.mean(0), d.T.cov(), mean, covariance) for d in draws]
        floors.append(torch.tensor(distances, dtype=torch.float64))  # (FLOOR_DRAWS,)
        print(f"floor at n = {n:,}: {floors[-1].mean():.3f} +- {floors[-1].std():.3f}")
    tensors = {
        "mean": mean,
        "covariance": covariance,
        "agreement": torch.tensor(evaluation.class_agreement(images, labels, judge), dtype=torch.float64),
        "diversity": torch.tensor(evaluation.diversity(images, labels), dtype=torch.float64),
        "floor_n": torch.tensor(FLOOR_SIZES),
        "floor_mean": torch.stack([f.mean() for f in floors]),
        "floor_std": torch.stack([f.std() for f in floors]),
    }
    metadata = {"format": evaluation.REFERENCE_FORMAT, "judge_sha256": hashlib.sha256(JUDGE.read_bytes()).hexdigest()}
    write_safetensors(tensors, REFERENCE, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder where torchvision keeps, or downloads, MNIST")
    parser.add_argument("--what", choices=("judge", "reference", "all"), default="all")
    args = parser.parse_args()
    if args.what in ("judge", "all"):
        make_judge(args.root)
    if args.what in ("reference", "all"):
        make_reference(args.root)


if __name__ == "__main__":
    main()
