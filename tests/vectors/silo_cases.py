"""Cases for a silo: the honest script, and what it refuses on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec.structs import replace

from secagg.masking import transcript
from secagg.messages import (
    FromCoordinator,
    KeyBundle,
    KeysAnnounced,
    RoundOpened,
    SharesAnnounced,
    ShareSet,
    SurvivorsAnnounced,
    VoidRequested,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.records import SetSigned, VoidSigned, encode_record
from secagg.survivors import sign_survivors
from tests.vectors import world
from tests.vectors.forging import (
    ANNOUNCED,
    LOW_ORDER,
    REQUESTED,
    ROUND,
    SESSION,
    SHARES,
    SUM,
    SURVIVORS,
    received,
    signed_bundle,
    signed_share_set,
)
from tests.vectors.notation import Json, fixed, flipped, write, write_frame
from tests.vectors.scripts import Script
from tests.vectors.world import HONEST, IDENTITIES, ROSTER, TERMS, TRAINING


def frame(message: FromCoordinator) -> Json:
    return {"receive": write_frame(message)}


def silo() -> Json:
    """Return the content of ``silo.json``: silo b of the honest attempt."""
    setup = {
        "silo": "b",
        "identity": IDENTITIES["b"].private_bytes(),
        "roster": ROSTER.members,
        "opened": write_frame(world.OPENED),
        "vector": world.VECTORS["b"].tobytes(),
        "data_set": world.DATA_SET,
        "journal": [],
        "random": HONEST.random["b"].drawn,
    }
    script = Script(
        "silo",
        "One silo in one attempt. Each step: a frame of the coordinator, the reply, what it syncs before.",
        write(setup),
        map(frame, HONEST.received["b"]),
    )
    _leave_at_keys(script)
    _leave_at_shares(script)
    _leave_at_unmasking(script)
    return script.content


def _leave_at_keys(script: Script) -> None:
    opened: RoundOpened = received("b", RoundOpened)

    def fails(name: str, after: int, message: FromCoordinator, error: str) -> None:
        script.leave(name, after, frame(message), expected=error)

    fails("terms that the silo was not told", 0, replace(opened, training=fixed("t")), "FaultyCoordinator")
    fails("keys before the attempt is opened", 0, ANNOUNCED, "UnexpectedMessage")
    fails("a sum before the attempt is opened", 0, SUM, "UnexpectedMessage")
    fails("the attempt is opened twice", 1, opened, "UnexpectedMessage")

    bundles = dict(ANNOUNCED.bundles)

    def announced(name: str, changed: Mapping[SiloId, KeyBundle] | tuple[Any, ...], error: str) -> None:
        pairs = tuple(changed.items()) if isinstance(changed, Mapping) else changed
        fails(name, 1, KeysAnnounced(pairs), error)

    a, b = bundles["a"], bundles["b"]
    pairs = ANNOUNCED.bundles
    announced("its own keys are missing", pairs[:1] + pairs[2:], "FaultyCoordinator")
    announced("its own keys are others", bundles | {"b": replace(b, nonce=fixed("n"))}, "FaultyCoordinator")
    announced("fewer than t silos", pairs[:2], "FaultyCoordinator")
    announced("another order", (pairs[1], pairs[0], *pairs[2:]), "FaultyCoordinator")
    announced("one silo twice", (pairs[0], *pairs), "FaultyCoordinator")
    announced("a stranger", (*pairs, ("stranger", a)), "FaultyCoordinator")
    both = "FaultySiloOrCoordinator"
    announced("a flipped bit", bundles | {"a": replace(a, nonce=flipped(a.nonce))}, both)
    announced("keys in each other's role", bundles | {"a": replace(a, box=a.mask, mask=a.box)}, both)
    announced("the keys of another silo", bundles | {"a": bundles["c"]}, both)
    later = transcript.descriptor_digest(TRAINING, 2, world.SECONDS)
    announced("keys of another attempt", bundles | {"a": signed_bundle("a", a, descriptor=later)}, both)
    low = signed_bundle("a", replace(a, mask=LOW_ORDER))
    announced("a signed mask key of low order", bundles | {"a": low}, both)
    second = signed_bundle("a", replace(a, box=b"\xff" * 32))
    announced("a signed box key in a second encoding", bundles | {"a": second}, both)


def _leave_at_shares(script: Script) -> None:
    sets, pairs, boxes = dict(SHARES.share_sets), SHARES.share_sets, SHARES.boxes

    def leaves(name: str, message: FromCoordinator, expected: str) -> None:
        script.leave(name, 2, frame(message), expected=expected)

    def announced(name: str, expected: str, **changed: Any) -> None:
        sent = {"share_sets": pairs, "boxes": boxes} | changed
        leaves(name, SharesAnnounced(**sent), expected)

    def dealt(
        name: str, expected: str, share_set: ShareSet, sealed: tuple[bytes, bytes] | None = None
    ) -> None:
        """Announce another share set of dealer a, and another box of a for this silo."""
        changed = boxes if sealed is None else tuple(("a", *sealed) if x[0] == "a" else x for x in boxes)
        announced(name, expected, share_sets=tuple((sets | {"a": share_set}).items()), boxes=changed)

    leaves("the survivors before the shares", SURVIVORS, "UnexpectedMessage")
    coordinator, both = "FaultyCoordinator", "FaultySiloOrCoordinator"
    announced("its own share set is missing", coordinator, share_sets=pairs[:1] + pairs[2:])
    announced("fewer than t share sets", coordinator, share_sets=pairs[:2], boxes=boxes[:1])
    announced("a box is missing", coordinator, boxes=boxes[1:])
    announced("a box twice", coordinator, boxes=(boxes[0], *boxes))
    dealt("a box that was not signed", coordinator, sets["a"], (boxes[0][1], flipped(boxes[0][2])))
    dealt("a flipped bit in a share set", both, replace(sets["a"], seed=flipped(sets["a"].seed)))
    dealt("the share set of another session", both, signed_share_set(fixed("s"), "a", sets["a"]))
    other_key = signed_share_set(SESSION, "a", replace(sets["a"], mask=dict(ANNOUNCED.bundles)["c"].mask))
    dealt("a mask key that was not advertised", both, other_key)
    fewer = signed_share_set(SESSION, "a", replace(sets["a"], entries=sets["a"].entries[:3]))
    dealt("a share set for fewer silos", both, fewer)

    # The dealer's own fault: it signed this box, and nobody but the recipient can see what is in it.
    junk = fixed("junk", 81)
    dealt("a signed box that does not open", "accepted", *_with_box("a", "b", junk))
    entry = next(e for e in sets["a"].entries if e.recipient == "b")
    wrong = replace(entry, seed_commitment=fixed("commitment"))
    entries = tuple(wrong if e.recipient == "b" else e for e in sets["a"].entries)
    broken = signed_share_set(SESSION, "a", replace(sets["a"], entries=entries))
    dealt("a signed box that holds something else", "accepted", broken)


def _with_box(dealer: SiloId, recipient: SiloId, box: bytes) -> tuple[ShareSet, tuple[bytes, bytes]]:
    """Return the dealer's share set with ``box`` as the signed seed box, and the boxes of the recipient."""
    share_set = dict(SHARES.share_sets)[dealer]
    entries = tuple(
        replace(e, seed_box=transcript.box_digest(box)) if e.recipient == recipient else e
        for e in share_set.entries
    )
    mask_box = next(mask for name, _, mask in SHARES.boxes if name == dealer)
    return signed_share_set(SESSION, dealer, replace(share_set, entries=entries)), (box, mask_box)


def _leave_at_unmasking(script: Script) -> None:
    def fails(name: str, after: int, message: FromCoordinator, error: str, **more: Any) -> None:
        script.leave(name, after, frame(message), expected=error, **more)

    fault = "FaultyCoordinator"

    def surviving(name: str, survivors: tuple[SiloId, ...]) -> None:
        fails(name, 3, SurvivorsAnnounced(ROUND, survivors), fault)

    surviving("a set without this silo", ("a", "c", "d"))
    surviving("a set with a stranger", ("a", "b", "stranger"))
    surviving("a silo twice", ("a", "b", "b"))
    surviving("fewer than max(t, k_min + c)", ("a", "b"))
    fails("another round", 3, replace(SURVIVORS, round_id=fixed("r")), fault)
    fails("unmasking before the set is signed", 3, REQUESTED, "UnexpectedMessage")

    locked = SetSigned(world.DATA_SET, TERMS.base, fixed("r"), fixed("s"), 3, ("a", "b", "d"), ROSTER.digest)
    journal = {"journal": write([encode_record(locked)])}
    fails("a base that is locked to another set", 3, SURVIVORS, "PolicyRefused", setup=journal)
    journal = {"journal": write([encode_record(VoidSigned(ROUND))])}
    fails("a round that was voided here", 3, SURVIVORS, "PolicyRefused", setup=journal)

    def requested(name: str, **changed: Any) -> None:
        fails(name, 4, replace(REQUESTED, **changed), fault)

    signatures = REQUESTED.signatures
    everyone = tuple(ROSTER.silos)
    foreign = tuple((s, sign_survivors(IDENTITIES[s], ROUND, everyone)) for s in ("a", "c"))
    requested("another set than the signed one", survivors=everyone)
    requested("the set in another order", survivors=("b", "a", "c"))
    requested("fewer than t signatures", signatures=signatures[:2])
    requested("one signature counted twice", signatures=(signatures[0], signatures[0], signatures[1]))
    requested("a signature over another set", signatures=(signatures[1], *foreign))
    dropped = (signatures[0], signatures[1], ("d", sign_survivors(IDENTITIES["d"], ROUND, ("a", "b", "c"))))
    requested("the signature of a silo outside the set", signatures=dropped)
    requested("another round in the request", round_id=fixed("r"))
    fails("the set is announced again", 4, SURVIVORS, "UnexpectedMessage")
    fails("unmasking is asked for twice", 5, REQUESTED, "UnexpectedMessage")

    def opened(name: str, **changed: Any) -> None:
        fails(name, 5, replace(SUM, **changed), fault)

    total = SUM.total.array()
    miscounted = total.copy()
    miscounted[-1] += 1
    opened("a count entry that is not |S|", total=Payload.of(miscounted))
    opened("a sum of another length", total=Payload.of(total[1:].copy()))
    opened("a sum of another word", total=Payload.of(total.astype(np.uint64)))
    opened("a sum without t signatures", signatures=signatures[:2])
    opened("a sum with a silo twice", survivors=("a", "b", "b"))
    opened("the sum of another round", round_id=fixed("r"))
    fails("the sum is announced twice", 6, SUM, "UnexpectedMessage")
    fails("a request to void goes to no session", 6, VoidRequested((ROUND,)), "UnexpectedMessage")
