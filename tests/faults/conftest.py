"""One federation for the tests of a file: what a test breaks is mended before the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.world import World


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world") / "w") as world:
        yield world


@pytest.fixture
def world(lasting: World) -> Iterator[World]:
    """Whose processes all run, and on which no run is under way."""
    yield lasting
    lasting.mend()


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A federation that the test may ruin."""
    with World(tmp_path_factory.mktemp("own") / "w") as world:
        yield world
