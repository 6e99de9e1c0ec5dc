"""Exercises: a check with three answers (correct, not attempted, wrong), hints that climb, and the solution.

The exercises themselves are data, in `cards/`. What a student did is kept by `progress.py`, on this machine only.
"""

from __future__ import annotations

import ast
import copy
import math
import numbers
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .progress import record
from .validate import check_choice, check_int

Verdict = Literal["correct", "not attempted", "wrong"]


@dataclass(frozen=True)
class Exercise:
    """One exercise. The answer is a function or a value; `solution` is its source, and the measure of an attempt.

    A function is called with each tuple of arguments in `cases()`. `mistakes` are likely wrong answers, each under the
    sentence that names it. `published`, in a bug hunt, is the source of the faulty code that the student starts from:
    an answer that still does the same counts as not attempted. `measure` turns a result into what is compared, where
    the result itself is random. With `counts_work` the multiplications of matrices are counted and compared, too.
    Numbers may differ by `tolerance`, relative to the largest one expected.
    """

    number: str
    title: str
    solution: str
    hints: tuple[str, str, str]
    mistakes: dict[str, Any]
    cases: Callable[[], list[tuple]] = lambda: [()]
    published: str = ""
    measure: Callable[[Any], Any] = lambda result: result
    counts_work: bool = False
    tolerance: float = 1e-6


@dataclass(frozen=True)
class Raised:
    """Stands for the result of a function that raised an error. Two are alike if the errors are, in whatever line."""

    error: str
    line: int = field(compare=False)

    def __str__(self) -> str:
        return f"it raised {self.error} (line {self.line} of that code)"


def answer_in(source: str) -> Any:
    """The function or value that a piece of source defines first. It finds `torch`, `math`, `nn` and `F` ready."""
    names: dict[str, Any] = {"torch": torch, "math": math, "nn": torch.nn, "F": torch.nn.functional}
    exec(compile(source, "<solution>", "exec"), names)
    first = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.Assign))
    return names[first.name if isinstance(first, ast.FunctionDef) else first.targets[0].id]


def _results(exercise: Exercise, answer: Any) -> list[Any]:
    """What an answer gives in each case; the value itself if it is not a function. Global random numbers are fixed."""
    if not callable(answer):
        return [answer]
    results = []
    for case in exercise.cases():
        counter = FlopCounterMode(display=False)
        try:
            with torch.random.fork_rng(devices=[]), counter if exercise.counts_work else nullcontext():
                torch.manual_seed(0)
                result = answer(*copy.deepcopy(case))  # a copy: the answer may write into its arguments
            result = result if result is ... or result is None else exercise.measure(result)
            results.append((result, counter.get_total_flops()) if exercise.counts_work else result)
        except Exception as error:  # whatever the student's code does, the notebook goes on
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            results.append(Raised(f"{type(error).__name__}: {error}", line))
    return results


def difference(got: Any, wanted: Any, tolerance: float) -> str | None:
    """How `got` differs from `wanted`, in words; None if it does not. Tensors, numbers, texts, and lists of them."""
    if isinstance(got, Raised):
        return None if got == wanted else str(got)
    if got is None and wanted is not None:
        return "it gave None: is a `return` missing?"
    if isinstance(wanted, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            return f"it should give {len(wanted)} results"
        return next((d for pair in zip(got, wanted, strict=True) if (d := difference(*pair, tolerance))), None)
    if isinstance(wanted, Tensor | numbers.Number) and not isinstance(wanted, bool):
        if not isinstance(got, Tensor | numbers.Number):
            return f"it gave a {type(got).__name__}, not a {'tensor' if isinstance(wanted, Tensor) else 'number'}"
        got, wanted = torch.as_tensor(got).detach(), torch.as_tensor(wanted).detach()
        if got.shape != wanted.shape:
            return f"its shape is {tuple(got.shape)}, it should be {tuple(wanted.shape)}"
        if not torch.isfinite(got).all():
            return "it has NaN or infinity in it"
        gap = (got.double() - wanted.double()).abs().max().item() if got.numel() else 0.0
        allowed = tolerance * max(1.0, wanted.double().abs().max().item()) if got.numel() else 0.0
        return f"it is off by up to {gap:.3g}" if gap > allowed else None
    return None if got == wanted else f"{got!r} is not it"


def _untouched(result: Any) -> bool:
    return result is ... or (isinstance(result, tuple) and any(part is ... for part in result))


def judge(exercise: Exercise, attempt: Any) -> tuple[Verdict, str]:
    """The verdict on an attempt, and the sentence that explains it."""
    untouched = "not attempted", "put your answer in place of the three dots"
    wanted = answer_in(exercise.solution)
    if _untouched(attempt):
        return untouched
    if callable(attempt) != callable(wanted):
        return "wrong", f"it should be a {'function' if callable(wanted) else 'value'}"

    def differs(result: list[Any], other: Any) -> str | None:
        return difference(result, _results(exercise, other), exercise.tolerance)

    results = _results(exercise, attempt)
    if any(_untouched(result) for result in results):
        return untouched
    if exercise.published and not differs(results, answer_in(exercise.published)):
        return "not attempted", "this still does what the published code does: one thing in it is wrong"
    problem = differs(results, wanted)
    if problem is None:
        return "correct", exercise.title
    likely = next((text for text, wrong in exercise.mistakes.items() if not differs(results, wrong)), None)
    return "wrong", f"{likely} ({problem})" if likely else problem


class Check:
    """The check of one exercise: `check(attempt)`, `check.hint(1)` to `check.hint(3)`, `check.solution()`."""

    def __init__(self, exercise: Exercise) -> None:
        self.exercise = exercise

    def __call__(self, attempt: Any) -> None:
        """Prints the verdict. An answer that was not attempted is not recorded and never stops Run All."""
        verdict, sentence = judge(self.exercise, attempt)
        print(f"{verdict.capitalize()}: {sentence}.")
        if verdict == "wrong":
            print("Stuck? check.hint(1) helps.")
        if verdict != "not attempted":
            record(self.exercise.number, verdict)

    def hint(self, number: int = 1) -> None:
        """Prints hint 1, 2 or 3, each saying more than the one before."""
        print(self.exercise.hints[check_int(number, "number", 1, len(self.exercise.hints)) - 1])
        record(self.exercise.number, f"hint {number}")

    def solution(self) -> None:
        """Prints a solution, ready to be copied."""
        print(self.exercise.solution)
        record(self.exercise.number, "solution")


def exercise(number: str) -> Check:
    """The check of the exercise of this number, as on its card: "1.1". ValueError for a number that there is not."""
    from .cards import EXERCISES

    check_choice(number, "number", EXERCISES)
    return Check(EXERCISES[number])
