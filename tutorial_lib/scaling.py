"""What several processes gain and what they pay: plain arithmetic, a prediction and no measurement.

Each process computes on its share of a batch, then the gradients of all are summed around a ring (arXiv:1802.05799).
"""

from __future__ import annotations

from .lab import Frame, Lab, slider
from .plots import subplots
from .validate import check_int, check_number

PARAMETERS = 765_572  # of the network of this series
# One forward and backward pass at 16x16 pixels on two laptop cores, 1,028 steps of 128 in 180 s: it needs time in
# proportion to the pictures and, as all its layers are products of matrices, to the parameters.
SECONDS_PER_PICTURE = 180 / (1028 * 128)
LATENCY = 50e-6  # seconds until a message arrives, however short it is: usual for Ethernet


def bytes_sent(parameters: float, processes: int, bytes_per_number: int = 4) -> float:
    """Bytes that each process sends in a step: 2 (p - 1) / p times its gradients, whose sum goes around the ring."""
    check_number(parameters, "parameters", 1)
    check_int(processes, "processes")
    return 2 * (processes - 1) / processes * parameters * check_int(bytes_per_number, "bytes_per_number")


def exchange_seconds(parameters: float, processes: int, gbit: float) -> float:
    """Seconds to sum the gradients over a network of `gbit` Gbit/s, if nothing else happens at the same time."""
    bits = 8 * bytes_sent(parameters, processes)
    return bits / (1e9 * check_number(gbit, "gbit", 1e-6)) + 2 * (processes - 1) * LATENCY


def compute_seconds(parameters: float, batch: int, times_laptop: float = 1.0) -> float:
    """Seconds in which one process, so many times as fast as a laptop, gets the gradients of `batch` pictures."""
    check_number(times_laptop, "times_laptop", 1e-6)
    return SECONDS_PER_PICTURE * check_int(batch, "batch") * parameters / PARAMETERS / times_laptop


def speed_up(processes: int, gbit: float, parameters: float, batch: int, times_laptop: float = 1.0) -> float:
    """How many times as many pictures a second as one process, each with `batch` pictures in a step."""
    alone = compute_seconds(parameters, batch, times_laptop)
    return processes * alone / (alone + exchange_seconds(parameters, processes, gbit))


def scaling_lab() -> Lab:
    """When does a further process pay?"""

    def render(processes: int, gbit: float, millions: float, batch: int, times_laptop: int) -> Frame:
        parameters, counts = 1e6 * millions, range(1, 65)
        gain = speed_up(processes, gbit, parameters, batch, times_laptop)
        times = (
            1000 * compute_seconds(parameters, batch, times_laptop),
            1000 * exchange_seconds(parameters, processes, gbit),
        )
        figure, (left, right) = subplots(1, 2, width=8.6)
        left.plot(counts, counts, label="ideal")
        left.plot(counts, [speed_up(p, gbit, parameters, batch, times_laptop) for p in counts], label="predicted")
        left.plot([processes], [gain], "o", color="black")
        left.set(xlabel="processes", ylabel="speed-up", xscale="log", yscale="log", ylim=(0.05, 80))
        left.legend(loc="lower right")
        right.barh([f"computing\n{times[0]:.3g} ms", f"exchange\n{times[1]:.3g} ms"], times, color=["0.4", "#D55E00"])
        right.set(xlabel="milliseconds of a step", xlim=(0, 1.05 * max(times)))
        text = (
            f"{gain:.2f} times the pictures a second of one process; {times[1] / sum(times):.0%} of a step is exchange"
        )
        alt = (
            f"Speed-up against processes beside the ideal line, and the two parts of a step, at {processes} processes."
        )
        return Frame(figure, alt, text)

    lab = Lab(
        render,
        processes=slider("Processes", 8, 1, 64),
        gbit=slider("Bandwidth, Gbit/s", 1.0, 0.5, 100.0, 0.5),
        millions=slider("Parameters, millions", 1.0, 0.5, 100.0, 0.5),
        batch=slider("Batch per process", 16, 1, 256),
        times_laptop=slider("Times a laptop", 1, 1, 500),
    )
    for control in lab.controls.values():
        control.style.description_width = "10.5em"  # longer names than in other labs
    return lab
