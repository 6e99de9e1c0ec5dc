"""The arithmetic of the benchmarks, with exact answers. Nothing is timed here, and no peer is needed."""

from __future__ import annotations

import math

import pytest
import torch

from tests.benchmarks.common import alternate, crossover, fit_exponent, markdown, spread, steps_for
from tests.benchmarks.image_size import saved_bytes, tables
from tests.benchmarks.startup import import_shares


@pytest.mark.parametrize("power", [0, 1, 2, 1.5])
def test_exponent_of_an_exact_power(power):
    n = [64, 256, 1024, 4096]
    assert fit_exponent(n, [3e-6 * value**power for value in n]) == pytest.approx(power, abs=1e-12)


def test_crossover_of_a_square_and_a_line():
    n = [64, 128, 256, 512]
    square, line = [value**2 for value in n], [200 * value for value in n]
    assert crossover(n, square, line) == pytest.approx(200)  # lines in logarithms are exact for powers
    assert crossover(n, line, square) is None  # the square is dearer at the end
    assert crossover(n, square, [value / 2 for value in n]) == 64  # cheaper everywhere


def test_crossover_is_where_it_stays_cheaper():
    assert crossover([1, 2, 4, 8], [2, 1, 1, 4], [1, 2, 2, 1]) == pytest.approx(4 * 2 ** (1 / 3))


def test_a_guided_step_costs_two():
    assert [steps_for(10, scale) for scale in (1, 1.0, 1.5, 0.5)] == [10, 10, 5, 5]


def test_spread():
    assert spread([4, 1, 3, 2, 5]) == {"median": 3, "low": 2, "high": 4}
    assert spread([7]) == {"median": 7, "low": 7, "high": 7}


def test_everybody_has_a_turn():
    turns = []
    cost = alternate({name: (lambda name=name: turns.append(name)) for name in "ab"}, rounds=3, warmup=1)
    assert turns == ["a", "b"] * 4
    assert cost.keys() == {"a", "b"} and not math.isnan(cost["a"]["median"])
    turns.clear()
    alternate({name: (lambda name=name: turns.append(name)) for name in "ab"}, rounds=9, warmup=1, seconds=0)
    assert turns == ["a", "b"] * 4  # not fewer than three that count


def test_table():
    assert markdown(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_import_times_are_summed_by_top_package():
    trace = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       100 |        100 |   torch._C\n"
        "import time:       250 |        350 | torch\n"
        "import time:        50 |         50 |   json\n"
        "import time:         7 |        407 | tutorial_lib.data\n"
    )
    assert import_shares(trace) == {"torch": 350e-6, "the standard library": 50e-6, "tutorial_lib": 7e-6}


def test_image_sizes_exponents_and_sizes_from_which_linear_pays():
    rows = [
        {"attention": name, "size": size, "patch": 2, "tokens": (size // 2) ** 2, "saved": 2e6, "peak": 3e6, "ms": ms}
        for size in (32, 64, 128)
        for name, ms in (("double_softmax", (size // 2) ** 2), ("softmax", (size // 2) ** 4 / 400))
    ]
    text = tables(rows)
    assert "| 64 | 2 | 1,024 | 1024.0 | 2621.4 | 2.56 | 2 | 2 | 3 | 3 |" in text
    assert "linear, 1,024 to 4,096 tokens: time n^1.00, kept memory n^0.00, peak memory n^0.00" in text
    assert "SDPA, 1,024 to 4,096 tokens: time n^2.00" in text
    assert "linear at least 1 times faster, patch 2: from 40 pixels (400 tokens)" in text
    assert "linear at least 3 times faster, patch 2: from 69 pixels (1,200 tokens)" in text


def test_kept_bytes_count_each_piece_of_memory_once_and_no_weights():
    layer, x = torch.nn.Linear(4, 2, bias=False), torch.ones(3, 4)
    assert saved_bytes(layer, lambda: (layer(x) + layer(x)).sum().backward()) == 3 * 4 * 4
