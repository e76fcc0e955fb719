"""Attack ``flood``: a silo sends as fast as it can, so that the coordinator has no time for the others.

Acknowledgements, repeated pieces, short pieces, small messages, requests for the base, streams opened again
and again, during rounds of the four others. What is counted: how many frames of the flooder are read in a
second, and that the others' rounds open exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import coordinator.lines
from coordinator.lines import Line, Pace
from coordinator.service import STREAM_FRAMES, SiloService
from secagg.link.frames import (
    BOOT_SIZE,
    MAX_PIECE,
    PROTOCOL,
    Begin,
    Held,
    Hello,
    Piece,
    Probe,
    Received,
    decode_link,
    encode_link,
)
from secagg.messages import BaseRequested, Ready
from secagg.wire import encode
from tests.loopback.campaign import Campaign, campaign
from tests.loopback.world import connect

import grpc  # isort: skip

SUSPECT = "west"
PIECE = 256 * 1024
RATE = 256
"""Frames that a flooder has read in a second, and in a first second once more; from the threat model."""

Flood = Callable[[Any, int], Any]


async def acknowledgements(call: Any, _: int) -> None:
    """Acknowledge what was acknowledged already."""
    while True:
        await call.write(encode_link(Received(1)))


async def repeated_pieces(call: Any, number: int) -> None:
    """Send one whole piece of an upload again and again."""
    await call.write(encode_link(Begin(number, b"\x01", 4 * PIECE)))
    piece = encode_link(Piece(number, 0, memoryview(bytes(PIECE))))
    while True:
        await call.write(piece)


async def short_pieces(call: Any, number: int) -> None:
    """Send an upload byte by byte."""
    await call.write(encode_link(Begin(number, b"\x01", 4 * PIECE)))
    for offset in range(4 * PIECE):
        await call.write(encode_link(Piece(number, offset, memoryview(b"\x00"))))


async def small_messages(call: Any, number: int) -> None:
    """Send messages of no phase."""
    header, _ = encode(Ready(bytes(32)))
    while True:
        await call.write(encode_link(Begin(number, header, None)))
        number += 1


async def requests(call: Any, number: int) -> None:
    """Ask for the base model."""
    header, _ = encode(BaseRequested(bytes(32)))
    while True:
        await call.write(encode_link(Begin(number, header, None)))
        number += 1


async def large_headers(call: Any, number: int) -> None:
    """Send messages whose headers are as large as they may be."""
    while True:
        await call.write(encode_link(Begin(number, bytes(4 * 1024 * 1024), None)))
        number += 1


async def reconnects(call: Any, _: int) -> None:
    """Say nothing: the stream is opened anew at once."""


FLOODS: tuple[Flood, ...] = (
    acknowledgements,
    repeated_pieces,
    short_pieces,
    small_messages,
    requests,
    large_headers,
    reconnects,
)


async def flooding(rounds: Campaign, flood: Flood) -> None:
    """Flood on one stream after the other, for ever."""
    issued = rounds.service.authority.issue_silo(SUSPECT)
    async with rounds.service.channel(issued) as channel:
        while True:
            call = connect(channel)
            hello = Hello(PROTOCOL, "0", rounds.federation.roster.digest, bytes(BOOT_SIZE), None, Held())
            reading: asyncio.Task[None] | None = None
            try:
                await call.write(encode_link(hello))
                if isinstance(data := await call.read(), bytes):
                    decode_link(data)
                    reading = asyncio.create_task(_read(call))
                    await flood(call, 1)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
            finally:
                call.cancel()
                if reading is not None:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)


async def _read(call: Any) -> None:
    """Take what comes, so that nothing stands in the way of the flood."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while isinstance(await call.read(), bytes):
            pass


@asynccontextmanager
async def under_flood(rounds: Campaign, flood: Flood) -> AsyncIterator[None]:
    """Flood while the block runs."""
    task = asyncio.create_task(flooding(rounds, flood))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Counted:
    """How much of the suspect was served, frames and streams, in what they cost."""

    def __init__(self) -> None:
        self.cost = 0
        self.began = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counted]:
        take, hello = SiloService._take, SiloService._hello

        def taking(service: SiloService, line: Line, data: bytes, now: float) -> None:
            before = line.incoming.held
            take(service, line, data, now)
            # A piece in full that is new is no flood: there is an upload's worth of them.
            full = line.incoming.held.part >= before.part + MAX_PIECE
            if line.silo == SUSPECT and not full:
                self.cost += 1 + len(data) // 65536

        async def greeting(service: SiloService, silo: str, context: Any) -> Hello | Probe:
            self.cost += STREAM_FRAMES * (silo == SUSPECT)
            return await hello(service, silo, context)

        with patch.object(SiloService, "_take", taking), patch.object(SiloService, "_hello", greeting):
            yield self

    def check(self, what: str) -> None:
        seconds = asyncio.get_running_loop().time() - self.began
        # One frame more than the rate, which may be as large as a header; and all streams that wait at once.
        slack = 70 + 16 * STREAM_FRAMES
        assert self.cost <= RATE * (seconds + 1) + slack, f"{what}: {self.cost} in {seconds:.1f} s are read"


async def attack(folder: Path) -> None:
    async with campaign(folder) as rounds:
        await rounds.leave(SUSPECT)
        for flood in FLOODS:
            what = flood.__name__
            async with Counted().counting() as counted, under_flood(rounds, flood):
                driver = rounds.next_round()
                aggregate = await rounds.run(driver)
                rounds.check(driver, aggregate, SUSPECT)
                await asyncio.sleep(0.5)  # The flood has the coordinator for itself.
                counted.check(what)
                line = rounds.service.lines[SUSPECT]
                assert line.outgoing.pending <= coordinator.lines.MAX_PENDING, (
                    f"{what}: too much is kept for it"
                )


def test_flood(tmp_path: Path) -> None:
    asyncio.run(attack(tmp_path))


def unhurried(_: Pace, frames: float, now: float) -> float:
    """Let everything through at once."""
    return 0.0


spend = Pace.spend


def by_count(self: Pace, frames: float, now: float) -> float:
    """Count a frame for one, however large, and a stream too."""
    return spend(self, min(frames, 1), now)


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("coordinator.lines.Pace.spend", unhurried, "acknowledgements: .* are read"),
        (
            "coordinator.lines.Pace.spend",
            by_count,
            "repeated_pieces: .* are read|large_headers: .* are read|reconnects: .* are read",
        ),
        ("coordinator.lines.IDLE_FRAMES", 1e9, "acknowledgements: .* are read"),
        ("coordinator.service.MAX_PIECE", 1, "short_pieces: .* are read"),
        ("coordinator.service.STREAM_FRAMES", 0, "reconnects: .* are read"),
    ],
)
def test_flood_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        asyncio.run(attack(tmp_path))
