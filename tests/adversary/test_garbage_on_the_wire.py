"""Attack ``garbage_on_the_wire``: a silo with a valid certificate sends what is no frame, message or upload.

Over real mutual TLS, in rounds of five: one silo changes, cuts, exchanges or replaces frames. It is named, or
where the network may have done it only its stream is cut and goes on. The others lose nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from coordinator.lines import Lines
from coordinator.on_disk import Spooled
from secagg import wire
from secagg.errors import MalformedMessage
from secagg.link.frames import MAX_PIECE, Begin, Held, Hello, Piece, Received, decode_link, encode_link
from secagg.link.line import Incoming, InMemory, OutOfOrder
from secagg.messages import AdvertiseKeys, BaseRequested, MaskedInput, Ready, ShareKeys, Voided
from secagg.rounds.driver import RoundDriver
from tests.adversary.test_decode_fuzz import any_payload, corpus, flip, mutated, pick
from tests.counts import count
from tests.loopback.campaign import Campaign, campaign
from tests.loopback.world import Sent, Speaker

CASES = count(40, full=300)
SEED = 31
SUSPECT = "west"

GAP = Begin(2**40, b"", None)
"""A frame that ends every stream, by nobody's fault."""

Random = np.random.Generator
Change = Callable[[Sent], list[Sent]]


# --- chosen cases -------------------------------------------------------------------------------------------


def begins(frame: Sent, kind: type[Any]) -> bool:
    return isinstance(frame, Begin) and kind.__name__.encode() in frame.header[:40]


class Once:
    """Changes the first frame for which ``when`` holds, and no other."""

    def __init__(self, when: Callable[[Sent], bool], change: Change) -> None:
        self.when = when
        self.change = change
        self.done = False

    def __call__(self, frame: Sent) -> list[Sent]:
        if self.done or not self.when(frame):
            return [frame]
        self.done = True
        return self.change(frame)


class Exchanged:
    """Exchanges the first two pieces."""

    def __init__(self) -> None:
        self.held: list[Sent] = []
        self.done = False

    def __call__(self, frame: Sent) -> list[Sent]:
        if self.done or not isinstance(frame, Piece):
            return [frame]
        self.held.append(frame)
        self.done = len(self.held) == 2
        return self.held[::-1] if self.done else []


def to_begin(kind: type[Any], change: Callable[[Begin], list[Sent]]) -> Once:
    def changed(frame: Sent) -> list[Sent]:
        assert isinstance(frame, Begin)
        return change(frame)

    return Once(lambda frame: begins(frame, kind), changed)


def to_piece(change: Callable[[Piece], list[Sent]]) -> Once:
    def changed(frame: Sent) -> list[Sent]:
        assert isinstance(frame, Piece)
        return change(frame)

    return Once(lambda frame: isinstance(frame, Piece) and frame.offset == MAX_PIECE, changed)


def with_vector(begin: Begin, dtype: str, length: int) -> Begin:
    """Return ``begin`` with a header that announces another payload."""
    message = msgspec.msgpack.decode(begin.header[1:])
    message["vector"] = [dtype, length, message["vector"][2]]
    return replace(begin, header=wire.VERSION + msgspec.msgpack.encode(message))


def swapped(piece: Piece) -> list[Sent]:
    return [replace(piece, data=memoryview(bytes(len(piece.data))))]


def header_of(message: Any) -> bytes:
    return wire.encode(message)[0]


def foreign(kind: type[Any]) -> bytes:
    """Return the header of a message of ``kind`` from other rounds, of another federation."""
    return next(h for h, _ in corpus() if kind.__name__.encode() in h[:40])


NAMED: dict[str, Callable[[], Change]] = {
    "bytes that are no frame": lambda: to_begin(Ready, lambda _: [b"\x93garbage"]),
    "an empty frame": lambda: to_begin(ShareKeys, lambda _: [b""]),
    "a frame that is cut short": lambda: to_begin(AdvertiseKeys, lambda frame: [encode_link(frame)[:-1]]),
    "a frame with more in it": lambda: to_begin(MaskedInput, lambda frame: [encode_link(frame) + b"\xc0"]),
    "a second Hello": lambda: to_begin(
        ShareKeys, lambda frame: [encode_link(Hello(1, "0", bytes(32), bytes(16), None, Held()))]
    ),
    "an acknowledgement of what was not sent": lambda: to_begin(
        ShareKeys, lambda frame: [Received(99), frame]
    ),
    "a payload with another digest": lambda: to_piece(swapped),
    "a payload of another type": lambda: to_begin(
        MaskedInput, lambda frame: [with_vector(frame, "u8", (frame.size or 0) // 8)]
    ),
    "a payload of another length": lambda: to_begin(
        MaskedInput, lambda frame: [with_vector(frame, "u4", (frame.size or 0) // 4 - 1)]
    ),
    "more than an upload": lambda: to_begin(
        MaskedInput, lambda frame: [replace(frame, size=(frame.size or 0) + 4)]
    ),
    "less than was announced": lambda: to_begin(MaskedInput, lambda frame: [replace(frame, size=MAX_PIECE)]),
    "a message without its payload": lambda: to_begin(MaskedInput, lambda frame: [replace(frame, size=None)]),
    "a message that changes under way": lambda: to_piece(
        lambda piece: [Begin(piece.number, foreign(Ready), 2 * MAX_PIECE), piece]
    ),
    "an empty header": lambda: to_begin(ShareKeys, lambda frame: [replace(frame, header=b"")]),
    "a header of another message": lambda: to_begin(
        MaskedInput, lambda frame: [replace(frame, header=foreign(ShareKeys))]
    ),
    "a share set of another round": lambda: to_begin(
        ShareKeys, lambda frame: [replace(frame, header=foreign(ShareKeys))]
    ),
    "keys of another round": lambda: to_begin(
        AdvertiseKeys, lambda frame: [replace(frame, header=foreign(AdvertiseKeys))]
    ),
}
"""The silo is named: no network does this behind TLS."""

NOT_NAMED: dict[str, Callable[[], Change]] = {
    "pieces in another order": Exchanged,
    "a piece that is left out": lambda: to_piece(lambda _: []),
    "a message that is left out": lambda: to_begin(
        ShareKeys, lambda frame: [replace(frame, number=frame.number + 1)]
    ),
    "everything twice": lambda: lambda frame: [frame, frame],
}
"""Only the stream is cut, if at all: a network that loses frames could do it. The silo is in the sum."""


# --- the attack ---------------------------------------------------------------------------------------------


class Kept:
    """Counts what stores are made for."""

    def __init__(self) -> None:
        self.size = 0

    def counting(self, lines: Lines) -> None:
        for silo in lines.roster.silos:
            line = lines[silo]
            real = line._store

            def store(size: int, real: Any = real) -> Any:
                made = real(size)
                if isinstance(made, Spooled | InMemory):
                    self.size += size
                return made

            line._store = store
            line.incoming._store = store


async def one_round(rounds: Campaign, change: Change) -> tuple[set[str], set[str]]:
    """Run a round in which the suspect sends what ``change`` makes of its frames; return survivors, named."""
    await rounds.begin_again(SUSPECT)
    await rounds.ready()
    kept = Kept()
    kept.counting(rounds.service.lines)
    rounds.speakers[SUSPECT].change = change
    driver = rounds.next_round()
    aggregate = await rounds.run(driver)
    await rounds.leave(SUSPECT)
    rounds.check(driver, aggregate, SUSPECT)
    assert aggregate is not None
    upload = driver.coordinator.upload_size
    assert kept.size <= (len(rounds.silos) + 1) * upload, "more is kept than uploads"
    named = {silo for silo, why in driver.coordinator.losses.items() if why.startswith("faulty")}
    return set(aggregate.survivors), named


async def chosen(rounds: Campaign) -> None:
    for what, change in NAMED.items():
        _, named = await one_round(rounds, change())
        assert named == {SUSPECT}, f"{what}: nobody is named"
    for what, change in NOT_NAMED.items():
        survivors, named = await one_round(rounds, change())
        assert not named, f"{what}: a cut is a fault"
        assert survivors == set(rounds.silos), f"{what}: it is not in the sum"
    # A message of a phase that is not now changes nothing.
    for extra in (Ready(bytes(32)), Voided(()), BaseRequested(bytes(32))):
        survivors, named = await one_round(rounds, beside(rounds.speakers, header_of(extra)))
        assert not named
        assert survivors == set(rounds.silos), "a message of another phase changes something"


def beside(speakers: dict[str, Speaker], header: bytes) -> Change:
    """Queue one more message behind the keys."""

    def change(frame: Sent) -> list[Sent]:
        nonlocal header
        if begins(frame, AdvertiseKeys) and header:
            speakers[SUSPECT].outgoing.put((header, None))
            header = b""
        return [frame]

    return change


# --- the fuzz -----------------------------------------------------------------------------------------------


class Vandal:
    """Spoils some of the frames of a silo.

    Attributes:
        cases: how many it spoiled.
        answered: set when a spoiled message was acknowledged: nobody will ever answer for the right one.
    """

    def __init__(self, random: Random, speaker: Speaker) -> None:
        self.random = random
        self.cases = 0
        self.answered = asyncio.Event()
        self._last = 0
        outgoing, acknowledge = speaker.outgoing, speaker.outgoing.acknowledge

        def acknowledged(number: int) -> None:
            acknowledge(number)
            if 0 < self._last <= number:
                self.answered.set()

        outgoing.acknowledge = acknowledged  # type: ignore[method-assign]
        speaker.change = self

    def __call__(self, frame: Sent) -> list[Sent]:
        if isinstance(frame, bytes) or self.random.random() > (0.04 if isinstance(frame, Received) else 0.3):
            return [frame]
        self.cases += 1
        if not isinstance(frame, Received):
            self._last = frame.number
        changed = self._changed(frame)
        # The next stream goes on: what is merely swallowed is not waited for until the deadline.
        return [*changed, GAP]

    def _changed(self, frame: Begin | Piece | Received) -> list[Sent]:
        random, data = self.random, encode_link(frame)
        match random.integers(7), frame:
            case 0, _:
                return [random.bytes(int(random.integers(0, 1000)))]
            case 1, _:
                return [flip(random, data)]
            case 2, _:
                return [data[: random.integers(len(data))]]
            case 3, Begin():
                header, _ = mutated(random, (frame.header, None))
                return [replace(frame, header=header)]
            case 4, Begin():
                header, _ = pick(random, corpus())
                return [replace(frame, header=header)]
            case 5, Begin():
                sizes = (None, 0, 1, MAX_PIECE, 2**20, 2**31, (frame.size or 0) + 1)
                return [replace(frame, size=pick(random, sizes))]
            case _, Piece():
                data = flip(random, bytes(frame.data))[: random.integers(1, len(frame.data) + 1)]
                return [replace(frame, data=memoryview(data), offset=pick(random, (frame.offset, 0, 2**20)))]
            case _:
                return [replace(frame, number=int(random.integers(1, 20)))]


async def fuzzed(rounds: Campaign, cases: int) -> None:
    random, done, faulty, whole = np.random.default_rng(SEED), 0, 0, 0
    while done < cases:
        vandal = Vandal(random, await rounds.begin_again(SUSPECT))
        await rounds.ready()
        driver = rounds.next_round()
        running = asyncio.create_task(rounds.run(driver))
        leaving = asyncio.create_task(vandal.answered.wait())
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        await rounds.leave(SUSPECT)  # Rather than let everybody wait for the deadline.
        aggregate = await running
        rounds.check(driver, aggregate, SUSPECT)
        assert aggregate is not None
        done += vandal.cases
        faulty += driver.coordinator.losses.get(SUSPECT, "").startswith("faulty")
        whole += SUSPECT in aggregate.survivors
    assert faulty >= cases // 20, "the fuzz has no teeth"
    assert whole >= cases // 100


async def attack(folder: Path, cases: int) -> None:
    async with campaign(folder) as rounds:
        await chosen(rounds)
        await fuzzed(rounds, cases)
        await one_round(rounds, lambda frame: [frame])
        assert rounds.spooled() == 0, "files of the spool are left"


def test_garbage_on_the_wire(tmp_path: Path) -> None:
    asyncio.run(attack(tmp_path, CASES))


def as_a_gap(data: bytes) -> Any:
    """Take bytes that are no frame for one that the network lost."""
    try:
        return decode_link(data)
    except MalformedMessage as fault:
        raise OutOfOrder("a gap") from fault


def begun_is_begun(self: Incoming, begin: Begin) -> Any:
    """Do not compare what comes again."""
    return None if self._begun is not None else begin_message(self, begin)


def loud(self: RoundDriver, silo: str, frame: Any) -> Any:
    """Let the error of the decoder out."""
    return wire.decode_from_silo(*frame)


def anything(*_: object) -> None:
    """A check that refuses nothing."""


begin_message = Incoming._begin


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("coordinator.lines.Lines.broken", anything, "no frame: nobody is named"),
        ("coordinator.service.decode_link", as_a_gap, "no frame: nobody is named"),
        ("coordinator.service.OutOfOrder", type("Never", (Exception,), {}), "a cut is a fault"),
        ("secagg.link.line.Incoming._begin", begun_is_begun, "changes under way: nobody is named"),
        (
            "secagg.masking.coordinator.bundle_fault",
            anything,
            "sum is opened|nobody is named|an honest",
        ),
        ("secagg.masking.coordinator.input_fault", anything, "more is kept than uploads"),
        ("secagg.rounds.driver.RoundDriver.read", loud, "no sum is opened"),
        ("secagg.wire._attach", any_payload, "another sum is opened"),
    ],
)
def test_garbage_on_the_wire_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        asyncio.run(attack(tmp_path, 0))
