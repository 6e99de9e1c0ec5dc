"""The mechanism of the exercises, the record of a student's progress, and the cards in the notebooks."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from tutorial_lib import progress
from tutorial_lib.cards import EXERCISES
from tutorial_lib.exercises import Exercise, answer_in, difference, exercise, judge
from tutorial_lib.progress import Prediction

ROOT = Path(__file__).parents[1]
NUMBERS = list(EXERCISES)
regrouped = answer_in(EXERCISES["1.2"].solution)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_verdict_is_printed_and_recorded(capsys):
    check = exercise("1.2")
    check(...)
    assert capsys.readouterr().out == "Not attempted: put your answer in place of the three dots.\n"
    assert not progress.FILE.exists()
    check(lambda q, k, v: (q @ k.transpose(-2, -1)) @ v)
    said = capsys.readouterr().out
    assert said.startswith("Wrong: the numbers are right, but you formed the N x N matrix")
    assert said.endswith("Stuck? check.hint(1) helps.\n")
    check.hint(1)
    check.hint(3)
    assert capsys.readouterr().out == f"{EXERCISES['1.2'].hints[0]}\n{EXERCISES['1.2'].hints[2]}\n"
    check(regrouped)
    assert capsys.readouterr().out == "Correct: regroup the product.\n"
    check(lambda q, k, v: 0)  # a later mistake does not take the success away
    check.solution()
    assert EXERCISES["1.2"].solution.strip() in capsys.readouterr().out
    assert json.loads(progress.FILE.read_text()) == {
        "1.2": {"tries": 3, "verdict": "correct", "hint 1": 1, "hint 3": 1, "solution": 1}
    }


def test_hints_and_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="number must be a whole number from 1 to 3; got 4"):
        exercise("1.1").hint(4)
    with pytest.raises(ValueError, match="number must be one of '1.1', .*; got '9.9'"):
        exercise("9.9")


def an_exercise(**changes) -> Exercise:
    defaults = {"number": "0.1", "title": "double it", "hints": ("a.", "b.", "c."), "mistakes": {}}
    return Exercise(**{**defaults, "solution": "def f(x):\n    return 2 * x", "cases": lambda: [(3.0,)], **changes})


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda x: None, "it gave None: is a `return` missing?"),
        (lambda x: x, "it is off by up to 3"),
        (lambda x: x / 0, "it raised ZeroDivisionError: float division by zero"),
        (lambda x: "6", "it gave a str, not a number"),
        (lambda x: float("nan"), "it has NaN or infinity in it"),
        (lambda x: torch.tensor([6.0]), "its shape is (1,), it should be ()"),
        (6.0, "it should be a function"),
    ],
)
def test_a_wrong_answer_without_a_name_says_how_it_differs(attempt, said):
    verdict, sentence = judge(an_exercise(), attempt)
    assert verdict == "wrong" and sentence.startswith(said)


def test_values_can_be_lists_and_texts():
    card = an_exercise(solution="answer = (2, 'linear', 0.5)")
    assert judge(card, (2, "linear", 0.5))[0] == "correct"
    assert judge(card, (2, ..., 0.5))[0] == "not attempted"
    assert judge(card, (2, "softmax", 0.5)) == ("wrong", "'softmax' is not it")
    assert judge(card, (2, "linear")) == ("wrong", "it should give 3 results")
    assert judge(card, lambda: 2) == ("wrong", "it should be a value")


def test_an_answer_may_write_into_its_arguments_and_use_random_numbers():
    card = an_exercise(
        solution="def f(x):\n    return x + torch.rand(())", cases=lambda: [(torch.ones(2),), (torch.ones(3),)]
    )
    state = torch.get_rng_state()
    assert judge(card, lambda x: x.add_(torch.rand(())))[0] == "correct"
    assert torch.equal(torch.get_rng_state(), state)


def test_two_errors_are_alike_whatever_the_line():
    card = an_exercise(published="def f(x):\n\n    return x[0]", solution="def f(x):\n    return x", mistakes={})
    assert judge(card, lambda x: x[0])[0] == "not attempted"
    assert difference([1.0, 2.0], (1.0, 2.0), 0) is None


def test_progress_is_a_table_and_a_damaged_file_is_left_alone(capsys):
    exercise("1.2")(regrouped)
    exercise("1.3").hint(1)
    exercise("1.3")(0)
    capsys.readouterr()
    progress.progress("1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["1.2 regroup the product: correct", "1.3 the double softmax: wrong, with hints"]
    assert [line for line in lines if line.endswith(": not attempted")] == [
        f"{number} {EXERCISES[number].title}: not attempted" for number in ("1.1", "1.4", "1.5", "1.6")
    ]
    progress.FILE.write_text("{")
    exercise("1.2")(regrouped)
    assert "(Not recorded: my_progress.json is damaged" in capsys.readouterr().out
    assert progress.FILE.read_text() == "{"
    with pytest.raises(ValueError, match="give it another name"):
        progress.progress("1")


def test_a_prediction_is_kept_and_shown_beside_the_outcome(capsys):
    guess = Prediction("1.a", "How many?", ["one", "two"])
    assert guess._repr_mimebundle_()["text/plain"] == "Predict first. How many? one / two"
    guess.reveal("two")
    assert capsys.readouterr().out == "You predicted: nothing\nIt turned out: two\n"
    assert not progress.FILE.exists()
    guess.choice.value = "one"
    assert "Kept" in guess.status.value
    again = Prediction("1.a", "How many?", ["one", "two"])  # after a restart of the kernel
    again.reveal("two")
    assert capsys.readouterr().out == "You predicted: one\nIt turned out: two\n"


CHECK_CELL = re.compile(r'exercise\("(\d\.\d)"\)')


def exercise_cells() -> dict[str, tuple[str, str]]:
    """For each exercise in the notebooks: its card and its code."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        for before, cell in zip(cells, cells[1:], strict=False):
            if cell.cell_type == "code" and (match := CHECK_CELL.search(cell.source)):
                assert match[1] not in found and match[1].startswith(str(int(path.name[:2])))
                found[match[1]] = before.source, cell.source
    return found


def test_every_exercise_stands_in_its_notebook():
    cells = exercise_cells()
    assert list(cells) == NUMBERS
    for number, (card, _) in cells.items():
        heading, _, words = card.partition("\n\n")
        bug = ", from the bug museum" if EXERCISES[number].published else ""
        title = EXERCISES[number].title.removeprefix("bug museum: ")
        assert re.fullmatch(rf"#+ Exercise {number}{bug}: {re.escape(title)}", heading), heading
        assert re.match(r"\*(One line|A few lines|An investigation|Find it), \d+ minutes\.\* ", words), words[:60]
        assert ("https://github.com/" in card) == bool(bug)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_student_who_types_the_solution_into_the_cell_is_told_correct(number, capsys):
    """The cell as it stands says "not attempted"; with the solution in place of the stub it says "correct"."""
    _, source = exercise_cells()[number]
    for filled, said in ((source, "Not attempted: "), (with_solution(source, number), "Correct: ")):
        exec(filled, {"torch": torch, "math": math, "F": torch.nn.functional, "exercise": exercise})
        assert capsys.readouterr().out.splitlines()[-1].startswith(said)


def with_solution(source: str, number: str) -> str:
    """The solution goes between the line that makes the check and the line that calls it."""
    lines = source.strip().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("check = "))
    return "\n".join([*lines[: first + 1], EXERCISES[number].solution, lines[-1]])
