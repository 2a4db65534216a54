"""The notebook of the docs, in a kernel of its own, with a Hub on the loopback interface."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
from helpers.hub_server import hub_server
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "headlines.ipynb"
# Rows of each class.
ROWS = "sample(60"
# The gate in the same process: `test_push` has it in a fresh one.
SETUP = "from helpers import gate, python_examples; gate.run_here()"
# Nobody sees the plots of the folds.
FOLDS, BEFORE_FOLDS = "cross_val_score(", "python_examples.without_plots()"


def test_notebook(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "outputs would be stale"
    for cell in notebook.cells:
        cell.source = cell.source.replace("your-name/", "tester/")
    if "DOCS_NOTEBOOKS" not in os.environ:  # the site shows the outputs of all rows
        frame = next(cell for cell in notebook.cells if ROWS in cell.source)
        frame.source = frame.source.replace(ROWS, "sample(25")
    folds = next(number for number, cell in enumerate(notebook.cells) if FOLDS in cell.source)
    notebook.cells.insert(folds, nbformat.v4.new_code_cell(BEFORE_FOLDS))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    with hub_server() as hub:
        paths = [str(NOTEBOOK.parents[1]), str(NOTEBOOK.parents[1] / "tests")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = inherited | hub.environment(tmp_path / "cache") | {"PYTHONPATH": os.pathsep.join(paths)}
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}})
        client.execute(env=environment)
        assert hub.repo("tester/headlines") is not None
    shown = {cell.source.splitlines()[-1]: cell.outputs for cell in notebook.cells if cell.get("outputs")}
    assert "<table" in shown["clf.result"][-1].data["text/html"]
    assert shown['clf.predict("Shares fall as the price of oil rises")'][-1].data["text/plain"] == "'business'"
    assert shown['again.predict("Shares fall as the price of oil rises")'][-1].data["text/plain"] == "'business'"
    if "DOCS_NOTEBOOKS" in os.environ:
        save(notebook, Path(os.environ["DOCS_NOTEBOOKS"]), hub.endpoint)
    scores = re.findall(
        r"\d\.\d*", shown['cross_val_score(estimator, frame["text"], frame["label"], cv=2)'][-1].data["text/plain"]
    )
    assert len(scores) == 2 and min(map(float, scores)) > 0.5


def save(notebook: nbformat.NotebookNode, folder: Path, endpoint: str) -> None:
    """Write the notebook with its outputs for the site, which then shows no others."""
    notebook.cells = [cell for cell in notebook.cells if cell.source not in (SETUP, BEFORE_FOLDS)]
    text = nbformat.writes(notebook).replace(endpoint, "https://huggingface.co").replace("tester/", "your-name/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTEBOOK.name).write_text(text, encoding="utf-8")
