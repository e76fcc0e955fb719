"""Rounds over real mutual TLS: the coordinator's lines and service against silos whose streams break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from coordinator.lines import Lines
from coordinator.on_disk import Spooled
from coordinator.rounds import run_round

import grpc  # isort: skip

from secagg import wire
from secagg.errors import EnvironmentFault, TooFewSilos
from secagg.fixedpoint import Encoding, Segment
from secagg.link.frames import (
    PROTOCOL,
    Begin,
    Held,
    Hello,
    Piece,
    Probe,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.messages import Refused
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.plain import Plain
from secagg.rounds.driver import RoundDriver
from secagg.session import Aggregate, SealedSum
from tests.federations import Federation
from tests.loopback.world import Sent, Service, Speaker, connect, serving, speak

LENGTH = 2_000_000
PIECES = 8  # of 1 MiB: more than the transport takes ahead of what is read


def federation_of(n: int, **changes: Any) -> Federation:
    encoding = Encoding(word_bits=32, cohort=n, weight_cap=1.0, segments=(Segment("sum", LENGTH, 1.0, 20),))
    return Federation(n, encoding=encoding, **changes)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine; a test that hangs fails."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


async def everybody(lines: Lines, silos: frozenset[SiloId]) -> None:
    while lines.connected != silos:
        await lines.change()


async def opened(
    federation: Federation, service: Service, *, seconds: float = 20.0, attempts: int = 3, **changes: Any
) -> tuple[Aggregate, RoundDriver]:
    coordinator = federation.coordinator(seconds=seconds, attempts=attempts, **changes)
    driver = RoundDriver(coordinator)
    aggregate = await run_round(driver, service.lines, seconds=seconds)
    assert isinstance(aggregate, Aggregate)
    return aggregate, driver


def contents(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def check(federation: Federation, aggregate: Aggregate, survivors: tuple[SiloId, ...]) -> None:
    assert aggregate.survivors == survivors
    expected = np.sum([federation.vectors[silo] for silo in survivors], axis=0, dtype=np.uint32)
    assert np.array_equal(aggregate.total, expected)


@pytest.mark.parametrize("scheme", [None, Plain()], ids=["Masking", "Plain"])
def test_a_round_over_the_wire_opens_the_same_sum(scheme: Any, tmp_path: Path) -> None:
    federation = federation_of(4, scheme=scheme)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            aggregate, driver = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos)
            assert driver.coordinator.attempt == 1
            assert all(speaker.streams == 1 for speaker in speakers.values())
            assert all(len(work.applied) == 1 for work in federation.work.values())

    run(work)
    assert not list(tmp_path.iterdir()), "nothing is left in the spool"


def test_an_upload_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    federation = federation_of(4)
    sent: list[tuple[int, int]] = []

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            west = speakers["west"]

            def cutting(frame: Sent) -> list[Sent]:
                if isinstance(frame, Piece):
                    sent.append((west.streams, frame.offset))
                    if west.streams == 1 and service.lines["west"].incoming.held.part > 0:
                        west.cut()
                return [frame]

            west.change = cutting
            aggregate, driver = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos)
            assert driver.coordinator.attempt == 1
            assert west.streams == 2

    run(work)
    again = [offset for stream, offset in sent if stream == 2]
    assert 0 < len(again) < PIECES, "what had arrived was not sent again"
    assert again[0] > 0


def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    federation = federation_of(4)
    taken: list[tuple[int, int]] = []

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            west = speakers["west"]

            def cutting(frame: Begin | Piece) -> None:
                if isinstance(frame, Piece):
                    taken.append((west.streams, frame.offset))
                    if len(taken) == 3:
                        west.cut()

            west.taken = cutting
            aggregate, _ = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos)
            assert west.streams == 2
            assert len(federation.work["west"].applied) == 1

    run(work)
    again = [offset for stream, offset in taken if stream == 2]
    assert again
    assert again[0] > 0


def test_repeated_and_exchanged_frames_change_nothing(tmp_path: Path) -> None:
    federation = federation_of(4)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            north, west = speakers["north"], speakers["west"]
            held: list[Sent] = []
            exchanged = False

            def exchanging(frame: Sent) -> list[Sent]:
                nonlocal exchanged
                if not isinstance(frame, Piece) or exchanged:
                    return [frame]
                held.append(frame)
                exchanged = len(held) == 2
                return held[::-1] if exchanged else []

            north.change = lambda frame: [frame, frame]
            west.change = exchanging
            aggregate, driver = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos)
            assert west.streams == 2, "a gap ends the stream, and the next one goes on"
            assert north.streams == 1, "what is repeated is not even noticed"
            assert not driver.coordinator.losses

    run(work)


def test_a_silo_that_never_comes_is_not_awaited(tmp_path: Path) -> None:
    federation = federation_of(5)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            here = {silo: federation.silos[silo] for silo in federation.roster.silos[1:]}
            speakers = speak(service, federation.roster, here)
            await everybody(service.lines, frozenset(speakers))
            aggregate, _ = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos[1:])

    run(work)


def test_a_silo_that_restarts_sits_the_attempt_out_and_is_in_the_next(tmp_path: Path) -> None:
    """Killed after its keys were announced: the attempt ends without it, and its comrades are not delayed."""
    federation = federation_of(5)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            west = speakers["west"]
            restarted = asyncio.Event()

            def dying(frame: Sent) -> list[Sent]:
                if isinstance(frame, Begin) and b"MaskedInput" in frame.header and not restarted.is_set():
                    restarted.set()
                    federation.silos["west"].restart()
                    west.boot()
                    west.cut()
                return [frame]

            west.change = dying
            aggregate, driver = await opened(federation, service)
            others = tuple(silo for silo in federation.roster.silos if silo != "west")
            check(federation, aggregate, others)
            assert driver.coordinator.attempt == 1
            await everybody(service.lines, frozenset(speakers))
            assert federation.work["west"].trained == 1, "its encoded vector outlived its process"

    run(work)


async def too_few(federation: Federation, service: Service) -> list[tuple[frozenset[SiloId], int]]:
    """Run a round that ends for want of silos; return who was said to be awaited, and how many were there."""
    told: list[tuple[frozenset[SiloId], int]] = []
    coordinator = federation.coordinator(seconds=20.0, training_seconds=1.0)
    with pytest.raises(TooFewSilos):
        await run_round(
            RoundDriver(coordinator),
            service.lines,
            seconds=20.0,
            short=lambda recalled, have, _seconds: told.append((recalled, have)),
        )
    return told


def test_too_few_silos_end_the_round_without_a_sum(tmp_path: Path) -> None:
    federation = federation_of(5)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            here = {silo: federation.silos[silo] for silo in federation.roster.silos[:2]}
            speakers = speak(service, federation.roster, here)
            await everybody(service.lines, frozenset(speakers))
            told = await too_few(federation, service)
            assert told == [(frozenset(federation.roster.silos[2:]), 2)]
            assert all(not work.applied for work in federation.work.values())

    run(work)


def test_a_silo_that_refuses_makes_the_others_short_and_that_is_told(tmp_path: Path) -> None:
    """One of five is away, which may be; then another refuses: now the first is waited for, by name."""
    federation = federation_of(5)
    *here, refuses = federation.roster.silos[:4]

    def refusing(frame: Frame) -> Frame:
        return wire.encode(Refused("app"))

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, {silo: federation.silos[silo] for silo in here})
            speakers[refuses] = Speaker(service, refuses, federation.roster, refusing).start()
            await everybody(service.lines, frozenset(speakers))
            told = await too_few(federation, service)
            assert told == [(frozenset(federation.roster.silos[4:]), 3)]

    run(work)


def test_a_full_spool_ends_the_round_blaming_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = federation_of(5)

    def full(self: Spooled, data: memoryview) -> None:
        raise EnvironmentFault("the disk is full")

    monkeypatch.setattr(Spooled, "write", full)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            driver = RoundDriver(federation.coordinator())
            with pytest.raises(EnvironmentFault, match="full"):
                await run_round(driver, service.lines, seconds=20.0)
            assert driver.coordinator.losses == {}

    run(work)


def test_a_sum_that_was_not_kept_is_not_announced(tmp_path: Path) -> None:
    """Guarantee."""
    federation = federation_of(4)
    kept: list[Aggregate | SealedSum] = []

    async def keep(aggregate: Aggregate | SealedSum) -> None:
        assert not any(work.applied for work in federation.work.values())
        kept.append(aggregate)
        raise EnvironmentFault("the disk is full")

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            driver = RoundDriver(federation.coordinator())
            with pytest.raises(EnvironmentFault):
                await run_round(driver, service.lines, seconds=20.0, keep=keep)
            assert not any(line.outgoing.pending for line in map(service.lines.__getitem__, speakers))

    run(work)
    assert [aggregate.survivors for aggregate in kept] == [federation.roster.silos]
    assert not any(work.applied for work in federation.work.values())


def test_more_than_an_upload_is_cut_off_before_any_of_it_is_kept(tmp_path: Path) -> None:
    federation = federation_of(5)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            west = speakers["west"]

            def boasting(frame: Sent) -> list[Sent]:
                if isinstance(frame, Begin) and frame.size is not None:
                    return [Begin(frame.number, frame.header, frame.size + 1)]
                return [frame]

            west.change = boasting
            aggregate, driver = await opened(federation, service)
            check(federation, aggregate, tuple(s for s in federation.roster.silos if s != "west"))
            assert "4 bytes" not in driver.coordinator.losses["west"]
            assert driver.coordinator.losses["west"].startswith("faulty: west: a payload of")

    run(work)


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"protocol": 2, "version": "9.9"}, "FAILED_PRECONDITION", r"runs secagg .*, west runs secagg 9\.9"),
        ({"roster": bytes(32)}, "FAILED_PRECONDITION", "roster: west has pinned 0000000000000000"),
        ({"held": Held(3, 0)}, "", ""),
    ],
    ids=["another protocol", "another roster", "held of a coordinator that is gone"],
)
def test_versions_and_rosters_are_compared_before_anything_else(
    changes: dict[str, Any], status: str, text: str, tmp_path: Path
) -> None:
    federation = federation_of(4)
    hello = replace(
        Hello(PROTOCOL, "0.1.0", federation.roster.digest, bytes(16), bytes(16), Held()), **changes
    )

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            issued = service.authority.issue_silo("west")
            async with service.channel(issued) as channel:
                call = connect(channel)
                await call.write(encode_link(hello))
                if not status:
                    welcome = decode_link(await call.read())
                    assert isinstance(welcome, Welcome)
                    assert (welcome.resumed, welcome.held) == (False, Held())
                    return
                with pytest.raises(grpc.aio.AioRpcError, match=text) as refused:
                    await call.read()
                assert refused.value.code().name == status
                assert not service.lines.connected

    run(work)


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({}, "", ""),
        ({"protocol": 2, "version": "9.9"}, "FAILED_PRECONDITION", r"runs secagg .*, west runs secagg 9\.9"),
        ({"roster": bytes(32)}, "FAILED_PRECONDITION", "roster: west has pinned 0000000000000000"),
    ],
    ids=["let in", "another protocol", "another roster"],
)
def test_a_probe_is_answered_like_a_hello_and_changes_nothing(
    changes: dict[str, Any], status: str, text: str, tmp_path: Path
) -> None:
    federation = federation_of(4)
    probe = replace(Probe(PROTOCOL, "0.1.0", federation.roster.digest), **changes)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            stream, box = service.lines["west"].stream, service.lines.listen()
            async with service.channel(service.authority.issue_silo("west")) as channel:
                call = connect(channel)
                await call.write(encode_link(probe))
                if status:
                    with pytest.raises(grpc.aio.AioRpcError, match=text):
                        await call.read()
                    assert (await call.code()).name == status
                else:
                    assert not isinstance(await call.read(), bytes)
                    assert await call.code() is grpc.StatusCode.OK
            assert service.lines["west"].stream == stream, "the silo's process is cut off"
            assert service.lines.connected == set(federation.roster.silos)
            assert box.empty()

    run(work)


@pytest.mark.parametrize(
    "first",
    [b"", b"garbage", encode_link(Received(1)), encode_link(Piece(1, 0, memoryview(b"a")))],
    ids=["nothing", "garbage", "an acknowledgement", "a piece"],
)
def test_a_stream_begins_with_hello(first: bytes, tmp_path: Path) -> None:
    federation = federation_of(4)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            channel = service.channel(service.authority.issue_silo("west"))
            call = connect(channel)
            await call.write(first)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            await channel.close(grace=None)
            assert not service.lines.connected

    run(work)


def test_a_later_stream_displaces_the_one_before(tmp_path: Path) -> None:
    federation = federation_of(4)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            first = service.lines["west"].stream
            twin = Speaker(service, "west", federation.roster, federation.silos["west"].deliver)
            await speakers["west"].stop()
            twin.start()
            await twin.connected.wait()
            assert service.lines["west"].stream > first
            aggregate, _ = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos)

    run(work)


def test_the_sum_is_on_disk_nowhere(tmp_path: Path) -> None:
    """Uploads are spooled without a name: not even a killed process leaves one behind."""
    federation = federation_of(4)
    seen: list[list[str]] = []

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))

            def looking(frame: Sent) -> list[Sent]:
                seen.append(contents(tmp_path))
                return [frame]

            speakers["west"].change = looking
            await opened(federation, service)

    run(work)
    assert seen
    assert not any(seen)
    assert np.dtype(np.uint32).itemsize * LENGTH > 1024 * 1024, "large enough to be spooled"
