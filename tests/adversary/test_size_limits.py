"""Attack ``size_limits``: a silo with a valid certificate tries to exhaust the coordinator, or it a silo.

It announces more than it may send, sends more than it announced, sends messages without end, opens streams
that say nothing, comes back at once when it is cut off. Whatever it does costs the coordinator a bounded
amount, and the round goes on without it. The coordinator sends a silo a payload that it did not ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import coordinator.lines
import coordinator.on_disk
import coordinator.service
from secagg.link.frames import (
    MAX_FRAME_SIZE,
    MAX_PIECE,
    PROTOCOL,
    Begin,
    Held,
    Hello,
    Piece,
    decode_link,
    encode_link,
)
from secagg.link.line import InMemory, Store
from tests.federations import Federation
from tests.loopback import test_silo_client as silo_side
from tests.loopback.scripted import Coordinator as Scripted
from tests.loopback.test_silo_service import check, everybody, federation_of, opened, run
from tests.loopback.world import Sent, Service, connect, serving, speak

import grpc  # isort: skip

SENDER = "west"
HALF_OPEN = 100
LIMIT = 2 * MAX_PIECE


def more_than_allowed(frame: Sent) -> list[Sent]:
    """Announce a hundred times the vector, and begin to send it."""
    if isinstance(frame, Begin) and frame.size is not None:
        return [Begin(frame.number, frame.header, frame.size * 100)]
    return [frame]


def more_than_announced(frame: Sent) -> list[Sent]:
    """Go on after the last piece."""
    if isinstance(frame, Piece) and len(frame.data) < MAX_PIECE:
        return [Piece(frame.number, frame.offset, memoryview(bytes(MAX_PIECE)))]
    return [frame]


async def attacked(folder: Path, change: Callable[[Sent], list[Sent]]) -> None:
    """Run a round in which one silo sends what ``change`` makes of its frames."""
    federation, kept = federation_of(5), []
    async with serving(federation.roster, folder) as service:
        real = service.lines[SENDER].incoming._store

        def store(size: int) -> Any:
            made = real(size)
            kept.append(size)
            return made

        speakers = speak(service, federation.roster, federation.silos)
        await everybody(service.lines, frozenset(speakers))
        service.lines[SENDER].incoming._store = store
        speakers[SENDER].change = change
        aggregate, driver = await opened(federation, service, seconds=5.0)
        check(federation, aggregate, tuple(s for s in federation.roster.silos if s != SENDER))
        assert sum(kept) <= 4 * (federation.encoding.length + 1), "more was kept than one upload"
        assert service.lines[SENDER].stream < 4, "it is taken back as often as it comes"
        assert driver.coordinator.losses[SENDER].startswith("faulty: west: "), "nobody is named"


async def floods(service: Service, federation: Federation) -> int:
    """Send small messages without end while a round listens; return how many the coordinator holds."""
    box = service.lines.listen()
    async with service.channel(service.authority.issue_silo(SENDER)) as channel:
        call = connect(channel)
        await call.write(encode_link(hello_of(federation)))
        await call.read()

        async def send() -> None:
            for number in range(1, 2000):
                await call.write(encode_link(Begin(number, b"\x01" + bytes(1000), None)))

        sending = asyncio.create_task(send())
        for _ in range(5000):  # Turns of the loop: enough to take all, if all were taken.
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        return box.qsize()


async def unasked() -> None:
    """Be a coordinator that sends more than the terms allow, and then what they do allow."""
    async with silo_side.serving(Scripted()) as coordinator:
        silo = silo_side.client(coordinator.port)
        silo.limit = LIMIT
        kept = [0]
        real = silo._store

        def store(size: int) -> Store:
            made = real(size)
            kept[0] = max(kept[0], size if isinstance(made, InMemory) else 0)
            return made

        silo._store = store  # type: ignore[method-assign]
        async with silo_side.running(silo):
            coordinator.send(silo_side.message(1, 40 * LIMIT))
            coordinator.send(silo_side.message(2, LIMIT))
            arrival = await silo.next()
            assert kept[0] <= LIMIT, "a silo keeps what it did not ask for"
            assert silo_side.same(arrival.frame, silo_side.message(2, LIMIT))


def hello_of(federation: Federation) -> Hello:
    return Hello(PROTOCOL, "0.1.0", federation.roster.digest, bytes(16), None, Held())


async def half_open(service: Service) -> list[grpc.StatusCode]:
    """Open streams that say nothing; return how they end."""
    async with service.channel(service.authority.issue_silo(SENDER)) as channel:
        calls = [connect(channel) for _ in range(HALF_OPEN)]
        return [await call.code() for call in calls]


def test_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = federation_of(5)
    for change in (more_than_allowed, more_than_announced):
        run(partial(attacked, tmp_path, change))

    run(unasked)

    async def flood() -> None:
        async with serving(federation.roster, tmp_path) as service:
            held = await floods(service, federation)
            assert held <= 8 + 1, "messages without end are held"

    run(flood)

    async def silence() -> None:
        async with serving(federation.roster, tmp_path) as service:
            try:
                async with asyncio.timeout(8):
                    codes = await half_open(service)
            except TimeoutError:
                raise AssertionError("streams that say nothing stay open") from None
            # Those that are too many at once are refused at once.
            assert set(codes) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
            assert grpc.StatusCode.DEADLINE_EXCEEDED in codes

    with monkeypatch.context() as patched:
        if coordinator.service.HELLO_SECONDS == 10.0:  # Ten seconds are long in a test.
            patched.setattr(coordinator.service, "HELLO_SECONDS", 0.5)
        run(silence)


def test_a_frame_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    federation = federation_of(5)

    async def work() -> None:
        async with (
            serving(federation.roster, tmp_path) as service,
            service.channel(service.authority.issue_silo(SENDER)) as channel,
        ):
            call = connect(channel)
            await call.write(encode_link(hello_of(federation)))
            decode_link(await call.read())
            with pytest.raises(grpc.aio.AioRpcError):
                await asyncio.gather(call.write(bytes(MAX_FRAME_SIZE + 1)), call.read())

    run(work)


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        (
            "coordinator.lines.Lines._new_store",
            lambda self, size: coordinator.on_disk.Spooled(self._spool),
            "more was kept than one upload",
        ),
        ("coordinator.service.BARRED_SECONDS", 0.0, "it is taken back as often as it comes"),
        ("coordinator.lines.MAX_UNREAD", 10_000, "messages without end are held"),
        pytest.param(
            *("coordinator.service.HELLO_SECONDS", 3600.0, "streams that say nothing stay open"),
            marks=pytest.mark.full,  # It waits for what does not come.
        ),
        (
            "silo.client.Client._store",
            lambda _self, size: InMemory(size),
            "a silo keeps what it did not ask for",
        ),
    ],
)
def test_size_limits_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_size_limits(tmp_path, monkeypatch)
