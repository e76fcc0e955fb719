"""Products of many powers with short public exponents, of which proofs over many ciphertexts are made.

Source: Bernstein, Doumen, Lange, Oosterwijk, INDOCRYPT 2012, section 4 (Pippenger's buckets).
"""

from __future__ import annotations

from collections.abc import Sequence

from secagg.paillier.gmp import gmpy2, mpz

EXPONENT_SIZE = 16
"""Bytes of an exponent: a batch in which one of many statements is wrong passes with 2^-128."""

_FEW = 128
"""Up to so many powers are made one by one; with more, what is done once for all of them pays."""
_MOST = 4096


def product_of_powers(bases: Sequence[mpz], exponents: bytes, modulus: mpz) -> mpz:
    """Return the product of ``bases``, each to its exponent.

    Args:
        bases: below ``modulus``.
        exponents: ``EXPONENT_SIZE`` bytes for each, big-endian. The time tells which they are.
        modulus: above 1.
    """
    total = mpz(1)
    for start in range(0, len(bases), _MOST):
        some = bases[start : start + _MOST]
        there = exponents[EXPONENT_SIZE * start :]
        total = total * (_by_buckets if len(some) > _FEW else _one_by_one)(some, there, modulus) % modulus
    return total


def _one_by_one(bases: Sequence[mpz], exponents: bytes, modulus: mpz) -> mpz:
    total = mpz(1)
    for at, base in enumerate(bases):
        exponent = mpz.from_bytes(exponents[EXPONENT_SIZE * at : EXPONENT_SIZE * (at + 1)], "big")
        total = total * gmpy2.powmod(base, exponent, modulus) % modulus
    return total


def _by_buckets(bases: Sequence[mpz], exponents: bytes, modulus: mpz) -> mpz:
    total = mpz(1)
    for window in range(EXPONENT_SIZE):
        total = gmpy2.powmod(total, 256, modulus)
        # Bases whose exponent has the same byte here are multiplied first, and raised to it together.
        buckets = [mpz(1)] * 256
        for base, digit in zip(bases, exponents[window::EXPONENT_SIZE], strict=False):
            buckets[digit] = buckets[digit] * base % modulus
        running = raised = mpz(1)
        for bucket in reversed(buckets[1:]):
            running = running * bucket % modulus
            raised = raised * running % modulus
        total = total * raised % modulus
    return total
