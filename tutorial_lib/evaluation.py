"""How good are the digits? Four scores by the judge, each beside what real digits get.

Pictures are (N, 1, S, S) with values in [-1, 1], S the size that the judge reads, 16 by default. Agreement asks "is it
the digit that was ordered?", the Frechet distance "do the pictures, as a crowd, look like real ones?", diversity "are
they different from each other?", and the nearest training images "are they new, or copied?".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints import ASSETS, read_safetensors
from .judge import JUDGES, DigitJudge, load_judge
from .validate import check_choice, check_int, check_labels, check_tensor

REFERENCE_FORMAT = "tutorial_lib.ReferenceStatistics/1"
REFERENCES = {name: ASSETS / f"{name}_reference.safetensors" for name in JUDGES}
TEST_SET_COUNTS = {  # real test pictures of each class, 0 to 9
    "mnist": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    "fashion_mnist": (1000,) * 10,
}
CHUNK = 250  # images that the judge looks at together: 10,000 at once would need about 1 GB of memory


@dataclass(frozen=True)
class ReferenceStatistics:
    """What the judge makes of real pictures: the figure to hold beside every score of generated ones.

    mean (F,) and covariance (F, F) of the features of the 10,000 real test pictures, float64; `agreement`: the share of
    them that the judge reads as labelled; `diversity`: theirs; `floors`: {n: (mean, standard deviation over draws)} of
    the Frechet distance between n real training pictures, drawn at random, and the test pictures.
    """

    mean: Tensor
    covariance: Tensor
    agreement: float
    diversity: float
    floors: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Scores:
    """n images' scores. `floor` is the Frechet distance that n real digits get; `frechet_in_floors` = frechet / floor;
    `diversity_share` = diversity / that of the real test digits; `agreement_real` is the real test digits' agreement.
    """

    n: int
    agreement: float
    agreement_real: float
    frechet: float
    floor: float
    frechet_in_floors: float
    diversity_share: float

    def __str__(self) -> str:
        return (
            f"{self.n:,} pictures: {self.agreement:.2%} read as asked (real ones {self.agreement_real:.2%}); "
            f"diversity {self.diversity_share:.1%} of the real ones'\n"
            f"Frechet distance {self.frechet:.3f} = {self.frechet_in_floors:.2f} times the floor {self.floor:.3f} "
            f"({self.n:,} real pictures' distance)"
        )


@lru_cache
def reference_statistics(path: str | Path = "mnist") -> ReferenceStatistics:
    """Returns the shipped statistics of real pictures, by the name of their judge, or those in the file `path`.

    Read once. Raises FileNotFoundError if there is no such file, ValueError if it holds something else.
    """
    path = REFERENCES.get(path, path)
    tensors, _ = read_safetensors(path, REFERENCE_FORMAT)
    try:
        columns = (tensors[name].tolist() for name in ("floor_n", "floor_mean", "floor_std"))
        floors = {n: (mean, std) for n, mean, std in zip(*columns, strict=True)}
        shares = float(tensors["agreement"]), float(tensors["diversity"])
        return ReferenceStatistics(tensors["mean"], tensors["covariance"], *shares, floors)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"path must name whole reference statistics; {path} is not: {error}") from error


def _check_pixels(images: Tensor, name: str, shape: tuple[int | str, ...]) -> None:
    check_tensor(images, name, shape)
    if images.numel() and images.abs().max() > 1.001:  # a rounding error is welcome, 0..255 and unclipped noise are not
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"{name} must have values in [-1, 1]; got values from {low:.4g} to {high:.4g}")


@torch.no_grad()
def _look(layer: Callable[[Tensor], Tensor], judge: DigitJudge, images: Tensor, name: str, fewest: int) -> Tensor:
    """Returns `layer` (the judge or its features) of all images, on the CPU; the judge's mode is left as it was."""
    _check_pixels(images, name, ("N", 1, judge.image_size, judge.image_size))
    check_int(len(images), f"len({name})", fewest)
    weight, was_training = judge.head.weight, judge.training
    judge.eval()  # in training mode BatchNorm would make each answer depend on its neighbours in the batch
    try:
        parts = [layer(part.to(weight)).cpu() for part in images.split(CHUNK)]  # each (<= CHUNK, F or 10)
    finally:
        judge.train(was_training)
    return torch.cat(parts)  # (N, F or 10)


def labels_like_test_set(n: int, data: str = "mnist") -> Tensor:
    """Returns n labels (n,) int64 in the proportions of the real test set, mixed, the same for the same n.

    The digits are not equally frequent there (the clothes of "fashion_mnist" are), and a crowd with as many 5s as 1s
    is measurably another crowd: 10,000 real digits, 1,000 of each class, lie at twice the distance of 10,000 in these
    proportions.
    """
    check_choice(data, "data", TEST_SET_COUNTS)
    shares = torch.tensor(TEST_SET_COUNTS[data], dtype=torch.float64).cumsum(0)  # (10,)
    shares = shares / shares[-1]  # (10,)
    places = (torch.arange(check_int(n, "n"), dtype=torch.float64) + 0.5) / n  # (n,)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))  # (n,)
    return torch.searchsorted(shares, places)[order]  # (n,)


def class_agreement(images: Tensor, labels: Tensor, judge: DigitJudge | None = None) -> float:
    """Returns the share, 0 to 1, of images (N, 1, S, S) in [-1, 1] that the judge reads as their label (N,).

    Raises ValueError for wrong shapes, dtypes, pixel values or labels.
    """
    judge = judge or load_judge()
    logits = _look(judge, judge, images, "images", fewest=1)  # (N, 10)
    check_labels(labels, "labels", len(images), 10)
    return float((logits.argmax(1) == labels.cpu()).double().mean())


def feature_statistics(images: Tensor, judge: DigitJudge | None = None, name: str = "images") -> tuple[Tensor, Tensor]:
    """Returns mean (F,) and covariance (F, F), float64, of the judge's features of images (N, 1, S, S) in [-1, 1].

    Raises ValueError for wrong shapes, dtypes or pixel values, and for fewer than 2 images, which have no covariance.
    """
    judge = judge or load_judge()
    features = _look(judge.features, judge, images, name, fewest=2).double()  # (N, F)
    return features.mean(0), features.T.cov()  # (F,), (F, F)


def _square_root(covariance: Tensor, name: str) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)  # (F,), (F, F)
    tolerance = 1e-6 * float(covariance.abs().max())
    if not torch.allclose(covariance, covariance.T, rtol=0, atol=tolerance) or values[0] < -tolerance:
        raise ValueError(f"{name} must be symmetric with no negative eigenvalue; got one that is not")
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # (F, F)


def frechet_from_statistics(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Returns the squared Frechet distance between two Gaussians: |mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)).

    means (F,), covariances (F, F); computed in float64 (Heusel et al. 2017, arXiv:1706.08500). Raises ValueError for
    wrong shapes or dtypes, NaN, and matrices that are no covariances.
    """
    size = len(check_tensor(mean_a, "mean_a", ("F",)))
    check_tensor(mean_b, "mean_b", (size,))
    check_tensor(cov_a, "cov_a", (size, size))
    check_tensor(cov_b, "cov_b", (size, size))
    cov_a, cov_b = cov_a.cpu().double(), cov_b.cpu().double()  # (F, F) each; on the CPU because MPS has no float64
    # The eigenvalues of A B are those of R R^T with R = sqrt(A) sqrt(B), so their roots are R's singular values.
    # Taking these directly loses no digits where an eigenvalue is 0, which it is whenever n <= F.
    root = _square_root(cov_a, "cov_a") @ _square_root(cov_b, "cov_b")  # (F, F)
    shift = (mean_a.cpu().double() - mean_b.cpu().double()).square().sum()  # ()
    spread = cov_a.trace() + cov_b.trace() - 2 * torch.linalg.svdvals(root).sum()  # ()
    return max(0.0, float(shift + spread))  # rounding could leave -1e-13 for equal sets


def frechet_distance(
    images_a: Tensor, images_b: Tensor | ReferenceStatistics | None = None, judge: DigitJudge | None = None
) -> float:
    """Returns the Frechet distance between two sets of images in the judge's features; 0 means the same crowd.

    images_a, images_b: (N, 1, S, S) in [-1, 1], any two N >= 2. Without `images_b`, the 10,000 real test digits of 16
    pixels, whose statistics are shipped. It shrinks with N: compare only with `frechet_floor(N)`. Gaussians fitted to
    features as in Heusel et al. 2017 (arXiv:1706.08500). Raises ValueError for wrong shapes, dtypes or pixel values,
    too few images, and another judge without images_b.
    """
    if images_b is None and judge is not None and judge is not load_judge():
        raise ValueError("images_b must be given with another judge: the shipped statistics hold for the shipped judge")
    images_b = reference_statistics() if images_b is None else images_b
    known = isinstance(images_b, ReferenceStatistics)
    b = (images_b.mean, images_b.covariance) if known else feature_statistics(images_b, judge, "images_b")
    return frechet_from_statistics(*feature_statistics(images_a, judge, "images_a"), *b)


def frechet_floor(n: int, name: str = "mnist") -> float:
    """Returns the Frechet distance that n real pictures get, on average: the best that n generated ones can hope for.

    Between the measured n it goes straight in 1/n, because the bias of a covariance from n images shrinks like 1/n.
    Raises ValueError for an n outside the measured range.
    """
    floors = reference_statistics(name).floors
    known = sorted(floors)
    check_int(n, "n", known[0], known[-1])
    above = next(k for k in known if k >= n)
    if above == n:
        return floors[n][0]
    below = max(k for k in known if k < n)
    weight = (1 / n - 1 / above) / (1 / below - 1 / above)
    return weight * floors[below][0] + (1 - weight) * floors[above][0]


def diversity(images: Tensor, labels: Tensor) -> float:
    """Returns how much images (N, C, H, W) of one class differ: each pixel's standard deviation over the images of a
    class, averaged over pixels, then over the classes present in labels (N,).

    Raises ValueError for wrong shapes, dtypes or pixel values, for no images, and for a class with only one.
    """
    _check_pixels(images, "images", ("N", "C", "H", "W"))
    check_labels(labels, "labels", len(images), 10)
    images, labels = images.cpu(), labels.cpu()  # MPS has no float64
    classes, counts = labels.unique(return_counts=True)  # (K,), (K,)
    if not len(images) or counts.min() < 2:
        raise ValueError(f"images must hold at least 2 images of each class present; got {counts.tolist()}")
    spreads = [images[labels == label].double().std(0, correction=0).mean() for label in classes]  # each ()
    return float(torch.stack(spreads).mean())


@torch.no_grad()
def nearest_training_images(images: Tensor, training_images: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Returns the k nearest training images of each image: pixel L2 distances (N, k), ascending, and indices (N, k).

    images (N, C, H, W), training_images (M, C, H, W); the answers are float32 and int64, on the CPU. Of equally near
    ones the lowest index comes first. Raises ValueError for wrong shapes or dtypes, NaN, and k outside 1 .. M.
    """
    check_tensor(images, "images", ("N", "C", "H", "W"))
    check_tensor(training_images, "training_images", ("M", *images.shape[1:]))
    check_int(len(training_images), "len(training_images)")
    check_int(k, "k", 1, len(training_images))
    images = images.cpu().float()  # (N, C, H, W); MPS has no float64 for the exact distances below
    training = training_images.flatten(1).to(images)  # (M, D)
    norms = training.square().sum(1)  # (M,)
    few = min(k + 8, len(training))  # spare candidates, because the fast form below can confuse near-equals
    distances, indices = [], []
    for part in images.flatten(1).split(max(1, 2**24 // len(training))):  # (P, D): at most 64 MB for each P x M matrix
        # |x - y|^2 = |x|^2 - 2 x.y + |y|^2 and |x|^2 is the same for all y: one matrix product finds the candidates
        rank = torch.addmm(norms, part, training.T, alpha=-2)  # (P, M)
        near = rank.topk(few, largest=False).indices.sort(1).values  # (P, few)
        exact = (training[near].double() - part[:, None].double()).norm(dim=2)  # (P, few)
        best = exact.sort(dim=1, stable=True).indices[:, :k]  # (P, k)
        distances.append(exact.gather(1, best))
        indices.append(near.gather(1, best))
    return torch.cat(distances).float(), torch.cat(indices)  # (N, k), (N, k)


def score(images: Tensor, labels: Tensor, name: str = "mnist") -> Scores:
    """Returns the scores of n generated images (n, 1, S, S) in [-1, 1], ordered as labels (n,), beside real ones'.

    `name` says which judge and which real pictures: "mnist" (S = 16), "mnist_28" or "fashion_mnist_28" (S = 28).
    Raises ValueError for wrong shapes, dtypes, pixel values or labels, unless all ten classes are there at least twice,
    and for an n whose floor was not measured.
    """
    judge, real = load_judge(name), reference_statistics(name)
    _check_pixels(images, "images", ("n", 1, judge.image_size, judge.image_size))
    check_labels(labels, "labels", len(images), 10)
    check_int(len(images), "len(images)", min(real.floors), max(real.floors))  # for others no floor was measured
    if len(labels.unique()) < 10:
        raise ValueError(f"labels must hold all ten classes, as the real set does; got {labels.unique().tolist()}")
    distance, floor = frechet_distance(images, real, judge), frechet_floor(len(images), name)
    agreement, share = class_agreement(images, labels, judge), diversity(images, labels) / real.diversity
    return Scores(len(images), agreement, real.agreement, distance, floor, distance / floor, share)
