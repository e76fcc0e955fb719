"""A protocol of several parties, each party's side a generator that says what it sends and what it awaits.

A side reads from top to bottom as the protocol does. It knows no transport, no clock and no thread: who
drives it carries frames, in one process (``together``) or between silos. Wrong order cannot be expressed,
since a side takes what it awaits and nothing else.

Source: PEP 342, PEP 380.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from secagg import wire
from secagg.errors import FaultySilo, MalformedMessage, ProtocolError
from secagg.messages import Part
from secagg.names import SiloId
from secagg.payload import Frame

T = TypeVar("T")
M = TypeVar("M", bound=Part)


@dataclass(frozen=True)
class Send:
    """``frame`` goes to ``to``; the side goes on at once."""

    to: SiloId
    frame: Frame = field(repr=False)


@dataclass(frozen=True)
class Await:
    """The side goes on with the next frame of ``sender``, in the order in which that sent them."""

    sender: SiloId


Side: TypeAlias = Generator[Send | Await, Frame | None, T]
"""One party's side; it returns what the party learned. It is driven once.

Who drives it sends None for a ``Send`` and the frame for an ``Await``.
"""


def say(to: SiloId, message: Part) -> Side[None]:
    """Send ``message``."""
    yield Send(to, wire.encode(message))


def hear(sender: SiloId, kind: type[M]) -> Side[M]:
    """Return the next message of ``sender``.

    Args:
        sender: whose.
        kind: what is due: one message, or a union of several.

    Raises:
        FaultySilo: it sent something else.
    """
    frame = yield Await(sender)
    if frame is None:
        raise ProtocolError("what was awaited was not given")
    try:
        return cast(M, wire.decode_as(*frame, kind))
    except MalformedMessage as fault:
        raise FaultySilo(sender, f"it did not say what was due: {fault}") from None


Watch: TypeAlias = Callable[[SiloId, SiloId, Frame], None]
"""Told sender, receiver and frame of all that is sent."""


def together(sides: Mapping[SiloId, Side[T]], *, watch: Watch | None = None) -> dict[SiloId, T]:
    """Run all sides in this process and return what each learned.

    Args:
        sides: party -> its side.
        watch: told of every frame.

    Raises:
        ProtocolError: all wait for each other, or one sends to nobody.
        SecaggError: as a side raises; the others are closed.
    """
    boxes: dict[tuple[SiloId, SiloId], deque[Frame]] = {}
    learned: dict[SiloId, T] = {}
    awaited: dict[SiloId, SiloId] = {}
    running = dict(sides)

    def advance(name: SiloId, given: Frame | None) -> None:
        """Drive one side until it awaits what is not there, or ends."""
        side: Side[Any] = running[name]
        try:
            while True:
                action = side.send(given)
                match action:
                    case Send(to, frame):
                        if to not in sides or to == name:
                            raise ProtocolError(f"{name} sends to {to}, which is none of the others")
                        if watch is not None:
                            watch(name, to, frame)
                        boxes.setdefault((to, name), deque()).append(frame)
                        given = None
                    case Await(sender):
                        box = boxes.get((name, sender))
                        if not box:
                            awaited[name] = sender
                            return
                        given = box.popleft()
        except StopIteration as end:
            learned[name] = end.value
            del running[name]

    try:
        for name in sides:
            advance(name, None)
        while running:
            ready = next((n for n in running if boxes.get((n, awaited[n]))), None)
            if ready is None:
                waits = ", ".join(f"{name} for {awaited[name]}" for name in running)
                raise ProtocolError(f"all wait: {waits}")
            advance(ready, boxes[ready, awaited[ready]].popleft())
    finally:
        for side in running.values():
            side.close()
    return {name: learned[name] for name in sides}
