"""Dealing a threshold key, and decrypting with one share of it. Only silos import this.

The dealer knows the whole key while it deals, and nobody can prove that it forgot.

Source: Damgard, Jurik, Nielsen 2010, section 4.1; Shoup, EUROCRYPT 2000, section 2.2; Wiener, "Safe prime
generation with a combined sieve", 2003.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np

from secagg.errors import MalformedMessage, ParameterError, UsageError
from secagg.hazmat.cores import usable_cores
from secagg.names import RandomSource
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.obfuscators import random_unit
from secagg.paillier.params import DEFAULT_BITS, SECRET_MAGIC, check_bits, warn_if_short
from secagg.paillier.public import PublicKey
from secagg.paillier.threshold import Proof, ThresholdKey, check_parties

_TESTS = 32
_WINDOW = 1 << 18
_SIEVE = 1 << 20
"""Candidates that are sieved at once, and the primes that they are sieved by."""


class KeyShare:
    """One silo's part of a threshold key.

    Args:
        key: what everybody knows of it.
        party: whose part, 1 to n.
        share: the secret integer.

    Raises:
        ParameterError: the share is not the one that the verification key of ``party`` stands for, or is
            larger than any that is dealt.

    Guarantees:
        Its repr shows no part of the share.
        It refuses to be copied or pickled.
    """

    __slots__ = ("_exponent", "_share", "key", "party")

    def __init__(self, key: ThresholdKey, party: int, share: int | mpz) -> None:
        self.key = key
        self.party = party
        self._share = mpz(share)
        self._exponent = key.delta * self._share
        # A dealt one is below n (p - 1) (q - 1) / 4. With a multiple of that added it stands for the same and
        # opens as well, but no proof has room for it.
        if not 1 <= party <= key.parties or not 0 < 4 * self._share < key.public.n_squared:
            raise ParameterError(f"party {party} has no such share of a key of {key.parties}")
        stands_for = gmpy2.powmod_sec(key.generator, self._exponent, key.public.n_squared)
        if stands_for != key.verification[party - 1]:
            raise ParameterError("the share is not the one that was dealt")

    def decrypt(
        self,
        ciphertexts: Sequence[mpz],
        *,
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
        random: RandomSource = os.urandom,
    ) -> list[mpz]:
        """Return the partial decryption of each valid ciphertext.

        Args:
            ciphertexts: under the key.
            threads: at most; None for one for each usable core.
            progress: told how many more are done, from several threads.
            random: fresh uniform bytes.
        """
        exponent, modulus = 2 * self._exponent, self.key.public.n_squared
        # Blinded as in ``secret``; here a power of the factor has to be taken out again.
        factor = random_unit(self.key.public.n, random)
        removal = gmpy2.powmod(gmpy2.invert(factor, modulus), exponent, modulus)
        factors = [(factor, removal)]
        for _ in ciphertexts[1:]:
            factor, removal = factor * factor % modulus, removal * removal % modulus
            factors.append((factor, removal))

        def work(ciphertext: mpz, blinding: tuple[mpz, mpz]) -> mpz:
            gmpy2.get_context().allow_release_gil = True
            factor, removal = blinding
            partial = gmpy2.powmod(ciphertext * factor % modulus, exponent, modulus) * removal % modulus
            if progress is not None:
                progress(1)
            return partial

        with ThreadPoolExecutor(usable_cores() if threads is None else threads) as pool:
            return list(pool.map(work, ciphertexts, factors))

    def prove(
        self,
        ciphertexts: Sequence[mpz],
        partials: Sequence[mpz],
        *,
        context: bytes,
        random: RandomSource = os.urandom,
    ) -> Proof:
        """Return the proof that ``partials`` are what ``decrypt(ciphertexts)`` gave.

        Args:
            ciphertexts: at least one.
            partials: of all of them.
            context: what the proof is for.
            random: fresh uniform bytes.
        """
        key, modulus = self.key, self.key.public.n_squared
        base, power = key.batch(self.party, ciphertexts, partials, context=context)
        # As long as a response may be, less one bit: it hides a share times a challenge but for 2^-256.
        blinding = mpz.from_bytes(random(key.response_bits // 8 + 1), "big") >> 9 - key.response_bits % 8
        first = gmpy2.powmod_sec(base, blinding, modulus)
        second = gmpy2.powmod_sec(key.generator, blinding, modulus)
        challenge = key.challenge(self.party, (base, power, first, second), context=context)
        return Proof(challenge, int(blinding + challenge * self._exponent))

    def to_bytes(self) -> bytes:
        """Return the secret itself, without the key, to be sealed for its silo."""
        size = (self._share.bit_length() + 7) // 8
        return SECRET_MAGIC + b"\2" + bytes([self.party]) + self._share.to_bytes(size, "big")

    @classmethod
    def from_bytes(cls, data: bytes, key: ThresholdKey) -> KeyShare:
        """Read what ``to_bytes`` gave.

        Raises:
            MalformedMessage: the bytes are no share of ``key``.
        """
        head, rest = SECRET_MAGIC + b"\2", data[len(SECRET_MAGIC) + 1 :]
        if not data.startswith(head) or len(rest) < 2 or len(rest) > key.public.bits:
            raise MalformedMessage("the bytes are no share of a threshold key")
        try:
            return cls(key, rest[0], int.from_bytes(rest[1:], "big"))
        except ParameterError:
            raise MalformedMessage("the bytes are no share of this threshold key") from None

    def __repr__(self) -> str:
        return f"KeyShare(party {self.party} of {self.key!r})"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a share of a key is not copied or pickled")


def deal(
    *, parties: int, threshold: int, bits: int = DEFAULT_BITS, random: RandomSource = os.urandom
) -> tuple[ThresholdKey, tuple[KeyShare, ...]]:
    """Make a key and share it: ``threshold`` of ``parties`` open, fewer learn nothing.

    Takes some ten seconds for 3072 bits.

    Raises:
        ParameterError: a number is out of its range.

    Warns:
        UserWarning: fewer than 3072 bits, which is less than 128 bits of security.
    """
    check_bits(bits)
    check_parties(parties, threshold)
    warn_if_short(bits)
    p = safe_prime(bits // 2, random=random)
    q = p
    while q == p:
        q = safe_prime(bits // 2, random=random)
    return deal_from(p, q, parties=parties, threshold=threshold, random=random)


def deal_from(
    p: int | mpz, q: int | mpz, *, parties: int, threshold: int, random: RandomSource = os.urandom
) -> tuple[ThresholdKey, tuple[KeyShare, ...]]:
    """Share the key of two safe primes of one size; as ``deal``.

    Raises:
        ParameterError: they are no such primes, or a number is out of its range.
    """
    check_parties(parties, threshold)
    p, q = mpz(p), mpz(q)
    if p == q or p.bit_length() != q.bit_length() or not (_is_safe(p) and _is_safe(q)):
        raise ParameterError("a threshold key is made of two safe primes of one size")
    public = PublicKey(p * q)
    order = (p >> 1) * (q >> 1)  # Of the squares modulo n.
    modulus = public.n * order
    secret = order * gmpy2.invert(order, public.n) % modulus  # 0 modulo the order, 1 modulo n.
    coefficients = [secret, *(_below(modulus, random) for _ in range(threshold - 1))]
    root = _below(public.n_squared, random)
    generator = root * root % public.n_squared

    def share(party: int) -> mpz:
        value = mpz(0)
        for coefficient in reversed(coefficients):
            value = (value * party + coefficient) % modulus
        return value

    shares = [share(party) for party in range(1, parties + 1)]
    delta = gmpy2.fac(parties)
    verification = tuple(gmpy2.powmod_sec(generator, delta * each, public.n_squared) for each in shares)
    key = ThresholdKey(public, parties, threshold, generator, verification)
    return key, tuple(KeyShare(key, party, each) for party, each in enumerate(shares, 1))


def safe_prime(bits: int, *, random: RandomSource = os.urandom) -> mpz:
    """Return a random prime p of ``bits`` bits, its two highest set, of which (p - 1) / 2 is prime too."""
    if bits < 64:
        raise ParameterError(f"a safe prime of {bits} bits protects nothing")
    while True:
        for half in _sieved(bits - 1, random):
            candidate = 2 * half + 1
            if _passes(half) and _passes(candidate) and _is_safe(candidate):
                return candidate


def _sieved(bits: int, random: RandomSource) -> Iterator[mpz]:
    """Yield odd numbers h of ``bits`` bits, h and 2h + 1 without a small factor, from a window at random."""
    start = mpz.from_bytes(random((bits + 7) // 8), "big") >> -bits % 8
    start = start | mpz(3) << bits - 2 | 1
    struck = np.zeros(_WINDOW, bool)
    for prime in _small_primes():
        inverse = (prime + 1) // 2
        for target in (0, inverse - 1):  # h = 0, or 2h + 1 = 0, that is h = (prime - 1) / 2.
            first = (target - int(start % prime)) * inverse % prime
            struck[first::prime] = True
    for at in np.flatnonzero(~struck):
        yield start + 2 * int(at)


def _small_primes() -> list[int]:
    sieve = np.ones(_SIEVE, bool)
    sieve[:2] = False
    for number in range(2, int(_SIEVE**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = False
    return [int(prime) for prime in np.flatnonzero(sieve)[1:]]


def _passes(number: mpz) -> bool:
    """Fermat's test: quick, and passed by hardly any composite; what passes is tested for certain later."""
    return gmpy2.powmod(2, number - 1, number) == 1


def _is_safe(number: mpz) -> bool:
    return gmpy2.is_prime(number, _TESTS) and gmpy2.is_prime(number >> 1, _TESTS)


def _below(limit: mpz, random: RandomSource) -> mpz:
    """Return a uniform number below ``limit``, but for 2^-128."""
    return mpz.from_bytes(random(limit.bit_length() // 8 + 17), "big") % limit
