"""What a coordinator may import: uploads, their checks, and the sum of ciphertexts. It opens nothing.

An upload is a stream of chunks of one fixed size, read twice: once to look at every word, once to add it.
Nothing of it reaches SEAL before that. Adding needs no key: each chunk is expanded, added to the total of its
place, and dropped, so memory does not grow with the number of silos. That an upload is its silo's, for this
round, is checked where rounds are (``encrypted``).

It cannot tell what an upload encrypts, nor that a sum which is opened later is the one that was formed here:
this scheme is for coordinators that follow the protocol (L0).

Source: Cheon, Kim, Kim, Song 2017 (addition); Microsoft SEAL 4.1 (seeded ciphertexts).
"""

from __future__ import annotations

from secagg.ckks.parameters import SECRET_MAGIC, SEED_SIZE, SumParameters
from secagg.ckks.seal import SEAL_MAGIC, Seal, SealObject, refuse_words, sealapi
from secagg.errors import MalformedMessage, UsageError
from secagg.payload import EndToEnd, Payload, regroup

_SCAN_SIZE = 1 << 16


def fresh_size(parameters: SumParameters) -> int:
    """Return the bytes of one chunk of an upload."""
    return parameters.ring.fresh_size


def sum_size(parameters: SumParameters) -> int:
    """Return the bytes of one chunk of a sum."""
    return parameters.ring.sum_size


def upload_words(parameters: SumParameters) -> int:
    """Return the length of an upload's payload, in words of 8 bytes."""
    return parameters.chunks * fresh_size(parameters) // 8


def sum_words(parameters: SumParameters) -> int:
    """Return the length of a sum's payload, in words of 8 bytes."""
    return parameters.chunks * sum_size(parameters) // 8


def check_upload(payload: Payload, parameters: SumParameters) -> None:
    """Check all that can be told of an encrypted vector without the key.

    Args:
        payload: ``u8``, chunk after chunk: seed (64 bytes), N words.
        parameters: of the round.

    Raises:
        MalformedMessage: it is of another size, carries a serialised key or object of SEAL, or has a word
            that is no coefficient.

    Guarantees:
        - Raises nothing else, whatever came.
        - SEAL reads no byte of what is refused here.
    """
    start = next(payload.pieces(), memoryview(b""))
    if payload.dtype != "u8" or payload.length != upload_words(parameters):
        refuse_secret(start)
        raise MalformedMessage(
            f"an upload of {payload.size} bytes, under these parameters it has {8 * upload_words(parameters)}"
        )
    if bytes(start[: len(SECRET_MAGIC)]) == SECRET_MAGIC:
        # The words of our own form of a key are coefficients, so one that was padded would pass.
        refuse_secret(start)
    for chunk in regroup(payload.pieces(), fresh_size(parameters)):
        refuse_words(parameters.ring, chunk[SEED_SIZE:])


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
        - Not more than ``parameters.cohort`` are added.
        - A total that an upload was added to in part is never given out.
    """

    def __init__(self, parameters: SumParameters) -> None:
        self._parameters = parameters
        self._seal = Seal(parameters.ring)
        self._evaluator: SealObject = sealapi.Evaluator(self._seal.context)
        self._totals: list[SealObject] = []
        self._spoiled = False
        self.uploads = 0

    def add(self, payload: Payload) -> None:
        """Add one upload, chunk by chunk.

        Args:
            payload: as ``check_upload`` accepted it.

        Raises:
            UsageError: one more than the cohort, or the total is spoiled.
            MalformedMessage: its payload is not any more what was checked; the total is spoiled.
        """
        self._refuse_spoiled()
        if self.uploads == self._parameters.cohort:
            raise UsageError(f"the total has {self._parameters.cohort} uploads, more could wrap")
        self._spoiled = True
        place = -1
        for place, chunk in enumerate(regroup(payload.pieces(), fresh_size(self._parameters))):
            refuse_words(self._parameters.ring, chunk[SEED_SIZE:])
            fresh = self._seal.fresh(self._parameters, chunk)
            if not self.uploads:
                self._totals.append(fresh)
            elif place < len(self._totals):
                self._add(self._totals[place], fresh)
        if place + 1 != self._parameters.chunks:
            raise MalformedMessage("an upload has another number of chunks than was checked")
        self.uploads += 1
        self._spoiled = False

    def payload(self) -> Payload:
        """Return the total: ``u8``, chunk after chunk, 2 N words each; serialised as it is read.

        Nothing is added afterwards.

        Raises:
            UsageError: nothing was added, or the total is spoiled.
        """
        self._refuse_spoiled()
        if not self.uploads:
            raise UsageError("the total is of no upload")
        parameters, totals, seal = self._parameters, self._totals, self._seal
        content = EndToEnd(
            parameters.chunks, sum_size(parameters), lambda at: seal.read_sum(parameters, totals[at])
        )
        return Payload.over("u8", sum_words(parameters), content)

    def _refuse_spoiled(self) -> None:
        if self._spoiled:
            raise UsageError("an upload was added in part: begin a new total")

    def _add(self, total: SealObject, fresh: SealObject) -> None:
        try:
            self._evaluator.add_inplace(total, fresh)
        except (RuntimeError, ValueError):
            # SEAL refuses sums whose second polynomial is zero, which anybody could read.
            raise MalformedMessage("two ciphertexts add up to one that hides nothing") from None
