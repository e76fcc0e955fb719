"""The keys that one silo holds, each with its document. Only silos import this.

Nothing here touches a disk: a silo's process keeps ``HeldKey.to_bytes`` in a file that nobody else can read.
A key that was replaced is held until its lifetime ends, for rounds that began under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hmac import compare_digest
from typing import NoReturn

from secagg.errors import MalformedMessage, PolicyRefused, UsageError
from secagg.hazmat.content import CONTENT_DIGEST_SIZE, content_digest
from secagg.keys.document import DAY, KeyDocument, decode_document, encode_document
from secagg.keys.secret import Secret, load_secret
from secagg.names import SiloId
from secagg.roster import Roster
from secagg.terms import KeyScheme

MAGIC = b"secagg held key 1\n"
"""First bytes of a serialised ``HeldKey``, which is secret."""

MOST_AHEAD = DAY
"""Seconds that the maker's clock may be ahead of this silo's."""


class HeldKey:
    """A key's document, and what one silo holds of its secret half.

    Args:
        document: checked by whoever took the key.
        content: the secret half, as its scheme writes it.
        slot: of the silo in the roster of the document.

    Raises:
        MalformedMessage: ``content`` is not this silo's secret of the document's key.
        MissingExtra: the package of the scheme is not installed.

    Guarantees:
        Its repr shows no part of the secret.
        It refuses to be copied or pickled.
    """

    __slots__ = ("_content", "document", "secret", "slot")

    def __init__(self, document: KeyDocument, content: bytes, *, slot: int) -> None:
        self.document = document
        self.slot = slot
        self.secret: Secret = load_secret(document, content, slot=slot)
        self._content = content

    @property
    def content(self) -> bytes:
        """The secret itself, to be sealed for a member of the roster that lacks it."""
        return self._content

    def to_bytes(self) -> bytes:
        """Return document and secret, for the silo's own key file only."""
        document = encode_document(self.document)
        lengths = self.slot.to_bytes(2, "big") + len(document).to_bytes(4, "big")
        data = MAGIC + lengths + document + self._content
        return data + content_digest(data)

    @classmethod
    def from_bytes(cls, data: bytes) -> HeldKey:
        """Read what ``to_bytes`` gave.

        Raises:
            MalformedMessage: the bytes are no held key, or one of them changed. The text quotes nothing of
                them.
        """
        data, digest = data[:-CONTENT_DIGEST_SIZE], data[-CONTENT_DIGEST_SIZE:]
        if not data.startswith(MAGIC) or not compare_digest(content_digest(data), digest):
            raise MalformedMessage("the bytes are no held key")
        slot, start = len(MAGIC), len(MAGIC) + 6
        end = start + int.from_bytes(data[slot + 2 : start], "big")
        document = decode_document(data[start:end])
        return cls(document, data[end:], slot=int.from_bytes(data[slot : slot + 2], "big"))

    def __repr__(self) -> str:
        return f"HeldKey({self.document.scheme}, id {self.document.key.hex()[:16]})"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a held key is not copied or pickled; write to_bytes() to the silo's key file")


class Keyring:
    """The keys of one silo.

    Args:
        silo: its name.
        roster: the pinned one.
        keys: what it holds.

    Guarantees:
        A key is given only for the roster that it was sealed to, the scheme that it was made for, and within
        its lifetime.
    """

    def __init__(self, silo: SiloId, roster: Roster, keys: Iterable[HeldKey] = ()) -> None:
        self._silo = silo
        self._roster = roster
        self._keys: dict[bytes, HeldKey] = {}
        for key in keys:
            self.add(key)

    def __iter__(self) -> Iterator[HeldKey]:
        return iter(self._keys.values())

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def add(self, key: HeldKey) -> None:
        """Hold ``key`` from now on; what is held under its id stays."""
        self._keys.setdefault(key.document.key, key)

    def held(self, key_id: bytes, *, scheme: KeyScheme | None, now: int) -> HeldKey:
        """Return the key that a round names.

        Args:
            key_id: 32 bytes.
            scheme: of the round; None where the key is wanted whatever it is for.
            now: seconds since 1970.

        Raises:
            PolicyRefused: ``key``: it is not held, is for another roster or scheme, or is past its lifetime;
                the text says what to do.
        """
        name, key = key_id.hex()[:16], self._keys.get(key_id)
        if key is None:
            next_step = (
                "every silo takes part in making a threshold key: make a new one"
                if scheme == "threshold-paillier"
                else "ask a silo that holds it to forward it, or make a new one"
            )
            raise PolicyRefused("key", f"key {name} is not held here; {next_step}")
        document = key.document
        if document.roster != self._roster.digest or key.slot != self._roster.slot(self._silo):
            raise PolicyRefused(
                "key", f"key {name} was sealed to another roster: make a new one for this one"
            )
        if scheme is not None and document.scheme != scheme:
            raise PolicyRefused("key", f"key {name} is for {document.scheme}, not for {scheme}; name another")
        check_age(document, now)
        return key


def check_age(document: KeyDocument, now: int) -> None:
    """Check that a key may be used or taken at ``now``, seconds since 1970.

    Raises:
        PolicyRefused: ``key``: it is past its lifetime, or was made later than now.
    """
    name = document.key.hex()[:16]
    if now >= document.expires:
        raise PolicyRefused("key", f"key {name} is past its lifetime: make a new one that replaces it")
    if document.made > now + MOST_AHEAD:
        raise PolicyRefused(
            "key", f"key {name} was made after now: compare the clocks of this silo and of {document.maker}"
        )
