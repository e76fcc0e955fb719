"""A handshake opens a channel between the two silos that mean each other, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from secagg import wire
from secagg.channel.end import Channel, Opened, Reply
from secagg.channel.handshake import Offering
from secagg.channel.messages import Finished, Offer, Proof
from secagg.errors import FaultySiloOrCoordinator, UsageError
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.roster import Roster
from tests.channel.ends import IDENTITIES, LARGEST, ROSTER, SILOS, Pair, channel, ends, pair, received, sealed


def proofs(one: Channel, other: Channel) -> tuple[bytes, bytes]:
    """Exchange offers and return both proofs."""
    answers = one.receive(other.first), other.receive(one.first)
    mine, theirs = (answer.data for answer in answers if isinstance(answer, Reply))
    return mine, theirs


def test_both_ends_open_whoever_speaks_first() -> None:
    one, other = channel("bank", "insurer"), channel("insurer", "bank")
    answer = other.receive(one.first)
    assert isinstance(answer, Reply)
    mine = one.receive(other.first)
    assert isinstance(mine, Reply)
    assert isinstance(one.receive(answer.data), Opened)
    assert one.open
    assert not other.open
    early = sealed(one, (b"first", None))
    assert isinstance(other.receive(mine.data), Opened)
    assert len(received(other, early)) == 1


def test_no_two_channels_have_a_key_in_common() -> None:
    """Forward secrecy: what is kept, the identities, derives nothing; each channel has keys of its own."""
    first, second = pair(), pair()
    assert first.one.first != second.one.first
    (record,) = sealed(first.one, (b"frame", None))
    assert sealed(second.one, (b"frame", None)) != [record]
    for end in (first.one, first.other):
        held = [end._state, end._sealer, getattr(end._state, "opener", None)]
        assert not any(isinstance(value, AgreementKey | Offering) for value in held)


def test_nothing_is_sealed_before_the_other_end_is_known_or_after_the_last_word() -> None:
    one = channel("bank", "insurer")
    with pytest.raises(UsageError, match="before it is open"):
        one.seal(Finished())
    other = channel("insurer", "bank")
    one.receive(other.first)
    with pytest.raises(UsageError, match="before it is open"):
        one.seal(Finished())
    both = pair()
    both.one.seal(Finished())
    assert not both.one.open
    with pytest.raises(UsageError, match="after the last word"):
        both.one.seal(Finished())


OTHER_ROSTER = Roster.of({**dict(ROSTER.members), "shop": IdentityKey.from_private_bytes(bytes(32)).public})


@pytest.mark.parametrize(
    "change",
    [
        {"meeting": "credit-2027"},
        {"parties": ("bank", "insurer")},
        {"parties": ("insurer", "bank", "shop")},
        {"roster": OTHER_ROSTER},
    ],
    ids=["meeting", "parties", "order", "roster"],
)
def test_ends_that_do_not_agree_do_not_open(change: dict[str, Any]) -> None:
    one, other = channel("bank", "insurer"), channel("insurer", "bank", **change)
    mine, theirs = proofs(one, other)
    for end, proof, named in ((one, theirs, "insurer"), (other, mine, "bank")):
        with pytest.raises(FaultySiloOrCoordinator, match="its signature is not one over this") as caught:
            end.receive(proof)
        assert caught.value.silo == named
        assert not end.open


def test_a_silo_is_taken_for_nobody_else() -> None:
    """Mutual authentication: an end whose identity is another one's does not open."""
    one = channel("bank", "insurer")
    stranger = Channel(ends("insurer", "bank"), IDENTITIES["shop"], largest=LARGEST)
    _, theirs = proofs(one, stranger)
    with pytest.raises(FaultySiloOrCoordinator, match="insurer"):
        one.receive(theirs)


def test_a_key_is_shared_with_nobody_unknown() -> None:
    """A silo that colludes with the coordinator cannot let the insurer take the bank's words for its own."""
    bank, insurer = channel("bank", "insurer"), channel("insurer", "shop")
    theirs, mine = proofs(insurer, bank)
    with pytest.raises(FaultySiloOrCoordinator, match="shop"):
        insurer.receive(mine)
    with pytest.raises(FaultySiloOrCoordinator, match="insurer"):
        bank.receive(theirs)
    insurer = channel("insurer", "shop")
    answer = insurer.receive(bank.first)
    assert isinstance(answer, Reply)
    forged = IDENTITIES["shop"].sign(
        "channel", ends("shop", "insurer").transcript(b"", b""), "shop", "insurer"
    )
    with pytest.raises(FaultySiloOrCoordinator, match="shop"):
        insurer.receive(wire.encode(Proof(forged))[0])


def test_an_old_proof_opens_nothing() -> None:
    old = channel("insurer", "bank")
    _, proof = proofs(channel("bank", "insurer"), old)
    one = channel("bank", "insurer")
    one.receive(old.first)
    with pytest.raises(FaultySiloOrCoordinator, match="its signature"):
        one.receive(proof)


def test_what_an_end_sent_is_not_taken_back() -> None:
    one = channel("bank", "insurer")
    with pytest.raises(FaultySiloOrCoordinator, match="this silo's own key back"):
        one.receive(one.first)
    one, other = channel("bank", "insurer"), channel("insurer", "bank")
    mine, _ = proofs(one, other)
    with pytest.raises(FaultySiloOrCoordinator, match="its signature"):
        one.receive(mine)


def low_order() -> bytes:
    return wire.encode(Offer(bytes(32)))[0]


@pytest.mark.parametrize(
    "first",
    [
        low_order,
        lambda: b"",
        lambda: b"\x01\xc1",
        lambda: wire.encode(Proof(bytes(64)))[0],
        lambda: bytes(4096),
    ],
    ids=["low order", "nothing", "garbage", "proof", "zeros"],
)
def test_what_is_no_offer_ends_the_channel(first: Callable[[], bytes]) -> None:
    one = channel("bank", "insurer")
    with pytest.raises(FaultySiloOrCoordinator) as caught:
        one.receive(first())
    assert caught.value.silo == "insurer"
    with pytest.raises(FaultySiloOrCoordinator, match="after its end"):
        one.receive(channel("insurer", "bank").first)


def test_a_second_offer_is_not_due() -> None:
    one, other = channel("bank", "insurer"), channel("insurer", "bank")
    one.receive(other.first)
    with pytest.raises(FaultySiloOrCoordinator, match="its Proof of the handshake was due"):
        one.receive(other.first)


def test_every_pair_of_a_meeting_opens() -> None:
    for mine in SILOS:
        for other in SILOS:
            if mine != other:
                Pair(channel(mine, other), channel(other, mine)).shake_hands()


def test_nothing_is_shown() -> None:
    both = pair()
    shown = " ".join(map(repr, (both.one._state, Offering.begin(ends("bank", "insurer")), Offer(bytes(32)))))
    assert "Key(" in shown or "_key" not in shown
    assert bytes(32).hex() not in shown
    assert "\\x00" not in shown
