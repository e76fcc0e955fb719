"""Bytes of what the parties of an intersection of many say, by the codec of every message."""

from __future__ import annotations

from secagg.payload import Buffer
from secagg.psi.many.messages import FromFollower, FromLeader
from secagg.wire import decode_as


def decode_from_leader(header: bytes | memoryview, payload: Buffer | None = None) -> FromLeader:
    """Return what the leader said.

    Raises:
        MalformedMessage: the bytes are nothing that it may say.
    """
    message: FromLeader = decode_as(header, payload, FromLeader)
    return message


def decode_from_follower(header: bytes | memoryview, payload: Buffer | None = None) -> FromFollower:
    """Return what a follower said.

    Raises:
        MalformedMessage: the bytes are nothing that it may say.
    """
    message: FromFollower = decode_as(header, payload, FromFollower)
    return message
