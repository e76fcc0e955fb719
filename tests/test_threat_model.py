"""The tables of docs/threat-model.md hold: each attack has a test, which its mutants make fail."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ADVERSARY = ROOT / "tests" / "adversary"
PAGE = ROOT / "docs" / "threat-model.md"


@dataclass(frozen=True)
class Row:
    """One attack of the tables.

    Attributes:
        name: of the attack; its test is ``tests/adversary/test_NAME.py``.
        cells: what the attacker does, what must happen.
        test: path of the test file, as the page links it.
        mutants: product symbols that the mutants patch.
    """

    name: str
    cells: tuple[str, ...]
    test: str
    mutants: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        link = re.fullmatch(r"\[`(\w+)`\]\((\S+)\)", cells[0])
        if line.startswith("|") and link is not None:
            mutants = re.findall(r"`([\w.]+)`", cells[-1])
            symbols = tuple(m if m.startswith(("coordinator.", "silo.")) else f"secagg.{m}" for m in mutants)
            found.append(Row(link[1], tuple(cells[1:-1]), link[2], symbols))
    return found


ROWS = rows()


def resolve(symbol: str) -> object:
    """Return the object of a dotted name; AttributeError or ModuleNotFoundError if there is none."""
    parts = symbol.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(symbol)


def test_the_page_has_its_tables() -> None:
    names = [row.name for row in ROWS]
    assert len(names) > 20
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_row_has_a_test_and_its_mutants(row: Row) -> None:
    assert len(row.cells) == 2
    assert all(row.cells), "the row does not say what is attacked, or what must happen"
    assert row.mutants, "the row names no mutant"
    path = ADVERSARY / f"test_{row.name}.py"
    assert (PAGE.parent / row.test).resolve() == path.resolve()
    text = path.read_text(encoding="utf-8")
    tests = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert {f"test_{row.name}", f"test_{row.name}_mutant"} <= tests
    for symbol in row.mutants:
        assert resolve(symbol) is not None
        assert symbol.rpartition(".")[2] in text, f"{symbol} is not what the mutant patches"


def test_every_attack_has_a_row() -> None:
    tests = {path.stem.removeprefix("test_") for path in ADVERSARY.glob("test_*.py")}
    assert tests == {row.name for row in ROWS}, "docs/threat-model.md and tests/adversary differ"


@pytest.mark.full
@pytest.mark.parametrize("mode", ["record", "spare"])
def test_the_kill_matrix(mode: str, tmp_path: Path) -> None:
    """Each mutant is killed by its test; each of these tests fails if the product is spared the mutant."""
    file = tmp_path / "matrix"
    environment = {**os.environ, "KILL_MATRIX": mode, "KILL_MATRIX_FILE": str(file), "SECAGG_FULL": ""}
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.adversary.kill_matrix", "-p", "no:xdist"),
            *("-p", "no:cacheprovider", "tests/adversary", "-k", "_mutant"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    everywhere: defaultdict[str, set[str]] = defaultdict(set)  # attack -> what mutants of its file patch
    named: defaultdict[str, set[str]] = defaultdict(set)  # attack -> what those of its own test patch
    outcomes: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        kind, test, symbol = json.loads(line)
        path, _, case = test.partition("::")
        if not case.partition("[")[0].endswith("_mutant"):
            continue
        if kind != "patched":
            outcomes[test] = kind
            continue
        attack = Path(path).stem.removeprefix("test_")
        everywhere[attack].add(symbol)
        if case.partition("[")[0] == f"test_{attack}_mutant":
            named[attack].add(symbol)
    expected = "passed" if mode == "record" else "failed"
    assert [test for test, outcome in outcomes.items() if outcome != expected] == []
    # A helper may patch more than the row says, to clear the way for the attack.
    missing = {row.name: named[row.name] - set(row.mutants) for row in ROWS}
    invented = {row.name: set(row.mutants) - everywhere[row.name] for row in ROWS}
    assert all(named[row.name] for row in ROWS), "mutants patch nothing of the product"
    assert {name: symbols for name, symbols in missing.items() if symbols} == {}
    if mode == "record":
        assert {name: symbols for name, symbols in invented.items() if symbols} == {}
