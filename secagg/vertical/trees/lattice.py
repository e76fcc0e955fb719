"""The ring-LWE scheme of the gradients: its parameters, its noise, and the public key that hides sums.

A ciphertext is (a, b) with b = a s + e + 2^75 m, coefficients modulo 2^105, s ternary, e of standard
deviation 3.24. Two secrets share each a, one for gradients and one for Hessians. With 4,096 coefficients
the standard allows a modulus of 109 bits for 128 bits of security. Rows stand at every eighth coefficient,
so that eight cells of a histogram come out of one product (see ``sums``).

The plaintext m is 30 bits. Below it is room for noise that hides how a sum was made: whoever has the
secrets knows every e, so a sum carries a fresh encryption of zero and, on what is opened, a uniform number
of 74 bits.

Source: Lyubashevsky, Peikert, Regev, EUROCRYPT 2010; Peikert, Regev, Stephens-Davidowitz, STOC 2017 (any
modulus); Peikert, Vaikuntanathan, Waters, CRYPTO 2008 (many secrets share one a); Gentry 2009, section 21.1
(circuit privacy); HomomorphicEncryption.org, "Homomorphic encryption standard", 2018, table 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage
from secagg.hazmat.short import errors, ternary
from secagg.names import RandomSource
from secagg.vertical.trees.ring import (
    LIMB_BITS,
    LIMBS,
    MODULUS_BITS,
    PACKED,
    PRODUCTS,
    Integers,
    N,
    Points,
    transform,
    uniform,
    unpacked,
)

STRIDE = 8
"""Coefficients from one row to the next, and cells of a histogram in one product."""
ROWS = N // STRIDE
"""Rows of one ciphertext."""
MOST_ROWS = ROWS * PRODUCTS
"""Rows at the most: beyond, products would not come out exactly."""
SECRETS = 2
SUM_BITS = 30
"""Sums are integers from -2^29 to 2^29 - 1."""
MOST_SUM = (1 << (SUM_BITS - 1)) - 1
SCALE_BITS = MODULUS_BITS - SUM_BITS
FLOOD_BITS = SCALE_BITS - 1
"""Of the uniform number on a sum: half of what a sum leaves free, so that a quarter is left for rounding."""
SENT_BITS = 48
"""Bits of a coefficient that are sent back: what is below is noise. Rounding adds at most 2^11 in 2^17."""
SENT = SENT_BITS // 8
SEED = 32


def blocks_of(rows: int) -> int:
    """Return how many ciphertexts hold ``rows`` rows."""
    return -(-rows // ROWS)


def flood(shape: tuple[int, ...], random: RandomSource) -> Integers:
    """Return uniform numbers from -2^73 to 2^73 - 1 as limbs, shape (LIMBS, *shape), not yet carried."""
    whole, rest = divmod(FLOOD_BITS, LIMB_BITS)
    words = np.frombuffer(random(4 * (whole + 1) * int(np.prod(shape))), "<u4")
    limbs = np.zeros((LIMBS, *shape), np.int64)
    limbs[: whole + 1] = words.reshape(whole + 1, *shape) & ((1 << LIMB_BITS) - 1)
    limbs[whole] = (limbs[whole] & ((1 << rest) - 1)) - (1 << (rest - 1))
    return limbs


class PublicKey:
    """Encryptions of zero, of which everybody can make fresh ones.

    Args:
        seed: of which a is made, 32 bytes.
        zeros: a s + e for each secret, packed, shape (SECRETS, N, PACKED).

    Raises:
        MalformedMessage: a coefficient is not below the modulus.

    Whoever made it is trusted that it is one: a key of another form could tell how sums were made.
    """

    def __init__(self, seed: bytes, zeros: NDArray[np.uint8]) -> None:
        self.seed = seed
        self.zeros = zeros
        # Limbs of a, then those of each zero.
        limbs = np.concatenate([uniform(seed, 1), unpacked(zeros)]).reshape(-1, N)
        self._points: Points = transform(limbs)

    def zero(self, random: RandomSource) -> tuple[Points, Integers, Integers]:
        """Return a fresh encryption of zero.

        Returns:
            Values of its limbs, shape ((1 + SECRETS) * LIMBS, HALF); the errors of a, shape (N,); and those
            of each b with what floods them, as limbs, shape (LIMBS, SECRETS, STRIDE): of b no more is sent.
        """
        points = transform(ternary((N,), random)) * self._points
        noise = flood((SECRETS, STRIDE), random)
        noise[0] += errors((SECRETS, STRIDE), random)
        return points, errors((N,), random), noise

    def to_array(self) -> NDArray[np.uint8]:
        """Return what is sent of ``zeros``."""
        return np.ascontiguousarray(self.zeros).reshape(-1)

    @classmethod
    def of(cls, seed: bytes, data: NDArray[np.uint8]) -> PublicKey:
        """Read what ``to_array`` gave.

        Raises:
            MalformedMessage: it is none.
        """
        if data.dtype != np.uint8 or data.size != SECRETS * N * PACKED:
            raise MalformedMessage("the bytes are no public key")
        return cls(seed, data.reshape(SECRETS, N, PACKED))

    def __repr__(self) -> str:
        return "PublicKey()"
