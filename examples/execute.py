"""Run the notebooks of ``examples/notebooks`` and keep what they showed.

    python -m examples.execute          # all of them, from their .py (jupytext, percent format)

The ``.py`` is what people edit and review; the ``.ipynb`` beside it is the same cells with their outputs.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent / "notebooks"


def sources() -> list[Path]:
    """Return the notebooks that there are, as the files people edit."""
    return sorted(NOTEBOOKS.glob("*.py"))


def executed(source: Path, *, timeout: int = 600) -> NotebookNode:
    """Run a notebook in a fresh kernel and return it with its outputs.

    Args:
        source: a ``.py`` in jupytext's percent format.
        timeout: seconds that one cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook: NotebookNode = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem}-{number}"  # The same in every run, so that only outputs ever differ.
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(source.parent)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # wall-clock times
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    """Write the ``.ipynb`` of every notebook."""
    for source in sources():
        jupytext.write(executed(source), source.with_suffix(".ipynb"))
        print(source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
