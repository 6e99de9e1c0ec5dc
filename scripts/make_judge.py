"""Trains the judges on the full data sets and measures real pictures with them, each with its card:

    python scripts/make_judge.py --root FOLDER --name mnist|mnist_28|fashion_mnist_28 [--bf16]

FOLDER is where torchvision keeps, or downloads, the data. Three minutes (16 pixels) to a quarter of an hour (28 pixels)
on 2 CPU cores.
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
from tutorial_lib.judge import JUDGE_FORMAT, JUDGES, DigitJudge

SEED, BATCH, RATE, DECAY = 0, 256, 4e-3, 0.02
EPOCHS = {"mnist": 10, "mnist_28": 5, "fashion_mnist_28": 8}
FLOOR_SIZES, FLOOR_DRAWS = (200, 500, 1_000, 2_000, 5_000, 10_000), 20


def data_of(name: str) -> tuple[str, int]:
    """The set and the size that a judge of this name reads."""
    return (name.removesuffix("_28"), 28) if name.endswith("_28") else (name, 16)


def shifted(images: Tensor) -> Tensor:
    """Returns images (B, 1, S, S), each moved by -1, 0 or 1 pixel in both directions, the gap filled with black."""
    count, size = len(images), images.shape[-1]
    padded = F.pad(images[:, 0], (1, 1, 1, 1), value=-1.0)  # (B, S + 2, S + 2)
    rows = torch.arange(size) + torch.randint(0, 3, (count, 1))  # (B, S)
    columns = torch.arange(size) + torch.randint(0, 3, (count, 1))  # (B, S)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]  # (B, 1, S, S)


def train_judge(images: Tensor, labels: Tensor, epochs: int, flip: bool, bf16: bool) -> DigitJudge:
    """Returns a judge trained on images (N, 1, S, S) in [-1, 1], labels (N,); `flip`: also mirrored."""
    torch.manual_seed(SEED)
    judge = DigitJudge(image_size=images.shape[-1]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=DECAY)
    per_epoch = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * per_epoch)
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(images))[: per_epoch * BATCH]  # (per_epoch * BATCH,)
        for index in order.split(BATCH):
            x = shifted(images[index])  # (B, 1, S, S)
            if flip:
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)  # (B, 1, S, S)
            # No label smoothing: it would squeeze each class's features together, and the distance would go blind.
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(judge(x), labels[index])  # ()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {epochs}: loss {total / per_epoch:.4f}", flush=True)
    return judge.to(memory_format=torch.contiguous_format).eval()


def make_judge(root: str, name: str, bf16: bool) -> None:
    """Trains, reports and writes the judge and its card."""
    data, size = data_of(name)
    things = "digits" if data == "mnist" else "clothes"
    start = time.time()
    images, labels = load_images(data, "train", size, "torchvision", root)
    judge = train_judge(images, labels, EPOCHS[name], things == "clothes", bf16)
    seconds = time.time() - start
    if size != 16:  # half precision halves the file; what is measured below is measured with the rounded numbers
        judge = judge.half().float()
    images, labels = load_images(data, "test", size, "torchvision", root)
    accuracy = evaluation.class_agreement(images, labels, judge)
    width, features = judge.trunk[0].out_channels, judge.head.in_features
    config = {"width": width, "features": features, **({"image_size": size} if size != 16 else {})}
    metadata = {
        "format": JUDGE_FORMAT,
        "config": json.dumps(config),
        "test_accuracy": f"{accuracy:.4f}",
        "seed": str(SEED),
    }
    weights = {key: t.half() if size != 16 and t.is_floating_point() else t for key, t in judge.state_dict().items()}
    write_safetensors(weights, JUDGES[name], metadata)
    parameters = sum(p.numel() for p in judge.parameters())
    machine = f"{seconds:.0f} s on {torch.get_num_threads()} CPU cores"
    flipped = ", half of them mirrored" if things == "clothes" else ""
    command = f"python scripts/make_judge.py --root FOLDER --name {name}{' --bf16' * bf16}"
    title = {"digits": "Digit judge", "clothes": "Judge of clothes"}[things]
    source = {"digits": "MNIST training digits (CC BY-SA 3.0)", "clothes": "Fashion-MNIST training images (MIT)"}
    card = f"""# {title}{"" if size == 16 else f", {size} pixels"}

A small convolutional network (`tutorial_lib.DigitJudge`, {parameters:,} parameters) that reads {size}x{size}
{things}. It scores generated ones: the class that it reads, and how far apart crowds lie in its {features} features.

| | |
|---|---|
| accuracy on the 10,000 real test {things} at {size}x{size} | {accuracy:.2%} |
| command | `{command}` (torchvision's data under `FOLDER`) |
| data | the 60,000 {source[things]} at {size}x{size}, in [-1, 1], each moved by up to 1 pixel{flipped} |
| recipe | AdamW, batch {BATCH}, {EPOCHS[name]} epochs, one-cycle learning rate up to {RATE:g}, weight decay {DECAY:g} |
| seed | {SEED} |
| time and machine | {machine} |
| layers | 3x3 convolutions: two of width {width}, two of {2 * width}, max-pools; {features} features; 10 logits |

`{name}_reference.safetensors`, made by the same command, holds the mean and covariance of its features over the real
test {things}, their agreement and diversity, and the Frechet floors: the distance between n real training {things},
drawn at random ({FLOOR_DRAWS} draws), and the test {things}.

It knows these {things} only: it reads one in any picture, and it has seen neither other data sets nor pictures of
another size. It was trained on the training set, so the floors lie a little higher than those of pictures new to it.
"""
    write_file(JUDGES[name].with_suffix(".md"), lambda path: path.write_text(card, encoding="utf-8"))
    size_on_disk = JUDGES[name].stat().st_size
    print(f"judge: {accuracy:.2%} of {len(labels):,} test images, {size_on_disk:,} bytes, {seconds:.0f} s")


def make_reference(root: str, name: str) -> None:
    """Measures the real pictures with the judge in the assets and writes what `reference_statistics` reads."""
    judge, (data, size) = DigitJudge.load(JUDGES[name]), data_of(name)
    images, labels = load_images(data, "test", size, "torchvision", root)
    mean, covariance = evaluation.feature_statistics(images, judge)  # (F,), (F, F)
    print(f"features: standard deviations from {covariance.diagonal().min() ** 0.5:.3f} to", end=" ")
    print(f"{covariance.diagonal().max() ** 0.5:.3f}, smallest eigenvalue {torch.linalg.eigvalsh(covariance)[0]:.2e}")
    training, _ = load_images(data, "train", size, "torchvision", root)
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
    metadata = {
        "format": evaluation.REFERENCE_FORMAT,
        "judge_sha256": hashlib.sha256(JUDGES[name].read_bytes()).hexdigest(),
    }
    write_safetensors(tensors, evaluation.REFERENCES[name], metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder where torchvision keeps, or downloads, the data")
    parser.add_argument("--name", choices=JUDGES, default="mnist")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: twice as fast where the CPU can")
    parser.add_argument("--what", choices=("judge", "reference", "all"), default="all")
    args = parser.parse_args()
    if args.what in ("judge", "all"):
        make_judge(args.root, args.name, args.bf16)
    if args.what in ("reference", "all"):
        make_reference(args.root, args.name)


if __name__ == "__main__":
    main()
