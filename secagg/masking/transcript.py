"""What both halves of masking derive from the messages: digests, signed fields and stream keys.

Every value is bound to the one before it: the descriptor to the terms, the session to every silo's nonce,
the round to the announced share sets. Silos that were told different things share nothing from there on.

Source: "One round" and "Derivations" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from secagg.hazmat.agreement import AgreementKey, hkdf
from secagg.hazmat.framing import Field, digest
from secagg.messages import KeyBundle, ShareSet
from secagg.names import SiloId

Kind: TypeAlias = Literal["seed", "mask"]

ADVERTISE = "advertise keys"
SHARE = "share keys"


def descriptor_digest(training: bytes, attempt: int, seconds: float) -> bytes:
    """Return the digest of one attempt: the terms, by their digest, and what differs between attempts."""
    return digest("descriptor", training, attempt, seconds)


def bundle_fields(descriptor: bytes, silo: SiloId, bundle: KeyBundle) -> tuple[Field, ...]:
    """Return what a silo signs in AdvertiseKeys."""
    return descriptor, silo, bundle.box, bundle.mask, bundle.nonce


def session_id(descriptor: bytes, bundles: Iterable[tuple[SiloId, KeyBundle]]) -> bytes:
    """Return H(descriptor, every bundle in roster order): fresh because every silo's nonce is in it."""
    return digest(
        "session", descriptor, tuple((silo, b.box, b.mask, b.nonce, b.signature) for silo, b in bundles)
    )


def seed_commitment(session: bytes, dealer: SiloId, seed: bytes) -> bytes:
    """Return the dealer's commitment to its self-mask seed (the seed itself is 32 uniform bytes)."""
    return digest("seed", session, dealer, seed)


def share_commitment(
    session: bytes, dealer: SiloId, recipient: SiloId, kind: Kind, share: bytes, salt: bytes
) -> bytes:
    """Return the salted commitment to one share."""
    return digest("share", session, dealer, recipient, kind, share, salt)


def box_digest(box: bytes) -> bytes:
    """Return the digest by which a dealer signs a sealed box."""
    return digest("box", box)


def share_set_fields(session: bytes, dealer: SiloId, share_set: ShareSet) -> tuple[Field, ...]:
    """Return what a dealer signs in ShareKeys.

    The mask key is in it so that evidence against a dealer never needs its key bundle: an old bundle
    beside a new share set must not frame an honest dealer.
    """
    entries = tuple(
        (e.recipient, e.seed_commitment, e.mask_commitment, e.seed_box, e.mask_box) for e in share_set.entries
    )
    return session, dealer, share_set.mask, share_set.seed, entries


def round_id(session: bytes, share_sets: Iterable[tuple[SiloId, ShareSet]]) -> bytes:
    """Return H(session, U2, digest of every announced share set), in roster order."""
    announced = tuple(
        (dealer, digest("share set", *share_set_fields(session, dealer, s))) for dealer, s in share_sets
    )
    return digest("round", session, announced)


def box_key(
    own: AgreementKey, peer: bytes, session: bytes, *, sender: SiloId, recipient: SiloId, kind: Kind
) -> bytes:
    """Return the key of one box; direction and kind are in it, so that no key ever seals twice."""
    return own.derive(peer, "share box", session, sender, recipient, kind)


def self_stream(seed: bytes, round_id: bytes, silo: SiloId) -> bytes:
    """Return the stream key of a silo's own mask."""
    return hkdf(seed, "self mask", round_id, silo)


def pair_stream(own: AgreementKey, peer: bytes, round_id: bytes, *, lower: SiloId, higher: SiloId) -> bytes:
    """Return the stream key of a pair; the ids are in roster order, so both sides derive the same."""
    return own.derive(peer, "pairwise mask", round_id, lower, higher)
