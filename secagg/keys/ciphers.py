"""What a silo encrypts and opens with, from a key that it holds. Only silos import this."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from secagg.encrypted.cipher import Progress, SiloCipher
from secagg.fixedpoint import Encoding
from secagg.keys.keyring import HeldKey
from secagg.names import RandomSource

if TYPE_CHECKING:
    from secagg.ckks.secret import SecretKey as CKKSKey
    from secagg.paillier.secret import SecretKey as PaillierKey
    from secagg.paillier.shares import KeyShare


def cipher_of(
    held: HeldKey, encoding: Encoding, *, random: RandomSource = os.urandom, opened: Progress | None = None
) -> SiloCipher:
    """Return the cipher of a key for vectors of ``encoding``.

    Args:
        held: the key; its secret is of the scheme of its document, as loading it made sure.
        encoding: of the vectors.
        random: fresh uniform bytes; SEAL reads those of the system itself.
        opened: told how far an opening is, where it takes long.

    Raises:
        ParameterError: they cannot be added under it.
    """
    match held.document.scheme:
        case "paillier":
            from secagg.paillier.silo import PaillierCipher

            return PaillierCipher(cast("PaillierKey", held.secret), encoding, random=random, opened=opened)
        case "threshold-paillier":
            from secagg.paillier.silo import ThresholdPaillierCipher

            return ThresholdPaillierCipher(
                cast("KeyShare", held.secret), encoding, random=random, opened=opened
            )
        case "ckks":
            from secagg.ckks.silo import CKKSCipher

            return CKKSCipher(cast("CKKSKey", held.secret), encoding)
