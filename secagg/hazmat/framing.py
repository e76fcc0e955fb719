"""Canonical bytes for everything that is signed, hashed or bound into a derived key.

A frame is the protocol's name, a label that says what the bytes are for, then typed fields in a fixed
order; each one is a type tag, an eight-byte length and its bytes. Two different lists of fields never
share a frame, so a signature or key made for one meaning cannot be taken for another. Frames are only
ever made, never parsed: what travels is encoded by ``secagg.wire``.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TypeAlias

from secagg.errors import ParameterError

PROTOCOL = "secagg/1"
"""First field of every frame: library and version of the protocol."""

_HEAD = struct.Struct(">cQ")  # Tag, and length of the body.

Field: TypeAlias = bytes | str | int | float | bool | tuple["Field", ...] | None


def frame(label: str, *fields: Field) -> bytes:
    """Return the canonical bytes of ``label`` and ``fields``.

    Args:
        label: what the bytes are for; one label for each kind of signature, hash or key.
        fields: values in the order the protocol gives them. Integers of any size and sign; tuples nest.

    Raises:
        ParameterError: a field is NaN, is text that has no UTF-8 form, or has another type.

    Guarantees:
        Two calls give equal bytes only if labels, types and values of all fields are equal, where floats
        are compared by their bits (0.0 is not -0.0).
    """
    return b"".join(map(_encode, (PROTOCOL, label, *fields)))


def digest(label: str, *fields: Field) -> bytes:
    """Return the SHA-256 digest (32 bytes) of ``frame(label, *fields)``.

    Raises:
        ParameterError: see ``frame``.
    """
    return hashlib.sha256(frame(label, *fields)).digest()


def _encode(field: Field) -> bytes:
    # The frequent kinds first, and by themselves: a round frames tens of thousands of fields.
    if isinstance(field, bytes):
        return _HEAD.pack(b"b", len(field)) + field
    if isinstance(field, tuple):
        body = b"".join([_encode(part) for part in field])
        return _HEAD.pack(b"(", len(body)) + body
    if isinstance(field, str):
        body = _utf8(field)
        return _HEAD.pack(b"s", len(body)) + body
    match field:
        case bool():  # Before int: Python's bool is one.
            tag, body = b"?", b"\x01" if field else b"\x00"
        case int():
            # Two's complement with room for the sign; the size follows from the value, so there is one form.
            tag, body = b"i", field.to_bytes(field.bit_length() // 8 + 1, "big", signed=True)
        case float():
            if math.isnan(field):
                raise ParameterError("a framed field is NaN, which has many encodings and equals nothing")
            tag, body = b"f", struct.pack(">d", field)
        case None:
            tag, body = b"0", b""
        case _:
            raise ParameterError(
                f"a framed field has type {type(field).__name__}; "
                "use bytes, str, int, float, bool, None or tuples of them"
            )
    return _HEAD.pack(tag, len(body)) + body


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ParameterError("a framed text holds a lone surrogate and has no UTF-8 form") from None
