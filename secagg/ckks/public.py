"""What a coordinator may import: signed uploads, their checks, and the sum of ciphertexts. It opens nothing.

An upload is a stream of chunks of one fixed size, read twice: once to hash it and to look at every word, once
to add it. Nothing of it reaches SEAL, or the total, before its signature fits. Adding needs no key: each
chunk is expanded, added to the total of its place, and dropped, so memory does not grow with the number of
silos.

It cannot tell what an upload encrypts, nor that a sum which is opened later is the one that was formed here:
this scheme is for coordinators that follow the protocol (L0).

Source: Cheon, Kim, Kim, Song 2017 (addition); Microsoft SEAL 4.1 (seeded ciphertexts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from secagg.ckks.parameters import SECRET_MAGIC, SumParameters
from secagg.ckks.seal import SEAL_MAGIC, SEED_SIZE, Seal, SealObject, refuse_words, sealapi
from secagg.errors import MalformedMessage, UsageError
from secagg.hazmat.content import ContentHash
from secagg.hazmat.framing import Field
from secagg.hazmat.identity import verify
from secagg.names import SiloId
from secagg.payload import Payload, regroup

UPLOAD = "ckks upload"
"""Label of the signature over an upload."""

_SCAN_SIZE = 1 << 16


@dataclass(frozen=True)
class SignedUpload:
    """One silo's encrypted vector, as it came; nothing of it has been checked.

    Attributes:
        silo: who it says it is from.
        payload: ``u8``, chunk after chunk: seed (64 bytes), N words.
        signature: 64 bytes, over ``upload_fields``.
    """

    silo: SiloId
    payload: Payload
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class CheckedUpload:
    """An upload whose signature, size and words were checked; only ``checked_upload`` makes one.

    Attributes:
        silo: who signed it.
        parameters: what it is encrypted under.
        payload: as of ``SignedUpload``.
        digest: BLAKE3 of the payload, 32 bytes, as it was signed.
    """

    silo: SiloId
    parameters: SumParameters
    payload: Payload
    digest: bytes

    def chunks(self) -> Iterator[memoryview]:
        """Yield the chunks in order; each is valid until the next one."""
        return regroup(self.payload.pieces(), fresh_size(self.parameters))


def fresh_size(parameters: SumParameters) -> int:
    """Return the bytes of one chunk of an upload."""
    return SEED_SIZE + 8 * parameters.degree


def sum_size(parameters: SumParameters) -> int:
    """Return the bytes of one chunk of a sum."""
    return 16 * parameters.degree


def upload_words(parameters: SumParameters) -> int:
    """Return the length of an upload's payload, in words of 8 bytes."""
    return parameters.chunks * fresh_size(parameters) // 8


def sum_words(parameters: SumParameters) -> int:
    """Return the length of a sum's payload, in words of 8 bytes."""
    return parameters.chunks * sum_size(parameters) // 8


def upload_fields(
    parameters: SumParameters, *, key_id: bytes, round_id: bytes, silo: SiloId, content: bytes
) -> tuple[Field, ...]:
    """Return what a silo signs, under ``UPLOAD``, to say that it encrypted this for this round.

    Args:
        parameters: of the round; their digest stands for them.
        key_id: of the key it is encrypted under, 32 bytes.
        round_id: 32 bytes.
        silo: who signs.
        content: BLAKE3 of the payload, 32 bytes.
    """
    return key_id, parameters.digest, round_id, silo, upload_words(parameters), content


def checked_upload(
    upload: SignedUpload, parameters: SumParameters, *, identity: bytes, key_id: bytes, round_id: bytes
) -> CheckedUpload:
    """Return ``upload`` as one that may be added.

    Args:
        upload: what came.
        parameters: of the round.
        identity: the pinned public key of ``upload.silo``, 32 bytes.
        key_id: of the key of the round.
        round_id: of the round.

    Raises:
        MalformedMessage: it is of another size, carries a serialised key or object of SEAL, was not signed by
            this silo for this key, these parameters and this round, or has a word that is no coefficient.

    Guarantees:
        - Raises nothing else, whatever came.
        - SEAL reads no byte of an upload that is refused here.
    """
    payload = upload.payload
    if payload.dtype != "u8" or payload.length != upload_words(parameters):
        refuse_secret(next(payload.pieces(), memoryview(b"")))
        raise MalformedMessage(
            f"an upload of {payload.size} bytes, under these parameters it has {8 * upload_words(parameters)}"
        )
    content, words_fit = ContentHash(), True
    for chunk in regroup(payload.pieces(), fresh_size(parameters)):
        content.update(chunk)
        words_fit = words_fit and _below(parameters, chunk[SEED_SIZE:])
    digest = content.digest()
    signed = upload_fields(parameters, key_id=key_id, round_id=round_id, silo=upload.silo, content=digest)
    if not verify(identity, upload.signature, UPLOAD, *signed):
        raise MalformedMessage(
            "an upload is not signed by its silo for this key, these parameters, this round and these bytes"
        )
    if not words_fit:
        raise MalformedMessage("an upload has a coefficient that is not below the modulus")
    return CheckedUpload(upload.silo, parameters, payload, digest)


def refuse_secret(data: bytes | memoryview) -> None:
    """Refuse bytes that carry a secret key, ours or one in a serialised object of SEAL or TenSEAL.

    Whatever SEAL serialises is refused: nothing of that form is sent here, and a key looks like the rest.

    Raises:
        MalformedMessage: they do; nothing was loaded.
    """
    start = bytes(memoryview(data).cast("B")[:_SCAN_SIZE])
    if SECRET_MAGIC in start:
        raise MalformedMessage("these bytes carry a secret key; they were not loaded. Rotate the key")
    if SEAL_MAGIC in start:
        raise MalformedMessage("these bytes hold a serialised object of SEAL, perhaps a key; not loaded")


class CiphertextSum:
    """The running total of uploads under one set of parameters.

    Args:
        parameters: of the round.

    Guarantees:
        - Holds one total and one chunk, however many uploads are added.
        - No silo is added twice, and not more than ``parameters.cohort``.
        - A total that an upload was added to in part is never given out.
    """

    def __init__(self, parameters: SumParameters) -> None:
        self._parameters = parameters
        self._seal = Seal(parameters.ring)
        self._evaluator: SealObject = sealapi.Evaluator(self._seal.context)
        self._totals: list[SealObject] = []
        self._silos: list[SiloId] = []
        self._spoiled = False

    @property
    def silos(self) -> tuple[SiloId, ...]:
        """Whose uploads are in the total, in the order they came."""
        return tuple(self._silos)

    def add(self, upload: CheckedUpload) -> None:
        """Add one upload, chunk by chunk.

        Raises:
            UsageError: of other parameters, of a silo that is in the total, one more than the cohort, or the
                total is spoiled.
            MalformedMessage: its payload is not any more what was checked; the total is spoiled.
        """
        self._refuse_spoiled()
        if upload.parameters != self._parameters:
            raise UsageError("an upload is added to a total of its own parameters")
        if upload.silo in self._silos:
            raise UsageError(f"{upload.silo} is in the total already")
        if len(self._silos) == self._parameters.cohort:
            raise UsageError(f"the total has {self._parameters.cohort} uploads, more could wrap")
        self._silos.append(upload.silo)
        first = not self._totals
        self._spoiled = True
        for place, chunk in enumerate(upload.chunks()):
            refuse_words(self._parameters.ring, chunk[SEED_SIZE:])
            fresh = self._seal.fresh(self._parameters, chunk)
            if first:
                self._totals.append(fresh)
            else:
                self._add(self._totals[place], fresh)
        self._spoiled = False

    def payload(self) -> Payload:
        """Return the total: ``u8``, chunk after chunk, 2 N words each; serialised piece by piece.

        Raises:
            UsageError: nothing was added, or the total is spoiled.
        """
        self._refuse_spoiled()
        if not self._silos:
            raise UsageError("the total is of no upload")
        return Payload("u8", sum_words(self._parameters), self._pieces)

    def _refuse_spoiled(self) -> None:
        if self._spoiled:
            raise UsageError("an upload was added in part: begin a new total")

    def _pieces(self) -> Iterator[memoryview]:
        for total in self._totals:
            yield self._seal.read_sum(self._parameters, total)

    def _add(self, total: SealObject, fresh: SealObject) -> None:
        try:
            self._evaluator.add_inplace(total, fresh)
        except (RuntimeError, ValueError):
            # SEAL refuses sums whose second polynomial is zero, which anybody could read.
            raise MalformedMessage("two ciphertexts add up to one that hides nothing") from None


def _below(parameters: SumParameters, words: memoryview) -> bool:
    try:
        refuse_words(parameters.ring, words)
    except MalformedMessage:
        return False
    return True
