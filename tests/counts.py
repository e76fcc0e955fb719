"""How often a test repeats: few times in ``make test``, every time in ``make test-full``."""

from __future__ import annotations

import os

FULL = os.environ.get("SECAGG_FULL") == "1"


def count(reduced: int, *, full: int) -> int:
    """Return ``full`` in ``make test-full`` (``SECAGG_FULL=1``), otherwise ``reduced``."""
    return full if FULL else reduced
