"""Lines where streams are displaced, silos late, disks full: nobody honest loses a message or its name."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest

import coordinator.rounds
import coordinator.service
from coordinator.lines import (
    IDLE_FRAMES,
    LONGEST_PAUSE,
    MAX_PENDING,
    MAX_PENDING_PAYLOADS,
    QUANTUM,
    Arrived,
    Broken,
    Line,
    Lines,
    Pace,
)
from coordinator.on_disk import OnDisk, Spooled
from coordinator.service import MAX_TRANSFERS, SiloService

import grpc  # isort: skip

from secagg.errors import EnvironmentFault, MalformedMessage, UsageError
from secagg.link.frames import (
    BOOT_SIZE,
    MAX_PIECE,
    PROTOCOL,
    Begin,
    Held,
    Hello,
    LinkFrame,
    Piece,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.rounds.driver import RoundDriver
from secagg.session import Aggregate
from tests.federations import roster_of
from tests.loopback.test_silo_service import check, everybody, federation_of, opened, run
from tests.loopback.world import Sent, connect, serving, speak

SILO = "west"


class Context:
    """One end of a stream whose other end is the test: it says what is read, and when a write is done."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.written: list[LinkFrame] = []
        self.writes = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def read(self) -> bytes:
        return await self.inbox.get()

    async def write(self, data: bytes) -> None:
        self.written.append(decode_link(data))
        self.writes.set()
        await self.takes.wait()

    def say(self, frame: LinkFrame) -> None:
        self.inbox.put_nowait(encode_link(frame))


def lines_of(folder: Path) -> tuple[Lines, Line]:
    lines = Lines(roster_of(4)[0], folder)
    return lines, lines[SILO]


def hello_of(lines: Lines, *, boot: bytes = bytes(BOOT_SIZE), held: Held | None = None) -> Hello:
    """Return what a silo says that knows this coordinator."""
    return Hello(PROTOCOL, "0.1.0", lines.roster.digest, boot, lines.boot, held or Held())


# --- displacement -------------------------------------------------------------------------------------------


def test_a_message_is_not_written_to_a_stream_that_was_displaced(tmp_path: Path) -> None:
    """The old stream waits in a write while a new one begins: what is queued leaves on the new one alone."""

    async def work() -> None:
        lines, line = lines_of(tmp_path)
        lines.attach(SILO, hello_of(lines))
        lines.arrived(SILO, (b"", None))
        line.incoming.take(Begin(1, b"", None))
        old, new = Context(), Context()
        old.takes.clear()
        service = SiloService(lines)
        first = asyncio.create_task(service._write(line, line.stream, old))
        await old.writes.wait()
        assert old.written == [Received(1)]
        lines.send(SILO, (b"a message", None))
        lines.attach(SILO, hello_of(lines, held=Held()))
        second = asyncio.create_task(service._write(line, line.stream, new))
        old.takes.set()
        await first
        while len(new.written) < 2:
            new.writes.clear()
            await new.writes.wait()
        assert old.written == [Received(1)]
        assert new.written == [Received(1), Begin(1, b"a message", None)]
        second.cancel()
        lines.close()

    run(work)


@pytest.mark.parametrize(
    "frame", [Received(1), Begin(1, b"of the old process", None)], ids=["acknowledgement", "message"]
)
def test_a_frame_that_is_read_after_its_stream_was_displaced_is_not_taken(
    frame: LinkFrame, tmp_path: Path
) -> None:
    """A silo was killed and is back: what its first process said last is not heard, nor held against it."""

    async def work() -> None:
        lines, line = lines_of(tmp_path)
        lines.attach(SILO, hello_of(lines))
        lines.send(SILO, (b"a message", None))
        line.outgoing.take()
        old = Context()
        reading = asyncio.create_task(SiloService(lines)._read(line, line.stream, old))
        await asyncio.sleep(0)
        old.say(frame)
        lines.attach(SILO, hello_of(lines, boot=os.urandom(BOOT_SIZE)))
        await reading  # It ends without a fault.
        assert lines.held(SILO) == Held()
        lines.close()

    run(work)


# --- late uploads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 5], ids=["between rounds", "in a smaller round"])
def test_an_upload_of_a_round_that_is_over_is_only_late(limit: int, tmp_path: Path) -> None:
    """A silo whose connection was cut sends what was asked of it, too late: it is heard, not blamed."""
    federation = federation_of(4)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            service.lines.limit = 1000
            box = service.lines.listen()
            service.lines.limit = limit
            async with service.channel(service.authority.issue_silo(SILO)) as channel:
                call = connect(channel)
                await call.write(encode_link(hello_of(service.lines)))
                assert isinstance(decode_link(await call.read()), Welcome)
                await call.write(encode_link(Begin(1, b"late", 1000)))
                await call.write(encode_link(Piece(1, 0, memoryview(bytes(1000)))))
                await call.write(encode_link(Begin(2, b"now", None)))
                assert decode_link(await call.read()) in (Received(1), Received(2))
                while not isinstance(event := await box.get(), Arrived | Broken):
                    pass
                assert event == Arrived(SILO, (b"now", None))
            assert service.lines.held(SILO).whole == 2

    run(work)


def test_more_than_any_round_expected_is_not_late(tmp_path: Path) -> None:
    async def work() -> None:
        lines, line = lines_of(tmp_path)
        lines.limit = 1000
        lines.deafen()
        with pytest.raises(MalformedMessage, match="1001 bytes"):
            line.incoming.take(Begin(1, b"", 1001))

    run(work)


# --- disk and memory ----------------------------------------------------------------------------------------


class FullOnce:
    """A file whose disk is full in the middle of one write."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._full = False

    def write(self, data: memoryview) -> int:
        if self._full:
            return int(self._file.write(data))
        if len(data) < MAX_PIECE:
            self._full = True
            raise OSError(28, "No space left on device")
        return int(self._file.write(data[: len(data) // 2]))

    def __enter__(self) -> Any:
        return self._file.__enter__()

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_piece_that_was_written_in_part_is_written_again(tmp_path: Path) -> None:
    piece = memoryview(os.urandom(MAX_PIECE))
    spooled = Spooled(tmp_path)
    spooled._file = FullOnce(spooled._file)  # type: ignore[assignment]
    with pytest.raises(EnvironmentFault):
        spooled.write(piece)
    spooled.write(piece)
    assert spooled.whole()[:] == piece


def test_a_payload_is_taken_once(tmp_path: Path) -> None:
    spooled = Spooled(tmp_path)
    spooled.write(memoryview(b"payload"))
    whole = spooled.whole()
    spooled.discard()
    assert bytes(whole[:]) == b"payload"
    with pytest.raises(UsageError):
        spooled.whole()


def test_a_disk_that_cannot_be_read_ends_a_stream_and_is_nobodys_fault(tmp_path: Path) -> None:
    federation = federation_of(4)
    (tmp_path / "file").write_bytes(bytes(MAX_PIECE))
    data = OnDisk.of(tmp_path / "file")
    os.truncate(tmp_path / "file", 0)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            box = service.lines.listen()
            service.lines.send(SILO, (b"header", data))
            while not speakers[SILO].closed:
                await service.lines.change()
            assert speakers[SILO].closed[0] is grpc.StatusCode.UNAVAILABLE
            assert box.empty(), "a fault is told"

    run(work)


def test_an_upload_is_freed_when_it_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = federation_of(4)
    uploads: list[weakref.ref[OnDisk]] = []
    alive: list[int] = []
    whole = Spooled.whole

    def watched(self: Spooled) -> OnDisk:
        upload = whole(self)
        uploads.append(weakref.ref(upload))
        return upload

    monkeypatch.setattr(Spooled, "whole", watched)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            coordinator = federation.coordinator()
            coordinator._remember = lambda step: step  # type: ignore[method-assign]
            driver = RoundDriver(coordinator)
            receive = coordinator.__class__.__mro__[1].receive  # type: ignore[attr-defined]
            monkeypatch.setattr(coordinator, "receive", lambda *given: receive(coordinator, *given))
            advance = driver.advance

            def advancing(now: float) -> Any:
                if coordinator.phase == "MaskedInput" and not coordinator.waiting:
                    gc.collect()
                    alive.append(sum(ref() is not None for ref in uploads))
                return advance(now)

            monkeypatch.setattr(driver, "advance", advancing)
            await coordinator_rounds.run_round(driver, service.lines, seconds=20.0)

    coordinator_rounds = coordinator.rounds
    run(work)
    assert alive
    assert alive[0] == 0


@pytest.mark.parametrize(
    ("frame", "most"),
    [((b"", None), MAX_PENDING), ((b"", memoryview(b"model")), MAX_PENDING_PAYLOADS)],
    ids=["messages", "payloads"],
)
@pytest.mark.parametrize("connected", [True, False])
def test_what_waits_for_a_silo_that_takes_nothing_is_bounded(
    frame: Any, most: int, connected: bool, tmp_path: Path
) -> None:
    async def work() -> None:
        lines, line = lines_of(tmp_path)
        lines.attach(SILO, hello_of(lines))
        stream = line.stream
        if not connected:
            lines.detach(SILO, stream)
        for _ in range(most):
            lines.send(SILO, frame)
        assert line.outgoing.pending == most
        assert line.stream == stream
        lines.send(SILO, frame)
        assert line.outgoing.pending == 0
        assert line.stream > stream, "the open stream ends"
        assert SILO not in lines.connected
        assert not lines.attach(SILO, hello_of(lines)), "the silo joins as one that is not known"
        lines.close()

    run(work)


def test_an_upload_that_nobody_has_read_fills_the_room(tmp_path: Path) -> None:
    """Of one silo no more than one upload waits, however fast it sends."""

    async def work() -> None:
        lines, line = lines_of(tmp_path)
        box = lines.listen()
        lines.arrived(SILO, (b"", memoryview(b"upload")))
        assert not line.room.is_set()
        lines.read(await box.get())  # type: ignore[arg-type]
        assert line.room.is_set()
        assert line.unread == 0
        lines.arrived(SILO, (b"", memoryview(b"upload")))
        lines.listen()
        assert line.room.is_set()
        assert line.unread == 0

    run(work)


# --- time ---------------------------------------------------------------------------------------------------


def test_a_pace_holds_for_all_frames() -> None:
    """In simulated time: who waits as long as it says gets so many through, and no more."""
    pace, now, taken = Pace(), 100.0, 0
    while now < 110.0:
        now += pace.spend(1, now)
        taken += 1
    assert IDLE_FRAMES * 10 <= taken <= IDLE_FRAMES * 11 + 1
    assert pace.spend(10**6, now) == LONGEST_PAUSE
    assert pace.spend(1, now + 1000.0) == 0.0


PIECE = QUANTUM // 4


def test_repeated_pieces_are_no_progress(tmp_path: Path) -> None:
    async def work() -> None:
        lines, line = lines_of(tmp_path)
        lines.listen()
        lines.limit = 2 * QUANTUM
        lines.attach(SILO, hello_of(lines))
        context = Context()
        reading = asyncio.create_task(SiloService(lines)._read(line, line.stream, context))
        context.say(Begin(1, b"", 2 * QUANTUM))
        for _ in range(9):
            context.say(Piece(1, 0, memoryview(bytes(PIECE))))
        for _ in range(100):  # Turns of the loop, more than the frames need.
            await asyncio.sleep(0)
        assert context.inbox.empty()
        assert line.incoming.held == Held(0, PIECE)
        assert line.moved == 0.0
        assert line._bytes == PIECE
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        lines.close()

    run(work)


class Moving(Line):
    """A line on which something moved a moment ago, always."""

    @property
    def moved(self) -> float:
        return asyncio.get_running_loop().time()

    @moved.setter
    def moved(self, moment: float) -> None:
        pass


def test_a_silo_that_uploads_what_is_not_asked_for_does_not_hold_up_a_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that move put a deadline off, but no further than all payloads of a phase could."""
    monkeypatch.setattr(coordinator.rounds, "FLUSH_SECONDS", 0.1)
    federation = federation_of(5)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            coordinator = federation.coordinator(seconds=0.5, training_seconds=20.0)
            driver = RoundDriver(coordinator)
            line = service.lines[SILO]

            def drips(frame: Sent) -> list[Sent]:
                """Hold the masked input back; in its place, something always seems to move."""
                if isinstance(frame, Begin) and b"MaskedInput" in frame.header:
                    line.__class__ = Moving
                return [] if isinstance(line, Moving) else [frame]

            speakers[SILO].change = drips
            aggregate = await coordinator_round(driver, service.lines, seconds=0.5)
            assert isinstance(aggregate, Aggregate)
            check(federation, aggregate, tuple(s for s in federation.roster.silos if s != SILO))
            assert driver.coordinator.losses[SILO] == "MaskedInput"

    coordinator_round = coordinator.rounds.run_round
    run(work)


def test_a_silo_that_talks_on_does_not_hold_up_the_end_of_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More unread messages than there is room for: its acknowledgement behind them is still read."""
    monkeypatch.setattr(coordinator.rounds, "FLUSH_SECONDS", 3600.0)
    federation = federation_of(4)

    async def work() -> None:
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            west = speakers[SILO]

            def talking(frame: Begin | Piece) -> None:
                if isinstance(frame, Begin) and b"SumOpened" in frame.header:
                    for _ in range(20):
                        west.outgoing.put((b"\x01", None))
                    west._wake.set()

            west.taken = talking
            aggregate, _ = await opened(federation, service)
            check(federation, aggregate, federation.roster.silos)

    run(work)


def test_silos_that_take_nothing_leave_the_transfers_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.service, "SLOT_SECONDS", 0.05)

    async def work() -> None:
        lines = Lines(roster_of(2 * MAX_TRANSFERS + 1)[0], tmp_path)
        service = SiloService(lines)
        *stalled, other = (Context() for _ in lines.roster.silos)
        for context in stalled:
            context.takes.clear()
        tasks = []
        for silo, context in zip(lines.roster.silos, (*stalled, other), strict=True):
            lines.attach(silo, hello_of(lines))
            lines.send(silo, (b"header", memoryview(bytes(10))))
            tasks.append(asyncio.create_task(service._write(lines[silo], lines[silo].stream, context)))
        while not any(isinstance(frame, Piece) for frame in other.written):
            other.writes.clear()
            await other.writes.wait()
        for context in stalled:
            context.takes.set()
            while not any(isinstance(frame, Piece) for frame in context.written):
                context.writes.clear()
                await context.writes.wait()
        await ended(tasks)
        assert service._written._value == MAX_TRANSFERS, "a slot is given back once"
        lines.close()

    run(work)


def test_silos_that_send_nothing_leave_the_transfers_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have begun an upload, and hold what there is to read with; what is small is not held up at all."""
    monkeypatch.setattr(coordinator.service, "SLOT_SECONDS", 0.05)

    async def work() -> None:
        lines = Lines(roster_of(MAX_TRANSFERS + 2)[0], tmp_path)
        service = SiloService(lines)
        *stalled, other, talker = lines.roster.silos
        contexts = {silo: Context() for silo in lines.roster.silos}
        tasks = []
        for silo, context in contexts.items():
            lines.attach(silo, hello_of(lines))
            tasks.append(asyncio.create_task(service._read(lines[silo], lines[silo].stream, context)))
        box = lines.listen()
        lines.limit = 20
        for silo in (*stalled, other):
            contexts[silo].say(Begin(1, b"upload", 20))
        contexts[talker].say(Begin(1, b"message", None))
        assert await box.get() == Arrived(talker, (b"message", None))
        assert service._read_now.locked()
        for offset in (0, 10):
            contexts[other].say(Piece(1, offset, memoryview(bytes(10))))
        assert await box.get() == Arrived(other, (b"upload", memoryview(bytes(20))))
        await ended(tasks)
        assert service._read_now._value == MAX_TRANSFERS, "a slot is given back once"
        lines.close()

    run(work)


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in an upload"])
def test_nothing_is_left_when_a_server_has_stopped(busy: bool, tmp_path: Path) -> None:
    federation = federation_of(4)
    left: list[str] = []

    async def work() -> None:
        before = asyncio.all_tasks()
        async with serving(federation.roster, tmp_path) as service:
            speakers = speak(service, federation.roster, federation.silos)
            await everybody(service.lines, frozenset(speakers))
            if busy:
                half = asyncio.Event()

                def halfway(frame: Sent) -> list[Sent]:
                    if isinstance(frame, Piece) and frame.offset > MAX_PIECE:
                        half.set()
                    return [frame]

                speakers[SILO].change = halfway
                running = asyncio.create_task(opened(federation, service))
                await half.wait()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(0)
        left.extend(str(task.get_coro()) for task in asyncio.all_tasks() - before)
        assert not service.lines.connected
        assert not service.lines._departures

    run(work)
    assert not [task for task in left if "coordinator" in task or "SiloService" in task]
    assert not list(tmp_path.iterdir())
