"""CKKS as a round adds it: limbs of one encoding, under a key that only silos open."""

from __future__ import annotations

from secagg.ckks.limbs import plan_limbs
from secagg.ckks.public import CiphertextSum, check_upload, sum_words, upload_words
from secagg.encrypted.cipher import Form
from secagg.fixedpoint import Encoding
from secagg.names import SiloId
from secagg.payload import Payload


class CKKSAdder:
    """Adds vectors of ``encoding``, each with its count entry; see ``encrypted.cipher.Adder``.

    Args:
        key: id of the key, 32 bytes: nothing more of it is needed to add.
        degree: of its ring.
        encoding: of the vectors.

    Raises:
        ParameterError: they cannot be added exactly.
    """

    part_size = 0

    def __init__(self, key: bytes, degree: int, encoding: Encoding) -> None:
        self.key = key
        self.limbs = plan_limbs(
            encoding.length + 1, word_bits=encoding.word_bits, cohort=encoding.cohort, degree=degree
        )
        self.parameters = self.limbs.parameters.digest
        self.upload = Form("u8", upload_words(self.limbs.parameters))
        self.total = Form("u8", sum_words(self.limbs.parameters))

    def check(self, ciphertexts: Payload, *, silo: SiloId, round_id: bytes) -> None:
        """Check every word of an upload; see ``Adder.check``. Whose it is and what for stands in no word."""
        check_upload(ciphertexts, self.limbs.parameters)

    def begin(self) -> CKKSSum:
        """Return an empty sum."""
        return CKKSSum(self)


class CKKSSum:
    """The running sum of one round; see ``encrypted.cipher.RunningSum``."""

    def __init__(self, adder: CKKSAdder) -> None:
        self._total = CiphertextSum(adder.limbs.parameters)

    def add(self, ciphertexts: Payload) -> None:
        """Add one vector; see ``RunningSum.add``."""
        self._total.add(ciphertexts)

    def total(self) -> Payload:
        """Return the ciphertexts of the sum; see ``RunningSum.total``."""
        return self._total.payload()
