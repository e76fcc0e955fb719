"""Paillier as a round adds it: packed ciphertexts of one encoding, under a key that only silos open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secagg.encrypted.cipher import Form
from secagg.errors import MalformedMessage
from secagg.fixedpoint import Encoding
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.packing import Packing
from secagg.paillier import knowledge
from secagg.paillier.ciphertexts import Total, read
from secagg.paillier.params import SECRET_MAGIC, knowledge_size
from secagg.paillier.public import PublicKey
from secagg.paillier.threshold import ThresholdKey
from secagg.payload import Buffer, Payload

_BATCH = 1024
"""Ciphertexts that are read at a time."""


class PaillierAdder:
    """Adds vectors of ``encoding`` with their count entries under ``key``; see ``encrypted.cipher.Adder``."""

    def __init__(self, key: PublicKey | ThresholdKey, encoding: Encoding) -> None:
        self.public = key if isinstance(key, PublicKey) else key.public
        self.key = key.id
        self.part_size = 0
        self.proof_size = 0
        self.packing = Packing(encoding.word_bits, encoding.cohort, self.public.plaintext_bits)
        self.length = encoding.length + 1
        self.count = self.packing.rows(self.length)
        self.upload = self.total = Form("u1", self.count * self.public.ciphertext_size)
        self.parameters = digest(
            "paillier parameters", self.packing.word_bits, self.packing.cohort, self.public.bits, self.length
        )
        if isinstance(key, ThresholdKey):
            self.proof_size = knowledge_size(self.public.bits)
            self.part_size = self.total.length + key.proof_size
            self.upload = Form("u1", self.total.length + self.proof_size)

    def context(self, silo: SiloId, round_id: bytes) -> bytes:
        """Return what the proof of an upload is for."""
        return digest("paillier upload", self.key, self.parameters, round_id, silo)

    def checks(self, round_id: bytes) -> NDArray[np.int64]:
        """Return what every silo packs into the first lane of each plaintext of this round."""
        seed = digest("paillier check lanes", self.parameters, round_id)
        drawn = np.frombuffer(hashlib.shake_256(seed).digest(8 * self.count), "<u8")
        return (drawn % (2 * self.packing.bias + 1)).astype(np.int64) - self.packing.bias

    def check(self, ciphertexts: Payload, *, silo: SiloId, round_id: bytes) -> None:
        """Check every ciphertext of an upload, and the proof where it has one; see ``Adder.check``.

        A secret key that was padded to its size is refused, though its bytes may be numbers below n^2.
        """
        if bytes(next(ciphertexts.pieces(), b"")[: len(SECRET_MAGIC)]) == SECRET_MAGIC:
            raise MalformedMessage("these bytes carry a secret key; they were not loaded. Rotate the key")
        if not self.upload.fits(ciphertexts):
            raise MalformedMessage("the ciphertexts have another length or type than the parameters say")
        if self.proof_size:
            proof = _whole(ciphertexts)[self.total.length :]
            context = self.context(silo, round_id)
            knowledge.check_known(
                lambda: self.batches(ciphertexts), self.count, bytes(proof), self.public, context=context
            )
        else:
            for batch in self.batches(ciphertexts):
                read(batch, self.public)

    def batches(self, payload: Payload) -> Iterator[memoryview]:
        """Yield the bytes of the ciphertexts of an upload or a sum, some whole ones at a time.

        Raises:
            MalformedMessage: the payload has more or fewer bytes than it says.
        """
        content, step = _whole(payload), _BATCH * self.public.ciphertext_size
        for start in range(0, self.total.length, step):
            yield content[start : min(start + step, self.total.length)]

    def begin(self) -> PaillierSum:
        """Return an empty sum."""
        return PaillierSum(self)


class PaillierSum:
    """The running sum of one round; see ``encrypted.cipher.RunningSum``."""

    def __init__(self, adder: PaillierAdder) -> None:
        self._adder = adder
        self._total = Total(adder.public, adder.count)

    def add(self, ciphertexts: Payload) -> None:
        """Add one vector; see ``RunningSum.add``."""
        self._total.add(self._adder.batches(ciphertexts))

    def total(self) -> Payload:
        """Return the ciphertexts of the sum; see ``RunningSum.total``."""
        form = self._adder.total
        return Payload.over(form.dtype, form.length, self._total.ciphertexts())


def _whole(payload: Payload) -> Buffer:
    """Return the bytes of ``payload``, to be sliced.

    Raises:
        MalformedMessage: they are more or fewer than it says.
    """
    buffer = payload.buffer()
    if len(buffer) != payload.size:
        raise MalformedMessage("a payload has another size than was announced")
    return buffer
