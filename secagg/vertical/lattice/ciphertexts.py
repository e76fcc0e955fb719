"""Hidden vectors of integers: keys, encryption, the noise that is in what comes back, and opening it.

A ciphertext of the integers m is (a, b) with b = a s + e + m/t modulo q, where 1/t is the inverse of the
plaintext modulus t = 2^60: linear maps of ciphertexts are linear maps of m modulo t without any rounding, and
what is opened is exact while the errors stay below q / 2t. ``secagg.vertical.lattice.product`` says what is
computed with them and why nothing leaks; this module encrypts and opens.

Source: Fan, Vercauteren 2012, "Somewhat practical fully homomorphic encryption", with the plaintext's unit
1/t in the place of the rounded q/t; t times it is the form of Brakerski, Gentry, Vaikuntanathan 2012.
"""

from __future__ import annotations

import math
import os
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.errors import UsageError
from secagg.hazmat.short import errors, ternary
from secagg.names import RandomSource
from secagg.vertical.lattice.ring import DEGREE, MODULUS, NARROW, PRIME_BITS, WIDE, Limbs
from secagg.vertical.lattice.sampling import SEED_SIZE, uniform

PLAIN_BITS = 60
PLAIN = 1 << PLAIN_BITS
"""t: plaintexts are integers modulo 2^60."""

UNIT = np.array([[pow(PLAIN, -1, prime)] for prime in WIDE.primes], np.uint64)
"""1/t modulo each prime: what a plaintext is multiplied by."""
MASK = np.uint64(PLAIN - 1)
"""What takes a word modulo t."""
_OPENED = np.uint64(-MODULUS % PLAIN)
_DIGIT = np.uint64(PRIME_BITS)


class SecretKey:
    """The key of a party that hides vectors; for one session.

    Args:
        random: where its secrets and errors come from.

    Guarantees:
        Its repr shows nothing; it refuses to be copied or pickled.
    """

    __slots__ = ("_random", "_secret")

    def __init__(self, random: RandomSource = os.urandom) -> None:
        self._random = random
        self._secret = WIDE.forward(ternary((1, DEGREE), random))

    def public(self) -> tuple[bytes, Limbs]:
        """Return an encryption of zero, with which others make encryptions of zero of their own.

        A seed that stands for the first half, and the values of the second, shape (primes, N).
        """
        seed, polynomials = self.encrypt(np.zeros((1, DEGREE), np.int64))
        return seed, polynomials[0]

    def encrypt(self, plain: NDArray[np.int64]) -> tuple[bytes, Limbs]:
        """Encrypt polynomials of integers.

        Args:
            plain: coefficients of magnitude below t / 2, shape (count, N).

        Returns:
            A seed that stands for the one half, and the values of the other, shape (count, primes, N).
        """
        seed = self._random(SEED_SIZE)
        hidden = np.multiply(WIDE.of_integers(plain), UNIT, dtype=np.uint64)
        hidden += WIDE.of_integers(errors(plain.shape, self._random))
        noisy = WIDE.forward((hidden % WIDE.moduli).astype(np.uint32))
        return seed, WIDE.total(WIDE.product(uniform(seed, len(plain), WIDE), self._secret), noisy)

    def open(self, firsts: Limbs, seconds: Limbs, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Open some coefficients of narrowed ciphertexts.

        Args:
            firsts: the first halves, coefficients, shape (count, narrow primes, N).
            seconds: of the other halves the coefficients that are opened, shape (count, narrow primes,
                len(places)).
            places: which.

        Returns:
            Integers modulo 2^60, shape (count, len(places)).
        """
        secret = self._secret[: len(NARROW.primes)]
        masks = NARROW.inverse(NARROW.product(NARROW.forward(firsts), secret))[..., places]
        return rounded(NARROW.difference(seconds, masks))

    def __repr__(self) -> str:
        return "SecretKey()"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a key that hides vectors is not copied or pickled; it belongs to one session")


def rounded(phase: Limbs) -> NDArray[np.uint64]:
    """Return the plaintexts of phases modulo the narrow modulus q', shape (..., primes, n) -> (..., n).

    The phase of m is q'/t (k m mod t) and an error, with k = -1/q modulo t. t/q' times the phase is the sum
    over the primes p of t y / p, with y the phase times p / q' modulo p: whole parts and fractions are added
    apart, and the fractions' float64 is off by less than 2^-50.
    """
    modulus = math.prod(NARROW.primes)
    whole = np.zeros((*phase.shape[:-2], phase.shape[-1]), np.uint64)
    fraction = np.full(whole.shape, 0.5)
    for at, prime in enumerate(map(np.uint64, NARROW.primes)):
        inverse = np.uint64(pow(modulus // int(prime), -1, int(prime)))
        rest = phase[..., at, :].astype(np.uint64) * inverse % prime
        # Long division of 2^60 y by p, 30 bits at a time.
        upper, rest = np.divmod(rest << _DIGIT, prime)
        lower, rest = np.divmod(rest << _DIGIT, prime)
        whole += (upper << _DIGIT) + lower
        fraction += rest / prime
    whole += np.floor(fraction).astype(np.uint64)
    return whole * _OPENED & MASK


def centred(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the integers from -t / 2 that words stand for modulo t."""
    spare = 64 - PLAIN_BITS
    return (words << np.uint64(spare)).view(np.int64) >> spare
