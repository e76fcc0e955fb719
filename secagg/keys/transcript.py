"""What all sides of a ceremony derive from its messages: digests, what is signed, the keys of boxes.

A ceremony is named by the digest of what the coordinator asked for, its fresh nonce included; a request of a
silo that lacks a key, by the digest of what it asked. Every signature and every box is bound to that.
"""

from __future__ import annotations

from secagg.errors import MalformedMessage
from secagg.hazmat.agreement import AgreementKey, check_point
from secagg.hazmat.framing import digest
from secagg.hazmat.identity import IdentityKey, verify
from secagg.keys.document import KeyDocument
from secagg.messages import KeyRequested, SignedKey
from secagg.names import SiloId
from secagg.roster import Roster

SEALING_KEY = "sealing key"
KEY_TAKEN = "key taken"


def ceremony_digest(requested: KeyRequested) -> bytes:
    """Return 32 bytes that stand for every field of ``requested``."""
    return digest(
        "key ceremony",
        requested.federation,
        requested.roster,
        requested.scheme,
        requested.size,
        requested.threshold,
        requested.maker,
        requested.nonce,
        requested.lifetime,
        requested.replaces,
    )


def request_digest(roster: Roster, key: bytes, joiner: SiloId, nonce: bytes) -> bytes:
    """Return 32 bytes that stand for what a silo that lacks a key asks; ``nonce`` is its own."""
    return digest("key wanted", roster.digest, key, joiner, nonce)


def sign_sealing_key(
    identity: IdentityKey, ceremony: bytes, silo: SiloId, key: AgreementKey, nonce: bytes
) -> SignedKey:
    """Return the public half of ``key``, signed for one ceremony or request."""
    return SignedKey(key.public, nonce, identity.sign(SEALING_KEY, ceremony, silo, key.public, nonce))


def sealing_fault(roster: Roster, ceremony: bytes, silo: SiloId, sealing: SignedKey) -> str | None:
    """Return what is wrong with a fresh key that is said to be of ``silo``, or None."""
    fields = ceremony, silo, sealing.key, sealing.nonce
    if silo not in roster or not verify(roster.key(silo), sealing.signature, SEALING_KEY, *fields):
        return "its sealing key is not signed by the pinned identity for this ceremony"
    try:
        check_point(sealing.key)
    except MalformedMessage:
        return "its sealing key is malformed or of low order"
    return None


def sign_taken(identity: IdentityKey, document: KeyDocument) -> bytes:
    """Return a silo's signature (64 bytes) over the key that it holds from now on."""
    return identity.sign(KEY_TAKEN, document.ceremony, document.digest)


def is_taken(roster: Roster, silo: SiloId, document: KeyDocument, signature: bytes) -> bool:
    """Whether ``signature`` says that ``silo``, a member, holds the key of ``document``."""
    return verify(roster.key(silo), signature, KEY_TAKEN, document.ceremony, document.digest)


def box_key(
    own: AgreementKey, peer: bytes, ceremony: bytes, key: bytes, *, giver: SiloId, recipient: SiloId
) -> bytes:
    """Return the key of one box; both ends, their direction and the key inside are bound into it."""
    return own.derive(peer, "key box", ceremony, key, giver, recipient)
