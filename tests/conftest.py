"""What every test shares: Hypothesis profiles, and which tests begin.

``make test`` draws the same few examples every time, so that it fails for the change at hand only;
``make test-full`` draws many new ones and prints the line that reproduces a failure.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.counts import FULL

# The machine is shared and rounds are real: slowness is measured in benchmarks/, never judged here.
_SLOW = (HealthCheck.too_slow,)

settings.register_profile(
    "reduced", max_examples=20, derandomize=True, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile(
    "full",
    max_examples=200,
    derandomize="CI" in os.environ,  # a gate judges the change at hand; new examples are for people
    print_blob=True,
    deadline=None,
    suppress_health_check=_SLOW,
)
settings.load_profile("full" if FULL else "reduced")

LONGEST = (
    "test_the_kill_matrix",
    "test_together_beats_every_hospital_alone",
    "test_double_reveal",
    "test_he_mismatch",
)
"""Each case runs for minutes in ``make test-full``: begun last, it would leave other workers idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.nodeid.partition("[")[0].rpartition("::")[2] not in LONGEST)
