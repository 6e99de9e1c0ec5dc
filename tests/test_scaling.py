"""The arithmetic of several processes, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from tutorial_lib import EfficientTransformerDenoiser
from tutorial_lib.scaling import (
    LATENCY,
    PARAMETERS,
    SECONDS_PER_PICTURE,
    bytes_sent,
    compute_seconds,
    exchange_seconds,
    scaling_lab,
    speed_up,
)


def test_parameters_are_those_of_the_network():
    assert sum(p.numel() for p in EfficientTransformerDenoiser().parameters()) == PARAMETERS


def test_bytes_around_the_ring():
    assert bytes_sent(PARAMETERS, 1) == 0  # nobody to talk to
    assert bytes_sent(PARAMETERS, 2) == 4 * PARAMETERS  # half of it there, half of it back
    assert bytes_sent(1000, 5) == 2 * 4 * 800
    assert bytes_sent(1000, 5, bytes_per_number=2) == 2 * 2 * 800


def test_seconds_of_the_exchange():
    assert exchange_seconds(PARAMETERS, 1, 1.0) == 0
    assert exchange_seconds(125e6, 2, 4.0) == pytest.approx(1.0 + 2 * LATENCY)  # 4 Gbit at 4 Gbit/s, two hops


def test_seconds_of_computing():
    assert compute_seconds(PARAMETERS, 128) == pytest.approx(128 * SECONDS_PER_PICTURE) == pytest.approx(180 / 1028)
    assert compute_seconds(2 * PARAMETERS, 5, 10.0) == pytest.approx(SECONDS_PER_PICTURE)


def test_speed_up():
    assert speed_up(1, 1.0, PARAMETERS, 16) == 1
    assert speed_up(8, 1e6, 1e9, 256) == pytest.approx(8, rel=1e-3)  # a network that costs no time
    equal = exchange_seconds(PARAMETERS, 4, 1.0) / compute_seconds(PARAMETERS, 1)  # times as fast with one picture
    assert speed_up(4, 1.0, PARAMETERS, 1, 1 / equal) == pytest.approx(2)  # half of each step is exchange
    assert speed_up(2, 1.0, PARAMETERS, 1) < 1  # it does not always pay
    assert speed_up(8, 1.0, 1e9, 16) == pytest.approx(speed_up(8, 1.0, 1e10, 16), rel=1e-3)  # parameters cancel


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bytes_sent(0, 2), "parameters must be a number from 1"),
        (lambda: bytes_sent(10, 0), "processes must be a whole number of at least 1; got 0"),
        (lambda: exchange_seconds(10, 2, 0.0), "gbit must be a number from 1e-06"),
        (lambda: compute_seconds(10, 0), "batch must be a whole number of at least 1; got 0"),
        (lambda: speed_up(2, 1.0, 10, 1, 0.0), "times_laptop must be a number from 1e-06"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_lab_says_what_the_arithmetic_says():
    _, frame = scaling_lab().frame(processes=4, gbit=2.0, millions=3.0, batch=32, times_laptop=5)
    assert frame.text.startswith(f"{speed_up(4, 2.0, 3e6, 32, 5):.2f} times")
