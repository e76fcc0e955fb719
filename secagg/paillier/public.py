"""The public half of a Paillier key: the modulus, checked, and what everybody derives from it.

Nothing here opens anything. That the modulus has two large prime factors cannot be seen from it: whoever made
the key is trusted for that, as for keeping the factors.

Source: Paillier, EUROCRYPT 1999, scheme 1 with g = n + 1; Damgard, Jurik, Nielsen, "A generalization of
Paillier's public-key system", IJIS 2010, section 4.2, for the base of the obfuscators.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Literal, TypeAlias

from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.framing import digest, frame
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.params import MOST_BITS, check_bits, ciphertext_size, plaintext_bits

Obfuscation: TypeAlias = Literal["short", "full"]
"""How ciphertexts are blinded: powers of a base that everybody derives, or n-th powers of fresh numbers."""

MAGIC = b"secagg paillier public 1\n"
SECRET_MAGIC = b"secagg paillier secret 1\n"
"""First bytes of a serialised secret key. Its code is elsewhere; this one refuses it by them."""

_KINDS: tuple[Obfuscation, Obfuscation] = ("short", "full")
_SMALL_PRIMES = gmpy2.primorial(1 << 16)


def check_modulus(n: mpz) -> None:
    """Check what can be told of a modulus without its factors.

    Raises:
        ParameterError: its size is refused, or it is negative, a prime, a power, or has a factor below 2^16.
    """
    check_bits(n.bit_length())
    if n <= 0 or gmpy2.gcd(n, _SMALL_PRIMES) != 1:
        raise ParameterError("the Paillier modulus is not above 0, or has a small factor")
    if gmpy2.is_power(n) or gmpy2.is_prime(n):
        raise ParameterError("the Paillier modulus is a prime or a power of one number")


class PublicKey:
    """A modulus that passed every check that can be made without its factors.

    Args:
        n: the modulus, odd and composite, of 2048 to 8192 bits and a multiple of 16 of them.
        obfuscation: ``"short"`` if both factors are 3 modulo 4, as those of this library are; ``"full"`` for
            keys made elsewhere.

    Raises:
        ParameterError: ``n`` is too small or too large, even, prime, a power, or has a factor below 2^16.

    Guarantees:
        Two keys with one ``id`` are the same key.
        A serialised secret key is refused by its first bytes.
    """

    def __init__(self, n: int | mpz, *, obfuscation: Obfuscation = "short") -> None:
        modulus = mpz(n)
        check_modulus(modulus)
        if obfuscation not in _KINDS:
            raise ParameterError(f"obfuscation is {obfuscation!r}, must be 'short' or 'full'")
        self.n = modulus
        self.bits = modulus.bit_length()
        self.obfuscation: Obfuscation = obfuscation

    @cached_property
    def n_squared(self) -> mpz:
        """Modulus of the ciphertexts."""
        return self.n * self.n

    @cached_property
    def id(self) -> bytes:
        """Digest of the key, 32 bytes."""
        return digest("paillier public key", self.obfuscation, self.n.to_bytes(self.bits // 8, "big"))

    @property
    def ciphertext_size(self) -> int:
        """Bytes of one serialised ciphertext."""
        return ciphertext_size(self.bits)

    @property
    def plaintext_bits(self) -> int:
        """Every plaintext below ``2 ** plaintext_bits`` can be encrypted."""
        return plaintext_bits(self.bits)

    @cached_property
    def base(self) -> mpz:
        """``h^n mod n^2`` with ``h = -x^2 mod n`` and x a hash of n: the base of short obfuscators."""
        size = self.bits // 8
        # 16 bytes more than n has, so that x is uniform modulo n for all that can be told.
        stream = hashlib.shake_256(frame("paillier base", self.n.to_bytes(size, "big"))).digest(size + 16)
        x = mpz(int.from_bytes(stream, "big")) % self.n
        return gmpy2.powmod(self.n - x * x % self.n, self.n, self.n_squared)

    def to_bytes(self) -> bytes:
        """Return the key as ``from_bytes`` reads it."""
        kind = bytes([_KINDS.index(self.obfuscation)])
        return MAGIC + kind + self.n.to_bytes(self.bits // 8, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> PublicKey:
        """Read a key.

        Raises:
            MalformedMessage: the bytes are none, are a secret key, or of a modulus that is refused.
        """
        if data.startswith(SECRET_MAGIC):
            raise MalformedMessage("a secret Paillier key was sent where the public half belongs")
        kind, modulus = data[len(MAGIC) : len(MAGIC) + 1], data[len(MAGIC) + 1 :]
        if not data.startswith(MAGIC) or not kind or kind[0] >= len(_KINDS) or not modulus or not modulus[0]:
            raise MalformedMessage("the bytes are no public Paillier key")
        if len(modulus) > MOST_BITS // 8:
            raise MalformedMessage(f"a Paillier modulus of {len(modulus)} bytes is not read")
        try:
            return cls(int.from_bytes(modulus, "big"), obfuscation=_KINDS[kind[0]])
        except ParameterError as error:
            raise MalformedMessage(f"the bytes are no public Paillier key: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PublicKey({self.bits} bits, {self.obfuscation} obfuscators, id {self.id.hex()[:16]})"
