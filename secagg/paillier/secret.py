"""The secret half of a Paillier key, and opening with it. Only silos import this.

Big-integer arithmetic takes a time that depends on the numbers. So whatever is raised to a secret power is
blinded before: who chose a ciphertext learns nothing from how long it took. Another process on the same
processor may; and Python cannot wipe memory.

Source: Paillier, EUROCRYPT 1999, sections 4 and 7 (decryption modulo each prime); Damgard, Jurik, Nielsen
2010, section 4.2 (primes 3 modulo 4 whose p - 1 and q - 1 share the factor 2 alone); Kocher, CRYPTO 1996,
section 10 (blinding by a factor that is squared for the next number).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, ParameterError, RoundAborted, UsageError
from secagg.hazmat.cores import usable_cores
from secagg.names import RandomSource
from secagg.paillier.ciphertexts import plaintext_rows
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.obfuscators import random_unit
from secagg.paillier.params import DEFAULT_BITS, SECRET_MAGIC, check_bits, warn_if_short
from secagg.paillier.public import Obfuscation, PublicKey

_TESTS = 32
"""Rounds of Miller-Rabin beside the test of Baillie, Pomerance, Selfridge and Wagstaff."""
_CLOSE = 100
_BLOCK = 16
"""Ciphertexts that one thread opens before it says so."""


class SecretKey:
    """Two primes, and the public key that they make.

    Args:
        first: a prime, p.
        second: another, q, of as many bits.
        obfuscation: see ``PublicKey``; ``"short"`` demands primes that are 3 modulo 4.

    Raises:
        ParameterError: they are not so, or are too close to each other.

    Guarantees:
        Its repr shows the public half and nothing else.
        It refuses to be copied or pickled.
        Its bytes are refused where a public key is read.
    """

    __slots__ = ("_inverse", "_p", "_p_factor", "_p_squared", "_q", "_q_factor", "_q_squared", "public")

    def __init__(self, first: int | mpz, second: int | mpz, *, obfuscation: Obfuscation = "short") -> None:
        self._p, self._q = p, q = mpz(first), mpz(second)
        bits = p.bit_length()
        if not (p > 1 and q > 1 and bits == q.bit_length()):
            raise ParameterError("a secret Paillier key is two primes of one size")
        if abs(p - q).bit_length() < bits - _CLOSE:
            raise ParameterError("the primes of the secret Paillier key are too close: n can be factored")
        if not (gmpy2.is_prime(p, _TESTS) and gmpy2.is_prime(q, _TESTS)):
            raise ParameterError("a number of the secret Paillier key is not prime")
        if obfuscation == "short" and not (p % 4 == 3 == q % 4 and gmpy2.gcd(p - 1, q - 1) == 2):
            raise ParameterError(
                "short obfuscators need primes that are 3 modulo 4 and share no factor less 1"
            )
        if gmpy2.gcd(p * q, (p - 1) * (q - 1)) != 1:
            raise ParameterError("the primes of the secret Paillier key open no ciphertext")
        self.public = PublicKey(p * q, obfuscation=obfuscation)
        self._p_squared, self._q_squared = p * p, q * q
        self._p_factor = gmpy2.invert(_quotient(gmpy2.powmod(1 + p * q, p - 1, p * p), p), p)
        self._q_factor = gmpy2.invert(_quotient(gmpy2.powmod(1 + p * q, q - 1, q * q), q), q)
        self._inverse = gmpy2.invert(p, q)

    @classmethod
    def generate(cls, bits: int = DEFAULT_BITS, *, random: RandomSource = os.urandom) -> SecretKey:
        """Make a key of ``bits`` bits, 2048 to 8192.

        Raises:
            ParameterError: another size.

        Warns:
            UserWarning: fewer than 3072 bits, which is less than 128 bits of security.
        """
        check_bits(bits)
        warn_if_short(bits)
        while True:
            p, q = _prime(bits // 2, random), _prime(bits // 2, random)
            if gmpy2.gcd(p - 1, q - 1) == 2 and abs(p - q).bit_length() >= bits // 2 - _CLOSE:
                return cls(p, q)

    def open(
        self,
        ciphertexts: Sequence[mpz],
        *,
        size: int,
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
        random: RandomSource = os.urandom,
    ) -> NDArray[np.uint8]:
        """Return the plaintexts of valid ciphertexts (see ``ciphertexts.read``).

        Args:
            ciphertexts: under this key.
            size: bytes that each plaintext has room in.
            threads: at most; None for one for each usable core.
            progress: told how many more were opened, from several threads.
            random: fresh uniform bytes.

        Returns:
            Shape (count, size), little-endian.

        Raises:
            RoundAborted: a plaintext does not fit in ``size`` bytes: it is no sum of packed ones.
        """
        blinded = self._blinded(ciphertexts, random)
        blocks = [blinded[start : start + _BLOCK] for start in range(0, len(blinded), _BLOCK)]

        def work(block: Sequence[mpz]) -> NDArray[np.uint8]:
            gmpy2.get_context().allow_release_gil = True
            try:
                rows = plaintext_rows(self._open(block), size)
            except OverflowError:
                raise RoundAborted("what was opened is not a sum of packed vectors") from None
            if progress is not None:
                progress(len(block))
            return rows

        with ThreadPoolExecutor(usable_cores() if threads is None else threads) as pool:
            return np.concatenate([np.empty((0, size), np.uint8), *pool.map(work, blocks)])

    def _blinded(self, ciphertexts: Sequence[mpz], random: RandomSource) -> list[mpz]:
        """Return ciphertexts of the same plaintexts, each times an encryption of zero."""
        n, modulus = self.public.n, self.public.n_squared
        factor = gmpy2.powmod(random_unit(n, random), n, modulus)
        blinded = []
        for ciphertext in ciphertexts:
            blinded.append(ciphertext * factor % modulus)
            factor = factor * factor % modulus
        return blinded

    def _open(self, ciphertexts: Sequence[mpz]) -> Iterator[mpz]:
        p, q = self._p, self._q
        # A list at a time, for which GMP holds the interpreter up once.
        at_p = gmpy2.powmod_base_list([c % self._p_squared for c in ciphertexts], p - 1, self._p_squared)
        at_q = gmpy2.powmod_base_list([c % self._q_squared for c in ciphertexts], q - 1, self._q_squared)
        for power_p, power_q in zip(at_p, at_q, strict=True):
            plain_p = _quotient(power_p, p) * self._p_factor % p
            plain_q = _quotient(power_q, q) * self._q_factor % q
            yield plain_p + p * ((plain_q - plain_p) * self._inverse % q)

    def roots(self, numbers: Sequence[mpz]) -> list[mpz]:
        """Return the n-th root modulo n of each of numbers that a hash drew; see ``permutation``."""
        p, q, n = self._p, self._q, self.public.n
        roots = []
        for number in numbers:
            at_p = gmpy2.powmod_sec(number % p, gmpy2.invert(n, p - 1), p)
            at_q = gmpy2.powmod_sec(number % q, gmpy2.invert(n, q - 1), q)
            roots.append(at_p + p * ((at_q - at_p) * self._inverse % q))
        return roots

    def primes(self) -> tuple[int, int]:
        """Return the secret itself, for another library only."""
        return int(self._p), int(self._q)

    def to_bytes(self) -> bytes:
        """Return the secret itself, to be sealed for other silos or kept in a key file."""
        size = self.public.bits // 16
        kind = b"\1" if self.public.obfuscation == "full" else b"\0"
        return SECRET_MAGIC + kind + self._p.to_bytes(size, "big") + self._q.to_bytes(size, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> SecretKey:
        """Read what ``to_bytes`` gave.

        Raises:
            MalformedMessage: the bytes are no secret key.
        """
        kind, numbers = data[len(SECRET_MAGIC) : len(SECRET_MAGIC) + 1], data[len(SECRET_MAGIC) + 1 :]
        if not data.startswith(SECRET_MAGIC) or kind not in {b"\0", b"\1"} or len(numbers) % 2:
            raise MalformedMessage("the bytes are no secret Paillier key")
        half = len(numbers) // 2
        p, q = (int.from_bytes(part, "big") for part in (numbers[:half], numbers[half:]))
        try:
            return cls(p, q, obfuscation="full" if kind == b"\1" else "short")
        except ParameterError:
            raise MalformedMessage("the bytes are no secret Paillier key") from None

    def __repr__(self) -> str:
        return f"SecretKey(of {self.public!r})"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a secret key is not copied or pickled")


def _quotient(x: mpz, prime: mpz) -> mpz:
    """Return Paillier's L: ``(x - 1) / prime``."""
    return (x - 1) // prime


def _prime(bits: int, random: RandomSource) -> mpz:
    """Return a random prime of ``bits`` bits, 3 modulo 4, whose square has twice as many."""
    top = mpz(3) << (bits - 2)  # The product of two such numbers has all its bits.
    while True:
        candidate = mpz.from_bytes(random(bits // 8), "big") | top | 3
        if gmpy2.is_prime(candidate, _TESTS):
            return candidate
