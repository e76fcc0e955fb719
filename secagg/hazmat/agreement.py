"""Pairwise secrets: X25519 agreement, HKDF-SHA-256 derivation, boxes sealed with AES-256-GCM.

Each derived key is bound to its purpose, its full context (round or session id, both parties, kind) and
its length, so that no two uses share a key. A sealing key seals exactly one box, which is why the nonce is
constant; whoever calls ``seal`` must derive one key for each box. Public keys are authenticated elsewhere:
they mean nothing until an identity key has signed them.

Source: RFC 7748 (X25519), RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import os
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg.errors import MalformedMessage, ParameterError, UsageError
from secagg.hazmat.framing import Field, frame
from secagg.names import RandomSource

_FIELD_PRIME = 2**255 - 19
_ANY_SCALAR = X25519PrivateKey.from_private_bytes(bytes(32))
_NONCE = bytes(12)


class AgreementKey:
    """A private X25519 key, fresh for every attempt.

    Guarantees:
        Its repr shows nothing.
        It refuses to be copied or pickled.
    """

    __slots__ = ("_agreed", "_key", "_public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._agreed: dict[
            bytes, bytes
        ] = {}  # One exchange serves all keys with a peer; it goes with the key.

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> AgreementKey:
        """Make a new key from 32 bytes of ``random``."""
        return cls.from_private_bytes(random(32))

    @classmethod
    def from_private_bytes(cls, raw: bytes) -> AgreementKey:
        """Load the 32 bytes that ``private_bytes`` gave.

        Raises:
            ParameterError: not 32 bytes.
        """
        if len(raw) != 32:
            raise ParameterError(f"an agreement key is 32 bytes, not {len(raw)}")
        return cls(X25519PrivateKey.from_private_bytes(raw))

    @property
    def public(self) -> bytes:
        """The public half (32 bytes), always in its canonical encoding."""
        return self._public

    def private_bytes(self) -> bytes:
        """Return the secret itself (32 bytes), for secret sharing only."""
        return self._key.private_bytes_raw()

    def derive(self, peer_public: bytes, purpose: str, *context: Field, length: int = 32) -> bytes:
        """Return ``length`` bytes that only this key and the peer's can derive.

        Args:
            peer_public: the peer's public key (32 bytes), authenticated by the caller.
            purpose: what the derived key is for.
            context: everything the key must be bound to, in protocol order, the same at both ends.
            length: bytes wanted, 1 to 8160.

        Raises:
            MalformedMessage: see ``check_point``.
            ParameterError: see ``hkdf``.

        Guarantees:
            Both ends derive equal bytes from equal purpose, context and length, and unrelated bytes if
            any of them differs.
        """
        agreed = self._agreed.get(peer_public)
        if agreed is None:
            agreed = self._agreed[peer_public] = _exchange(self._key, peer_public)
        return hkdf(agreed, purpose, *context, length=length)

    def __repr__(self) -> str:
        return "AgreementKey()"

    def __reduce__(self) -> NoReturn:
        raise UsageError("an agreement key is not copied or pickled; it belongs to one attempt")


def check_point(public: bytes) -> None:
    """Refuse bytes that are not a usable X25519 public key.

    Raises:
        MalformedMessage: not 32 bytes, not the canonical encoding, or a point of low order, with which
            every agreement has the same, publicly known result.

    Guarantees:
        Whatever ``AgreementKey.public`` gives is accepted.
        A key has one accepted encoding, so keys can be compared as bytes.
    """
    # A clamped scalar is a multiple of the cofactors of the curve and its twist, and so sends exactly the
    # points of low order to zero; any scalar serves.
    _exchange(_ANY_SCALAR, public)


def _exchange(key: X25519PrivateKey, public: bytes) -> bytes:
    if len(public) != 32:
        raise MalformedMessage(f"a public key is 32 bytes, not {len(public)}")
    if int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise MalformedMessage("a public key is not in its canonical encoding")
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # The result is all zero.
        raise MalformedMessage("a public key is a point of low order") from None


def hkdf(secret: bytes, purpose: str, *context: Field, length: int = 32) -> bytes:
    """Return ``length`` bytes derived from ``secret`` for one purpose and context.

    HKDF-SHA-256 without salt; info is ``frame(purpose, *context, length)``.

    Args:
        secret: high-entropy key material.
        purpose: what the derived key is for.
        context: everything the key must be bound to, in protocol order.
        length: bytes wanted, 1 to 8160.

    Raises:
        ParameterError: ``length`` is out of range or a context field cannot be framed.
    """
    if not 1 <= length <= 255 * 32:
        raise ParameterError(f"HKDF-SHA-256 derives 1 to {255 * 32} bytes, not {length}")
    info = frame(purpose, *context, length)
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def seal(key: bytes, plaintext: bytes, *, associated: bytes = b"") -> bytes:
    """Encrypt and authenticate one box.

    Args:
        key: 32 bytes, derived for this box and no other: a second box under one key exposes both.
        plaintext: what to hide; its length is not hidden.
        associated: bytes that are authenticated but not sent.

    Returns:
        The ciphertext followed by a 16-byte tag.

    Raises:
        ParameterError: the key is not 32 bytes.
    """
    return _cipher(key).encrypt(_NONCE, plaintext, associated)


def unseal(key: bytes, box: bytes, *, associated: bytes = b"") -> bytes:
    """Open a box that ``seal`` made with the same key and associated bytes.

    Raises:
        MalformedMessage: the box was not sealed with them, or was changed.
        ParameterError: the key is not 32 bytes.
    """
    try:
        return _cipher(key).decrypt(_NONCE, box, associated)
    except InvalidTag:
        raise MalformedMessage(f"a sealed box of {len(box)} bytes does not open") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != 32:
        raise ParameterError(f"a sealing key is 32 bytes, not {len(key)}")
    return AESGCM(key)
