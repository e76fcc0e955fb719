"""A side of a protocol in a thread of its own, because it computes for seconds; a loop carries its frames."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from secagg.conversation import Await, Send, Side
from secagg.names import SiloId
from secagg.payload import Frame

T = TypeVar("T")

SIDE = "side"
"""Name of the thread; it outlives a command that is told to stop while it computes."""


class Carrier(Protocol):
    """Who carries frames to and from other parties."""

    def say(self, to: SiloId, frame: Frame) -> None:
        """Queue ``frame`` for ``to``."""
        ...

    async def hear(self, sender: SiloId) -> Frame:
        """Return the next frame of ``sender``, waiting for it."""
        ...


@dataclass(frozen=True)
class _Returned:
    value: Any = field(repr=False)


@dataclass(frozen=True)
class _Raised:
    error: BaseException = field(repr=False)


_Action: TypeAlias = Send | Await | _Returned | _Raised


class SideThread(Generic[T]):
    """One side, from its making to its end.

    Args:
        make: makes the side; called in the thread.
        carrier: of its frames.

    Guarantees:
        When the block is left, the side is closed and its thread done; but if the block is cancelled, that is
        not waited for: the process is to end.
    """

    def __init__(self, make: Callable[[], Side[T]], carrier: Carrier) -> None:
        self._make = make
        self._carrier = carrier
        self._loop = asyncio.get_running_loop()
        self._actions: asyncio.Queue[_Action] = asyncio.Queue()
        self._given: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._dropped = threading.Event()
        self._over = asyncio.Event()
        self._thread: threading.Thread | None = None

    async def learned(self) -> T:
        """Begin, carry frames until the side ends, and return what it learned; once.

        Raises:
            Exception: whatever the side raises.
            ProtocolError: it sends to, or awaits, nobody of the meeting.
        """
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name=SIDE, daemon=True)
        self._thread.start()
        while True:
            match await self._actions.get():
                case Send(to, frame):
                    self._carrier.say(to, frame)
                case Await(sender):
                    self._given.put(await self._carrier.hear(sender))
                case _Returned(value):
                    learned: T = value
                    return learned
                case _Raised(error):
                    raise error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self._dropped.set()
        self._given.put(None)
        if self._thread is not None and not isinstance(error, asyncio.CancelledError):
            await self._over.wait()

    def _run(self) -> None:
        try:
            self._post(self._end())
        finally:
            self._tell(self._over.set)

    def _end(self) -> _Returned | _Raised:
        """Drive the side until it ends or is dropped."""
        try:
            side = self._make()
            try:
                given: Frame | None = None
                while not self._dropped.is_set():
                    action = side.send(given)
                    self._post(action)
                    given = self._given.get() if isinstance(action, Await) else None
            except StopIteration as end:
                return _Returned(end.value)
            finally:
                side.close()
        except BaseException as error:  # noqa: BLE001 - it is raised again by ``learned``
            return _Raised(error)
        return _Raised(asyncio.CancelledError())

    def _post(self, action: _Action) -> None:
        self._tell(self._actions.put_nowait, action)

    def _tell(self, what: Callable[..., object], *given: object) -> None:
        with suppress(RuntimeError):  # The loop is closed: the command was cancelled and has ended.
            self._loop.call_soon_threadsafe(what, *given)
