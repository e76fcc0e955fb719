"""Paillier as a round adds it: packed ciphertexts of one encoding, under a key that only silos open."""

from __future__ import annotations

from collections.abc import Iterator

from secagg.encrypted.cipher import Form
from secagg.errors import MalformedMessage
from secagg.fixedpoint import Encoding
from secagg.hazmat.framing import digest
from secagg.packing import Packing
from secagg.paillier.ciphertexts import Total, read
from secagg.paillier.params import SECRET_MAGIC
from secagg.paillier.public import PublicKey
from secagg.paillier.threshold import ThresholdKey
from secagg.payload import Payload

_BATCH = 64
"""Ciphertexts that are read at a time."""


class PaillierAdder:
    """Adds vectors of ``encoding`` with their count entries under ``key``; see ``encrypted.cipher.Adder``."""

    def __init__(self, key: PublicKey | ThresholdKey, encoding: Encoding) -> None:
        self.public = key if isinstance(key, PublicKey) else key.public
        self.key = key.id
        self.part_size = 0
        self.packing = Packing(encoding.word_bits, encoding.cohort, self.public.plaintext_bits)
        self.length = encoding.length + 1
        self.count = self.packing.rows(self.length)
        self.upload = self.total = Form("u1", self.count * self.public.ciphertext_size)
        self.parameters = digest(
            "paillier parameters", self.packing.word_bits, self.packing.cohort, self.public.bits, self.length
        )
        if isinstance(key, ThresholdKey):
            self.part_size = self.upload.length + key.proof_size

    def check(self, ciphertexts: Payload) -> None:
        """Check every ciphertext of an upload; see ``Adder.check``.

        A secret key that was padded to its size is refused, though its bytes may be numbers below n^2.
        """
        if bytes(next(ciphertexts.pieces(), b"")[: len(SECRET_MAGIC)]) == SECRET_MAGIC:
            raise MalformedMessage("these bytes carry a secret key; they were not loaded. Rotate the key")
        if not self.upload.fits(ciphertexts):
            raise MalformedMessage("the ciphertexts have another length or type than the parameters say")
        for batch in batches(ciphertexts, self.public):
            read(batch, self.public)

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
        self._total.add(batches(ciphertexts, self._adder.public))

    def total(self) -> Payload:
        """Return the ciphertexts of the sum."""
        form = self._adder.total
        return Payload.over(form.dtype, form.length, memoryview(b"".join(self._total.pieces())))


def batches(ciphertexts: Payload, key: PublicKey) -> Iterator[memoryview]:
    """Yield the bytes of whole ciphertexts, some at a time.

    Raises:
        MalformedMessage: the payload has more or fewer bytes than it says.
    """
    buffer, step = ciphertexts.buffer(), _BATCH * key.ciphertext_size
    if len(buffer) != ciphertexts.size:
        raise MalformedMessage("a payload has another size than was announced")
    for start in range(0, ciphertexts.size, step):
        yield buffer[start : start + step]
