"""Every message of every scheme: frozen, typed, no behaviour.

The order is that of the protocol. A message carries at most one ``Payload``. The sender is never a
field: the transport knows who it talks to. Sizes are checked by the decoder (``wire``).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from secagg.hazmat.shamir import SHARE_SIZE
from secagg.payload import Payload
from secagg.privacy.heads import LedgerHead
from secagg.terms import Counter, Digest, KeyScheme, Name, Seconds, Terms

Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Salt = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Share = Annotated[bytes, msgspec.Meta(min_length=SHARE_SIZE, max_length=SHARE_SIZE)]
# A share and its salt, sealed: 33 + 32 + 16 bytes of tag.
Box = Annotated[bytes, msgspec.Meta(min_length=SHARE_SIZE + 48, max_length=SHARE_SIZE + 48)]


# What a silo signed of a key: see ``secagg.keys.document``.
Document = Annotated[bytes, msgspec.Meta(min_length=1, max_length=1 << 18)]
# A secret key, sealed; empty where each silo has another secret, in its box.
SealedSecret = Annotated[bytes, msgspec.Meta(max_length=1 << 18)]
# A share of a secret key, sealed, or the key of a ``SealedSecret``.
KeyBox = Annotated[bytes, msgspec.Meta(min_length=48, max_length=1 << 13)]
Lifetime = Annotated[int, msgspec.Meta(ge=1, lt=366 * 24 * 3600 + 1)]

# How far the ledgers of silos are.
Heads: TypeAlias = tuple[tuple[Name, LedgerHead], ...]

# A key of 32 bytes, sealed.
SealedKey = Annotated[bytes, msgspec.Meta(min_length=48, max_length=48)]


class Part(msgspec.Struct, frozen=True):
    """Shape of every part and message below."""


class Said(Part, frozen=True):
    """Shape of what silos say to each other. Its repr shows nothing."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


# --- before the attempt ------------------------------------------------------------------------------


class TrainingOpened(Part, frozen=True, tag=True):
    """Coordinator to silos: what to train and how it will be summed. ``seconds``: the wait for Ready."""

    terms: Terms
    seconds: Seconds


class BaseRequested(Part, frozen=True, tag=True):
    """Silo to coordinator: send me the model with this digest."""

    base: Digest


class BaseSent(Part, frozen=True, tag=True):
    """Coordinator to silo: the model, float64, weights then server optimiser state."""

    base: Digest
    vector: Payload


class BaseWanted(Part, frozen=True, tag=True):
    """Silo to coordinator, where it may not have the model: let a peer seal it to this X25519 key."""

    base: Digest
    box: Key
    signature: Signature


class BaseAsked(Part, frozen=True, tag=True):
    """Coordinator to a silo that holds the model: ``silo`` wants it, sealed to its key."""

    base: Digest
    silo: Name
    box: Key
    signature: Signature


class BaseSealed(Part, frozen=True, tag=True):
    """Silo to coordinator: the model, sealed with this fresh X25519 key to ``wanted``, that of ``silo``."""

    base: Digest
    silo: Name
    wanted: Key
    box: Key
    sealed: Payload


class BaseForwarded(Part, frozen=True, tag=True):
    """Coordinator to the silo that wants the model: what ``holder`` sealed to it."""

    base: Digest
    holder: Name
    box: Key
    sealed: Payload


class Ready(Part, frozen=True, tag=True):
    """Silo to coordinator: trained under these terms, the vector is encoded and cached."""

    training: Digest


BUDGET_SPENT = "privacy budget"
"""The rule of a refusal by which the data set of a silo has no privacy budget left."""


class Refused(Part, frozen=True, tag=True):
    """Silo to coordinator: the silo leaves ``attempt``, 0 for training.

    The rule, and for a lock who is missing, for a ledger whose it is; no more.
    """

    rule: Annotated[str, msgspec.Meta(max_length=64)]
    silos: Annotated[tuple[Name, ...], msgspec.Meta(max_length=256)] = ()
    attempt: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] = 0


# --- masking ---------------------------------------------------------------------------------------------


class KeyBundle(Part, frozen=True):
    """One silo's fresh keys for one attempt, signed by its identity over the descriptor."""

    box: Key
    mask: Key
    nonce: Nonce
    signature: Signature


class ShareEntry(Part, frozen=True):
    """What a dealer commits to towards one recipient; box digests are those of the sealed bytes."""

    recipient: Name
    seed_commitment: Digest
    mask_commitment: Digest
    seed_box: Digest
    mask_box: Digest


class ShareSet(Part, frozen=True):
    """One dealer's commitments, signed over the session id, its mask key and its seed commitment."""

    mask: Key
    seed: Digest
    entries: tuple[ShareEntry, ...]
    signature: Signature


class Opening(Part, frozen=True):
    """A share and the salt of its commitment. Secret until the peer's input is decided."""

    share: Share
    salt: Salt

    def __repr__(self) -> str:
        return "Opening()"


class Void(Part, frozen=True):
    """A silo's signed promise never to sign or release for ``round_id`` again."""

    silo: Name
    round_id: Digest
    signature: Signature


class DealerEvidence(Part, frozen=True):
    """Proof that a dealer shared something else than it committed to: t matching openings of its shares."""

    dealer: Name
    session: Digest
    share_set: ShareSet
    kind: Literal["seed", "mask"]
    openings: tuple[tuple[Name, Opening], ...]


class RoundOpened(Part, frozen=True, tag=True):
    """Coordinator to silos: an attempt begins. Voids and evidence lift or move locks (see survivors)."""

    training: Digest
    attempt: Counter
    seconds: Seconds
    voids: tuple[Void, ...] = ()
    evidence: tuple[DealerEvidence, ...] = ()


class AdvertiseKeys(Part, frozen=True, tag=True):
    """Silo to coordinator, step 1."""

    bundle: KeyBundle


class KeysAnnounced(Part, frozen=True, tag=True):
    """Coordinator to U1: every bundle, in roster order."""

    bundles: tuple[tuple[Name, KeyBundle], ...]


class ShareKeys(Part, frozen=True, tag=True):
    """Silo to coordinator, step 2: commitments, and for each peer (recipient, seed box, mask box)."""

    share_set: ShareSet
    boxes: tuple[tuple[Name, Box, Box], ...]


class SharesAnnounced(Part, frozen=True, tag=True):
    """Coordinator to one silo of U2: every dealer's share set, and (dealer, seed box, mask box) for it."""

    share_sets: tuple[tuple[Name, ShareSet], ...]
    boxes: tuple[tuple[Name, Box, Box], ...]


class BoxReport(Part, frozen=True, tag=True):
    """Silo to coordinator instead of its input: this dealer's signed box does not hold what it commits to."""

    session: Digest
    dealer: Name


class MaskedInput(Part, frozen=True, tag=True):
    """Silo to coordinator, step 3: the masked vector and its count entry, and how far its ledger is."""

    round_id: Digest
    vector: Payload
    head: LedgerHead | None = None


class SurvivorsAnnounced(Part, frozen=True, tag=True):
    """Coordinator to silos: whose inputs it holds, and the heads of ledgers that came with them."""

    round_id: Digest
    survivors: tuple[Name, ...]
    heads: Heads = ()


class ConsistencyCheck(Part, frozen=True, tag=True):
    """Silo to coordinator, step 4: signature over the survivor set."""

    round_id: Digest
    signature: Signature


class UnmaskingRequested(Part, frozen=True, tag=True):
    """Coordinator to survivors: the set with its signatures. There is no other list in it."""

    round_id: Digest
    survivors: tuple[Name, ...]
    signatures: tuple[tuple[Name, Signature], ...]


class Unmasking(Part, frozen=True, tag=True):
    """Silo to coordinator, step 5: for each silo of U2 one opening, of the kind that the set implies."""

    round_id: Digest
    openings: tuple[tuple[Name, Opening], ...]


class SumOpened(Part, frozen=True, tag=True):
    """Coordinator to U2, step 6: the sum with its count entry, and who is in it."""

    round_id: Digest
    survivors: tuple[Name, ...]
    signatures: tuple[tuple[Name, Signature], ...]
    total: Payload


class VoidRequested(Part, frozen=True, tag=True):
    """Coordinator to silos: promise never to sign or release for these rounds."""

    round_ids: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=1024)]


class Voided(Part, frozen=True, tag=True):
    """Silo to coordinator: the promises it can make."""

    voids: tuple[Void, ...]


# --- ciphertexts -----------------------------------------------------------------------------------------


class SignedUpload(Part, frozen=True):
    """What a silo says of its ciphertexts.

    Attributes:
        content: digest of the payload.
        box: X25519 key to which peers seal partial decryptions; None where one key opens.
        signature: of the silo, over both, the key, the parameters and the round.
    """

    content: Digest
    box: Key | None
    signature: Signature


class EncryptedInput(Part, frozen=True, tag=True):
    """Silo to coordinator, step 3 of ciphertexts: the vector, its count entry, how far its ledger is."""

    round_id: Digest
    upload: SignedUpload
    ciphertexts: Payload
    head: LedgerHead | None = None


class UploadsAnnounced(Part, frozen=True, tag=True):
    """Coordinator to survivors: whose ciphertexts it holds, each as its silo signed it, in roster order.

    And the heads of ledgers that came with them.
    """

    round_id: Digest
    uploads: tuple[tuple[Name, SignedUpload], ...]
    heads: Heads = ()


class AggregateAnnounced(Part, frozen=True, tag=True):
    """Coordinator to survivors, for a key that each of them holds: the set's signatures, and the sum."""

    round_id: Digest
    signatures: tuple[tuple[Name, Signature], ...]
    total: Payload


class OpeningRequested(Part, frozen=True, tag=True):
    """Coordinator to survivors, for a shared key: the set's signatures, and every upload end to end."""

    round_id: Digest
    signatures: tuple[tuple[Name, Signature], ...]
    ciphertexts: Payload


class PartialDecryption(Part, frozen=True, tag=True):
    """Silo to coordinator: its part of the opening, sealed; and the key of the seal, sealed to each peer."""

    round_id: Digest
    boxes: tuple[tuple[Name, SealedKey], ...]
    sealed: Payload


class PartialsAnnounced(Part, frozen=True, tag=True):
    """Coordinator to one survivor: (silo, sealed key for this one) of each part, and the parts end to end."""

    round_id: Digest
    boxes: tuple[tuple[Name, SealedKey], ...]
    sealed: Payload


class Opened(Part, frozen=True, tag=True):
    """Silo to coordinator: the sum was opened here, now or in an earlier attempt of the same round.

    Attributes:
        training: digest of the terms.
        base: digest of the model that follows, equal at all honest silos.
        survivors: whose vectors are in the sum, in roster order; equal at all honest silos.
        faulty: silos whose part of the opening was wrong.
    """

    training: Digest
    base: Digest
    survivors: Annotated[tuple[Name, ...], msgspec.Meta(max_length=256)]
    faulty: Annotated[tuple[Name, ...], msgspec.Meta(max_length=256)] = ()


# --- plain ---------------------------------------------------------------------------------------------


class PlainInput(Part, frozen=True, tag=True):
    """Silo to coordinator: the vector and its count entry, in clear."""

    training: Digest
    vector: Payload


class PlainSum(Part, frozen=True, tag=True):
    """Coordinator to silos: the sum with its count entry, and who is in it."""

    training: Digest
    survivors: tuple[Name, ...]
    total: Payload


# --- keys ------------------------------------------------------------------------------------------------


class SignedKey(Part, frozen=True):
    """One silo's fresh X25519 key for the boxes of one ceremony or request, signed by its identity."""

    key: Key
    nonce: Nonce
    signature: Signature


class KeyRequested(Part, frozen=True, tag=True):
    """Coordinator to silos: make a key together.

    Attributes:
        federation: its name.
        roster: digest of the roster, all of which takes part.
        scheme: what the key is for.
        size: bits of a Paillier key, degree of a CKKS ring.
        threshold: how many open together; None where one opens alone.
        maker: the silo that makes the key and seals it to the others.
        nonce: fresh for every ceremony.
        lifetime: of the key, seconds.
        replaces: id of the key before, or None.
    """

    federation: Name
    roster: Digest
    scheme: KeyScheme
    size: Counter
    threshold: Counter | None
    maker: Name
    nonce: Nonce
    lifetime: Lifetime
    replaces: Digest | None


class SealingKey(Part, frozen=True, tag=True):
    """Silo to coordinator: what the key may be sealed to, or is sealed with."""

    ceremony: Digest
    sealing: SignedKey


class SealingKeysAnnounced(Part, frozen=True, tag=True):
    """Coordinator to the maker: the fresh key of every silo, in roster order."""

    ceremony: Digest
    keys: tuple[tuple[Name, SignedKey], ...]


class KeyDealt(Part, frozen=True, tag=True):
    """Maker to coordinator: the signed document of the key, and for each other silo its box."""

    ceremony: Digest
    document: Document
    sealed: SealedSecret
    boxes: tuple[tuple[Name, KeyBox], ...]


class KeyDelivered(Part, frozen=True, tag=True):
    """Coordinator to one silo: the document, the maker's fresh key, and the box for this silo."""

    ceremony: Digest
    document: Document
    sealing: SignedKey
    sealed: SealedSecret
    box: KeyBox


class KeyTaken(Part, frozen=True, tag=True):
    """Silo to coordinator: it holds the key; signed over the document."""

    ceremony: Digest
    key: Digest
    signature: Signature


class KeyWanted(Part, frozen=True, tag=True):
    """Silo to coordinator: it lacks this key, and asks its peers to seal it to a fresh key of its own."""

    key: Digest
    sealing: SignedKey


class KeyAsked(Part, frozen=True, tag=True):
    """Coordinator to a silo that holds the key: what ``joiner`` asked."""

    joiner: Name
    key: Digest
    sealing: SignedKey


class KeyForwarded(Part, frozen=True, tag=True):
    """Silo to coordinator: the key, sealed to the joiner.

    ``request``: what the joiner asked, by its digest.
    """

    request: Digest
    document: Document
    sealing: SignedKey
    sealed: SealedSecret
    box: KeyBox


class KeyPassed(Part, frozen=True, tag=True):
    """Coordinator to the joiner: what ``holder`` forwarded."""

    holder: Name
    request: Digest
    document: Document
    sealing: SignedKey
    sealed: SealedSecret
    box: KeyBox


ToKeyHolder: TypeAlias = KeyRequested | SealingKeysAnnounced | KeyDelivered | KeyAsked | KeyPassed
FromKeyHolder: TypeAlias = SealingKey | KeyDealt | KeyTaken | KeyWanted | KeyForwarded
FromSilo: TypeAlias = (
    BaseRequested
    | BaseWanted
    | BaseSealed
    | Ready
    | Refused
    | AdvertiseKeys
    | ShareKeys
    | BoxReport
    | MaskedInput
    | ConsistencyCheck
    | Unmasking
    | Voided
    | EncryptedInput
    | PartialDecryption
    | Opened
    | PlainInput
    | SealingKey
    | KeyDealt
    | KeyTaken
    | KeyWanted
    | KeyForwarded
)
FromCoordinator: TypeAlias = (
    TrainingOpened
    | BaseSent
    | BaseAsked
    | BaseForwarded
    | RoundOpened
    | KeysAnnounced
    | SharesAnnounced
    | SurvivorsAnnounced
    | UnmaskingRequested
    | SumOpened
    | VoidRequested
    | UploadsAnnounced
    | AggregateAnnounced
    | OpeningRequested
    | PartialsAnnounced
    | PlainSum
    | KeyRequested
    | SealingKeysAnnounced
    | KeyDelivered
    | KeyAsked
    | KeyPassed
)
Message: TypeAlias = FromSilo | FromCoordinator
