"""Secrets on their way: sealed once under a fresh key, which is sealed to each silo; shares each in its box.

A box is bound to the ceremony, the key inside, giver and recipient through its key, and to every field of the
document. Its key is derived from X25519 keys that live for one ceremony or request.
"""

from __future__ import annotations

from dataclasses import dataclass

from secagg.errors import MalformedMessage
from secagg.hazmat.agreement import AgreementKey, seal, unseal
from secagg.keys.document import KeyDocument
from secagg.keys.transcript import box_key
from secagg.names import RandomSource, SiloId


@dataclass(frozen=True)
class Way:
    """From whom to whom a key goes, and in which ceremony or request, by its digest."""

    ceremony: bytes
    giver: SiloId
    recipient: SiloId


def seal_secret(document: KeyDocument, content: bytes, random: RandomSource) -> tuple[bytes, bytes]:
    """Return (a fresh key, the secret sealed under it), for secrets that are the same for every silo."""
    key = random(32)
    return key, seal(key, content, associated=document.digest)


def seal_box(own: AgreementKey, peer: bytes, document: KeyDocument, inside: bytes, *, way: Way) -> bytes:
    """Return the box for one silo; once for each ``own`` and ``way``.

    Args:
        own: of the giver, for this ceremony or request.
        peer: the recipient's public key, whose signature was checked.
        document: of the key.
        inside: a share, or the key of a sealed secret.
        way: from whom to whom.
    """
    key = box_key(own, peer, way.ceremony, document.key, giver=way.giver, recipient=way.recipient)
    return seal(key, inside, associated=document.digest)


def open_box(
    own: AgreementKey, peer: bytes, document: KeyDocument, *, sealed: bytes, box: bytes, way: Way
) -> bytes:
    """Return the secret that was sealed to ``own`` for the key of ``document``.

    Raises:
        MalformedMessage: it was not, or was changed.
    """
    key = box_key(own, peer, way.ceremony, document.key, giver=way.giver, recipient=way.recipient)
    inside = unseal(key, box, associated=document.digest)
    if document.threshold is not None:
        return inside
    if len(inside) != 32:
        raise MalformedMessage("a box does not hold the key of a sealed secret")
    return unseal(inside, sealed, associated=document.digest)
