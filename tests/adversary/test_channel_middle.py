"""Attack ``channel_middle``: a coordinator in the middle of two silos that shake hands.

It puts keys of its own in the place of theirs, to read what they say. It answers for a silo with what that
said in another handshake: of an earlier incarnation, another meeting, other parties, or under another roster.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg import wire
from secagg.channel.end import Channel, Reply
from secagg.channel.handshake import Ends
from secagg.channel.messages import Begin, Offer
from secagg.errors import FaultySiloOrCoordinator
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.framing import digest
from secagg.hazmat.identity import IdentityKey
from secagg.roster import Roster
from tests.channel.ends import ROSTER, Pair, channel, ends, frames, received, sealed

OTHER_ROSTER = Roster.of({**dict(ROSTER.members), "shop": IdentityKey.from_private_bytes(bytes(32)).public})
SECRET = b"what the bank tells the insurer"


def reply(event: object) -> bytes:
    assert isinstance(event, Reply)
    return event.data


def swapped_keys() -> bytes:
    """Attack: put one key in the place of both; return what is then read of a record of the bank."""
    bank, insurer = channel("bank", "insurer"), channel("insurer", "bank")
    middle = AgreementKey.generate()
    theirs = wire.decode_as(bank.first, None, Offer).ephemeral
    offer = wire.encode(Offer(middle.public))[0]
    proof_of_bank, proof_of_insurer = reply(bank.receive(offer)), reply(insurer.receive(offer))
    try:
        bank.receive(proof_of_insurer)
        insurer.receive(proof_of_bank)
    except FaultySiloOrCoordinator:
        return b""
    (record,) = sealed(bank, (SECRET, None))
    transcript = ends("insurer", "bank").transcript(middle.public, theirs)
    key = middle.derive(theirs, "channel records", transcript, "bank", "insurer")
    return read(key, record)


def read(key: bytes, record: bytes) -> bytes:
    """Open a record with a key that was derived in the middle."""
    begin = wire.decode_as(AESGCM(key).decrypt(bytes(12), record, None), None, Begin)
    return bytes(begin.data)


def replayed_handshake() -> list[bytes]:
    """Attack: answer for the insurer with all that it said in an earlier incarnation; return what is said."""
    old = Pair(channel("bank", "insurer"), channel("insurer", "bank"))
    said = [old.other.first, reply(old.other.receive(old.one.first))]
    bank = channel("bank", "insurer")
    return spoken_to(bank, said)


def spoken_to(end: Channel, said: list[bytes]) -> list[bytes]:
    """Give an end what another one said; return what it then seals for it."""
    try:
        for data in said:
            end.receive(data)
    except FaultySiloOrCoordinator:
        return []
    return sealed(end, (SECRET, None))


def joined(**change: Any) -> bool:
    """Attack: join two ends that mean different things; tell whether one hears the other."""
    one, other = channel("bank", "insurer"), channel("insurer", "bank", **change)
    try:
        both = Pair(one, other).shake_hands()
    except FaultySiloOrCoordinator:
        return False
    return bool(frames(received(both.other, sealed(both.one, (SECRET, None)))))


def test_channel_middle() -> None:
    assert swapped_keys() != SECRET, "the coordinator reads what silos say"
    assert not replayed_handshake(), "a silo speaks to what was said before"
    assert not joined(meeting="another"), "two meetings are joined"
    assert not joined(parties=("bank", "insurer")), "two lists of parties are joined"
    assert not joined(roster=OTHER_ROSTER), "two rosters are joined"


def without(*left_out: str) -> Any:
    """Return ``Ends.transcript`` with something left out of it."""

    def transcript(self: Ends, mine: bytes, other: bytes) -> bytes:
        keys = {self.mine: mine, self.other: other}
        fields: dict[str, Any] = {
            "roster": self.roster.digest,
            "meeting": self.meeting,
            "parties": self.parties,
            "keys": tuple((party, keys[party]) for party in sorted(keys)),
        }
        return digest(
            "channel transcript", *(value for name, value in fields.items() if name not in left_out)
        )

    return transcript


def anything(*_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.channel.handshake.verify", anything, "reads what silos say"),
        ("secagg.channel.handshake.Ends.transcript", without("keys"), "reads what silos say"),
        ("secagg.channel.handshake.Ends.transcript", without("meeting"), "two meetings are joined"),
        ("secagg.channel.handshake.Ends.transcript", without("parties"), "two lists of parties"),
        ("secagg.channel.handshake.Ends.transcript", without("roster"), "two rosters"),
    ],
    ids=["signature", "keys", "meeting", "parties", "roster"],
)
def test_channel_middle_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_channel_middle()
