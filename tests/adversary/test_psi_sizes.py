"""Attack ``psi_sizes``: read how many records a party has, or how many are shared, off the sizes of messages.

The coordinator carries what it cannot read, and counts bytes. Sets of one bucket, whatever they share, must
look alike to it."""

from __future__ import annotations

import pytest

from secagg.psi.terms import Reveal
from tests.psi.parties import parties

# 289 to 304 records are one bucket; so many shared that a number takes more bytes where it is written short.
PAIRS = [
    (range(290), range(290)),
    (range(300), range(290, 594)),
    (range(304), range(0, 580, 2)),
    (range(289), range(162, 460)),
]
REVEALS: list[Reveal] = ["both", "receiver", "count"]


def seen(mine: range, theirs: range, reveal: Reveal) -> list[tuple[str, int]]:
    both = parties(mine, theirs, reveal=reveal)
    both.run()
    return [(kind.__name__, size) for kind, size in both.sizes]


def test_psi_sizes() -> None:
    for reveal in REVEALS:
        views = [seen(mine, theirs, reveal) for mine, theirs in PAIRS]
        assert len(views[0]) == (4 if reveal == "count" else 5)
        assert views == views[:1] * len(views), "sizes tell two pairs of sets from each other"


def bare(size: int) -> int:
    """Pad nothing."""
    return size


def test_psi_sizes_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    # What one party does not pad the other refuses, so neither does and neither looks.
    monkeypatch.setattr("secagg.psi.sets.padded", bare)
    monkeypatch.setattr("secagg.psi.tags.padded", bare)
    with pytest.raises(AssertionError, match="sizes tell"):
        test_psi_sizes()
