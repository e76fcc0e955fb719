"""The examples that people copy: the README's ten lines and the notebooks, run as they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from examples.execute import executed, sources

ROOT = Path(__file__).parents[1]
TEN_LINES = ROOT / "examples" / "ten_lines.py"
OPENED = re.compile(r"^(?:round +\d+/10|final) +6 of 6 silos .*accuracy (0\.\d+)", re.MULTILINE)


def accuracies(text: str) -> list[float]:
    return [float(value) for value in OPENED.findall(text)]


def code(source: Path) -> str:
    """Return the code cells of a notebook as one script."""
    return "\n".join(cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code")


@pytest.mark.full
def test_the_ten_lines_learn(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", TEN_LINES],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    measured = accuracies(done.stdout)
    assert len(measured) == 11
    assert measured[-1] > 0.6 > 0.3 > measured[0]
    assert "10 rounds completed: Masking, 6 silos" in done.stdout
    assert "no differential privacy" in done.stdout


def test_ten_lines_are_ten_statements() -> None:
    assert len(ast.parse(TEN_LINES.read_text("utf-8")).body) == 10


def test_the_notebook_of_the_ten_lines_is_the_ten_lines() -> None:
    notebook = code(ROOT / "examples" / "notebooks" / "ten_lines.py")
    assert ast.dump(ast.parse(notebook)) == ast.dump(ast.parse(TEN_LINES.read_text("utf-8")))


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)
def test_a_kept_notebook_has_the_cells_of_its_source_and_their_outputs(source: Path) -> None:
    kept = jupytext.read(source.with_suffix(".ipynb"))
    written = [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == written, "run python -m examples.execute"
    assert any(cell.get("outputs") for cell in kept.cells)
    assert str(ROOT) not in source.with_suffix(".ipynb").read_text("utf-8")


@pytest.mark.full
@pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)
def test_a_notebook_runs(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = executed(source)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a reader sees no warning"
    shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len(accuracies(shown)) == 11
