"""Long-lived Ed25519 identities: who said it.

A silo makes its own identity key, and every other silo pins the public half after comparing fingerprints
out of band. Signatures are over frames (``secagg.hazmat.framing``), so each kind carries its own label.
It does not decide whom to trust (``secagg.roster``), nor store keys (``silo``); Python cannot wipe memory.

Source: RFC 8032, Ed25519.
"""

from __future__ import annotations

import hashlib
import os
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg.errors import ParameterError, UsageError
from secagg.hazmat.framing import Field, frame
from secagg.names import RandomSource


class IdentityKey:
    """A private signing key.

    Guarantees:
        Its repr shows the fingerprint of the public half and nothing else.
        It refuses to be copied or pickled.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> IdentityKey:
        """Make a new identity from 32 bytes of ``random``."""
        return cls.from_private_bytes(random(32))

    @classmethod
    def from_private_bytes(cls, raw: bytes) -> IdentityKey:
        """Load the 32 bytes that ``private_bytes`` gave.

        Raises:
            ParameterError: not 32 bytes.
        """
        if len(raw) != 32:
            raise ParameterError(f"an identity key is 32 bytes, not {len(raw)}")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def public(self) -> bytes:
        """The public half (32 bytes), for other silos to pin."""
        return self._public

    def private_bytes(self) -> bytes:
        """Return the secret itself (32 bytes), for the silo's key file only."""
        return self._key.private_bytes_raw()

    def sign(self, label: str, *fields: Field) -> bytes:
        """Return the signature (64 bytes) over ``frame(label, *fields)``.

        Raises:
            ParameterError: a field cannot be framed.
        """
        return self._key.sign(frame(label, *fields))

    def __repr__(self) -> str:
        return f"IdentityKey({fingerprint(self._public)})"

    def __reduce__(self) -> NoReturn:
        raise UsageError("an identity key is not copied or pickled; write private_bytes() to its key file")


def verify(public: bytes, signature: bytes, label: str, *fields: Field) -> bool:
    """Tell whether ``signature`` is by ``public`` over ``frame(label, *fields)``.

    Args:
        public: the pinned key (32 bytes).
        signature: what a peer sent, any bytes.
        label: what the signature is for.
        fields: what was signed, rebuilt by the verifier and never taken as bytes from the peer.

    Guarantees:
        False, and no exception, for a key, signature or field that is not well formed.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, frame(label, *fields))
    except (InvalidSignature, ValueError, TypeError):  # ParameterError of frame is a ValueError.
        return False
    return True


def fingerprint(public: bytes) -> str:
    """Return a short form of a public key to compare over the phone: eight groups of four hex digits.

    It is the first half of the key's SHA-256, so finding another key with the same fingerprint takes
    about 2**128 trials.
    """
    return grouped(hashlib.sha256(public).digest()[:16])


def grouped(digest: bytes) -> str:
    """Return ``digest`` as people read it out: groups of four hex digits, ``9B41 77F0 ...``."""
    return digest.hex(" ", 2).upper()
