"""Keys and ciphertexts of the package ``phe``, in and out: for federations that have some.

``phe`` packs nothing and writes the exponent of each number in clear; only numbers of exponent 0 are
exchanged. Nothing else here imports it.

Source: https://python-paillier.readthedocs.io (version 1.5).
"""

from __future__ import annotations

from secagg.errors import MissingExtra, ParameterError
from secagg.paillier.public import PublicKey
from secagg.paillier.secret import SecretKey

try:
    from phe.paillier import EncryptedNumber, PaillierPrivateKey, PaillierPublicKey
except ModuleNotFoundError as missing:
    raise MissingExtra("phe", "phe") from missing


def public_from_phe(key: PaillierPublicKey) -> PublicKey:
    """Return a key of ``phe``; its obfuscators are n-th powers, since nothing is known of its primes.

    Raises:
        ParameterError: the modulus is refused, see ``PublicKey``.
    """
    return PublicKey(key.n, obfuscation="full")


def public_to_phe(key: PublicKey) -> PaillierPublicKey:
    """Return ``key`` as ``phe`` has it."""
    return PaillierPublicKey(int(key.n))


def secret_from_phe(key: PaillierPrivateKey) -> SecretKey:
    """Return a secret key of ``phe``.

    Raises:
        ParameterError: its primes are refused, see ``SecretKey``.
    """
    return SecretKey(key.p, key.q, obfuscation="full")


def secret_to_phe(key: SecretKey) -> PaillierPrivateKey:
    """Return ``key`` as ``phe`` has it."""
    return PaillierPrivateKey(public_to_phe(key.public), *key.primes())


def ciphertext_from_phe(number: EncryptedNumber, key: PublicKey) -> bytes:
    """Return the ciphertext of an integer that ``phe`` encrypted, blinded if it was not.

    Raises:
        ParameterError: it is under another key, or has an exponent.
    """
    if number.public_key.n != key.n:
        raise ParameterError("the number was encrypted under another key")
    if number.exponent != 0:
        raise ParameterError(f"a number of exponent {number.exponent} is not taken: encrypt integers")
    ciphertext: int = number.ciphertext(be_secure=True)
    return ciphertext.to_bytes(key.ciphertext_size, "big")


def ciphertext_to_phe(ciphertext: bytes, key: PublicKey) -> EncryptedNumber:
    """Return a valid ciphertext (see ``ciphertexts.read``) as ``phe`` has it, of exponent 0."""
    return EncryptedNumber(public_to_phe(key), int.from_bytes(ciphertext, "big"), exponent=0)
