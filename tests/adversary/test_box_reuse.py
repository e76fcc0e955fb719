"""Attack ``box_reuse``: find two sealed boxes under one key.

The nonce is constant, so two boxes under one key differ as their contents do: whoever knows one share reads
the other, and can forge. Every box has a key of its own by derivation, whatever a coordinator replays.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from secagg.errors import MalformedMessage
from secagg.hazmat.agreement import AgreementKey, seal, unseal
from secagg.hazmat.identity import IdentityKey
from secagg.masking import transcript
from secagg.masking.dealing import deal
from secagg.masking.transcript import Kind
from secagg.names import SiloId
from secagg.roster import Roster
from tests.adversary.reference import Tape

SILOS = tuple(f"silo-{i}" for i in range(8))
IDENTITIES = {silo: IdentityKey.generate(Tape(silo)) for silo in SILOS}
ROSTER = Roster.of({silo: identity.public for silo, identity in IDENTITIES.items()})
# The worst case for the derivation: keys that should be fresh are the same in all sessions.
BOXES = {silo: AgreementKey.generate(Tape("box " + silo)) for silo in SILOS}
SESSIONS = (bytes(32), bytes(31) + b"\x01")
KINDS: tuple[Kind, ...] = ("seed", "mask")


def sealed_boxes() -> list[tuple[bytes, bytes]]:
    """Return (contents, box) of everything that is sealed when all silos deal, in two sessions."""
    made: list[tuple[bytes, bytes]] = []
    for number, session in enumerate(SESSIONS):
        for dealer in SILOS:
            dealt = deal(
                session=session,
                dealer=dealer,
                identity=IDENTITIES[dealer],
                box=BOXES[dealer],
                mask=AgreementKey.generate(),
                seed=bytes([number]) * 32,
                peers={silo: key.public for silo, key in BOXES.items()},
                roster=ROSTER,
                threshold=6,
                random=Tape(f"{number} {dealer}"),
            )
            for recipient, *boxes in dealt.boxes:
                for kind, box in zip(KINDS, boxes, strict=True):
                    key = transcript.box_key(
                        BOXES[recipient],
                        BOXES[dealer].public,
                        session,
                        sender=dealer,
                        recipient=recipient,
                        kind=kind,
                    )
                    made.append((unseal(key, box), box))
    return made


def read_across(made: list[tuple[bytes, bytes]]) -> int:
    """Attack: count the pairs of boxes of which one opens the other, the tags aside."""
    size = len(made[0][0])
    boxes = [(int.from_bytes(plain, "big"), int.from_bytes(box[:size], "big")) for plain, box in made]
    # Under one key and nonce, box xor contents is the same keystream.
    return sum(1 for (p, b), (q, d) in combinations(boxes, 2) if p ^ b == q ^ d)


def opened_elsewhere() -> list[tuple[Any, ...]]:
    """Attack: hand every box on as another one: other kind, direction, recipient or session."""

    def key(session: bytes, sender: SiloId, recipient: SiloId, kind: Kind, holder: SiloId) -> bytes:
        other = sender if holder == recipient else recipient
        return transcript.box_key(
            BOXES[holder], BOXES[other].public, session, sender=sender, recipient=recipient, kind=kind
        )

    found: list[tuple[Any, ...]] = []
    for one, other in combinations(SILOS[:3], 2):
        places = [
            (session, sender, recipient, kind)
            for session in SESSIONS
            for sender, recipient in ((one, other), (other, one))
            for kind in KINDS
        ]
        for place in places:
            box = seal(key(*place, holder=place[1]), b"share and salt")
            for claimed in places:
                try:
                    opened = unseal(key(*claimed, holder=claimed[2]), box) == b"share and salt"
                except MalformedMessage:
                    opened = False
                if opened != (place == claimed):
                    found.append((place, claimed))
    return found


def test_box_reuse() -> None:
    made = sealed_boxes()
    assert len(made) == len(SESSIONS) * len(KINDS) * len(SILOS) * (len(SILOS) - 1)
    assert read_across(made) == 0, "two boxes have one key"
    assert opened_elsewhere() == [], "a box opens as another one"


def box_key(*fields: str, session: bool = True, ordered: bool = True) -> Any:
    """Return a derivation that leaves something out."""

    def derive(
        own: AgreementKey, peer: bytes, session_id: bytes, *, sender: SiloId, recipient: SiloId, kind: Kind
    ) -> bytes:
        pair = (sender, recipient) if ordered else sorted((sender, recipient))
        named = {"sender": pair[0], "recipient": pair[1], "kind": kind}
        context = [named[field] for field in fields]
        return own.derive(peer, "share box", session_id if session else b"", *context)

    return derive


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.masking.transcript.box_key", box_key("sender", "recipient")),
        ("secagg.masking.transcript.box_key", box_key("sender", "recipient", "kind", ordered=False)),
        ("secagg.masking.transcript.box_key", box_key("kind")),
        ("secagg.masking.transcript.box_key", box_key("sender", "recipient", "kind", session=False)),
        ("secagg.masking.transcript.box_key", lambda *_, **__: bytes(32)),
    ],
)
def test_box_reuse_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="two boxes have one key"):
        test_box_reuse()
