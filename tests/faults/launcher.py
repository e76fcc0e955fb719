"""Starts ``silo`` or ``coordinator`` as their commands do, around a journal and a transport that obey orders.

    python -m tests.faults.launcher ORDERS silo run --config silo.toml

The product has no switch for tests: here its parts are exchanged for subclasses before its command runs.

Moments of a silo, in a phase that is named by its reply (``Ready`` in ``Training``), and ``SumOpened``:
    arrived: the message is here and nothing was done; writing, written: before and after what the answer
    permits is on disk; leaving: the reply is about to be queued; acknowledged: the coordinator has it.
Moments of a coordinator:
    writing, written: before and after each entry of its database and each file of a model, by its name;
    taken: a reply of the phase was taken; closed: the phase was closed, what follows is on disk, not sent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from secagg import wire
from secagg.link.frames import MAX_PIECE, Begin, Piece, decode_link
from secagg.link.line import Outgoing
from secagg.messages import TrainingOpened
from tests.faults.orders import Cut, Exchange, Kill, Orders, Repeat, Slow, Version, Way

PHASE_OF = {
    "TrainingOpened": "Training",
    "BaseSent": "Training",
    "Ready": "Training",
    "RoundOpened": "AdvertiseKeys",
    "KeysAnnounced": "ShareKeys",
    "SharesAnnounced": "MaskedInput",
    "SurvivorsAnnounced": "ConsistencyCheck",
    "UnmaskingRequested": "Unmasking",
}
"""Phases by what is sent and by the replies whose name is another one."""


class Scene:
    """Where a process is, and what happens there.

    Attributes:
        round, phase: where.
    """

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.round = 0
        self.phase = ""
        self._times = 0

    def reach(self, at: str, what: str | None = None) -> None:
        """Say that a moment has come."""
        match self.orders.present:
            case None:
                self._times = 0
            case Kill() as kill if (kill.at, kill.what) == (at, what or self.phase) and (
                kill.round in {None, self.round}
            ):
                self._times += 1
                if self._times == kill.time:
                    self.orders.withdraw()
                    os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, write: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``write`` with a moment before it and one after."""

        def written(*arguments: Any, **named: Any) -> Any:
            self.reach("writing", what)
            result = write(*arguments, **named)
            self.reach("written", what)
            return result

        return written


# --- silo ---------------------------------------------------------------------------------------------------


def silo(scene: Scene) -> None:
    """Run the command ``silo``."""
    import silo.agent
    import silo.client
    from silo.cli import main

    exchange(silo.agent, Journal=ordered_journal(scene), Client=ordered_client(scene))
    if isinstance(version := scene.orders.present, Version):
        exchange(silo.client, PROTOCOL=version.protocol, __version__=version.version)
    main()


def ordered_journal(scene: Scene) -> type:
    """Return the journal of a silo, with moments around what it writes."""
    from silo.journal import Journal

    class OrderedCache(MutableMapping[bytes, Any]):
        """The journal's cache of vectors, with moments around what it writes."""

        def __init__(self, cache: MutableMapping[bytes, Any]) -> None:
            self._cache = cache

        def __setitem__(self, training: bytes, vector: Any) -> None:
            scene.reach("writing")
            self._cache[training] = vector
            scene.reach("written")

        def __getitem__(self, training: bytes) -> Any:
            return self._cache[training]

        def __delitem__(self, training: bytes) -> None:
            del self._cache[training]

        def __iter__(self) -> Any:
            return iter(self._cache)

        def __len__(self) -> int:
            return len(self._cache)

    class OrderedJournal(Journal):
        """The journal, with moments around what it writes."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.cache = OrderedCache(self.cache)

        def sync(self, records: Sequence[Any]) -> None:
            if not records:
                return
            scene.reach("writing")
            super().sync(records)
            scene.reach("written")

        def keep(self, held: Any) -> None:
            scene.reach("writing")
            super().keep(held)
            scene.reach("written")

    return OrderedJournal


def ordered_client(scene: Scene) -> type:
    """Return the connection of a silo, with moments, and over a stream that obeys orders."""
    from silo.client import Arrival, Client, Line

    class OrderedOutgoing(Outgoing):
        """What leaves, with a moment when the other side has it."""

        def __init__(self) -> None:
            super().__init__()
            self._phases: dict[int, str] = {}

        def put(self, frame: Any) -> int:
            number = super().put(frame)
            self._phases[number] = reply_phase(frame)
            return number

        def acknowledge(self, number: int) -> None:
            super().acknowledge(number)
            for one in [one for one in self._phases if one <= number]:
                scene.reach("acknowledged", self._phases.pop(one))

    class OrderedClient(Client):
        """The connection, with moments, and over a stream that obeys orders."""

        async def next(self) -> Arrival:
            arrival = await super().next()
            message = wire.decode_from_coordinator(*arrival.frame)
            if isinstance(message, TrainingOpened):
                scene.round = message.terms.round
            name = type(message).__name__
            scene.phase = PHASE_OF.get(name, name)
            scene.reach("arrived")
            return arrival

        def reply(self, arrival: Arrival, frame: Any) -> None:
            scene.reach("leaving", reply_phase(frame))
            super().reply(arrival, frame)

        def _welcomed(self, data: bytes) -> Line:
            line = super()._welcomed(data)
            if not isinstance(line.outgoing, OrderedOutgoing):
                line.outgoing = OrderedOutgoing()
            return line

        async def _stream(self, stream: Any) -> None:
            await super()._stream(OrderedStream(stream, scene, self._address))

    return OrderedClient


def reply_phase(frame: Any) -> str:
    name = type(wire.decode_from_silo(*frame)).__name__
    return PHASE_OF.get(name, name)


class OrderedStream:
    """A silo's stream whose frames are cut off, repeated, exchanged or slowed, as ordered."""

    def __init__(self, stream: Any, scene: Scene, address: str) -> None:
        self._stream = stream
        self._orders = scene.orders
        self._address = address
        self._held: dict[Way, bytes] = {}
        self._ready: list[bytes] = []

    async def write(self, data: bytes) -> None:
        for frame in await self._changed("up", data):
            await self._stream.write(frame)

    async def read(self) -> Any:
        while not self._ready:
            data = await self._stream.read()
            if not isinstance(data, bytes):
                return data
            self._ready += await self._changed("down", data)
        return self._ready.pop(0)

    def cancel(self) -> Any:
        return self._stream.cancel()

    async def code(self) -> Any:
        return await self._stream.code()

    async def details(self) -> Any:
        return await self._stream.details()

    async def _changed(self, way: Way, data: bytes) -> list[bytes]:
        """Return what goes on in the place of ``data``."""
        order, frame = self._orders.present, decode_link(data)
        if order is None or not isinstance(frame, Begin | Piece):
            return [data]
        number = frame.offset // MAX_PIECE + 1 if isinstance(frame, Piece) else 0
        match order:
            case Cut(way=ordered, piece=piece) if (ordered, piece) == (way, number):
                self._orders.withdraw()
                cut(self._address)
            case Repeat(way=ordered) if ordered == way:
                return [data, data]
            case Exchange(way=ordered, piece=piece, times=times) if ordered == way:
                if (held := self._held.pop(way, None)) is not None:
                    if times > 1:
                        self._orders.give(Exchange(way, piece, times - 1))
                    else:
                        self._orders.withdraw()
                    return [data, held]
                if number == piece:
                    self._held[way] = data
                    return []
            case Slow(seconds=seconds) if way == "up" and number:
                await asyncio.sleep(seconds)
        return [data]


def cut(address: str) -> None:
    """Break every connection of this process to ``address``, as a network does that goes away."""
    port = int(address.rpartition(":")[2])
    for file in Path("/proc/self/fd").iterdir():
        try:
            if not str(file.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(file.name))) as one:
                if one.family in {socket.AF_INET, socket.AF_INET6} and one.getpeername()[1] == port:
                    one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # Closed meanwhile, or not connected.


# --- coordinator --------------------------------------------------------------------------------------------


def coordinator(scene: Scene) -> None:
    """Run the command ``coordinator``."""
    import coordinator.run
    import coordinator.runs
    import coordinator.server
    from coordinator.cli import main
    from coordinator.model_file import write_checkpoint
    from coordinator.store import Store
    from secagg.rounds.driver import Frames, RoundDriver

    class OrderedStore(Store):
        """The database, with moments around what it writes."""

        add_run: Any = scene.around("add_run", Store.add_run)
        set_memory: Any = scene.around("set_memory", Store.set_memory)
        add_record: Any = scene.around("add_record", Store.add_record)
        end: Any = scene.around("end", Store.end)

    class OrderedDriver(RoundDriver):
        """The driver of a round, with moments in each phase."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            scene.round = self.coordinator.terms.round

        def take(self, silo: str, frame: Any) -> Frames:
            phase = self.phase
            frames = super().take(silo, frame)
            scene.reach("taken", phase)
            return frames

        def advance(self, now: float) -> Frames:
            phase = self.phase
            frames = super().advance(now)
            if self.phase != phase or self.outcome is not None:
                scene.reach("closed", phase)
            return frames

    exchange(coordinator.server, Store=OrderedStore)
    exchange(coordinator.run, RoundDriver=OrderedDriver)
    exchange(coordinator.runs, write_checkpoint=scene.around("write_first", write_checkpoint))
    for name in ("write_checkpoint", "write_model", "write_whole"):
        exchange(coordinator.run, **{name: scene.around(name, getattr(coordinator.run, name))})
    main()


def exchange(module: ModuleType, **parts: object) -> None:
    """Put ``parts`` in the place of those that ``module`` has under these names."""
    for name, part in parts.items():
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name}")
        setattr(module, name, part)


def start() -> None:
    """Run what the command line names."""
    orders, command, *arguments = sys.argv[1:]
    sys.argv = [command, *arguments]
    {"silo": silo, "coordinator": coordinator}[command](Scene(Orders(Path(orders))))


if __name__ == "__main__":
    start()
