"""Attack ``psi_order``: learn which records are shared, or where they stand, from places and not from values.

A receiver that is to learn a number only takes evaluated points for those at the same places of its query. A
sender that is told which records are shared reads in what order the receiver keeps them from the places that
they have in the query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secagg.messages import Said
from secagg.names import RandomSource
from secagg.psi.messages import NOWHERE, Evaluated, Matched, Revealed, Tags
from secagg.psi.receiver import Asked
from secagg.psi.tags import TAG, tags_of
from tests.psi.parties import parties

BANK = [str(number) for number in range(1000, 1100)]
INSURER = [str(number) for number in range(1050, 1150)]
SHARED = set(range(50, 100))


def guessed_by_the_receiver() -> set[int]:
    """Return which of its rows are shared, if evaluated points stand where the query's stood."""
    both = parties(BANK, INSURER, reveal="count")
    query = both.receiver.open()
    asked = both.receiver._state
    assert isinstance(asked, Asked)
    evaluated, tags = both.sender.receive(query)
    assert isinstance(evaluated, Evaluated)
    assert isinstance(tags, Tags)
    points = both.receiver._powers.of_points(evaluated.points.array().tobytes(), asked.exponent.inverse)
    theirs = set(tags.tags.array().view(TAG).tolist())
    mine = tags_of(points, both.receiver._terms.digest).tolist()
    return {int(asked.order[place]) for place, tag in enumerate(mine) if tag in theirs}


def in_order_for_the_sender() -> float:
    """Return how often a shared record stands in the query behind the one before it in the bank's rows.

    The insurer's rows of shared records are in the bank's order, so the insurer reckons this too.
    """
    told: list[Revealed] = []

    def watch(said: Said) -> Said:
        told.extend([said] if isinstance(said, Revealed) else [])
        return said

    both = parties(BANK, INSURER, change=watch)
    both.run()
    outcome = both.sender.outcome
    assert outcome is not None
    assert outcome.rows is not None
    # What the sender has: the tag that each evaluated point matched, and its place in the query.
    (matches,) = [np.frombuffer(payload, np.uint32) for kind, _, payload in both.said if kind is Matched]
    shared = np.flatnonzero(matches)
    by_tag = told[0].places.array()[shared[np.argsort(matches[shared])]].astype(np.int64)
    assert len(by_tag) == len(SHARED)
    assert by_tag.max() < NOWHERE
    return float((np.diff(by_tag[np.argsort(outcome.rows)]) > 0).mean())


def test_psi_order() -> None:
    # By chance half of those that it takes for shared are.
    assert len(guessed_by_the_receiver() & SHARED) < 42, "who is to learn a number learns which"
    assert 0.2 < in_order_for_the_sender() < 0.8, "the sender learns in what order the receiver's rows are"


def as_they_stand(size: int, _random: RandomSource) -> np.ndarray[Any, Any]:
    return np.arange(size)


@pytest.mark.parametrize(
    ("defence", "found"),
    [
        ("secagg.psi.sender.random_order", "learns which"),
        ("secagg.psi.receiver.random_order", "in what order"),
    ],
)
def test_psi_order_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, found: str) -> None:
    monkeypatch.setattr(defence, as_they_stand)
    with pytest.raises(AssertionError, match=found):
        test_psi_order()
