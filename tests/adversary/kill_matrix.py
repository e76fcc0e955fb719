"""A pytest plugin for ``tests/test_threat_model.py``: writes down what mutants patch, or keeps them from it.

In a run with ``KILL_MATRIX=record`` every ``test_*_mutant`` patches product symbols as usual; with
``KILL_MATRIX=spare`` the product stays as it is, and one case of each test is run. Patched symbols and
outcomes go to ``KILL_MATRIX_FILE``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_setattr = pytest.MonkeyPatch.setattr


def _write(*line: str) -> None:
    with Path(os.environ["KILL_MATRIX_FILE"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _symbol(target: object, name: object) -> str:
    """Return the dotted name of what ``monkeypatch.setattr(target, name, ...)`` replaces."""
    if isinstance(target, str):
        return target
    module = getattr(target, "__module__", None)
    owner = f"{module}.{getattr(target, '__qualname__', '')}" if module else getattr(target, "__name__", "")
    return f"{owner}.{name}"


def _watched(patch: pytest.MonkeyPatch, target: Any, name: Any, *rest: Any, **named: Any) -> None:
    symbol = _symbol(target, name)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    ours = symbol.startswith(("secagg.", "silo.", "coordinator."))
    if not ours or not test.partition("[")[0].endswith("_mutant"):
        _setattr(patch, target, name, *rest, **named)
        return
    _write("patched", test, symbol)
    if os.environ["KILL_MATRIX"] == "record":
        _setattr(patch, target, name, *rest, **named)


def pytest_configure() -> None:
    """Watch every patch from here on."""
    pytest.MonkeyPatch.setattr = _watched  # type: ignore[method-assign, assignment]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run one case of each test where all would be alike."""
    if os.environ["KILL_MATRIX"] == "spare":
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
        items[:] = first.values()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how each test ended."""
    if report.when == "call":
        _write(report.outcome, report.nodeid, "")
