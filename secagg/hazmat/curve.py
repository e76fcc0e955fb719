"""Hashing to points of Curve25519, and powers of points, many at once.

A point is its u-coordinate, 32 bytes; points lie side by side in one buffer. Bytes are hashed to
ristretto255 by the suite of RFC 9380, and the element of encoding s stands for the point with u = s^2. Where
RFC 9496, 4.3.1 decodes s it finds y = (1 - s^2)/(1 + s^2), whose u is (1 + y)/(1 - y) = 1/s^2; the point with
u = s^2 is that one plus (0, 0), of order two. An element is a coset of points which differ by a point of low
order, and both are in it. Powers are X25519, whose exponents are multiples of 8, so all points of the coset
have the same ones. libsodium does both, outside of Python's lock.

Nothing here decides who raises what to which exponent.

Source: RFC 9380, 5.3.1 and appendix B (hash_to_ristretto255); RFC 9496 (ristretto255); RFC 7748 (X25519).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

from secagg.errors import MalformedMessage, MissingExtra, ParameterError, UsageError
from secagg.names import RandomSource

POINT_SIZE = 32
"""Bytes of a point."""
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group that powers lie in, a prime."""

_FIELD = 2**255 - 19
_LOWEST, _PAST = 2**254, 2**255
"""Between these an exponent of X25519 lies."""


class Exponent:
    """A secret exponent, and the one that takes it back.

    Guarantees:
        What ``inverse`` raises to a power, this takes back, and the other way round.
        Its repr shows nothing.
        It refuses to be copied or pickled.
    """

    __slots__ = ("_inverse", "_raw")

    def __init__(self, raw: bytes, inverse: bytes) -> None:
        self._raw = raw
        self._inverse = inverse

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> Exponent:
        """Make a new one. Half of all exponents have an inverse that X25519 takes; one of these is drawn."""
        while True:
            # RFC 7748, section 5: three low bits clear, the highest bit clear, the one below set.
            drawn = int.from_bytes(random(POINT_SIZE), "little")
            value = (drawn & (_LOWEST - 1)) >> 3 << 3 | _LOWEST
            inverse = _as_exponent(pow(value, -1, ORDER))
            if inverse is not None:
                return cls(_bytes(value), _bytes(inverse))

    @classmethod
    def from_bytes(cls, secret: bytes) -> Exponent:
        """Return the exponent that ``to_bytes`` gave."""
        return cls(secret[:POINT_SIZE], secret[POINT_SIZE:])

    def to_bytes(self) -> bytes:
        """Return 64 secret bytes, for a process of this one's own that computes with them."""
        return self._raw + self._inverse

    @property
    def inverse(self) -> Exponent:
        """The exponent that takes this one back."""
        return Exponent(self._inverse, self._raw)

    def powers(self, points: bytes | memoryview) -> bytes:
        """Return the power of each of ``points`` (32 bytes each), in their order.

        Raises:
            MalformedMessage: not whole points, one that is not in its canonical encoding, or one of low
                order, whose powers are known to all.
        """
        check_canonical(points)
        raised, raw = _multiplication(), self._raw
        try:
            return b"".join([raised(raw, each) for each in _split(points)])
        except RuntimeError:  # The result is all zero (RFC 7748, section 6.1).
            raise MalformedMessage("a point is of low order") from None

    def __repr__(self) -> str:
        return "Exponent()"

    def __reduce__(self) -> NoReturn:
        raise UsageError("an exponent is not copied or pickled; it belongs to one session")


def _bytes(value: int) -> bytes:
    return value.to_bytes(POINT_SIZE, "little")


def _as_exponent(residue: int) -> int | None:
    """Return the exponent of X25519 that is ``residue`` modulo the order, if there is one."""
    first = -(-(_LOWEST - residue) // ORDER)
    found = (residue + turn * ORDER for turn in range(first, first + 4))
    return next((value for value in found if value % 8 == 0 and value < _PAST), None)


def check_canonical(points: bytes | memoryview) -> None:
    """Refuse what is not a row of points, each in its one encoding.

    Raises:
        MalformedMessage: see there.
    """
    if len(points) % POINT_SIZE:
        raise MalformedMessage(f"{len(points)} bytes are not whole points of {POINT_SIZE}")
    if any(int.from_bytes(each, "little") >= _FIELD for each in _split(points)):
        raise MalformedMessage("a point is not in its canonical encoding")


def _split(points: bytes | memoryview) -> Iterator[bytes]:
    read = bytes(points)
    return (read[at : at + POINT_SIZE] for at in range(0, len(read), POINT_SIZE))


def hash_to_ristretto255(messages: Iterable[bytes], tag: bytes) -> Iterator[bytes]:
    """Yield the element that each message hashes to, encoded in 32 bytes.

    Raises:
        ParameterError: the tag does not have 1 to 255 bytes.
        MissingExtra: rbcl is not installed.
    """
    expand, mapped = _expander(tag), _map()
    return (mapped(expand(message)) for message in messages)


def hash_to_points(messages: Sequence[bytes], tag: bytes) -> bytes:
    """Return the point of each message, 32 bytes each, in their order.

    Args:
        messages: any bytes.
        tag: what the points are for and for whom, 1 to 255 bytes: under another tag all points are others.

    Raises:
        ParameterError: the tag's length.
        MissingExtra: rbcl is not installed.

    Guarantees:
        Each is on the curve and not on its twist.
        It is the element that RFC 9380's hash_to_ristretto255 gives.
    """
    elements = (int.from_bytes(each, "little") for each in hash_to_ristretto255(messages, tag))
    return b"".join([_bytes(element * element % _FIELD) for element in elements])


def _expander(tag: bytes) -> Callable[[bytes], bytes]:
    """Return expand_message_xmd with SHA-512 for 64 bytes, which is one block."""
    if not 1 <= len(tag) <= 255:
        raise ParameterError(f"a tag has 1 to 255 bytes, not {len(tag)}")
    suffix = tag + bytes([len(tag)])
    padded = hashlib.sha512(bytes(128))

    def expand(message: bytes) -> bytes:
        first = padded.copy()
        first.update(message + b"\x00\x40\x00" + suffix)
        return hashlib.sha512(first.digest() + b"\x01" + suffix).digest()

    return expand


def _map() -> Callable[[bytes], bytes]:
    try:
        from rbcl import crypto_core_ristretto255_from_hash  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("psi", "rbcl") from None
    return crypto_core_ristretto255_from_hash


def _multiplication() -> Callable[[bytes, bytes], bytes]:
    try:
        from nacl.bindings import crypto_scalarmult  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("psi", "PyNaCl") from None
    return crypto_scalarmult
