"""What travels on the stream between one silo and the coordinator, below the messages of the protocol.

A message goes as one ``Begin`` with its header and the size of its payload, then as ``Piece`` of at most
1 MiB. Numbers and offsets let a cut stream go on where it broke off. Nothing here is signed: the stream is
mutual TLS, and what matters is signed or bound inside the messages.

Source: "Connection" in ``docs/wire.md``.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from secagg.errors import MalformedMessage
from secagg.terms import Digest
from secagg.wire import MAX_HEADER_SIZE, MAX_LENGTH

PROTOCOL = 1
BOOT_SIZE = 16
MAX_PIECE = 1024 * 1024
"""Bytes of one piece at the most. Each costs a turn of Python's event loop, whatever its size."""
MAX_FRAME_SIZE = MAX_HEADER_SIZE + 1024
"""Bytes of one frame at the most: a header in full, or a piece, and their numbers."""

Boot = Annotated[bytes, msgspec.Meta(min_length=BOOT_SIZE, max_length=BOOT_SIZE)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Number = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
Version = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[0-9A-Za-z.+-]+\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=8 * MAX_LENGTH)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of every frame."""


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a receiver has of the other side's messages.

    Attributes:
        whole: number of the last message that it has whole; 0 for none.
        part: bytes of the payload of the next one.
    """

    whole: Count = 0
    part: Size = 0


class Hello(Part, frozen=True, tag=True):
    """Silo to coordinator, first on every stream.

    Attributes:
        protocol: version of these frames and of the messages in them.
        version: of the software, for people.
        roster: digest of the roster that is pinned at the silo.
        boot: of the silo's process; a restart has another one.
        peer: boot of the coordinator that it last spoke to; None after a restart.
        held: what it has of that coordinator's messages.
    """

    protocol: Count
    version: Version
    roster: Digest
    boot: Boot
    peer: Boot | None
    held: Held


class Probe(Part, frozen=True, tag=True):
    """Silo to coordinator, in the place of ``Hello``: would it be let in? Nothing changes by it.

    Attributes: as of ``Hello``.
    """

    protocol: Count
    version: Version
    roster: Digest


class Welcome(Part, frozen=True, tag=True):
    """Coordinator to silo: the answer to ``Hello``.

    Attributes:
        resumed: the two know each other; numbers go on. Otherwise both begin at 1 with nothing held.
    """

    protocol: Count
    version: Version
    boot: Boot
    resumed: bool
    held: Held


class Begin(Part, frozen=True, tag=True):
    """A message begins. ``size``: bytes of its payload; None if it has none."""

    number: Number
    header: Annotated[bytes, msgspec.Meta(max_length=MAX_HEADER_SIZE)]
    size: Size | None


class Piece(Part, frozen=True, tag=True):
    """Bytes of the payload of message ``number``, from ``offset``."""

    number: Number
    offset: Size
    data: memoryview


class Received(Part, frozen=True, tag=True):
    """Every message up to ``number`` is here whole and need not be kept."""

    number: Number


LinkFrame: TypeAlias = Hello | Probe | Welcome | Begin | Piece | Received

_decoder = msgspec.msgpack.Decoder(LinkFrame)
_encoder = msgspec.msgpack.Encoder()


def encode_link(frame: LinkFrame) -> bytes:
    """Return the bytes of ``frame``."""
    return _encoder.encode(frame)


def decode_link(data: bytes) -> LinkFrame:
    """Return the frame in ``data``; the bytes of a piece are not copied.

    Raises:
        MalformedMessage: whatever is wrong with the bytes, and nothing else.
    """
    if len(data) > MAX_FRAME_SIZE:
        raise MalformedMessage(f"a frame of {len(data)} bytes; at most {MAX_FRAME_SIZE} are taken")
    try:
        frame: LinkFrame = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage("bytes are not a frame of this protocol") from error
    if isinstance(frame, Piece) and not 0 < len(frame.data) <= MAX_PIECE:
        raise MalformedMessage(f"a piece of {len(frame.data)} bytes; 1 to {MAX_PIECE} are taken")
    return frame
