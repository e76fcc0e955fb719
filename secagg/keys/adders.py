"""What a coordinator adds with, from the document of a key: nothing here opens anything."""

from __future__ import annotations

from secagg.encrypted.cipher import Adder
from secagg.fixedpoint import Encoding
from secagg.keys.document import KeyDocument


def adder_of(document: KeyDocument, encoding: Encoding) -> Adder:
    """Return what adds vectors of ``encoding`` under the key of ``document``, which was checked.

    Raises:
        ParameterError: they cannot be added under it.
        MissingExtra: the package of its scheme is not installed.
    """
    match document.scheme:
        case "paillier":
            from secagg.paillier.coordinator import PaillierAdder
            from secagg.paillier.public import PublicKey

            return PaillierAdder(PublicKey.from_bytes(document.material), encoding)
        case "threshold-paillier":
            from secagg.paillier.coordinator import PaillierAdder
            from secagg.paillier.threshold import ThresholdKey

            return PaillierAdder(ThresholdKey.from_bytes(document.material), encoding)
        case "ckks":
            from secagg.ckks.coordinator import CKKSAdder

            return CKKSAdder(document.key, document.size, encoding)
