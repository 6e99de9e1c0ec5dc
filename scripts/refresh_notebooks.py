"""Runs notebooks top to bottom on a fresh kernel and stores the outputs, without what changes from run to run.

    python scripts/refresh_notebooks.py [NOTEBOOK ...]        # default: all in notebooks/

Run it before every commit that touches a notebook or changes what one prints. If a cell fails, the file stays as it
was. A second run gives the same bytes as long as the outputs are the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def clean(notebook: NotebookNode) -> NotebookNode:
    """Removes, in place, what differs between two equal runs; returns the notebook.

    Gone are widget state and the random ids that point into it (what is left of a panel is its picture and its text,
    and a viewer shows these), time stamps, trust, fold marks and the version of Python.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
        }
    )
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)  # the first version whose cells have ids
    for cell in notebook.cells:
        cell.setdefault("id", uuid.uuid4().hex[:8])  # once there it stays
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
            if "metadata" in output:
                alt = {
                    kind: {"alt": own["alt"]}
                    for kind, own in output.metadata.items()
                    if isinstance(own, dict) and "alt" in own
                }
                output.metadata = nbformat.from_dict(alt)
    return notebook


def refresh(path: Path, timeout: int = 600) -> None:
    """Runs the notebook in its own folder, cleans it and replaces the file in one step."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,  # how print is cut into pieces is chance
    )
    client.execute()
    clean(notebook)
    nbformat.validate(notebook)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8", newline="\n")
    os.replace(unfinished, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run notebooks on a fresh kernel, clean them and store the outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all in notebooks/")
    paths = parser.parse_args(arguments).notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            parser.error(f"there is no notebook {path}")
    os.environ.pop("MPLBACKEND", None)  # the kernel inherits it, and "Agg" would swallow every figure
    failed = 0
    for path in paths:
        try:
            refresh(path.resolve())
            print(f"{path}: refreshed")
        except CellExecutionError as error:
            failed = 1
            print(f"{path}: left as it was, because a cell failed\n{error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
