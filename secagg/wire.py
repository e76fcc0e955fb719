"""The one codec: a message is a short header and at most one payload.

The header is a version byte and MessagePack (strict, tagged unions, sizes checked). The payload travels
beside it, uncopied, named in the header by type, length and BLAKE3 digest. No pickle, no code, no
compression: nothing in a frame can grow when it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast, get_args

import msgspec
import numpy as np

from secagg.errors import MalformedMessage, ParameterError
from secagg.messages import FromCoordinator, FromSilo, Part
from secagg.payload import Buffer, Frame, Payload, PayloadType, describe

VERSION = b"\x01"
MAX_HEADER_SIZE = 4 * 1024 * 1024
MAX_LENGTH = 1 << 31
_TYPES = get_args(PayloadType)


def encode(message: Part) -> Frame:
    """Return (header, payload bytes or None). The payload is not copied."""
    found: list[Payload] = []

    def hook(value: object) -> object:
        if isinstance(value, Payload):
            found.append(value)
        return describe(value)

    header = VERSION + msgspec.msgpack.encode(message, enc_hook=hook)
    return header, found[0].buffer() if found else None


def size_of(frame: Frame) -> int:
    """Return the bytes of a frame."""
    header, payload = frame
    return len(header) + (0 if payload is None else len(payload))


def decode_from_silo(header: bytes | memoryview, payload: Buffer | None = None) -> FromSilo:
    """Return the message that a silo sent; see ``decode_as``."""
    message: FromSilo = decode_as(header, payload, FromSilo)
    return message


def decode_from_coordinator(header: bytes | memoryview, payload: Buffer | None = None) -> FromCoordinator:
    """Return the message that the coordinator sent; see ``decode_as``."""
    message: FromCoordinator = decode_as(header, payload, FromCoordinator)
    return message


def decode_as(header: bytes | memoryview, payload: Buffer | None, kind: Any) -> Any:
    """Decode one frame.

    Args:
        header: of the frame.
        payload: of the frame.
        kind: which messages it may be: a union of structs.

    Raises:
        MalformedMessage: whatever is wrong with the bytes, and nothing else.
        EnvironmentFault: the payload lies on disk and cannot be read.

    Guarantees:
        The payload has the announced type, length and digest.
        A frame decodes to one message, which encodes to the same frame.
    """
    if len(header) > MAX_HEADER_SIZE:
        raise MalformedMessage(f"a header of {len(header)} bytes; at most {MAX_HEADER_SIZE} are taken")
    if bytes(header[:1]) != VERSION:
        raise MalformedMessage("not a frame of protocol version 1")
    try:
        if payload is None:
            message = _decoder(kind).decode(header[1:])
        else:
            message = _carrying(payload, header[1:], kind)
        if msgspec.msgpack.encode(message, enc_hook=describe) != header[1:]:
            raise MalformedMessage("a frame has more in it than its message")
    except (msgspec.MsgspecError, ParameterError, ValueError, OverflowError, RecursionError) as error:
        # The text of the decoder may quote received values, so it is not passed on.
        raise MalformedMessage("bytes are not a message of this protocol") from error
    return message


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return the decoder of frames without a payload, which takes longer to make than to use."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_attaching(None, []))


def _carrying(payload: Buffer, header: bytes | memoryview, kind: Any) -> Any:
    """Decode a message and the payload beside it, which must be the one that it announces."""
    found: list[Payload] = []
    message = msgspec.msgpack.decode(header, type=kind, dec_hook=_attaching(payload, found))
    if not found:
        raise MalformedMessage("a frame has more in it than its message")
    return message


def _attaching(payload: Buffer | None, found: list[Payload]) -> Callable[[type, object], object]:
    def hook(target: type, value: object) -> object:
        if target is not Payload:
            raise NotImplementedError(target)
        found.append(_attach(value, payload))
        return found[0]

    return hook


def _attach(value: object, payload: Buffer | None) -> Payload:
    match value:
        case [str(dtype), int(length), bytes(expected)] if dtype in _TYPES and len(expected) == 32:
            pass
        case _:
            raise MalformedMessage("a payload is announced by type, length and digest")
    size = np.dtype(dtype).itemsize * length
    if payload is None or not 0 < length <= MAX_LENGTH or len(payload) != size:
        raise MalformedMessage(f"a payload of {length} entries was announced, another size came")
    received = Payload.over(cast(PayloadType, dtype), length, payload)
    if received.digest != expected:
        raise MalformedMessage("the payload is not the one whose digest was announced")
    return received
