"""Attack ``psi_dictionary``: look identifiers up that can be guessed, in what crosses the wire.

Customer numbers are few, and everybody can hash all of them. The attacker (the coordinator, or a party after
its session) does, and looks for the points, for their tags and for the identifiers themselves in every frame;
it also looks for what two sessions over the same sets have in common, which would link records over time, and
for the one bit that tells a point of the curve from one of its twist, which no exponent hides."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

import pytest

from secagg.errors import PolicyRefused
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points
from secagg.names import RandomSource
from secagg.psi.identifiers import read_identifiers
from secagg.psi.messages import Evaluated, Query, Tags
from secagg.psi.powers import SUITE, Powers
from secagg.psi.tags import TAG_SIZE, tags_of
from tests.psi.parties import Parties, parties

FIELD = 2**255 - 19
BANK = [f"customer-{number}" for number in range(80)]
INSURER = [f"customer-{number}" for number in range(40, 120)]


def chunks(data: bytes, size: int) -> set[bytes]:
    """Return every run of ``size`` bytes of ``data`` that begins where a point or tag could."""
    return {data[at : at + size] for at in range(len(data) - size + 1)}


def guesses(session: bytes) -> Iterator[bytes]:
    """Return what an attacker who knows the terms makes of all identifiers there are."""
    known = read_identifiers(BANK + INSURER[40:]).encoded
    points = hash_to_points(known, SUITE + session)
    tags = tags_of(points, session).tobytes()
    yield from (points[at : at + POINT_SIZE] for at in range(0, len(points), POINT_SIZE))
    yield from (tags[at : at + TAG_SIZE] for at in range(0, len(tags), TAG_SIZE))
    yield from (hashlib.sha256(each).digest() for each in known)


def on_curve(point: bytes) -> bool:
    u = int.from_bytes(point, "little")
    return pow(u**3 + 486662 * u**2 + u, (FIELD - 1) // 2, FIELD) == 1


def check(first: Parties, second: Parties) -> None:
    for session in (first, second):
        digest = session.receiver._terms.digest
        for _, header, payload in session.said:
            frame = header + payload
            seen = chunks(frame, POINT_SIZE) | chunks(frame, TAG_SIZE)
            assert not seen & set(guesses(digest)), "an identifier is found by guessing"
            assert b"customer" not in frame.lower(), "an identifier is there in clear"
        sides = {
            on_curve(payload[at : at + POINT_SIZE])
            for kind, _, payload in session.said
            if kind in {Query, Evaluated}
            for at in range(0, len(payload), POINT_SIZE)
        }
        assert sides == {True}, "a masked identifier shows whether it is on the twist"
    points, others = (
        set(
            chain.from_iterable(
                chunks(payload, POINT_SIZE)
                for kind, _, payload in each.said
                if kind in {Query, Evaluated, Tags}
            )
        )
        for each in (first, second)
    )
    assert not points & others, "two sessions show the same records"


def test_psi_dictionary() -> None:
    # One name of a session for both, so that exponents are all that makes them differ.
    sessions = [parties(BANK, INSURER, reveal="receiver", session=bytes(32)) for _ in range(2)]
    for each in sessions:
        with suppress(PolicyRefused):  # What is broken may match nothing; the attacker saw it all the same.
            each.run()
    check(*sessions)
    assert all(len(each.said) == 5 for each in sessions)


def unmasked(_: Powers, messages: Sequence[bytes], terms: bytes, _exponent: Exponent) -> bytes:
    """Leave the exponent out."""
    return hash_to_points(messages, SUITE + terms)


def hashed_to_x(messages: Sequence[bytes], tag: bytes) -> bytes:
    """Take a hash for a u-coordinate."""
    hashes = (bytearray(hashlib.sha256(tag + each).digest()) for each in messages)
    return b"".join(bytes(each[:-1]) + bytes([each[-1] & 0x7F]) for each in hashes)


class Constant(Exponent):
    """An exponent that is not drawn for a session."""

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> Exponent:
        return _ONE


_ONE = Exponent.generate()


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.psi.powers.Powers.of_messages", unmasked, "found by guessing"),
        ("secagg.psi.workers.hash_to_points", hashed_to_x, "on the twist"),
        ("secagg.psi.receiver.Exponent", Constant, "two sessions show the same records"),
        ("secagg.psi.sender.Exponent", Constant, "two sessions show the same records"),
    ],
)
def test_psi_dictionary_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: object, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_psi_dictionary()
