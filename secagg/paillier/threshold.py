"""A Paillier key of which no silo holds enough: what everybody knows of it, and opening with t answers.

Partial decryptions carry a proof that they were made with the share that was dealt, so that wrong ones name
their silo. Nothing here opens anything without t silos.

Source: Shoup, "Practical threshold signatures", EUROCRYPT 2000, section 2.2 (shares with Delta = n!, equality
of discrete logarithms on squares); Damgard, Jurik, Nielsen 2010, section 4.1 (the same for Paillier);
Bellare, Garay, Rabin, EUROCRYPT 1998, section 3 (many equalities as one, by random exponents).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import factorial

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, ParameterError, RoundAborted, UsageError
from secagg.hazmat.framing import digest, frame
from secagg.paillier.ciphertexts import plaintext_rows
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.params import MOST_PARTIES
from secagg.paillier.powers import EXPONENT_SIZE, product_of_powers
from secagg.paillier.public import PublicKey

CHALLENGE_BITS = 256


def check_parties(parties: int, threshold: int) -> None:
    """Check how many have a share, and how many of them open.

    Raises:
        ParameterError: it is refused.
    """
    if not 2 <= parties <= MOST_PARTIES or not 1 <= threshold <= parties:
        raise ParameterError(f"{threshold} of {parties} shares: there are 2 to {MOST_PARTIES}, 1 to all open")


@dataclass(frozen=True)
class Proof:
    """That one silo's partial decryptions were all made with its share.

    Attributes:
        challenge: 0 to 2^256 - 1.
        response: at least 0.
    """

    challenge: int
    response: int


@dataclass(frozen=True, eq=False)
class ThresholdKey:
    """What everybody knows of a shared key.

    Attributes:
        public: what vectors are encrypted under.
        parties: n, how many silos have a share, 2 to 64.
        threshold: t, how many open, 1 to n.
        generator: a square modulo n^2.
        verification: ``generator ** (Delta * share)`` of each party, in order.

    Raises:
        ParameterError: a number is out of its range.
    """

    public: PublicKey
    parties: int
    threshold: int
    generator: mpz
    verification: tuple[mpz, ...]

    def __post_init__(self) -> None:
        check_parties(self.parties, self.threshold)
        known = (self.generator, *self.verification)
        if self.public.obfuscation != "short":
            raise ParameterError("a threshold key has short obfuscators, of which proofs can be made")
        if len(self.verification) != self.parties or not all(map(self.is_unit, known)):
            raise ParameterError("the verification keys are not one invertible number for each party")

    @cached_property
    def delta(self) -> int:
        """``n!``, which makes the coefficients of the interpolation whole numbers."""
        return factorial(self.parties)

    @cached_property
    def id(self) -> bytes:
        """Digest of the key, 32 bytes."""
        size = self.public.ciphertext_size
        known = tuple(number.to_bytes(size, "big") for number in (self.generator, *self.verification))
        return digest("threshold paillier key", self.public.id, self.parties, self.threshold, known)

    def is_unit(self, number: mpz) -> bool:
        """Whether ``number`` is invertible modulo n^2 and below it."""
        return bool(1 < number < self.public.n_squared and gmpy2.gcd(number, self.public.n) == 1)

    def check(
        self, party: int, ciphertexts: Sequence[mpz], partials: Sequence[mpz], proof: Proof, *, context: bytes
    ) -> bool:
        """Whether ``partials`` are those of ``party``, 1 to n, for valid ``ciphertexts``.

        Args:
            party: whose.
            ciphertexts: what was to be opened.
            partials: one for each.
            proof: of the party.
            context: what the proof was made for; it holds for nothing else.
        """
        if not 1 <= party <= self.parties or len(partials) != len(ciphertexts) or not partials:
            return False
        if not all(map(self.is_unit, partials)) or not 0 <= proof.challenge < 2**CHALLENGE_BITS:
            return False
        if proof.response < 0 or proof.response.bit_length() > self.response_bits:
            return False
        modulus, verification = self.public.n_squared, self.verification[party - 1]
        base, power = self.batch(party, ciphertexts, partials, context=context)
        e, z = -proof.challenge, proof.response
        first = gmpy2.powmod(base, z, modulus) * gmpy2.powmod(power, e, modulus) % modulus
        second = gmpy2.powmod(self.generator, z, modulus) * gmpy2.powmod(verification, e, modulus) % modulus
        return self.challenge(party, (base, power, first, second), context=context) == proof.challenge

    def open(self, partials: Mapping[int, Sequence[mpz]], *, size: int) -> NDArray[np.uint8]:
        """Return the plaintexts, from partial decryptions that were checked.

        Args:
            partials: party, 1 to n -> one partial decryption for each ciphertext. The t lowest are used.
            size: bytes that each plaintext has room in.

        Returns:
            Shape (count, size), little-endian.

        Raises:
            UsageError: fewer than t parties, or not the same number of partial decryptions of each.
            RoundAborted: they open nothing, or a plaintext does not fit: it is no sum of packed ones.
        """
        parties = sorted(partials)[: self.threshold]
        counts = {len(partials[party]) for party in parties}
        if len(parties) < self.threshold or len(counts) != 1:
            raise UsageError(f"{self.threshold} parties open a sum together, {len(parties)} are here")
        n, modulus = self.public.n, self.public.n_squared
        coefficients = {party: 2 * self._coefficient(party, parties) for party in parties}
        correction = gmpy2.invert(4 * self.delta * self.delta, n)
        plaintexts = []
        for at in range(counts.pop()):
            combined = mpz(1)
            for party, exponent in coefficients.items():
                combined = combined * gmpy2.powmod(partials[party][at], exponent, modulus) % modulus
            if combined % n != 1:
                raise RoundAborted("the partial decryptions open nothing")
            plaintexts.append((combined - 1) // n * correction % n)
        try:
            return plaintext_rows(plaintexts, size)
        except OverflowError:
            raise RoundAborted("what was opened is not a sum of packed vectors") from None

    def _coefficient(self, party: int, parties: Sequence[int]) -> int:
        """Return ``Delta`` times Lagrange's coefficient at 0, which is a whole number."""
        above, below = self.delta, 1
        for other in parties:
            if other != party:
                above *= -other
                below *= party - other
        return above // below

    # --- both sides of a proof ---------------------------------------------------------------------------

    @property
    def response_bits(self) -> int:
        """Bits of a response at the most; its blinding is 2^256 times as long as what it blinds."""
        secret = 2 * self.public.bits + self.delta.bit_length()
        return secret + 2 * CHALLENGE_BITS + 1

    def batch(
        self, party: int, ciphertexts: Sequence[mpz], partials: Sequence[mpz], *, context: bytes
    ) -> tuple[mpz, mpz]:
        """Return two products: the second is the first to ``Delta * share`` if all partials are right."""
        size, modulus = self.public.ciphertext_size, self.public.n_squared
        content = hashlib.sha256(frame("paillier batch", self.id, party, context))
        for numbers in (ciphertexts, partials):
            for number in numbers:
                content.update(number.to_bytes(size, "big"))
        # The exponents depend on every number, so that none can be chosen to make up for another.
        stream = hashlib.shake_256(content.digest()).digest(EXPONENT_SIZE * len(partials))
        base, power = (product_of_powers(numbers, stream, modulus) for numbers in (ciphertexts, partials))
        # Squares have no part of small order, in which a wrong power could hide.
        return gmpy2.powmod(base, 4, modulus), gmpy2.powmod(power, 2, modulus)

    def challenge(self, party: int, numbers: Sequence[mpz], *, context: bytes) -> int:
        """Return the challenge of a proof over what it states and commits to."""
        size = self.public.ciphertext_size
        stated = tuple(number.to_bytes(size, "big") for number in numbers)
        return int.from_bytes(digest("paillier proof", self.id, party, context, stated), "big")

    @property
    def proof_size(self) -> int:
        """Bytes of a proof."""
        return CHALLENGE_BITS // 8 + (self.response_bits + 7) // 8

    def proof_bytes(self, proof: Proof) -> bytes:
        """Return ``proof`` as ``proof_from`` reads it."""
        challenge = proof.challenge.to_bytes(CHALLENGE_BITS // 8, "big")
        return challenge + proof.response.to_bytes(self.proof_size - len(challenge), "big")

    def proof_from(self, data: bytes) -> Proof:
        """Return the proof in ``proof_size`` bytes; whether it holds is another question."""
        challenge, response = data[: CHALLENGE_BITS // 8], data[CHALLENGE_BITS // 8 :]
        return Proof(int.from_bytes(challenge, "big"), int.from_bytes(response, "big"))

    # --- bytes -------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the key as ``from_bytes`` reads it."""
        size, public = self.public.ciphertext_size, self.public.to_bytes()
        numbers = b"".join(number.to_bytes(size, "big") for number in (self.generator, *self.verification))
        return bytes([self.parties, self.threshold]) + len(public).to_bytes(2, "big") + public + numbers

    @classmethod
    def from_bytes(cls, data: bytes) -> ThresholdKey:
        """Read a key.

        Raises:
            MalformedMessage: the bytes are none.
        """
        start = 4 + int.from_bytes(data[2:4], "big")
        public = PublicKey.from_bytes(data[4:start])
        size, numbers = public.ciphertext_size, data[start:]
        if len(numbers) != (data[0] + 1) * size:
            raise MalformedMessage("the bytes are no threshold key")
        generator, *verification = (
            mpz.from_bytes(numbers[at : at + size], "big") for at in range(0, len(numbers), size)
        )
        try:
            return cls(public, data[0], data[1], generator, tuple(verification))
        except ParameterError as error:
            raise MalformedMessage(f"the bytes are no threshold key: {error}") from error

    def __repr__(self) -> str:
        return f"ThresholdKey({self.threshold} of {self.parties}, {self.public!r})"
