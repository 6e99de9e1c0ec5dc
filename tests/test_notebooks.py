"""What nbval does not check: it ignores images, and it passes a notebook without outputs."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-ignore-output", "raises-exception", "hide-input"}
MACHINE = r"/(?:tmp|home|Users|root|work|opt|var)/|\b[A-Za-z]:\\\\?\w|site-packages|ipykernel_\d|File \S*<ipython"
DATA_URL = r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=\s]+"

specification = importlib.util.spec_from_file_location("refresh_notebooks", ROOT / "scripts" / "refresh_notebooks.py")
refresh_notebooks = importlib.util.module_from_spec(specification)
specification.loader.exec_module(refresh_notebooks)


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prints(cell) -> bool:
    return any(output.get("name") == "stdout" and output.text.strip() for output in cell.outputs)


def text_of(output) -> str:
    """An output's text, without base64, in which any letters may occur by chance."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not re.match(r"image/(?!svg)", kind)}
    return re.sub(DATA_URL, "", output.get("text", "") + json.dumps(data))


def heading_problems(notebook):
    levels = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            levels += [len(marks) for marks in re.findall(r"^(#{1,6})\s", prose, flags=re.MULTILINE)]
    if levels.count(1) != 1 or levels[0] != 1:
        yield "headings: there must be one H1, and it comes first"
    if any(below > above + 1 for above, below in pairwise(levels)):
        yield "headings: a level is skipped"


def image_problems(cell):
    """Every picture has a text for those who do not see it; every figure has a number that nbval compares."""
    sources = [cell.source] if cell.cell_type == "markdown" else []
    if cell.cell_type == "code":
        for output in cell.outputs:
            data = output.get("data", {})
            sources.append(data.get("text/html", ""))
            if "<Figure size" in data.get("text/plain", ""):
                yield "a bare figure: use show(figure, alt=...)"
            elif any(kind.startswith("image/") for kind in data) and not data.get("text/plain", "").strip("<> "):
                yield "a picture without a text form"
        # A lab's own text, the read-out of its picture, is a fact that nbval compares.
        pictures = any(
            kind.startswith("image/")
            for output in cell.outputs
            for kind in output.get("data", {})
            if not output["data"].get("text/plain", "").endswith("(Run this cell to move the controls.)")
        )
        if pictures and not prints(cell) and "nbval-ignore-output" not in tags(cell):
            yield "a picture, but no printed fact beside it: nbval does not compare pictures"
    for source in sources:
        if re.search(r"!\[\s*\]\(", source):
            yield "a Markdown picture without alt text"
        for image in re.findall(r"<img\b[^>]*>", source):
            if not re.search(r"""\balt=(["'])\s*[^\s"'].*?\1""", image, flags=re.DOTALL):
                yield "an <img> without alt text"


def code_problems(cell):
    if not tags(cell) <= TAGS:
        yield f"unknown tags {sorted(tags(cell) - TAGS)}"
    if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source):
        yield "an nbval comment: use a tag, which the checks see"
    if re.search(r";\s*(#.*)?$", cell.source.rstrip()):
        yield "ends in a semicolon: nbval shows the value anyway; write _ = ... or plt.show()"
    for output in cell.outputs:
        if output.output_type == "error" and "raises-exception" not in tags(cell):
            yield "a stored error"
        if output.get("name") == "stderr":
            yield "a stored warning or progress bar on stderr"


def problems(notebook) -> list[str]:
    """Everything that is wrong with a notebook as it is stored, each with its cell's number, counted from 0."""
    found = list(heading_problems(notebook))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("execution counts are not 1 .. n: not run top to bottom on a fresh kernel")
    if not any(prints(cell) for cell in code):
        found.append("prints nothing: nbval has nothing to compare")
    if notebook != refresh_notebooks.clean(copy.deepcopy(notebook)):
        found.append("holds metadata that changes from run to run")
    for number, cell in enumerate(notebook.cells):
        texts = [cell.source, *(text_of(output) for output in cell.get("outputs", []))]
        here = list(image_problems(cell)) + (list(code_problems(cell)) if cell.cell_type == "code" else [])
        if any(re.search(MACHINE, text) for text in texts):
            here.append("a path of one machine")
        found += [f"cell {number}: {problem}" for problem in here]
    for cell, following in pairwise([*code, None]):
        if "nbval-ignore-output" in tags(cell) and not (
            following and prints(following) and "nbval-ignore-output" not in tags(following)
        ):
            found.append("an nbval-ignore-output cell must be followed by one that prints a fact that always holds")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    assert path.stat().st_size < 2_000_000
    assert not problems(notebook), f"{path.name}: mend it, then run `python scripts/refresh_notebooks.py`"


def test_there_are_notebooks_and_their_numbers_differ():
    assert NOTEBOOKS
    assert len({path.name[:2] for path in NOTEBOOKS}) == len(NOTEBOOKS)


# ------------------------------------------------------------------------------------------------ the checks themselves


def good_notebook():
    figure = {
        "text/plain": "A line that rises",
        "image/png": "iVBORw0KGgo=",
        "text/html": '<figure><img alt="A line that rises" src="data:image/png;base64,AA/tmp/="></figure>',
    }
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title\n\n```python\n# no heading\n```\n\n![a digit](digit.png)"),
            new_code_cell("print(1)", execution_count=1, outputs=[new_output("stream", name="stdout", text="1\n")]),
            new_markdown_cell("## Part"),
            new_code_cell(
                "show(figure)",
                execution_count=2,
                outputs=[new_output("display_data", figure), new_output("stream", name="stdout", text="mean 0.5\n")],
            ),
        ]
    )
    return refresh_notebooks.clean(notebook)


def set_source(number, source):
    return lambda notebook: notebook.cells[number].update(source=source)


def set_outputs(*outputs):
    return lambda notebook: notebook.cells[1].update(outputs=list(outputs))


def set_metadata(number, **entries):
    return lambda notebook: notebook.cells[number].metadata.update(entries)


def stdout(text):
    return new_output("stream", name="stdout", text=text)


MISTAKES = {
    "counts": (lambda notebook: notebook.cells[1].update(execution_count=7), "execution counts are not 1 .. n"),
    "stripped": (lambda notebook: notebook.cells[1].update(execution_count=None), "execution counts are not 1 .. n"),
    "widget state": (lambda notebook: notebook.metadata.update(widgets={}), "metadata that changes from run to run"),
    "kernel": (lambda notebook: notebook.metadata.kernelspec.update(name="mine"), "metadata that changes"),
    "time stamps": (set_metadata(1, execution={}), "metadata that changes from run to run"),
    "trust": (set_metadata(1, trusted=True), "metadata that changes from run to run"),
    "tag": (set_metadata(1, tags=["nbval-skip"]), "unknown tags ['nbval-skip']"),
    "ignored, the last": (set_metadata(3, tags=["nbval-ignore-output"]), "must be followed by one that prints a fact"),
    "comment": (set_source(1, "# NBVAL_IGNORE_OUTPUT\n1"), "an nbval comment"),
    "semicolon": (set_source(1, "plot(x);"), "ends in a semicolon"),
    "semicolon, comment": (set_source(1, "plot(x);  # why"), "ends in a semicolon"),
    "error": (set_outputs(stdout("1"), new_output("error", ename="E", evalue="", traceback=[])), "a stored error"),
    "stderr": (set_outputs(stdout("1"), new_output("stream", name="stderr", text="warning")), "on stderr"),
    "path": (set_outputs(stdout("saved in /home/somebody/x")), "a path of one machine"),
    "path on Windows": (set_outputs(stdout(r"C:\Users\somebody")), "a path of one machine"),
    "path in source": (set_source(1, "open('/tmp/x')"), "a path of one machine"),
    "two titles": (set_source(2, "# Part"), "one H1"),
    "no title": (set_source(0, "## Title"), "one H1"),
    "skipped level": (set_source(2, "### Part"), "a level is skipped"),
    "Markdown alt": (set_source(2, "![](digit.png)"), "a Markdown picture without alt text"),
    "HTML alt": (set_source(2, '<img src="digit.png">'), "an <img> without alt text"),
    "empty alt": (set_source(2, '<img alt="" src="digit.png">'), "an <img> without alt text"),
    "bare figure": (
        set_outputs(
            stdout("1"), new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 1x1>"})
        ),
        "use show(figure, alt=...)",
    ),
    "no text form": (
        set_outputs(stdout("1"), new_output("display_data", {"image/png": "AA=="})),
        "without a text form",
    ),
    "no fact": (lambda notebook: notebook.cells[3].outputs.pop(), "no printed fact beside it"),
}


def test_a_good_notebook_has_no_problems():
    assert problems(good_notebook()) == []
    lab = good_notebook()  # its own text is compared, so it needs no printed fact beside it
    lab.cells[3].outputs.pop()
    lab.cells[3].outputs[0].data["text/plain"] = "A 3. 0 dB (Run this cell to move the controls.)"
    assert problems(lab) == []
    followed = good_notebook()
    followed.cells[1].metadata.tags = ["nbval-ignore-output"]
    assert problems(followed) == []


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_each_mistake_is_found(change, message):
    notebook = good_notebook()
    change(notebook)
    assert any(message in problem for problem in problems(notebook)), problems(notebook)


# ------------------------------------------------------------------------------------------------- the refresh script


def test_refresh_runs_cleans_and_repeats_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = tmp_path / "01_small.ipynb"
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("import os\nprint(os.getenv('MPLBACKEND') == 'Agg', os.listdir() == ['01_small.ipynb'])"),
            new_code_cell("import ipywidgets\nipywidgets.IntSlider(value=3)", metadata={"tags": ["hide-input"]}),
            new_code_cell("for i in range(3):\n    print(i, flush=True)", metadata={"trusted": True}),
        ]
    )
    nbformat.write(notebook, path)
    assert refresh_notebooks.main([str(path)]) == 0
    first = path.read_bytes()
    stored = nbformat.reads(first.decode(), as_version=4)
    assert problems(stored) == []
    assert stored.cells[1].outputs == [stdout("False True\n")]
    assert stored.cells[2].metadata == {"tags": ["hide-input"]}
    assert list(stored.cells[2].outputs[0].data) == ["text/plain"]
    assert stored.cells[3].outputs == [stdout("0\n1\n2\n")]
    assert [cell.id for cell in stored.cells] == [cell.id for cell in notebook.cells]
    assert refresh_notebooks.main([str(path)]) == 0
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [path.name]


def test_refresh_leaves_a_failing_notebook_as_it_was(tmp_path, capsys):
    path = tmp_path / "01_broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert refresh_notebooks.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert "01_broken.ipynb: left as it was, because a cell failed" in capsys.readouterr().err


def test_refresh_names_a_notebook_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        refresh_notebooks.main([str(tmp_path / "none.ipynb")])
    assert "there is no notebook" in capsys.readouterr().err


def test_nbval_fails_a_cell_that_is_stopped_at_the_limit(tmp_path):
    """Also one that ends politely when it is stopped, and whatever comes after it, good or bad."""
    polite = "try:\n    while True: pass\nexcept KeyboardInterrupt:\n    print('stopped')"
    cells = [new_code_cell(source, execution_count=number) for number, source in enumerate(["1", polite, "2", "3"])]
    cells[1].outputs = [new_output("stream", name="stdout", text="stopped\n")]
    for number, cell in ((0, cells[0]), (2, cells[2])):
        cell.outputs = [new_output("execute_result", {"text/plain": cell.source}, execution_count=number)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "polite.ipynb")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "nbval_sanitize.cfg", tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=3", "-q"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "3 failed, 1 passed" in result.stdout, result.stdout
