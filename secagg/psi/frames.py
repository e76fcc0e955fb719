"""Bytes of what the parties of an intersection say, by the codec of every message."""

from __future__ import annotations

from secagg.payload import Buffer
from secagg.psi.messages import FromReceiver, FromSender
from secagg.wire import decode_as


def decode_from_receiver(header: bytes | memoryview, payload: Buffer | None = None) -> FromReceiver:
    """Return what the receiver said.

    Raises:
        MalformedMessage: the bytes are nothing that it may say.
    """
    message: FromReceiver = decode_as(header, payload, FromReceiver)
    return message


def decode_from_sender(header: bytes | memoryview, payload: Buffer | None = None) -> FromSender:
    """Return what the sender said.

    Raises:
        MalformedMessage: the bytes are nothing that it may say.
    """
    message: FromSender = decode_as(header, payload, FromSender)
    return message
