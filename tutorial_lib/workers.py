"""Several processes, one training run, under PyTorch's own launcher: `torchrun ... -m tutorial_lib train ...`.

Without torchrun there is one process, and everything here does nothing. How data-parallel training works: each process
has the whole network and takes its share of every batch; the gradients are averaged, so all networks stay equal
(arXiv:2006.15704).
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def place() -> tuple[int, int]:
    """Which process this is, and of how many: (rank, world), (0, 1) without torchrun. Rank 0 alone writes files."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, if it did; yields the device of this one.

    Each process has a GPU of its own, or all share the CPU (PyTorch cannot exchange gradients on Apple's MPS).
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield device
        return
    cuda = device.type == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # The group's threads must end before Python does: one that still holds a tensor then aborts the process (seen in 2
    # of 8 short runs). They end with the group, which DistributedDataParallel would keep alive by importing this later.
    importlib.import_module("torch._dynamo")

    store, rank, world = next(dist.rendezvous("env://"))
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        # After a restart the launcher's store still has the addresses of the dead processes (pytorch/pytorch#135712).
        # On one host all count restarts alike, so each attempt can have a corner of its own.
        store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world)
    try:
        yield device
    finally:
        dist.destroy_process_group()
        gc.collect()  # a network that was wrapped holds the group, too


def total(value: Tensor) -> Tensor:
    """The sum of this tensor over all processes, in place."""
    if place()[1] > 1:
        dist.all_reduce(value)
    return value


def from_first(value: Any) -> Any:
    """What rank 0 has, in every process: other hosts may not see its files."""
    box = [value]
    if place()[1] > 1:
        dist.broadcast_object_list(box)
    return box[0]
