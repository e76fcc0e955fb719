"""Attack ``replay_on_the_wire``: send again what a stream carried, from anywhere and at any time.

Over real mutual TLS: in the same round, in a later one, on a new stream with the old boot, with a Hello of
another process, by another silo with a certificate of its own; and everything that the coordinator sent, to a
silo. Nothing counts twice, nothing new is in a journal, and the sum is that of everybody who is in it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.lines import Line
from secagg import wire
from secagg.link.frames import (
    BOOT_SIZE,
    PROTOCOL,
    Begin,
    Held,
    Hello,
    Piece,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.link.line import Incoming
from secagg.messages import AdvertiseKeys, MaskedInput, Ready, SharesAnnounced
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.records import AttemptJoined
from secagg.rounds.driver import RoundDriver
from secagg.survivors import Locks
from tests.loopback.campaign import Campaign, campaign
from tests.loopback.world import Sent, connect

SUSPECT, OTHER = "west", "east"


class Watched:
    """A round, and what the coordinator took in it.

    Attributes:
        arrived: whole messages of the suspect by their header, whatever became of them.
        counted: (sender, kind, attempt) of every Ready and upload that was accepted.
    """

    def __init__(self, rounds: Campaign) -> None:
        self.driver: RoundDriver = rounds.next_round()
        self.arrived: Counter[bytes] = Counter()
        self.counted: Counter[tuple[SiloId, str, int]] = Counter()
        self.second = threading.Event()
        take, receive = self.driver.take, self.driver.coordinator.receive

        def taking(silo: SiloId, frame: Frame) -> Any:
            self.arrived[frame[0]] += silo == SUSPECT
            frames = take(silo, frame)
            if self.uploads > 1:
                self.second.set()
            return frames

        def receiving(sender: SiloId, message: Any) -> Any:
            training = self.driver.phase == "Training"
            step = receive(sender, message)
            if isinstance(message, MaskedInput) or (isinstance(message, Ready) and training):
                self.counted[sender, type(message).__name__, self.driver.coordinator.attempt] += 1
            return step

        self.driver.take = taking  # type: ignore[method-assign]
        self.driver.coordinator.receive = receiving  # type: ignore[method-assign]

    @property
    def uploads(self) -> int:
        """How many uploads of the suspect arrived."""
        return sum(n for header, n in self.arrived.items() if b"MaskedInput" in header[:40])

    async def run(self, rounds: Campaign) -> tuple[SiloId, ...]:
        """Run it and return the survivors."""
        aggregate = await rounds.run(self.driver)
        twice = [what for what, n in self.counted.items() if n > 1]
        assert not twice, f"counted twice: {twice}"
        rounds.check(self.driver, aggregate, SUSPECT)
        assert aggregate is not None
        return aggregate.survivors


class Recorder:
    """Keeps what the suspect says and hears in one round.

    Attributes:
        frames: as they went over the wire.
        replies: whole messages that it sent.
        heard: whole messages that it was sent.
        over: set when it has dealt with ``until`` of them.
    """

    def __init__(self, rounds: Campaign) -> None:
        speaker = rounds.speakers[SUSPECT]
        self.boot = speaker._boot
        self.frames: list[bytes] = []
        self.replies: list[Frame] = []
        self.heard: list[Frame] = []
        self.until = 0
        self.over = threading.Event()
        deliver = speaker._deliver

        def change(frame: Sent) -> list[Sent]:
            self.frames.append(frame if isinstance(frame, bytes) else encode_link(frame))
            return [frame]

        def delivering(frame: Frame) -> Frame | None:
            self.heard.append(frame)
            reply = deliver(frame)
            if reply is not None:
                self.replies.append(reply)
            if len(self.heard) == self.until:
                self.over.set()
            return reply

        speaker.change, speaker._deliver = change, delivering


# --- in the same round --------------------------------------------------------------------------------------


async def on_the_same_stream(rounds: Campaign) -> None:
    """Whatever was said so far is said again before each message."""
    await rounds.begin_again(SUSPECT)
    said: list[Sent] = []

    def again(frame: Sent) -> list[Sent]:
        said.append(frame)
        return [*said[:-1], frame] if isinstance(frame, Begin) else [frame]

    rounds.speakers[SUSPECT].change = again
    watched = Watched(rounds)
    assert await watched.run(rounds) == rounds.silos
    assert max(watched.arrived.values()) == 1, "a message arrives twice"


async def as_new_messages(rounds: Campaign) -> None:
    """What was said is said again under new numbers; an upload while others still send theirs."""
    speaker, slow = await rounds.begin_again(SUSPECT), rounds.speakers["north"]
    watched = Watched(rounds)
    replies: list[Frame] = []
    deliver, waits = speaker._deliver, slow._deliver

    def twice(frame: Frame) -> Frame | None:
        reply = deliver(frame)
        if reply is not None:
            replies.append(reply)
            for said in replies:
                speaker.outgoing.put(said)
        return reply

    def waiting(frame: Frame) -> Frame | None:
        if isinstance(wire.decode_from_coordinator(*frame), SharesAnnounced):
            assert watched.second.wait(30), "the second upload never came"
        return waits(frame)

    speaker._deliver, slow._deliver = twice, waiting
    try:
        assert await watched.run(rounds) == rounds.silos
    finally:
        slow._deliver = waits


# --- in a later round ---------------------------------------------------------------------------------------


async def in_a_later_round(rounds: Campaign) -> None:
    """Every message of one round comes in every phase of the next, before the right one."""
    speaker = await rounds.begin_again(SUSPECT)
    record = Recorder(rounds)
    assert await Watched(rounds).run(rounds) == rounds.silos
    deliver = speaker._deliver
    old = list(record.replies)

    def after_old(frame: Frame) -> Frame | None:
        for said in old:
            speaker.outgoing.put(said)
        return deliver(frame)

    speaker._deliver = after_old
    assert await Watched(rounds).run(rounds) == rounds.silos


async def from_elsewhere(rounds: Campaign) -> None:
    """A stream of its own says what the silo's said: with the old boot, then with that of another process."""
    await rounds.begin_again(SUSPECT)
    record = Recorder(rounds)
    assert await Watched(rounds).run(rounds) == rounds.silos
    lines = rounds.service.lines
    held, others = lines.held(SUSPECT), {silo: lines[silo].stream for silo in rounds.silos if silo != SUSPECT}
    await rounds.leave(SUSPECT)
    for boot, peer in ((record.boot, lines.boot), (os.urandom(BOOT_SIZE), None)):
        watched = Watched(rounds)
        running = asyncio.create_task(watched.run(rounds))
        issued = rounds.service.authority.issue_silo(SUSPECT)
        async with rounds.service.channel(issued) as channel:
            call = connect(channel)
            hello = Hello(PROTOCOL, "0", rounds.federation.roster.digest, boot, peer, Held())
            if peer is not None:  # It claims to hold what it acknowledged: nothing else is believed.
                hello = replace(hello, held=Held(rounds.speakers[SUSPECT].incoming.held.whole))
            await call.write(encode_link(hello))
            welcome = decode_link(await call.read())
            assert isinstance(welcome, Welcome)
            assert welcome.resumed == (peer is not None), "another process is taken for the same"
            for frame in record.frames:
                if isinstance(decode_link(frame), Begin | Piece):
                    await call.write(frame)
            if peer is not None:
                await call.write(encode_link(Begin(held.whole + 1, b"\x01the end", None)))
                await answered(call, held.whole + 1)
                assert not set(watched.arrived) & {header for header, _ in record.replies}, (
                    "old frames arrive"
                )
        survivors = await running
        assert SUSPECT not in survivors
    assert {silo: lines[silo].stream for silo in others} == others, "another silo's stream is displaced"


async def answered(call: Any, number: int) -> None:
    """Return when message ``number`` was acknowledged, or the stream has ended."""
    while isinstance(data := await call.read(), bytes):
        frame = decode_link(data)
        if type(frame).__name__ == "Received" and getattr(frame, "number", 0) >= number:
            return


async def by_another_silo(rounds: Campaign) -> None:
    """The suspect says, under its own certificate, what another silo says in the same round."""
    await rounds.begin_again(SUSPECT)
    speaker, other = rounds.speakers[SUSPECT], rounds.speakers[OTHER]
    deliver, copied = speaker._deliver, other._deliver
    said: dict[type[Any], Frame] = {}
    there = threading.Event()

    def spoken(frame: Frame) -> Frame | None:
        reply = copied(frame)
        if reply is not None and isinstance(wire.decode_from_silo(*reply), AdvertiseKeys):
            said[AdvertiseKeys] = reply
            there.set()
        return reply

    def copying(frame: Frame) -> Frame | None:
        reply = deliver(frame)
        if reply is not None and isinstance(wire.decode_from_silo(*reply), AdvertiseKeys):
            assert there.wait(30)
            return said[AdvertiseKeys]
        return reply

    other._deliver, speaker._deliver = spoken, copying
    try:
        watched = Watched(rounds)
        survivors = await watched.run(rounds)
    finally:
        other._deliver = copied
    assert survivors == tuple(silo for silo in rounds.silos if silo != SUSPECT)
    assert watched.driver.coordinator.losses[SUSPECT].startswith("faulty: west: "), "a copy is taken"


# --- to a silo ----------------------------------------------------------------------------------------------


async def to_a_silo(rounds: Campaign) -> None:
    """The coordinator sends a silo a whole round again, when it is over and in the next one."""
    await rounds.begin_again(SUSPECT)
    record = Recorder(rounds)
    assert await Watched(rounds).run(rounds) == rounds.silos
    host, lines = rounds.federation.silos[SUSPECT], rounds.service.lines
    work = rounds.federation.work[SUSPECT]
    journal, applied, replies = list(host.journal), len(work.applied), list(record.replies)
    record.until = 2 * len(record.heard)
    for frame in list(record.heard):
        lines.send(SUSPECT, frame)
    assert await asyncio.to_thread(record.over.wait, 30), "not everything arrived again"
    assert host.journal == journal, "something new is in the journal"
    assert len(work.applied) == applied, "a sum is applied twice"
    for reply in record.replies[len(replies) :]:
        refused = b"Refused" in reply[0][:40]
        assert refused or reply[0] in {header for header, _ in replies}, "a replayed message has a new answer"
    # It takes part in the next round as if nothing had happened.
    assert await Watched(rounds).run(rounds) == rounds.silos


async def attack(folder: Path) -> None:
    async with campaign(folder) as rounds:
        for part in (
            on_the_same_stream,
            as_new_messages,
            in_a_later_round,
            from_elsewhere,
            by_another_silo,
            to_a_silo,
        ):
            async with asyncio.timeout(60):
                await part(rounds)


def test_replay_on_the_wire(tmp_path: Path) -> None:
    asyncio.run(attack(tmp_path))


# --- without the defences -----------------------------------------------------------------------------------

take_once, attach = Incoming.take, Line.attach


def take_again(self: Incoming, frame: Begin | Piece) -> Frame | None:
    """Deliver what is repeated."""
    if isinstance(frame, Begin) and frame.number <= self._whole:
        return frame.header, None
    return take_once(self, frame)


def as_if_new(self: Line, hello: Hello, own: bytes) -> bool:
    """Begin at 1 with a process that is known."""
    known = self.boot == hello.boot
    attach(self, replace(hello, peer=None), own)
    return known


def anything(*_: object) -> None:
    """A check that refuses nothing."""


def joined_again(_: Locks, record: AttemptJoined) -> AttemptJoined:
    return record


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.link.line.Incoming.take", take_again, "a message arrives twice"),
        ("secagg.phases.Gate.check", anything, r"counted twice: .*MaskedInput|another sum"),
        ("secagg.masking.coordinator.MaskingCoordinator._check_round", anything, "sum is opened"),
        ("coordinator.lines.Line.attach", as_if_new, "old frames arrive"),
        (
            "secagg.masking.coordinator.bundle_fault",
            anything,
            "no sum is opened|an honest silo|a copy is taken",
        ),
        ("secagg.survivors.Locks.join", joined_again, "something new is in the journal"),
    ],
)
def test_replay_on_the_wire_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, mutant: Callable[..., Any], found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        asyncio.run(attack(tmp_path))
