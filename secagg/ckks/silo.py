"""CKKS as a silo uses it in rounds: encrypting limbs, opening their sum, rounding it to what was summed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.secret import SecretKey, encrypt, open_sum
from secagg.fixedpoint import Encoding
from secagg.names import IntegerVector, SiloId
from secagg.payload import Payload


class CKKSCipher(CKKSAdder):
    """Under a key that every silo holds; see ``encrypted.cipher.SharedKeyCipher``.

    Args:
        secret: the key.
        encoding: of the vectors.

    Raises:
        ParameterError: they cannot be added exactly.

    Guarantees:
        What is opened leaves as integers, never as it was decrypted.
    """

    def __init__(self, secret: SecretKey, encoding: Encoding) -> None:
        super().__init__(secret.key_id, secret.degree, encoding)
        self._secret = secret

    def prepare(self) -> AbstractContextManager[None]:
        """Nothing can be made before the vector is there."""
        return nullcontext()

    def encrypt(self, vector: IntegerVector, *, silo: SiloId, round_id: bytes) -> Payload:
        """Return the ciphertexts of a vector with its count entry; see ``Cipher.encrypt``.

        Args:
            vector: shape (length + 1,).
            silo: not used: the signature over the upload names it.
            round_id: in the check slots of every chunk.
        """
        values, parameters = self.limbs.split(vector), self.limbs.parameters
        ciphertexts = b"".join(encrypt(self._secret, parameters, values, round_id=round_id))
        return Payload.over("u8", len(ciphertexts) // 8, memoryview(ciphertexts))

    def open(self, total: Payload, *, silos: int, round_id: bytes) -> IntegerVector:
        """Return the sum; see ``SharedKeyCipher.open``."""
        opened = open_sum(self._secret, self.limbs.parameters, total, silos=silos, round_id=round_id)
        return self.limbs.join(opened.values)
