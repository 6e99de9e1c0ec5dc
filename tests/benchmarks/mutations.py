"""Do the notebooks notice a wrong formula? One sign or constant is changed at a time; `pytest --nbval` must fail.

    python -m tests.benchmarks.mutations [PART OF A CHANGE ...]

Works on a copy of the tree, stops each run at the first failing cell, and prints a Markdown table. Exit status 1 if a
change was not noticed. About a minute each on two cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHANGES = [  # file, before, after, notebook
    ("attention.py", "k.softmax(dim=-2)", "k.softmax(dim=-1)", "01"),
    ("attention.py", "F.elu(k) + 1", "F.elu(k) + 2", "01"),
    ("attention.py", "/ math.sqrt(q.shape[-1])", "* math.sqrt(q.shape[-1])", "01"),
    ("attention.py", "mixed = mixed + self._local(v)", "mixed = mixed - self._local(v)", "01"),
    ("noising.py", "torch.sin(math.pi / 2 * t)", "torch.sin(math.pi / 3 * t)", "02"),
    ("noising.py", "self.alpha(t) * x0 + self.sigma(t) * eps", "self.alpha(t) * x0 - self.sigma(t) * eps", "02"),
    ("noising.py", "(self.alpha(t) / self.sigma(t)) ** 2", "(self.alpha(t) / self.sigma(t)) ** 1", "02"),
    ("noising.py", "torch.atan((4 * u) ** 2)", "torch.atan((3 * u) ** 2)", "02"),
    ("noising.py", "squared / (2 * variance)", "squared / (1 * variance)", "02"),
    ("denoiser.py", "torch.logspace(0, 3, dim // 2)", "torch.logspace(0, 2, dim // 2)", "03"),
    ("denoiser.py", "self.ff_norm(tokens), 1 + scale_f", "self.ff_norm(tokens), 1 - scale_f", "03"),
    ("denoiser.py", "(1 + scale) + shift", "(1 + scale) - shift", "03"),
    ("sampling.py", "(alpha_s - kept * alpha_t) * x0  # (B, C, H, W)\n        return (x +",
     "(alpha_s + kept * alpha_t) * x0  # (B, C, H, W)\n        return (x +", "04"),
    ("sampling.py", "1 - (sigma_s * alpha_t / (alpha_s * sigma_t)) ** 2",
     "1 - (sigma_s * alpha_t / (alpha_s * sigma_t)) ** 1", "04"),
    ("sampling.py", "(2 * (here - before))", "(3 * (here - before))", "04"),
    ("sampling.py", "denoise(euler, s)) / 2", "denoise(euler, s)) / 3", "04"),
    ("sampling.py", "unconditional + self.scale *", "unconditional - self.scale *", "04"),
]  # fmt: skip


def noticed(file: str, before: str, after: str, number: str) -> str | None:
    """The first cell that fails with this change, or None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "runs", "screenshots"))
        module = tree / "tutorial_lib" / file
        text = module.read_text()
        assert text.count(before) == 1, f"{before!r} is {text.count(before)} times in {file}"
        module.write_text(text.replace(before, after))
        (notebook,) = (tree / "notebooks").glob(f"{number}_*.ipynb")
        command = [sys.executable, "-m", "pytest", "--nbval", "-x", "-q", str(notebook)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}  # before the installed package
        result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = re.search(r"::(Cell \d+)", result.stdout.split("short test summary")[-1])
    if result.returncode == 1 and failed:
        return failed[1]
    if result.returncode == 0:
        return None
    raise RuntimeError(result.stdout[-2000:] + result.stderr[-2000:])


def main() -> int:
    chosen = [change for change in CHANGES if all(part in " ".join(change) for part in sys.argv[1:])]
    print("| file | before | after | notebook | noticed in |\n|---|---|---|---|---|")
    missed = 0
    for file, before, after, number in chosen:
        cell = noticed(file, before, after, number)
        missed += cell is None
        shown = [text.split("  #")[0] for text in (before, after)]
        print(f"| {file} | `{shown[0]}` | `{shown[1]}` | {number} | {cell or 'NOT NOTICED'} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
