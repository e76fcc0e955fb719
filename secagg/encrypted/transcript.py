"""What both halves of a round over ciphertexts derive from its messages: digests, signed fields, seals.

The round id names the terms, the attempt, the key and the parameters; a silo's signature over its upload
names the round; and a signature over the survivors names every upload. So what is opened is the sum of what
was signed, or nothing.

Source: "Ciphertexts" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secagg.encrypted.cipher import Adder
from secagg.hazmat.framing import Field, digest
from secagg.hazmat.identity import verify
from secagg.messages import RoundOpened, SignedUpload
from secagg.names import SiloId
from secagg.roster import Roster

UPLOAD = "upload"
"""Label of the signature over an upload."""
WRONG_PARTS = "wrong parts"
"""Rule of a silo's refusal to say what it opened, with those whose part of the opening is wrong."""


def round_id(opened: RoundOpened, adder: Adder) -> bytes:
    """Return H(terms, attempt, key, parameters)."""
    attempt = opened.training, opened.attempt, opened.seconds
    return digest("encrypted round", attempt, adder.key, adder.parameters)


def upload_fields(
    adder: Adder, round_id: bytes, silo: SiloId, content: bytes, box: bytes | None
) -> tuple[Field, ...]:
    """Return what a silo signs to say that it encrypted this for this round.

    Args:
        adder: whose key and parameters it is encrypted under.
        round_id: of the round.
        silo: who signs.
        content: digest of the payload.
        box: as of ``SignedUpload``.
    """
    return adder.key, adder.parameters, round_id, silo, adder.upload.length, content, box or b""


def is_signed(roster: Roster, adder: Adder, round_id: bytes, silo: SiloId, upload: SignedUpload) -> bool:
    """Whether ``upload`` carries a valid signature of ``silo`` for this round."""
    fields = upload_fields(adder, round_id, silo, upload.content, upload.box)
    return verify(roster.key(silo), upload.signature, UPLOAD, *fields)


def set_id(round_id: bytes, uploads: Iterable[tuple[SiloId, SignedUpload]]) -> bytes:
    """Return H(round id, each upload in roster order), which survivors sign instead of the bare round id."""
    return digest("uploads", round_id, tuple((silo, u.content, u.box or b"") for silo, u in uploads))


def names(uploads: Sequence[tuple[SiloId, SignedUpload]]) -> tuple[SiloId, ...]:
    """Return whose uploads they are."""
    return tuple(silo for silo, _ in uploads)
