"""What docs/wire.md says of meetings, held against the product: messages, numbers, keys made by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coordinator import meetings
from secagg import wire
from secagg.channel.end import Channel, Reply
from secagg.channel.messages import MAX_DATA, MAX_RECORD, Begin, Inside, Offer, Proof, Reason
from secagg.channel.relay import (
    MAX_FRAME,
    MAX_PARTIES,
    MEETINGS,
    OVERHEAD,
    RESERVE,
    WINDOW,
    FromParty,
    FromRelay,
)
from secagg.link.options import KEEPALIVE, KEEPALIVE_TIMEOUT
from tests.adversary import reference
from tests.channel.ends import IDENTITIES, LARGEST, ROSTER, SILOS, channel, ends

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## Meetings of silos")[2]
SCALAR = bytes(range(32))


def rows(title: str) -> dict[str, tuple[str, ...]]:
    """Return message -> its fields, of the table that begins with ``title``."""
    lines = SECTION.partition(f"| {title} |")[2].splitlines()[2:]
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, fields, _ = (cell.strip() for cell in line.strip("|").split("|"))
        found[name] = tuple(field.split()[0] for field in fields.split(", ") if field)
    return found


@pytest.mark.parametrize(
    ("title", "kinds"),
    [("From a silo", FromParty), ("From the coordinator", FromRelay), ("Inside", Inside)],
    ids=["silo", "coordinator", "inside"],
)
def test_messages_are_those_of_the_page(title: str, kinds: Any) -> None:
    assert rows(title) == {kind.__name__: kind.__struct_fields__ for kind in get_args(kinds)}


def test_numbers_are_those_of_the_page() -> None:
    assert f"`/{MEETINGS}/Join`" in SECTION
    assert SECTION.lstrip().startswith("Two to ten silos")
    assert MAX_PARTIES == 10
    text = " ".join(SECTION.split())
    for said in (
        f"at most {MAX_FRAME} bytes",
        f"1 to {MAX_RECORD} bytes",
        f"the next 1 to {MAX_DATA} of its bytes",
        f"costs its bytes and {OVERHEAD} more",
        f"the last {RESERVE} of that",
        f"cost {WINDOW // 2**20} MiB may be under way",
        f"in {meetings.MAX_MEETINGS_OF_ONE} meetings at a time",
        f"{meetings.MAX_MEETINGS} meetings, and {meetings.MAX_PAIRS} pairs",
        f"{KEEPALIVE} seconds after its last byte",
        f"for {KEEPALIVE_TIMEOUT} more",
        f"after {KEEPALIVE + KEEPALIVE_TIMEOUT} seconds",
    ):
        assert said in text, said
    assert set(re.findall(r"`([a-z' ]+)`", rows_text("Stopped"))) == set(get_args(Reason))


def rows_text(name: str) -> str:
    return next(line for line in SECTION.splitlines() if line.startswith(f"| {name} |")).rpartition(
        "| I stop"
    )[2]


def test_a_handshake_and_a_record_are_those_of_the_page() -> None:
    mine, other = "bank", "insurer"
    theirs = channel(other, mine)
    own = Channel(ends(mine, other), IDENTITIES[mine], largest=LARGEST, random=lambda _: SCALAR)
    key, peer = reference.public(SCALAR), wire.decode_as(theirs.first, None, Offer).ephemeral
    assert wire.decode_as(own.first, None, Offer).ephemeral == key

    transcript = reference.sha256(
        reference.framed(
            "channel transcript", ROSTER.digest, "credit-2026", SILOS, ((mine, key), (other, peer))
        )
    )
    answer = own.receive(theirs.first)
    assert isinstance(answer, Reply)
    signature = wire.decode_as(answer.data, None, Proof).signature
    signed = reference.framed("channel", transcript, mine, other)
    Ed25519PublicKey.from_public_bytes(ROSTER.key(mine)).verify(signature, signed)

    back = theirs.receive(own.first)
    assert isinstance(back, Reply)
    own.receive(back.data)
    agreed = reference.x25519(SCALAR, peer)
    begin = Begin(3, None, b"abc")
    for number in range(3):
        sealing = reference.hkdf(agreed, reference.framed("channel records", transcript, mine, other, 32))
        assert own.seal(begin) == AESGCM(sealing).encrypt(
            number.to_bytes(12, "big"), wire.encode(begin)[0], None
        )
    opening = reference.hkdf(agreed, reference.framed("channel records", transcript, other, mine, 32))
    theirs.receive(answer.data)
    record = theirs.seal(begin)
    assert AESGCM(opening).decrypt(bytes(12), record, None) == wire.encode(begin)[0]
