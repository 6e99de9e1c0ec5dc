"""Measured against what people would pick instead: every question, one after the other, within an hour on two cores.

    pip install -e '.[benchmarks]'
    python -m tests.benchmarks --root data [--only PART ...] [--again]

Prints Markdown tables and writes one JSON file, after each part. A finished part is not measured again, so the command
can be stopped and given once more. Leave the machine alone while it runs.
"""

from __future__ import annotations

import importlib

from tests.benchmarks.common import arguments, run_part

PARTS = ("startup", "attention", "sampling_latency", "training_speed", "quality_for_time", "time_to_quality")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    args = parser.parse_args()
    for name in PARTS:
        if name in args.only:
            run_part(name, importlib.import_module(f"tests.benchmarks.{name}"), args)


if __name__ == "__main__":
    main()
