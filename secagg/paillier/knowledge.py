"""A proof that whoever sends ciphertexts knows what is in them.

Anybody can multiply Paillier ciphertexts. Without this, a silo that has the uploads of others, as every silo
has where shares open, could send their inverses, or a power of one of an earlier round, and what is opened
would be one silo's vector. So an upload carries one proof for all of its ciphertexts, made for one silo and
one round: nobody can make it for a plaintext that is not known, and nobody else can use it.

With ciphertexts ``c_i = (1 + m_i n) g^(x_i)``, the prover sends ``A = (1 + a n) g^r``, takes 128 bits ``e_i``
each from a hash of all of it, and answers ``z = a + sum e_i m_i mod n`` and ``x = r + sum e_i x_i``. It holds
if ``(1 + z n) g^x = A prod c_i^(e_i)``. Answers to other e tell what is in the ciphertexts; one answer tells
nothing, for ``a`` is uniform modulo n, and ``r`` 2^128 times as long as what it hides.

Source: Cramer, Damgard, Nielsen, EUROCRYPT 2001 (why sums of ciphertexts need proofs of what is in them, and
this one); Bellare, Garay, Rabin, EUROCRYPT 1998, section 3 (many as one); Bernhard, Pereira, Warinschi,
ASIACRYPT 2012 (the hash must be of the statement, too).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage
from secagg.hazmat.framing import frame
from secagg.names import RandomSource
from secagg.paillier.ciphertexts import encrypt, plaintexts, read
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.obfuscators import Pool
from secagg.paillier.params import answer_size, knowledge_size
from secagg.paillier.powers import EXPONENT_SIZE, product_of_powers
from secagg.paillier.public import PublicKey

_HIDING = 16
"""Bytes by which what hides a secret is longer than it."""


def encrypt_known(rows: NDArray[np.uint8], pool: Pool, *, context: bytes, random: RandomSource) -> bytes:
    """Return the ciphertexts of ``rows``, end to end, and the proof that their plaintexts are known.

    Args:
        rows: as of ``ciphertexts.encrypt``.
        pool: of a key with short obfuscators; one is taken for each.
        context: what the proof is for; it holds for nothing else.
        random: fresh uniform bytes.

    Raises:
        UsageError: a plaintext may not be below n, or the key has other obfuscators.
    """
    key = pool.key
    n, n_squared, size = key.n, key.n_squared, key.ciphertext_size
    known = [pool.take_known() for _ in rows]
    ciphertexts = b"".join(encrypt(rows, pool, obfuscators=(obfuscator for _, obfuscator in known)))
    hidden = mpz.from_bytes(random(key.bits // 8 + _HIDING), "big") % n
    hiding = mpz.from_bytes(random(answer_size(key.bits) - 1), "big")
    commitment = (hidden * n + 1) * gmpy2.powmod_sec(key.base, hiding, n_squared) % n_squared
    shown = commitment.to_bytes(size, "big")
    drawn = _exponents(key, shown, [ciphertexts], len(known), context=context)
    for e, plaintext, (exponent, _) in zip(_split(drawn), plaintexts(rows), known, strict=True):
        hidden += e * plaintext
        hiding += e * exponent
    return (
        ciphertexts
        + shown
        + (hidden % n).to_bytes(key.bits // 8, "big")
        + hiding.to_bytes(answer_size(key.bits), "big")
    )


def check_known(
    ciphertexts: Callable[[], Iterable[memoryview]],
    count: int,
    proof: bytes,
    key: PublicKey,
    *,
    context: bytes,
) -> None:
    """Check ciphertexts, and that whoever sent them knows their plaintexts.

    Args:
        ciphertexts: returns them, whole ones in each piece; called twice.
        count: how many they are.
        proof: ``params.knowledge_size`` bytes.
        key: that they are under.
        context: what the proof was made for.

    Raises:
        MalformedMessage: one is none (see ``ciphertexts.read``), or the proof does not hold.

    Guarantees:
        One piece is held.
    """
    size, n_squared = key.ciphertext_size, key.n_squared
    if len(proof) != knowledge_size(key.bits):
        raise MalformedMessage("the proof that its plaintexts are known has another size")
    shown, answers = proof[:size], proof[size:]
    (commitment,) = read(shown, key)
    z, x = (mpz.from_bytes(part, "big") for part in (answers[: key.bits // 8], answers[key.bits // 8 :]))
    if z >= key.n:
        raise MalformedMessage("the proof that its plaintexts are known has a number that is too large")
    drawn, at = _exponents(key, shown, ciphertexts(), count, context=context), 0
    right = commitment
    for piece in ciphertexts():
        found = read(piece, key)
        right = right * product_of_powers(found, drawn[at:], n_squared) % n_squared
        at += EXPONENT_SIZE * len(found)
    if at != len(drawn) or (z * key.n + 1) * gmpy2.powmod(key.base, x, n_squared) % n_squared != right:
        raise MalformedMessage("the proof that its plaintexts are known does not hold")


def _exponents(
    key: PublicKey,
    commitment: bytes,
    ciphertexts: Iterable[bytes | memoryview],
    count: int,
    *,
    context: bytes,
) -> bytes:
    content = hashlib.sha256(frame("paillier plaintexts", key.id, context, count, commitment))
    for piece in ciphertexts:
        content.update(piece)
    return hashlib.shake_256(content.digest()).digest(EXPONENT_SIZE * count)


def _split(exponents: bytes) -> Sequence[mpz]:
    steps = range(0, len(exponents), EXPONENT_SIZE)
    return [mpz.from_bytes(exponents[at : at + EXPONENT_SIZE], "big") for at in steps]
