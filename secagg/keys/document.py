"""What everybody may know of a key: what it is for, who made it, how long it is used, its public half.

Its maker signs it, and everybody else checks it against the pinned roster; nobody can be handed another key
under its id. Nothing here holds a secret or opens anything, and bytes that carry a secret key are refused
before a part of them is loaded. Only ``document_fault`` needs the package of a scheme.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, get_args

import msgspec

from secagg.ckks.parameters import RINGS
from secagg.ckks.parameters import SECRET_MAGIC as CKKS_SECRET
from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.framing import Field, digest
from secagg.hazmat.identity import IdentityKey, verify
from secagg.messages import KeyRequested, Lifetime, Signature
from secagg.paillier.params import MOST_PARTIES, check_bits
from secagg.paillier.params import SECRET_MAGIC as PAILLIER_SECRET
from secagg.ranges import shown
from secagg.roster import Roster
from secagg.terms import Counter, Digest, KeyScheme, Name

Moment = Annotated[int, msgspec.Meta(ge=0, lt=2**37)]  # Up to the year 6325, for which there are dates.
Material = Annotated[bytes, msgspec.Meta(max_length=1 << 18)]

SCHEMES: tuple[KeyScheme, ...] = get_args(KeyScheme)
DAY = 24 * 3600
DEFAULT_LIFETIME = 90 * DAY
"""Seconds that a key is used unless its maker is told otherwise."""

KEY_DOCUMENT = "key document"
"""Label of the maker's signature."""

_VERSION = b"\x01"
_MOST_SIZE = 1 << 18
_SECRETS = (PAILLIER_SECRET, CKKS_SECRET)


class KeyDocument(msgspec.Struct, frozen=True):
    """One key, as its maker signed it. Public.

    Attributes:
        federation: its name.
        scheme: what the key is for.
        size: bits of a Paillier key, degree of a CKKS ring.
        threshold: how many open together; None where one opens alone.
        roster: digest of the roster whose silos it was sealed to.
        maker: the silo that made it.
        made: whole seconds since 1970, by the maker's clock.
        lifetime: seconds, 366 days at most.
        replaces: id of the key before, or None.
        ceremony: digest of what the coordinator asked for.
        key: its id.
        material: the public half, as its scheme writes it; empty for CKKS, which has none.
        signature: of the maker, over all that stands above.
    """

    federation: Name
    scheme: KeyScheme
    size: Counter
    threshold: Counter | None
    roster: Digest
    maker: Name
    made: Moment
    lifetime: Lifetime
    replaces: Digest | None
    ceremony: Digest
    key: Digest
    material: Material
    signature: Signature

    @property
    def expires(self) -> int:
        """From when on it is not used, seconds since 1970."""
        return self.made + self.lifetime

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for every field but the signature."""
        return digest("digest of a key document", *document_fields(self))


_decoder = msgspec.msgpack.Decoder(KeyDocument)


def encode_document(document: KeyDocument) -> bytes:
    """Return the bytes that ``decode_document`` reads."""
    return _VERSION + msgspec.msgpack.encode(document)


def decode_document(data: bytes) -> KeyDocument:
    """Read a document.

    Raises:
        MalformedMessage: the bytes are none, or have a secret key in them. The text quotes nothing of them.

    Guarantees:
        Bytes of a secret key, wherever they stand, are refused before anything is read.
        A document has one encoding.
    """
    if any(magic in data for magic in _SECRETS):
        raise MalformedMessage("a secret key was sent where a key document belongs")
    if len(data) > _MOST_SIZE or data[:1] != _VERSION:
        raise MalformedMessage("the bytes are no key document of version 1")
    try:
        document = _decoder.decode(data[1:])
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage("the bytes are no key document") from error
    if encode_document(document) != data:
        raise MalformedMessage("the bytes have more in them than a key document")
    return document


def sign_document(identity: IdentityKey, unsigned: KeyDocument) -> KeyDocument:
    """Return the document with its maker's signature."""
    signature = identity.sign(KEY_DOCUMENT, *document_fields(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def document_fault(document: KeyDocument, roster: Roster) -> str | None:
    """Return what is wrong with a document, or None.

    Raises:
        MissingExtra: the package of its scheme is not installed.
    """
    if document.roster != roster.digest or document.maker not in roster:
        return "its key is not for the pinned roster"
    if not verify(roster.key(document.maker), document.signature, KEY_DOCUMENT, *document_fields(document)):
        return f"its key document is not signed by {document.maker}"
    try:
        check_shape(document.scheme, size=document.size, threshold=document.threshold, parties=roster.n)
        return _material_fault(document, roster.n)
    except (MalformedMessage, ParameterError) as error:
        return f"its key document is of no key: {error}"


def request_fault(document: KeyDocument, requested: KeyRequested, ceremony: bytes) -> str | None:
    """Return in what a document differs from what was asked for, or None."""
    if document.ceremony != ceremony:
        return "its key was made in another ceremony"
    for field in ("federation", "roster", "scheme", "size", "threshold", "maker", "lifetime", "replaces"):
        if getattr(document, field) != getattr(requested, field):
            return f"its key has another {field} than was asked for"
    return None


def check_shape(scheme: KeyScheme, *, size: int, threshold: int | None, parties: int) -> None:
    """Check that there are such keys.

    Raises:
        ParameterError: an unknown scheme or size, a threshold that does not belong to it, or more silos than
            one key has shares for.
    """
    match scheme:
        case "paillier" | "threshold-paillier":
            check_bits(size)
        case "ckks":
            if size not in RINGS:
                raise ParameterError(f"degree is {size}, must be one of {', '.join(map(str, RINGS))}")
        case _:
            raise ParameterError(f"scheme is {shown(scheme)}, must be one of {', '.join(SCHEMES)}")
    if (threshold is not None) != (scheme == "threshold-paillier"):
        raise ParameterError("a threshold belongs to threshold-paillier, and to no other scheme")
    if threshold is not None and not 1 <= threshold <= parties:
        raise ParameterError(f"{threshold} of {parties} silos cannot open together")
    if threshold is not None and parties > MOST_PARTIES:
        raise ParameterError(f"a threshold key has {MOST_PARTIES} shares, too few for {parties} silos")


def audit_line(document: KeyDocument) -> str:
    """Return one line for people: which key, of whom, for how long. Nothing in it is secret."""
    made, expires = (datetime.fromtimestamp(at, UTC) for at in (document.made, document.expires))
    unit = f"degree {document.size}" if document.scheme == "ckks" else f"{document.size} bits"
    together = document.threshold
    opens = "any silo opens alone" if together is None else f"{together} silos open together"
    before = "" if document.replaces is None else f", replaces {document.replaces.hex()[:16]}"
    return (
        f"{document.scheme} key {document.key.hex()[:16]} of {unit} for {document.federation}: {opens}; "
        f"made by {document.maker} {made:%Y-%m-%d %H:%M} UTC, used until {expires:%Y-%m-%d %H:%M} UTC{before}"
    )


def document_fields(document: KeyDocument) -> tuple[Field, ...]:
    """Return what the maker signs."""
    return (
        document.federation,
        document.scheme,
        document.size,
        document.threshold,
        document.roster,
        document.maker,
        document.made,
        document.lifetime,
        document.replaces,
        document.ceremony,
        document.key,
        document.material,
    )


def _material_fault(document: KeyDocument, parties: int) -> str | None:
    """Return why the public half is not that of the key; the package of the scheme is needed from here on."""
    match document.scheme:
        case "paillier":
            from secagg.paillier.public import PublicKey

            public = PublicKey.from_bytes(document.material)
            return _identity_fault(document, public.id, public.bits)
        case "threshold-paillier":
            from secagg.paillier.threshold import ThresholdKey

            shared = ThresholdKey.from_bytes(document.material)
            if (shared.parties, shared.threshold) != (parties, document.threshold):
                return "its key is shared among other silos, or opened by others, than it says"
            return _identity_fault(document, shared.id, shared.public.bits)
        case "ckks":  # It has no public half: the id is all there is.
            return "its key has a public half that there is not" if document.material else None


def _identity_fault(document: KeyDocument, key: bytes, bits: int) -> str | None:
    same = (key, bits) == (document.key, document.size)
    return None if same else "its key is not the one of its id and size"
