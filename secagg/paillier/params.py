"""The user's choice of Paillier, with a whole key or a shared one; imports no secret and no GMP."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.protection import Protection
from secagg.ranges import whole
from secagg.terms import PaillierParameters, ThresholdPaillierParameters

LEAST_BITS, DEFAULT_BITS, MOST_BITS = 2048, 3072, 8192
MOST_PARTIES = 64
"""Silos with a share of one key at the most."""
_OURS = ("secagg.", "contextlib")
"""Modules between a caller and a key; ``explained`` decorates through ``contextlib``."""
SECRET_MAGIC = b"secagg paillier secret 1\n"
"""First bytes of a serialised secret key. Its code is elsewhere; public decoders refuse it by them."""


def check_bits(bits: int) -> None:
    """Check the size of a key.

    Raises:
        ParameterError: it is refused.
    """
    if not LEAST_BITS <= bits <= MOST_BITS or bits % 16:
        raise ParameterError(
            f"a Paillier key has {LEAST_BITS} to {MOST_BITS} bits, in steps of 16, not {bits}"
        )


def short_key(bits: int) -> str:
    """Return what is to be said of a key of so many bits; empty if it is long enough."""
    if bits >= DEFAULT_BITS:
        return ""
    return f"a Paillier key of {bits} bits has less than 128 bits of security: take {DEFAULT_BITS}"


def warn_if_short(bits: int) -> None:
    """Give a UserWarning for a key of fewer than 3072 bits, at the line that called this library."""
    text = short_key(bits)
    if text:
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
            frame, level = frame.f_back, level + 1
        warnings.warn(text, stacklevel=level)


def ciphertext_size(bits: int) -> int:
    """Return the bytes of one serialised ciphertext under a key of ``bits``; it is below the square of n."""
    return bits // 4


def answer_size(bits: int) -> int:
    """Return the bytes of the last number of a proof that plaintexts are known; see ``knowledge``.

    It is a sum of up to 2^32 products of a short exponent and one of 128 bits, what hides it, and a carry.
    """
    return bits // 16 + 16 + 4 + 16 + 1


def knowledge_size(bits: int) -> int:
    """Return the bytes of a proof that plaintexts are known, under a key of ``bits``."""
    return ciphertext_size(bits) + bits // 8 + answer_size(bits)


def plaintext_bits(bits: int) -> int:
    """Return p so that every plaintext below ``2 ** p`` can be encrypted under a key of ``bits``."""
    return bits - 1


@dataclass(frozen=True, kw_only=True)
class _Paillier(Protection):
    """Both kinds.

    Args:
        bits: of the key, a multiple of 16.
    """

    bits: int = DEFAULT_BITS

    @explained()
    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "bits", whole("bits", self.bits))
        check_bits(self.bits)


@dataclass(frozen=True, kw_only=True)
class Paillier(_Paillier):
    """Paillier under one key that all silos hold: exact sums that no coordinator opens, 8.3 bytes a value.

    The coordinator must follow the protocol (L0): any one silo could open any single update that reached it.

    Args:
        bits: of the key, 2048 to 8192, a multiple of 16.
        colluders, threshold, min_honest: as of ``Masking``.

    Raises:
        ParameterError: a value out of its range.

    Source: Paillier, EUROCRYPT 1999; Damgard, Jurik, Nielsen, IJIS 2010.
    """

    def parameters(self, n: int, *, key: bytes) -> PaillierParameters:
        """Return the parameters for ``n`` silos with the key of the id ``key``; raises as ``cohort``."""
        return PaillierParameters(self.cohort(n), key)


@dataclass(frozen=True, kw_only=True)
class ThresholdPaillier(_Paillier):
    """Paillier under a key of which every silo holds a share: no silo, and no coordinator that lies, opens.

    Args:
        bits: of the key, 2048 to 8192, a multiple of 16.
        colluders, threshold, min_honest: as of ``Masking``; ``threshold`` silos open a sum together.

    Raises:
        ParameterError: a value out of its range.

    Source: Damgard, Jurik, Nielsen, IJIS 2010, section 4.1; Shoup, EUROCRYPT 2000.
    """

    def parameters(self, n: int, *, key: bytes) -> ThresholdPaillierParameters:
        """Return the parameters for ``n`` silos with the key of the id ``key``; raises as ``cohort``."""
        return ThresholdPaillierParameters(self.cohort(n), key)
