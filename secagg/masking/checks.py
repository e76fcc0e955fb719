"""What both halves check of a silo's signed messages. A fault is a text; each half decides whom it blames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secagg.errors import MalformedMessage
from secagg.fixedpoint import Encoding
from secagg.hazmat.agreement import AgreementKey, check_point
from secagg.hazmat.identity import verify
from secagg.hazmat.shamir import combine, lagrange
from secagg.masking import transcript
from secagg.messages import DealerEvidence, KeyBundle, Opening, ShareEntry, ShareSet
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.roster import Roster


def bundle_fault(roster: Roster, descriptor: bytes, silo: SiloId, bundle: KeyBundle) -> str | None:
    """Return what is wrong with the keys that ``silo`` advertised for an attempt, or None."""
    fields = transcript.bundle_fields(descriptor, silo, bundle)
    if not verify(roster.key(silo), bundle.signature, transcript.ADVERTISE, *fields):
        return "its keys are not signed by the pinned identity for this attempt"
    try:
        check_point(bundle.box)
        check_point(bundle.mask)
    except MalformedMessage:
        return "advertised a malformed or low-order public key"
    return None


def share_set_fault(
    roster: Roster, session: bytes, dealer: SiloId, share_set: ShareSet, peers: Mapping[SiloId, KeyBundle]
) -> str | None:
    """Return what is wrong with a dealer's commitments for ``peers`` (U1 in roster order), or None."""
    fields = transcript.share_set_fields(session, dealer, share_set)
    if not verify(roster.key(dealer), share_set.signature, transcript.SHARE, *fields):
        return "its share set is not signed by the pinned identity for this session"
    if share_set.mask != peers[dealer].mask:
        return "shares another mask key than it advertised"
    if tuple(entry.recipient for entry in share_set.entries) != tuple(peers):
        return "its share set is not for the silos whose keys were announced"
    return None


def input_fault(encoding: Encoding, vector: Payload) -> str | None:
    """Return what is wrong with the form of a masked vector, whose last entry is the count, or None."""
    word, length = np.dtype(encoding.dtype).str[1:], encoding.length + 1
    if (vector.dtype, vector.length) != (word, length):
        return f"its masked vector is {vector.dtype} of {vector.length} entries, not {word} of {length}"
    return None


def opening_matches(
    session: bytes, dealer: SiloId, entry: ShareEntry, kind: transcript.Kind, opening: Opening
) -> bool:
    """Whether ``opening`` opens the commitment of ``kind`` in ``entry``."""
    commitment = entry.seed_commitment if kind == "seed" else entry.mask_commitment
    return commitment == transcript.share_commitment(
        session, dealer, entry.recipient, kind, opening.share, opening.salt
    )


def secret_matches(
    session: bytes, dealer: SiloId, share_set: ShareSet, kind: transcript.Kind, secret: bytes
) -> bool:
    """Whether a recovered secret is the one that the dealer committed to or advertised."""
    match kind:
        case "seed":
            return transcript.seed_commitment(session, dealer, secret) == share_set.seed
        case "mask":
            return AgreementKey.from_private_bytes(secret).public == share_set.mask


def recover(
    session: bytes,
    dealer: SiloId,
    share_set: ShareSet,
    kind: transcript.Kind,
    weights: tuple[int, ...],
    shares: list[bytes],
) -> bytes | None:
    """Return the dealer's secret from t matching shares, or None if they are not shares of it."""
    try:
        secret = combine(weights, shares)
    except MalformedMessage:
        return None
    return secret if secret_matches(session, dealer, share_set, kind, secret) else None


def proves(evidence: DealerEvidence, roster: Roster, *, threshold: int) -> bool:
    """Whether ``evidence`` proves that its dealer shared something else than it committed to.

    Guarantees:
        An honest dealer is never convicted: its signature covers one share set a session, and t of its
        own shares give its own secret.
    """
    dealer, share_set = evidence.dealer, evidence.share_set
    if dealer not in roster:
        return False
    fields = transcript.share_set_fields(evidence.session, dealer, share_set)
    if not verify(roster.key(dealer), share_set.signature, transcript.SHARE, *fields):
        return False
    entries = {entry.recipient: entry for entry in share_set.entries}
    openings = dict(evidence.openings)
    if len(openings) != threshold or len(evidence.openings) != threshold:
        return False
    if not all(
        silo in roster
        and silo in entries
        and opening_matches(evidence.session, dealer, entries[silo], evidence.kind, opening)
        for silo, opening in openings.items()
    ):
        return False
    weights = lagrange([roster.slot(silo) + 1 for silo in openings])
    shares = [opening.share for opening in openings.values()]
    return recover(evidence.session, dealer, share_set, evidence.kind, weights, shares) is None
