"""One run of one notebook under several hardships at once: the short form of three promises."""

from __future__ import annotations

import pytest
from harness import NOTEBOOKS, OFFLINE, Run, can_cut_the_network, copy_of_notebooks, nbval


@pytest.fixture(scope="session")
def hard_run(tmp_path_factory) -> Run:
    """Notebook 02 on one thread and the plainest instructions, its memory watched, offline where that can be had."""
    cut = OFFLINE if can_cut_the_network() else []
    variables = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}
    return (
        Run(cut + nbval(NOTEBOOKS[1]), copy_of_notebooks(tmp_path_factory.mktemp("hard")), variables).start().finish()
    )
