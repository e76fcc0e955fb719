"""One direction of a line: numbered messages that survive a cut stream, each delivered once and in order.

Two state machines without I/O. A process keeps a pair of them for each peer as long as both processes live;
streams come and go. When either process restarts, the pair is made anew: the messages that were under way
belong to a session that no longer exists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from secagg.errors import MalformedMessage
from secagg.link.frames import MAX_PIECE, Begin, Held, Piece, Received
from secagg.payload import Buffer, Frame

RESERVED = 64 * 1024 * 1024
"""Bytes of an announced payload that are reserved before they arrive; memory is used when they do."""


class OutOfOrder(MalformedMessage):
    """A frame came before the one in front of it. Nobody's fault: the stream is opened anew and goes on."""


class Store(Protocol):
    """Where the payload of one incoming message is kept until it is whole."""

    def write(self, data: memoryview) -> None:
        """Append ``data``."""
        ...

    def whole(self) -> Buffer | None:
        """Return all that was written; None if it is not wanted. Called once, after the last piece."""
        ...

    def discard(self) -> None:
        """Give the payload up."""
        ...


class InMemory:
    """Keeps a payload in memory. Grows with what arrives, beyond ``RESERVED`` never with what was announced.

    Args:
        size: bytes that were announced.
    """

    def __init__(self, size: int) -> None:
        self._announced = size
        self._data = np.empty(0, np.uint8)
        self._size = 0

    def write(self, data: memoryview) -> None:
        """Append ``data``."""
        end = self._size + len(data)
        if end > self._data.size:  # Twice as much each time, so that few copies are made.
            grown = np.empty(min(self._announced, max(RESERVED, 2 * end)), np.uint8)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        self._data[self._size : end] = np.frombuffer(data, np.uint8)
        self._size = end

    def whole(self) -> memoryview:
        """Return the bytes, read-only."""
        return self._data[: self._size].data.toreadonly()

    def discard(self) -> None:
        """Free the bytes."""
        self._data, self._size = np.empty(0, np.uint8), 0


class Unwanted:
    """Keeps nothing of a payload that nobody waits for."""

    def write(self, data: memoryview) -> None:
        """Drop ``data``."""

    def whole(self) -> None:
        """Return that the message is not wanted."""

    def discard(self) -> None:
        """Do nothing: nothing is kept."""


@dataclass
class _Sending:
    number: int
    header: bytes
    payload: Buffer | None
    begun: bool = False
    sent: int = 0

    @property
    def size(self) -> int:
        return 0 if self.payload is None else len(self.payload)

    @property
    def written(self) -> bool:
        return self.begun and self.sent == self.size


class Outgoing:
    """Messages to one peer, kept until it has them whole.

    Guarantees:
        Every message is offered from where the peer says it is, in order, until it is acknowledged.
        A payload is never copied but piece by piece.
    """

    def __init__(self) -> None:
        self._kept: deque[_Sending] = deque()
        self._count = 0

    def put(self, frame: Frame) -> int:
        """Queue a message and return its number, from 1."""
        self._count += 1
        header, payload = frame
        self._kept.append(_Sending(self._count, header, payload))
        return self._count

    def take(self) -> Begin | Piece | None:
        """Return what to write next; None if all was written."""
        for message in self._kept:
            if not message.begun:
                message.begun = True
                size = None if message.payload is None else message.size
                return Begin(message.number, message.header, size)
            if message.payload is not None and message.sent < message.size:
                start = message.sent
                data = message.payload[start : start + MAX_PIECE]
                message.sent += len(data)
                return Piece(message.number, start, data)
        return None

    def acknowledge(self, number: int) -> None:
        """Forget every message up to ``number``.

        Raises:
            MalformedMessage: a message is acknowledged that was not written whole.
        """
        acknowledged = [message for message in self._kept if message.number <= number]
        if number > self._count or not all(message.written for message in acknowledged):
            raise MalformedMessage("a message is acknowledged that was not sent")
        for _ in acknowledged:
            self._kept.popleft()

    def resume(self, held: Held) -> None:
        """Go on at a new stream, from what the peer holds.

        Raises:
            MalformedMessage: it holds what was never sent, or lacks what it acknowledged.
        """
        self.acknowledge(held.whole)
        first = self._kept[0] if self._kept else None
        if first is not None and first.number != held.whole + 1:
            raise MalformedMessage("the peer lacks a message that it acknowledged")
        if held.part > (0 if first is None else first.sent):
            raise MalformedMessage("the peer holds more of a message than was sent")
        for message in self._kept:
            message.begun, message.sent = False, 0
        if first is not None:
            first.sent = held.part

    @property
    def pending(self) -> int:
        """Messages that are not acknowledged."""
        return len(self._kept)

    @property
    def payloads(self) -> int:
        """How many of them have a payload."""
        return sum(message.size > 0 for message in self._kept)


class Incoming:
    """Messages of one peer.

    Args:
        store: makes the store for a payload of so many bytes; it raises MalformedMessage if so many are not
            taken now. Nothing is allocated before it agreed.

    Guarantees:
        Each message comes out once, in order, whatever is repeated.
        What is out of order changes nothing and raises, so that the stream is opened anew and goes on.
    """

    def __init__(self, store: Callable[[int], Store] = InMemory) -> None:
        self._store = store
        self._whole = 0
        self._begun: tuple[Begin, Store] | None = None
        self._part = 0

    @property
    def held(self) -> Held:
        """What is here, for the peer to go on from."""
        return Held(self._whole, self._part)

    @property
    def under_way(self) -> bool:
        """Whether pieces of a message are to come."""
        return self._begun is not None

    @property
    def acknowledgement(self) -> Received | None:
        """What the peer may forget."""
        return Received(self._whole) if self._whole else None

    def take(self, frame: Begin | Piece) -> Frame | None:
        """Take one frame and return the message that it completes, if that is wanted.

        Raises:
            OutOfOrder: a gap.
            MalformedMessage: a message that changed while it was under way, or a refused size.
        """
        if frame.number <= self._whole:
            return None  # Repeated.
        if frame.number != self._whole + 1:
            raise OutOfOrder("a message arrived before the one in front of it")
        return self._begin(frame) if isinstance(frame, Begin) else self._add(frame)

    def _begin(self, begin: Begin) -> Frame | None:
        if self._begun is not None:
            if self._begun[0] != begin:
                raise MalformedMessage("a message changed while it was under way")
            return None
        if not begin.size:
            self._whole += 1
            return begin.header, None if begin.size is None else memoryview(b"")
        self._begun = begin, self._store(begin.size)
        return None

    def _add(self, piece: Piece) -> Frame | None:
        if self._begun is None:
            raise OutOfOrder("a piece arrived before its message began")
        begin, store = self._begun
        if piece.offset > self._part:
            raise OutOfOrder("a piece arrived before the one in front of it")
        new = piece.data[self._part - piece.offset :]
        if not new:
            return None  # Repeated.
        size = begin.size or 0
        if self._part + len(new) > size:
            raise MalformedMessage("a message has more bytes than it announced")
        store.write(new)
        self._part += len(new)
        if self._part < size:
            return None
        self._begun, self._part = None, 0
        self._whole += 1
        payload = store.whole()
        return None if payload is None else (begin.header, payload)

    def close(self) -> None:
        """Give up what is not whole."""
        if self._begun is not None:
            self._begun[1].discard()
            self._begun, self._part = None, 0
