"""One small vocabulary for refusing bad input: every message names the argument, what came and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def check_choice(value: object, name: str, allowed: Iterable[str]) -> None:
    """Raises ValueError unless `value` is one of the `allowed` names."""
    allowed = sorted(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_int(value: object, name: str, low: int = 1, high: int | None = None) -> int:
    """Returns `value` if it is a whole number with low <= value <= high; raises ValueError otherwise."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limit = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {limit}; got {value!r}")
    return value


def check_number(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Returns `value` if it is a finite number with low <= value <= high; raises ValueError otherwise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value or not low <= value <= high or abs(value) > 1e300:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}; got {value!r}")
    return float(value)


def check_tensor(x: object, name: str, shape: tuple[int | str, ...], finite: bool = True) -> Tensor:
    """Returns `x` if it is a floating-point tensor of this shape. In `shape` a number is exact and a letter is free.

    A leading "..." stands for any number of dimensions. Raises ValueError for another type, dtype or shape, and for
    NaN or infinity when `finite` is true.
    """
    words = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a floating-point tensor of shape {words}; got {type(x).__name__}")
    tail = shape[1:] if shape and shape[0] == "..." else shape
    rank_fits = x.ndim >= len(tail) if tail is not shape else x.ndim == len(tail)
    sizes = x.shape[x.ndim - len(tail) :]
    fits = rank_fits and all(not isinstance(want, int) or want == got for want, got in zip(tail, sizes, strict=True))
    if not fits or not x.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point tensor of shape {words}; got {x.dtype} of shape {tuple(x.shape)}"
        )
    if finite and not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite; got NaN or infinity in it")
    return x


def check_labels(labels: object, name: str, count: int | None, num_classes: int) -> Tensor:
    """Returns `labels` if it is an int64 tensor (count,) of 0 .. num_classes - 1; raises ValueError otherwise."""
    size = "N" if count is None else count
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{name} must be an int64 tensor of shape ({size},); got {got}")
    if count is not None and len(labels) != count:
        raise ValueError(f"{name} must be an int64 tensor of shape ({count},); got {len(labels)} labels")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{name} must be from 0 to {num_classes - 1}; got values from {int(labels.min())} to {int(labels.max())}"
        )
    return labels
