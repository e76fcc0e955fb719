"""Attack ``psi_order``: learn which records are shared, or where they stand, from places and not from values.

A receiver that is to learn a number only takes evaluated points for those at the same places of its query. A
sender that is told which records are shared reads in what order the receiver keeps them from the places that
they have in the query.

Of many, a follower reads in what order the leader's records are from the places of the tags that it is
told, and looks for identifiers at the places of the query. The leader may read nothing of the order of a
follower's: of two that draw the same and have one set in two orders it must hear the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import wire
from secagg.hazmat.curve import POINT_SIZE, hash_to_points
from secagg.messages import Said
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.psi.draws import SEED_SIZE, Seeded
from secagg.psi.identifiers import read_identifiers
from secagg.psi.many import leader as many_leader
from secagg.psi.many.follower import shared_tags
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.messages import Shared
from secagg.psi.messages import NOWHERE, Evaluated, Matched, Query, Revealed, Tags
from secagg.psi.okvs import SEED_SIZE as TABLE_SEED_SIZE
from secagg.psi.okvs import Words, encode
from secagg.psi.outcome import Outcome
from secagg.psi.powers import SUITE
from secagg.psi.receiver import Asked
from secagg.psi.tags import TAG, tags_of
from tests.adversary.mutants import BareExponent
from tests.psi.parties import parties
from tests.psi.sessions_of_many import meet
from tests.psi.test_many import terms_of

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


# --- of many ------------------------------------------------------------------------------------------------

FAMILY: Mapping[SiloId, Sequence[str]] = {
    "a": BANK,
    "b": INSURER,
    "c": [str(number) for number in range(1150, 1000, -1)],
    "d": [str(number) for number in range(1030, 1130)],
    "e": [*INSURER[30:], *INSURER[:30]],
}
MANY = ("abc", "abcde")


def followed(names: str) -> tuple[float, int]:
    """Return what the second party learns of the leader's rows.

    Returns:
        How often the tag of a shared record stands behind that of the one before it in the leader's rows; how
        many of all identifiers are found in the query.
    """
    terms, told = terms_of(names), []

    def heard(_sender: SiloId, to: SiloId, message: Said, _size: int) -> None:
        told.extend([message] if to == "b" else [])

    meet(terms, FAMILY, heard)
    (shared,) = [each for each in told if isinstance(each, Shared)]
    mine = shared_tags(
        shared.key, read_identifiers(INSURER)
    )  # Those that are shared are in the bank's order.
    places = {tag: place for place, tag in enumerate(shared.tags.array().view(TAG).tolist())}
    shown = [places[tag] for tag in mine.tolist() if tag in places]
    assert len(shown) == len(SHARED)
    (query,) = [each for each in told if isinstance(each, Query)]
    points = hash_to_points(read_identifiers(BANK).encoded, SUITE + terms.digest)
    asked = set(query.points.array().view(f"S{POINT_SIZE}").tolist())
    guessed = np.frombuffer(points, f"S{POINT_SIZE}").tolist()
    return float((np.diff(shown) > 0).mean()), len(asked.intersection(guessed))


def said_by_one(names: str, rows: Sequence[str]) -> list[bytes]:
    """Return what the second party says to the leader, if all is drawn as it was before."""
    said: list[bytes] = []

    def heard(sender: SiloId, to: SiloId, message: Said, _size: int) -> None:
        if (sender, to) == ("b", "a"):
            header, payload = wire.encode(message)
            said.append(header + (b"" if payload is None else bytes(payload[:])))

    draws = {name: Seeded(name.encode() * SEED_SIZE) for name in names}
    meet(terms_of(names, session=bytes(32)), {**FAMILY, "b": rows}, heard, draws=draws)
    return said


def test_psi_order_of_many() -> None:
    for names in MANY:
        in_order, found = followed(names)
        assert not found, "a follower finds the leader's records at their places in the query"
        assert 0.2 < in_order < 0.8, "a follower learns in what order the leader's rows are"
        first, second = (said_by_one(names, rows) for rows in (INSURER, INSURER[::-1]))
        assert len(first) == 3
        assert first == second, "the leader can tell in what order a follower's rows are"


_learned = LeaderSession._learned


def told_in_order(self: LeaderSession, state: many_leader.Asked) -> tuple[Outcome, Shared | None]:
    """Tell tags in the order of the leader's rows, before those that pad."""
    outcome, shared = _learned(self, state)
    assert shared is not None
    told = shared.tags.array().view(TAG)
    mine = shared_tags(shared.key, self._identifiers)
    tags = np.concatenate([mine[np.isin(mine, told)], told[~np.isin(told, mine)]])
    return outcome, Shared(shared.key, Payload.of(tags.view(np.uint8)))


def in_any_order(_sender: SiloId, payload: Payload, _policy: object) -> NDArray[np.bytes_]:
    return payload.array().view(TAG)


def filled_with_rows(keys: Sequence[bytes], values: Words, *, random: RandomSource) -> tuple[bytes, Words]:
    """Leave values of rows, one after the other, where no key decides."""

    def rows(size: int) -> bytes:
        return (values.tobytes() * (1 + size // values.nbytes))[:size]

    return encode(keys, values, random=lambda size: random(size) if size == TABLE_SEED_SIZE else rows(size))


@pytest.mark.parametrize(
    ("defences", "found"),
    [
        (
            {"leader.LeaderSession._learned": told_in_order, "follower.as_tags": in_any_order},
            "follower learns",
        ),
        ({"leader.Exponent": BareExponent}, "a follower finds"),
        ({"follower.encode": filled_with_rows}, "the leader can tell"),
    ],
)
def test_psi_order_of_many_mutant(
    monkeypatch: pytest.MonkeyPatch, defences: Mapping[str, object], found: str
) -> None:
    for defence, mutant in defences.items():
        monkeypatch.setattr(f"secagg.psi.many.{defence}", mutant)
    with pytest.raises(AssertionError, match=found):
        test_psi_order_of_many()
