"""The notebook in `examples/` runs from its first cell to its last."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "digits.ipynb"


def printed(cell) -> str:
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    return "".join(output.get("text", "") + "".join(output.get("data", {}).values()) for output in shown)


def test_the_notebook_runs(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert len(said) <= 10 and "suggested rates" in said[2] and "report.html" in said[4]
    (result,) = (output for output in notebook.cells[7].outputs if output["output_type"] == "execute_result")
    metrics = ast.literal_eval(result["data"]["text/plain"])
    assert metrics["test"][0] > 0.85
    assert "digits - digits-plain" in said[6]
    assert "'predicted'" in said[7]
    assert (tmp_path / "runs" / "comparison.html").is_file()
