"""The exercises of notebook 07: several processes, one run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exercises import Exercise


def _parts() -> list[tuple]:
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 7, generator=draw, dtype=torch.float64)  # (3, P)
    return [(list(gradients[:2]), [3, 13]), (list(gradients), [5, 1, 2])]


def _whole(gradients: list[Tensor], weights: list[float]) -> Tensor:
    return sum(weight * gradient for weight, gradient in zip(weights, gradients, strict=True))


def _batches() -> list[tuple]:
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))  # (48,)
    return [
        (order, step, batch_size, rank, world) for step in (0, 2) for batch_size, rank, world in ((8, 1, 2), (12, 2, 3))
    ]


def _exchanges() -> list[tuple]:
    return [(765_572, 1), (765_572, 2), (765_572, 8), (1000, 5)]


def _networks() -> list[tuple]:
    return [(765_572, 2, 1.0, 0.0014), (765_572, 8, 10.0, 0.0014), (20e6, 4, 25.0, 0.0001)]


def _balance(parameters: float, processes: int, gbit: float, seconds: float, factor: float = 8.0) -> float:
    """Pictures for which computing takes as long as the exchange; `factor` is 8 bits a byte, when it is right."""
    return factor * 4 * parameters * 2 * (processes - 1) / processes / (1e9 * gbit) / seconds


EXERCISES = (
    Exercise(
        number="7.1",
        title="unequal parts",
        cases=_parts,
        solution="""
def combine(gradients, sizes):
    return sum(size * gradient for size, gradient in zip(sizes, gradients)) / sum(sizes)
""",
        mistakes={
            "this is the plain mean: it counts a picture of the small part for more than one of the large part": (
                lambda gradients, sizes: _whole(gradients, [1 / len(sizes)] * len(sizes))
            ),
            "you added the gradients up without any weights": (
                lambda gradients, sizes: _whole(gradients, [1.0] * len(sizes))
            ),
            "the weights are right, but they have to sum to 1: divide by the number of all pictures": (
                lambda gradients, sizes: _whole(gradients, sizes)
            ),
            "the weights are the wrong way round: the larger part has to count for more": (
                lambda gradients, sizes: _whole(
                    gradients, [1 / size / sum(1 / each for each in sizes) for size in sizes]
                )
            ),
            "you divided by the number of parts, not by the number of pictures": (
                lambda gradients, sizes: _whole(gradients, [size / len(sizes) for size in sizes])
            ),
        },
        hints=(
            "Each gradient is a mean over the pictures of its part. How do you get back to the sum over them?",
            "Multiply each gradient by its size, add them up, and divide once at the end.",
            "The divisor is the number of all pictures, sum(sizes).",
        ),
    ),
    Exercise(
        number="7.2",
        title="whose pictures",
        cases=_batches,
        solution="""
def my_share(order, step, batch_size, rank, world):
    batch = order[step * batch_size : (step + 1) * batch_size]
    return batch[rank::world]
""",
        mistakes={
            "every process gets the whole batch: then all do the same work": (
                lambda order, step, size, rank, world: order[step * size : (step + 1) * size]
            ),
            "these are blocks of neighbours: as good for training, but the card asks for every world-th place": (
                lambda order, step, size, rank, world: order[step * size : (step + 1) * size].chunk(world)[rank]
            ),
            "each process takes a whole batch of its own: then a step uses world times as many pictures": (
                lambda order, step, size, rank, world: order[(step * world + rank) * size :][:size]
            ),
            "the step is missing: every step gets the first batch": (
                lambda order, step, size, rank, world: order[:size][rank::world]
            ),
            "you moved on by one process's share a step: a step takes a whole batch from the order": (
                lambda order, step, size, rank, world: order[step * size // world :][:size][rank::world]
            ),
            "rank and world are swapped": (
                lambda order, step, size, rank, world: order[step * size : (step + 1) * size][world::rank]
            ),
        },
        hints=(
            "Two cuts. First: which places of the order belong to this step, whoever takes them?",
            "The batch is order[step * batch_size : (step + 1) * batch_size]. Then take every world-th of it.",
            "A slice with three parts does it: batch[first::distance]. Process 0 begins at place 0.",
        ),
    ),
    Exercise(
        number="7.3",
        title="bytes around the ring",
        cases=_exchanges,
        solution="""
def bytes_sent(parameters, processes):
    hops = 2 * (processes - 1)
    return hops * 4 * parameters / processes
""",
        mistakes={
            "the second round is missing: after the first one nobody has the whole sum": (
                lambda parameters, processes: (processes - 1) * 4 * parameters / processes
            ),
            "you sent the whole list in every hop: only one piece of it travels at a time": (
                lambda parameters, processes: 2 * (processes - 1) * 4 * parameters
            ),
            "these are numbers, not bytes: a float32 has 4 bytes": (
                lambda parameters, processes: 2 * (processes - 1) * parameters / processes
            ),
            "a round has one hop fewer than there are processes": (lambda parameters, processes: 2 * 4 * parameters),
            "these are bits: the card asks for bytes": (
                lambda parameters, processes: 2 * (processes - 1) * 32 * parameters / processes
            ),
        },
        hints=(
            "Count in three stages: hops of one process, numbers in a hop, bytes in a number.",
            "Each of the two rounds has processes - 1 hops. A hop carries one piece: parameters / processes numbers.",
            "Multiply 2 * (processes - 1) hops, parameters / processes numbers, and 4 bytes.",
        ),
    ),
    Exercise(
        number="7.4",
        title="where computing and exchange are equal",
        cases=_networks,
        tolerance=1e-4,
        solution="""
def balance(parameters, processes, gbit, seconds_per_picture):
    bits = 8 * 4 * parameters * 2 * (processes - 1) / processes
    return bits / (gbit * 1e9) / seconds_per_picture
""",
        mistakes={
            "you counted bytes, but a network is sold in bits: 8 for each byte": (
                lambda parameters, processes, gbit, seconds: _balance(parameters, processes, gbit, seconds, 1.0)
            ),
            "the ring is missing: each process sends 2 (p - 1) / p times its gradients": (
                lambda parameters, processes, gbit, seconds: 32 * parameters / (1e9 * gbit) / seconds
            ),
            "this is the time of the exchange: how many pictures fit into it?": (
                lambda parameters, processes, gbit, seconds: _balance(parameters, processes, gbit, 1.0)
            ),
            "the fraction is upside down: a slower network needs more pictures, not fewer": (
                lambda parameters, processes, gbit, seconds: 1 / _balance(parameters, processes, gbit, seconds)
            ),
            "this is the batch of all processes together: the card asks for one of them": (
                lambda parameters, processes, gbit, seconds: processes * _balance(parameters, processes, gbit, seconds)
            ),
        },
        hints=(
            "How long does the exchange take? Then ask how many pictures one process computes in that time.",
            "Seconds of the exchange: the bits that one process sends, divided by gbit * 1e9.",
            "bits = 8 * 4 * parameters * 2 * (processes - 1) / processes. Divide by the bandwidth and by the seconds.",
        ),
    ),
    Exercise(
        number="7.5",
        title="what a faster machine needs",
        solution="""
answer = (32, 3186, 16)  # batch; batch with times=100; Gbit/s with times=100
""",
        mistakes={
            "that is a gain of 2: half of the ideal gain of 8 processes is 4": (11, 1062, 5),
            "the second is not simply 100 times the first, which was rounded up to a whole picture": ((32, 3200, 16)),
            "these are the batches of all processes together: the question is about one of them": ((256, 25488, 16)),
            "the third is asked for a batch of 256: you took 64": (32, 3186, 245),
        },
        hints=(
            "Try the numbers one after the other with a loop, and stop at the first gain that is large enough.",
            "gain = speed_up(8, gbit, PARAMETERS, batch, times). For 1. take gbit 1 and times 1; look for gain >= 4.",
            "For 2. the same with times=100. For 3. batch=256, times=100, and gbit = 1, 2, 3, ...",
        ),
    ),
)
