"""Which target and learning rate suit the sized-down peers? Short trainings, to choose the settings in `peers.py` by.

    python -m tests.benchmarks.probe --root data [--seconds 90]

Not part of the suite: its answers stand in `peers.py`. For each peer every target at learning rate 3e-3, then the best
of them at 1e-3 and 6e-3 too; the smallest shortfall (see `quality_for_time`) wins.
"""

from __future__ import annotations

import argparse

from tests.benchmarks.common import markdown
from tests.benchmarks.peers import DIT_TARGETS, UNET_TARGETS, dit_small, unet_small
from tests.benchmarks.quality_for_time import Run, judged, mnist

PEERS = {"dit": (dit_small, tuple(DIT_TARGETS)), "unet": (unet_small, UNET_TARGETS)}
RATE, OTHER_RATES = 3e-3, (1e-3, 6e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--shrink", type=float, default=4, help="divide the number of digits by this")
    args = parser.parse_args()
    images, labels = mnist(args)
    rows = []

    def tried(peer: str, target: str, lr: float) -> float:
        run = Run(PEERS[peer][0](target, lr), images, labels, args.seconds)
        run.advance(args.seconds)
        s = judged(run, args)
        rows.append((peer, target, f"{lr:g}", run.steps, f"{s['agreement']:.1%}", f"{s['frechet']:.2f}"))
        return s["shortfall"]

    for peer in args.peers:
        shortfalls = {target: tried(peer, target, RATE) for target in PEERS[peer][1]}
        best = min(shortfalls, key=shortfalls.get)
        for lr in OTHER_RATES:
            tried(peer, best, lr)
    print(markdown(("peer", "target", "learning rate", "steps", "class agreement", "Frechet distance"), rows))


if __name__ == "__main__":
    main()
