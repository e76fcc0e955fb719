"""The secret half of every kind of key: made, and read with every check that it is the one of its document.

Only silos import this. Each scheme's package is loaded when a key of it is made or read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

from secagg.errors import MalformedMessage, ParameterError
from secagg.keys.document import KeyDocument
from secagg.names import RandomSource
from secagg.terms import KeyScheme

if TYPE_CHECKING:
    from secagg.ckks.secret import SecretKey as CKKSKey
    from secagg.paillier.secret import SecretKey as PaillierKey
    from secagg.paillier.shares import KeyShare

Secret: TypeAlias = Union["PaillierKey", "KeyShare", "CKKSKey"]
"""What opens, or helps to open, by the scheme of the document."""

_FRAMING = 64
"""Bytes that a secret Paillier key may have beside its primes."""


@dataclass(frozen=True, eq=False, repr=False)
class MadeKey:
    """A new key, before it is sealed.

    Attributes:
        key: its id.
        material: its public half, empty for CKKS.
        secrets: what each silo is to hold, by roster slot; n times the same where one opens alone.
    """

    key: bytes
    material: bytes
    secrets: tuple[bytes, ...]


class KeyMaker(Protocol):
    """Makes a key; ``make_key`` does."""

    def __call__(
        self, scheme: KeyScheme, *, size: int, threshold: int | None, parties: int, random: RandomSource
    ) -> MadeKey:
        """Return a key of ``size`` for ``parties`` silos; see ``document.check_shape``."""
        ...


def make_key(
    scheme: KeyScheme, *, size: int, threshold: int | None, parties: int, random: RandomSource
) -> MadeKey:
    """Make a key. A threshold key of 3072 bits takes some ten seconds.

    Args:
        scheme: what it is for.
        size: bits of a Paillier key, degree of a CKKS ring.
        threshold: how many open together; None where one opens alone.
        parties: n.
        random: fresh uniform bytes; SEAL reads those of the system itself.

    Raises:
        ParameterError: there are no such keys.
        MissingExtra: the package of the scheme is not installed.

    Warns:
        UserWarning: a Paillier key of fewer than 3072 bits.
    """
    match scheme:
        case "paillier":
            from secagg.paillier.secret import SecretKey

            secret = SecretKey.generate(size, random=random)
            return MadeKey(secret.public.id, secret.public.to_bytes(), (secret.to_bytes(),) * parties)
        case "threshold-paillier":
            from secagg.paillier.shares import deal

            if threshold is None:
                raise ParameterError("a threshold key needs a threshold")
            shared, shares = deal(parties=parties, threshold=threshold, bits=size, random=random)
            return MadeKey(shared.id, shared.to_bytes(), tuple(share.to_bytes() for share in shares))
        case "ckks":
            from secagg.ckks.secret import SecretKey as CKKSKey

            ckks = CKKSKey.generate(size)
            return MadeKey(ckks.key_id, b"", (ckks.material().content,) * parties)


def check_installed(scheme: KeyScheme) -> None:
    """Check that keys of ``scheme`` can be used here.

    Raises:
        MissingExtra: the package of the scheme is not installed.
    """
    match scheme:
        case "paillier" | "threshold-paillier":
            import secagg.paillier.secret
        case "ckks":
            import secagg.ckks.secret  # noqa: F401 - it is enough that it loads


def load_secret(document: KeyDocument, content: bytes, *, slot: int) -> Secret:
    """Read the secret of ``document`` that the silo in ``slot`` holds.

    Raises:
        MalformedMessage: it is none, of another key, or of another silo.
        MissingExtra: the package of the scheme is not installed.

    Guarantees:
        What is returned belongs to the id of the document: two silos that loaded a secret under one id open
        the same ciphertexts.
    """
    match document.scheme:
        case "paillier":
            from secagg.paillier.secret import SecretKey

            # Before primes are looked for in numbers of any size.
            if len(content) > document.size // 8 + _FRAMING:
                raise MalformedMessage(
                    f"a secret of {len(content)} bytes is of no key of {document.size} bits"
                )
            secret = SecretKey.from_bytes(content)
            _expect(secret.public.id == document.key)
            return secret
        case "threshold-paillier":
            from secagg.paillier.shares import KeyShare
            from secagg.paillier.threshold import ThresholdKey

            shared = ThresholdKey.from_bytes(document.material)
            share = KeyShare.from_bytes(content, shared)
            _expect(shared.id == document.key and share.party == slot + 1)
            return share
        case "ckks":
            from secagg.ckks.secret import SecretKey as CKKSKey
            from secagg.ckks.secret import SecretMaterial

            ckks = CKKSKey.from_material(SecretMaterial(content))
            _expect(ckks.key_id == document.key and ckks.degree == document.size)
            return ckks


def _expect(same: bool) -> None:
    if not same:
        raise MalformedMessage("the secret is not the one that the key document is of")
