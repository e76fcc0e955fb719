"""Dealing and receiving the two secrets of a silo: its mask key and its self-mask seed.

Each share is committed to with a salted hash and sealed to its recipient; the commitments and the digests
of the sealed boxes are signed by the dealer, so that a wrong share names its sender, a wrong sharing its
dealer, and a changed box the coordinator.

Source: step 2 of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secagg.errors import MalformedMessage
from secagg.hazmat.agreement import AgreementKey, seal, unseal
from secagg.hazmat.identity import IdentityKey
from secagg.hazmat.shamir import SHARE_SIZE, split
from secagg.masking import transcript
from secagg.masking.transcript import Kind
from secagg.messages import Opening, ShareEntry, ShareSet
from secagg.names import RandomSource, SiloId
from secagg.roster import Roster

SALT_SIZE = 32


@dataclass(frozen=True, repr=False)
class OpeningPair:
    """One dealer's two shares for one recipient. ``Unmasking`` gives one of them, never both."""

    seed: Opening
    mask: Opening


@dataclass(frozen=True, repr=False)
class Dealt:
    """What a dealer sends, and the pair that it keeps for itself."""

    share_set: ShareSet
    boxes: tuple[tuple[SiloId, bytes, bytes], ...]
    own: OpeningPair


def deal(
    *,
    session: bytes,
    dealer: SiloId,
    identity: IdentityKey,
    box: AgreementKey,
    mask: AgreementKey,
    seed: bytes,
    peers: Mapping[SiloId, bytes],
    roster: Roster,
    threshold: int,
    random: RandomSource,
) -> Dealt:
    """Share ``mask`` and ``seed`` among ``peers`` (id -> box public key, the dealer included), t of n.

    The index of a share is its recipient's roster slot + 1.
    """
    indices = {peer: roster.slot(peer) + 1 for peer in peers}
    seeds = split(seed, threshold, list(indices.values()), random)
    masks = split(mask.private_bytes(), threshold, list(indices.values()), random)
    pairs = {
        peer: OpeningPair(
            Opening(seeds[index], random(SALT_SIZE)),
            Opening(masks[index], random(SALT_SIZE)),
        )
        for peer, index in indices.items()
    }

    def sealed(peer: SiloId, kind: Kind, opening: Opening) -> bytes:
        key = transcript.box_key(box, peers[peer], session, sender=dealer, recipient=peer, kind=kind)
        return seal(key, opening.share + opening.salt)

    boxes = tuple(
        (peer, sealed(peer, "seed", pair.seed), sealed(peer, "mask", pair.mask))
        for peer, pair in pairs.items()
        if peer != dealer
    )
    # The dealer's own share is committed to and kept, so it has no box.
    box_of = {dealer: (b"", b"")} | {peer: (first, second) for peer, first, second in boxes}
    entries = tuple(
        ShareEntry(
            peer,
            commit(session, dealer, peer, "seed", pair.seed),
            commit(session, dealer, peer, "mask", pair.mask),
            transcript.box_digest(box_of[peer][0]),
            transcript.box_digest(box_of[peer][1]),
        )
        for peer, pair in pairs.items()
    )
    unsigned = ShareSet(mask.public, transcript.seed_commitment(session, dealer, seed), entries, b"")
    signature = identity.sign(transcript.SHARE, *transcript.share_set_fields(session, dealer, unsigned))
    return Dealt(ShareSet(unsigned.mask, unsigned.seed, entries, signature), boxes, pairs[dealer])


def commit(session: bytes, dealer: SiloId, recipient: SiloId, kind: Kind, opening: Opening) -> bytes:
    """Return the commitment that ``opening`` opens."""
    return transcript.share_commitment(session, dealer, recipient, kind, opening.share, opening.salt)


def receive(
    *,
    session: bytes,
    dealer: SiloId,
    recipient: SiloId,
    box: AgreementKey,
    dealer_box: bytes,
    entry: ShareEntry,
    boxes: tuple[bytes, bytes],
) -> OpeningPair:
    """Open the two boxes of one dealer.

    Raises:
        MalformedMessage: a box does not open, or holds something else than its commitment.
    """

    def opened(kind: Kind, sealed: bytes, commitment: bytes) -> Opening:
        key = transcript.box_key(box, dealer_box, session, sender=dealer, recipient=recipient, kind=kind)
        plain = unseal(key, sealed)
        opening = Opening(plain[:SHARE_SIZE], plain[SHARE_SIZE:])
        if commit(session, dealer, recipient, kind, opening) != commitment:
            raise MalformedMessage("a sealed share does not match its commitment")
        return opening

    return OpeningPair(
        opened("seed", boxes[0], entry.seed_commitment),
        opened("mask", boxes[1], entry.mask_commitment),
    )
