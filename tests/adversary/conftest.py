"""``make test`` runs the first mutant of each quick attack; ``test_the_kill_matrix`` runs all mutants."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROCESSES = {"test_secret_scan", "test_canary_weights", "test_size_limits", "test_garbage_on_the_wire"}
"""Attacks on processes or on long vectors, which take tens of seconds."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        # Pytest asks about tests of all folders, among them those that look at mutants.
        if item.path.parent == HERE and "_mutant" in test:
            if test in seen or item.path.stem in PROCESSES:
                item.add_marker(pytest.mark.full)
            seen.add(test)
