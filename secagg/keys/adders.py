"""What a coordinator adds with, from the document of a key: nothing here opens anything."""

from __future__ import annotations

from secagg.encrypted.cipher import SEAL_SIZE, Adder
from secagg.errors import ParameterError
from secagg.fixedpoint import Encoding
from secagg.keys.document import KeyDocument
from secagg.wire import MAX_LENGTH


def adder_of(document: KeyDocument, encoding: Encoding) -> Adder:
    """Return what adds vectors of ``encoding`` under the key of ``document``, which was checked.

    Raises:
        ParameterError: they cannot be added under it, or a message of their round would be too long.
        MissingExtra: the package of its scheme is not installed.
    """
    adder = _adder(document, encoding)
    longest = longest_payload(adder, silos=encoding.cohort)
    if longest > MAX_LENGTH:
        # A little less than in proportion: proofs and seals do not shrink with the vector. Two digits say it.
        fitting = int(0.999 * encoding.length * MAX_LENGTH / longest)
        fitting -= fitting % 10 ** max(0, len(str(fitting)) - 2)
        raise ParameterError(
            f"{document.scheme} with {encoding.length:,} parameters and {encoding.cohort} silos has a "
            f"message {longest / MAX_LENGTH:.3g} times as long as the longest that is taken: train at most "
            f"{fitting:,} parameters, or take another scheme, masking for example"
        )
    return adder


def longest_payload(adder: Adder, *, silos: int) -> int:
    """Return the entries of the longest payload in a round of so many silos, which ``wire`` limits."""
    longest = max(adder.upload.length, adder.total.length)
    if not adder.part_size:
        return longest
    # Every silo is sent all uploads, and then all parts, in one message.
    return silos * max(longest, adder.part_size + SEAL_SIZE)


def _adder(document: KeyDocument, encoding: Encoding) -> Adder:
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
