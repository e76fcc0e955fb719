"""Silos meet through a coordinator, over real gRPC and mutual TLS, and speak to each other alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pytest

from coordinator import meetings as meetings_module
from coordinator.development import write_development_federation
from secagg.channel.messages import Begin, Finished, Piece, Proof, Stopped
from secagg.channel.relay import (
    WINDOW,
    Leave,
    Left,
    Met,
    Missing,
    Record,
    Taken,
    cost,
    decode_from_relay,
    encode,
)
from secagg.conversation import Side, hear, say, together
from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySilo,
    FaultySiloOrCoordinator,
    InputRefused,
    ParameterError,
    PartnersMissing,
    PartnerStopped,
    PolicyRefused,
    ProtocolError,
    SecaggError,
    TrustError,
)
from secagg.names import SiloId
from silo import partners as partners_module
from silo.meeting import Progress, meet, meet_now
from silo.partners import Lost, Partners, said_of, stopped_by
from tests.meetings import SECONDS, Files, Number, Raw, Relay, adds, run

import grpc  # isort: skip

T = TypeVar("T")

SILOS = ("north", "south", "west")
BOTH = SILOS[:2]
TEN = tuple(f"silo-{number}" for number in range(10))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.write(tmp_path_factory.mktemp("meetings") / "federation", SILOS)


@pytest.fixture
def files(written: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A federation; who might still hear a better word waits less for it than in earnest."""
    monkeypatch.setattr(partners_module, "GRACE", 0.3)
    return written


def two(files: Files) -> Files:
    return Files(files.folder, BOTH, files.roster, files.address)


async def all_meet(files: Files, meeting: str = "m", *, patience: float = 20, **named: Any) -> list[int]:
    """Let every silo add the numbers of all."""
    return await gathered(
        *(
            meet(
                files.config(silo),
                meeting,
                files.silos,
                lambda silo=silo, at=at: adds(files.others(silo), at + 1, **named),  # type: ignore[misc]  # Its defaults.
                patience=patience,
            )
            for at, silo in enumerate(files.silos)
        )
    )


async def gathered(*learning: Coroutine[Any, Any, T] | asyncio.Task[T]) -> list[T]:
    return list(await asyncio.gather(*learning))


def never() -> Side[int]:
    raise AssertionError("a side was made")
    yield  # It is a generator.


# --- what sides learn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("silos", [BOTH, SILOS, TEN], ids=len)
def test_sides_learn_what_they_learn_in_one_process(
    silos: tuple[SiloId, ...], files: Files, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if silos == TEN:
        files = Files.write(tmp_path_factory.mktemp("ten") / "federation", TEN)
    here = Files(files.folder, silos, files.roster, files.address)
    sides = {silo: adds(here.others(silo), at + 1) for at, silo in enumerate(silos)}

    async def test() -> None:
        async with Relay(here).serving():
            assert await all_meet(here) == list(together(sides).values())

    run(test)


def test_messages_larger_than_all_windows_cross_each_other(files: Files) -> None:
    async def test() -> None:
        async with Relay(files).serving():
            assert await all_meet(files, steps=1, ballast=2 * WINDOW + 1) == [6, 6, 6]

    run(test)


def test_what_is_said_far_ahead_waits_at_who_says_it(files: Files) -> None:
    """Nothing is awaited of north until it has said all, more than any window holds."""
    here = two(files)
    ahead = 6

    def talks() -> Side[int]:
        for number in range(ahead):
            yield from say("south", Number(number, ballast()))
        heard = yield from hear("south", Number)
        return heard.number

    def listens() -> Side[int]:
        yield from say("north", Number(7, ballast()))
        total = 0
        for _ in range(ahead):
            heard = yield from hear("north", Number)
            total += heard.number
        return total

    def ballast() -> Any:
        from secagg.payload import Payload

        return Payload.of(np.zeros(WINDOW // 2, np.uint8))

    async def test() -> None:
        async with Relay(here).serving():
            learned = await gathered(
                meet(here.config("north"), "m", BOTH, talks, patience=20),
                meet(here.config("south"), "m", BOTH, listens, patience=20),
            )
            assert learned == [7, 15]

    run(test)


def test_the_loop_lives_while_a_side_computes(files: Files) -> None:
    here, computed = two(files), threading.Event()

    def waits() -> Side[int]:
        yield from say("south", Number(1))
        assert computed.wait(30), "the loop stood still"
        heard = yield from hear("south", Number)
        return heard.number

    async def test() -> None:
        def watch(progress: Progress) -> None:
            if progress.received["north"]:
                asyncio.get_running_loop().call_later(0.01, computed.set)

        async with Relay(here).serving():
            learned = await gathered(
                meet(here.config("north"), "m", BOTH, waits, patience=20),
                meet(here.config("south"), "m", BOTH, lambda: adds(["north"], 5, steps=1), watch=watch),
            )
            assert learned == [5, 6]

    run(test)


def test_progress_says_who_is_missing_and_what_moved(files: Files) -> None:
    here, seen = two(files), list[Progress]()

    async def test() -> None:
        there = asyncio.Event()

        def watch(progress: Progress) -> None:
            seen.append(progress)
            if progress.missing == ("south",) and progress.state == "waiting":
                there.set()

        async with Relay(here).serving():
            side = lambda: adds(["south"], 1, ballast=5000)  # noqa: E731 - it is used twice
            first = asyncio.create_task(meet(here.config("north"), "m", BOTH, side, watch=watch))
            await there.wait()
            await asyncio.gather(
                first, meet(here.config("south"), "m", BOTH, lambda: adds(["north"], 2, ballast=5000))
            )

    run(test)
    states = [progress.state for progress in seen]
    assert list(dict.fromkeys(states)) == ["waiting", "meeting", "at work", "ending"]
    assert seen[-1].sent["south"] == seen[-1].received["south"] > 15000
    assert all(a.sent["south"] <= b.sent["south"] for a, b in pairwise(seen))


def test_commands_meet_without_a_loop_of_their_own(files: Files) -> None:
    here, learned = two(files), list[int]()

    async def test() -> None:
        async with Relay(here).serving():
            thread = threading.Thread(
                target=lambda: learned.append(
                    meet_now(here.config("north"), "m", BOTH, lambda: adds(["south"], 1), patience=20)
                )
            )
            thread.start()
            learned.append(await meet(here.config("south"), "m", BOTH, lambda: adds(["north"], 2)))
            await asyncio.to_thread(thread.join)

    run(test)
    assert learned == [9, 9]


def test_two_meetings_at_once_do_not_mix(files: Files) -> None:
    here = two(files)

    async def test() -> None:
        async with Relay(files).serving():
            learned = await gathered(
                all_meet(here, "first", steps=20),
                all_meet(here, "second", steps=7),
                all_meet(files, "third", steps=11),
            )
            assert learned == [[60, 60], [21, 21], [66, 66, 66]]

    run(test)


def test_one_meeting_follows_another_of_its_name(files: Files) -> None:
    async def test() -> None:
        async with Relay(files).serving() as relay:

            async def often(silo: SiloId, number: int) -> list[int]:
                return [
                    await meet(files.config(silo), "m", SILOS, lambda: adds(files.others(silo), number))
                    for _ in range(4)
                ]

            learned = await gathered(*(often(silo, at) for at, silo in enumerate(SILOS)))
            assert learned == [[9] * 4] * 3
            assert not relay._meetings._all
            assert not relay._meetings._open

    run(test)


# --- somebody is lost ---------------------------------------------------------------------------------------


class Stage:
    """A side that stops at a step until it is let on, and what became of each that was made."""

    def __init__(self, others: tuple[SiloId, ...], number: int) -> None:
        self.others = others
        self.number = number
        self.made = self.closed = 0
        self.reached = threading.Event()
        self.go = threading.Event()

    def side(self) -> Side[int]:
        assert self.made == self.closed, "two sides run at once"
        self.made += 1
        try:
            total = yield from adds(self.others, self.number, steps=2)
            self.reached.set()
            assert self.go.wait(30)
            more = yield from adds(self.others, self.number, steps=2)
            return total + more
        finally:
            self.closed += 1


def test_a_partner_that_is_lost_is_met_again(files: Files) -> None:
    stage = Stage(files.others("north"), 1)

    async def test() -> None:
        async with Relay(files).serving():
            others = [
                asyncio.create_task(
                    meet(files.config(silo), "m", SILOS, Stage(files.others(silo), 1).side, patience=20)
                )
                for silo in ("south",)
            ]
            south = others[0]
            west_stage = Stage(files.others("west"), 1)
            west = asyncio.create_task(meet(files.config("west"), "m", SILOS, west_stage.side, patience=20))
            north = asyncio.create_task(meet(files.config("north"), "m", SILOS, stage.side, patience=20))
            await asyncio.to_thread(stage.reached.wait, 30)
            await asyncio.to_thread(west_stage.reached.wait, 30)
            south.cancel()  # As when its process is killed.
            await asyncio.gather(south, return_exceptions=True)
            for one in (stage, west_stage):
                one.go.set()
            again = Stage(files.others("south"), 1)
            again.go.set()
            learned = await gathered(
                north, west, meet(files.config("south"), "m", SILOS, again.side, patience=20)
            )
            assert learned == [12, 12, 12]
            assert (stage.made, stage.closed) == (2, 2)

    run(test)


def test_a_coordinator_that_is_lost_is_met_again(files: Files) -> None:
    here, stages = two(files), {silo: Stage(two(files).others(silo), 2) for silo in BOTH}

    async def test() -> None:
        async with Relay(here).serving():
            both = [
                asyncio.create_task(meet(here.config(silo), "m", BOTH, stage.side, patience=30))
                for silo, stage in stages.items()
            ]
            for stage in stages.values():
                await asyncio.to_thread(stage.reached.wait, 30)
        for stage in stages.values():
            stage.go.set()
        async with Relay(here).serving():
            assert await gathered(*both) == [16, 16]
        assert {stage.made for stage in stages.values()} == {2}

    run(test)


def test_who_does_not_come_is_named(files: Files) -> None:
    async def test() -> None:
        async with Relay(files).serving():
            silos = ("north", "west")
            ends = await asyncio.gather(
                *(meet(files.config(silo), "m", SILOS, never, patience=1.0) for silo in silos),
                return_exceptions=True,
            )
            for end in ends:
                assert isinstance(end, PartnersMissing)
                assert "south" in end.silos
                assert "did not come to the meeting m within 1 s: start the same command there" in str(end)
                assert "--wait" in str(end)
                assert not end.met

    run(test)


def test_who_does_not_come_back_is_named_and_what_was_done_is_said_to_be_kept(files: Files) -> None:
    here = two(files)

    async def test() -> None:
        async with Relay(here).serving():
            north = asyncio.create_task(
                meet(here.config("north"), "m", BOTH, lambda: adds(["south"], 3, steps=1), patience=1.0)
            )
            async with Raw.dialling(here, "south") as south:
                await south.met("m", BOTH)
                await south.opened("north", "m", BOTH)
            with pytest.raises(PartnersMissing, match="south did not come back to the meeting m") as caught:
                await north
        assert caught.value.met
        assert "what was done is kept, type the same command again" in str(caught.value)

    run(test)


def test_a_coordinator_that_is_not_there_is_named(files: Files) -> None:
    async def test() -> None:
        with pytest.raises(EnvironmentFault, match=rf"{files.address} within 1 s \(unavailable"):
            await meet(files.config("north"), "m", SILOS, never, patience=1.0)

    run(test)


def test_what_a_side_learned_is_not_lost_with_its_partner(files: Files) -> None:
    """South vanishes after its last word that matters, and before it says that it ended."""
    here = two(files)

    async def test() -> None:
        async with Relay(here).serving():
            north = asyncio.create_task(
                meet(here.config("north"), "m", BOTH, lambda: adds(["south"], 3, steps=1), patience=1.0)
            )
            async with Raw.dialling(here, "south") as south:
                await south.met("m", BOTH)
                channel = await south.opened("north", "m", BOTH)
                for part in parts(Number(4)):
                    await south.seal(channel, "north", part)
                while not isinstance(await finished(south, channel), Finished):
                    pass
            assert await north == 7

    run(test)


def test_what_a_side_learned_is_kept_if_its_partner_is_lost_at_that_moment() -> None:
    async def learned() -> int:
        return 7

    async def test() -> int:
        partners = Partners(None, {}, moved=lambda *_: None)
        partners._fail(Lost("south left"))
        with pytest.raises(Lost):
            await partners.meanwhile(asyncio.sleep(SECONDS))
        return await partners.meanwhile(learned())

    assert run(test) == 7


def parts(message: Number) -> list[Begin | Piece]:
    from secagg import wire
    from secagg.channel.pieces import cut

    return list(cut(wire.encode(message)))


async def finished(silo: Raw, channel: Any) -> Any:
    frame = await silo.hear()
    return channel.receive(frame.data) if isinstance(frame, Record) else None


def test_a_partner_that_never_says_that_it_ended_is_not_waited_for_forever(files: Files) -> None:
    here = two(files)

    async def test() -> None:
        async with Relay(here).serving(), Raw.dialling(here, "south") as south:
            north = asyncio.create_task(
                meet(here.config("north"), "m", BOTH, lambda: adds(["south"], 3, steps=1), patience=1.0)
            )
            await south.met("m", BOTH)
            channel = await south.opened("north", "m", BOTH)
            for part in parts(Number(4)):
                await south.seal(channel, "north", part)
            assert await north == 7

    run(test)


# --- somebody stops -----------------------------------------------------------------------------------------


def raises(error: Exception, others: tuple[SiloId, ...]) -> Side[int]:
    yield from adds(others, 1, steps=1)
    raise error


@pytest.mark.parametrize(
    ("error", "words", "rule"),
    [
        (PolicyRefused("largest set", "12345 records"), r"rule 'largest set' of its policy", "largest set"),
        (PolicyRefused("\u2028" * 9, "text"), r"by a rule of its policy; its log says which", ""),
        (InputRefused("identifier", "planted"), "trouble of its own", ""),
        (ValueError("planted"), "trouble of its own", ""),
    ],
    ids=["policy", "odd rule", "input", "bug"],
)
def test_who_stops_tells_all_others_why(files: Files, error: Exception, words: str, rule: str) -> None:
    async def test() -> None:
        async with Relay(files).serving():
            ends = await asyncio.gather(
                meet(files.config("north"), "m", SILOS, lambda: raises(error, files.others("north"))),
                *(
                    meet(files.config(silo), "m", SILOS, lambda silo=silo: adds(files.others(silo), 2))  # type: ignore[misc]  # Its default.
                    for silo in ("south", "west")
                ),
                return_exceptions=True,
            )
            assert ends[0] is error
            for end in ends[1:]:
                assert isinstance(end, PartnerStopped)
                assert (end.silo, end.rule) == ("north", rule)
                assert str(end).startswith("north: it stopped")
                assert words.replace("'", "'") in str(end)
                assert "planted" not in str(end)
                assert "12345" not in str(end)

    run(test)


def test_a_rule_of_this_silo_is_not_put_down_to_the_partner_that_was_told_of_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partner's end may come before this side has come to its own."""
    monkeypatch.setattr(partners_module, "GRACE", 5.0)
    here, told, own = two(files), threading.Event(), PolicyRefused("queries", "of north")

    def refuses() -> Side[int]:
        yield from say("south", Number(1))
        told.wait()
        raise own

    def is_told() -> Side[int]:
        yield from hear("north", Number)
        raise PolicyRefused("queries", "north says no more")

    async def south() -> None:
        with pytest.raises(PolicyRefused, match="north says no more"):
            await meet(here.config("south"), "m", BOTH, is_told)
        told.set()

    async def test() -> None:
        async with Relay(here).serving():
            north = meet(here.config("north"), "m", BOTH, refuses)
            end, _ = await asyncio.gather(north, south(), return_exceptions=True)
            assert end is own

    run(test)


def test_a_partner_that_says_what_is_not_due_is_named_and_told(files: Files) -> None:
    class Other(Number, frozen=True, tag=True):
        pass

    def wrong() -> Side[int]:
        yield from say("south", Other(1))
        yield from say("west", Number(1))
        heard = yield from hear("south", Number)
        heard = yield from hear("south", Number)
        return heard.number

    async def test() -> None:
        async with Relay(files).serving():
            north, south, west = await asyncio.gather(
                meet(files.config("north"), "m", SILOS, wrong),
                meet(files.config("south"), "m", SILOS, lambda: adds(("north", "west"), 2)),
                meet(files.config("west"), "m", SILOS, lambda: adds(("north", "south"), 2)),
                return_exceptions=True,
            )
            assert isinstance(south, FaultySilo)
            assert south.silo == "north"
            assert isinstance(north, PartnerStopped)
            assert "south: it stopped because it holds that this silo" in str(north)
            assert isinstance(west, PartnerStopped)

    run(test)


def test_a_partner_that_ends_too_early_is_named(files: Files) -> None:
    here = two(files)

    async def test() -> None:
        async with Relay(here).serving():
            ends = await asyncio.gather(
                meet(here.config("north"), "m", BOTH, lambda: adds(["south"], 1, steps=1)),
                meet(here.config("south"), "m", BOTH, lambda: adds(["north"], 1, steps=2)),
                return_exceptions=True,
            )
            assert isinstance(ends[1], FaultySilo)
            assert "north: it ended before it said what was due" in str(ends[1])
            assert isinstance(ends[0], PartnerStopped)

    run(test)


@pytest.mark.parametrize("to", ["north", "nobody"])
def test_a_side_speaks_to_partners_alone(files: Files, to: SiloId) -> None:
    here = two(files)

    def side() -> Side[int]:
        yield from say(to, Number(1))
        return 0

    async def test() -> None:
        async with Relay(here).serving():
            ends = await asyncio.gather(
                meet(here.config("north"), "m", BOTH, side),
                meet(here.config("south"), "m", BOTH, lambda: adds(["north"], 1)),
                return_exceptions=True,
            )
            assert isinstance(ends[0], ProtocolError)
            assert f"sends to {to}, which is none of the others" in str(ends[0])
            assert isinstance(ends[1], PartnerStopped)

    run(test)


@pytest.mark.parametrize(
    ("garbage", "error"),
    [
        ("handshake", FaultySiloOrCoordinator),
        ("proof", FaultySiloOrCoordinator),
        ("record", FaultySiloOrCoordinator),
        ("frame", FaultySilo),
        ("message", FaultySilo),
    ],
)
def test_a_partner_that_sends_garbage_is_named_and_told(
    files: Files, garbage: str, error: type[SecaggError]
) -> None:
    from secagg import wire

    async def test() -> None:
        async with Relay(files).serving(), Raw.dialling(files, "south") as south:
            north, west = (
                asyncio.create_task(
                    meet(files.config(silo), "m", SILOS, lambda silo=silo: adds(files.others(silo), 1))  # type: ignore[misc]  # Its default.
                )
                for silo in ("north", "west")
            )
            await south.met("m", SILOS)
            channels = {other: south.channel(other, "m", SILOS) for other in ("north", "west")}
            for other, channel in channels.items():
                await south.say(Record(other, channel.first if garbage != "handshake" else b"garbage"))
            if garbage == "proof":
                for other in channels:
                    await south.say(Record(other, wire.encode(Proof(bytes(64)))[0]))
            elif garbage != "handshake":
                await shake(south, channels)
                for other, channel in channels.items():
                    match garbage:
                        case "record":
                            await south.say(Record(other, bytes(50)))
                        case "frame":
                            await south.seal(channel, other, Piece(b"not due"))
                        case _:
                            await south.seal(channel, other, Begin(7, None, b"garbage"))
            ends = await asyncio.gather(north, west, return_exceptions=True)
            # Who is slow hears of it from the other first, who names nobody to it.
            named = [end for end in ends if isinstance(end, error)]
            assert named
            assert {getattr(end, "silo", "") for end in named} == {"south"}
            assert all(isinstance(end, error | PartnerStopped) for end in ends)
            if garbage in {"record", "frame", "message"}:
                assert Stopped("faulty") in await last_words(south, channels)

    run(test)


async def shake(silo: Raw, channels: dict[SiloId, Any]) -> None:
    from secagg.channel.end import Reply

    while not all(channel.open for channel in channels.values()):
        frame = await silo.hear()
        if isinstance(frame, Record):
            event = channels[frame.party].receive(frame.data)
            if isinstance(event, Reply):
                await silo.say(Record(frame.party, event.data))


async def last_words(silo: Raw, channels: dict[SiloId, Any]) -> set[Stopped]:
    """Return what partners said last, reading until all have left."""
    said, left = set[Stopped](), set[SiloId]()
    while left != set(channels):
        frame = await silo.hear()
        if isinstance(frame, Left):
            left.add(frame.party)
        elif isinstance(frame, Record):
            event = channels[frame.party].receive(frame.data)
            if isinstance(event, Stopped):
                said.add(event)
    return said


def test_what_partners_are_told_is_a_reason_and_no_text() -> None:
    told = {
        (said_of(error, "north"), said_of(error, "south"))
        for error in (
            FaultySilo("north", "text"),
            FaultySiloOrCoordinator("north", "text"),
        )
    }
    assert told == {(Stopped("faulty"), Stopped("others"))}
    assert said_of(PartnerStopped("west", "text"), "north") == Stopped("others")
    assert said_of(FaultyCoordinator("text"), "north") == Stopped("mishap")
    assert said_of(PolicyRefused("psi_enumeration", "text"), "north") == Stopped.by("psi_enumeration")
    texts = {str(stopped_by("west", Stopped(why))) for why in ("policy", "faulty", "others", "mishap")}
    assert len(texts) == 4


# --- a coordinator that lies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"garbage",
        encode(Met()),
        encode(Record("stranger", b"x")),
        encode(Leave()),
        encode(Taken("south", 9999)),
    ],
    ids=["garbage", "met", "stranger", "leave", "taken"],
)
@pytest.mark.parametrize("when", ["first", "later"])
def test_a_coordinator_that_sends_what_is_not_due_is_named(files: Files, frame: bytes, when: str) -> None:
    here, done = two(files), list[bool]()
    of_south = when == "later" and frame == encode(Taken("south", 9999))

    def change(silo: SiloId, data: bytes) -> list[bytes]:
        there = isinstance(decode_from_relay(data), Record if when == "later" else Missing | Met)
        if silo == "north" and there and not done:
            done.append(True)
            return [frame, data]
        return [data]

    async def test() -> None:
        async with Relay(here, change).serving():
            south = asyncio.create_task(meet(here.config("south"), "m", BOTH, lambda: adds(["north"], 1)))
            with pytest.raises(FaultySiloOrCoordinator if of_south else FaultyCoordinator):
                await meet(here.config("north"), "m", BOTH, lambda: adds(["south"], 1))
            south.cancel()
            await asyncio.gather(south, return_exceptions=True)

    run(test)


def test_an_end_that_is_cut_off_is_not_taken_for_a_good_one(files: Files) -> None:
    """The coordinator drops a partner's last record and says that it left."""
    here = two(files)
    lost = list[int]()

    def change(silo: SiloId, data: bytes) -> list[bytes]:
        frame = decode_from_relay(data)
        if silo == "north" and isinstance(frame, Record) and len(frame.data) < 40 and not lost:
            lost.append(len(frame.data))
            return [encode(Left("south"))]
        return [data]

    async def test() -> None:
        async with Relay(here, change).serving():
            assert await all_meet(here, patience=1) == [9, 9]
        assert lost, "nothing was dropped"

    run(test)


# --- who may meet -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meeting", "parties", "words"),
    [
        ("a b", BOTH, "the meeting's name"),
        ("", BOTH, "the meeting's name"),
        ("m", ("north",), "1 parties cannot meet; 2 to 10 can"),
        ("m", tuple("abcdefghijk"), "11 parties cannot meet"),
        ("m", ("north", "north"), "stands twice"),
        ("m", ("north", "east"), "east: not in the roster, which has north, south, west"),
        ("m", ("south", "west"), "north, is not among the parties south, west"),
    ],
)
def test_names_that_cannot_meet_are_refused_at_home(
    files: Files, meeting: str, parties: tuple[SiloId, ...], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        meet_now(files.config("north"), meeting, parties, never)


@pytest.mark.parametrize("patience", [0.0, -1.0, float("nan"), float("inf")])
def test_patience_is_a_number_of_seconds(files: Files, patience: float) -> None:
    with pytest.raises(ParameterError, match="patience"):
        meet_now(files.config("north"), "m", BOTH, never, patience=patience)


def test_another_list_of_parties_is_refused_in_words(files: Files) -> None:
    async def test() -> None:
        async with Relay(files).serving(), Raw.dialling(files, "south") as south:
            await south.join("m", SILOS)
            assert isinstance(await south.hear(), Missing)
            with pytest.raises(
                ParameterError, match="the meeting m is one of north, south, west, and north came"
            ):
                await meet(files.config("north"), "m", BOTH, never, patience=5)

    run(test)


def test_a_silo_that_is_no_party_cannot_take_the_name(files: Files) -> None:
    """West sits down first, in meetings of that name with each of the two that want to meet."""
    here = two(files)

    async def test() -> None:
        async with (
            Relay(files).serving() as relay,
            Raw.dialling(files, "west") as one,
            Raw.dialling(files, "west") as other,
        ):
            for west, parties in ((one, ("west", "north")), (other, ("south", "west"))):
                await west.join("m", parties)
                assert isinstance(await west.hear(), Missing)
            assert await all_meet(here) == [9, 9]
            assert {meeting.parties for meeting in relay._meetings._all} == {
                ("west", "north"),
                ("south", "west"),
            }

    run(test)


def test_a_silo_that_has_left_may_meet_others_under_that_name() -> None:
    meetings = meetings_module.Meetings()
    seats = [meetings.join(silo, "m", SILOS) for silo in SILOS]
    meetings.leave(seats[0], said_all=True)
    meetings.join("north", "m", BOTH)
    with pytest.raises(
        meetings_module.Unjoined, match="one of north, south, and west came to one of west, n"
    ):
        meetings.join("west", "m", ("west", "north"))


def test_a_second_process_displaces_the_first(files: Files) -> None:
    here = two(files)

    async def test() -> None:
        async with Relay(here).serving():
            waiting = asyncio.Event()
            first = asyncio.create_task(
                meet(here.config("north"), "m", BOTH, never, watch=lambda _: waiting.set())
            )
            await waiting.wait()
            learned = asyncio.create_task(all_meet(here))
            with pytest.raises(
                EnvironmentFault, match="another process of north came to the meeting m; let one"
            ):
                await first
            assert await learned == [9, 9]

    run(test)


def test_another_federation_is_refused(files: Files, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("other") / "federation"
    write_development_federation(folder, SILOS, federation="other", listen=files.address)
    stranger = Files(folder, SILOS, files.roster, files.address)

    async def test() -> None:
        async with Relay(files).serving():
            with pytest.raises(TrustError):
                await meet(stranger.config("north"), "m", SILOS, never, patience=5)

    run(test)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"protocol": 99}, grpc.StatusCode.FAILED_PRECONDITION, "version: this coordinator runs secagg"),
        ({"roster": bytes(32)}, grpc.StatusCode.FAILED_PRECONDITION, "roster: north has pinned 0000"),
        ({"parties": ("south", "west")}, grpc.StatusCode.FAILED_PRECONDITION, "parties: they are silos"),
        ({"parties": ("north", "north")}, grpc.StatusCode.FAILED_PRECONDITION, "parties: they are silos"),
        ({"parties": ("north", "east")}, grpc.StatusCode.FAILED_PRECONDITION, "parties: they are silos"),
        ({"parties": ("north",)}, grpc.StatusCode.INVALID_ARGUMENT, "not a message"),
        ({"meeting": "a b"}, grpc.StatusCode.INVALID_ARGUMENT, "not a message"),
    ],
)
def test_who_may_not_join_is_told_why(
    files: Files, changes: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    async def test() -> None:
        async with Relay(files).serving() as relay, Raw.dialling(files, "north") as north:
            await north.join(**{"meeting": "m", "parties": SILOS, **changes})
            ended, details = await north.ended()
            assert ended == code
            assert words in details
            assert not relay._meetings._all

    run(test)


@pytest.mark.parametrize(
    "first", [b"", b"garbage", encode(Leave()), encode(Record("south", b"x"))], ids=range(4)
)
def test_a_stream_begins_with_join(files: Files, first: bytes) -> None:
    async def test() -> None:
        async with Relay(files).serving(), Raw.dialling(files, "north") as north:
            await north.say(first)
            assert (await north.ended())[0] == grpc.StatusCode.INVALID_ARGUMENT

    run(test)


def test_a_person_may_not_meet(files: Files) -> None:
    from silo.config import SiloConfig

    config = files.config("north")
    person = files.folder / "operator"
    tls = config.tls.model_copy(
        update={"certificate": person / "operator.pem", "key": person / "operator.key"}
    )

    async def test() -> None:
        assert isinstance(config, SiloConfig)
        key, certificate = tls.key.read_bytes(), tls.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(tls.authority.read_bytes(), key, certificate)
        async with Relay(files).serving(), grpc.aio.secure_channel(files.address, credentials) as channel:
            open_stream: Any = channel.stream_stream
            raw = Raw(files, "north", open_stream("/secagg.v1.Meetings/Join")())
            # It may be refused by its certificate before it says anything.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await raw.join("m", SILOS)
            code, details = await raw.ended()
            assert code == grpc.StatusCode.PERMISSION_DENIED
            assert "operator operator may not make this call; it is for silo" in details

    run(test)


# --- what the coordinator holds -----------------------------------------------------------------------------


def test_one_silo_has_a_few_meetings_at_a_time(files: Files) -> None:
    async def test() -> None:
        async with Relay(files).serving() as relay:
            for _ in range(meetings_module.MAX_MEETINGS_OF_ONE):
                relay._meetings.join("north", f"m{_}", SILOS)
            async with Raw.dialling(files, "north") as north:
                await north.join("one-more", SILOS)
                code, details = await north.ended()
                assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "north is in 4 meetings" in details
            relay._meetings.join("south", "m0", SILOS)

    run(test)


def test_pairs_of_all_meetings_are_bounded(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meetings_module, "MAX_PAIRS", 3)
    meetings = meetings_module.Meetings()
    for name in ("first", "second"):
        meetings.join("north", name, BOTH)
    seat = meetings.join("south", "first", BOTH)
    with pytest.raises(meetings_module.Unjoined, match="4 pairs of silos would speak; at most 3"):
        meetings.join("south", "second", BOTH)
    meetings.leave(seat, said_all=False)
    assert meetings.join("south", "second", BOTH).meeting.met


def test_who_reads_nothing_holds_up_nobody_and_costs_a_window(files: Files) -> None:
    """South shakes hands with both and then reads nothing; north and west speak as much as they like."""

    async def test() -> None:
        most = 0
        async with Relay(files).serving() as relay, Raw.dialling(files, "south") as south:

            def talks(other: SiloId) -> Side[int]:
                yield from say("south", Number(0, big()))
                total = yield from adds([other], 1, steps=8, ballast=WINDOW)
                yield from hear("south", Number)
                return total

            def big() -> Any:
                from secagg.payload import Payload

                return Payload.of(np.zeros(8 * WINDOW, np.uint8))

            seen = asyncio.Event()

            def watch(progress: Progress) -> None:
                nonlocal most
                (meeting,) = relay._meetings._all
                queued = sum(
                    cost(frame.data) for frame in meeting.seats["south"]._records if isinstance(frame, Record)
                )
                most = max(most, queued)
                if progress.received.get("west", 0) > 8 * WINDOW:
                    seen.set()

            tasks = [
                asyncio.create_task(
                    meet(files.config(one), "m", SILOS, lambda other=other: talks(other), watch=watch)  # type: ignore[misc]  # Its default.
                )
                for one, other in (("north", "west"), ("west", "north"))
            ]
            await south.met("m", SILOS)
            await shake_first(south)
            await seen.wait()
            (meeting,) = relay._meetings._all
            assert all(way <= WINDOW for way in meeting._under_way.values())
            assert 0 < most <= 2 * WINDOW
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(test)


async def shake_first(south: Raw) -> None:
    channels = {other: south.channel(other, "m", SILOS) for other in ("north", "west")}
    for other, channel in channels.items():
        await south.say(Record(other, channel.first))
    await shake(south, channels)


@pytest.mark.parametrize("fault", ["window", "taken", "self", "stranger", "twice", "early"])
def test_a_silo_that_leaves_the_protocol_of_the_relay_is_cut_off(files: Files, fault: str) -> None:
    here = two(files)

    async def test() -> None:
        async with (
            Relay(here).serving(),
            Raw.dialling(here, "north") as north,
            Raw.dialling(here, "south") as south,
        ):
            await north.join("m", BOTH)
            if fault != "early":
                await south.met("m", BOTH)
            match fault:
                case "window":
                    for _ in range(WINDOW // (1 << 20)):  # What they cost beside their bytes is too much.
                        await north.say(Record("south", bytes(1 << 20)))
                case "taken":
                    await north.say(Taken("south", 1))
                case "self":
                    await north.say(Record("north", b"x"))
                case "stranger":
                    await north.say(Record("west", b"x"))
                case "twice":
                    await north.join("m", BOTH)
                case _:
                    await north.say(Record("south", b"x"))
            assert (await north.ended())[0] == grpc.StatusCode.INVALID_ARGUMENT
            if fault != "early":
                code, details = await south.ended()
                assert code == grpc.StatusCode.ABORTED
                assert details == "the meeting m is over: north was lost"

    run(test)


def test_who_reads_faster_than_the_coordinator_notices_is_not_blamed(files: Files) -> None:
    """South says that it took a record before the coordinator's write of it has returned."""
    here = two(files)
    relay = Relay(here)

    def change(silo: SiloId, data: bytes) -> list[bytes]:
        frame = decode_from_relay(data)
        if silo == "south" and isinstance(frame, Record):
            (meeting,) = relay._meetings._all
            meeting.take("south", Taken("north", cost(frame.data)))
        return [data]

    relay.change = change

    async def test() -> None:
        async with (
            relay.serving(),
            Raw.dialling(here, "north") as north,
            Raw.dialling(here, "south") as south,
        ):
            await north.join("m", BOTH)
            await south.met("m", BOTH)
            await north.say(Record("south", b"x"))
            while not isinstance(frame := await north.hear(), Taken):
                pass
            assert frame == Taken("south", cost(b"x"))

    run(test)


def test_who_left_is_said_after_all_that_came_from_it(files: Files) -> None:
    here = two(files)

    async def test() -> None:
        async with (
            Relay(here).serving() as relay,
            Raw.dialling(here, "north") as north,
            Raw.dialling(here, "south") as south,
        ):
            await north.join("m", BOTH)
            await south.met("m", BOTH)
            for number in range(5):
                await north.say(Record("south", b"%d" % number))
            await north.say(Leave())
            assert (await north.ended())[0] == grpc.StatusCode.OK
            heard = [await south.hear() for _ in range(6)]
            assert heard == [*(Record("north", b"%d" % number) for number in range(5)), Left("north")]
            await south.say(Record("north", b"late"))
            assert await south.hear() == Taken("north", cost(b"late"))
            await south.say(Leave())
            assert (await south.ended())[0] == grpc.StatusCode.OK
            assert not relay._meetings._all

    run(test)


def test_it_is_logged_who_met_and_how_much_was_carried(files: Files) -> None:
    from structlog.testing import capture_logs

    here = two(files)

    async def test() -> None:
        async with Relay(here).serving():
            await all_meet(here, ballast=1000)

    with capture_logs() as logs:
        run(test)
    said = [{k: v for k, v in log.items() if k != "log_level"} for log in logs]
    assert {"event": "silos meet", "meeting": "m", "parties": "north, south"} in said
    carried = [log for log in said if log["event"] == "records carried"]
    assert [(log["sender"], log["to"]) for log in carried] == [("north", "south"), ("south", "north")]
    assert all(log["bytes"] > 3000 for log in carried)
    over = {"event": "meeting over", "meeting": "m", "parties": "north, south", "why": "all have left"}
    assert over in said


@pytest.mark.parametrize(
    ("part", "said"),
    [((meetings_module.Meeting, "take"), Taken("south", 1)), ((meetings_module.Seat, "next"), Leave())],
)
def test_a_mistake_of_the_coordinator_ends_a_stream_as_one(
    part: tuple[type, str], said: Taken | Leave, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a silo that left: nobody would look for it."""

    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    async def test() -> None:
        async with (
            Relay(files).serving(),
            Raw.dialling(files, "north") as north,
            Raw.dialling(files, "south") as south,
        ):
            await north.join("m", ("north", "south"))
            await south.met("m", ("north", "south"))
            monkeypatch.setattr(*part, mistaken)
            # What one says in vain, or what is to be told of the other.
            await (south if said == Leave() else north).say(said)
            assert (await north.ended())[0] == grpc.StatusCode.UNKNOWN

    run(test)
