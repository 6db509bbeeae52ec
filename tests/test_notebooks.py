"""The notebooks run from top to bottom, hold no code of their own, and are committed without
outputs.
"""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 20


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Reads a notebook as it is committed."""
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_bare(path: Path) -> None:
    notebook = read_notebook(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.source.strip(), f"{cell.id}: an empty cell"
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, (
                f"{cell.id}: outputs; run nbstripout"
            )
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_define_nothing(path: Path) -> None:
    """What deserves a name lives in the package; a notebook uses its public names, in short cells
    with a text each.
    """
    cells = read_notebook(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    for before, cell in pairwise(cells):
        if cell.cell_type != "code":
            continue
        assert before.cell_type == "markdown", f"{cell.id}: code without a text before it"
        assert len(cell.source.splitlines()) <= LONGEST_CELL, f"{cell.id}: a long cell"
        for node in ast.walk(ast.parse(cell.source)):
            defines = isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
            )
            assert not defines, f"{cell.id}: defines something"
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names), (
                    f"{cell.id}: imports a private name"
                )


def test_volume_to_score_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PYTHONPATH", str(REPOSITORY)),
        ("CUDA_VISIBLE_DEVICES", ""),
        ("OMP_NUM_THREADS", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the notebook's files go with the test's
    notebook = read_notebook(REPOSITORY / "notebooks" / "volume_to_score.ipynb")
    notebook.cells.append(new_code_cell("import json\nprint(json.dumps(score))"))
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    score = json.loads(notebook.cells[-1].outputs[0].text)
    assert list(score) == ["spine", "liver", "aorta", "lung nodule"]
    assert all(0 <= dice <= 1 for dice in score.values()) and max(score.values()) > 0.5
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2, (
        "the windows and the contact sheet"
    )
    table = [output.text for output in outputs if "all slices" in output.get("text", "")]
    assert len(table) == 1 and "lung nodule" in table[0]
