"""``make test`` runs the first mutant of each attack; all of them run in ``test_the_kill_matrix``."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if "_mutant" in test:
            if test in seen:
                item.add_marker(pytest.mark.full)
            seen.add(test)
