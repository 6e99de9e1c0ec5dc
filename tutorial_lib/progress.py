"""What a student has done: one readable file beside the notebooks. It stays on this machine; nothing is sent.

`my_progress.json` is what a student hands in: {"1.1": {"verdict": "correct", "tries": 2, "hint 1": 1}, ...}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from .checkpoints import write_file

FILE = Path("my_progress.json")  # in the folder of the notebook


def load_progress() -> dict[str, dict[str, Any]]:
    """All that is recorded, by exercise or prediction. Raises ValueError if the file is damaged."""
    if not FILE.exists():
        return {}
    try:
        entries = json.loads(FILE.read_text(encoding="utf-8"))
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise ValueError("it is not a table of entries")
    except ValueError as error:  # also what JSON and UTF-8 decoders raise
        raise ValueError(f"{FILE} is damaged ({error}): give it another name, and a new one is begun") from error
    return entries


def record(name: str, event: str) -> None:
    """Adds one event to the record: a verdict, a hint, a look at the solution, or a prediction ("predicted: ...")."""
    try:
        entries = load_progress()
        entry = entries.setdefault(name, {})
        if event in ("correct", "wrong"):
            entry["tries"] = entry.get("tries", 0) + 1
            entry["verdict"] = "correct" if "correct" in (event, entry.get("verdict")) else "wrong"
        elif event.startswith("predicted: "):
            entry["predicted"] = event.removeprefix("predicted: ")
        else:
            entry[event] = entry.get(event, 0) + 1
        text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False) + "\n"
        write_file(FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except (OSError, ValueError) as error:  # a full disk must not stop the lesson
        print(f"(Not recorded: {error})")


def progress(notebook: str) -> None:
    """Prints the exercises of one notebook ("1" for 01, ...) and how far you are with each."""
    from .cards import EXERCISES

    entries = load_progress()
    for number, exercise in EXERCISES.items():
        if number.split(".")[0] != notebook:
            continue
        entry = entries.get(number, {})
        state = entry.get("verdict", "not attempted")
        tries = f", {entry['tries']} tries" if entry.get("tries", 0) > 1 else ""
        helped = ", with the solution" if "solution" in entry else ", with hints" if "hint 1" in entry else ""
        print(f"{number} {exercise.title}: {state}{tries}{helped}")


class Prediction(widgets.VBox):
    """A question to answer before the result is shown. `reveal` puts what you chose beside what came out."""

    def __init__(self, name: str, question: str, options: list[str]) -> None:
        self.name, self.question = name, question
        kept = load_progress().get(name, {}).get("predicted")
        self.choice = widgets.RadioButtons(
            options=options,
            value=kept if kept in options else None,
            layout=widgets.Layout(width="max-content"),  # the stock 300 pixels cut long answers
        )
        self.status = widgets.HTML("")
        self.choice.observe(self._keep, "value")
        super().__init__([widgets.HTML(f"<b>Predict first.</b> {question}"), self.choice, self.status])

    def _keep(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            record(self.name, f"predicted: {change['new']}")
            self.status.value = '<span role="status">Kept. Now run the next cell.</span>'

    def reveal(self, outcome: str) -> None:
        """Prints the prediction, if there is one, and the outcome."""
        print(f"You predicted: {self.choice.value or 'nothing'}\nIt turned out: {outcome}")

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        text = f"Predict first. {self.question} {' / '.join(self.choice.options)}"
        return {**super()._repr_mimebundle_(**options), "text/plain": text}
