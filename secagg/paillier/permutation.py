"""A proof that a modulus hides what it should from whoever made it, too.

Who multiplies ciphertexts and blinds the product with an n-th power trusts that no trace of the factors is
left. Under a modulus of which a prime d divides one factor and another factor less 1, n-th powers leave what
is seen modulo d as it was, and whoever made it reads there which ciphertexts were multiplied.

So who made it shows n-th roots of numbers that a hash draws. If such a d exists, at most one number in d has
a root, and no d below 2^16 gets past ``check_modulus``: that all have one happens once in 2^128. If none
exists, raising to the power n permutes what is invertible, and every ciphertext is one of exactly one
plaintext, with one obfuscator. Roots of random numbers tell nothing: anybody can make them together with the
numbers.

Source: Goldberg, Reyzin, Sagga, Baldimtsi, ASIACRYPT 2019, "Efficient noninteractive certification of RSA
moduli and beyond", the proof of a permuting power.
"""

from __future__ import annotations

import hashlib

from secagg.errors import MalformedMessage
from secagg.hazmat.framing import frame
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.public import PublicKey
from secagg.paillier.secret import SecretKey

ROOTS = 8
"""Each shows 16 bits."""


def prove_permutation(key: SecretKey, *, context: bytes) -> bytes:
    """Return ``ROOTS`` roots, each as long as n.

    Args:
        key: whose modulus it is of.
        context: what the proof is for; it holds for nothing else.
    """
    public = key.public
    roots = key.roots(_drawn(public, context))
    return b"".join(root.to_bytes(public.bits // 8, "big") for root in roots)


def check_permutation(key: PublicKey, proof: bytes, *, context: bytes) -> None:
    """Check a proof.

    Raises:
        MalformedMessage: it does not hold.

    Guarantees:
        Under a key that passes, an encryption times a fresh full obfuscator is uniform among those of its
        plaintext, whoever made the key.
    """
    size = key.bits // 8
    if len(proof) != ROOTS * size:
        raise MalformedMessage("the proof that its modulus hides plaintexts has another size")
    for at, number in enumerate(_drawn(key, context)):
        root = mpz.from_bytes(proof[at * size : (at + 1) * size], "big")
        # What is not invertible has a root more often than one in d.
        if root >= key.n or gmpy2.gcd(number, key.n) != 1 or gmpy2.powmod(root, key.n, key.n) != number:
            raise MalformedMessage("the proof that its modulus hides plaintexts does not hold")


def _drawn(key: PublicKey, context: bytes) -> list[mpz]:
    size = key.bits // 8 + 16  # So that each is uniform modulo n for all that can be told.
    stream = hashlib.shake_256(frame("paillier permutation", key.id, context)).digest(ROOTS * size)
    return [mpz.from_bytes(stream[at : at + size], "big") % key.n for at in range(0, len(stream), size)]
