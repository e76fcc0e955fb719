"""Attack ``psi_sizes``: read how many records a party has, or how many are shared, off the sizes of messages.

The coordinator carries what it cannot read, and counts bytes. Sets of one bucket, whatever they share, must
look alike to it: between two parties and among several, where it also sees who says what to whom."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest

from secagg.errors import FaultySilo
from secagg.messages import Said
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.psi.identifiers import Identifiers
from secagg.psi.many.leader import Asked, LeaderSession
from secagg.psi.many.messages import Shared
from secagg.psi.many.terms import ManyReveal
from secagg.psi.outcome import Outcome
from secagg.psi.tags import TAG_SIZE
from secagg.psi.terms import Reveal
from tests.psi.parties import parties
from tests.psi.sessions_of_many import meet
from tests.psi.test_many import terms_of

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


# --- of many ------------------------------------------------------------------------------------------------

# Sizes as above. All parties together share nearly all, nothing, and something.
FAMILIES: Sequence[Sequence[range]] = [
    [range(290), range(300), range(304), range(289), range(296)],
    [range(300), range(1000, 1290), range(150, 450), range(2000, 2304), range(291)],
    [range(289), range(100, 404), range(50, 350), range(80, 380), range(0, 580, 2)],
]
MANY: list[tuple[str, ManyReveal]] = [("abc", "all"), ("abc", "leader"), ("abcde", "all")]


def seen_of_many(
    names: str, sets: Sequence[range], reveal: ManyReveal
) -> list[tuple[SiloId, SiloId, str, int]]:
    """Return who said what to whom, and how long it was."""
    said: list[tuple[SiloId, SiloId, str, int]] = []

    def heard(sender: SiloId, to: SiloId, message: Said, size: int) -> None:
        said.append((sender, to, type(message).__name__, size))

    with suppress(FaultySilo):  # What is not padded is refused; it was sent all the same.
        meet(terms_of(names, reveal=reveal), dict(zip(names, sets, strict=False)), heard)
    return said


def test_psi_sizes_of_many() -> None:
    for names, reveal in MANY:
        views = [seen_of_many(names, sets, reveal) for sets in FAMILIES]
        assert views == views[:1] * len(views), "sizes tell families of sets from each other"
        followers = len(names) - 1
        introduced = followers * (followers + 1)
        assert len(views[0]) == introduced + 3 * followers + (followers if reveal == "all" else 0)


def as_they_are(identifiers: Identifiers, _random: RandomSource) -> list[bytes]:
    return list(identifiers.encoded)


_learned = LeaderSession._learned


def told_bare(self: LeaderSession, state: Asked) -> tuple[Outcome, Shared | None]:
    """Tell the tags of what all have, and none beside; one if there is none, since no payload is empty."""
    outcome, shared = _learned(self, state)
    if shared is None:
        return outcome, None
    tags = shared.tags.array()[: TAG_SIZE * max(1, outcome.count)]
    return outcome, Shared(shared.key, Payload.of(np.ascontiguousarray(tags)))


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.psi.many.leader.LeaderSession._learned", told_bare),
        ("secagg.psi.many.leader.with_padding", as_they_are),
        ("secagg.psi.many.follower.with_padding", as_they_are),
    ],
)
def test_psi_sizes_of_many_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: object) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="sizes tell families"):
        test_psi_sizes_of_many()
