"""Whatever is passed to a public function: a good answer or the documented error. Whatever happens to a file: noticed.

Each property draws good arguments and, in half of the cases, spoils one of them. Good ones must give finite results of
the documented shape and range; a spoilt one must be refused by a ValueError that names it.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

import tutorial_lib
from tutorial_lib import checkpoints, data, evaluation, judge, results

SHORT, LONG = 6, 400  # inputs of each property
TINY = {
    "image_size": 4,
    "patch_size": 2,
    "channels": 1,
    "dim": 8,
    "heads": 2,
    "layers": 1,
    "ff_dim": 4,
    "num_classes": 3,
}
NAN = float("nan")
Draw = Callable[[Any], Any]


@dataclass(frozen=True)
class Property:
    """`call` takes what `good` draws, `check` looks at the answer, `bad` names values of arguments to be refused."""

    call: Callable[..., Any]
    good: Callable[[Draw], dict[str, Any]]
    check: Callable[[Any, dict[str, Any]], bool]
    bad: dict[str, list[Any]]


def not_ints(low: int) -> list[Any]:
    return [low - 1, -(10**30), 1.5, NAN, True, "3", None, [3], torch.tensor(3)]


def not_numbers(low: float, high: float) -> list[Any]:
    beyond = [low - 0.1] * math.isfinite(low) + [high + 0.1] * math.isfinite(high)
    return [*beyond, NAN, math.inf, -math.inf, 10**400, True, "3", None, [1.0]]


def not_tensors(like: Tensor, finite: bool = True) -> list[Any]:
    """Another type, dtype, rank or last size, and what is not finite."""
    spoilt = [None, "x", like.tolist(), like.long(), like.bool(), like.to(torch.complex64), like[None, None, None]]
    for value in (NAN, math.inf, -math.inf) if finite else ():
        one = like.clone()
        one.view(-1)[-1] = value
        spoilt.append(one)
    return spoilt


def not_labels(count: int, classes: int) -> list[Any]:
    zeros = torch.zeros(count, dtype=torch.int64)
    return ["x", [0] * count, zeros.int(), zeros.float(), zeros[None], zeros - 1, zeros + classes, zeros.repeat(2)]


NAMES = ["", "MNIST", 3, None, b"mnist", ["mnist"], "a" * 1000]


def tensor(draw: Draw, *shape: int, size: float = 1.0) -> Tensor:
    """Numbers of up to this size, sometimes all equal, all 0 or at both ends: where formulas break."""
    seed, kind = draw(st.integers(0, 2**31)), draw(st.sampled_from(["normal", "normal", "ends", "equal", "zero"]))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator) * 2 - 1
    return size * {"normal": x, "ends": x.sign(), "equal": torch.full_like(x, 0.5), "zero": torch.zeros_like(x)}[kind]


def labels(draw: Draw, count: int, classes: int = 3) -> Tensor:
    seed = draw(st.integers(0, 2**31))
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


def number(low: int, high: int):
    return st.integers(low, high)


def finite(x: Tensor, shape: tuple[int, ...], low: float = -math.inf, high: float = math.inf) -> bool:
    inside = bool(torch.isfinite(x).all()) and (not x.numel() or low <= float(x.min()) <= float(x.max()) <= high)
    return tuple(x.shape) == tuple(shape) and inside


def network(draw: Draw) -> torch.nn.Module:
    """A small network, with weights that are not 0, so that it does not answer grey."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    attention = draw(st.sampled_from(["softmax", "double_softmax", "elu1", "relu"]))
    model = tutorial_lib.EfficientTransformerDenoiser(**TINY, attention=attention).eval()
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    return model


PROPERTIES: dict[str, Property] = {}


def prop(name: str, call: Callable, check: Callable, bad: Callable[[dict], dict[str, list]] = lambda given: {}):
    """Registers the property of `name`; decorates the function that draws good arguments."""

    def register(good: Callable[[Draw], dict]) -> Callable:
        PROPERTIES[name] = Property(call, good, check, bad)
        return good

    return register


# --------------------------------------------------------------------------------------- patches and attention


def images(draw: Draw, count: int, size: int = 4, channels: int = 1) -> Tensor:
    return tensor(draw, count, channels, size, size)


@prop(
    "patchify",
    tutorial_lib.patchify,
    lambda x, g: (
        x.shape[1:] == ((g["images"].shape[2] // g["patch_size"]) ** 2, g["patch_size"] ** 2 * g["images"].shape[1])
        and torch.equal(tutorial_lib.unpatchify(x, g["patch_size"]), g["images"])
    ),
    lambda g: {"images": not_tensors(g["images"], False), "patch_size": [*not_ints(1), g["images"].shape[2] + 1]},
)
def _(draw):
    patch = draw(number(1, 4))
    return {
        "images": images(draw, draw(number(1, 3)), patch * draw(number(1, 4)), draw(number(1, 3))),
        "patch_size": patch,
    }


@prop(
    "unpatchify",
    tutorial_lib.unpatchify,
    lambda x, g: finite(x, x.shape, -1, 1) and torch.equal(tutorial_lib.patchify(x, g["patch_size"]), g["tokens"]),
    lambda g: {"tokens": [*not_tensors(g["tokens"], False), g["tokens"].new_zeros(1, 3, 4)], "patch_size": not_ints(1)},
)
def _(draw):
    patch = draw(number(1, 4))
    side, channels = draw(number(1, 4)), draw(number(1, 3))
    return {"tokens": tensor(draw, draw(number(1, 3)), side * side, patch * patch * channels), "patch_size": patch}


@prop(
    "PatchEmbedding",
    lambda images, **sizes: tutorial_lib.PatchEmbedding(**sizes)(images),
    lambda x, g: finite(x, (len(g["images"]), (g["image_size"] // g["patch_size"]) ** 2, g["dim"])),
    lambda g: (
        {name: not_ints(1) for name in ("image_size", "patch_size", "channels", "dim")}
        | {"images": not_tensors(g["images"], False)}
    ),
)
def _(draw):
    patch, channels = draw(number(1, 4)), draw(number(1, 3))
    size = patch * draw(number(1, 4))
    sizes = {"image_size": size, "patch_size": patch, "channels": channels, "dim": draw(number(1, 9))}
    return {"images": images(draw, draw(number(1, 3)), size, channels), **sizes}


def qkv(draw: Draw, maps: tuple[str, ...]) -> dict[str, Any]:
    batch, n, m, d, e = (draw(number(1, 5)) for _ in range(5))
    size = draw(st.sampled_from([1.0, 30.0, 1e4]))
    q, k, v = (tensor(draw, batch, *shape, size=size) for shape in ((n, d), (m, d), (m, e)))
    return {"q": q, "k": k, "v": v, "feature_map": draw(st.sampled_from(maps))}


MAPS = ("double_softmax", "elu1", "relu")


def mean_of_values(x: Tensor, g: dict) -> bool:
    """Each output is a weighted mean of the values (or 0): it cannot leave their range."""
    most = float(g["v"].abs().max())
    return finite(x, (*g["q"].shape[:-1], g["v"].shape[-1]), -most * 1.001 - 1e-6, most * 1.001 + 1e-6)


@prop(
    "linear_attention",
    tutorial_lib.linear_attention,
    mean_of_values,
    lambda g: {name: not_tensors(g[name]) for name in "qkv"} | {"feature_map": [*NAMES, "softmax"]},
)
def _(draw):
    return qkv(draw, MAPS)


@prop(
    "attention_matrix",
    tutorial_lib.attention_matrix,
    lambda x, g: finite(x, (*g["q"].shape[:-1], g["k"].shape[-2]), 0, 1.001) and bool((x.sum(-1) < 1.001).all()),
    lambda g: {name: not_tensors(g[name]) for name in "qk"} | {"feature_map": NAMES},
)
def _(draw):
    given = qkv(draw, (*MAPS, "softmax"))
    del given["v"]
    return given


def attention_module(kind: type) -> Callable:
    def call(tokens: Tensor, **options: Any) -> Tensor:
        return kind(**options)(tokens)

    return call


def drawn_tokens(draw: Draw) -> dict[str, Any]:
    heads = draw(number(1, 3))
    dim, side = heads * draw(number(1, 4)), draw(number(1, 4))
    local = draw(st.booleans())
    return {"tokens": tensor(draw, draw(number(1, 3)), side * side, dim), "dim": dim, "heads": heads, "local": local}


for kind in (tutorial_lib.LinearAttention, tutorial_lib.SoftmaxAttention):
    linear = kind is tutorial_lib.LinearAttention
    prop(
        kind.__name__,
        attention_module(kind),
        lambda x, g: finite(x, g["tokens"].shape),
        lambda g, linear=linear: (
            {"tokens": not_tensors(g["tokens"], False), "dim": not_ints(1), "heads": [*not_ints(1), g["dim"] + 1]}
            | ({"feature_map": NAMES} if linear else {})
        ),
    )(lambda draw, linear=linear: drawn_tokens(draw) | ({"feature_map": draw(st.sampled_from(MAPS))} if linear else {}))


# ------------------------------------------------------------------------------------------------------ network


@prop(
    "EfficientTransformerBlock",
    lambda tokens, condition, **o: tutorial_lib.EfficientTransformerBlock(**o)(tokens, condition),
    lambda x, g: torch.equal(x, g["tokens"]),  # a new block is the identity
    lambda g: {"dim": not_ints(1), "heads": [*not_ints(1), g["dim"] + 1], "ff_dim": not_ints(1), "attention": NAMES},
)
def _(draw):
    given = drawn_tokens(draw)
    condition = tensor(draw, len(given["tokens"]), given["dim"])
    return given | {"condition": condition, "ff_dim": draw(number(1, 9)), "attention": draw(st.sampled_from(MAPS))}


@prop(
    "EfficientTransformerDenoiser",
    lambda x_t, t, labels, **o: tutorial_lib.EfficientTransformerDenoiser(**{**TINY, **o})(x_t, t, labels),
    lambda x, g: finite(x, g["x_t"].shape),
    lambda g: (
        {name: not_ints(1) for name in TINY}
        | {"attention": NAMES, "x_t": not_tensors(g["x_t"]), "labels": not_labels(len(g["x_t"]), 4)}
        | {
            "t": [
                -0.1,
                1.1,
                NAN,
                math.inf,
                "1",
                None,
                torch.tensor(2.0),
                torch.zeros(len(g["x_t"]) + 1),
                torch.tensor(1),
            ]
        }
    ),
)
def _(draw):
    count = draw(number(1, 3))
    t = draw(st.floats(0, 1)) if draw(st.booleans()) else torch.rand(count)
    given = labels(draw, count, 4) if draw(st.booleans()) else None
    return {"x_t": tensor(draw, count, 1, 4, 4, size=draw(st.sampled_from([1.0, 100.0]))), "t": t, "labels": given}


# ------------------------------------------------------------------------------------------------------ noising


SCHEDULE = tutorial_lib.NoiseSchedule.cosine()
NOT_TIMES = [-1e-6, 1 + 1e-6, NAN, math.inf, "1", None, [0.5], torch.tensor([0.5, NAN]), torch.tensor([1, 0]), True + 1]


@prop(
    "NoiseSchedule",
    lambda t: torch.stack([torch.as_tensor(f(t)) for f in (SCHEDULE.alpha, SCHEDULE.sigma)]),
    lambda x, g: finite(x, x.shape, -1e-9, 1 + 1e-6) and bool(((x**2).sum(0) - 1).abs().max() < 1e-5),
    lambda g: {"t": NOT_TIMES},
)
def _(draw):
    return {"t": draw(st.floats(0, 1)) if draw(st.booleans()) else torch.rand(draw(number(1, 5)))}


@prop(
    "NoiseSchedule.snr",
    SCHEDULE.snr,
    lambda x, g: not torch.isnan(x).any() and bool((x >= 0).all()),  # infinite at t = 0, as documented
    lambda g: {"t": NOT_TIMES},
)
def _(draw):
    return {"t": draw(st.floats(0, 1))}


@prop(
    "NoiseSchedule.timesteps",
    SCHEDULE.timesteps,
    lambda x, g: finite(x, (g["steps"] + 1,), 0, 1) and bool((x.diff() < 0).all()) and (x[0], x[-1]) == (1, 0),
    lambda g: {"steps": not_ints(1)},
)
def _(draw):
    return {"steps": draw(number(1, 300))}


@prop(
    "NoiseSchedule.linear_beta",
    lambda steps, rescaled: tutorial_lib.NoiseSchedule.linear_beta(steps, rescaled).name,
    lambda x, g: str(g["steps"]) in x,
    lambda g: {"steps": not_ints(1)},
)
def _(draw):
    return {"steps": draw(number(1, 300)), "rescaled": draw(st.booleans())}


@prop(
    "NoiseSchedule.add_noise",
    SCHEDULE.add_noise,
    lambda x, g: finite(x, g["x0"].shape, -1.5, 1.5),
    lambda g: {
        "x0": [None, g["x0"].long()],
        "eps": not_tensors(g["eps"]),
        "t": [*NOT_TIMES, torch.rand(len(g["x0"]) + 1)],
    },
)
def _(draw):
    count = draw(number(1, 3))
    t = draw(st.floats(0, 1)) if draw(st.booleans()) else torch.rand(count)
    return {"x0": images(draw, count), "t": t, "eps": images(draw, count)}


@prop(
    "GaussianMixture",
    lambda x_t, t, means, std, weights: tutorial_lib.GaussianMixture(means, std, weights)(x_t, t),
    lambda x, g: finite(x, g["x_t"].shape),
    lambda g: {"means": not_tensors(g["means"]), "std": [-0.1, NAN, math.inf, "1", None, torch.tensor([NAN])],
               "weights": [torch.zeros(len(g["means"])), torch.tensor([NAN]), "x"], "x_t": not_tensors(g["x_t"]),
               "t": NOT_TIMES},
)  # fmt: skip
def _(draw):
    parts, dim = draw(number(1, 4)), draw(number(1, 3))
    weights = torch.softmax(tensor(draw, parts), 0) if draw(st.booleans()) else None
    points = {"x_t": tensor(draw, draw(number(1, 4)), dim, size=3.0), "t": draw(st.floats(0, 1))}
    return points | {
        "means": tensor(draw, parts, dim),
        "std": draw(st.sampled_from([0.0, 0.1, 2.0])),
        "weights": weights,
    }


@prop(
    "IdealDenoiser",
    lambda images, known, x_t, t, labels: tutorial_lib.IdealDenoiser(images, known)(x_t, t, labels),
    lambda x, g: finite(x, g["x_t"].shape, -1 - 1e-5, 1 + 1e-5),
    lambda g: {"images": not_tensors(g["images"]), "x_t": not_tensors(g["x_t"]), "t": NOT_TIMES,
               "labels": not_labels(len(g["x_t"]), 3)},
)  # fmt: skip
def _(draw):
    count, many = draw(number(1, 3)), draw(number(3, 6))
    known = torch.cat([torch.arange(3), labels(draw, many - 3)])  # every label is there
    given = labels(draw, count) if draw(st.booleans()) else None
    x_t = {"x_t": tensor(draw, count, 1, 4, 4, size=2.0), "t": draw(st.floats(0, 1)), "labels": given}
    return {"images": images(draw, many), "known": known, **x_t}


# ----------------------------------------------------------------------------------------------------- sampling

SOLVERS = {name: getattr(tutorial_lib, name) for name in ("ddpm", "dpmpp_2m", "heun")}


def walked(solver, x: Tensor, times: Tensor, model: torch.nn.Module) -> Tensor:
    denoise = tutorial_lib.GuidedDenoiser(model, None)
    states = list(tutorial_lib.sample_loop(denoise, x, solver, times=times, generator=torch.Generator().manual_seed(0)))
    assert len(states) == len(times) and all(torch.isfinite(state.x).all() for state in states)
    return states[-1].x


def loop_arguments(draw: Draw) -> dict[str, Any]:
    times = SCHEDULE.timesteps(draw(number(1, 6)))
    return {"x": tensor(draw, 2, 1, 4, 4, size=2.0), "times": times, "model": network(draw)}


NOT_GRIDS = [torch.tensor([1.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.5, 0.0]), torch.tensor([1.0, NAN]),
             torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, -0.1]), "x", [1.0, 0.0]]  # fmt: skip
for name, solver in SOLVERS.items():
    prop(
        name,
        lambda solver=solver, **g: walked(solver(), **g),
        lambda x, g: finite(x, g["x"].shape, -1, 1),  # each ends with the network's clipped guess
        lambda g: {"times": NOT_GRIDS, "x": [*not_tensors(g["x"])[:6], not_tensors(g["x"])[-1]]},
    )(loop_arguments)

prop(
    "ddim",
    lambda eta, **g: walked(tutorial_lib.ddim(eta), **g),
    lambda x, g: finite(x, g["x"].shape, -1, 1),
    lambda g: {"eta": not_numbers(0, 1)},
)(lambda draw: loop_arguments(draw) | {"eta": draw(st.floats(0, 1))})
prop(
    "sample_loop",
    lambda solver, **g: walked(solver, **g),
    lambda x, g: finite(x, g["x"].shape, -1, 1),
    lambda g: {"solver": ["ddim", 3, [1]], "times": NOT_GRIDS},
)(lambda draw: loop_arguments(draw) | {"solver": draw(st.sampled_from([None, tutorial_lib.ddim(0.5)]))})


NOT_INTERVALS = [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (NAN, 1.0), (0.0, NAN), (1.0,), (0.0, 0.5, 1.0), 0.5, "ab", None]


@prop(
    "GuidedDenoiser",
    lambda x, t, model, labels, guidance_scale, guidance_interval: tutorial_lib.GuidedDenoiser(
        model, labels, guidance_scale, guidance_interval=guidance_interval
    )(x, t),
    lambda x, g: finite(x, g["x"].shape, -1, 1),
    lambda g: {"guidance_scale": not_numbers(0, 100), "labels": not_labels(2, 4)[4:],
               "guidance_interval": NOT_INTERVALS},
)  # fmt: skip
def _(draw):
    given = {"x": tensor(draw, 2, 1, 4, 4), "t": draw(st.floats(0, 1)), "model": network(draw)}
    interval = tuple(sorted([draw(st.floats(0, 1)), draw(st.floats(0, 1))]))
    guidance = {"guidance_scale": draw(st.sampled_from([0.5, 1.0, 2.0, 100.0])), "guidance_interval": interval}
    return given | guidance | {"labels": labels(draw, 2)}


@prop(
    "initial_noise",
    lambda model, count: tutorial_lib.initial_noise(model, count),
    lambda x, g: finite(x, (g["count"], 1, 4, 4)),
    lambda g: {"count": not_ints(1)},
)
def _(draw):
    return {"model": network(draw), "count": draw(number(1, 9))}


@prop(
    "sample",
    tutorial_lib.sample,
    lambda x, g: finite(x, (len(g["labels"]), 1, 4, 4), -1, 1),
    lambda g: {"labels": [torch.zeros(0, dtype=torch.int64), *not_labels(2, 3)[:-1]], "steps": not_ints(1),
               "guidance_scale": not_numbers(0, 100), "count": [1, 10**6], "batch_size": not_ints(1),
               "solver": ["ddim", 3], "guidance_interval": NOT_INTERVALS},
)  # fmt: skip
def _(draw):
    given = {"model": network(draw), "labels": labels(draw, draw(number(2, 5))), "steps": draw(number(1, 5))}
    solver = draw(st.sampled_from([None, *(make() for make in SOLVERS.values())]))
    interval = tuple(sorted([draw(st.floats(0, 1)), draw(st.floats(0, 1))]))
    guidance = {"guidance_scale": draw(st.floats(0, 100)), "guidance_interval": interval}
    return given | guidance | {"batch_size": draw(number(1, 5)), "solver": solver}


@prop(
    "edit",
    lambda **g: list(tutorial_lib.edit(**g))[-1].x,
    lambda x, g: finite(x, g["images"].shape, -1, 1),
    lambda g: {"images": [*not_tensors(g["images"]), g["images"][:0], g["images"] * 0 + 255], "t": not_numbers(0, 1),
               "labels": not_labels(2, 3)[:-1], "steps": not_ints(1), "guidance_scale": not_numbers(0, 100)},
)  # fmt: skip
def _(draw):
    given = {"model": network(draw), "images": images(draw, 2), "labels": labels(draw, 2), "steps": draw(number(1, 5))}
    return given | {"t": draw(st.floats(0.01, 1)), "guidance_scale": draw(st.floats(0, 100))}


@prop(
    "KnownPixels",
    lambda x, known, mask, model: tutorial_lib.KnownPixels(tutorial_lib.GuidedDenoiser(model, None), known, mask)(x, 1),
    lambda x, g: finite(x, g["x"].shape, -1, 1)
    and torch.equal(torch.where(g["mask"], x, 0.0), torch.where(g["mask"], g["known"], 0.0)),
    lambda g: {"known": not_tensors(g["known"]),
               "mask": [None, "x", [True], g["mask"].float(), g["mask"].repeat(2, 1), g["mask"].expand(1, 1, 1, 4, 4)]},
)  # fmt: skip
def _(draw):
    given = {"x": tensor(draw, 2, 1, 4, 4), "known": images(draw, 2), "model": network(draw)}
    return given | {"mask": tensor(draw, 4, 4) > draw(st.floats(-1, 1))}


# --------------------------------------------------------------------------------------------------- evaluation


def digits(draw: Draw, count: int) -> Tensor:
    return images(draw, count, 16)


def not_pictures(x: Tensor) -> list[Any]:
    return [*not_tensors(x), x[..., :15], x * 0 + 255, x[:0]]


@prop(
    "DigitJudge",
    lambda images: judge.load_judge()(images),
    lambda x, g: finite(x, (len(g["images"]), 10)),
    lambda g: {"images": [*not_tensors(g["images"], False), g["images"][..., :15]]},
)
def _(draw):
    return {"images": digits(draw, draw(number(1, 4)))}


@prop(
    "class_agreement",
    tutorial_lib.class_agreement,
    lambda x, g: 0 <= x <= 1,
    lambda g: {"images": not_pictures(g["images"]), "labels": not_labels(len(g["images"]), 10)},
)
def _(draw):
    count = draw(number(1, 5))
    return {"images": digits(draw, count), "labels": labels(draw, count, 10)}


@prop(
    "frechet_distance",
    tutorial_lib.frechet_distance,
    lambda x, g: math.isfinite(x) and x >= 0,
    lambda g: {"images_a": [*not_pictures(g["images_a"]), g["images_a"][:1]],
               "images_b": [*not_pictures(g["images_b"])[1:], g["images_b"][:1]]},
)  # fmt: skip
def _(draw):
    return {"images_a": digits(draw, draw(number(2, 5))), "images_b": digits(draw, draw(number(2, 5)))}


@prop(
    "diversity",
    tutorial_lib.diversity,
    lambda x, g: 0 <= x <= 1,
    lambda g: {"images": [*not_tensors(g["images"]), g["images"] * 0 + 255],
               "labels": not_labels(len(g["images"]), 10)},
)  # fmt: skip
def _(draw):
    known = labels(draw, draw(number(1, 4)), 10).repeat(2)
    return {"images": images(draw, len(known)), "labels": known}


@prop(
    "nearest_training_images",
    tutorial_lib.nearest_training_images,
    lambda x, g: finite(x[0], (len(g["images"]), g["k"]), 0) and bool((x[0].diff(dim=1) >= 0).all())
    and finite(x[1], (len(g["images"]), g["k"]), 0, len(g["training_images"]) - 1),
    lambda g: {"images": not_tensors(g["images"]), "training_images": not_tensors(g["training_images"]),
               "k": [*not_ints(1), len(g["training_images"]) + 1]},
)  # fmt: skip
def _(draw):
    known = draw(number(1, 20))
    return {
        "images": images(draw, draw(number(1, 4))),
        "training_images": images(draw, known),
        "k": draw(number(1, known)),
    }


@prop(
    "labels_like_test_set",
    evaluation.labels_like_test_set,
    lambda x, g: finite(x, (g["n"],), 0, 9) and x.dtype == torch.int64,
    lambda g: {"n": not_ints(1)},
)
def _(draw):
    return {"n": draw(number(1, 2000))}


@prop("frechet_floor", evaluation.frechet_floor, lambda x, g: math.isfinite(x) and x > 0,
      lambda g: {"n": [*not_ints(1), 10**9]})  # fmt: skip
def _(draw):
    known = sorted(evaluation.reference_statistics().floors)
    return {"n": draw(number(known[0], known[-1]))}


@prop(
    "frechet_from_statistics",
    evaluation.frechet_from_statistics,
    lambda x, g: math.isfinite(x) and x >= 0,
    lambda g: {"mean_a": not_tensors(g["mean_a"]), "cov_b": [*not_tensors(g["cov_b"]), -torch.eye(len(g["mean_a"]))]},
)
def _(draw):
    size = draw(number(1, 5))
    given = {name: tensor(draw, size) for name in ("mean_a", "mean_b")}
    for name in ("cov_a", "cov_b"):
        root = tensor(draw, size, size).double()
        given[name] = root @ root.T
    return given


# ----------------------------------------------------------------------------------------------------- training


@prop(
    "TrainConfig",
    lambda images, **g: [tutorial_lib.TrainConfig(**g).lr_at(step, images) for step in range(25)],
    lambda x, g: all(math.isfinite(rate) and 0 <= rate <= g["lr"] * 1.000001 for rate in x),
    lambda g: (
        {name: not_ints(1)[:-3] for name in ("epochs", "batch_size")}
        | {name: not_ints(1)[:6] for name in ("steps", "restart_epochs", "levels")}
        | {
            "seed": not_ints(0),
            "warmup_steps": not_ints(0),
            "lr": not_numbers(1e-8, 1),
            "label_dropout": not_numbers(0, 1),
        }
        | {"ema_decay": not_numbers(0, 1), "weight_decay": not_numbers(0, 1), "grad_clip": [0.0, NAN, math.inf, "1"]}
    ),
)
def _(draw):
    given = {name: draw(number(1, 30)) for name in ("epochs", "batch_size")}
    given |= {name: draw(st.none() | number(1, 30)) for name in ("steps", "restart_epochs", "levels")}
    given |= {"lr": draw(st.floats(1e-8, 1)), "warmup_steps": draw(number(0, 30)), "images": draw(number(1, 99))}
    return given | {name: draw(st.floats(0, 1)) for name in ("label_dropout", "ema_decay", "weight_decay")}


@prop(
    "EMA",
    lambda model, decay: tutorial_lib.EMA(model, decay).model,
    lambda x, g: all(torch.equal(a, b) for a, b in zip(x.parameters(), g["model"].parameters(), strict=True)),
    lambda g: {"decay": not_numbers(0, 1)},
)
def _(draw):
    return {"model": network(draw), "decay": draw(st.floats(0, 1))}


@prop(
    "diffusion_loss",
    lambda model, **g: tutorial_lib.diffusion_loss(model, SCHEDULE, **g),
    lambda x, g: finite(x, (), 0),
    lambda g: {"x0": [None, g["x0"].long()], "eps": not_tensors(g["eps"]), "t": [*NOT_TIMES, torch.rand(9)],
               "labels": not_labels(len(g["x0"]), 4)},
)  # fmt: skip
def _(draw):
    count = draw(number(1, 3))
    given = {"model": network(draw), "x0": images(draw, count), "eps": images(draw, count)}
    return given | {"t": torch.rand(count), "labels": labels(draw, count)}


def trained(model: torch.nn.Module, images: Tensor, labels: Tensor, config, resume=None) -> list[float]:
    return [step.loss for step in tutorial_lib.train(model, images, labels, config, device="cpu", resume=resume)]


@prop(
    "train",
    trained,
    lambda x, g: len(x) == g["config"].steps and all(math.isfinite(loss) and loss >= 0 for loss in x),
    lambda g: {"images": [*not_tensors(g["images"]), g["images"] * 0 + 2, g["images"][:0]], "config": [None, {}, 3],
               "labels": not_labels(len(g["images"]), 3), "resume": ["x", {}, {"step": 1}, [1]]},
)  # fmt: skip
def _(draw):
    count = draw(number(1, 5))
    config = tutorial_lib.TrainConfig(
        steps=draw(number(1, 3)), batch_size=draw(number(1, 8)), lr=draw(st.floats(1e-8, 1))
    )
    return {"model": network(draw), "images": images(draw, count), "labels": labels(draw, count), "config": config}


# --------------------------------------------------------------------------------------------- files and devices


@prop(
    "load_images",
    tutorial_lib.load_images,
    lambda x, g: finite(x[0], (len(x[1]), 1, g["size"], g["size"]), -1, 1) and finite(x[1], x[1].shape, 0, 9),
    lambda g: {"name": NAMES, "split": [*NAMES, "valid"], "size": [*not_ints(4), 129, 10**9], "source": NAMES,
               "root": [3, "data", b"data", ["x"]]},
)  # fmt: skip
def _(draw):
    name, split = draw(st.sampled_from(["mnist", "fashion_mnist"])), draw(st.sampled_from(["train", "test"]))
    return {"name": name, "split": split, "size": draw(number(4, 20)), "source": "embedded"}


@prop("load_pretrained", lambda name, device="cpu": tutorial_lib.load_pretrained(name, device),
      lambda x, g: all(torch.isfinite(w).all() for w in x.parameters()),
      lambda g: {"name": [*NAMES[:1], *NAMES[2:], "../mnist", "\0"], "device": ["abacus", 3.5, "", [1]]})  # fmt: skip
def _(draw):
    return {"name": draw(st.sampled_from(["mnist", "attention_relu"]))}


@prop("pick_device", tutorial_lib.pick_device, lambda x, g: x.type == "cpu",
      lambda g: {"device": ["abacus", "", "cpu:9", "\0", 3.5, [1], {}, "cuda:99", torch.zeros(1)]})  # fmt: skip
def _(draw):
    return {"device": draw(st.sampled_from(["cpu", torch.device("cpu")]))}


NOT_PATHS = ["", "\0", "none.safetensors", "/", "x" * 5000, None, 3, b"x", ["x"]]


def there_and_back(save: Callable, load: Callable) -> Callable:
    def call(given: Any, folder: Path) -> tuple[Any, Any]:
        return given, load(save(given, folder / "file"))

    return call


def alike(answer: tuple, g: dict) -> bool:
    before, after = (x.state_dict() if isinstance(x, torch.nn.Module) else x["model"] for x in answer)
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Path:
    FOLDER.append(tmp_path_factory.mktemp("files"))
    return FOLDER[-1]


FOLDER: list[Path] = []
save_and_load_model = there_and_back(tutorial_lib.save_model, lambda path: tutorial_lib.load_model(path, "cpu"))
save_and_load_state = there_and_back(tutorial_lib.save_checkpoint, tutorial_lib.load_checkpoint)
prop("save_model", lambda model: save_and_load_model(model, FOLDER[-1]), alike)(lambda draw: {"model": network(draw)})
prop("save_checkpoint", lambda state: save_and_load_state(state, FOLDER[-1]), alike)(
    lambda draw: {"state": {"format": checkpoints.CHECKPOINT_FORMAT, "model": network(draw).state_dict()}}
)
for loader in (tutorial_lib.load_model, tutorial_lib.load_checkpoint):
    path = checkpoints.PRETRAINED["mnist"]  # for load_checkpoint, a file of another kind
    prop(
        loader.__name__,
        lambda path, loader=loader: refused_or_loaded(loader, path),
        lambda x, g: True,
        lambda g: {"path": NOT_PATHS},
    )(lambda draw, path=path: {"path": path})


def refused_or_loaded(loader: Callable, path: Any) -> Any:
    if loader is tutorial_lib.load_checkpoint and path == checkpoints.PRETRAINED["mnist"]:
        with pytest.raises(ValueError, match="path must name a whole checkpoint"):
            loader(path)
        return None
    return loader(path)


# ----------------------------------------------------------------------------------------------------- the runs

# The name that the message of the refusal has to hold, where it is not the argument's own.
ALSO = {"x_t": ("x0", "images"), "known": ("labels",), "model": (), "cov_b": ("covariance",), "x": ("x_t",)}
COUNTED: dict[str, int] = {}


def run(name: str, count: int) -> None:
    """Draws `count` inputs for one property."""
    one = PROPERTIES[name]

    def check(chance) -> None:
        COUNTED[name] = COUNTED.get(name, 0) + 1
        given = one.good(chance.draw)
        bad = one.bad(given)
        if bad and chance.draw(st.booleans()):
            spoilt = chance.draw(st.sampled_from(sorted(bad)))
            value = bad[spoilt][chance.draw(st.integers(0, len(bad[spoilt]) - 1))]
            try:
                answer = one.call(**{**given, spoilt: value})
            except (ValueError, FileNotFoundError) as error:
                assert any(word in str(error) for word in (spoilt, *ALSO.get(spoilt, ()))), (spoilt, value, str(error))
            else:
                raise AssertionError(f"{name} took {spoilt} = {value!r} and answered {answer!r}")
        else:
            with torch.no_grad() if name != "train" else torch.enable_grad():
                assert one.check(one.call(**given), given)

    settings = hypothesis.settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(st.data())(check))()


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_few_inputs(name):
    run(name, SHORT)


@pytest.mark.slow
def test_ten_thousand_inputs():
    COUNTED.clear()
    for name in PROPERTIES:
        run(name, LONG)
    print(f"{sum(COUNTED.values()):,} inputs of {len(PROPERTIES)} properties")
    assert sum(COUNTED.values()) >= 10_000


def test_every_public_name_has_a_property():
    public = {name for name in tutorial_lib.__all__ if not inspect.ismodule(getattr(tutorial_lib, name))}
    assert public <= PROPERTIES.keys()


# -------------------------------------------------------------------------------------------------------- damaged files


def _damaged(whole: bytes, chance: random.Random) -> bytes:
    """A copy with a flipped bit, a changed byte, a lost end, a lost or doubled part, or two exchanged blocks."""
    copy, place = bytearray(whole), chance.randrange(len(whole))
    kind = chance.randrange(6)
    if kind == 0:
        copy[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        copy[place] = (copy[place] + chance.randrange(1, 256)) % 256
    elif kind == 2:
        del copy[place:]
    elif kind == 3:
        del copy[place : place + chance.randrange(1, 1000)]
    elif kind == 4:
        copy[place:place] = copy[max(0, place - chance.randrange(1, 1000)) : place] or b"x"
    else:
        size = chance.randrange(1, min(4096, len(copy) // 3))
        a, b = sorted((chance.randrange(len(copy) // 2 - size), chance.randrange(len(copy) // 2, len(copy) - size)))
        copy[a : a + size], copy[b : b + size] = copy[b : b + size], copy[a : a + size]
    return bytes(copy)


def _files(folder: Path, monkeypatch) -> dict[str, tuple[bytes, Path, Callable[[Path], Any]]]:
    """Every kind of data and weight file: its content, where a damaged copy goes, and what reads it."""
    assets = checkpoints.ASSETS
    monkeypatch.setattr(data, "ASSETS", folder)
    monkeypatch.setattr(results, "RESULTS", {"ablation": folder / "ablation.json"})
    load_results = results.load_results.__wrapped__  # without its memory
    load_statistics = evaluation.reference_statistics.__wrapped__
    readers: dict[str, Callable[[Path], Any]] = {
        "mnist.safetensors": lambda path: tutorial_lib.load_model(path, "cpu"),
        "attention_relu.safetensors": lambda path: tutorial_lib.load_model(path, "cpu"),
        "digit_judge.safetensors": tutorial_lib.DigitJudge.load,
        "mnist_reference.safetensors": load_statistics,
        "mnist_embedded.npz": lambda path: tutorial_lib.load_images("mnist", "test"),
        "fashion_mnist_embedded.npz": lambda path: tutorial_lib.load_images("fashion_mnist", "test"),
        "ablation.json": lambda path: load_results(),
    }
    files = {name: ((assets / name).read_bytes(), folder / name, reader) for name, reader in readers.items()}
    model = tutorial_lib.EfficientTransformerDenoiser(**TINY)
    config = tutorial_lib.TrainConfig(steps=1)
    (step,) = tutorial_lib.train(
        model, torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), config, device="cpu"
    )
    state = tutorial_lib.save_checkpoint(step.state(), folder / "checkpoint.pt")
    files["checkpoint.pt"] = (state.read_bytes(), state, tutorial_lib.load_checkpoint)
    return files


def _fuzz(copies: int, folder: Path, monkeypatch) -> int:
    chance, tried = random.Random(0), 0
    files = _files(folder, monkeypatch)
    for content, path, reader in files.values():
        path.write_bytes(content)
        reader(path)  # the whole file is fine
    while tried < copies:
        name = sorted(files)[tried % len(files)]
        content, path, reader = files[name]
        damaged = _damaged(content, chance)
        if damaged == content:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged|must name"):
            reader(path)
        tried += 1
    return tried


def test_sixty_damaged_copies(tmp_path, monkeypatch):
    assert _fuzz(60, tmp_path, monkeypatch) == 60


@pytest.mark.slow
def test_a_thousand_damaged_copies(tmp_path, monkeypatch):
    print(f"{_fuzz(1000, tmp_path, monkeypatch):,} damaged copies, none accepted")
