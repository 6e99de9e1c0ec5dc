"""Nothing here needs a network: it runs where there is none but loopback, by which kernels talk to their client."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import OFFLINE, ROOT, can_cut_the_network

PROBE = """
import socket
print(*(name for _, name in socket.if_nameindex()))
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print(error)
"""
needs_namespace = pytest.mark.skipif(not can_cut_the_network(), reason="no network namespaces for this user")


@needs_namespace
def test_the_network_is_really_cut():
    text = subprocess.check_output([*OFFLINE, sys.executable, "-c", PROBE], text=True)
    assert text.splitlines()[0] == "lo" and "unreachable" in text


@needs_namespace
def test_notebook_02_offline(hard_run):
    assert hard_run.command[: len(OFFLINE)] == OFFLINE and " passed" in hard_run.output


@needs_namespace
@pytest.mark.slow
def test_all_notebooks_and_tests_offline():
    command = [*OFFLINE, sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:]
